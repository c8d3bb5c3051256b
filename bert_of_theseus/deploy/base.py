"""One interface for everything that runs a model: what goes in, what comes out, what is refused."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import threading
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checkpoints.configs import read_config
from ..files import read_json
from ..validation import is_integer

# Names of inputs: this package's in Keras and LiteRT, then Hugging Face's.
_TOKENS = ("token_ids", "input_ids")
_SEGMENTS = ("segment_ids", "token_type_ids")
_MASKS = ("padding_mask", "attention_mask")

GRAPH_NAME = "encoder"  # of the ONNX graphs of this package, in which padding changes no output


class Limits(NamedTuple):
    """What a model accepts and returns; `None` where that is not known.

    Exported files carry it: an `.onnx` file in its metadata, under `KEY`, and a `.tflite` file as
    JSON in a zip archive after its end, which is where TensorFlow Lite puts associated files.

    Attributes:
        max_length: Number of tokens of the longest text.
        vocab_size: Number of tokens in the vocabulary.
        segments: Number of segments; 0 where the model has none.
        pad_token_id: The token that pads.
        activation: What makes the head's output of the logits that the file computes.
    """

    max_length: int | None = None
    vocab_size: int | None = None
    segments: int | None = None
    pad_token_id: int | None = None
    activation: str | None = None

    KEY = "bert_of_theseus"

    @classmethod
    def of(cls, config: dict) -> Limits:
        """Those of a canonical config."""
        return cls(
            config["max_position_embeddings"],
            config["vocab_size"],
            config["type_vocab_size"],
            config.get("pad_token_id", 0),
        )

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str | bytes) -> Limits:
        return cls(**json.loads(text))


class Runtime:
    """A loaded model: `runtime(token_ids, segment_ids, attention_mask)` returns its output.

    The output is a float32 array: the head's, in every form of a model, or the encoder's if there
    is no head. Of other programs' files it is what they compute, logits as a rule.

    An ONNX file of this package runs a batch of mixed lengths in groups of like lengths, without
    most of the padding at the end of its texts. Outputs for padding are not to be used.

    Several threads may share a runtime. In a forked process, ONNX and LiteRT files are opened again
    at the first call; a Keras model is refused there, as its framework does not survive a fork.
    Pickled, a runtime is its path, and is opened where it arrives.

    Args:
        path: The model's file or folder, a `Path`.
        num_threads, num_workers: See `open_runtime`.

    Call arguments:
        token_ids: Integers `(batch_size, sequence_length)`.
        segment_ids: Integers of the same shape. Defaults to zeros.
        attention_mask: 1 for tokens and 0 for padding, of the same shape. Defaults to what is not
            the model's padding token. A model that finds the padding itself, as LiteRT files and
            bert4keras' models do (id 0), takes no other mask.

    Raises:
        ValueError: when called with other inputs, or with more tokens than the model accepts.
        RuntimeError: when the runtime itself fails.

    Attributes:
        path: The model's file or folder.
        num_workers: Number of calls that can run at once.
        kind: `"onnx"`, `"litert"` or `"keras"`.
        max_length: Number of tokens of the longest text that the model accepts; `None` if unknown.
        vocab_size: Number of tokens in the model's vocabulary; `None` if unknown.
        output_name: What the file calls its output; `None` if it has no name.
        returns_logits: Whether the output is another program's logits, so that an activation may
            have to follow.
        takes_segments, takes_mask: Whether the model has such an input.
    """

    kind: str
    num_workers = 1
    output_name: str | None = None
    returns_logits = False
    takes_segments = True
    takes_mask = False
    _limits = Limits()
    _length: int | None = None  # the only sequence length that the model accepts
    _inputs: dict  # the names of the model's inputs, with their types

    def __init__(self, path: Path, num_threads: int | None = None, num_workers: int = 1):
        self.path, self._options = path, (num_threads, num_workers)
        self._lock, self._forked = threading.Lock(), False
        self._load(*self._options)
        _LOADED.add(self)

    def __reduce__(self):
        return type(self), (self.path, *self._options)

    @property
    def max_length(self) -> int | None:
        return self._length or self._limits.max_length

    @property
    def vocab_size(self) -> int | None:
        return self._limits.vocab_size

    def __call__(self, token_ids, segment_ids=None, attention_mask=None) -> np.ndarray:
        token_ids = np.asarray(token_ids)
        segment_ids = np.zeros_like(token_ids) if segment_ids is None else np.asarray(segment_ids)
        self._check(token_ids, segment_ids)
        mask = self._mask(token_ids, attention_mask)
        length = token_ids.shape[1]
        inputs = [token_ids, segment_ids, mask]
        if self._length and self._length > length:
            missing = [(0, 0), (0, self._length - length)]
            pads = (self._limits.pad_token_id or 0, 0, 0)
            inputs = [np.pad(ids, missing, constant_values=pad) for ids, pad in zip(inputs, pads)]
        with self._lock:
            if self._forked:
                self._after_fork()
                self._forked = False
        with self._guard():
            try:
                # A copy: the runtime may use the memory again.
                output = np.array(self._run(*inputs), dtype="float32")
            except Exception as error:  # each runtime has its own, some several
                raise RuntimeError(
                    f"{str(self.path)!r} fails on a batch of {token_ids.shape}: {error}"
                ) from error
        # Outputs per position: cut off those of the padding added here.
        output = output[:, :length] if self._length and output.ndim == 3 else output
        return activated(output, self._limits.activation)

    def _check(self, token_ids, segment_ids):
        shape = token_ids.shape
        if not all(ids.ndim == 2 and ids.dtype.kind in "iu" for ids in (token_ids, segment_ids)):
            raise ValueError(
                "`token_ids` and `segment_ids` must be integers, (batch_size, sequence_length). "
                f"Received: {token_ids.dtype} {shape} and {segment_ids.dtype} {segment_ids.shape}."
            )
        if segment_ids.shape != shape or 0 in shape:
            raise ValueError(
                "`token_ids` and `segment_ids` must be of one shape, with at least one text and "
                f"one token. Received: {shape} and {segment_ids.shape}."
            )
        if self.max_length is not None and shape[1] > self.max_length:
            raise ValueError(
                f"{str(self.path)!r} takes at most {self.max_length} tokens. Received: {shape[1]}."
            )
        segments = self._limits.segments if self.takes_segments else 0
        # A lookup out of range may read other memory or stop the process.
        for name, ids, size in (
            ("token_ids", token_ids, self.vocab_size),
            ("segment_ids", segment_ids, segments and max(1, segments)),
        ):
            if size is not None and not (ids.min() >= 0 and ids.max() < max(1, size)):
                raise ValueError(
                    f"`{name}` must be from 0 to {max(1, size) - 1} for this model. Received: "
                    f"{ids.min()} to {ids.max()}."
                )

    def _mask(self, token_ids, attention_mask):
        """The mask, which is checked, or made of the tokens if it is `None`."""
        pad = self._limits.pad_token_id if self.takes_mask else 0
        if attention_mask is None:
            if pad is None:
                raise ValueError(
                    f"`attention_mask` must be given: {str(self.path)!r} does not say which token "
                    "is padding, and there is no config.json beside it. Received: None."
                )
            return token_ids != pad
        mask = np.asarray(attention_mask)
        is_mask = mask.shape == token_ids.shape and mask.dtype.kind in "biu"
        if not is_mask or mask.min() < 0 or mask.max() > 1:
            raise ValueError(
                f"`attention_mask` must be 0 or 1, of shape {token_ids.shape} as `token_ids`. "
                f"Received: {mask.dtype} {mask.shape}."
            )
        if not self.takes_mask and token_ids[mask == 0].any():
            raise ValueError(
                f"`attention_mask` must leave all tokens but padding (0): {str(self.path)!r} finds "
                "the padding itself. Received: a mask that hides other tokens."
            )
        return mask

    def _guard(self):
        """What one thread at a time may enter, to run the model."""
        return self._lock

    def _after_fork(self) -> None:
        """Makes the model usable in a process that was forked from the one that loaded it."""
        # Not released: its threads are not in this process, and it would wait for their end.
        _LEFT_BEHIND.append(self.__dict__.copy())
        self._load(*self._options)

    def _load(self, num_threads: int | None, num_workers: int) -> None:
        raise NotImplementedError

    def _check_inputs(self, inputs: dict, shapes: list) -> None:
        """Keeps the inputs' names and types, and the length; refuses inputs of other kinds."""
        known = {*_TOKENS, *_SEGMENTS, *_MASKS}
        integers = all(np.dtype(dtype).kind in "iu" for dtype in inputs.values())
        two_axes = all(len(shape) == 2 for shape in shapes)
        if not {*_TOKENS} & set(inputs) or not integers or not two_axes or set(inputs) - known:
            found = ", ".join(f"{n} {np.dtype(d)} {s}" for (n, d), s in zip(inputs.items(), shapes))
            raise ValueError(
                f"{str(self.path)!r} must have the inputs token_ids and segment_ids, or input_ids, "
                "attention_mask and token_type_ids, integers (batch_size, sequence_length). "
                f"Received: {found}."
            )
        self._set_inputs(inputs)
        length = shapes[0][1]
        self._length = length if isinstance(length, (int, np.integer)) and length > 0 else None
        if self.takes_mask and self._limits.pad_token_id is None:
            self._limits = self._limits._replace(pad_token_id=_pad_in_config(self.path))

    def _set_inputs(self, inputs: dict) -> None:
        self._inputs = inputs
        self.takes_segments = bool({*_SEGMENTS} & set(inputs))
        self.takes_mask = bool({*_MASKS} & set(inputs))

    def _feed(self, token_ids, segment_ids, mask) -> dict:
        """The model's inputs, by their names and in their types."""
        return {
            name: (
                token_ids if name in _TOKENS else segment_ids if name in _SEGMENTS else mask
            ).astype(dtype)
            for name, dtype in self._inputs.items()
        }

    def _run(self, token_ids, segment_ids, mask) -> np.ndarray:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


