"""`bert-of-theseus export`: convert a model to a format that runs faster."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import prepare_keras


def add_command(commands) -> None:
    """Adds the command's parser."""
    parser = commands.add_parser(
        "export",
        help="convert a model to a format that runs faster",
        description=(
            "Converts the model in DIR to formats that run faster, and writes them there: "
            "onnx/model.onnx for ONNX Runtime and transformers.js, which needs neither Keras nor "
            "TensorFlow, model.tflite for LiteRT. Each file's outputs are compared with the "
            "model's first."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  bert-of-theseus export successor                    onnx/model.onnx
  bert-of-theseus export successor --onnx --int8      onnx/model_quantized.onnx
  bert-of-theseus export successor --litert --float32 --float16
                                                      model.tflite, model.float16.tflite

Exit status: 0; 2 if a file could not be written. An older file is then left as it was.""",
    )
    parser.add_argument("directory", metavar="DIR", help="folder of the saved model")
    form = parser.add_argument_group("formats (default: --onnx)")
    form.add_argument("--onnx", action="store_true", help="for ONNX Runtime")
    form.add_argument("--litert", action="store_true", help="for LiteRT (TensorFlow Lite); BERT")
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
    if args.float16 and not args.litert:
        raise ValueError("--float16 needs --litert.")
    stored = [None if name == "float32" else name for name in stored or ["float32"]]
    prepare_keras()
    from ..deploy import export_folder

    def report(path: Path) -> None:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)

    onnx = stored if args.onnx or not args.litert else []
    export_folder(
        args.directory,
        onnx=[name for name in onnx if name != "float16"],
        litert=stored if args.litert else [],
        report=report,
    )
    return 0
