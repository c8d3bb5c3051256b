"""One stage of training that can be killed at any moment and resumes from its last checkpoint.

A stage is cut into rounds, one per evaluation. Each round is a function of the weights, the
optimizer and the round's number alone: random generators are reseeded from the number, and batches
are found by position. So checkpoints are small, and a resumed stage ends with the same weights as
one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from ..backend import keras, reseed, to_numpy
from ..distribution import as_dataset, is_chief, part_of_worker, same_on_all_workers
from ..layers import get_replacement_rate, has_choices
from .answers import prepare_lessons
from .checkpoint import StageFolder, non_finite, run_lock
from .checks import Limits
from .examples import first_batch
from .feed import BatchAccess, Rounds, as_sequence, errors_of
from .identity import (
    architecture,
    described,
    split_weights,
    trained_values,
    versions,
    weights_checksum,
)
from .scoring import (
    default_monitor,
    fresh,
    in_strategy_of_model,
    is_better,
    measured_apart,
    uncompiled,
)
from .stage import Stage, StageResult, build_optimizer
from .weighting import ClassWeights


class NonFiniteLossError(ArithmeticError):
    """The loss, or a weight, became NaN or infinite."""


@in_strategy_of_model
def fit(
    model: keras.Model,
    train,
    validation=None,
    stage: Stage = Stage(),
    *,
    directory: str | os.PathLike,
    name: str | None = None,
    kept: keras.Model | None = None,
    loss="sparse_categorical_crossentropy",
    metrics=("accuracy",),
    monitor: str | None = None,
    score: Callable | None = None,
    initial_score: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    class_weight: dict | None = None,
    callbacks=(),
    settings: dict | None = None,
    answers: str | os.PathLike | None = None,
    tensorboard: bool = False,
    verbose="auto",
) -> StageResult:
    """Compiles and trains `model`, and leaves it with its best weights.

    After any interruption, the same call resumes from the last checkpoint. After the end of the
    stage, it loads the result. The same call means the same data, weights to begin with, models,
    loss and settings: the folder keeps checksums of all of them, and refuses others. For that the
    data are read once before the training; of an iterator, which has no random access, the first
    batch is, and so of data with a string `fingerprint`, such as `data.StoredBatches`.

    Of a model that `models.distil` built, the teacher answers all examples once, before the
    training, and does not run in its steps; callbacks see a model of the same inputs without it.
    The teacher runs in each step where the data do not tell which examples a batch holds, as an
    iterator, a `tf.data.Dataset`, a `Sequence` and a list of batches do not; where its outputs are
    per token, and the data do not tell how many tokens an example has; where the stage is shorter
    than an epoch; and with several workers.

    Args:
        model: Keras model. Only its trainable weights change.
        train: Training data: an object with a length and either indices or an iterator
            (`data.Batches`, `data.StoredBatches` for more than memory holds, a Keras `Sequence` or
            `PyDataset`, a `grain.MapDataset`, a `tf.data.Dataset` of known length, a list of
            batches), or a tuple of arrays `(x, y)` or `(x, y, sample_weight)`;
            batches may hold sample weights too. If it has a method `set_epoch`, that is called
            with the number of each epoch, from 0 on, so that every epoch can have an order of its
            own. A teacher answers once if it has a method `rows_of(index)`, as arrays and the
            batches of a task have: the numbers, from 0 on, of the examples in a batch of the epoch.
            Each example has the same number in all epochs, and occurs once in each. Where outputs
            are per token, and batches of several lengths, it also needs an attribute `lengths`, as
            `data.Batches` has: an array, the number of tokens of each example.
        validation: Validation data, in the same forms. Defaults to `None`: the last weights are
            kept.
        stage: `Stage`. What it leaves open gets the defaults of a Theseus stage if the model has
            choices, and those of plain fine-tuning otherwise.
        directory: Folder of this stage: checkpoint, best weights (`model.weights.h5`), result.
        name: String, for messages. Defaults to the folder's name.
        kept: Model whose weights are kept, such as the successor in a Theseus model. Defaults to
            `model`.
        loss, metrics: As in `compile`. Metrics may be strings, functions or Keras objects.
        monitor: String, the logged value that chooses the best weights, such as `"val_f1"`. Lower
            is better if its name contains "loss" or "error". `"val_loss"` is the loss of the
            outputs alone, without regularizers and other losses that layers add, so that models of
            unlike weights can be compared. Defaults to the first metric on the validation data, or
            the loss if there is no metric.
        score: Function of a model and data that returns a number, higher is better, for scores
            that are not Keras metrics. It is logged as `val_score`, the default of `monitor` then.
        initial_score: Float, the value of `monitor` for the initial weights. If no evaluation
            reaches it, they are kept and `best_step` is 0. Defaults to `None`, unknown: the
            first evaluation counts as better.
        seed: Integer, for dropout, the draws of replaced modules and the order of arrays.
        batch_size: Integer, for arrays only. Defaults to `32`.
        class_weight: Dict from classes, integers, to weights of their examples in the training
            loss. Sample weights are multiplied with them. Defaults to `None`.
        callbacks: Further Keras callbacks. Their state is not part of the checkpoint.
        settings: Dict of whatever else distinguishes this training from others: a folder with
            other settings is refused.
        answers: Folder of the answers of a distilled model's teacher, which several stages may
            share. Others are made where they are not those of this teacher to these examples.
            Defaults to `None`, `directory/answers`.
        tensorboard: Boolean. Whether to write logs for TensorBoard into `directory/logs`.
            Defaults to `False`.
        verbose: As in Keras' `fit`.

    Returns:
        A `StageResult`.

    Raises:
        NonFiniteLossError: if the loss or a weight becomes NaN or infinite. The message names
            step, replacement rate and checkpoint.
        InUseError: if another run uses the folder.
        OSError: before training, if the folder cannot be written to or has too little room.
        ValueError: if the folder holds a training with other settings or is damaged, or the data
            are empty, or an id or a label does not fit the model, or workers that share the
            training were called with different data, models or settings.
        TypeError: if the data have no length, or labels are strings.
        ImportError: if `tensorboard=True` and it is not installed.
    """
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError("`tensorboard=True` needs the package: pip install tensorboard")
    directory = Path(directory)
    name = name or directory.name
    kept = kept or model
    weighted = None if class_weight is None else ClassWeights(class_weight, model)
    batches = {"train": BatchAccess(train, batch_size, seed)}
    if validation is not None:
        batches["validation"] = BatchAccess(validation, batch_size)
    limits = Limits(kept, loss)
    data = {part: limits.check(access, part) for part, access in batches.items()}
    stage = _resolved(stage, name, model, loss, batches["train"], verbose)
    rounds = Rounds(batches["train"], stage, weighted)
    settings = {
        "stage": dataclasses.asdict(stage),
        "steps": rounds.total_steps,
        "training data": data["train"],
        "validation data": data.get("validation"),
        "first batch": first_batch(batches["train"]),
        **_identity(model, kept),
        "loss": described(loss),
        "metrics": [described(metric) for metric in metrics],
        "monitor": monitor,
        "score": score and described(score, attributes=False),  # it may count its calls
        "class_weight": weighted and weighted.settings,
        "seed": seed,
        **(settings or {}),
    }
    folder = StageFolder(directory, settings, uncompiled(kept))
    scores = measured_apart(model, kept, batches.get("validation"), loss, score, batch_size)
    with run_lock(directory):
        _check_same_call(folder)
        if (result := folder.read_result()) is not None:
            return result
        folder.check_room()
        progress = folder.read_progress()  # which refuses other settings before the teacher answers
        trained = _begin(model, rounds, stage, folder, progress, loss, metrics, answers, verbose)
        monitor = monitor or default_monitor(validation, metrics, score)
        evaluation = _Evaluation(name, folder, progress, monitor, scores, stage.patience)
        if progress.rounds_done == 0 and initial_score is not None:
            evaluation.start_from(initial_score)
        if progress.rounds_done and verbose:
            print(f"{name}: resumes after step {progress.history['step'][-1]}", flush=True)
        if not progress.has_ended(rounds.count):
            ours = [_Reseeding(name, seed), _FiniteLoss(name, folder), evaluation]
            if tensorboard and is_chief():
                ours.append(keras.callbacks.TensorBoard(str(directory / "logs")))
            _train(model, trained, rounds, batches, progress, [*callbacks, *ours], verbose)
        if verbose and progress.best_step == 0:
            print(f"{name}: no evaluation improved on the initial weights; they are kept")
        folder.finish_best(progress)
        # Waits until the first one has written the weights.
        same_on_all_workers(progress.rounds_done)
        folder.read_best()
        result = progress.result(name, monitor)
        folder.write_result(progress, result)
        same_on_all_workers(progress.rounds_done)  # so that all find it, should they look
    return result


def _resolved(stage, name, model, loss, batches, verbose):
    """The stage with all its values, which are printed."""
    kind = "theseus" if has_choices(model) else "predecessor"
    stage = stage.resolved("warm_start" if loss is None else kind, model, batches)
    if verbose:
        print(f"{name}: {stage}", flush=True)
    return stage


def _identity(model, kept):
    """The models as the training begins, and the versions."""
    frozen, _ = split_weights(model)
    known = {id(weight) for weight in model.weights}
    return {
        "frozen weights": weights_checksum(frozen),
        "other weights": weights_checksum([w for w in kept.weights if id(w) not in known]),
        "initial weights": weights_checksum(trained_values(model)),
        "trained weights": sum(math.prod(w.shape) for w in model.trainable_weights),
        "model": architecture(model),
        "versions": versions(),
    }


def _begin(model, rounds, stage, folder, progress, loss, metrics, answers, verbose):
    """Compiles and returns what is trained, with the weights of the checkpoint.

    It is `model`, or what takes lessons in its place.
    """
    models, begin = [model], _clocks()
    if not progress.has_ended(rounds.count):
        answers = folder.directory / "answers" if answers is None else answers
        lessons = prepare_lessons(model, rounds.batches, rounds.total_steps, answers, verbose)
        if lessons is not None:
            rounds.lessons = lessons
            models.append(lessons.model)
    now = _clocks()
    progress.seconds += now[0] - begin[0]
    progress.cpu_seconds += now[1] - begin[1]
    optimizer = build_optimizer(stage, model, rounds.total_steps)
    for each in models:
        each.compile(optimizer, loss, metrics=[fresh(metric) for metric in metrics])
        optimizer = each.optimizer  # in float16 one that scales the loss, around what was given
    folder.read_checkpoint(models[-1])
    _check_workers(progress.rounds_done, folder.directory)
    return models[-1]


def _clocks():
    return time.perf_counter(), time.process_time()


def _train(model, trained, rounds, batches, progress, callbacks, verbose):
    done = progress.rounds_done
    stream = functools.partial(rounds.stream, done)
    dataset = as_dataset(stream, rounds.changed(batches["train"].first, 0, 0), model)
    with errors_of(*batches.values()):
        trained.fit(
            (part_of_worker(batch) for batch in stream()) if dataset is None else dataset,
            steps_per_epoch=rounds.length,
            shuffle=False,  # Keras 3 would warn that it cannot shuffle a generator
            validation_data=as_sequence(batches.get("validation"), model),
            epochs=rounds.count,
            initial_epoch=done,
            callbacks=callbacks,
            verbose=verbose,
        )


def _check_same_call(folder):
    """Raises a `ValueError` unless all workers train the same, and see the same result of it."""
    text = json.dumps([folder.settings, folder.has_result], sort_keys=True)
    if not same_on_all_workers(zlib.crc32(text.encode()) >> 8):
        raise ValueError(
            "All workers must be given the same data, models and settings, of which each takes its "
            f"part, and {folder.directory} must be one folder that all of them see. Received: "
            "what differs from worker to worker"
        )


def _check_workers(rounds_done, directory):
    if not same_on_all_workers(rounds_done):
        raise ValueError(
            f"All workers must resume from the same checkpoint; this one resumes after "
            f"{rounds_done} evaluations. {directory} must be one folder that all of them see: the "
            "first worker writes it, and the others read it."
        )


class _Reseeding(keras.callbacks.Callback):
    """Makes the random numbers of a round a function of the seed, the stage and the round."""

    def __init__(self, name, seed):
        super().__init__()
        self.name, self.seed = name, seed

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:  # not before: PyTorch's data loader draws a number when it starts
            reseed(self.model, [self.seed, zlib.crc32(self.name.encode()), self.epoch])


class _FiniteLoss(keras.callbacks.Callback):
    """Stops the training when the loss is NaN or infinite."""

    def __init__(self, name, folder):
        super().__init__()
        self.name, self.folder = name, folder

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise _non_finite(f"The loss became {logs['loss']}", self.model, self.name, self.folder)


def _non_finite(what, model, name, folder):
    step = int(to_numpy(model.optimizer.iterations))
    try:
        rate = f", at replacement rate {get_replacement_rate(model):.3g}"
    except ValueError:  # not a Theseus model
        rate = ""
    last = "there is no checkpoint yet"
    if folder.checkpoint.is_file():
        last = f"the last good checkpoint is {folder.checkpoint}"
    return NonFiniteLossError(
        f"{what} at step {step} of stage {name!r}{rate}; {last}. Try a lower learning rate, and "
        f"delete {folder.directory} to start the stage again."
    )


class _Evaluation(keras.callbacks.Callback):
    """Ends each round: logs it, keeps the best weights, stops early, writes a checkpoint."""

    def __init__(self, name, folder, progress, monitor, scores, patience):
        super().__init__()
        self.name, self.folder, self.progress = name, folder, progress
        self.monitor, self.scores, self.patience = monitor, scores, patience

    def start_from(self, score):
        """Makes the initial weights the best so far."""
        self.progress.score, self.progress.best_round = float(score), -1
        self.folder.write_best(self.progress, 0)

    def on_epoch_begin(self, epoch, logs=None):
        self._start = _clocks()

    def on_epoch_end(self, epoch, logs=None):
        progress = self.progress
        # A gradient can be NaN where the loss is finite: before anything is written.
        if (weight := non_finite(self.model)) is not None:
            what = f"The weight {weight!r} became NaN or infinite"
            raise _non_finite(what, self.model, self.name, self.folder)
        for key, measure in self.scores.items():
            logs[key] = float(measure())  # in Keras' own logs, for TensorBoard too
        step = int(to_numpy(self.model.optimizer.iterations))
        logged = {"step": step, **{key: float(value) for key, value in logs.items()}}
        progress.log(logged)
        self.folder.check_room(allocate=False)  # h5py may end the process if the disk is full
        self._keep_best(epoch, step, self._score(logged))
        if self.patience is not None and epoch - progress.best_round >= self.patience:
            progress.stopped_early = self.model.stop_training = True
        now = _clocks()
        progress.seconds += now[0] - self._start[0]
        progress.cpu_seconds += now[1] - self._start[1]
        progress.log({"seconds": progress.seconds})
        progress.rounds_done = epoch + 1
        self.folder.write_checkpoint(self.model, progress)

    def _score(self, logged):
        if self.monitor is None:
            return None
        if self.monitor not in logged:
            raise ValueError(
                f"`monitor` must be one of the logged values {sorted(logged)}. Received: "
                f"{self.monitor!r}"
            )
        return logged[self.monitor]

    def _keep_best(self, epoch, step, score):
        progress = self.progress
        # Of equal scores the first one wins, but any evaluation beats equal initial weights.
        ties = progress.best_round < 0
        if is_better(score, progress.score, self.monitor, ties):
            progress.score, progress.best_step, progress.best_round = score, step, epoch
            self.folder.write_best(progress, step)
