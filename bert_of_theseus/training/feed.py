"""Random access to batches by (epoch, index), so that training can resume at any step."""

from __future__ import annotations

import math
import numbers
import zlib

import numpy as np

from ..backend import keras, to_numpy
from ..distribution import needs_equal_parts, num_devices


class Rounds:
    """All batches of a stage, cut into rounds of equal length. A round is one epoch of Keras."""

    def __init__(self, data, stage, batch_size, seed):
        self.batches = BatchAccess(data, batch_size, seed)
        per_epoch = self.batches.length
        self.length = max(1, per_epoch // stage.evaluations_per_epoch)
        self.count = stage.epochs * min(stage.evaluations_per_epoch, per_epoch)
        self.total_steps = self.length * self.count
        self.checksum = 0
        for part in _leaves(self.batches.get(0, 0)):
            self.checksum = zlib.crc32(np.ascontiguousarray(part).tobytes(), self.checksum)

    def stream(self, done):
        """Yields all batches after the first `done` rounds.

        A generator rather than a `Sequence`: Keras prefetches from a `Sequence`, and signals the
        end of its epochs, at different times on each backend.
        """
        for step in range(done * self.length, self.total_steps):
            yield self.batches.get(*divmod(step, self.batches.length))


class BatchAccess:
    """Random access by (epoch, index) to the batches of any data that `fit` takes.

    Args:
        data: As `train` in `fit`.
        batch_size: Integer, for arrays only.
        seed: Integer. Arrays are shuffled with it in each epoch. Defaults to `None`, no shuffle.

    Raises:
        TypeError: if `data` has no length.
        ValueError: if `data` is empty, or its arrays differ in length.
    """

    def __init__(self, data, batch_size, seed=None):
        if isinstance(data, tuple) and len(data) == 2 and _is_array(data[1]):
            data = _Arrays(*data, batch_size, seed)
        try:
            self.length = len(data)
        except TypeError:
            raise TypeError(
                "Data must have a length: `data.Batches`, a Keras `Sequence` or `PyDataset`, a "
                "`tf.data.Dataset` of known cardinality, a list of batches, or a tuple of arrays "
                f"(x, y). Received: {type(data).__name__}"
            ) from None
        if self.length < 1:
            raise ValueError("Data must have at least one batch. Received: 0 batches")
        self.data = data
        self.indexable = hasattr(data, "__getitem__")
        self.epoch, self.position, self.iterator = 0, 0, None
        if hasattr(data, "set_epoch"):
            data.set_epoch(0)
        if self.indexable and needs_equal_parts():
            self._check_division()

    def _check_division(self):
        # Before training: JAX itself would fail at the last batch of an epoch.
        for index in (0, self.length - 1):
            size = len(_leaves(self.get(0, index))[0])
            if size % num_devices():
                raise ValueError(
                    f"The batch size must be a multiple of {num_devices()}, the number of devices "
                    f"that JAX divides a batch among. Received: {size} examples in batch {index}. "
                    "Change the batch size or the number of examples."
                )

    def get(self, epoch, index):
        """Returns batch `index` of `epoch`, as a tuple."""
        if epoch != self.epoch:
            self._start_epoch(epoch)
        if self.indexable:
            batch = self.data[index]
        else:
            if self.iterator is None or index < self.position:
                self.iterator, self.position = iter(self.data), 0
            while self.position < index:  # a resumed run skips what it has seen
                next(self.iterator)
                self.position += 1
            batch = next(self.iterator)
            self.position += 1
        inputs, *rest = batch
        # Keras would read a list as a single array.
        return (tuple(inputs) if isinstance(inputs, list) else inputs, *rest)

    def _start_epoch(self, epoch):
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)
        elif hasattr(self.data, "on_epoch_end"):
            for _ in range(epoch - self.epoch):
                self.data.on_epoch_end()
        self.epoch, self.iterator = epoch, None


class _Arrays:
    """Batches of `(x, y)`, in an order that depends on seed and epoch alone."""

    def __init__(self, x, y, batch_size, seed=None):
        # TensorFlow's tensors, which KerasHub's preprocessors return, take no list of rows.
        self.x, self.y = _as_arrays(x), np.asarray(y) if isinstance(y, list) else _as_arrays(y)
        self.batch_size, self.seed = batch_size, seed
        sizes = {len(part) for part in [*self._parts(x), y]}
        if len(sizes) != 1:
            raise ValueError(f"Arrays must have one length. Received lengths: {sorted(sizes)}")
        self.rows = np.arange(sizes.pop())
        self.set_epoch(0)

    @staticmethod
    def _parts(x):
        if isinstance(x, dict):
            return list(x.values())
        return list(x) if isinstance(x, (list, tuple)) else [x]

    def set_epoch(self, epoch):
        if self.seed is not None:
            self.order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        else:
            self.order = self.rows

    def __len__(self):
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        if isinstance(self.x, dict):
            x = {key: part[rows] for key, part in self.x.items()}
        elif isinstance(self.x, (list, tuple)):
            x = tuple(part[rows] for part in self.x)
        else:
            x = self.x[rows]
        return x, self.y[rows]


def as_sequence(data, batch_size=32):
    """Wraps data in the `Sequence` of the Keras in use; `None` stays `None`."""
    if data is None:
        return None
    batches = BatchAccess(data, batch_size)

    class _Sequence(keras.utils.Sequence):
        def __len__(self):
            return batches.length

        def __getitem__(self, index):
            return batches.get(0, index)

    return _Sequence()


def _as_arrays(x):
    if isinstance(x, dict):
        return {key: _as_arrays(part) for key, part in x.items()}
    if isinstance(x, (list, tuple)):
        return tuple(map(_as_arrays, x))
    return to_numpy(x) if hasattr(x, "numpy") else x


def _is_array(value):
    if isinstance(value, list):  # of labels, as KerasHub's preprocessors pass them on
        return all(isinstance(number, numbers.Real) for number in value)
    return hasattr(value, "shape") and hasattr(value, "__getitem__")


def _leaves(batch):
    """The arrays of a batch, in order."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return [leaf for part in batch for leaf in _leaves(part)]
    return [np.asarray(batch)]
