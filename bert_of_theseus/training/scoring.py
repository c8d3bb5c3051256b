"""Scores of a model on data: the numbers by which the best weights are chosen."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from ..backend import AVERAGES_EXAMPLES, get_mask, input_structure, keras
from ..distribution import strategy_scope, workers_have_parts
from ..statistics import Score
from .examples import hashes_of_examples
from .feed import BatchAccess, as_sequence, errors_of, named_leaves

# What is right by Keras' accuracies, by their names without underscores.
_KINDS = {
    "sparsecategoricalaccuracy": "sparse",
    "categoricalaccuracy": "categorical",
    "binaryaccuracy": "binary",
}


def in_strategy_of_model(function):
    """Runs `function(model, ...)` in the `tf.distribute` strategy that `model` was built in."""

    @functools.wraps(function)
    def run(model, *args, **kwargs):
        with strategy_scope(model):
            return function(model, *args, **kwargs)

    return run


@in_strategy_of_model
def evaluate(
    model,
    data,
    *,
    loss="sparse_categorical_crossentropy",
    metrics=("accuracy",),
    monitor: str | None = None,
    score: Callable | None = None,
    batch_size: int = 32,
) -> float:
    """Scores `model` on `data` as `fit` does on its validation data.

    Args:
        model: Keras model, compiled or not. It is not changed.
        data: As in `fit`.
        loss, metrics, monitor, score, batch_size: As in `fit`. The loss is without regularizers.

    Returns:
        The score, a float. Of Keras' accuracies of classes, or where `score` returns one, it is a
        `statistics.Score`: two of them can be compared, see `statistics.compare`.
    """
    return evaluator(model, loss, metrics, monitor, score, batch_size)(data)


def evaluator(model, loss, metrics, monitor, score, batch_size) -> Callable:
    """`evaluate` as a function of the data alone, or of their `BatchAccess`, which may check them.

    Keras traces it once for all data.
    """
    if score is not None:
        return lambda data: _as_float(
            score(model, data.given if isinstance(data, BatchAccess) else data)
        )
    copy = uncompiled(model, _WithoutAddedLosses)
    copy.compile(loss=loss, metrics=[fresh(metric) for metric in metrics])
    name = (monitor or _first_name(metrics)).removeprefix("val_")
    metric = next((metric for metric in metrics if _name(metric) == name), None)

    def run(data):
        batches = data if isinstance(data, BatchAccess) else BatchAccess(data, batch_size)
        found = _accuracy(copy, batches, metric)
        if found is not None:
            return found
        with errors_of(batches), strategy_scope(copy):
            found = copy.evaluate(as_sequence(batches, copy), verbose=0, return_dict=True)
        return float(found[name])

    return run


def check_scored(score, data, name: str) -> None:
    """Raises a `TypeError` if `score` is that of a task, which cannot read these data."""
    check = getattr(getattr(score, "__self__", None), "check_batches", None)
    if check is not None:
        check(data, name)


def _as_float(score):
    return score if isinstance(score, Score) else float(score)


def _accuracy(model, batches, metric) -> Score | None:
    """Keras' accuracy with its examples, in one pass; `None` if `metric` is no such accuracy."""
    kind, threshold = _kind_of_accuracy(metric)
    outputs = model.outputs
    # Keras 2 takes masked answers out.
    if kind is None or len(outputs) != 1 or get_mask(outputs[0]) is not None:
        return None
    rows, examples = [], []
    for index in range(batches.length):
        batch = batches.get(0, index)
        leaves = named_leaves(batch)
        examples.append(hashes_of_examples(leaves))
        found = np.asarray(model.predict_on_batch(batch[0]))
        # Several workers, and some strategies, answer to a batch several times.
        if "labels" not in leaves or len(found) != len(examples[-1]):
            return None
        is_right = _is_right(kind, threshold, leaves["labels"], found)
        if is_right is None:
            return None
        is_right = is_right.reshape(len(found), -1)
        weight = 1 if AVERAGES_EXAMPLES else is_right.shape[1]
        rows.append(np.stack([weight * is_right.mean(1), np.full(len(found), weight)], axis=1))
    # In an order of their own: data may be shuffled anew each time that they are read.
    examples = np.concatenate(examples)
    order = np.argsort(examples, kind="stable")
    rows = np.concatenate(rows)[order]
    right, count = rows.sum(0).astype("float32")  # as Keras divides them
    return Score(rows, value=right / count, examples=examples[order])


