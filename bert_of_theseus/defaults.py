"""What a stage of training gets where nothing is given: passes, evaluations and learning rate.

One rule for `compress`, the commands, the scripts and the benchmarks. It is for pretrained weights:
random ones take a higher learning rate. Needs no Keras.
"""

from __future__ import annotations

import collections
import math

# By name of the stage: the learning rate at hidden size 768, with batches of 32 and 1,000 steps
# (that of the warm start whatever its steps), and the passes, as a share of those that the number
# of examples asks for. A model that is fine-tuned directly is trained as a predecessor.
_STAGES = {
    "predecessor": (5e-5, 1.0),
    "warm_start": (1e-3, 1.0),
    "theseus": (1e-4, 0.5),
    "successor": (5e-5, 0.5),
}
_HIDDEN_SIZE, _BATCH_SIZE, _STEPS = 768, 32, 1000
_OF_STEPS = 0.25, (0.5, 2.0)  # the exponent of fewer steps, and the bounds of what comes of it
_LOWEST, _HIGHEST = 1e-6, 1e-2
# Few examples need more passes, many fewer.
_FEWEST_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 1500, 3, 20
# So many steps of a warm start are a small part of a large training.
_WARM_START_STEPS = 2000
# Noise takes steps to learn from. It helped with 1,500 and 2,000 of them, and harmed with 180.
_NOISE, _STEPS_FOR_NOISE = 0.2, 1000
# So that a killed run has at most so many steps to repeat.
_STEPS_PER_EVALUATION = 1000


def default_epochs(name: str, steps_per_epoch: int, theseus_epochs: int | None = None) -> int:
    """Passes over the training data.

    Args:
        name: String, the stage of `compress`: `"predecessor"`, which any model is that is
            fine-tuned, `"warm_start"`, `"theseus"` or `"successor"`.
        steps_per_epoch: Integer, the number of batches.
        theseus_epochs: Integer, those of the Theseus stage, where they are given: others are in
            proportion. Defaults to `None`: the predecessor has 3, or more, up to 20, where that
            would be few steps.
    """
    if theseus_epochs is None:
        passes = math.ceil(_FEWEST_STEPS / steps_per_epoch)
        passes = min(max(_FEWEST_EPOCHS, passes), _MOST_EPOCHS)
    else:
        passes = theseus_epochs / _STAGES["theseus"][1]
    # Halves are rounded up.
    return max(1, math.floor(passes * _STAGES[name][1] + 0.5))


def default_steps(name: str) -> int | None:
    """The most steps of a stage whose epochs are not given; `None` for no limit."""
    return _WARM_START_STEPS if name == "warm_start" else None


def default_noise(steps: int) -> float:
    """The share of tokens that a warm start of so many steps replaces, see `TokenNoise`."""
    return _NOISE if steps >= _STEPS_FOR_NOISE else 0.0


def num_steps(epochs: int, steps_per_epoch: int, limit: int | None) -> int:
    """The steps of so many passes, or of as many as the limit allows."""
    return min(epochs * steps_per_epoch, limit or math.inf)


def default_evaluations(steps_per_epoch: int) -> int:
    """Evaluations per epoch: more than one only where an epoch is long."""
    return max(1, round(steps_per_epoch / _STEPS_PER_EVALUATION))


def default_learning_rate(name: str, hidden_size: int, batch_size: int, steps: int) -> float:
    """The peak of the learning rate, in two digits, so that it can be given again as it is printed.

    Args:
        name: String, the stage, as in `default_epochs`.
        hidden_size: Integer. Wider models take smaller steps.
        batch_size: Integer. Larger batches have less noise, so they take larger steps.
        steps: Integer, of the whole stage. The fewer they are, the larger they must be, but for
            the warm start's, which are large already.
    """
    exponent, (low, high) = _OF_STEPS
    rate = _STAGES[name][0] * _HIDDEN_SIZE / hidden_size * math.sqrt(batch_size / _BATCH_SIZE)
    if name != "warm_start":
        rate *= min(max((_STEPS / steps) ** exponent, low), high)
    return in_two_digits(rate)


def in_two_digits(learning_rate: float) -> float:
    """The learning rate within its bounds, as it is printed."""
    return float(f"{min(max(learning_rate, _LOWEST), _HIGHEST):.1e}")


def find_hidden_size(model) -> int | None:
    """The last axis that most vectors and matrices of `model` have; `None` if it has none.

    Most layers of an encoder return hidden states, so embeddings, normalization weights and most
    kernels and biases end in as many numbers; those of intermediate layers, of attention heads and
    of the classifier are fewer. Frozen ones count: the size is the same whatever is trained. Of two
    that are equally frequent it is the larger one, which means the smaller learning rate.
    """
    sizes = collections.Counter(
        int(weight.shape[-1])
        for weight in model.weights
        if len(weight.shape) in (1, 2) and "float" in str(weight.dtype)
    )
    return max(sizes, key=lambda size: (sizes[size], size), default=None)
