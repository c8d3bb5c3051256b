"""`bert-of-theseus predict`: label texts with a saved model."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import stat
import sys
import warnings

from . import positive, prepare_keras
from .running import warnings_in_a_line

# Of those of `data.tables`, which would import NumPy.
_FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "txt")
_BY_LINE = ("jsonl", "txt")  # results name lines, not rows
_BAD_LINES = 1
_BATCHES = 8  # for each worker, whose texts are labelled together
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str)


def add_command(commands) -> None:
    """Adds the command's parser."""
    parser = commands.add_parser(
        "predict",
        help="label the texts of a file",
        description=(
            "Labels the texts of a file (CSV, TSV, JSON lines, a JSON array, Parquet, or a text "
            "on each\nline), and writes a JSON object for each: the number of its row or line, the "
            "label, its\nprobability, and those of all labels. Results are written as rows arrive, "
            "and memory does not\ngrow with their number."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  echo "A joy to watch." | bert-of-theseus predict successor
      {"line": 1, "label": "good", "probability": 0.98, "probabilities": {...}}
  bert-of-theseus predict successor reviews.txt --output labels.jsonl
  bert-of-theseus predict successor reviews.csv --text-column review --echo
      {"row": 1, "input": {"id": "7", "review": "A joy."}, "label": "good", ...}
  bert-of-theseus predict pairs --text-column premise --text-column hypothesis < rows.jsonl

A row that cannot be used (empty, not UTF-8, not JSON, without the column) is reported on stderr
with its number, and the others are still labelled. Exit status: 0; 1 if there were such rows; 2 if
nothing could be done; 130 after Ctrl-C. Whatever ends it, --output holds whole lines, one for each
row that was labelled until then.""",
    )
    add = parser.add_argument
    add("directory", metavar="DIR", help="folder of the saved model")
    add("file", metavar="FILE", nargs="?", help="the texts, UTF-8, maybe .gz; default: stdin")
    what = "where the results go, JSON lines; a file is replaced; default: stdout"
    add("--output", metavar="FILE", help=what)
    _add_texts(parser)
    what = "put the row, or the line, into its result, as input"
    add("--echo", action="store_true", help=what)
    what = "only the N most probable labels; default: all"
    add("--top", type=positive, metavar="N", help=what)
    what = (
        "form of the model: onnx, int8.onnx, tflite, float16.tflite, int8.tflite, keras; default: "
        "the quicker of onnx and tflite, or else keras"
    )
    add("--kind", help=what)
    what = "cut texts to N tokens; default: the most that the model takes"
    add("--max-length", type=positive, metavar="N", help=what)
    add("--batch-size", type=positive, default=32, metavar="N", help="default: %(default)s")
    what = "CPU threads; default: the runtime's own"
    add("--threads", type=_threads, metavar="N", help=what)
    parser.set_defaults(run=predict)
    _accept_file_anywhere(parser)


def _add_texts(parser) -> None:
    add = parser.add_argument_group("how the texts stand in FILE").add_argument
    what = (
        f"{', '.join(_FORMATS)} (a text on each line); default: as FILE's name ends, or else "
        "txt, and jsonl with --text-column"
    )
    add("--format", choices=_FORMATS, metavar="NAME", help=what)
    what = (
        "the column with the text, or a JSON object's key; twice for pairs of texts; of a file "
        "without a header, its number from 1; default: usual names, such as text or sentence"
    )
    add("--text-column", "--field", dest="columns", action="append", metavar="NAME", help=what)
    what = "what separates the columns of CSV; default: , ; or tab, as the first line has them"
    add("--delimiter", type=_character, metavar="X", help=what)
    add("--jsonl", dest="format", action="store_const", const="jsonl", help="as --format jsonl")
    what = "on each line two texts with a tab between, for a model of pairs"
    add("--pairs", action="store_true", help=what)


def _accept_file_anywhere(parser) -> None:
    """argparse takes FILE right after DIR alone: it looks for both at once."""
    parse = parser.parse_known_args

    def parse_known_args(args=None, namespace=None):
        found, rest = parse(args, namespace)
        if rest and found.file is None and (rest[0] == "-" or not rest[0].startswith("-")):
            found.file = rest.pop(0)
        return found, rest

    parser.parse_known_args = parse_known_args


def _threads(value: str) -> int:
    most = max(16, 4 * (os.cpu_count() or 1))
    if positive(value) > most:
        raise argparse.ArgumentTypeError(f"expected at most {most} on this machine, not {value}")
    return int(value)


def _character(value: str) -> str:
    value = {"\\t": "\t", "tab": "\t"}.get(value, value)
    if len(value) != 1 or value in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character, received {value!r}")
    return value


def predict(args: argparse.Namespace) -> int:
    """Labels the rows of a file; returns the exit status."""
    args.file = None if args.file == "-" else args.file
    format = _format(args)
    if (args.output or "").lower().endswith((".csv", ".tsv", ".parquet")):
        raise ValueError(f"--output {args.output}: results are JSON lines; name the file .jsonl.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings_in_a_line())
        source = _open_source(args, stack)
        if args.output and _is_same(args.output, source):
            raise ValueError(f"--output {args.output} is the file that is read.")
        parent = os.path.dirname(os.path.abspath(args.output or ""))
        if args.output and not os.path.isdir(parent):
            raise ValueError(f"--output {args.output}: there is no folder {parent!r}.")
        predictor = _load(args)
        file = stack.enter_context(open(args.output, "wb", buffering=0)) if args.output else None
        output = _Output(args.output or "stdout", file or sys.stdout)
        if args.file is None and source.isatty():
            print("Texts from the keyboard, one a line; Ctrl-D ends.", file=sys.stderr)
        bar = None
        if sys.stderr is not None and sys.stderr.isatty() and not os.isatty(output.descriptor):
            from tqdm import tqdm

            by_line = format in _BY_LINE
            total = _count_lines(source) if by_line else None
            bar = stack.enter_context(tqdm(total=total, unit="line" if by_line else "row"))
        return _Labeller(predictor, output, format, args, bar).run(source)


def _format(args) -> str:
    from ..data.tables import format_of

    if args.pairs:
        if args.columns or args.format not in (None, "txt"):
            raise ValueError("--pairs is for lines of text; otherwise give --text-column twice.")
        return "txt"
    if len(args.columns or ()) > 2:
        raise ValueError(f"--text-column: one text or two. Received: {', '.join(args.columns)}.")
    format = args.format or (args.file and format_of(args.file))
    if format not in (None, *_FORMATS):
        raise ValueError(f"{args.file}: texts must be of the formats {', '.join(_FORMATS)}.")
    if format in (None, "txt") and args.format is None:
        return "jsonl" if args.columns else "txt"
    if format == "txt" and args.columns:
        raise ValueError("--text-column: lines of text have no columns.")
    if format == "parquet" and args.file is None:
        raise ValueError("Parquet must be a file, not stdin.")
    return format


def _open_source(args, stack):
    from ..data.tables import open_bytes

    if args.file is not None:
        if os.path.isdir(args.file):
            raise ValueError(
                f"{args.file!r} is a folder. The file of texts comes after the model's folder."
            )
        if not os.path.exists(args.file):
            raise ValueError(f"there is no file of texts {args.file!r}.")
        return stack.enter_context(open_bytes(args.file))
    if sys.stdin is None:
        raise ValueError("stdin is closed: give the FILE with the texts.")
    return sys.stdin.buffer


def _load(args):
    prepare_keras()
    from ..deploy import Predictor
    from ..deploy.runtimes import available_cores

    return Predictor.load(
        args.directory,
        kind=args.kind,
        max_length=args.max_length,
        batch_size=args.batch_size,
        num_threads=args.threads,
        num_workers=args.threads or available_cores(),
    )


class _Output:
    """Where results go. A file holds whole lines, even if the disk is full."""

    def __init__(self, name, file):
        if file is None:
            raise ValueError("stdout is closed: give --output FILE.")
        self.name, self.descriptor = name, file.fileno()
        self.is_file = stat.S_ISREG(os.fstat(self.descriptor).st_mode)

    def write(self, lines: bytes) -> None:
        size = os.fstat(self.descriptor).st_size
        done = 0
        try:
            while done < len(lines):
                done += os.write(self.descriptor, lines[done:])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(
                error.errno, f"{self.name} cannot be written: {error.strerror}"
            ) from error
        finally:
            if done < len(lines) and self.is_file:
                os.ftruncate(self.descriptor, size + lines.rfind(b"\n", 0, done) + 1)


class _Labeller:
    """Reads rows, labels some at a time, and writes the results.

    What has arrived is labelled before more is waited for.
    """

    def __init__(self, predictor, output, format, args, bar):
        self.predictor, self.output, self.format, self.args = predictor, output, format, args
        self.bar, self.key = bar, "line" if format in _BY_LINE else "row"
        self.number = self.num_bad = 0
        self.waiting = []  # rows and their texts
        self.most_waiting = _BATCHES * predictor.num_workers * predictor.batch_size
        self.columns, self.texts = None, None  # those of the last row, and those with its text
        self.has_failed = False  # in what follows the reading

    def run(self, source) -> int:
        """Returns the exit status."""
        warnings.showwarning = lambda message, *_, **__: self._say(f"warning: {message}")
        try:
            for row in self._rows(source):
                self._take(row)
        except ValueError as error:
            if self.has_failed:
                raise
            self._flush()
            raise ValueError(f"{self.args.file or 'stdin'}: {error}") from error
        self._flush()
        if self.num_bad:
            self._say(f"{self.num_bad} of {self.number} {self.key}s could not be used.")
        return _BAD_LINES if self.num_bad else 0

    def _rows(self, source):
        from ..data.columns import are_numbers
        from ..data.tables import CHUNK, iterate, parse

        if self.format == "parquet":
            return iterate(self.args.file, "parquet")

        def chunks():
            while True:
                self._flush()
                chunk = source.read1(CHUNK)
                if not chunk:
                    return
                yield chunk

        header = not are_numbers(self.args.columns)
        return parse(chunks(), self.format, header=header, delimiter=self.args.delimiter)

    def _take(self, row):
        self.number = row.number
        if isinstance(row, ValueError):
            self._refuse(row, row)
            return
        try:
            text = self._text(row)
        except ValueError as error:
            if self.columns is None and self.format in ("csv", "tsv", "parquet"):
                raise  # so it is with every row
            self._refuse(row, error)
            return
        self.waiting.append((row, text))
        if len(self.waiting) >= self.most_waiting:
            self._flush()

    def _refuse(self, row, error):
        self.num_bad += 1
        self._say(f"{row.where}: {error}")
        if self.bar is not None:
            self.bar.update()

    def _text(self, row):
        from ..data.columns import are_numbers, check_no_header, text_columns, text_of

        if self.format == "txt":
            parts = row["text"].split("\t")
            if self.args.pairs and len(parts) != 2:
                raise ValueError(f"expected two texts with a tab between, received {len(parts)}")
            return tuple(parts) if self.args.pairs else row["text"]
        columns = list(row)
        if columns != self.columns:
            texts = text_columns(columns, self.args.columns)
            if are_numbers(texts):
                check_no_header(row)
            self.columns, self.texts = columns, texts
        return text_of(row, self.texts)

    def _flush(self):
        """Labels the rows that wait."""
        rows, self.waiting = self.waiting, []
        if not rows:
            return
        try:
            try:
                results = self.predictor.predict([text for _, text in rows])
            except ValueError:
                usable = self._without_refused(rows)
                if len(usable) == len(rows):
                    raise
                rows = usable
                results = self.predictor.predict([text for _, text in rows])
            lines = [self._line(*row, result) for row, result in zip(rows, results)]
            # JSON escapes for lone surrogates, which UTF-8 cannot encode.
            self.output.write("".join(lines).encode("utf-8", "backslashreplace"))
        except Exception:
            self.has_failed = True
            raise
        if self.bar is not None:
            self.bar.update(len(rows))

    def _without_refused(self, rows):
        """Leaves out the rows whose text the tokenizer refuses."""
        left = []
        for row, text in rows:
            try:
                self.predictor.tokenizer.encode_batch([text], self.predictor.max_length)
                left.append((row, text))
            except ValueError as error:
                self._refuse(row, str(error).removeprefix("Example 0: "))
        return left

    def _line(self, row, text, result) -> str:
        found = {self.key: row.number}
        if self.args.echo:
            found["input"] = text if self.format == "txt" else row
        found |= _shortened(result, self.args.top)
        try:
            return _ENCODER.encode(found) + "\n"
        except ValueError as error:  # damaged weights, or Parquet with --echo
            raise ValueError(f"{row.where}: no result, as it holds NaN or infinity") from error

    def _say(self, message):
        if self.bar is None:
            print(message, file=sys.stderr, flush=True)
        else:
            self.bar.write(message, file=sys.stderr)


def _shortened(value, top: int | None):
    """A result rounded to six digits, with only the most probable labels."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [_shortened(item, top) for item in value]
    if not isinstance(value, dict):
        return value
    shortened = {key: _shortened(item, top) for key, item in value.items()}
    if "probabilities" in shortened and top is not None:
        shortened["probabilities"] = dict(list(shortened["probabilities"].items())[:top])
    return shortened


def _is_same(path, source) -> bool:
    return os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(source.fileno()))


def _count_lines(source) -> int | None:
    """The number of lines left in a file; `None` for a pipe, a terminal, or a packed file."""
    from ..data.tables import CHUNK

    if not hasattr(source, "raw") or not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        return None
    descriptor = source.fileno()
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    count, last = 0, b"\n"
    while chunk := os.read(descriptor, CHUNK):
        count, last = count + chunk.count(b"\n"), chunk[-1:]
    os.lseek(descriptor, place, os.SEEK_SET)
    return count + (last != b"\n")
