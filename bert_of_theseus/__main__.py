"""The command line: `python -m bert_of_theseus --help`."""

from __future__ import annotations

import argparse
import difflib
import sys

from . import __version__
from .commands import compress, export, predict  # which import little, so that --help is quick
from .commands.running import CANNOT, open_standard_streams, run_command


class _Parser(argparse.ArgumentParser):
    """An error is one line, without the usage. Of options that are not known the nearest is named.

    They are looked for first: of a required option that is misspelt, argparse only says that it is
    missing. Options are written out, so that a new one makes no old command ambiguous.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        known = [name for action in self._actions for name in action.option_strings]
        if self._subparsers is None:
            for word in sys.argv[1:] if args is None else args:
                name = word.split("=")[0]
                if word == "--":
                    break
                if name.startswith("--") and name not in known:
                    nearest = difflib.get_close_matches(name, known, 1)
                    meant = f"; {nearest[0]}?" if nearest else ""
                    self.error(f"there is no option {name}{meant}")
        return super().parse_known_args(args, namespace)

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
