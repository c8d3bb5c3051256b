"""Rows of tables in the usual formats, one by one, from chunks of bytes."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator

_SHORT = 1 << 18  # characters that are quickly parsed again
_LONGEST = 1 << 26  # characters of a field or a JSON value: a quotation mark that is never closed


class Row(dict):
    """A row's values by column.

    Attributes:
        number: Integer, from 1: the row's number, or of a text or JSON line that of the line.
        where: String, its place in the file, for errors.
    """

    __slots__ = ("number", "where")

    def __init__(self, values, number: int, where: str):
        super().__init__(values)
        self.number, self.where = number, where


class RowError(ValueError):
    """A row that cannot be used, though those after it can.

    Attributes:
        number, where: As of `Row`.
        blank: Boolean, whether it is but an empty line.
    """

    def __init__(self, problem: str, number: int, where: str):
        super().__init__(problem)
        self.number, self.where, self.blank = number, where, problem == "empty"


def parse(
    chunks: Iterable[bytes], format: str, *, header: bool = True, delimiter: str | None = None
) -> Iterator[Row | RowError]:
    """The rows of a file that is read elsewhere, of any format but Parquet.

    Rows are taken from the chunks as soon as they are whole.
    """
    if format == "json":
        return _json(chunks)
    lines = split_lines(chunks)
    if format == "csv":
        return _csv(_Lines(lines), header, delimiter)
    if format == "tsv":
        return _tsv(_Lines(lines), header)
    return {"jsonl": _json_lines, "conll": _conll, "txt": _texts}[format](lines)


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends. Only a newline ends one."""
    start: list[bytes] = []  # of a line whose end has not come
    for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*start, lines[0]])
            start = []
        start.append(rest)
        yield from lines
    if last := b"".join(start):
        yield last


# Lines of text, and of JSON.


def _numbered_texts(lines):
    """Each line as a string, or as a `RowError`, with its number."""
    for number, line in enumerate(lines, start=1):
        where = f"line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            problem = f"not UTF-8: {error.reason} at byte {error.start + 1}"
            yield number, where, RowError(problem, number, where)
            continue
        yield number, where, text if text.strip() else RowError("empty", number, where)


def _texts(lines):
    for number, where, text in _numbered_texts(lines):
        if isinstance(text, str) and "\0" in text:
            text = RowError("holds a NUL character: no text file", number, where)
        yield Row({"text": text}, number, where) if isinstance(text, str) else text


def _json_lines(lines):
    for number, where, text in _numbered_texts(lines):
        if isinstance(text, RowError):
            yield text
            continue
        try:
            yield _json_row(_DECODER.decode(text), number, where)
        except (ValueError, RecursionError) as error:
            yield RowError(f"not JSON: {error}", number, where)


def _json_row(value, number, where):
    if isinstance(value, dict):
        return Row(value, number, where)
    kind = type(value).__name__
    return RowError(f"expected a JSON object, received {kind}", number, where)


def _no_constant(name):
    raise ValueError(f"{name} is no number of JSON's")


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _object(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite
)


# JSON over any number of lines.


class _Characters:
    """Text that is read in chunks, as far as it is needed."""

    def __init__(self, chunks):
        self._chunks = iter(chunks)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.position = "", 0

    def more(self) -> bool:
        """Reads on, of a long text as much again as there is; whether there was more."""
        self.text, self.position = self.text[self.position :], 0
        if len(self.text) > _LONGEST:
            raise ValueError(f"no value ends within {_LONGEST:,} characters")
        parts, size = [self.text], 0
        for chunk in self._chunks:
            try:
                parts.append(self._decoder.decode(chunk))
            except UnicodeDecodeError as error:
                raise ValueError(f"not UTF-8: {error.reason}") from error
            size += len(parts[-1])
            if size > len(self.text) - _SHORT:
                break
        self.text = "".join(parts)
        return size > 0

    def next(self) -> str:
        """The next character that is no white space; `""` at the end."""
        while True:
            self.position = re.compile(r"[ \t\r\n]*").match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.more():
                return ""

    def value(self):
        while True:
            try:
                value, self.position = _DECODER.raw_decode(self.text, self.position)
                return value
            except (ValueError, RecursionError) as error:
                if isinstance(error, json.JSONDecodeError) and self.more():
                    continue
                raise ValueError(f"not JSON: {error}") from error


def _json(chunks):
    text, number = _Characters(chunks), 1
    try:
        in_array = text.next() == "["
        text.position += in_array
        while (character := text.next()) and not (in_array and character == "]"):
            if in_array and number > 1:
                if character != ",":
                    raise ValueError(f"not JSON: a comma or ] must follow. Received: {character}")
                text.position += 1
                text.next()
            yield _json_row(text.value(), number, f"row {number}")
            number += 1
        if in_array:
            if not character:
                raise ValueError("not JSON: the array has no end")
            text.position += 1
            if text.next():
                raise ValueError("not JSON: there is more after the array")
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from error


# CSV and TSV.


