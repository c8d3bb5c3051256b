"""How long the successor is trained, where the user does not say."""

from __future__ import annotations

import math

from ..validation import number, positive_integer

# Few texts need more passes, many texts fewer.
_STEPS, _MOST_EPOCHS, _FEWEST_EPOCHS = 1500, 20, 3
# So that a killed run has at most so many steps to repeat.
_STEPS_PER_EVALUATION = 1000


def default_stages(
    num_texts: int,
    batch_size: int = 32,
    epochs: int | None = None,
    learning_rate: float | None = None,
) -> dict[str, dict]:
    """The arguments of `Stage` for `compress`, by name of the stage.

    Args:
        num_texts: Integer, the number of texts to train on.
        batch_size: Integer. Defaults to `32`.
        epochs: Integer, those of the Theseus stage; the successor's has half of them. Defaults to
            `None`: 3 passes, or more where that would be few steps.
        learning_rate: Float, of the Theseus stage; the successor's is half of it. Defaults to
            `1e-4`.
    """
    positive_integer("batch_size", batch_size)
    positive_integer("epochs", epochs, optional=True)
    steps = math.ceil(num_texts / batch_size)
    if epochs is None:
        epochs = min(max(_FEWEST_EPOCHS, math.ceil(_STEPS / steps)), _MOST_EPOCHS)
    learning_rate = 1e-4 if learning_rate is None else learning_rate
    number("learning_rate", learning_rate, "(0, inf)")
    often = max(1, round(steps / _STEPS_PER_EVALUATION))
    return {
        name: {
            "epochs": max(1, round(epochs * share)),
            "learning_rate": learning_rate * share,
            "evaluations_per_epoch": often,
        }
        for name, share in (("theseus", 1.0), ("successor", 0.5))
    }
