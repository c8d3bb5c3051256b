"""Random access to batches by (epoch, index), so that training can resume at any step."""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import sys
import threading

import numpy as np

from ..backend import keras, to_numpy
from ..distribution import (
    as_dataset,
    needs_equal_parts,
    needs_one_type,
    num_devices,
    part_of_worker,
)
from ..order import Permutation
from ..validation import is_integer

_MOST_ROWS = 1 << 20  # of arrays whose order is drawn at once; a longer one is computed as needed


class Rounds:
    """All batches of a stage, cut into rounds of equal length. A round is one epoch of Keras.

    Args:
        batches: `BatchAccess`.
        stage: `Stage`.
        change: Function of a batch, applied to each. Defaults to `None`.

    Attributes:
        lessons: `Lessons`, whose answers are added to each batch, or `None`, at first.
    """

    def __init__(self, batches, stage, change=None):
        self.batches, self.change, self.lessons = batches, change, None
        per_epoch = batches.length
        self.length = max(1, per_epoch // stage.evaluations_per_epoch)
        self.count = stage.epochs * min(stage.evaluations_per_epoch, per_epoch)
        if stage.steps is not None and stage.steps < self.length * self.count:
            self.count = math.ceil(stage.steps / self.length)
            self.length = stage.steps // self.count
        self.total_steps = self.length * self.count

    def stream(self, done):
        """Yields all batches after the first `done` rounds.

        A generator rather than a `Sequence`: Keras prefetches from a `Sequence`, and signals the
        end of its epochs, at different times on each backend.
        """
        for step in range(done * self.length, self.total_steps):
            place = divmod(step, self.batches.length)
            yield self.changed(self.batches.get(*place), *place)

    def changed(self, batch, epoch, index):
        """Batch `index` of `epoch` as the model gets it."""
        batch = batch if self.change is None else self.change(batch)
        return batch if self.lessons is None else self.lessons.add(batch, epoch, index)


class BatchAccess:
    """Random access by (epoch, index) to the batches of any data that `fit` takes.

    Args:
        data: As `train` in `fit`.
        batch_size: Integer, for arrays only.
        seed: Integer. Arrays are shuffled with it in each epoch. Defaults to `None`, no shuffle.

    Attributes:
        check: Function that is called with each batch, unless `data` are arrays: what it raises
            ends the training. `None` at first.
        summary: What `examples.summary` has found in them, or `None` at first.
        problem: What `get` raised, or `None`. Keras on TensorFlow raises another error in its
            place.

    Raises:
        TypeError: if `data` has no length.
        ValueError: if `data` is empty, or its arrays differ in length.
    """

    def __init__(self, data, batch_size, seed=None):
        self.given = data
        self.check = self.summary = self.problem = None
        if _are_arrays(data):
            data = _Arrays(*data, batch_size=batch_size, seed=seed)
        try:
            self.length = len(data)
        except TypeError:
            raise TypeError(
                "Data must have a length: `data.Batches`, `data.StoredBatches`, a Keras `Sequence` "
                "or `PyDataset`, a `grain.MapDataset`, a `tf.data.Dataset` of known cardinality, a "
                "list of batches, or a tuple of arrays (x, y) or (x, y, sample_weight). Received: "
                f"{type(data).__name__}"
            ) from None
        if self.length < 1:
            raise ValueError("Data must have at least one batch. Received: 0 batches")
        self.data = data
        self.indexable = hasattr(data, "__getitem__")
        self.epoch, self.position, self.iterator, self._offset = 0, 0, None, 0
        self._types = None  # of the arrays in a batch, by name
        self._lock = threading.Lock()  # TensorFlow reads ahead, in threads of its own
        self._parts = num_devices() if needs_equal_parts() else 1  # of each batch
        if hasattr(data, "set_epoch"):
            data.set_epoch(0)
        if self.indexable and self._parts > 1:
            self._check_division()

    def _check_division(self):
        # Before training: JAX itself would fail at the first batch that it cannot divide.
        count, size = (getattr(self.data, name, None) for name in ("count", "batch_size"))
        told = is_integer(count) and is_integer(size) and size > 0
        if told and math.ceil(count / size) == self.length:  # the last one may be anywhere
            for one in {min(size, count), count % size or size}:
                self._check_size(one)
        else:
            for index in {0, self.length - 1}:
                self.get(0, index)

    def _check_size(self, size):
        if size % self._parts:
            raise ValueError(
                f"The batch size must be a multiple of {self._parts}, the number of devices that "
                f"JAX divides a batch among. Received: a batch of {size} examples. Change the "
                "batch size or the number of examples."
            )

    @property
    def batch_size(self) -> int:
        """The data's own `batch_size`, or else the number of examples in the first batch."""
        given = getattr(self.data, "batch_size", None)
        return given if is_integer(given) and given > 0 else _size(self.first)

    @functools.cached_property
    def first(self):
        """The first batch of the first epoch."""
        return self.get(0, 0)

    def get(self, epoch, index):
        """Returns batch `index` of `epoch`, as a tuple."""
        try:
            with self._lock:
                batch = self._get(epoch, index)
            if not _size(batch):
                raise ValueError(f"Batch {index} must hold at least one example. Received: none")
            self._check_size(_size(batch))
            if self.check is not None and not self.is_arrays:
                self.check(batch)
            if needs_one_type():
                self._check_types(batch)
        except Exception as error:
            self.problem = error
            raise
        return batch

    def rows(self, epoch, index):
        """The numbers of the examples in batch `index` of `epoch`; `None` if data do not tell.

        An example keeps its number from epoch to epoch.
        """
        if not hasattr(self.data, "rows_of"):
            return None
        with self._lock:
            if epoch != self.epoch:
                self._start_epoch(epoch)
            return np.asarray(self.data.rows_of(index))

    @property
    def is_arrays(self) -> bool:
        """Whether data are arrays: then all batches have one shape, but for their size."""
        return isinstance(self.data, _Arrays)

    def _check_types(self, batch):
        # TensorFlow would convert the later ones to the types of the first, 0.5 to 0 say.
        types = {name: leaf.dtype for name, leaf in named_leaves(batch).items()}
        self._types = self._types or types
        for name, dtype in types.items():
            first = self._types.get(name, dtype)
            if np.issubdtype(dtype, np.number) and not np.can_cast(dtype, first, "same_kind"):
                raise TypeError(
                    f"The {name} must be of one type in all batches, {first} as in the first. "
                    f"Received: {dtype}"
                )

    def _get(self, epoch, index):
        if epoch != self.epoch:
            self._start_epoch(epoch)
        batch = self.data[self._offset + index] if self.indexable else self._next(index)
        if not isinstance(batch, (tuple, list)):
            raise TypeError(
                "A batch must be a tuple (x, y) or (x, y, sample_weight). Received: "
                f"{type(batch).__name__}. Of rows, `data.StoredBatches` makes batches."
            )
        inputs, *rest = batch
        while rest and rest[-1] is None:  # no weights
            rest.pop()
        # Keras would read a list as a single array.
        return (tuple(inputs) if isinstance(inputs, list) else inputs, *rest)

    def _next(self, index):
        if self.iterator is None or index < self.position:
            self.iterator, self.position = iter(self.data), 0
        try:
            while self.position < index:  # a resumed run skips what it has seen
                next(self.iterator)
                self.position += 1
            batch = next(self.iterator)
        except StopIteration:
            raise ValueError(
                f"Data must yield as many batches as their length says, {self.length}. Received: "
                f"{self.position} batches from {type(self.data).__name__}"
            ) from None
        self.position += 1
        return batch

    def _start_epoch(self, epoch):
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)
        elif hasattr(self.data, "on_epoch_end"):
            for _ in range(epoch - self.epoch):
                self.data.on_epoch_end()
        elif _is_map_dataset(self.data):  # which has the next epoch after its end
            self._offset = epoch * self.length
        self.epoch, self.iterator = epoch, None

    def chunks(self, rows):
        """Yields all examples of the first epoch: arrays in their own order, so many rows at a
        time, other data in batches; without random access only the first batch. Each batch comes
        with the numbers of its examples, see `rows`.
        """
        if self.is_arrays:
            for start in range(0, self.data.count, rows):
                numbers = np.arange(start, min(start + rows, self.data.count))
                yield numbers, self.data.take(numbers)
        elif self.indexable:
            for index in range(self.length):
                yield self.rows(0, index), self.get(0, index)
        else:
            yield None, self.get(0, 0)


