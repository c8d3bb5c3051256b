"""Rows of a table as examples: token ids as they are, and texts with labels by name or number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ..validation import is_integer
from . import columns as find
from .batches import Encoded
from .examples import Example, Pair, Words
from .labels import are_unnamed, shown
from .readers import check_unicode

# Usual names; of each list a row may have one.
_IDS = ("token_ids", "input_ids")
_SEGMENTS = ("segment_ids", "token_type_ids")
_MASKS = ("padding_mask", "attention_mask")
_LABELS = ("label", "labels")
_LARGEST = 2**31 - 1  # batches are of int32


def encode_token_ids(rows: Sequence[Mapping], per_token: bool = False) -> Encoded:
    """Rows of token ids, as tokenizers of `transformers` write them, as an `Encoded`.

    Args:
        rows: List of dicts with `token_ids` or `input_ids`; `label` or `labels`; and, where there
            are any, `segment_ids` or `token_type_ids`, and `padding_mask` or `attention_mask`. Of
            padded rows the padding is cut off, which must be at the end; segment ids and labels
            per token may be padded or not. Other entries are left out.
        per_token: Boolean. Whether there is a label for each token. Defaults to `False`.

    Raises:
        TypeError: if a row is no dict.
        ValueError: if an entry is missing or there are two for the same, ids are no whole numbers
            of 32 bits, or the lengths differ; if only some rows have segment ids, or labels differ
            in shape. Names the row as an example.
    """
    ids, segments, labels = [], [], []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"Example {number}: a row must be a dict with token ids and a label. Received: "
                f"{type(row).__name__}. Give `encode` for rows of another kind."
            )
        try:
            tokens = _ids(row, _IDS)
            length = _length(row, len(tokens))
            ids.append(tokens[:length])
            has = _name(row, _SEGMENTS, required=False)
            segments.append(
                _first(_ids(row, _SEGMENTS), tokens, length, "segment ids") if has else None
            )
            label = np.asarray(row[_name(row, _LABELS)])
            if label.dtype.kind not in "iuf":
                raise ValueError(f"a label must be numbers. Received: {row[_name(row, _LABELS)]!r}")
            labels.append(_first(label, tokens, length, "labels") if per_token else label)
        except ValueError as error:
            raise ValueError(f"Example {number}: {error}") from error
    kinds = ["no segment ids" if part is None else "segment ids" for part in segments]
    _check_alike(kinds, "all rows must have segment ids, or none.")
    if not per_token:
        _check_alike(
            [f"shape {label.shape}" for label in labels],
            "labels must be of one shape. Labels per token need "
            "`encode=functools.partial(encode_token_ids, per_token=True)`.",
        )
        labels = np.array(labels)
    return Encoded(ids, labels, segments if "segment ids" in kinds else None)


def _check_alike(kinds, expectation):
    """Names the first row of another kind than most rows."""
    most = Counter(kinds).most_common(1)
    for number, kind in enumerate(kinds):
        if kind != most[0][0]:
            raise ValueError(
                f"Example {number}: {expectation} Received: {kind}, and {most[0][0]} in "
                f"{most[0][1]} of {len(kinds)} rows"
            )


def _name(row, names, required=True):
    """The entry of a row that has one of these names."""
    found = [name for name in names if name in row]
    if len(found) > 1:
        raise ValueError(f"there must be one of {' and '.join(found)}. Received both")
    if required and not found:
        raise ValueError(f"there must be {' or '.join(names)}. Received: {', '.join(row)}")
    return found[0] if found else None


def _length(row, size):
    """The number of tokens without padding, of so many with it."""
    name = _name(row, _MASKS, required=False)
    if name is None:
        return size
    mask = np.asarray(row[name])
    length = int(mask.sum())
    if mask.ndim != 1 or not np.array_equal(mask, np.arange(len(mask)) < length):
        raise ValueError(f"{name} must be ones, and then zeros. Received: {mask.tolist()!r:.80}")
    if len(mask) != size:
        raise ValueError(
            f"{name} must be as many as there are tokens, {size}. Received: {len(mask)}"
        )
    return length


def _ids(row, names):
    name = _name(row, names)
    ids = np.asarray(row[name])
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
        raise ValueError(f"{name} must be a list of whole numbers. Received: {row[name]!r:.80}")
    if ids.min() < 0 or ids.max() > _LARGEST:
        raise ValueError(
            f"{name} must be from 0 to {_LARGEST}. Received: {ids.min()} to {ids.max()}"
        )
    return ids.astype("int32")


def _first(values, tokens, length, name):
    """The values of the first `length` tokens, of the values of all tokens or of these."""
    if not values.ndim or len(values) not in (length, len(tokens)):
        padded = "" if length == len(tokens) else f" (or {len(tokens)} with padding)"
        raise ValueError(
            f"{name} must be as many as there are tokens, {length}{padded}. Received: "
            f"{len(values) if values.ndim else 'a single one'}"
        )
    return values[:length]


class RowReader:
    """Function of rows that returns their examples, with the task's labels.

    Args:
        first: The first row, for the names of the columns. Of `Example`, `Pair` or `Words`, rows
            are examples already.
        kind: String, as in `load_texts`; `None` if rows must be examples.
        labels: List of strings, the names of the task's classes.
        text_columns: Names of the columns with the text, one or two. Defaults to `None`: usual
            names are looked for.
        label_column: Name of the column with the label. Defaults to `None`, as for the texts.
        features: `features` of a `datasets.Dataset`: where they name the numbers of the classes,
            these names count. Defaults to `None`.

    Raises:
        TypeError: if rows are neither dicts nor examples.
        ValueError: if it is not clear which columns are meant, or the classes have other names than
            the task's.
    """

    def __init__(
        self,
        first,
        kind: str | None,
        labels: Sequence[str],
        text_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        features: Mapping | None = None,
    ):
        self.kind = kind
        self.are_examples = isinstance(first, (Example, Pair, Words))
        if self.are_examples:
            return
        if kind is None or not isinstance(first, Mapping):
            raise TypeError(
                "`rows` must be dicts with a text and a label, or `Example`s (for spans and "
                f"entities, `Example`s alone). Received: {type(first).__name__}"
            )
        self.texts = find.text_columns(list(first), text_columns, kind)
        self.label = find.label_column(list(first), label_column, self.texts, kind)
        if self.label is None:
            raise ValueError(f"There must be a column with labels. Received: {', '.join(first)}")
        self.names = {} if kind == "regression" else {name: i for i, name in enumerate(labels)}
        self.numbers = self._numbers(_class_names(features, self.label), list(labels))

    def _numbers(self, said, labels):
        """The task's number for each number in the rows; `None` if they are the same."""
        if said is None or said == labels or not self.names:
            return None
        if set(said) <= set(labels):
            return [self.names[name] for name in said]
        if are_unnamed(labels) and len(said) == len(labels):
            return None
        raise ValueError(
            f"Column {self.label!r} has classes that the task does not have. The task has "
            f"{shown(labels)}; the column has {shown(said)}."
        )

    def __call__(self, rows: Sequence) -> list:
        return [self._example(number, row) for number, row in enumerate(rows)]

    def _example(self, number, row):
        try:
            if self.are_examples:
                if not isinstance(row, (Example, Pair, Words)):
                    raise TypeError(f"a row must be an example. Received: {type(row).__name__}")
                if row.label is None and self.kind is not None:
                    raise ValueError("there must be a label. Received: None")
                return row
            if not isinstance(row, Mapping):
                raise TypeError(f"a row must be a dict. Received: {type(row).__name__}")
            if row.get(self.label) is None:
                raise ValueError(f"column {self.label!r} must hold a label. Received: nothing")
            label = self._label(row[self.label])
            words = row.get(self.texts[0])
            if isinstance(words, (list, tuple, np.ndarray)):
                return Words(_words(words, self.texts[0]), label)
            text = find.text_of(row, self.texts)
            return Example(text, label) if isinstance(text, str) else Pair(*text, label)
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"Example {number}: {error}") from error

    def _label(self, cell):
        if isinstance(cell, (list, tuple, np.ndarray)):
            return [self._label(item) for item in cell]
        if isinstance(cell, str) and self.names:
            if cell not in self.names:
                raise ValueError(
                    f"label {cell!r} must be one of the task's: {shown(list(self.names))}"
                )
            return self.names[cell]
        if not self.names or not is_integer(cell):
            return cell
        count = len(self.numbers or self.names)
        if not 0 <= cell < count:
            raise ValueError(f"a label must be from 0 to {count - 1}. Received: {cell}")
        return cell if self.numbers is None else self.numbers[cell]


def _words(words, column):
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"column {column!r} must be a list of strings. Received: {word!r}")
        check_unicode(word, f"column {column!r}")
    if not "".join(words).strip():
        raise ValueError(f"column {column!r} is empty")
    return tuple(words)


def _class_names(features, column):
    """The names that a `datasets.Dataset` has for the numbers in a column, or in lists in it."""
    feature = (features or {}).get(column)
    for _ in range(8):  # a `ClassLabel`, or lists of it
        if feature is None or hasattr(feature, "names"):
            break
        feature = getattr(feature, "feature", None)
    names = getattr(feature, "names", None)
    return list(names) if names else None
