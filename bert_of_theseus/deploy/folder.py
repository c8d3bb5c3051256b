"""The forms of a model in its folder: what they are called, and how they are made there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ..validation import one_of
from .export import can_be_described
from .litert import export_litert
from .onnx import export_onnx

# Each kind's files. The first one counts if several are there: Hugging Face's name before this
# package's own, which older versions and models that are traced have.
FILES = {
    "onnx": ("onnx/model.onnx", "model.onnx"),
    "tflite": ("model.tflite",),
    "float16.tflite": ("model.float16.tflite",),
    "int8.onnx": ("onnx/model_quantized.onnx", "model.int8.onnx"),
    "int8.tflite": ("model.int8.tflite",),
}


def export_folder(
    directory: str | os.PathLike,
    *,
    onnx: Iterable[str | None] = (None,),
    litert: Iterable[str | None] = (),
    report: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Converts the model of a folder to formats that run faster, and writes them there.

    The model is loaded once, with whichever Keras is in use (`load_pretrained`), and the outputs of
    each file are compared with it. The files are `onnx/model.onnx` and `onnx/model_quantized.onnx`,
    where other programs look for them (`model.onnx` and `model.int8.onnx` for a model that only
    `open_runtime` runs), and `model.tflite`, `model.float16.tflite` and `model.int8.tflite`.

    Args:
        directory: A folder from `save_pretrained`, `save_checkpoint` or `transformers`.
        onnx: How weights are stored in each ONNX file: `None` for float32, `"int8"`.
        litert: The same for LiteRT files: `None`, `"float16"`, `"int8"`.
        report: Function that is called with the path of each file once it is there.

    Returns:
        The paths of the files.

    Raises:
        FileNotFoundError: if the folder lacks a file.
        ImportError: if a package that the export needs is not installed.
        ValueError: if the model cannot be loaded or converted, or the outputs differ. Older files
            are then as they were.
        OSError: if a file could not be written.

    Example:

        export_folder("successor", onnx=(None, "int8"))
    """
    from ..checkpoints import load_pretrained

    onnx, litert = list(onnx), list(litert)
    for quantize in onnx:
        one_of("onnx", quantize, (None, "int8"))
    for quantize in litert:
        one_of("litert", quantize, (None, "float16", "int8"))
    directory = Path(directory)
    encoder, classifier, _ = load_pretrained(directory)
    known = can_be_described(encoder, classifier)
    jobs = [(export_onnx, "onnx", quantize) for quantize in onnx]
    jobs += [(export_litert, "tflite", quantize) for quantize in litert]
    paths = []
    for export, suffix, quantize in jobs:
        path = directory / FILES[f"{quantize}.{suffix}" if quantize else suffix][0 if known else -1]
        export(path, encoder, classifier, quantize=quantize)
        paths.append(path)
        if report is not None:
            report(path)
    return paths
