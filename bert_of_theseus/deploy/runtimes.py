"""ONNX Runtime, LiteRT (TensorFlow Lite) and Keras behind one interface.

A runtime imports only what it needs: neither TensorFlow nor Keras for `.onnx`, and for `.tflite`
only LiteRT's interpreter if `ai-edge-litert` is installed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np

from ..files import check_files
from ..validation import positive_integer
from .base import GRAPH_NAME, Limits, Runtime, home, import_package, unreadable
from .padding import by_length


def open_runtime(
    path: str | os.PathLike, num_threads: int | None = None, num_workers: int = 1
) -> Runtime:
    """Loads a model for inference.

    A file that its folder's checksums.json lists must match it.

    Args:
        path: An `.onnx` or `.tflite` file from `export_onnx` or `export_litert`, a Keras file
            (`.keras`), or a folder from `save_pretrained`, `save_checkpoint` or `transformers`.
            Other programs' `.onnx` and `.tflite` files work too if their inputs are integers of
            shape `(batch_size, sequence_length)`, named `token_ids` and `segment_ids`, or
            `input_ids`, `token_type_ids` and `attention_mask` as in Hugging Face's exports.
        num_threads: Threads of all calls. Defaults to one for each core that the process may use.
            For a Keras file this is a setting of TensorFlow for the whole process, and must come
            before TensorFlow's first use.
        num_workers: Number of calls, from as many threads, that share `num_threads`. With one
            thread for each call all cores are busy all the time, and with all threads for one
            call it ends soonest. LiteRT and Keras take one call at a time. Defaults to `1`.

    Returns:
        A `Runtime`: `runtime(token_ids, segment_ids, attention_mask)` returns the model's output.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ImportError: if the package that runs such files is not installed.
        ValueError: if the file is truncated, corrupt or not a model, or has other inputs or
            several outputs.
    """
    path = Path(path)
    num_threads = positive_integer("num_threads", num_threads, optional=True)
    num_workers = positive_integer("num_workers", num_workers)
    kind = KerasRuntime if path.is_dir() else _KINDS.get(path.suffix)
    if kind is None:
        raise ValueError(
            f"{str(path)!r} must be a folder or end with {', '.join(_KINDS)}, which selects the "
            "runtime."
        )
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    if not path.is_dir():
        for folder in dict.fromkeys((path.parent, home(path))):
            check_files(folder, [path.relative_to(folder).as_posix()])
    return kind(path, num_threads, num_workers)


class ONNXRuntime(Runtime):
    """An `.onnx` file in ONNX Runtime, on the CPU."""

    kind = "onnx"

    def _load(self, num_threads, num_workers):
        onnxruntime = import_package("onnxruntime")
        options = onnxruntime.SessionOptions()
        num_threads = num_threads or available_cores()
        self.num_workers = min(num_workers, num_threads)
        options.intra_op_num_threads = num_threads // self.num_workers
        options.log_severity_level = 3
        # Waiting threads give up their core. Spinning would take a quarter to a half more CPU time
        # and slow down the work itself where other processes use the cores too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path),
                options,
                providers=["CPUExecutionProvider"],
                # On CPUs the fused operation is slower than its parts. With it three layers of
                # MiniLM take 1.1 times as long, in int8 1.3 times (ONNX Runtime 1.32, a thread).
                disabled_optimizers=["SkipLayerNormFusion"],
            )
            meta = self._session.get_modelmeta()
            note = meta.custom_metadata_map.get(Limits.KEY)
            self._limits = Limits.from_json(note or "{}")
        except Exception as error:  # ONNX Runtime has one class per state, all plain Exceptions
            raise unreadable(self.path, error) from error
        inputs = self._session.get_inputs()
        types = {"tensor(int32)": "int32", "tensor(int64)": "int64"}
        self._check_inputs(
            {x.name: types.get(x.type, "float32") for x in inputs}, [x.shape for x in inputs]
        )
        outputs = [x.name for x in self._session.get_outputs()]
        known = [name for name in ("logits", "last_hidden_state") if name in outputs]
        if len(outputs) > 1 and not known:
            raise ValueError(
                f"{str(self.path)!r} must have one output, or logits or last_hidden_state among "
                f"them. Received: {', '.join(outputs)}."
            )
        self.output_name = [*known, *outputs][0]
        self.returns_logits = self.output_name == "logits" and note is None
        # A file of other origin may make something of its padding, and one that was given a fixed
        # shape takes no part of a batch.
        is_ours = note is not None and meta.graph_name == GRAPH_NAME
        has_fixed = any(isinstance(size, int) for x in inputs for size in x.shape)
        self._drops_padding = is_ours and not has_fixed

    def _guard(self):
        return contextlib.nullcontext()  # a session is made for many threads

    def _run(self, *inputs):
        groups = by_length(inputs[2]) if self._drops_padding else ()
        if not groups or (len(groups) == 1 and groups[0][1] == inputs[0].shape[1]):
            return self._run_session(inputs)
        parts = [self._run_session(ids[rows, :length] for ids in inputs) for rows, length in groups]
        per_token = parts[0].ndim == 3
        shape = inputs[0].shape if per_token else inputs[0].shape[:1]
        output = np.zeros((*shape, parts[0].shape[-1]), parts[0].dtype)
        for (rows, length), part in zip(groups, parts):
            output[(rows, slice(length)) if per_token else rows] = part
        return output

    def _run_session(self, inputs):
        return self._session.run([self.output_name], self._feed(*inputs))[0]


class LiteRTRuntime(Runtime):
    """A `.tflite` file in LiteRT, formerly TensorFlow Lite, with XNNPACK."""

    kind = "litert"

    def _load(self, num_threads, num_workers):
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
        outputs = list(self._signature.get_output_details())
        self.output_name = outputs[0]
        self.returns_logits = outputs == ["logits"]

    def _run(self, *inputs):
        (output,) = self._signature(**self._feed(*inputs)).values()
        return output


class KerasRuntime(Runtime):
    """A Keras file, or a checkpoint's folder with its head, in the Keras of this process."""

    kind = "keras"

    def _load(self, num_threads, num_workers):
        if not self.path.is_dir() and self._names_bert4keras():
            from ..checkpoints import bert4keras_models

            bert4keras_models()  # before Keras; the file names its layers
        if num_threads is not None:
            self._set_threads(num_threads)
        self._model = self._load_folder() if self.path.is_dir() else self._load_file()
        self._names = input_names(self._model)
        if self._names is not None:
            self._set_inputs(dict.fromkeys(self._names, "int32"))

    def _after_fork(self):
        raise RuntimeError(
            f"{str(self.path)!r} was loaded in Keras by the process that this one was forked from, "
            "and Keras' frameworks do not survive a fork. Load it after the fork, or export it to "
            "ONNX."
        )

    def _names_bert4keras(self) -> bool:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return b"bert4keras" in archive.read("config.json")
        except Exception as error:  # zipfile raises errors of many classes for damage
            raise unreadable(self.path, error) from error

    def _load_folder(self):
        from ..checkpoints import find_checkpoint, load_pretrained

        self._limits = Limits.of(find_checkpoint(self.path).config)
        encoder, classifier, _ = load_pretrained(self.path)
        return whole_model(encoder, classifier)

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

    def _run(self, *inputs):
        if self._names is None:
            return self._model.predict_on_batch([ids.astype("int32") for ids in inputs[:2]])
        return self._model.predict_on_batch(self._feed(*inputs))


def whole_model(encoder, classifier):
    """One Keras model of an encoder and its head, if it has one."""
    from ..backend import keras
    from ..checkpoints.describe import is_transformer

    model = encoder.model if is_transformer(encoder) else encoder
    output = model.output
    if isinstance(output, dict):  # KerasHub's backbones with a pooler
        output = output["sequence_output"]
    if classifier is None:
        return model if output is model.output else keras.Model(model.input, output)
    return keras.Model(model.input, classifier(output))


def input_names(model) -> list[str] | None:
    """The names of a model's inputs, if it takes them in a dict as KerasHub's do."""
    inputs = model.input
    return list(inputs) if isinstance(inputs, dict) else None


_KINDS = {".onnx": ONNXRuntime, ".tflite": LiteRTRuntime, ".keras": KerasRuntime}


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