@contextlib.contextmanager
def errors_of(*batches: BatchAccess):
    """A context that raises what reading one of them has raised, for what is raised in its place.

    TensorFlow, which reads them from a thread of its own, raises another error.
    """
    try:
        yield
    except Exception:
        for access in batches:
            if access.problem is not None:
                raise access.problem from None
        raise


class _Arrays:
    """Batches of `(x, y)` or `(x, y, weights)`, in an order that seed and epoch determine."""

    def __init__(self, x, y, weights=None, *, batch_size, seed=None):
        parts = (x, y) if weights is None else (x, y, weights)
        # Rows of labels, and numbers of KerasHub's preprocessors, may be lists.
        self.x, *self.rest = (_as_arrays(x), *(_as_array(part) for part in parts[1:]))
        self.batch_size, self.seed = batch_size, seed
        sizes = {len(part) for part in [*self._parts(self.x), *self.rest]}
        if len(sizes) != 1:
            raise ValueError(f"Arrays must have one length. Received lengths: {sorted(sizes)}")
        self.count = sizes.pop()
        self.set_epoch(0)

    @staticmethod
    def _parts(x):
        if isinstance(x, dict):
            return list(x.values())
        return list(x) if isinstance(x, (list, tuple)) else [x]

    def set_epoch(self, epoch):
        seed = [self.seed, epoch]
        if self.seed is None:
            self.order = None
        elif self.count <= _MOST_ROWS:
            self.order = np.random.default_rng(seed).permutation(self.count)
        else:
            self.order = Permutation(self.count, seed)

    def __len__(self):
        return math.ceil(self.count / self.batch_size)

    def __getitem__(self, index):
        return self.take(self.rows_of(index))

    def rows_of(self, index):
        """The rows of a batch."""
        start = index * self.batch_size
        stop = min(start + self.batch_size, self.count)
        return np.arange(start, stop) if self.order is None else self.order[start:stop]

    def take(self, rows):
        """A batch of these rows."""
        if isinstance(self.x, dict):
            x = {key: part[rows] for key, part in self.x.items()}
        elif isinstance(self.x, (list, tuple)):
            x = tuple(part[rows] for part in self.x)
        else:
            x = self.x[rows]
        return (x, *(part[rows] for part in self.rest))


