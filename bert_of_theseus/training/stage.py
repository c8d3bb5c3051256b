"""How one stage is trained: its settings, learning rate and optimizer, and its result."""

from __future__ import annotations

import dataclasses
import math

from ..backend import keras, ops, register
from ..defaults import (
    default_epochs,
    default_evaluations,
    default_learning_rate,
    default_steps,
    find_hidden_size,
    num_steps,
)
from ..optimizer import Adam, AdamW
from ..validation import number, one_of, positive_integer

_DECAYS = ("linear", "cosine", "constant")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Settings of one training stage: AdamW, a warm-up and decay of the learning rate, clipping.

    Args:
        epochs: Integer, the maximum number of passes over the training data. Defaults to `None`:
            as many as make 1,500 steps, but from 3 to 20 (the successor's own stage: half of them,
            the warm start: 0.4 of them).
        learning_rate: Float, the peak. Defaults to `None`: by the stage, the hidden size, the batch
            size and the number of steps, see `defaults.default_learning_rate`. It is meant for
            pretrained weights.
        warmup_fraction: Float in [0, 1), the share of all steps in which the learning rate rises
            from 0. Defaults to `0.1`.
        decay: `"linear"` or `"cosine"`, to 0 at the last step, or `"constant"`. Defaults to
            `"linear"`.
        weight_decay: Float, decoupled (AdamW); 0 means plain Adam. Only matrices and embeddings
            decay; biases and the weights of normalization layers do not. Defaults to `0.01`.
        clip_norm: Float, the maximum global norm of the gradients of the trained weights; `None`
            for no limit. Keras 3 clips the gradients of each replica of a `MirroredStrategy`
            before it adds them. Defaults to `1.0`.
        evaluations_per_epoch: Integer. Each evaluation scores the model, keeps its weights if
            they are the best so far, and writes a checkpoint. Defaults to `None`: one for 1,000
            steps, at least one.
        patience: Integer, the number of evaluations without a better score after which the stage
            ends. The score that the stage begins with counts, where it is known (`initial_score` of
            `fit`). Defaults to `None`, no early stop.
        steps: Integer, at most so many. They are divided into equal parts, each with an evaluation
            at its end, as many as the epochs that they touch would have; what is left over is left
            out. Epochs that are not given are as many as hold them. Defaults to `None`, no limit;
            for a warm start whose epochs are not given, to 2,000.

    Raises:
        TypeError: if an argument is not a number, or not an integer where it must be one.
        ValueError: if an argument is out of its range.

    Example:

    >>> Stage(epochs=3, learning_rate=5e-5, patience=2)
    """

    epochs: int | None = None
    learning_rate: float | None = None
    warmup_fraction: float = 0.1
    decay: str = "linear"
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    evaluations_per_epoch: int | None = None
    patience: int | None = None
    steps: int | None = None

    def __post_init__(self):
        positive_integer("epochs", self.epochs, optional=True)
        if self.learning_rate is not None:
            number("learning_rate", self.learning_rate, "(0, inf)", "or None for the default")
        number("warmup_fraction", self.warmup_fraction, "[0, 1)")
        one_of("decay", self.decay, _DECAYS)
        number("weight_decay", self.weight_decay)
        if self.clip_norm is not None:
            number("clip_norm", self.clip_norm, "(0, inf)", "or None for no limit")
        positive_integer("evaluations_per_epoch", self.evaluations_per_epoch, optional=True)
        positive_integer("steps", self.steps, optional=True)
        positive_integer("patience", self.patience, optional=True)

    def resolved(self, name: str, model: keras.Model, batches) -> Stage:
        """A stage with a value for everything: what is `None` gets its default.

        Args:
            name: String, the kind of stage, as in `defaults.default_epochs`.
            model: Keras model, for its hidden size.
            batches: `BatchAccess`, the training data.

        Raises:
            ValueError: if the model does not tell its hidden size, and the learning rate is `None`.
        """
        found = dataclasses.replace(
            self,
            epochs=self.epochs or self._epochs(name, batches.length),
            steps=self.steps if self.epochs or self.steps else default_steps(name),
            evaluations_per_epoch=self.evaluations_per_epoch or default_evaluations(batches.length),
        )
        if self.learning_rate is not None:
            return found
        hidden_size = find_hidden_size(model)
        if hidden_size is None:
            raise ValueError(
                "`learning_rate` must be given to `Stage` for this model: the default follows from "
                "the hidden size, which most vectors and matrices of a model end in, and this one "
                "has none. Received: None"
            )
        steps = found.num_steps(batches.length)
        rate = default_learning_rate(name, hidden_size, batches.batch_size, steps)
        return dataclasses.replace(found, learning_rate=rate)

    def num_steps(self, steps_per_epoch: int) -> int:
        """The steps of all epochs, or up to the limit."""
        return num_steps(self.epochs, steps_per_epoch, self.steps)

    def _epochs(self, name, steps_per_epoch):
        if self.steps is not None:
            return math.ceil(self.steps / steps_per_epoch)
        return default_epochs(name, steps_per_epoch)


@dataclasses.dataclass
class StageResult:
    """Outcome of one training stage.

    Attributes:
        name: String.
        history: Dict of lists with one entry per evaluation: `step`, `loss`, the metrics, both
            also on the validation data with the prefix `val_`, `replacement_rate`, `seconds`.
        monitor: String, the entry of `history` by which the best weights were chosen, or `None`.
        best_step: Integer, the step whose weights were kept. 0 if no evaluation improved on the
            initial weights, see `initial_score` in `fit`.
        score: Float, the score of the kept weights, or `None` without validation data.
        seconds, cpu_seconds: Floats, time spent, summed over all runs of an interrupted stage.
        stopped_early: Boolean. Whether `patience` ended the stage.
    """

    name: str
    history: dict
    monitor: str | None
    best_step: int
    score: float | None
    seconds: float
    cpu_seconds: float
    stopped_early: bool = False


@register
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate with BERT's linear warm-up to a peak, followed by a decay.

    Args:
        learning_rate: Float, the peak.
        total_steps: Integer, the step at which it reaches 0.
        warmup_steps: Integer, the step at which it reaches the peak. Defaults to `0`.
        decay: `"linear"`, `"cosine"` or `"constant"`. Defaults to `"linear"`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self, learning_rate: float, total_steps: int, warmup_steps: int = 0, decay: str = "linear"
    ):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "`warmup_steps` must be at least 0 and less than `total_steps`. Received: "
                f"{warmup_steps}, {total_steps}."
            )
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.decay = one_of("decay", decay, _DECAYS)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        # `+ 1`, so that step 0 trains too: each step has the rate of its end.
        rise = (step + 1.0) / (self.warmup_steps + 1.0)
        left = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        left = ops.maximum(ops.minimum(left, 1.0), 0.0)
        fall = {
            "linear": left,
            "cosine": (1.0 - ops.cos(math.pi * left)) / 2.0,
            "constant": ops.ones_like(left),
        }[self.decay]
        return self.learning_rate * ops.minimum(rise, fall)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "decay": self.decay,
        }


def build_optimizer(stage: Stage, model: keras.Model, total_steps: int):
    """Builds the optimizer of a resolved `stage` for the trainable weights of `model`."""
    warmup = min(int(stage.warmup_fraction * total_steps), total_steps - 1)
    rate = WarmupDecay(stage.learning_rate, total_steps, warmup, stage.decay)
    if not stage.weight_decay:
        return Adam(rate, global_clipnorm=stage.clip_norm)
    optimizer = AdamW(rate, weight_decay=stage.weight_decay, global_clipnorm=stage.clip_norm)
    vectors = [weight for weight in model.trainable_variables if len(weight.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=vectors)
    return optimizer
