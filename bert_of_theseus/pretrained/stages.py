"""How long the successor is trained, where the user does not say."""

from __future__ import annotations

import math

from ..defaults import (
    default_epochs,
    default_evaluations,
    default_learning_rate,
    default_steps,
    in_two_digits,
    num_steps,
)
from ..validation import number, positive_integer


def default_stages(
    num_texts: int,
    hidden_size: int,
    batch_size: int = 32,
    epochs: int | None = None,
    learning_rate: float | None = None,
) -> dict[str, dict]:
    """The arguments of `Stage` for `compress`, by name of the stage: those that it finds by itself.

    They are known before Keras is loaded.

    Args:
        num_texts: Integer, the number of texts to train on.
        hidden_size: Integer, the model's.
        batch_size: Integer. Defaults to `32`.
        epochs: Integer, those of the Theseus stage. Defaults to `None`, as in `Stage`.
        learning_rate: Float, of the Theseus stage. Those of the other stages change as much from
            their defaults. Defaults to `None`, as in `Stage`.
    """
    positive_integer("batch_size", batch_size)
    positive_integer("epochs", epochs, optional=True)
    if learning_rate is not None:
        number("learning_rate", learning_rate, "(0, inf)")
    steps = math.ceil(num_texts / batch_size)
    stages = {}
    for name in ("warm_start", "theseus", "successor"):
        passes, limit = default_epochs(name, steps, epochs), default_steps(name)
        count = num_steps(passes, steps, limit)
        stages[name] = {
            "epochs": passes,
            "learning_rate": default_learning_rate(name, hidden_size, batch_size, count),
            "evaluations_per_epoch": default_evaluations(steps),
            "steps": limit,
        }
    if learning_rate is not None:
        change = learning_rate / stages["theseus"]["learning_rate"]
        for stage in stages.values():
            stage["learning_rate"] = in_two_digits(change * stage["learning_rate"])
        stages["theseus"]["learning_rate"] = learning_rate
    return stages
