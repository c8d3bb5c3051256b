"""Runs exported models: ONNX Runtime, LiteRT (TensorFlow Lite) and Keras behind one interface.

A runtime imports only what it needs: neither TensorFlow nor Keras for `.onnx`, and for `.tflite`
only LiteRT's interpreter if `ai-edge-litert` is installed.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import check_files
from ..validation import positive_integer


class Limits(NamedTuple):
    """What a model accepts; `None` where that is not known.

    Exported files carry it: an `.onnx` file in its metadata, under `KEY`, and a `.tflite` file as
    JSON in a zip archive after its end, which is where TensorFlow Lite puts associated files.
    """

    max_length: int | None = None
    vocab_size: int | None = None
    segments: int | None = None

    KEY = "bert_of_theseus"

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str | bytes) -> Limits:
        return cls(**json.loads(text))


def open_runtime(path: str | os.PathLike, num_threads: int | None = None) -> Runtime:
    """Loads a model for inference.

    A file that its folder's checksums.json lists must match it.

    Args:
        path: An `.onnx` or `.tflite` file from `export_onnx` or `export_litert`, a Keras file
            (`.keras`), or a folder from `save_pretrained` or `save_checkpoint`. Other programs'
            `.onnx` and `.tflite` files work too if their inputs are integers of shape
            `(batch_size, sequence_length)`, named `token_ids` and `segment_ids`, or `input_ids`,
            `token_type_ids` and `attention_mask` as in Hugging Face's exports.
        num_threads: Threads that one call may use. Defaults to one for each core that the process
            may use. For a Keras file this is a setting of TensorFlow for the whole process, and
            must come before TensorFlow's first use.

    Returns:
        A `Runtime`: `runtime(token_ids, segment_ids)` returns the model's output.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ImportError: if the package that runs such files is not installed.
        ValueError: if the file is truncated, corrupt or not a model, or has other inputs.
    """
    path = Path(path)
    num_threads = positive_integer("num_threads", num_threads, optional=True)
    kind = KerasRuntime if path.is_dir() else _KINDS.get(path.suffix)
    if kind is None:
        raise ValueError(
            f"{str(path)!r} must be a folder or end with {', '.join(_KINDS)}, which selects the "
            "runtime."
        )
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    if not path.is_dir():
        check_files(path.parent, [path.name])
    return kind(path, num_threads)


class Runtime:
    """A loaded model: `runtime(token_ids, segment_ids)` returns its output, a float32 array.

    Args:
        path: The model's file or folder, a `Path`.
        num_threads: See `open_runtime`.

    Call arguments:
        token_ids: Integers `(batch_size, sequence_length)`; 0 is padding and is masked.
        segment_ids: Integers of the same shape. Defaults to zeros.

    Raises:
        ValueError: when called with other inputs, or with more tokens than the model accepts.
        RuntimeError: when the runtime itself fails.

    Attributes:
        path: The model's file or folder.
        kind: `"onnx"`, `"litert"` or `"keras"`.
        max_length: Number of tokens of the longest text that the model accepts; `None` if unknown.
        vocab_size: Number of tokens in the model's vocabulary; `None` if unknown.
    """

    kind: str
    _limits = Limits()
    _length: int | None = None  # the only sequence length that the model accepts
    _inputs: dict  # the names of the model's inputs, with their types

    def __init__(self, path: Path, num_threads: int | None = None):
        self.path = path
        self._load(num_threads)

    @property
    def max_length(self) -> int | None:
        return self._length or self._limits.max_length

    @property
    def vocab_size(self) -> int | None:
        return self._limits.vocab_size

    def __call__(self, token_ids, segment_ids=None) -> np.ndarray:
        token_ids = np.asarray(token_ids)
        segment_ids = np.zeros_like(token_ids) if segment_ids is None else np.asarray(segment_ids)
        self._check(token_ids, segment_ids)
        length = token_ids.shape[1]
        padding = [(0, 0), (0, self._length - length if self._length else 0)]
        inputs = (np.pad(ids, padding).astype("int32") for ids in (token_ids, segment_ids))
        try:
            output = self._run(*inputs)
        except Exception as error:  # each runtime has its own, some several
            raise RuntimeError(
                f"{str(self.path)!r} fails on a batch of {token_ids.shape}: {error}"
            ) from error
        # Outputs per position: cut off those of the padding added here.
        output = output[:, :length] if self._length and output.ndim == 3 else output
        return output.astype("float32", copy=False)

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
        # A lookup out of range may read other memory or stop the process.
        for name, ids, size in (
            ("token_ids", token_ids, self.vocab_size),
            ("segment_ids", segment_ids, self._limits.segments),
        ):
            if size is not None and not (ids.min() >= 0 and ids.max() < size):
                raise ValueError(
                    f"`{name}` must be from 0 to {size - 1} for this model. Received: {ids.min()} "
                    f"to {ids.max()}."
                )

    def _load(self, num_threads: int | None) -> None:
        raise NotImplementedError

    def _check_inputs(self, inputs: dict, shapes: list) -> None:
        """Keeps the inputs' names and types, and the length; refuses inputs of other kinds."""
        known = _feeds(np.zeros((1, 1), "int32"), np.zeros((1, 1), "int32"))
        integers = all(np.dtype(dtype).kind in "iu" for dtype in inputs.values())
        two_axes = all(len(shape) == 2 for shape in shapes)
        if not {"token_ids", "input_ids"} & set(inputs) or not integers or not two_axes or (
            set(inputs) - set(known)
        ):  # fmt: skip
            found = ", ".join(f"{n} {np.dtype(d)} {s}" for (n, d), s in zip(inputs.items(), shapes))
            raise ValueError(
                f"{str(self.path)!r} must have the inputs token_ids and segment_ids, integers "
                f"(batch_size, sequence_length). Received: {found}."
            )
        self._inputs = inputs
        length = shapes[0][1]
        self._length = length if isinstance(length, (int, np.integer)) and length > 0 else None

    def _feed(self, token_ids, segment_ids) -> dict:
        """The model's inputs, by their names and in their types."""
        values = _feeds(token_ids, segment_ids)
        return {name: values[name].astype(dtype) for name, dtype in self._inputs.items()}

    def _run(self, token_ids, segment_ids) -> np.ndarray:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


