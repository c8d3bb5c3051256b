"""Batches of encoded texts."""

from __future__ import annotations

import math

import numpy as np

from .examples import NO_LABEL
from .tokenizer import Encoded

__all__ = ["Batches"]


def _padded(arrays, rows, length, value):
    padded = np.full((len(rows), length), value, dtype="int32")
    for i, row in enumerate(rows):
        padded[i, : len(arrays[row])] = arrays[row]
    return padded


class Batches:
    """Batches of texts of like length, so that short texts cost little.

    Indexable, as `keras.utils.Sequence` is. With `shuffle`, every epoch draws new batches: the
    texts are shuffled, sorted by length within pools of some batches, and the batches shuffled
    again. All texts occur once an epoch; the last batch of an epoch may be smaller.

    The batches of an epoch depend on `seed` and its number alone, not on what was drawn before: a
    run that is taken up again in epoch 3 calls `set_epoch(3)` and sees what it would have seen.

    Args:
        encoded: what `Tokenizer.encode` returns.
        batch_size: texts in a batch.
        shuffle: whether the order is random; else texts are sorted by length.
        seed: of the order.
        multiple: batches are padded with 0 to a multiple of so many tokens, or to the longest
            text of all, so that few different lengths occur.

    Attributes:
        epoch: the number of the current epoch, from 0; `on_epoch_end` moves to the next.

    Raises:
        ValueError: there are no texts, or a number is not positive.

    Returns (of an index): `([token_ids, segment_ids], labels)`, integer arrays of shape
        `(batch_size, sequence_length)` and an array of a row per text, `(batch_size,)` for
        classes. Labels by token, `(batch_size, sequence_length)`, are padded with `NO_LABEL`.
    """

    _POOL = 20  # Batches that are sorted together: enough to match lengths, few enough to mix.

    def __init__(
        self,
        encoded: Encoded,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int = 42,
        multiple: int = 8,
    ):
        if not encoded.token_ids:
            raise ValueError("A set of texts is empty.")
        if batch_size < 1 or multiple < 1:
            raise ValueError(
                f"batch_size and multiple should be positive. Received: {batch_size}, {multiple}."
            )
        self.encoded = encoded
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.multiple = multiple
        self.seed = seed
        self._lengths = np.array([len(ids) for ids in encoded.token_ids])
        self.set_epoch(0)

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self.batch_size)

    def __getitem__(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = self._batches[index]
        length = -(-self._lengths[rows].max() // self.multiple) * self.multiple
        length = min(length, self._lengths.max())
        token_ids = _padded(self.encoded.token_ids, rows, length, 0)
        segment_ids, labels = self.encoded.segment_ids, self.encoded.labels
        return [
            token_ids,
            np.zeros_like(token_ids)
            if segment_ids is None
            else _padded(segment_ids, rows, length, 0),
        ], _padded(labels, rows, length, NO_LABEL) if isinstance(labels, list) else labels[rows]

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    @property
    def rows(self) -> np.ndarray:
        """The numbers of all texts in `encoded`, in the order of the batches."""
        return np.concatenate(self._batches)

    @property
    def labels(self) -> np.ndarray | list[np.ndarray]:
        """The labels of all texts, a row each, in the order of the batches; by token a list."""
        labels = self.encoded.labels
        return [labels[i] for i in self.rows] if isinstance(labels, list) else labels[self.rows]

    def on_epoch_end(self):
        """Moves on to the next epoch's batches."""
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int):
        """Jumps to the batches of an epoch, counted from 0."""
        if epoch < 0:
            raise ValueError(f"epoch should be at least 0. Received: {epoch}.")
        self.epoch = epoch
        rows = np.arange(len(self._lengths))
        if not self.shuffle:
            rows = rows[np.argsort(self._lengths, kind="stable")]
            self._batches = self._cut(rows)
            return
        rng = np.random.default_rng([self.seed, epoch])
        rng.shuffle(rows)
        batches = []
        pool = self._POOL * self.batch_size
        for start in range(0, len(rows), pool):
            part = rows[start : start + pool]
            batches += self._cut(part[np.argsort(self._lengths[part], kind="stable")])
        rng.shuffle(batches)
        self._batches = batches

    def _cut(self, rows):
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
