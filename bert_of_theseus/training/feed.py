"""Training data by position: any batch of any epoch, so that a training can go on anywhere."""

from __future__ import annotations

import math
import numbers
import zlib

import numpy as np

from ..backend import BACKEND, keras, num_devices, to_numpy

__all__ = ["BatchAccess", "Rounds", "as_sequence"]


class _Arrays:
    """Batches of `(x, y)`, in an order that is a function of seed and epoch."""

    def __init__(self, x, y, batch_size, seed=None):
        # TensorFlow's tensors, which KerasHub's preprocessors make, take no list of rows.
        self.x, self.y = _as_arrays(x), np.asarray(y) if isinstance(y, list) else _as_arrays(y)
        self.batch_size, self.seed = batch_size, seed
        sizes = {len(part) for part in [*self._parts(x), y]}
        if len(sizes) != 1:
            raise ValueError(f"Arrays of one length are needed. Received lengths: {sorted(sizes)}")
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


class BatchAccess:
    """Batches by epoch and index, of whatever `fit` takes."""

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
            raise ValueError("There is not one batch in the data.")
        self.data = data
        self.indexable = hasattr(data, "__getitem__")
        self.epoch, self.position, self.iterator = 0, 0, None
        if hasattr(data, "set_epoch"):
            data.set_epoch(0)
        if BACKEND == "jax" and num_devices() > 1 and self.indexable:
            self._check_division()

    def _check_division(self):
        # In time: the last batch would be found out at the end of an epoch.
        for index in (0, self.length - 1):
            size = len(_leaves(self.batch(0, index))[0])
            if size % num_devices():
                raise ValueError(
                    f"JAX divides a batch into {num_devices()} equal parts, one per device, and "
                    f"batch {index} has {size} examples. Choose a batch size, and a number of "
                    "examples, that leave no other remainder."
                )

    def batch(self, epoch, index):
        if epoch != self.epoch:
            self._move(epoch)
        if self.indexable:
            batch = self.data[index]
        else:
            if self.iterator is None or index < self.position:
                self.iterator, self.position = iter(self.data), 0
            while self.position < index:  # after a resumption
                next(self.iterator)
                self.position += 1
            batch = next(self.iterator)
            self.position += 1
        inputs, *rest = batch
        # Keras takes a list for one array of several rows.
        return (tuple(inputs) if isinstance(inputs, list) else inputs, *rest)

    def _move(self, epoch):
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)
        elif hasattr(self.data, "on_epoch_end"):
            for _ in range(epoch - self.epoch):
                self.data.on_epoch_end()
        self.epoch, self.iterator = epoch, None


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


def as_sequence(data, batch_size=32):
    """Wraps batches as the `Sequence` that this Keras' `fit` takes; `None` stays `None`."""
    if data is None:
        return None
    source = BatchAccess(data, batch_size)

    class _Sequence(keras.utils.Sequence):
        def __len__(self):
            return source.length

        def __getitem__(self, index):
            return source.batch(0, index)

    return _Sequence()


class Rounds:
    """All steps of a stage, cut into rounds of equal length, one of Keras' epochs each."""

    def __init__(self, data, stage, batch_size, seed):
        self.source = BatchAccess(data, batch_size, seed)
        self.length = max(1, self.source.length // stage.evaluations_per_epoch)
        self.count = stage.epochs * min(stage.evaluations_per_epoch, self.source.length)
        self.total_steps = self.length * self.count
        self.checksum = 0
        for part in _leaves(self.source.batch(0, 0)):
            self.checksum = zlib.crc32(np.ascontiguousarray(part).tobytes(), self.checksum)

    def stream(self, done):
        """All batches after `done` rounds.

        A generator, since Keras asks a `Sequence` for batches ahead, and tells it of the end of an
        epoch, at other times on each backend.
        """
        for step in range(done * self.length, self.total_steps):
            yield self.source.batch(*divmod(step, self.source.length))


def _leaves(batch):
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return [leaf for part in batch for leaf in _leaves(part)]
    return [np.asarray(batch)]
