"""The command line: `python -m bert_of_theseus --help`."""

from __future__ import annotations

import argparse
import sys

from . import __version__
from .commands import compress, export, predict  # which import little, so that --help is quick
from .commands.running import CANNOT, open_standard_streams, run_command


class _Parser(argparse.ArgumentParser):
    """An error is one line, without the usage."""

    def error(self, message):
        self.exit(CANNOT, f"{self.prog}: error: {message} (see --help)\n")


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
    open_standard_streams()
    parser = build_parser()

    def work():
        args = parser.parse_args(argv)
        return args.run(args)

    return run_command(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
