"""A folder that `datasets` has saved: the texts to train on stay there, read by position."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data import Encoded, StoredBatches, TextTask, Tokenizer
from ..data.stored import Part
from ..data.texts import set_named
from ..order import Permutation
from ..validation import positive_integer

_MOST_HELD = 10_000  # rows that are split off: they are held, and scored again and again


class SavedTexts(NamedTuple):
    """Texts to train on, tokenized when a batch needs them.

    Attributes:
        rows: The rows, as in `StoredBatches`.
        task: The `TextTask`.
        tokenizer: The `Tokenizer`.
        max_length: Integer.
        columns: Dict of `text_columns` and `label_column`, as in `TextTask.stored_batches`.
    """

    rows: object
    task: TextTask
    tokenizer: Tokenizer
    max_length: int
    columns: dict

    @property
    def count(self) -> int:
        """The number of texts."""
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """What tells these texts from others."""
        return self.batches().fingerprint

    def batches(self, **options) -> StoredBatches:
        """`StoredBatches` of the texts; `options` are theirs."""
        options = {**self.columns, **options}
        return self.task.stored_batches(self.rows, self.tokenizer, self.max_length, **options)

    def encoded(self, rows) -> Encoded:
        """Other rows of the same columns, all of them."""
        return self._replace(rows=rows).batches().read(np.arange(len(rows)))


def is_saved_dataset(path: str | os.PathLike) -> bool:
    """Whether this is a folder that a `Dataset` or a `DatasetDict` of `datasets` was saved to."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def read_sets(
    path: str | os.PathLike,
    given: Collection[str] = (),
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> dict:
    """The rows of a saved dataset by set: `"train"`, `"validation"` and `"test"`.

    Sets that it does not have are random parts of its rows to train on, of at most 10,000 rows
    each. Unlike parts of a file they are not stratified, and equal texts may be in two of them.

    Args:
        path: The folder.
        given: The names of sets that come from elsewhere.
        validation_fraction, limit, seed: As in `data.load_texts`.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if the folder cannot be read, or has no rows to train on.
    """
    loaded, sets, splits = _load(path), {}, {}
    if not isinstance(loaded, Mapping):
        loaded, splits = {"train": loaded}, {"train": None}
    for name, rows in loaded.items():
        which = set_named(name)
        if which in sets:
            raise ValueError(f"{path} must have one split for {which}. It has {', '.join(loaded)}.")
        if which is not None and which not in given:
            sets[which] = rows
            splits.setdefault(which, name)
    if not len(sets.get("train", ())):
        raise ValueError(f"{path} must have rows to train on. It has {', '.join(loaded)}.")
    limit = positive_integer("limit", limit, optional=True)
    orders = {name: Permutation(len(rows), seed) for name, rows in sets.items()}
    ends = {name: min(len(rows), limit or len(rows)) for name, rows in sets.items()}

    def part(name, start, stop):
        return Part(sets[name], orders[name], start, stop, splits[name])

    cut = {name: part(name, 0, ends[name]) for name in sets}
    end = ends["train"]
    for name in ("test", "validation"):
        if name not in sets and name not in given and validation_fraction:
            start = end - min(max(1, round(validation_fraction * end)), _MOST_HELD)
            cut[name] = part("train", start, end)
            end = start
    if end < 1:
        raise ValueError(f"{path} has too few rows to split: {ends['train']}.")
    cut["train"] = part("train", 0, end)
    return cut


def _load(path):
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{path} was saved by the package datasets, and needs it: pip install datasets"
        ) from error
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # of any library that it is made of
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is no saved dataset that can be read: {said}") from error
