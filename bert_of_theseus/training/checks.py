"""Checks of examples against a model: ids within its embeddings, labels within its outputs.

No backend finds these by itself: an embedding of JAX or PyTorch takes an id from the other end or
clips it, a 64-bit id wraps, a label of 1.5 is cut, and a loss is 0 for a class that is not there.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from ..backend import input_structure, keras
from .examples import Range, join, summary
from .feed import BatchAccess, named_leaves

_SPARSE = ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy")
_PROBABILITIES = (
    *("binary_crossentropy", "BinaryCrossentropy"),
    *("categorical_crossentropy", "CategoricalCrossentropy"),
    *("binary_focal_crossentropy", "BinaryFocalCrossentropy"),
    *("categorical_focal_crossentropy", "CategoricalFocalCrossentropy"),
)


class Limits:
    """What the examples of `model` must be like.

    Args:
        model: Keras model.
        loss: As in `compile`. Labels are checked for cross-entropies, by their Keras names, and
            for losses with an attribute `ignore_class`, an integer label that does not count.

    Example:

    >>> limits = Limits(model, "sparse_categorical_crossentropy")
    >>> limits.check(BatchAccess(data, batch_size=32), "train")
    """

    def __init__(self, model: keras.Model, loss):
        self.rows = _rows_by_input(model)
        outputs = list(getattr(model, "outputs", None) or [])
        shape = tuple(outputs[0].shape) if len(outputs) == 1 else None
        kind = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
        self.ignored = getattr(loss, "ignore_class", None)
        if self.ignored is None and kind in _SPARSE and hasattr(loss, "get_config"):
            self.ignored = loss.get_config().get("ignore_class")
        self.sparse = shape is not None and (kind in _SPARSE or self.ignored is not None)
        self.probabilities = kind in _PROBABILITIES
        self.output_ndim, self.classes = (len(shape), shape[-1]) if shape else (None, None)

    def check(self, batches: BatchAccess, name: str) -> str:
        """Raises what does not fit in all examples, and from now on in each batch.

        Args:
            batches: `BatchAccess`.
            name: What the data are, for the error: `"train"`.

        Returns:
            What tells the examples from others, the `text` of their `Summary`.

        Raises:
            TypeError: if labels are strings.
            ValueError: if an id or a label is out of range; names it and its place.
        """
        batches.check = functools.partial(self._check_batch, name)
        found = summary(batches)
        if self._problem(found.ranges):
            before = 0
            for _, batch in batches.chunks(1 << 16):
                before += self._check_batch(name, batch, before)
        return found.text

    def _check_batch(self, name, batch, before=None):
        leaves = named_leaves(batch)
        size = len(next(iter(leaves.values())))
        # Other inputs may hold anything.
        checked = {k: v for k, v in leaves.items() if k in self.rows or not k.startswith("input")}
        problem = self._problem({key: join(None, key, leaf) for key, leaf in checked.items()})
        if problem is None:
            return size
        key, expected, kind = problem
        leaf = leaves[key]
        wrong = self._wrong(key, leaf)
        if not wrong.any():  # labels that do not count
            return size
        place = tuple(np.argwhere(wrong)[0].tolist())
        value = leaf[place].item() if isinstance(leaf[place], np.generic) else leaf[place]
        row = place[0] if before is None else before + place[0]
        where = f"example {row}" + (" of a batch" if before is None else "")
        raise kind(
            f"{_in_words(key)} of `{name}` must be {expected}. Received: {value!r} in {where}"
        )

    def _problem(self, ranges: dict[str, Range]):
        """What may be out of range first: its name, what it must be, and the error's class."""
        for key, found in ranges.items():
            if found.text is not None and key.startswith("labels"):
                return key, "numbers, not strings: give each class its index", TypeError
            bounds = self._bounds(key, found.ndim)
            if bounds is None or found.low > found.high:
                continue
            low, high, whole = bounds
            ignored = self.ignored if key == "labels" else None
            # -1 for no label is next to the classes, so no other number is let through.
            least = ignored if whole and ignored == low - 1 else low
            if not (least <= found.low and found.high <= high) or (whole and not found.whole):
                return key, _expected(*bounds, ignored), ValueError
        return None

    def _wrong(self, key, leaf):
        """Boolean array, true where `leaf` is out of range."""
        if leaf.dtype.kind in "OUS":
            return np.ones(leaf.shape, bool)
        low, high, whole = self._bounds(key, leaf.ndim)
        wrong = ~((low <= leaf) & (leaf <= high))
        if whole and leaf.dtype.kind == "f":
            wrong |= np.rint(leaf) != leaf
        return (
            wrong & (leaf != self.ignored)
            if key == "labels" and self.ignored is not None
            else wrong
        )

    def _bounds(self, key, ndim):
        """Smallest and largest value, and whether it is a whole number; `None`: anything goes."""
        if key in self.rows:
            return 0, self.rows[key] - 1, True
        if key == "weights":
            return 0, np.finfo("float64").max, False
        if key != "labels" or self.output_ndim is None:
            return None
        # Labels of as many dimensions as the outputs are distributions, but for a last one of 1.
        soft = self.probabilities or (self.ignored is not None and ndim == self.output_ndim)
        if soft:
            return 0, 1, False
        if not self.sparse:
            return None
        return 0, math.inf if self.classes is None else self.classes - 1, True


