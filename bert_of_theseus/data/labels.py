"""Labels in tables: names or numbers, matched with the names of a model's outputs."""

from __future__ import annotations

import ast
import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .columns import text_of
from .examples import Example, Pair, Words
from .readers import check_unicode
from .tables import Table


class Columns(NamedTuple):
    """The names of the columns with the texts and the labels.

    Attributes:
        texts: List of strings.
        label: String; `None` without labels; or a list of a column for each class.
    """

    texts: list[str]
    label: str | list[str] | None


class _Part(NamedTuple):
    table: Table
    columns: Columns
    is_train: bool
    cells: list | None  # what stands in the column of labels, parsed; `None` without labels


class LabelReader:
    """From the cells of all files to the labels that the task takes.

    Args:
        names: List of strings, the names of the model's outputs; `None` to take those of the data.
    """

    _MISSING = (-1, "-1")  # the label of every text, as in test files of the Hub

    def __init__(self, names: Sequence[str] | None):
        self.names, self.are_counted = names, names is not None
        self._parts: list[_Part] = []

    def add(self, table: Table, columns: Columns, is_train: bool) -> None:
        """Takes a file's cells."""
        cells = None
        if columns.label is not None:
            cells = [self._checked(row, columns, table) for row in table]
            if all(cell in self._MISSING for cell in cells):
                cells = None
        self._parts.append(_Part(table, columns, is_train, cells))

    def examples(self) -> Iterator[list]:
        """The examples of each file, once all are there."""
        if self.names is None:
            self.names = self._found()
        labels = [
            [None] * len(part.table) if part.cells is None else self._labels(part)
            for part in self._parts
        ]
        self._check_variety(labels)
        for part, given in zip(self._parts, labels):
            yield [self._example(part, row, label) for row, label in zip(part.table, given)]

    def _checked(self, row, columns, table):
        try:
            return self._cell(row, columns)
        except ValueError as error:
            raise _at(table, row, error) from error

    def _example(self, part, row, label):
        try:
            text = text_of(row, part.columns.texts)
        except ValueError as error:
            raise _at(part.table, row, error) from error
        return Example(text, label) if isinstance(text, str) else Pair(*text, label)

    def _check_variety(self, labels):
        """Raises a `ValueError` if all texts to train on have the same label."""
        train = [i for i, part in enumerate(self._parts) if part.is_train and part.cells]
        found = [value for i in train for value in self._values(labels[i])]
        if len(found) > 1 and all(value == found[0] for value in found):
            part = self._parts[train[0]]
            model = f"; the model has {shown(self.names)}" if self.names else ""
            raise ValueError(
                f"{part.table.path}: every label is {part.cells[0]!r}, so nothing can be learned. "
                f"They must differ{model}."
            )

    def _values(self, labels):
        """What must differ."""
        return labels

    def _found(self) -> list[str]:
        """The classes of the data, where no model says which there are."""
        names = set()
        for part in self._parts:
            given = part.table.class_names.get(part.columns.label)
            if given:
                self.are_counted = True
                return given
            names.update(item for cell in part.cells or () for item in self._items(cell))
        if names and all(_as_number(name) is not None for name in names):
            return [str(name) for name in sorted(names, key=_as_number)]
        return sorted(map(str, names))

    def _numbers(self, part, items, exact=False) -> dict:
        """The number of each class in a file."""
        column = part.columns.label
        return class_numbers(
            part.table, items, column, self.names, exact=exact, may_be_numbers=self.are_counted
        )

    def _items(self, cell) -> list:
        """The names or numbers of classes in a cell."""
        return cell

    def _cell(self, row, columns):
        """What the column of labels holds, parsed."""
        raise NotImplementedError

    def _labels(self, part) -> list:
        """Labels as the task takes them."""
        raise NotImplementedError


class ClassLabels(LabelReader):
    """A class for each text."""

    def _cell(self, row, columns):
        return _class(row.get(columns.label), columns.label)

    def _items(self, cell):
        return [cell]

    def _labels(self, part):
        numbers = self._numbers(part, map(self._items, part.cells))
        return [numbers[cell] for cell in part.cells]