_LOADED: weakref.WeakSet[Runtime] = weakref.WeakSet()
_LEFT_BEHIND: list = []


def _renew_after_fork() -> None:
    for runtime in _LOADED:
        # Another thread may have held the lock, and it is not in this process.
        runtime._lock, runtime._forked = threading.Lock(), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


def activated(logits: np.ndarray, activation: str | None) -> np.ndarray:
    """The output of a head, from its logits."""
    if activation == "softmax":
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        return exponentials / exponentials.sum(-1, keepdims=True)
    if activation == "sigmoid":
        half = np.float32(0.5)
        return half + half * np.tanh(half * logits)  # which does not overflow
    return logits


def home(path: Path) -> Path:
    """The folder of the model that a file is a form of; `onnx/` is a part of it."""
    return path.parent.parent if path.parent.name == "onnx" else path.parent


def _pad_in_config(path: Path) -> int | None:
    """The padding token in the config.json beside a file."""
    config = home(path) / "config.json"
    if not config.is_file():
        return None
    with contextlib.suppress(ValueError):  # of a family that is not known here
        return read_config(config)[0]["pad_token_id"]
    pad = read_json(config).get("pad_token_id")
    return pad if is_integer(pad) else None


EXPORT_EXTRA = "'bert-of-theseus[export]'"  # for `import_package`


def import_package(name: str, install: str | None = None):
    """Imports an optional package, or says how to install it: as `install`, or by its name."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is needed ({error}). Try `pip install {install or name}`."
        ) from error


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a file that a runtime refuses."""
    return ValueError(
        f"{str(path)!r} cannot be loaded: it is truncated or corrupt, or not a {path.suffix} "
        f"model ({error})."
    )
