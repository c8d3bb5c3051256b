"""The command line: `python -m bert_of_theseus --help`."""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__
from .commands import compress, export, predict  # which import little, so that --help is quick

_CANNOT, _INTERRUPTED, _NO_READER = 2, 130, 141


class _Parser(argparse.ArgumentParser):
    """An error is one line, without the usage."""

    def error(self, message):
        self.exit(_CANNOT, f"{self.prog}: error: {message} (see --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bert-of-theseus",
        description="Makes a fine-tuned model smaller, and uses it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  bert-of-theseus compress my-model --train train.csv --layers 6 --output small
  echo "A joy to watch." | bert-of-theseus predict small
  bert-of-theseus predict small reviews.txt --output labels.jsonl
  bert-of-theseus export small --onnx
  bert-of-theseus compress --help

`python -m bert_of_theseus` is the same command.""",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (compress, predict, export):
        command.add_command(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    if sys.stderr is None:  # closed: what is said would go to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  until the end
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. Keep Python from reporting it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NO_READER
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _CANNOT
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted.", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