class ListLabels(LabelReader):
    """Any number of classes for each text."""

    def _found(self):
        for part in self._parts:
            if isinstance(part.columns.label, list):
                return part.columns.label
        return super()._found()

    def _cell(self, row, columns):
        label = columns.label
        if isinstance(label, list):
            return [_zero_or_one(row.get(column), column) for column in label]
        cell = row.get(label)
        if isinstance(cell, str):
            cell = self._split(cell.strip())
        if not isinstance(cell, list):
            raise ValueError(f"column {label!r} must be a list of classes. Received: {cell!r}")
        if any(type(item) is float for item in cell):
            cell = [_zero_or_one(item, label) for item in cell]
        return [_class(item, label) for item in cell]

    def _split(self, text):
        if text.startswith("["):
            return parsed_list(text)
        if not text or text in (self.names or ()):
            return [text] if text else []
        return [item.strip() for item in text.split("|" if "|" in text else ",")]

    def _labels(self, part):
        count, cells = len(self.names), part.cells
        flags = all(len(cell) == count and set(cell) <= {0, 1} for cell in cells)
        are_columns = isinstance(part.columns.label, list)
        if are_columns or (flags and any(len(set(cell)) < len(cell) for cell in cells)):
            return [[i for i, flag in enumerate(cell) if flag] for cell in cells]
        if flags and any(cells):
            raise ValueError(
                f"{part.table.path}: column {part.columns.label!r} may hold numbers of classes, or "
                "0 or 1 for each class. Write the names of the classes."
            )
        numbers = self._numbers(part, cells)
        return [sorted({numbers[item] for item in cell}) for cell in cells]


class NumberLabels(LabelReader):
    """A number for each text."""

    _MISSING = ()

    def _found(self):
        return []

    def _cell(self, row, columns):
        cell = row.get(columns.label)
        try:
            number = float(cell) if type(cell) in (str, int, float) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"column {columns.label!r} must be a finite number. Received: {cell!r}"
            )
        return number

    def _labels(self, part):
        return part.cells


class TagLabels(LabelReader):
    """A tag for each word or character of a text, or entities in it."""

    def _cell(self, row, columns):
        column = columns.label
        cell, text = row.get(column), row.get(columns.texts[0])
        if isinstance(cell, str):
            cell = parsed_list(cell) if cell.lstrip().startswith("[") else cell.split()
        if not isinstance(cell, list):
            raise ValueError(f"column {column!r} must be a list of tags. Received: {cell!r}")
        if cell and all(isinstance(item, list) for item in cell):
            return self._tags_of_entities(cell, text, column)
        words = _words(text, cell)
        units = text if words is None else words
        if isinstance(units, str) and not cell:
            return ["O"] * len(units)  # a list of entities, without any
        if len(cell) != len(units):
            what = "characters" if words is None else "words"
            raise ValueError(f"there are {len(units)} {what}, and {len(cell)} tags")
        return [_class(item, column) for item in cell]

    def _tags_of_entities(self, entities, text, column):
        if not isinstance(text, str):
            raise ValueError("entities must stand in a text that is a string")
        if any(name[:2] in ("E-", "S-", "L-", "U-") for name in self.names or ()):
            raise ValueError(
                f"entities must be given as tags: the model marks their ends ({shown(self.names)})"
            )
        tags = ["O"] * len(text)
        for entity in sorted(entities, key=str):
            if [type(part) for part in entity] != [int, int, str]:
                raise ValueError(
                    f"column {column!r} must be a list of [start, end, type]. Received: {entity!r}"
                )
            start, end, type_ = entity
            if not 0 <= start < end <= len(text):
                raise ValueError(f"entity {entity!r} must lie within 0 to {len(text)}")
            if any(tag != "O" for tag in tags[start:end]):
                raise ValueError(f"entity {entity!r} overlaps another one")
            tags[start:end] = [f"B-{type_}"] + [f"I-{type_}"] * (end - start - 1)
        return tags

    def _found(self):
        names = super()._found()
        return sorted(names, key=lambda name: (name != "O", name[2:], name))

    def _labels(self, part):
        numbers = self._numbers(part, part.cells, exact=True)
        return [tuple(numbers[item] for item in cell) for cell in part.cells]

    def _values(self, labels):
        return [tag for label in labels for tag in label]

    def _example(self, part, row, label):
        column = part.columns.texts[0]
        words = _words(row.get(column), label)
        if words is None:
            return super()._example(part, row, label)
        try:
            if not "".join(words).strip():
                raise ValueError(f"column {column!r} is empty")
            for word in words:
                check_unicode(word, f"column {column!r}")
            return Words(tuple(words), label)
        except ValueError as error:
            raise _at(part.table, row, error) from error


READERS = {
    "classification": ClassLabels,
    "multi-label": ListLabels,
    "regression": NumberLabels,
    "tagging": TagLabels,
}


