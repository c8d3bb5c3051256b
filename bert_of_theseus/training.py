"""One stage of training: optimizer, learning rate, and the weights that did best."""

import os
from pathlib import Path

from bert_of_theseus.backend import keras, ops, register

__all__ = ["KeepBest", "WarmupLinearDecay", "as_sequence", "fit", "predict"]


@register
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to its peak and falls linearly to 0, as BERT's does.

    Args:
        learning_rate: the peak.
        total_steps: when it reaches 0.
        warmup_steps: when it reaches the peak.
    """

    def __init__(self, learning_rate: float, total_steps: int, warmup_steps: int = 0):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "warmup_steps should be at least 0 and less than total_steps. Received: "
                f"{warmup_steps}, {total_steps}."
            )
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        # Step 0 already learns something: its rate is that of the end of the step.
        rise = (step + 1.0) / (self.warmup_steps + 1.0)
        fall = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        return self.learning_rate * ops.maximum(ops.minimum(rise, fall), 0.0)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best validation accuracy, on disk.

    The file is replaced in one step, so it holds whole weights at any time, also if training is
    interrupted. At the end of training the model gets these weights.

    Args:
        path: the file, `*.weights.h5`.
        model: whose weights to keep; default the model that is trained. A Theseus model's
            successor, say.

    Attributes:
        best: the best validation accuracy so far, or `None`.
    """

    def __init__(self, path: str | os.PathLike, model=None):
        super().__init__()
        self.path = Path(path)
        self.best = None
        self._kept = model

    def on_train_begin(self, logs=None):
        kept = self._kept or self.model
        # A model without an optimizer, whose state Keras 2 would write into the file too.
        self._weights = keras.Model(kept.inputs, kept.outputs)

    def on_epoch_end(self, epoch, logs=None):
        if self.best is None or logs["val_accuracy"] > self.best:
            self.best = float(logs["val_accuracy"])
            scratch = self.path.with_name(f"unfinished-{self.path.name}")
            self._weights.save_weights(str(scratch))
            os.replace(scratch, self.path)

    def on_train_end(self, logs=None):
        if self.best is not None:
            self._weights.load_weights(str(self.path))


def as_sequence(batches):
    """Wraps an indexable of batches as the `Sequence` that this Keras' `fit` takes."""

    class _Sequence(keras.utils.Sequence):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            inputs, labels = batches[index]
            return tuple(inputs), labels

        def on_epoch_end(self):
            batches.on_epoch_end()

    return _Sequence()


def fit(
    model,
    train,
    validation,
    *,
    epochs: int,
    learning_rate: float,
    path: str | os.PathLike,
    kept=None,
    warmup_fraction: float = 0.1,
    callbacks=(),
) -> dict[str, list[float]]:
    """Compiles and trains a classifier, and leaves it with its best epoch's weights.

    Adam, with a learning rate that warms up and then falls to 0; the loss is cross-entropy.

    Args:
        model: a Keras model from token and segment ids to class probabilities.
        train, validation: `data.Batches`. The best epoch is the one with the highest accuracy on
            `validation`.
        epochs: passes over `train`.
        learning_rate: the peak.
        path: where the best weights are kept, `*.weights.h5`.
        kept: the model whose weights are kept; default `model`.
        warmup_fraction: share of all steps in which the learning rate rises.
        callbacks: further Keras callbacks.

    Returns:
        What Keras logs, by name, one number an epoch.
    """
    steps = epochs * len(train)
    schedule = WarmupLinearDecay(learning_rate, steps, int(warmup_fraction * steps))
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        as_sequence(train),
        validation_data=as_sequence(validation),
        epochs=epochs,
        # `train` draws its batches itself, with its own seed.
        shuffle=False,
        callbacks=[KeepBest(path, kept), *callbacks],
    )
    return {name: [float(v) for v in values] for name, values in history.history.items()}


def predict(model, batches):
    """Class probabilities of all texts in `batches`, in their order: `(num_texts, num_classes)`."""
    return model.predict(as_sequence(batches))
