"""Batches of rows that stay where they are stored: each is read by its position when it is needed.

dataset = datasets.load_from_disk("100-million-texts")
train = task.stored_batches(dataset, tokenizer, max_length=128, batch_size=32)
compress(predecessor, successor, head, train, validation, directory="runs/1", **task.options)
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..order import Permutation
from ..validation import positive_integer
from .batches import Encoded, PaddedBatches, count_tokens
from .rows import encode_token_ids

_SAMPLE = 256  # rows that stand for all


class StoredBatches(PaddedBatches):
    """Padded batches of rows that are read, and encoded, when a batch needs them.

    For data larger than memory. What is held does not grow with the number of rows, and the middle
    of an epoch is as near as its start: no other rows are read on the way. Batches do not depend
    on how rows are stored: those of a list are the same.

    With `shuffle`, each epoch has new batches: the rows are permuted (`order.Permutation`) and read
    in pools of 20 batches; those of a pool are sorted by length, and its batches are shuffled. Each
    row occurs once per epoch; the last batch of the last pool may be smaller. The batches of an
    epoch depend only on `seed` and the epoch's number. `Batches` holds all texts and also shuffles
    the batches of different pools, so its order is another one.

    Indexing returns what `Batches` returns. A task's `score` takes `Batches` alone, so validation
    data for it must be these.

    `fit` and `compress` do not read all rows before they train, as they do with other data. A
    folder knows the data by their number and by a checksum of 256 rows that are evenly spread; ids
    and labels are checked in each batch as it comes. So rows must not change while they are
    trained on.

    Args:
        rows: The rows: an object with a length and `__getitem__` by position, such as a
            `datasets.Dataset`, a `grain.MapDataset` of rows, a PyTorch dataset or a list. If it
            has `__getitems__`, that is called with a list of positions. Or a dict of arrays of one
            length, memory-mapped ones for example, whose rows are dicts.
        encode: Function of a list of rows that returns their `Encoded`. It must do so alike
            whatever rows stand beside them. Defaults to `encode_token_ids`, for dicts with token
            ids. See `TextTask.stored_batches` for texts.
        batch_size: Integer. Defaults to `32`.
        shuffle: Boolean, whether the order is random. If not, rows come in their order but for
            those of a pool, which are sorted by length. Defaults to `True`.
        seed: Integer, of the order. Defaults to `42`.
        multiple: Integer. Sequence lengths are rounded up to a multiple of it. Defaults to `8`.
        max_length: Integer, the most tokens that a row may have. No length is rounded up to more.
            Defaults to `None`, no limit.
        pad_token_id, input_names: As in `Batches`.

    Attributes:
        count: Integer, the number of rows.
        epoch: Integer, the current epoch, from 0. `on_epoch_end` moves to the next.

    Raises:
        TypeError: if `rows` has no length or no positions, or is a dict of anything but arrays.
        ValueError: if there are no rows, or as in `Batches`. When a batch is read, if one of its
            rows cannot be encoded, alone or with the others, has no tokens or too many, or not as
            many segment ids or labels per token as tokens; names the row's position.

    Example:

    >>> tokens = {"token_ids": np.load("ids.npy", mmap_mode="r"), "label": np.load("labels.npy")}
    >>> train = StoredBatches(tokens, batch_size=32, max_length=128)
    """

    def __init__(
        self,
        rows,
        encode: Callable[[list], Encoded] = encode_token_ids,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int = 42,
        multiple: int = 8,
        max_length: int | None = None,
        pad_token_id: int = 0,
        input_names: Sequence[str] | None = None,
    ):
        super().__init__(batch_size, shuffle, seed, multiple, pad_token_id, input_names)
        self.rows, self.encode = rows, encode
        self.max_length = positive_integer("max_length", max_length, optional=True)
        self._longest = self.max_length or math.inf
        self.count = count_rows(rows)
        self._pool = None, None  # the last one, by its number and that of the epoch
        self.set_epoch(0)

    def __getitem__(self, index: int):
        encoded, _, batch = self._find(index)
        lengths = np.array([len(encoded.token_ids[row]) for row in batch])
        return self._batch(encoded, batch, lengths, self._longest)

    def rows_of(self, index: int) -> np.ndarray:
        """The positions in `rows` of the examples in batch `index`, in its order."""
        _, positions, batch = self._find(index)
        return positions[batch]

    def set_epoch(self, epoch: int):
        """Moves to the batches of an epoch, counted from 0."""
        super().set_epoch(epoch)
        seed = [self.seed, self.epoch]
        self._order = Permutation(self.count, seed) if self.shuffle else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """What tells these rows from others: their number, and a checksum of some of them."""
        size = min(_SAMPLE, self.count)
        places = np.arange(size) * (self.count - 1) // max(1, size - 1)
        encoded, digest = self.read(places), hashlib.sha256()
        for part in (encoded.token_ids, encoded.segment_ids, encoded.labels):
            for row in () if part is None else part:
                row = np.ascontiguousarray(row)
                digest.update(f"{row.dtype} {row.shape}".encode() + row.tobytes())
        return (
            f"{self.count} rows, of which {size} that are evenly spread have checksum "
            f"{digest.hexdigest()[:16]}"
        )

    def _find(self, index):
        """The pool of a batch, encoded; its positions; and the batch's rows within it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, place = divmod(index, self._POOL)
        pool = self._pool  # once: another thread may put its own there at any time
        if pool[0] != (self.epoch, number):
            self._pool = pool = (self.epoch, number), self._read_pool(number)
        encoded, positions, batches = pool[1]
        return encoded, positions, batches[place]

    def _read_pool(self, number):
        size = self._POOL * self.batch_size
        places = slice(number * size, min((number + 1) * size, self.count))
        positions = np.arange(places.start, places.stop)
        if self.shuffle:
            positions = self._order[places]
        encoded = self.read(positions)
        lengths = [len(ids) for ids in encoded.token_ids]
        batches = self._cut(np.argsort(lengths, kind="stable"))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch, number]).shuffle(batches)
        return encoded, positions, batches

    def read(self, positions: np.ndarray) -> Encoded:
        """The rows at these positions, encoded."""
        # In the order in which they are stored, which is the quickest.
        ascending = np.argsort(positions)
        found = read_rows(self.rows, positions[ascending].tolist())
        rows = [found[place] for place in np.argsort(ascending)]
        try:
            encoded = self.encode(rows)
        except (ValueError, TypeError) as error:
            self._raise_for_row(error, rows, positions)
            raise
        for part in (encoded.token_ids, encoded.labels, encoded.segment_ids):
            if part is not None and len(part) != len(rows):
                raise ValueError(
                    f"`encode` must return an entry for each row. Received: {len(part)} for "
                    f"{len(rows)} rows"
                )
        lengths = count_tokens(encoded, lambda place: self._name(positions[place]))
        for place in np.flatnonzero((lengths < 1) | (lengths > self._longest)):
            most = "" if self.max_length is None else f" and at most {self.max_length}"
            raise ValueError(
                f"{self._name(positions[place])} must have at least one token{most}. Received: "
                f"{lengths[place]}"
            )
        return encoded

    def _name(self, position):
        """What an error calls a row."""
        return self.rows.name(position) if isinstance(self.rows, Part) else f"Row {position}"

    def _raise_for_row(self, error, rows, positions):
        """Raises the error of the first row that cannot be encoded alone, with its position.

        If each can, that of all of them, with the position of the row that it names.
        """
        for number, row in enumerate(rows):
            try:
                self.encode([row])
            except (ValueError, TypeError) as alone:
                error, place, prefix = alone, number, "Example 0: "
                break
        else:
            named = re.match(r"Example (\d+): ", str(error))
            if not named or int(named[1]) >= len(rows):
                return
            place, prefix = int(named[1]), named[0]
        kind = TypeError if isinstance(error, TypeError) else ValueError
        said = str(error).removeprefix(prefix)
        raise kind(f"{self._name(positions[place])}: {said}") from error


