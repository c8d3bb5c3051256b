"""Tables of texts in the usual formats, read row by row: errors name the file and the row.

A text may be anything that UTF-8 can encode. What cannot be read without a guess is refused.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from .formats import Row, RowError, class_names, parquet_rows, parse

# Format by the end of a file's name; each may be followed by .gz, but for Parquet.
SUFFIXES = {
    **{f".{name}": name for name in ("csv", "tsv", "jsonl", "json", "parquet", "conll", "txt")},
    **{".tab": "tsv", ".ndjson": "jsonl", ".bio": "conll", ".iob": "conll", ".iob2": "conll"},
}
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
CHUNK = 1 << 18  # bytes to read at once


class Table(list):
    """A file's rows.

    Attributes:
        path: The file.
        columns: List of the columns' names, without those that hold nothing.
        class_names: Dict, for columns whose numbers the file itself names, the names in order. The
            Parquet files of the Hugging Face Hub do.
    """

    def __init__(self, rows, path: Path, class_names: dict):
        super().__init__(rows)
        self.path, self.class_names = path, class_names
        there = (column for row in self for column, value in row.items() if value is not None)
        self.columns = list(dict.fromkeys(there))


def format_of(path: str | os.PathLike) -> str | None:
    """The format that a file's name says, or `None`."""
    name = Path(path).name.lower().removesuffix(".gz")
    return SUFFIXES.get(Path(name).suffix)


def read_table(
    path: str | os.PathLike,
    *,
    format: str | None = None,
    header: bool = True,
    delimiter: str | None = None,
) -> Table:
    """Reads a table whole.

    | format | file |
    | --- | --- |
    | `csv` | quoted where needed; commas, semicolons or tabs, as the header has them |
    | `tsv` | tabs; a line with the header's number of fields is a row, whatever its quotes |
    | `jsonl` | a JSON object on each line |
    | `json` | a JSON array of objects, or objects one after the other |
    | `parquet` | needs pyarrow |
    | `conll` | `word ... tag` on each line, an empty line between sentences: `tokens`, `ner_tags` |
    | `txt` | a text on each line: `text` |

    Only a newline ends a line, and empty lines are skipped. Files may be compressed by gzip.

    Args:
        path: Path of the file, in UTF-8.
        format: String, the format. Defaults to `None`: as the file's name ends.
        header: Boolean, whether the first line of CSV and TSV names the columns. If not, their
            names are `"1"`, `"2"`, .... Defaults to `True`.
        delimiter: String, what separates the fields of CSV. Defaults to `None`: found in the first
            line, and refused if there are two possibilities.

    Returns:
        A `Table`, a list of dicts.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the format needs a package that is missing.
        ValueError: if the file has no rows, or a row cannot be read; names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file with a table of texts. It was not found.")
    format = format or format_of(path)
    if format not in FORMATS:
        raise ValueError(
            f"{path} must be of a format that its name tells: {', '.join(SUFFIXES)}; or give the "
            "format."
        )
    rows, names = [], {}
    try:
        if format == "parquet":
            names = class_names(path)
        for row in iterate(path, format, header=header, delimiter=delimiter):
            if isinstance(row, Row):
                rows.append(row)
            elif not row.blank:
                raise ValueError(f"{path}, {row.where}: {row}") from row
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    if not rows:
        raise ValueError(f"{path} is empty. It must hold at least one row.")
    return Table(rows, path, names)


def iterate(
    path: Path, format: str, *, header: bool = True, delimiter: str | None = None
) -> Iterator[Row | RowError]:
    """The rows of a file one by one, in constant memory."""
    if format == "parquet":
        yield from parquet_rows(path)
        return
    with open_bytes(path) as file:
        chunks = iter(lambda: file.read1(CHUNK), b"")
        yield from parse(chunks, format, header=header, delimiter=delimiter)


@contextlib.contextmanager
def open_bytes(path: str | os.PathLike):
    """A file to be read, unpacked if its name ends in .gz."""
    compressed = Path(path).suffix.lower() == ".gz"
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from error
