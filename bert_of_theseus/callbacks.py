"""`ReplacementRateScheduler`: sets the replacement rate while a model with choices trains."""

import numpy as np

from .backend import keras, to_numpy
from .layers import choice_layers, set_replacement_rate


class ReplacementRateScheduler(keras.callbacks.Callback):
    """Sets the replacement rate at the start of each training batch.

    The step is `optimizer.iterations`, so a resumed run continues where it was, if it restores
    the optimizer. The mean rate is logged as `replacement_rate`, for the progress bar, TensorBoard
    and CSV; put this callback before loggers. Keras 2's progress bar averages it over the epoch,
    as everything that is not a metric of the model.

    Args:
        schedule: Function of the step that returns a rate in [0, 1], or a list with a rate per
            choice, in the model's order: a `ReplacementSchedule`, or any callable.

    Raises:
        TypeError: if `schedule` is not callable.
        ValueError: in `fit`, if the model holds no choice layer, or if the schedule is a
            fraction of a training of unknown length.

    Example:

    >>> schedule = LinearReplacement(0.5, fraction=0.75)
    >>> theseus.fit(x, y, callbacks=[ReplacementRateScheduler(schedule)])
    """

    def __init__(self, schedule):
        super().__init__()
        if not callable(schedule):
            raise TypeError(
                "`schedule` must be a function of the step, such as LinearReplacement(0.5, "
                f"fraction=0.75). Received: {schedule!r}"
            )
        self.schedule = schedule
        self._current = schedule

    def set_model(self, model):
        super().set_model(model)
        # Once, since walking a model takes time. Raises if there is nothing to schedule.
        self._choices = choice_layers(model)

    def on_train_begin(self, logs=None):
        self._current = self.schedule
        if getattr(self.schedule, "fraction", None) is None:
            return
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs:
            raise ValueError(
                f"{self.schedule!r} is a fraction of the training, whose length is not known: "
                "pass `steps_per_epoch` to fit, or give the schedule `steps`."
            )
        # With gradient accumulation the optimizer counts an update, not every batch.
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        every = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        self._current = self.schedule.bind(max(1, steps * epochs // every))

    def on_train_batch_begin(self, batch, logs=None):
        # Through `self.model`: on JAX, that puts the weights back into the optimizer first.
        rate = self._current(int(to_numpy(self.model.optimizer.iterations)))
        set_replacement_rate(self._choices, rate)
        # Kept, since Keras on JAX takes the weights out of the model between batches.
        self._rate = float(np.mean(rate))

    def on_train_batch_end(self, batch, logs=None):
        if logs is not None:
            logs["replacement_rate"] = self._rate

    on_epoch_end = on_train_batch_end
