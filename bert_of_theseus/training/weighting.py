"""Weights of examples by their class, as `class_weight` of Keras' `fit`, on every backend.

Keras 3 takes no `class_weight` with batches of a generator, which `fit` trains on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..backend import keras
from ..validation import is_integer, number
from .feed import named_leaves


class ClassWeights:
    """Function of a batch: the same with the weights of its examples' classes.

    Args:
        class_weight: Dict from classes, integers, to weights. Other classes have the weight 1.
        model: Keras model with one output, `(batch_size, ..., classes)`.

    Raises:
        TypeError, ValueError: if `class_weight` is no such dict.
    """

    def __init__(self, class_weight: Mapping, model: keras.Model):
        if not isinstance(class_weight, Mapping) or not class_weight:
            raise TypeError(
                "`class_weight` must be a dict from classes to weights. Received: "
                f"{class_weight!r} (of type {type(class_weight).__name__})"
            )
        if len(model.outputs) != 1:
            raise ValueError(
                f"`class_weight` needs a model with one output. Received: {len(model.outputs)}"
            )
        shape = tuple(model.outputs[0].shape)
        count = 2 if shape[-1] == 1 else shape[-1]  # one output: of the second of two classes
        for key, value in class_weight.items():
            number(f"class_weight[{key!r}]", value)
            if not is_integer(key) or not 0 <= key < (count or np.inf):
                raise ValueError(
                    f"`class_weight` must have classes as keys, integers from 0 to {count - 1}. "
                    f"Received: {key!r}"
                )
        self.ndim, self.width = len(shape), shape[-1]
        # One more, for classes beyond a number that is not known.
        self.table = np.ones((count or 1 + max(class_weight)) + 1, "float32")
        self.table[list(class_weight)] = list(class_weight.values())

    @property
    def settings(self) -> list:
        """The weights of all classes."""
        return self.table[:-1].tolist()

    def __call__(self, batch):
        inputs, labels = batch[:2]
        weights = self.table[self._classes(named_leaves(batch)["labels"])]
        if len(batch) > 2 and batch[2] is not None:
            given = named_leaves(batch)["weights"].astype("float32")
            weights = weights * given.reshape(given.shape + (1,) * (weights.ndim - given.ndim))
        return inputs, labels, weights

    def _classes(self, labels):
        if labels.ndim == self.ndim and labels.shape[-1] == 1:
            labels = labels[..., 0]
        elif labels.ndim == self.ndim:
            if not ((labels == 0) | (labels == 1)).all() or (labels.sum(-1) != 1).any():
                raise ValueError(
                    "With `class_weight`, the labels must be classes or one-hot: one class for "
                    "each example. Use sample weights, (x, y, sample_weight), instead."
                )
            return labels.argmax(-1)
        return np.clip(labels.astype("int64"), 0, len(self.table) - 1)
