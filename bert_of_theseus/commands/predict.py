"""`bert-of-theseus predict`: label texts with a saved model."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator

from . import positive, quieten_tensorflow

_FIELDS = ("text", "sentence")
_CHUNK = 1 << 18  # bytes to read at once, at most
_BAD_LINES = 1


def add_command(commands) -> None:
    """Adds the command's parser."""
    parser = commands.add_parser(
        "predict",
        help="label texts, one per line",
        description=(
            "Labels texts, one per line, and writes a JSON object for each: the line's number, "
            "the label, its probability, and those of all labels. Only a newline ends a line. "
            "Results are written as lines arrive, and memory does not grow with their number."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  echo "A joy to watch." | python -m bert_of_theseus predict successor
      {"line": 1, "label": "good", "probability": 0.98, "probabilities": {...}}
  python -m bert_of_theseus predict successor reviews.txt --output labels.jsonl
  python -m bert_of_theseus predict successor dev.json --jsonl --field sentence --echo
  python -m bert_of_theseus predict pairs --jsonl --field premise --field hypothesis < rows.jsonl

A line that cannot be used (empty, not UTF-8, not JSON, without the field) is reported on stderr
with its number, and the others are still labelled. Exit status: 0; 1 if there were such lines; 2 if
nothing could be done; 130 after Ctrl-C.""",
    )
    add = parser.add_argument
    add("directory", metavar="DIR", help="folder of the saved model")
    add("file", metavar="FILE", nargs="?", default="-", help="texts, UTF-8; default: stdin")
    what = "where the results go; a file is replaced; default: stdout"
    add("--output", metavar="FILE", help=what)
    add_line = parser.add_argument_group("what a line holds").add_argument
    add_line("--jsonl", action="store_true", help="a JSON object (default: a text)")
    what = (
        "the object's field with the text; give it twice for a pair of texts; default: the first "
        f"of {', '.join(_FIELDS)} that is there. Implies --jsonl"
    )
    add_line("--field", action="append", metavar="NAME", help=what)
    what = "two texts separated by a tab, for a model of pairs"
    add_line("--pairs", action="store_true", help=what)
    add("--echo", action="store_true", help="put the line into its result, as input")
    what = "only the N most probable labels; default: all"
    add("--top", type=positive, metavar="N", help=what)
    what = (
        "form of the model: onnx, int8.onnx, tflite, float16.tflite, int8.tflite, keras; default: "
        "the fastest in DIR that is not quantized"
    )
    add("--kind", help=what)
    what = "cut texts to N tokens; default: the most that the model takes"
    add("--max-length", type=positive, metavar="N", help=what)
    add("--batch-size", type=positive, default=32, metavar="N", help="default: %(default)s")
    what = "CPU threads; default: the runtime's own"
    add("--threads", type=positive, metavar="N", help=what)
    parser.set_defaults(run=predict)


def predict(args: argparse.Namespace) -> int:
    """Labels lines; returns the exit status."""
    if args.pairs and (args.jsonl or args.field):
        raise ValueError("--pairs is for lines of text; for JSON give --field twice.")
    if len(args.field or ()) > 2:
        raise ValueError(f"--field: one text or two. Received: {', '.join(args.field)}.")
    with contextlib.ExitStack() as stack:
        source = sys.stdin.buffer
        if args.file != "-":
            source = stack.enter_context(open(args.file, "rb", buffering=0))
        predictor = _load(args)
        output = sys.stdout.buffer
        if args.output:
            if _is_same(args.output, source):
                raise ValueError(f"--output {args.output} is the file that is read.")
            output = stack.enter_context(open(args.output, "wb"))
        if source.isatty():
            print("Texts from the keyboard, one a line; Ctrl-D ends.", file=sys.stderr)
        bar = None
        if sys.stderr.isatty() and not output.isatty():
            from tqdm import tqdm

            bar = stack.enter_context(tqdm(total=_count_lines(source), unit="line"))
        return _predict_lines(predictor, source, output, bar, args)


def _load(args):
    quieten_tensorflow()
    from ..deploy import Predictor

    return Predictor.load(
        args.directory,
        kind=args.kind,
        max_length=args.max_length,
        batch_size=args.batch_size,
        num_threads=args.threads,
    )


def _predict_lines(predictor, source, output, bar, args) -> int:
    import warnings

    def say(message):
        if bar is None:
            print(message, file=sys.stderr, flush=True)
        else:
            bar.write(message, file=sys.stderr)

    number = num_bad = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from libraries
        warnings.filterwarnings("default", module=r"(__main__|bert_of_theseus\..*)$")
        warnings.showwarning = lambda message, *args, **kwargs: say(f"warning: {message}")
        for lines in _lines(source, 8 * predictor.batch_size):
            numbers, inputs, texts = [], [], []
            for line in lines:
                number += 1
                try:
                    content, text = _read(line, number, args)
                except ValueError as error:
                    say(f"line {number}: {error}")
                    num_bad += 1
                else:
                    numbers.append(number)
                    inputs.append(content)
                    texts.append(text)
            for n, content, result in zip(numbers, inputs, predictor.predict(texts)):
                row = {"line": n, **({"input": content} if args.echo else {}), **result}
                # JSON escapes for lone surrogates, which UTF-8 cannot encode.
                text = json.dumps(_shortened(row, args.top), ensure_ascii=False) + "\n"
                output.write(text.encode("utf-8", "backslashreplace"))
            output.flush()
            if bar is not None:
                bar.update(len(lines))
    if num_bad:
        say(f"{num_bad} of {number} lines could not be used.")
    return _BAD_LINES if num_bad else 0


def _lines(source, at_most: int) -> Iterator[list[bytes]]:
    """The lines that have arrived, up to `at_most` at a time, without waiting for more."""
    start: list[bytes] = []  # of a line whose end has not arrived
    while chunk := os.read(source.fileno(), _CHUNK):
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*start, lines[0]])
            start = []
        start.append(rest)
        for first in range(0, len(lines), at_most):
            yield lines[first : first + at_most]
    last = b"".join(start)
    if last:
        yield [last]


def _read(line: bytes, number: int, args):
    """What a line holds, and the text or the pair of texts in it."""
    try:
        content = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start + 1}") from error
    content = content.removesuffix("\r")
    if not content.strip():
        raise ValueError("empty")
    if args.pairs:
        parts = content.split("\t")
        if len(parts) != 2:
            raise ValueError(f"expected two texts with a tab between, received {len(parts)}")
        return parts, tuple(parts)
    if not (args.jsonl or args.field):
        return content, content
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, received {type(row).__name__}")
    fields = args.field or [next((name for name in _FIELDS if name in row), " or ".join(_FIELDS))]
    for field in fields:
        if field not in row:
            raise ValueError(f"no field {field!r}")
        if not isinstance(row[field], str):
            kind = type(row[field]).__name__
            raise ValueError(f"field {field!r} must be a string, received {kind}")
        try:
            row[field].encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"field {field!r} is not valid Unicode: {error.reason}") from error
        if not row[field].strip():
            raise ValueError(f"field {field!r} is empty")
    texts = tuple(row[field] for field in fields)
    return row, texts if len(texts) > 1 else texts[0]


def _shortened(value, top: int | None):
    """A result rounded to six digits, with only the most probable labels."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [_shortened(item, top) for item in value]
    if not isinstance(value, dict):
        return value
    shortened = {key: _shortened(item, top) for key, item in value.items() if key != "input"}
    if "probabilities" in shortened and top is not None:
        shortened["probabilities"] = dict(list(shortened["probabilities"].items())[:top])
    return {key: shortened.get(key, item) for key, item in value.items()}


def _is_same(path, source) -> bool:
    return os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(source.fileno()))


def _count_lines(source) -> int | None:
    """The number of lines left in a file; `None` for a pipe or a terminal."""
    import stat

    descriptor = source.fileno()
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    count, last = 0, b"\n"
    while chunk := os.read(descriptor, _CHUNK):
        count, last = count + chunk.count(b"\n"), chunk[-1:]
    os.lseek(descriptor, place, os.SEEK_SET)
    return count + (last != b"\n")
