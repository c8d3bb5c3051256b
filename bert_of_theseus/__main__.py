"""The command line: `python -m bert_of_theseus --help`."""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__
from .commands import export, predict  # which import little, so that --help is quick

_CANNOT, _INTERRUPTED, _NO_READER = 2, 130, 141


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bert-of-theseus",
        description="Uses a saved model. DIR is a folder that save_pretrained wrote.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  echo "A joy to watch." | python -m bert_of_theseus predict successor
  python -m bert_of_theseus predict successor reviews.txt --output labels.jsonl
  python -m bert_of_theseus export successor --onnx
  python -m bert_of_theseus predict --help""",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (predict, export):
        command.add_command(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. Keep Python from reporting it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NO_READER
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _CANNOT
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted.", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
