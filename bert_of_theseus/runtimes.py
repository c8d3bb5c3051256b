"""Files of models, run: ONNX Runtime, LiteRT (TensorFlow Lite) and Keras behind one interface.

    runtime = open_runtime("successor/model.int8.onnx")
    probabilities = runtime(token_ids, segment_ids)

A runtime imports what it needs and no more: neither TensorFlow nor Keras for `.onnx`, and for
`.tflite` LiteRT's interpreter alone, where `ai-edge-litert` is installed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np

__all__ = ["KerasRuntime", "LiteRTRuntime", "ONNXRuntime", "Runtime", "open_runtime"]


def open_runtime(path: str | os.PathLike, num_threads: int | None = None) -> Runtime:
    """Loads a model's file for inference.

    Args:
        path: `.onnx` or `.tflite` file that `export_onnx` or `export_litert` wrote, a Keras file
            (`.keras`), or the folder that `save_pretrained` or `save_checkpoint` wrote.
        num_threads: threads that one call may use; default: one for each core that this process
            may use. In a Keras file's case that is a setting of TensorFlow, for the whole process
            and before its first use.

    Returns:
        A `Runtime`: `runtime(token_ids, segment_ids)` gives the model's output.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ImportError: what runs such files is not installed.
        ValueError: the file is truncated or corrupt, or no such file at all.
    """
    path = Path(path)
    if num_threads is not None and (
        not isinstance(num_threads, int) or isinstance(num_threads, bool) or num_threads < 1
    ):
        raise ValueError(f"`num_threads` should be a positive integer. Received: {num_threads!r}.")
    kind = KerasRuntime if path.is_dir() else _KINDS.get(path.suffix)
    if kind is None:
        raise ValueError(
            f"{str(path)!r} should be a folder or end with {', '.join(_KINDS)}, by which the "
            "runtime is chosen."
        )
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    return kind(path, num_threads)


class Runtime:
    """A loaded model: `runtime(token_ids, segment_ids)` is its output, a float32 array.

    Args:
        path: the model's file or folder, a `Path`.
        num_threads: see `open_runtime`.

    Call arguments:
        token_ids: integers `(batch_size, sequence_length)`; 0 is padding, and masked.
        segment_ids: likewise; default zeros.

    Raises:
        ValueError: when called on anything else, or on more than the model takes.
        RuntimeError: when the runtime itself fails.

    Attributes:
        path: likewise.
        kind: `"onnx"`, `"litert"` or `"keras"`.
        max_length: tokens of the longest text that the model takes; `None` if not known.
        vocab_size: number of tokens that the model knows; `None` if not known.
    """

    kind: str
    max_length: int | None = None
    vocab_size: int | None = None
    _segments: int | None = None
    _length: int | None = None  # the only one that the model takes

    def __init__(self, path: Path, num_threads: int | None = None):
        self.path = path
        self._load(num_threads)

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
        # What stands at each position ends with the text.
        return output[:, :length] if self._length and output.ndim == 3 else output

    def _check(self, token_ids, segment_ids):
        shape = token_ids.shape
        if not all(ids.ndim == 2 and ids.dtype.kind in "iu" for ids in (token_ids, segment_ids)):
            raise ValueError(
                "`token_ids` and `segment_ids` should be integers, (batch_size, sequence_length). "
                f"Received: {token_ids.dtype} {shape} and {segment_ids.dtype} {segment_ids.shape}."
            )
        if segment_ids.shape != shape or 0 in shape:
            raise ValueError(
                "`token_ids` and `segment_ids` should be of one shape, with at least one text and "
                f"one token. Received: {shape} and {segment_ids.shape}."
            )
        if self.max_length is not None and shape[1] > self.max_length:
            raise ValueError(
                f"{str(self.path)!r} takes at most {self.max_length} tokens. Received: {shape[1]}."
            )
        # Out of range, a lookup reads what it should not, or stops the process.
        for name, ids, size in (
            ("token_ids", token_ids, self.vocab_size),
            ("segment_ids", segment_ids, self._segments),
        ):
            if size is not None and not (ids.min() >= 0 and ids.max() < size):
                raise ValueError(
                    f"`{name}` should be from 0 to {size - 1}, what the model knows. Received: "
                    f"{ids.min()} to {ids.max()}."
                )

    def _load(self, num_threads: int | None) -> None:
        raise NotImplementedError

    def _read_note(self) -> None:
        note = read_seal(self.path)
        self.max_length = note["length"] or note["max_length"]
        self.vocab_size, self._segments = note["vocab_size"], note["segments"]
        self._length = note["length"]

    def _run(self, token_ids, segment_ids) -> np.ndarray:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


class ONNXRuntime(Runtime):
    """An `.onnx` file in ONNX Runtime, on the CPU."""

    kind = "onnx"

    def _load(self, num_threads):
        onnxruntime = import_package("onnxruntime")
        self._read_note()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or available_cores()
        options.log_severity_level = 3
        # Threads that wait give up their core. Spinning, they would take a quarter to a half more
        # CPU time, and where others want the core too the work itself waits.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # a class for each of its states, all of them plain Exceptions
            raise ValueError(f"{str(self.path)!r} cannot be loaded: {error}") from error

    def _run(self, token_ids, segment_ids):
        inputs = {"token_ids": token_ids, "segment_ids": segment_ids}
        return self._session.run(None, inputs)[0]


class LiteRTRuntime(Runtime):
    """A `.tflite` file in LiteRT, formerly TensorFlow Lite, with XNNPACK."""

    kind = "litert"

    def _load(self, num_threads):
        self._read_note()
        interpreter = _litert_interpreter()
        try:
            with warnings.catch_warnings():
                # TensorFlow's own copy says that it will go.
                warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter")
                self._interpreter = interpreter(
                    model_path=str(self.path), num_threads=num_threads or available_cores()
                )
            self._signature = self._interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{str(self.path)!r} cannot be loaded: {error}") from error

    def _run(self, token_ids, segment_ids):
        (output,) = self._signature(token_ids=token_ids, segment_ids=segment_ids).values()
        return output


class KerasRuntime(Runtime):
    """A Keras file, or a checkpoint's folder with its head, in the Keras of this process."""

    kind = "keras"

    def _load(self, num_threads):
        if self._is_of_bert4keras():
            from bert_of_theseus.checkpoints import bert4keras_models

            bert4keras_models()  # before Keras; a file names its layers
        if num_threads is not None:
            self._set_threads(num_threads)
        self._model = self._load_folder() if self.path.is_dir() else self._load_file()

    def _is_of_bert4keras(self) -> bool:
        if self.path.is_dir():
            return True
        try:
            with zipfile.ZipFile(self.path) as archive:
                return b"bert4keras" in archive.read("config.json")
        except (FileNotFoundError, PermissionError):
            raise
        # A damaged index may send a reader to before the file's start, an OSError.
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise ValueError(f"{str(self.path)!r} cannot be loaded: {error}") from error

    def _load_folder(self):
        from bert_of_theseus.backend import keras
        from bert_of_theseus.checkpoints import find_checkpoint, load_pretrained

        config = find_checkpoint(self.path).config
        transformer, classifier, _ = load_pretrained(self.path)
        self.max_length = config["max_position_embeddings"]
        self.vocab_size, self._segments = config["vocab_size"], config["type_vocab_size"]
        if classifier is None:
            return transformer.model
        return keras.Model(transformer.inputs, classifier(transformer.output))

    def _load_file(self):
        from bert_of_theseus import heads, layers, models  # noqa: F401  registers ours
        from bert_of_theseus.checkpoints.head import load_beside

        return load_beside(self.path)

    def _set_threads(self, num_threads):
        from bert_of_theseus.backend import BACKEND

        if BACKEND != "tensorflow":
            raise ValueError(
                f"`num_threads` is a setting of {BACKEND}'s own where Keras runs on it. "
                f"Received: {num_threads}."
            )
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


