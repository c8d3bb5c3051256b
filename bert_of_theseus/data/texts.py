"""Texts for a model that is there: files as people have them, labels as the model names them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..validation import one_of
from . import columns as find
from .columns import are_numbers, check_no_header
from .decoding import is_entity_tag
from .examples import Corpus, at_most, split_off
from .labels import READERS, Columns
from .tables import Table, format_of, read_table
from .tagging import TokenClassification
from .tasks import Classification, MultiLabel, Regression, TextTask

KINDS = tuple(READERS)
_SETS = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val"),
    "test": ("test",),
}


def load_texts(
    source: str | os.PathLike,
    *,
    kind: str,
    labels: Sequence[str] | None = None,
    text_columns: Sequence[str | int] | None = None,
    label_column: str | int | None = None,
    validation: str | os.PathLike | None = None,
    test: str | os.PathLike | None = None,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
    format: str | None = None,
    delimiter: str | None = None,
) -> Corpus:
    """Reads texts and their labels from tables of any format of `read_table`.

    Labels are names, or numbers that count the model's classes from 0. Which of the two they are
    is decided for each file; names of the model's may be written in other case. Where the file is
    from the Hugging Face Hub and names its numbers itself, its names count.

    | kind | label |
    | --- | --- |
    | `"classification"` | a class |
    | `"multi-label"` | a list of classes; in CSV separated by a vertical bar or a comma. Or a list
      of 0 and 1 for all classes, or a column of 0 and 1 for each class, by its name |
    | `"regression"` | a number |
    | `"tagging"` | a list of tags, one for each word in the column `tokens`, or for each character
      of the text; or a list of `[start, end, type]`, where `text[start:end]` is an entity |

    A file without a column of labels is read too, and then all labels are `None`.

    Args:
        source: Path of a file, or of a folder with a file named train, and maybe others named
            validation (or dev, valid, val) and test.
        kind: String, one of those above.
        labels: List of strings, the names of the model's outputs in their order, as `labels` that
            `load_pretrained` returns. Defaults to `None`: the names that the files have, sorted.
        text_columns: The names of one column, or of two for pairs of texts; of CSV without a
            header, their numbers from 1. Defaults to `None`: usual names are looked for.
        label_column: The name of the column, or its number; `""` for none. Defaults to `None`:
            usual names are looked for.
        validation: Path of a file. Defaults to `None`: that of the folder, or a part of the texts
            that is split off.
        test: Path of a file. Defaults to `None`, as for `validation`.
        validation_fraction: Share of each part that is split off; 0 to leave these parts empty.
            Defaults to `0.1`.
        limit: Integer. Uses at most this many random rows of each file. Defaults to `None`, all.
        seed: Integer, of the choice and the split. Defaults to `42`.
        format, delimiter: As in `read_table`.

    Returns:
        A `Corpus`, whose `dev` is the test set.

    Raises:
        FileNotFoundError: if a file is missing.
        ImportError: if a file needs a package that is not installed.
        ValueError: if a text or a label is invalid, a column is missing or it is unclear which is
            meant, all labels are the same, or they do not fit the model's; names file and row, or
            shows both lists.
    """
    one_of("kind", kind, KINDS)
    labels = None if labels is None else list(labels)
    files = _files(Path(source), validation, test)
    options = {"format": format, "delimiter": delimiter, "header": not are_numbers(text_columns)}
    tables = [
        (name, _read(path, kind, labels, options))
        for name, paths in files.items()
        for path in paths
    ]
    reader, columns = READERS[kind](labels), None
    for name, table in tables:
        columns = _choose(table, text_columns, label_column, kind, labels, columns)
        _check_texts(table, columns.texts)
        reader.add(table, columns, name == "train")
    sets = {name: [] for name in _SETS}
    for (name, _), examples in zip(tables, reader.examples()):
        sets[name] += examples
    train, validation, test = (at_most(examples, limit, seed) for examples in sets.values())
    try:
        if not test and validation_fraction:
            train, test = split_off(train, validation_fraction, seed)
        if not validation and validation_fraction:
            train, validation = split_off(train, validation_fraction, seed)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return Corpus(train, validation, test, reader.names)


def task_for(kind: str, labels: Sequence[str], metric: str | None = None) -> TextTask:
    """The task of the corpora that `load_texts` reads.

    Args:
        kind: String, as in `load_texts`.
        labels: List of strings, the names of the model's outputs in their order.
        metric: String, one of the task's. Defaults to `None`, the task's default.

    Returns:
        `Classification`, `MultiLabel`, `Regression` or `TokenClassification`.
    """
    options = {} if metric is None else {"metric": metric}
    if one_of("kind", kind, KINDS) == "regression":
        return Regression(**options)
    tasks = {"classification": Classification, "multi-label": MultiLabel}
    return tasks.get(kind, TokenClassification)(labels, **options)


def _files(source, validation, test):
    """Paths by set; a set may lie in several files."""
    files = find_files(source) if source.is_dir() else {"train": [source]}
    given = {"validation": validation, "test": test}
    return files | {name: [Path(path)] for name, path in given.items() if path is not None}


def find_files(folder: Path) -> dict[str, list[Path]]:
    """The files in a folder by set: `"train"`, and maybe `"validation"` and `"test"`."""
    files = {name: _find(folder, names) for name, names in _SETS.items()}
    if not files["train"]:
        raise FileNotFoundError(
            f"{folder} must hold a file named train, such as train.csv. It was not found."
        )
    return {name: paths for name, paths in files.items() if paths}


def set_named(name: str) -> str | None:
    """The set that a file or a split of this name is; `None` if it is none of the usual ones."""
    return next((key for key, names in _SETS.items() if name.lower() in names), None)


def _find(folder, names):
    pattern = re.compile(rf"(?:{'|'.join(names)})(?:-(\d+)-of-(\d+))?", re.IGNORECASE)
    found = []
    for path in sorted(folder.iterdir()):
        stem = path.name.removesuffix(".gz").rpartition(".")[0]
        if format_of(path) and path.is_file() and (match := pattern.fullmatch(stem)):
            found.append((path, match))
    parts = [match for _, match in found if match[1]]
    if len(found) > 1 and (len(parts) < len(found) or len(parts) != int(parts[0][2])):
        raise ValueError(
            f"{folder} must hold one file named {names[0]}. It holds "
            f"{', '.join(path.name for path, _ in found)}."
        )
    if len(parts) == 1 and int(parts[0][2]) != 1:
        raise ValueError(f"{folder} holds but one part of several: {found[0][0].name}.")
    return [path for path, _ in found]


def _read(path, kind, labels, options) -> Table:
    format = options["format"] or format_of(path)
    table = read_table(path, **options)
    if kind == "tagging" and format == "txt" and _is_conll(table, labels):
        return read_table(path, format="conll")
    if not options["header"] and format in ("csv", "tsv"):
        try:
            check_no_header(table[0])
        except ValueError as error:
            raise ValueError(f"{path}: {error}.") from error
    return table


def _is_conll(table, labels):
    """Whether lines of text are words with tags: all of as many fields, with a tag at their end."""
    lines = [row["text"].split() for row in table]
    tags = [fields[-1] for fields in lines]
    if len({len(fields) for fields in lines if fields[0] != "-DOCSTART-"}) > 1 or len(tags) < 2:
        return False
    return len(lines[-1]) > 1 and (set(tags) <= set(labels or ()) or any(map(is_entity_tag, tags)))


def _choose(table, texts, label, kind, labels, before: Columns | None) -> Columns:
    """The columns of a file; those of a later one are named as those of the first."""
    try:
        texts = find.text_columns(table.columns, before.texts if before else texts, kind)
        classes = labels if kind == "multi-label" and label is None else None
        if classes and set(classes) <= set(table.columns):
            return Columns(texts, classes)
        if before and before.label is not None:
            label = before.label if before.label in table.columns else ""
        return Columns(texts, find.label_column(table.columns, label, texts, kind))
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}.") from error


def _check_texts(table, columns):
    for column in columns:
        if all(_is_number(row.get(column)) for row in table):
            raise ValueError(
                f"{table.path}: column {column!r} holds numbers alone, and must hold texts. There "
                f"are {', '.join(map(repr, table.columns))}."
            )


def _is_number(cell):
    return isinstance(cell, str) and re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", cell) is not None
