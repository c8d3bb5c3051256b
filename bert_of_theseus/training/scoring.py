"""Scores of a model on data: the numbers by which the best weights are chosen."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from ..backend import input_structure, keras
from ..distribution import strategy_scope
from .feed import as_sequence


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
        loss, metrics, monitor, score, batch_size: As in `fit`.

    Returns:
        The score, a float.
    """
    return evaluator(model, loss, metrics, monitor, score, batch_size)(data)


def evaluator(model, loss, metrics, monitor, score, batch_size) -> Callable:
    """`evaluate` as a function of the data alone. Keras traces it once for all data."""
    if score is not None:
        return lambda data: float(score(model, data))
    copy = uncompiled(model)
    copy.compile(loss=loss, metrics=[fresh(metric) for metric in metrics])
    name = (monitor or _first_name(metrics)).removeprefix("val_")

    def run(data):
        batches = as_sequence(data, copy, batch_size)
        return float(copy.evaluate(batches, verbose=0, return_dict=True)[name])

    return run


def predict(model, batches):
    """The outputs of `model` for all `batches`, in order: an array, `(num_examples, ...)`."""
    return model.predict(as_sequence(batches, model), verbose=0)


def uncompiled(model: keras.Model) -> keras.Model:
    """A model of the same layers and weights, without loss and optimizer."""
    outputs = model.outputs[0] if len(model.outputs) == 1 else model.output
    return keras.Model(input_structure(model), outputs, name=model.name)


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
    first = metrics[0] if metrics else "loss"
    return first if isinstance(first, str) else getattr(first, "name", None) or first.__name__
