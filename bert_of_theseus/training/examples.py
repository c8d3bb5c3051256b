"""All examples of a data set, read once: a checksum that tells them from others, and their ranges.

The checksum is a sum over the examples, so it does not depend on their order or on how they are
cut into batches, nor on zeros that pad them. Data that say themselves what tells them from others,
by a string `fingerprint`, are not read.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..order import mix
from .feed import BatchAccess, named_leaves

_ROWS = 4096  # of arrays, at a time
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Range(NamedTuple):
    """What the numbers of one input, or of the labels, have in common.

    Attributes:
        low, high: The smallest and the largest number; NaN if one of them is.
        whole: Boolean, whether all are whole numbers.
        ndim: Integer, the number of dimensions, that of the batch included.
        text: What is no number among them, or `None`.
    """

    low: float
    high: float
    whole: bool
    ndim: int
    text: str | None = None

    def joined(self, other: Range) -> Range:
        """The range of both."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        whole = self.whole and other.whole
        return Range(low.item(), high.item(), whole, self.ndim, self.text or other.text)


class Summary(NamedTuple):
    """All examples, or those of the first batch where there is no access to the others.

    Attributes:
        text: String that tells these examples from others, for settings.
        ranges: Dict of `Range` by name, see `feed.named_leaves`; empty of data with a fingerprint.
        numbered: String that also tells the examples' numbers, see `BatchAccess.rows`; `None` if
            the data do not tell them, or if they are not 0, 1, 2, ... once each. Of data with a
            fingerprint the numbers are not read.
    """

    text: str
    ranges: dict[str, Range]
    numbered: str | None


_summaries = contextvars.ContextVar("summaries", default=None)


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """A context in which `summary` reads the same data once. They must not change within it."""
    token = _summaries.set({})
    try:
        yield
    finally:
        _summaries.reset(token)


def summary(batches: BatchAccess) -> Summary:
    """Reads all examples that `batches` has random access to, else the first batch.

    Of data with a `fingerprint` none.
    """
    known = _summaries.get()
    if known is not None and id(batches.given) in known:
        return known[id(batches.given)][1]
    if batches.summary is None:
        batches.summary = _summary(batches)
    made = batches.summary
    if known is not None:
        known[id(batches.given)] = batches.given, made  # kept, so that no other has its id
    return made


def _summary(batches):
    fingerprint = getattr(batches.data, "fingerprint", None)
    if isinstance(fingerprint, str):
        text = f"{batches.length} batches of data with fingerprint {fingerprint!r}"
        return Summary(text, {}, fingerprint if hasattr(batches.data, "rows_of") else None)
    count, total, ranges, numbers = 0, 0, {}, Numbers()
    for rows, batch in batches.chunks(_ROWS):
        leaves = named_leaves(batch)
        hashes = hashes_of_examples(leaves)
        numbers.add(rows, hashes)
        count += len(hashes)
        total = (total + int(hashes.sum(dtype="uint64"))) % 2**64
        for name, leaf in leaves.items():
            ranges[name] = join(ranges.get(name), name, leaf)
    text = f"{count} examples, checksum {total:016x}"
    if not batches.indexable:
        text = f"{batches.length} batches without random access, of which the first one has {text}"
    return Summary(text, ranges, numbers.text)


class Numbers:
    """Whether examples are numbered 0, 1, 2, ..., and a checksum of which number each one has.

    Of any number of examples it keeps three numbers.

    Attributes:
        count: Integer, how many numbers were added.
    """

    def __init__(self):
        self.are_there, self.count, self.rows, self.total = True, 0, 0, 0

    def add(self, rows: np.ndarray | None, hashes: np.ndarray) -> None:
        """Adds the numbers of some examples, `None` if they have none, and a hash of each."""
        self.are_there &= rows is not None and len(rows) == len(hashes)
        if self.are_there:
            mixed = mix(np.asarray(rows, "uint64"))
            self.count += len(rows)
            self.rows += int(mixed.sum(dtype="uint64"))
            self.total += int(mix(hashes + mixed).sum(dtype="uint64"))

    @property
    def text(self) -> str | None:
        """The checksum; `None` if the numbers are not 0, 1, 2, ... once each."""
        starts = range(0, self.count, _ROWS)
        parts = (np.arange(i, min(i + _ROWS, self.count), dtype="uint64") for i in starts)
        expected = sum(int(mix(part).sum(dtype="uint64")) for part in parts)
        if not self.are_there or (self.rows - expected) % 2**64:
            return None
        return f"{self.count} examples, in order with checksum {self.total % 2**64:016x}"


def first_batch(batches: BatchAccess) -> str:
    """What tells the first batch from others: the order of its examples and its padding too."""
    leaves = named_leaves(batches.first)
    sizes = repr([leaf.size for leaf in leaves.values()])
    total = zlib.crc32(hashes_of_examples(leaves).tobytes(), zlib.crc32(sizes.encode()))
    return f"checksum {total:08x}"


def join(before: Range | None, name: str, leaf: np.ndarray) -> Range:
    """The `Range` of an array, and of those before."""
    if leaf.dtype.kind in "OUS":
        odd = next((v for v in leaf.ravel().tolist() if isinstance(v, (str, bytes))), None)
        text = repr(odd)[:80] if odd is not None else leaf.dtype.name
        return Range(math.nan, math.nan, False, leaf.ndim, text)
    if not leaf.size or leaf.dtype.kind not in "biuf":
        return before or Range(math.inf, -math.inf, True, leaf.ndim)
    if before is not None and not before.whole and name.startswith("input"):
        return before  # no ids: their range does not matter
    whole = leaf.dtype.kind != "f" or bool((np.rint(leaf) == leaf).all())
    now = Range(leaf.min().item(), leaf.max().item(), whole, leaf.ndim)
    return now if before is None else before.joined(now)


def hashes_of_examples(leaves: dict[str, np.ndarray]) -> np.ndarray:
    """A number per example that tells it from others, whatever it is padded to."""
    hashes = np.zeros(len(next(iter(leaves.values()))), "uint64")
    for number, leaf in enumerate(leaves.values()):
        hashes = mix(hashes + _hashes(leaf, number))
    return hashes


def _hashes(leaf, number):
    """A number per row."""
    if leaf.dtype.kind in "OUS":
        flat = (zlib.crc32(str(v).encode("utf-8", "surrogatepass")) for v in leaf.ravel().tolist())
        words = np.fromiter(flat, "uint64", leaf.size)
    elif leaf.dtype.kind in "iub":  # alike in any type
        words = leaf.astype("int64").view("uint64")
    else:
        words = np.ascontiguousarray(leaf).view(_WORDS.get(leaf.dtype.itemsize, np.uint8))
    words = words.reshape(len(leaf), -1).astype("uint64", copy=False)
    factors = mix(np.arange(words.shape[1], dtype="uint64") + np.uint64((number + 1) << 40))
    return words @ (factors | np.uint64(1))