_KINDS = {
    ".onnx": ONNXRuntime,
    ".tflite": LiteRTRuntime,
    ".keras": KerasRuntime,
}


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def import_package(name: str):
    """A package that only those need who export or run such files."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed ({error}). Try `pip install {name}`.") from error


def _litert_interpreter():
    """LiteRT's own package, which starts without TensorFlow, or what TensorFlow brings."""
    try:
        return importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError:
        pass
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError("LiteRT is needed. Try `pip install ai-edge-litert`.") from error
    return tf.lite.Interpreter


# The end of an exported file: what a runtime must know of it, and a checksum of all before.
# Neither format has one, and a flipped bit in a weight would go unnoticed. It has the form of an
# entry of ONNX' `metadata_props`, so that others read the file as they read any; after the end of
# a `.tflite` file anything may stand.

_KEY = b"bert_of_theseus"
_NOTE, _DIGEST = 192, 64  # bytes
_VALUE = _NOTE + _DIGEST
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12" + bytes([_VALUE % 128 + 128, _VALUE // 128])
_SIZE = len(_ENTRY) + _VALUE
_SEAL = b"\x72" + bytes([_SIZE % 128 + 128, _SIZE // 128]) + _ENTRY


def seal(path: Path, note: dict) -> None:
    """Appends to an exported file what `read_seal` reads: `note`, and a checksum."""
    text = json.dumps(note).encode().ljust(_NOTE)
    if len(text) > _NOTE:
        raise ValueError(f"a note should take {_NOTE} bytes at most, not {len(text)}: {note}")
    with open(path, "ab") as file:
        file.write(_SEAL + text)
    digest = _sha256(path, path.stat().st_size)
    with open(path, "ab") as file:
        file.write(digest)


def read_seal(path: Path) -> dict:
    """The note at the end of an exported file, if the file is as it was written.

    Raises:
        ValueError: it is not.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - len(_SEAL) - _VALUE))
        end = file.read()
    if not end.startswith(_SEAL):
        raise ValueError(
            f"{str(path)!r} is truncated or corrupt, or was not written by export_onnx or "
            "export_litert: the checksum at its end is missing."
        )
    if _sha256(path, size - _DIGEST) != end[-_DIGEST:]:
        raise ValueError(f"{str(path)!r} is corrupt: it does not match the checksum at its end.")
    note = json.loads(end[len(_SEAL) : -_DIGEST])
    suffix = note.get("suffix")
    if suffix != path.suffix:
        raise ValueError(f"{str(path)!r} should be named *{suffix}: that is what it holds.")
    return note


def _sha256(path: Path, size: int) -> bytes:
    """Checksum of a file's first bytes."""
    digest, block = hashlib.sha256(), 1 << 20
    with open(path, "rb") as file:
        while size > 0:
            content = file.read(min(block, size))
            if not content:
                break
            digest.update(content)
            size -= len(content)
    return digest.hexdigest().encode()