def _is_map_dataset(data):
    kind = getattr(sys.modules.get("grain"), "MapDataset", None)
    return kind is not None and isinstance(data, kind)


def as_sequence(data, model, batch_size=32):
    """Wraps data in what the Keras in use takes to evaluate `model`; `None` stays `None`."""
    if data is None:
        return None
    batches = data if isinstance(data, BatchAccess) else BatchAccess(data, batch_size)

    class _Sequence(keras.utils.Sequence):
        def __len__(self):
            return batches.length

        def __getitem__(self, index):
            return part_of_worker(batches.get(0, index))

    def stream():
        return (batches.get(0, index) for index in range(batches.length))

    dataset = as_dataset(stream, batches.first, model, batches.length)
    return _Sequence() if dataset is None else dataset


def _as_arrays(x):
    if isinstance(x, dict):
        return {key: _as_arrays(part) for key, part in x.items()}
    if isinstance(x, (list, tuple)):
        return tuple(map(_as_arrays, x))
    return _as_array(x)


def _as_array(x):
    if hasattr(x, "numpy"):  # TensorFlow's tensors, say, take no list of rows
        return to_numpy(x)
    # pandas' columns take rows by their label, not by their number.
    return np.asarray(x) if isinstance(x, list) or hasattr(x, "iloc") else x


def _are_arrays(data):
    """Whether `data` are `(x, y)` or `(x, y, sample_weight)`, and not a tuple of batches."""
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        return False
    return _is_array(data[1]) and (len(data) == 2 or data[2] is None or _is_array(data[2]))


def _is_array(value):
    if isinstance(value, list):  # of labels, or of rows of them
        rows = value if all(isinstance(row, (list, tuple)) for row in value) else [value]
        return all(isinstance(one, (numbers.Real, np.bool_, str)) for row in rows for one in row)
    return hasattr(value, "shape") and hasattr(value, "__getitem__")


def named_leaves(batch) -> dict[str, np.ndarray]:
    """The arrays of a batch: `input` (`input[0]`, `input['name']`), `labels` and `weights`."""
    inputs, *rest = batch
    leaves = dict(_leaves(inputs, "input"))
    for name, part in zip(("labels", "weights"), rest):
        leaves.update(_leaves(part, name))
    return leaves


def _leaves(part, name):
    if isinstance(part, dict):
        for key, value in part.items():
            yield from _leaves(value, f"{name}[{key!r}]")
    elif isinstance(part, (list, tuple)):
        for number, value in enumerate(part):
            yield from _leaves(value, f"{name}[{number}]")
    elif part is not None:
        yield name, np.asarray(to_numpy(part) if hasattr(part, "numpy") else part)


def _size(batch):
    """The number of examples in a batch."""
    part = batch[0]
    while isinstance(part, (dict, list, tuple)):
        part = next(iter(part.values() if isinstance(part, dict) else part))
    return len(part)