def _feeds(token_ids, segment_ids) -> dict:
    """Values for inputs of all names that are known: this package's and Hugging Face's."""
    return {
        "token_ids": token_ids,
        "segment_ids": segment_ids,
        "input_ids": token_ids,
        "token_type_ids": segment_ids,
        "attention_mask": token_ids != 0,
    }


class ONNXRuntime(Runtime):
    """An `.onnx` file in ONNX Runtime, on the CPU."""

    kind = "onnx"

    def _load(self, num_threads):
        onnxruntime = import_package("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or available_cores()
        options.log_severity_level = 3
        # Waiting threads give up their core. Spinning would take a quarter to a half more CPU time
        # and slow down the work itself where other processes use the cores too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
            note = self._session.get_modelmeta().custom_metadata_map.get(Limits.KEY, "{}")
            self._limits = Limits.from_json(note)
        except Exception as error:  # ONNX Runtime has one class per state, all plain Exceptions
            raise unreadable(self.path, error) from error
        inputs = self._session.get_inputs()
        types = {"tensor(int32)": "int32", "tensor(int64)": "int64"}
        self._check_inputs(
            {x.name: types.get(x.type, "float32") for x in inputs}, [x.shape for x in inputs]
        )

    def _run(self, token_ids, segment_ids):
        return self._session.run(None, self._feed(token_ids, segment_ids))[0]


class LiteRTRuntime(Runtime):
    """A `.tflite` file in LiteRT, formerly TensorFlow Lite, with XNNPACK."""

    kind = "litert"

    def _load(self, num_threads):
        interpreter = _litert_interpreter()
        try:
            with warnings.catch_warnings():
                # TensorFlow's copy announces that it will be removed.
                warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter")
                self._interpreter = interpreter(
                    model_path=str(self.path), num_threads=num_threads or available_cores()
                )
            self._signature = self._interpreter.get_signature_runner()
            if zipfile.is_zipfile(self.path):
                with zipfile.ZipFile(self.path) as archive:
                    if Limits.KEY in archive.namelist():
                        self._limits = Limits.from_json(archive.read(Limits.KEY))
        except Exception as error:  # LiteRT, zipfile and json have their own classes
            raise unreadable(self.path, error) from error
        inputs = self._signature.get_input_details()
        self._check_inputs(
            {name: x["dtype"] for name, x in inputs.items()},
            [x["shape_signature"] for x in inputs.values()],
        )

    def _run(self, token_ids, segment_ids):
        (output,) = self._signature(**self._feed(token_ids, segment_ids)).values()
        return output


class KerasRuntime(Runtime):
    """A Keras file, or a checkpoint's folder with its head, in the Keras of this process."""

    kind = "keras"

    def _load(self, num_threads):
        if self._is_of_bert4keras():
            from ..checkpoints import bert4keras_models

            bert4keras_models()  # before Keras; the file names its layers
        if num_threads is not None:
            self._set_threads(num_threads)
        self._model = self._load_folder() if self.path.is_dir() else self._load_file()

    def _is_of_bert4keras(self) -> bool:
        if self.path.is_dir():
            return True
        try:
            with zipfile.ZipFile(self.path) as archive:
                return b"bert4keras" in archive.read("config.json")
        except Exception as error:  # zipfile raises errors of many classes for damage
            raise unreadable(self.path, error) from error

    def _load_folder(self):
        from ..backend import keras
        from ..checkpoints import load_pretrained

        transformer, classifier, _ = load_pretrained(self.path)
        self._limits = Limits(
            transformer.max_position, transformer.vocab_size, transformer.segment_vocab_size
        )
        if classifier is None:
            return transformer.model
        return keras.Model(transformer.inputs, classifier(transformer.output))

    def _load_file(self):
        from .. import heads, layers, models  # noqa: F401  register their classes
        from ..saving import load_keras_file

        return load_keras_file(self.path)

    def _set_threads(self, num_threads):
        from ..backend import require_tensorflow

        require_tensorflow("`num_threads` must be None for a Keras model on another backend.")
        import tensorflow as tf

        try:
            tf.config.threading.set_intra_op_parallelism_threads(num_threads)
            tf.config.threading.set_inter_op_parallelism_threads(num_threads)
        except RuntimeError as error:
            raise ValueError(
                "`num_threads` comes too late for Keras: TensorFlow is already in use in this "
                f"process. Received: {num_threads}."
            ) from error

    def _run(self, token_ids, segment_ids):
        return np.asarray(self._model.predict_on_batch([token_ids, segment_ids]))


_KINDS = {".onnx": ONNXRuntime, ".tflite": LiteRTRuntime, ".keras": KerasRuntime}


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def import_package(name: str):
    """Imports an optional package, or says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed ({error}). Try `pip install {name}`.") from error


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a file that a runtime refuses."""
    return ValueError(
        f"{str(path)!r} cannot be loaded: it is truncated or corrupt, or not a {path.suffix} "
        f"model ({error})."
    )


def _litert_interpreter():
    """LiteRT's own package, which does not import TensorFlow, or else TensorFlow's copy."""
    try:
        return importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError:
        pass
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError("LiteRT is needed. Try `pip install ai-edge-litert`.") from error
    return tf.lite.Interpreter
