"""Padded batches of encoded texts, grouped by length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..validation import integer, positive_integer
from .examples import NO_LABEL, Example

_INPUTS = ("token_ids", "padding_mask", "segment_ids")


class Encoded(NamedTuple):
    """Texts as token ids, with their labels.

    Attributes:
        token_ids: List of arrays of shape `(length,)`.
        labels: Array with one row per text; for labels per token, a list of arrays of shape
            `(length,)`.
        segment_ids: List of arrays like `token_ids`; `None` if all segments are 0.
        offsets: List of arrays of shape `(length, 2)`: start and end of each token in the text
            (of a pair, in the second text), in characters; of texts that are split into words, the
            number of the word. They are equal for tokens without a part in that text. `None` if
            offsets were not requested.
        cut: Boolean array, whether each text was truncated; `None` if that is unknown.
        examples: The encoded examples; empty if the task does not need them.
        dropped: Integer, number of entities or answers without a label, as they are truncated,
            do not begin and end with a token, or overlap another.
    """

    token_ids: list[np.ndarray]
    labels: np.ndarray | list[np.ndarray]
    segment_ids: list[np.ndarray] | None = None
    offsets: list[np.ndarray] | None = None
    cut: np.ndarray | None = None
    examples: Sequence[Example] = ()
    dropped: int = 0


def _padded(arrays, rows, length, value):
    shape = (len(rows), length, *np.shape(arrays[rows[0]])[1:])
    kind = np.asarray(arrays[rows[0]]).dtype.kind
    padded = np.full(shape, value, dtype="float32" if kind == "f" else "int32")
    for i, row in enumerate(rows):
        padded[i, : len(arrays[row])] = arrays[row]
    return padded


def count_tokens(encoded: Encoded, name: Callable[[int], str]) -> np.ndarray:
    """The number of tokens of each text.

    Args:
        encoded: `Encoded`.
        name: Function of a text's number that returns what an error calls it.

    Raises:
        ValueError: if a text has more or fewer segment ids or labels per token than tokens.
    """
    lengths = np.array([len(ids) for ids in encoded.token_ids])
    labels = encoded.labels if isinstance(encoded.labels, list) else None
    for what, part in (("segment ids", encoded.segment_ids), ("labels per token", labels)):
        found = lengths if part is None else np.array([len(row) for row in part])
        for number in np.flatnonzero(found != lengths):
            raise ValueError(
                f"{name(number)} must have as many {what} as tokens, {lengths[number]}. Received: "
                f"{found[number]}"
            )
    return lengths


class PaddedBatches:
    """Base class of batches of texts: their options, and how texts become a batch."""

    _POOL = 20  # batches that are sorted together: enough to match lengths, few enough to mix

    def __init__(self, batch_size, shuffle, seed, multiple, pad_token_id, input_names):
        self.batch_size = positive_integer("batch_size", batch_size)
        self.shuffle = shuffle
        self.multiple = positive_integer("multiple", multiple)
        self.seed = seed
        self.pad_token_id = integer("pad_token_id", pad_token_id, minimum=0)
        self.input_names = None if input_names is None else list(input_names)
        if not set(input_names or _INPUTS) <= set(_INPUTS):
            raise ValueError(
                f"`input_names` must be some of {', '.join(_INPUTS)}. Received: {input_names}"
            )

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def on_epoch_end(self):
        """Moves to the batches of the next epoch."""
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int):
        """Moves to the batches of an epoch, counted from 0."""
        self.epoch = integer("epoch", epoch, minimum=0)

    def _batch(self, encoded, rows, lengths, longest):
        """The batch of these rows of `encoded`, which are so long; texts are at most `longest`."""
        length = min(-(-lengths.max() // self.multiple) * self.multiple, longest)
        labels = encoded.labels
        inputs = {"token_ids": _padded(encoded.token_ids, rows, length, self.pad_token_id)}
        if encoded.segment_ids is None:
            inputs["segment_ids"] = np.zeros_like(inputs["token_ids"])
        else:
            inputs["segment_ids"] = _padded(encoded.segment_ids, rows, length, 0)
        if self.input_names is None:
            inputs = list(inputs.values())
        else:
            inputs["padding_mask"] = (np.arange(length) < lengths[:, None]).astype("int32")
            inputs = {name: inputs[name] for name in self.input_names}
        is_list = isinstance(labels, list)
        return inputs, _padded(labels, rows, length, NO_LABEL) if is_list else labels[rows]

    def _cut(self, rows):
        """Batches of rows."""
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]


class Batches(PaddedBatches):
    """Padded batches of texts of similar length, so that padding costs little.

    Indexable, like `keras.utils.Sequence`. With `shuffle`, each epoch has new batches: the texts
    are shuffled, sorted by length within pools of 20 batches, and the batches are shuffled. Each
    text occurs once per epoch; the last batch may be smaller.

    The batches of an epoch depend only on `seed` and the epoch's number. A run that resumes in
    epoch 3 calls `set_epoch(3)` and gets the same batches as an uninterrupted run.

    Indexing returns `([token_ids, segment_ids], labels)`: two integer arrays of shape
    `(batch_size, sequence_length)`, and the labels, one row per text. With `input_names` the inputs
    are a dict of such arrays. Labels per token have shape `(batch_size, sequence_length)`, or
    `(batch_size, sequence_length, outputs)` if they are probabilities, and are padded with
    `NO_LABEL`.

    Args:
        encoded: An `Encoded`, as `Tokenizer.encode` and `TextTask.encode` return.
        batch_size: Integer. Defaults to `32`.
        shuffle: Boolean, whether the order is random. If not, texts are sorted by length. Defaults
            to `True`.
        seed: Integer, of the order. Defaults to `42`.
        multiple: Integer. Sequence lengths are rounded up to a multiple of it (at most to the
            length of the longest text), so that few different shapes occur. Defaults to `8`.
        pad_token_id: Integer, the tokenizer's. Defaults to `0`.
        input_names: List of some of `"token_ids"`, `"padding_mask"` (1 for tokens, 0 for padding)
            and `"segment_ids"`. Defaults to `None`: the list `[token_ids, segment_ids]`.

    Attributes:
        epoch: Integer, the current epoch, from 0. `on_epoch_end` moves to the next.
        count: Integer, the number of texts.
        lengths: Array, the number of tokens of each text.

    Raises:
        ValueError: if there are no texts, a text has no tokens, or not as many segment ids or
            labels per token as tokens, a number is not positive, or an input has another name.
    """

    def __init__(
        self,
        encoded: Encoded,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int = 42,
        multiple: int = 8,
        pad_token_id: int = 0,
        input_names: Sequence[str] | None = None,
    ):
        if not encoded.token_ids:
            raise ValueError("`encoded` must hold at least one text. Received an empty set.")
        super().__init__(batch_size, shuffle, seed, multiple, pad_token_id, input_names)
        self.encoded = encoded
        self.lengths = count_tokens(encoded, lambda number: f"Text {number} of `encoded`")
        self.count = len(self.lengths)
        if not self.lengths.min():
            raise ValueError(
                f"`encoded` must hold tokens for each text. Number {self.lengths.argmin()} has "
                "none."
            )
        self.set_epoch(0)

    def __getitem__(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = self._batches[index]
        return self._batch(self.encoded, rows, self.lengths[rows], self.lengths.max())

    def rows_of(self, index: int) -> np.ndarray:
        """Indices into `encoded` of the texts in a batch."""
        return self._batches[index]

    @property
    def rows(self) -> np.ndarray:
        """Indices into `encoded`, in the order of the batches."""
        return np.concatenate(self._batches)

    @property
    def labels(self) -> np.ndarray | list[np.ndarray]:
        """The labels in the order of the batches; a list if they are per token."""
        labels = self.encoded.labels
        return [labels[i] for i in self.rows] if isinstance(labels, list) else labels[self.rows]

    def set_epoch(self, epoch: int):
        """Moves to the batches of an epoch, counted from 0."""
        super().set_epoch(epoch)
        rows = np.arange(len(self.lengths))
        if not self.shuffle:
            rows = rows[np.argsort(self.lengths, kind="stable")]
            self._batches = self._cut(rows)
            return
        rng = np.random.default_rng([self.seed, epoch])
        rng.shuffle(rows)
        batches = []
        pool = self._POOL * self.batch_size
        for start in range(0, len(rows), pool):
            part = rows[start : start + pool]
            batches += self._cut(part[np.argsort(self.lengths[part], kind="stable")])
        rng.shuffle(batches)
        self._batches = batches
