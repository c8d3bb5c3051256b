"""Random orders of any number of things that take no memory."""

from __future__ import annotations

import math

import numpy as np

from .validation import integer

_ROUNDS = 12  # with fewer, the orders of a few things are not all equally likely


class Permutation:
    """A random order of the numbers from 0 to `count - 1`, computed where it is read.

    It is a Feistel network over pairs `(i // width, i % width)`: in turn, one of the two is shifted
    by a pseudo-random number that the other one and a key determine. As the last row of pairs may
    be incomplete, a number beyond `count` is permuted again, until it is within.

    Args:
        count: Integer, how many numbers there are.
        seed: Integer or list of integers. The same one gives the same order.

    Example:

    >>> order = Permutation(100_000_000, seed=[42, 0])
    >>> order[:32]  # the first 32, an array
    """

    def __init__(self, count: int, seed):
        self.count = integer("count", count, minimum=0)
        self._height = math.isqrt(max(0, count - 1)) + 1
        self._width = -(-count // self._height) or 1
        self._keys = np.random.default_rng(seed).integers(2**64, size=_ROUNDS, dtype="uint64")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int | slice | np.ndarray) -> np.ndarray:
        """The numbers at these places, in int64."""
        if isinstance(place, slice):
            return self._at(np.arange(*place.indices(self.count)))
        places = np.asarray(place)
        is_there = places.dtype.kind in "iu" and ((places >= 0) & (places < self.count)).all()
        if places.size and not is_there:
            raise IndexError(
                f"Places must be integers from 0 to {self.count - 1}. Received: {place}"
            )
        return self._at(places) if places.ndim else self._at(places[None])[0]

    def _at(self, places):
        numbers = self._shuffled(places)
        while (beyond := numbers >= self.count).any():
            numbers[beyond] = self._shuffled(numbers[beyond])
        return numbers

    def _shuffled(self, numbers):
        rows, columns = (part.astype("uint64") for part in np.divmod(numbers, self._width))
        height, width = np.uint64(self._height), np.uint64(self._width)
        for even, odd in zip(self._keys[::2], self._keys[1::2]):
            rows = (rows + mix(columns ^ even) % height) % height
            columns = (columns + mix(rows ^ odd) % width) % width
        return (rows * width + columns).astype("int64")


def mix(numbers: np.ndarray) -> np.ndarray:
    """Steele's SplitMix64, which spreads each bit of unsigned 64-bit numbers over all."""
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