class Part:
    """Some rows: those at the places from `start` to `stop` of a random order, which is computed.

    Args:
        rows: As in `StoredBatches`.
        order: `Permutation` of them.
        start, stop: Integers.
        split: String, what the rows are called, for errors. Defaults to `None`, nothing.
    """

    def __init__(self, rows, order: Permutation, start: int, stop: int, split: str | None = None):
        self.rows, self.order, self.start, self.stop = rows, order, start, stop
        self.split = split
        self.features = getattr(rows, "features", None)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, position: int):
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list:
        places = np.asarray(positions)
        if places.size and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(positions)
        return read_rows(self.rows, self.order[places + self.start].tolist())

    def name(self, position: int) -> str:
        """What an error calls a row: its position among all `rows`, not among these."""
        name = f"Row {self.order[int(position) + self.start]}"
        return name if self.split is None else f"{name} of {self.split!r}"


def count_rows(rows) -> int:
    """The number of rows, at least one, of what is read by position."""
    is_dict = isinstance(rows, Mapping)
    parts = list(rows.values()) if is_dict else [rows]
    for part in parts:
        by_label = hasattr(part, "iloc")  # as pandas finds rows
        # A `datasets.Dataset` has a shape too.
        is_array = hasattr(part, "dtype") and bool(getattr(part, "shape", None))
        if is_dict and (by_label or not is_array):
            raise TypeError(
                "A dict must hold arrays of at least one dimension; of a `DatasetDict`, give one "
                f"split. Received: a dict with {type(part).__name__}"
            )
        if by_label or not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
            raise TypeError(
                "`rows` must have a length and be read by position: a `datasets.Dataset` (not an "
                "`IterableDataset`), a `grain.MapDataset` or the source of a `grain.DataLoader`, "
                f"a list, or a dict of arrays. Received: {type(part).__name__}"
            )
    sizes = {len(part) for part in parts}
    if len(sizes) != 1 or not min(sizes):
        raise ValueError(
            "`rows` must be at least one, and arrays in a dict must have one length. Received: "
            f"{sorted(sizes) or 'an empty dict'}"
        )
    return sizes.pop()


def read_rows(rows, positions: list[int]) -> list:
    """The rows at these positions."""
    if isinstance(rows, Mapping):
        columns = {name: column[np.asarray(positions)] for name, column in rows.items()}
        return [
            {name: column[place] for name, column in columns.items()}
            for place in range(len(positions))
        ]
    if not hasattr(rows, "__getitems__"):
        return [rows[position] for position in positions]
    found = list(rows.__getitems__(positions))
    if len(found) != len(positions):
        raise ValueError(
            f"`rows.__getitems__` must return a list with a row for each position. Received: "
            f"{len(found)} for {len(positions)}"
        )
    return found