def _kind_of_accuracy(metric):
    """What is right by a Keras metric, and above which probability; `None` if it is another."""
    threshold = 0.5
    if isinstance(metric, str):
        name = metric
    else:
        is_object = isinstance(metric, keras.metrics.Metric)
        name = type(metric).__name__ if is_object else getattr(metric, "__name__", "")
        own = getattr(keras.metrics, name, None)
        if own is None or own is not (type(metric) if is_object else metric):
            return None, threshold
        threshold = metric.get_config().get("threshold", threshold) if is_object else threshold
    name = name.replace("_", "").lower()
    if isinstance(metric, str) and name in ("accuracy", "acc"):
        return "any", threshold
    return _KINDS.get(name), threshold


def _is_right(kind, threshold, labels, outputs):
    """Boolean array, whether each answer is right; `None` if shapes do not fit."""
    if outputs.ndim < 2:
        return None
    if kind == "any":  # as Keras chooses
        is_sparse = labels.ndim < outputs.ndim or labels.shape[-1] == 1
        kind = "sparse" if is_sparse else "categorical"
        kind = "binary" if outputs.shape[-1] == 1 else kind
    if kind == "binary":
        found = outputs > threshold
    else:
        found = outputs.argmax(-1)
        labels = labels.argmax(-1) if kind == "categorical" else labels
    return labels.reshape(found.shape) == found if labels.size == found.size else None


def predict(model, batches):
    """The outputs of `model` for all `batches`, in order: an array, `(num_examples, ...)`."""
    if workers_have_parts():  # each worker answers to all, a batch at a time
        batches = BatchAccess(batches, batch_size=32)
        inputs = (batches.get(0, index)[0] for index in range(batches.length))
        return np.concatenate([model.predict_on_batch(x) for x in inputs])
    return model.predict(as_sequence(batches, model), verbose=0)


def uncompiled(model: keras.Model, kind=keras.Model) -> keras.Model:
    """A model of the same layers and weights, a `kind`, without loss and optimizer."""
    outputs = model.outputs[0] if len(model.outputs) == 1 else model.output
    return kind(input_structure(model), outputs, name=model.name)


class _WithoutAddedLosses(keras.Model):
    """A model whose loss is that of its outputs alone, without regularizers."""

    @property
    def losses(self):
        return []


def measured_apart(model, kept, validation, loss, score, batch_size) -> dict:
    """The scores that Keras does not log itself: functions without arguments, by name.

    `validation` is a `BatchAccess` or `None`. Keras adds the regularizers to its `val_loss`: where
    there are any, it is measured anew.
    """
    found = {}
    if score is not None:
        given = None if validation is None else validation.given
        check_scored(score, given, "validation")
        found["val_score"] = functools.partial(score, kept, given)
    if loss is not None and validation is not None and model.losses:
        measure = evaluator(model, loss, (), "val_loss", None, batch_size)
        found["val_loss"] = functools.partial(measure, validation)
    return found


def default_monitor(validation, metrics, score) -> str | None:
    """The logged value that chooses the best weights, where `monitor` is not given."""
    if score is not None:
        return "val_score"
    return None if validation is None else f"val_{_first_name(metrics)}"


def lower_is_better(monitor: str | None) -> bool:
    """Whether the logged value `monitor` is better when it is lower."""
    return any(word in (monitor or "") for word in ("loss", "error"))


def is_better(score: float | None, best: float | None, monitor: str | None, ties=False) -> bool:
    """Whether `score` beats the `best` so far. NaN is the worst; `None`, unknown, always loses.

    Args:
        score: The new score, or `None` if there is no score: then the latest counts as the best.
        best: The best score so far, or `None` if there is none.
        monitor: Name of the score.
        ties: Boolean. Whether an equal score is better. Defaults to `False`.
    """
    if score is None or best is None:
        return True
    if math.isnan(score) or math.isnan(best):
        return not math.isnan(score)
    if lower_is_better(monitor):
        score, best = -score, -best
    return score > best or (ties and score == best)


def fresh(metric):
    """A new metric like `metric`: a metric object has state, and belongs to one model."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric


def _first_name(metrics):
    return _name(metrics[0]) if metrics else "loss"


def _name(metric):
    return metric if isinstance(metric, str) else getattr(metric, "name", None) or metric.__name__