def _expected(low, high, whole, ignored):
    kind = "whole numbers" if whole else "numbers"
    if high == math.inf or high == np.finfo("float64").max:
        return f"finite {kind} of at least {low}"
    rest = "" if ignored is None else f", or {ignored}"
    return f"{kind} from {low} to {high}{rest}"


def _in_words(key):
    return {"labels": "The labels", "weights": "The sample weights"}.get(key, f"The ids ({key})")


# Embeddings.


def _rows_by_input(model) -> dict[str, int]:
    """The rows of the embeddings that look the ids of an input up, by name in `named_leaves`."""
    inputs = list(getattr(model, "inputs", None) or [])
    structure = input_structure(model) if inputs else None
    found = {}
    for number, tensor in enumerate(inputs):
        rows = _rows(model, tensor)
        if rows is None:
            continue
        keys = [number, getattr(tensor, "name", "").split(":")[0]]
        if isinstance(structure, dict):
            keys += [key for key, value in structure.items() if value is tensor]
        found.update({f"input[{key!r}]": rows for key in keys})
        if len(inputs) == 1:
            found["input"] = rows
    return found


def _rows(model, tensor):
    """The fewest rows of an embedding in `model` that takes `tensor`; `None` if there is none."""
    place, found = _place(tensor), []
    for layer in model.layers:
        for node in getattr(layer, "_inbound_nodes", ()):
            taken = getattr(node, "input_tensors", None)
            taken = _flat(taken if taken is not None else node.keras_inputs)
            places = [_place(one) for one in taken]
            if place in places:
                found.append(_rows_of_layer(layer, places.index(place), len(places)))
    return min((rows for rows in found if rows is not None), default=None)


def _rows_of_layer(layer, index, count):
    if isinstance(layer, keras.layers.Embedding):
        return int(layer.input_dim)
    inner = getattr(layer, "inputs", None)  # a model
    if inner is not None and isinstance(layer, keras.Model):
        inner = list(inner)
        return _rows(layer, inner[index]) if len(inner) == count else None
    for name in ("layer", "token_embedding"):  # `Frozen`, and KerasHub's embeddings
        inner = getattr(layer, name, None)
        if isinstance(inner, keras.layers.Layer):
            return _rows_of_layer(inner, index, count)
    return None


def _place(tensor):
    history = getattr(tensor, "_keras_history", None)
    return id(tensor) if history is None else (id(history[0]), *history[1:3])


def _flat(tensors):
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]


def check_labels(classifier, data, name) -> None:
    """Compares the names of the head's outputs with those of the data's classes, if both have any.

    Heads from `load_pretrained` have them, and batches from a task.
    """
    known, given = (tuple(getattr(part, "label_names", ())) for part in (classifier, data))
    if known and given and known != given and not all(n.startswith("LABEL_") for n in known):
        raise ValueError(
            f"`{name}` must have the labels of the head, in its order: {', '.join(known)}. "
            f"Received: {', '.join(given)}. data.load_texts and load_folder take them as `labels`."
        )