class _Lines:
    """Lines as strings, with their ends, for the csv module.

    Bytes that are no UTF-8, and NUL, become lone surrogates. So the record they stand in is read
    to its end, and then `_problem` finds them.
    """

    def __init__(self, lines):
        self._lines, self.number = iter(lines), 0

    def __iter__(self):
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if self.number == 1:
            if line[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ValueError("must be UTF-8. It is UTF-16")
            line = line.removeprefix(codecs.BOM_UTF8)
        text = line.decode("utf-8", "surrogateescape").replace("\0", _NUL)
        return text.removesuffix("\r") + "\n"


_NUL = "\udc00"


def _problem(fields):
    """What is wrong with characters of a record, or `None`."""
    for character in "".join(fields):
        if character == _NUL:
            return "holds a NUL character: no text file"
        if "\udc80" <= character <= "\udcff":
            return f"not UTF-8: byte {ord(character) - 0xDC00:#x}"
    return None


def _records(lines, first, delimiter):
    """Fields of each record, or a `csv.Error`, with the line in which it begins."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    begin, end = lines.number, None
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = error
        end = lines.number
        yield fields, begin
        begin = end + 1


def _said(error):
    if "unexpected end" in str(error):
        return "a quotation mark is not closed"
    return f"bad quotation marks or line ends: {error}"


def _first_line(lines):
    return next((line for line in lines if line.strip()), None)


def _csv(lines, header, delimiter):
    first = _first_line(lines)
    if first is None:
        return
    delimiter = delimiter or _delimiter(first)
    columns, number = None, 0
    for fields, begin in _records(lines, first, delimiter):
        if fields == []:  # an empty line
            continue
        problem = _said(fields) if isinstance(fields, csv.Error) else _problem(fields)
        if columns is None:
            if problem:
                raise ValueError(f"line {begin}: {problem}")
            columns = _named(fields, header)
            if header:
                continue
        number += 1
        yield _row(columns, fields, problem, number, begin)


def _row(columns, fields, problem, number, begin):
    where = f"row {number} (line {begin})"
    if not problem and len(fields) != len(columns):
        problem = f"has {len(fields)} fields, and there are {len(columns)} columns"
    return RowError(problem, number, where) if problem else Row(zip(columns, fields), number, where)


def _named(fields, header):
    """The columns' names; those without one are called by their number."""
    if not header:
        return [str(number) for number in range(1, len(fields) + 1)]
    names = [name.strip() or f"column {number}" for number, name in enumerate(fields, start=1)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"the header has column {twice[0]!r} twice")
    return names


def _delimiter(line):
    """What separates the fields of a line; a line of one field may have any."""
    possible = []
    for delimiter in ",;\t":
        try:
            if len(next(csv.reader([line], delimiter=delimiter, strict=True))) > 1:
                possible.append(delimiter)
        except csv.Error:
            pass
    if len(possible) > 1:
        names = " or ".join(map(repr, possible))
        raise ValueError(f"line 1 may be separated by {names}: give the delimiter")
    return possible[0] if possible else ","


def _tsv(lines, header):
    first = _first_line(lines)
    if first is None:
        return
    columns = _named([_unquoted(field) for field in first.rstrip("\n").split("\t")], header)
    if problem := _problem(columns):
        raise ValueError(f"line {lines.number}: {problem}")
    waiting, number = [] if header else [first], 0
    for line in itertools.chain(waiting, lines):
        begin, problem = lines.number, None
        fields = line.rstrip("\n").split("\t")
        if fields == [""]:
            continue
        number += 1
        if len(fields) != len(columns) and any(field.startswith('"') for field in fields):
            fields, _ = next(_records(lines, line, "\t"))  # a tab or a newline within quotes
            if isinstance(fields, csv.Error):
                fields, problem = [], _said(fields)
        elif len(columns) == 1 and fields[0].startswith('"') and fields == [_unquoted(fields[0])]:
            problem = "a quotation mark is not closed"
        else:
            fields = [_unquoted(field) for field in fields]
        yield _row(columns, fields, problem or _problem(fields), number, begin)


def _unquoted(field):
    """A field without the quotation marks around it, if those within are doubled."""
    if re.fullmatch(r'"(?:[^"]|"")*"', field):
        return field[1:-1].replace('""', '"')
    return field


# CoNLL and Parquet.


def _conll(lines):
    number, begin, words, width = 0, 0, [], None
    for line_number, where, text in itertools.chain(_numbered_texts(lines), [(0, "", None)]):
        if isinstance(text, RowError) and not text.blank:
            raise ValueError(f"{where}: {text}")
        fields = []
        if isinstance(text, str):
            fields = text.split("\t") if "\t" in text.strip() else text.split()
        if fields and fields[0] != "-DOCSTART-":
            if len(fields) != (width or len(fields)):
                raise ValueError(f"{where}: has {len(fields)} fields, and those above have {width}")
            width = len(fields)
            begin = begin if words else line_number
            words.append((fields[0].strip(), fields[-1].strip()))
        elif words:
            number += 1
            tokens, tags = map(list, zip(*words))
            columns = {"tokens": tokens, **({"ner_tags": tags} if width > 1 else {})}
            yield Row(columns, number, f"sentence {number} (line {begin})")
            words = []


def _open_parquet(path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    try:
        return pyarrow, pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is no Parquet file: {said}") from error


def parquet_rows(path) -> Iterator[Row]:
    """The rows of a Parquet file."""
    pyarrow, file = _open_parquet(path)
    number = 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    for column, value in values.items():
                        if isinstance(value, float) and math.isnan(value):
                            values[column] = None  # as pandas writes what is missing
                    yield Row(values, number, f"row {number}")
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            said = " ".join(str(error).split())
            raise ValueError(f"what follows row {number} cannot be read: {said}") from error


def class_names(path) -> dict[str, list[str]]:
    """What the Hub's Parquet files say of their columns of classes: the names by column."""
    _, file = _open_parquet(path)
    with file:
        stored = (file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(stored)["info"]["features"] if stored else {}
        found = {}
        for column, feature in features.items():
            inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
            names = inner.get("names") if isinstance(inner, dict) else None
            if names and all(isinstance(name, str) for name in names):
                found[column] = names
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: its description of the columns cannot be read: {error}"
        ) from error
