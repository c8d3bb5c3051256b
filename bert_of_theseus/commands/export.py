"""`bert-of-theseus export`: convert a model to a format that runs faster."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import quieten_tensorflow


def add_command(commands) -> None:
    """Adds the command's parser."""
    parser = commands.add_parser(
        "export",
        help="convert a model to a format that runs faster",
        description=(
            "Converts the model in DIR to formats that run faster, and writes them there: "
            "model.onnx for ONNX Runtime, which needs neither Keras nor TensorFlow, model.tflite "
            "for LiteRT. Each file's outputs are compared with the model's first."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python -m bert_of_theseus export successor                          model.onnx
  python -m bert_of_theseus export successor --onnx --int8            model.int8.onnx
  python -m bert_of_theseus export successor --litert --float32 --float16
                                                      model.tflite, model.float16.tflite

Exit status: 0; 2 if a file could not be written. An older file is then left as it was.""",
    )
    parser.add_argument("directory", metavar="DIR", help="folder of the saved model")
    form = parser.add_argument_group("formats (default: --onnx)")
    form.add_argument("--onnx", action="store_true", help="for ONNX Runtime")
    form.add_argument("--litert", action="store_true", help="for LiteRT (TensorFlow Lite)")
    stored = parser.add_argument_group("how weights are stored (default: --float32)")
    stored.add_argument("--float32", action="store_true", help="unchanged")
    stored.add_argument("--float16", action="store_true", help="half the size, with --litert only")
    stored.add_argument(
        "--int8", action="store_true", help="a quarter of the size; results change a little"
    )
    parser.set_defaults(run=export)


def export(args: argparse.Namespace) -> int:
    """Converts a model; returns the exit status."""
    stored = [name for name in ("float32", "float16", "int8") if getattr(args, name)]
    stored = stored or ["float32"]
    if args.float16 and not args.litert:
        raise ValueError("--float16 needs --litert.")
    quieten_tensorflow()
    from ..checkpoints import load_pretrained
    from ..deploy import export_litert, export_onnx

    directory = Path(args.directory)
    transformer, classifier, _ = load_pretrained(directory)
    for name in stored:
        infix, quantize = ("", None) if name == "float32" else (f"{name}.", name)
        paths = []
        if args.onnx or not args.litert:
            paths += [(directory / f"model.{infix}onnx", export_onnx)] * (name != "float16")
        if args.litert:
            paths.append((directory / f"model.{infix}tflite", export_litert))
        for path, write in paths:
            write(path, transformer, classifier, quantize=quantize)
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return 0