def _words(text, tags):
    """The words of a text; `None` of one that is tagged by the character."""
    if isinstance(text, list):
        if not all(isinstance(word, str) for word in text):
            raise ValueError("words must be strings")
        return text
    if not isinstance(text, str):
        raise ValueError(f"a text must be a string or a list of words. Received: {text!r}")
    if text.startswith("["):
        with contextlib.suppress(ValueError):
            words = parsed_list(text)
            if all(isinstance(word, str) for word in words):
                return words
    return text.split() if tags and len(text.split()) == len(tags) < len(text) else None


def class_numbers(
    table, items, column, names, *, exact: bool = False, may_be_numbers: bool = True
) -> dict:
    """The number of each class that is named or numbered in a file.

    Args:
        table: The `Table`.
        items: For each row, the names or numbers in it.
        column: Name of the column.
        names: List of strings, of the classes in their order.
        exact: Boolean, whether names must agree in case too.
        may_be_numbers: Boolean, whether numbers may count `names`.

    Raises:
        ValueError: if a class is unknown, or it is unclear whether numbers are names.
    """
    first = {}  # where each stands first
    for row, found in zip(table, items):
        for item in found:
            first.setdefault(item, row)
    of_name = {name: number for number, name in enumerate(names)}
    folded = {name.strip().casefold(): number for name, number in of_name.items()}
    if exact or len(folded) < len(of_name):
        folded = {}
    said = table.class_names.get(column)

    def by_name(item):
        item = str(item)
        return of_name.get(item, folded.get(item.strip().casefold()))

    def by_number(item):
        number = _as_number(item)
        return number if number is not None and 0 <= number < len(names) else None

    if said and all(type(item) is int for item in first):
        for item, row in first.items():
            if not 0 <= item < len(said):
                raise _unknown(table, row, item, said, names)
        named = {item: by_name(said[item]) for item in first}
        if None not in named.values():
            return named
        if not (are_unnamed(names) and len(said) == len(names)):
            item = next(item for item, number in named.items() if number is None)
            raise _unknown(table, first[item], item, said, names)
    used = (by_name, by_number) if may_be_numbers else (by_name,)
    ways = [{item: way(item) for item in first} for way in used]
    fitting = [numbers for numbers in ways if None not in numbers.values()]
    if len(fitting) == 2 and fitting[0] != fitting[1]:
        raise ValueError(
            f"{table.path}: column {column!r} may hold names of classes, or their numbers "
            f"from 0. The file has {shown(first)}; the model has {shown(names)}."
        )
    if fitting:
        return fitting[0]
    unknown = [item for item in first if all(numbers[item] is None for numbers in ways)]
    unknown = unknown or [item for item in first if ways[0][item] is None]
    raise _unknown(table, first[unknown[0]], unknown[0], first, names)


def _unknown(table, row, item, found, names):
    more = " Write the model's in the file."
    if are_unnamed(names) and not isinstance(item, int):
        more = " The model's classes have no names: give them, in its order, as labels."
    return ValueError(
        f"{table.path}, {row.where}: label {item!r} is none of the model's. The model has "
        f"{shown(names)}; the file has {shown(found)}.{more}"
    )


def are_unnamed(names: Sequence[str]) -> bool:
    """Whether these are the names that `transformers` gives to classes without any."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def shown(names) -> str:
    """A list of labels for an error."""
    names = [str(name) for name in names]
    return ", ".join(names[:30]) + f", ... ({len(names)} in all)" * (len(names) > 30)


def parsed_list(text: str) -> list:
    """A list that is written in a cell, as JSON or as pandas writes it."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text:.80!r} must be a list") from error
    if not isinstance(value, list):
        raise ValueError(f"{text:.80!r} must be a list")
    return value


def _class(cell, column):
    if isinstance(cell, str) and cell.strip():
        return cell.strip()
    if type(cell) is int:
        return cell
    received = "nothing" if cell in (None, "") else repr(cell)
    raise ValueError(
        f"column {column!r} must be the name or number of a class, received {received}"
    )


def _zero_or_one(cell, column):
    if cell in (0, 1, "0", "1"):
        return int(cell)
    raise ValueError(f"column {column!r} must be 0 or 1. Received: {cell!r}")


def _as_number(item):
    if type(item) is int:
        return item
    return int(item) if isinstance(item, str) and re.fullmatch("[0-9]{1,9}", item) else None


def _at(table, row, error):
    return ValueError(f"{table.path}, {row.where}: {str(error).removesuffix('.')}.")
