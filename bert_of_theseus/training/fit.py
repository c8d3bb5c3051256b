"""One stage of training that can be killed at any moment and goes on from its last checkpoint.

A stage is cut into rounds, by default an epoch each. Between two rounds the state of the training
is a function of the weights, the optimizer and the number of the round alone: random generators
are seeded anew from it, and batches are found by their position. So a checkpoint holds little, and
a resumed stage ends with the weights of one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..backend import (
    is_chief,
    keras,
    ops,
    register,
    repeatable,
    reseed,
    same_on_all_workers,
    strategy_scope,
    to_numpy,
)
from ..files import check_room, replace_file, write_json
from ..layers import get_replacement_rate
from ..models import input_structure
from .feed import Rounds, as_sequence

__all__ = [
    "WEIGHTS",
    "NonFiniteLossError",
    "Stage",
    "StageResult",
    "WarmupDecay",
    "described",
    "evaluate",
    "evaluator",
    "fit",
    "lower_is_better",
    "plain",
    "predict",
    "uncompiled",
]

WEIGHTS = "model.weights.h5"
_CHECKPOINT = "checkpoint.npz"
_RESULT = "stage.json"
_DECAYS = ("linear", "cosine", "constant")


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """How one stage is trained: AdamW, a learning rate that warms up and decays, clipped gradients.

    Args:
        epochs: Integer, passes over the training data at most.
        learning_rate: Float, the peak. Defaults to `5e-5`.
        warmup_fraction: Float in [0, 1), the share of all steps in which the learning rate rises
            from 0. Defaults to `0.1`.
        decay: `"linear"` or `"cosine"`, to 0 at the last step, or `"constant"`. Defaults to
            `"linear"`.
        weight_decay: Float, decoupled (AdamW; with 0 it is Adam). Only matrices and embeddings
            decay, not biases nor the weights of norms. Defaults to `0.01`.
        clip_norm: Float, the largest norm of the gradients of all trained weights together, frozen
            ones not counted; `None` for no limit. Defaults to `1.0`.
        evaluations_per_epoch: Integer, how often in an epoch the model is evaluated, the best
            weights are kept and a checkpoint is written. Defaults to `1`.
        patience: Integer, after how many evaluations without a better score the stage ends.
            Defaults to `None`, never.

    Raises:
        ValueError: if a number is out of its range.

    Example:

    >>> Stage(epochs=3, learning_rate=5e-5, patience=2)
    """

    epochs: int
    learning_rate: float = 5e-5
    warmup_fraction: float = 0.1
    decay: str = "linear"
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    evaluations_per_epoch: int = 1
    patience: int | None = None

    def __post_init__(self):
        def check(name, valid, expected):
            value = getattr(self, name)
            if not valid(value):
                raise ValueError(f"`{name}` must be {expected}. Received: {value!r}")

        def whole(value):
            return isinstance(value, int) and not isinstance(value, bool) and value >= 1

        def finite(value):
            return isinstance(value, (int, float)) and math.isfinite(value)

        check("epochs", whole, "an integer of at least 1")
        check("evaluations_per_epoch", whole, "an integer of at least 1")
        check("learning_rate", lambda v: finite(v) and v > 0, "a number above 0")
        check("warmup_fraction", lambda v: finite(v) and 0 <= v < 1, "a number in [0, 1)")
        check("weight_decay", lambda v: finite(v) and v >= 0, "a number of at least 0")
        check(
            "clip_norm", lambda v: v is None or (finite(v) and v > 0), "a number above 0, or None"
        )
        check("patience", lambda v: v is None or whole(v), "an integer of at least 1, or None")
        check("decay", lambda v: v in _DECAYS, f"one of {_DECAYS}")


@register
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to its peak and then decays, as BERT's does.

    Args:
        learning_rate: Float, the peak.
        total_steps: Integer, when it reaches 0.
        warmup_steps: Integer, when it reaches the peak. Defaults to `0`.
        decay: `"linear"`, `"cosine"` or `"constant"`. Defaults to `"linear"`.
    """

    def __init__(
        self, learning_rate: float, total_steps: int, warmup_steps: int = 0, decay: str = "linear"
    ):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "`warmup_steps` must be at least 0 and less than `total_steps`. Received: "
                f"{warmup_steps}, {total_steps}."
            )
        if decay not in _DECAYS:
            raise ValueError(f"`decay` must be one of {_DECAYS}. Received: {decay!r}")
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.decay = decay

    def __call__(self, step):
        step = ops.cast(step, "float32")
        # Step 0 already learns something: its rate is that of the end of the step.
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


@dataclasses.dataclass
class StageResult:
    """What became of a stage.

    Attributes:
        name: String.
        history: By name a list of a number per evaluation: `step`, `loss`, the metrics, those on
            the validation data with `val_` before their names, `replacement_rate`, `seconds`.
        monitor: String, the entry of `history` by which the best weights were chosen, or `None`.
        best_step: Integer, the step after which they were kept; 0 if what the stage began with
            stayed, see `fit`.
        score: Float, their score, or `None` without validation data.
        seconds, cpu_seconds: Floats, time spent, in all runs together if it was interrupted.
        stopped_early: Boolean.
    """

    name: str
    history: dict
    monitor: str | None
    best_step: int
    score: float | None
    seconds: float
    cpu_seconds: float
    stopped_early: bool = False


def _in_its_strategy(function):
    """Makes what `function(model, ...)` makes for the strategy that `model` was built in."""

    @functools.wraps(function)
    def run(model, *args, **kwargs):
        with strategy_scope(model):
            return function(model, *args, **kwargs)

    return run


@_in_its_strategy
def fit(
    model: keras.Model,
    train,
    validation=None,
    stage: Stage = Stage(epochs=3),
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
    callbacks=(),
    settings: dict | None = None,
    tensorboard: bool = False,
    verbose="auto",
) -> StageResult:
    """Compiles and trains `model`, and leaves it with its best weights.

    Called again with the same arguments after an interruption, of whatever kind, it goes on from
    its last checkpoint; after its end it loads the result.

    Args:
        model: Keras model; only its trainable weights move.
        train: Batches to train on: an object with a length and either indices or an iterator
            (`data.Batches`, a Keras `Sequence` or `PyDataset`, a `tf.data.Dataset` of known
            length, a list), or a tuple of arrays `(x, y)`. If it has `set_epoch`, that is told
            the epoch, from 0 on, so that each can have an order of its own.
        validation: Likewise, or `None`: then the last weights are kept.
        stage: `Stage`.
        directory: Folder of this stage: checkpoints, the best weights (`model.weights.h5`), the
            result.
        name: String, for messages. Defaults to the folder's name.
        kept: Model whose weights are kept, such as the successor in a Theseus model. Defaults to
            `model`.
        loss, metrics: As in `compile`. Metrics may be strings, functions or Keras objects.
        monitor: String, the logged value that chooses the best weights, such as `"val_f1"`; one
            whose name holds "loss" or "error" is better when lower. Defaults to the first metric
            on the validation data, or the loss on it if there is no metric.
        score: Function of a model and data that returns a number, better when higher, for what is
            no Keras metric; logged as `val_score`, and then the default of `monitor`.
        initial_score: Float, the score of the weights as they are, by `monitor`: they stay if no
            evaluation is as good, and `best_step` is 0 then. Defaults to `None`, not known: the
            first evaluation counts as better.
        seed: Integer. Governs dropout, the draws of the replaced modules and the order of arrays.
        batch_size: Integer, for arrays only. Defaults to `32`.
        callbacks: Further Keras callbacks. They do not take part in the resumption.
        settings: What else distinguishes this training from another one in the same folder.
        tensorboard: Boolean. Whether to write logs for TensorBoard into `directory/logs`.
            Defaults to `False`.
        verbose: As in Keras' `fit`.

    Returns:
        A `StageResult`.

    Raises:
        NonFiniteLossError: if the loss becomes NaN or infinite; names step, rate and checkpoint.
        OSError: if the folder cannot be written to or has too little room, before training.
        ValueError: if the folder holds a training with other settings, or the data are empty.
        TypeError: if the data have no length.
        ImportError: if `tensorboard` is asked for and not installed.
    """
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError("`tensorboard=True` needs the package: pip install tensorboard")
    directory = Path(directory)
    name = name or directory.name
    kept = kept or model
    rounds = Rounds(train, stage, batch_size, seed)
    settings = {
        "stage": dataclasses.asdict(stage),
        "steps": rounds.total_steps,
        "first_batch": rounds.checksum,
        "loss": described(loss),
        "metrics": [described(metric) for metric in metrics],
        "monitor": monitor,
        "score": score and described(score),
        "seed": seed,
        "frozen_weights": _checksum(_frozen(model)),
        "trained_weights": sum(math.prod(w.shape) for w in model.trainable_weights),
        **(settings or {}),
    }
    settings = plain(settings)  # as what is read from the file
    weights = uncompiled(kept)  # without the optimizer's state
    result = _finished(directory, settings)
    if result is not None:
        weights.load_weights(str(directory / WEIGHTS))
        return result
    # Weights and checkpoint, with Adam's two moments, each beside the one that it replaces.
    room = 4 * (6 * settings["trained_weights"] + 2 * weights.count_params())
    if is_chief():
        check_room(directory, room)
    optimizer = _optimizer(model, stage, rounds.total_steps)
    model.compile(optimizer=optimizer, loss=loss, metrics=[fresh(metric) for metric in metrics])
    if score is not None:
        monitor = monitor or "val_score"
    elif monitor is None and validation is not None:
        monitor = f"val_{_first_name(metrics)}"
    judge = None if score is None else functools.partial(score, kept, validation)
    keeper = _Keeper(directory, name, weights, settings, monitor, judge, stage.patience, seed, room)
    keeper.restore(model)
    if not same_on_all_workers(keeper.rounds_done):
        raise ValueError(
            f"The workers go on from different checkpoints, this one after {keeper.rounds_done} "
            f"evaluations. {directory} must be one folder that all of them see: the first worker "
            "writes it, and the others read it."
        )
    if initial_score is not None and not keeper.rounds_done:
        keeper.begin_with(initial_score)
    if keeper.rounds_done and verbose:
        print(f"{name}: goes on after step {keeper.state['history']['step'][-1]}", flush=True)
    if keeper.rounds_done < rounds.count and not keeper.state["stopped_early"]:
        log = [keras.callbacks.TensorBoard(str(directory / "logs"))] if tensorboard else []
        model.fit(
            repeatable(functools.partial(rounds.stream, keeper.rounds_done)),
            steps_per_epoch=rounds.length,
            shuffle=False,  # or Keras 3 warns that it does not
            validation_data=as_sequence(validation, batch_size=batch_size),
            epochs=rounds.count,
            initial_epoch=keeper.rounds_done,
            callbacks=[*callbacks, keeper, *log],
            verbose=verbose,
        )
    if verbose and not keeper.state["best_step"]:
        print(f"{name}: what it began with was better and stays", flush=True)
    return keeper.finish()


@_in_its_strategy
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
    """The number by which `fit` chooses weights, of `model` on `data`.

    `model` may be compiled or not, and stays as it is.
    """
    return evaluator(model, loss, metrics, monitor, score, batch_size)(data)


def evaluator(model, loss, metrics, monitor, score, batch_size) -> Callable:
    """`evaluate` as a function of the data, which Keras traces once."""
    if score is not None:
        return lambda data: float(score(model, data))
    judged = uncompiled(model)
    judged.compile(loss=loss, metrics=[fresh(metric) for metric in metrics])
    name = (monitor or _first_name(metrics)).removeprefix("val_")

    def judge(data):
        batches = as_sequence(data, batch_size)
        return float(judged.evaluate(batches, verbose=0, return_dict=True)[name])

    return judge


def uncompiled(model: keras.Model) -> keras.Model:
    """The same layers and weights as a model of its own, without loss and optimizer."""
    outputs = model.outputs[0] if len(model.outputs) == 1 else model.output
    return keras.Model(input_structure(model), outputs, name=model.name)


def predict(model, batches):
    """What `model` makes of all `batches`, in their order: an array, `(num_examples, ...)`."""
    return model.predict(as_sequence(batches), verbose=0)


def lower_is_better(monitor: str | None) -> bool:
    """Whether a score of this name is better when it is lower."""
    return any(word in (monitor or "") for word in ("loss", "error"))


def _frozen(model):
    ids = getattr(model, "_frozen_ids", frozenset)()
    return [weight for weight in model.weights if id(weight) in ids]


def _checksum(weights):
    total = 0
    for weight in weights:
        total = zlib.crc32(np.ascontiguousarray(to_numpy(weight)).tobytes(), total)
    return total


def _first_name(metrics):
    first = metrics[0] if metrics else "loss"
    return first if isinstance(first, str) else getattr(first, "name", None) or first.__name__


def described(value):
    """`value`, a loss or a metric, so that equal ones read alike in every process."""
    if isinstance(value, str):
        return value
    owner = getattr(value, "__self__", value)
    if hasattr(owner, "get_config"):
        return [type(owner).__name__, owner.get_config()]
    return getattr(value, "__qualname__", type(value).__name__)


def plain(settings):
    """`settings` as JSON gives them back, so that equal ones are equal in every process."""

    def default(value):
        if hasattr(value, "tolist"):  # NumPy's
            return value.tolist()
        return list(value) if isinstance(value, range) else described(value)

    return json.loads(json.dumps(settings, default=default))


def fresh(metric):
    # A metric object keeps a state, and belongs to one model.
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric


def _optimizer(model, stage, total_steps):
    warmup = min(int(stage.warmup_fraction * total_steps), total_steps - 1)
    rate = WarmupDecay(stage.learning_rate, total_steps, warmup, stage.decay)
    if not stage.weight_decay:
        return keras.optimizers.Adam(rate, global_clipnorm=stage.clip_norm)
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=stage.weight_decay, global_clipnorm=stage.clip_norm
    )
    vectors = [weight for weight in model.trainable_variables if len(weight.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=vectors)
    return optimizer


def _finished(directory, settings):
    path = directory / _RESULT
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    _check_settings(directory, content.pop("settings"), settings)
    # Killed in between, it left this behind.
    (directory / _CHECKPOINT).unlink(missing_ok=True)
    return StageResult(**content)


def _check_settings(directory, before, now):
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if differing:
        changes = ", ".join(
            f"{key}: {before.get(key)!r}, now {now.get(key)!r}" for key in differing
        )
        raise ValueError(
            f"{directory} holds a training with other settings ({changes}). Take another folder, "
            "or delete this one to train anew."
        )


class _Keeper(keras.callbacks.Callback):
    """Seeds each round, keeps the best weights, writes checkpoints, stops when it must."""

    def __init__(self, directory, name, weights, settings, monitor, judge, patience, seed, room):
        super().__init__()
        self.directory, self.name, self.weights = directory, name, weights
        self.settings, self.monitor, self.judge = settings, monitor, judge
        self.patience, self.seed, self.room = patience, seed, room
        self.state = {
            "history": {},
            "best_step": 0,
            "score": None,
            "best_round": 0,
            "seconds": 0.0,
            "cpu_seconds": 0.0,
            "stopped_early": False,
        }
        self.rounds_done = 0

    # What is trained, and what follows it: not the frozen weights, which are not ours to write.
    def _variables(self, model):
        frozen = set(map(id, _frozen(model)))
        weights = [weight for weight in model.weights if id(weight) not in frozen]
        return [*weights, *model.optimizer.variables]

    def restore(self, model):
        model.optimizer.build(model.trainable_variables)
        path = self.directory / _CHECKPOINT
        if not path.is_file():
            return
        variables = self._variables(model)
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(bytes(file["meta"]).decode("utf-8"))
                values = [file[f"{index}"] for index in range(len(file.files) - 1)]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path} is no whole checkpoint ({error}). Delete it to start this stage again."
            ) from error
        _check_settings(self.directory, meta.pop("settings"), self.settings)
        if [value.shape for value in values] != [tuple(v.shape) for v in variables]:
            raise ValueError(
                f"{path} holds other weights than this model has. Take another folder, or delete "
                "this one to train anew."
            )
        for variable, value in zip(variables, values):
            variable.assign(value)
        self.rounds_done = meta.pop("rounds_done")
        self.state.update(meta)

    def begin_with(self, score):
        """The weights before the first step are the best so far."""
        self.state.update(score=float(score), best_round=-1)
        self._write_weights()

    def on_epoch_begin(self, epoch, logs=None):
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        reseed(self.model, [self.seed, zlib.crc32(self.name.encode()), epoch])

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self._stop_for(logs["loss"])

    def _stop_for(self, loss):
        step = int(to_numpy(self.model.optimizer.iterations))
        try:
            rate = f", at replacement rate {get_replacement_rate(self.model):.3g}"
        except ValueError:
            rate = ""
        checkpoint = self.directory / _CHECKPOINT
        good = (
            f"the last good checkpoint is {checkpoint}"
            if checkpoint.is_file()
            else ("there is no checkpoint yet")
        )
        raise NonFiniteLossError(
            f"The loss became {loss} at step {step} of stage {self.name!r}{rate}; {good}. Try a "
            f"lower learning rate, and delete {self.directory} to start the stage again with it."
        )

    def on_epoch_end(self, epoch, logs=None):
        model, state = self.model, self.state
        if self.judge is not None:
            logs["val_score"] = float(self.judge())  # for TensorBoard too
        entry = {"step": int(to_numpy(model.optimizer.iterations)), **logs}
        for key, value in entry.items():
            if not key.startswith("step"):
                value = float(value)
            state["history"].setdefault(key, []).append(value)
        if self.monitor is not None and self.monitor not in entry:
            raise ValueError(
                f"`monitor` is {self.monitor!r}, but what is logged is {sorted(entry)}."
            )
        score = None if self.monitor is None else float(entry[self.monitor])
        if is_chief():  # before h5py finds a full disk, which may end the process
            check_room(self.directory, self.room, take=False)
        if self._is_better(score):
            state.update(score=score, best_step=entry["step"], best_round=epoch)
            self._write_weights()
        if self.patience is not None and epoch - state["best_round"] >= self.patience:
            state["stopped_early"] = model.stop_training = True
        state["seconds"] += time.perf_counter() - self._wall
        state["cpu_seconds"] += time.process_time() - self._cpu
        state["history"].setdefault("seconds", []).append(state["seconds"])
        self.rounds_done = epoch + 1
        self._save_checkpoint(model)

    def _is_better(self, score):
        best = self.state["score"]
        if score is None or best is None:
            return True
        if math.isnan(score) or math.isnan(best):
            return not math.isnan(score)
        if lower_is_better(self.monitor):
            score, best = -score, -best
        # Of equal ones the first, except that what the stage began with gives way.
        return score > best or (score == best and self.state["best_round"] < 0)

    def _write_weights(self):
        self._write(WEIGHTS, lambda path: self.weights.save_weights(str(path)))

    def _write(self, name, write):
        if is_chief():
            replace_file(self.directory / name, write)
        else:  # weights that differ among replicas are read by all workers together
            with tempfile.TemporaryDirectory() as scratch:
                write(Path(scratch) / name)

    def _save_checkpoint(self, model):
        meta = {"settings": self.settings, "rounds_done": self.rounds_done, **self.state}
        arrays = {f"{i}": to_numpy(v) for i, v in enumerate(self._variables(model))}
        meta = np.frombuffer(json.dumps(meta).encode("utf-8"), "uint8")

        def write(path):
            with open(path, "wb") as file:
                np.savez(file, meta=meta, **arrays)

        self._write(_CHECKPOINT, write)

    def finish(self):
        """The best weights into the model, and the result into its file."""
        same_on_all_workers(self.rounds_done)  # the first one has written the weights
        self.weights.load_weights(str(self.directory / WEIGHTS))
        state = {key: value for key, value in self.state.items() if key != "best_round"}
        result = StageResult(name=self.name, monitor=self.monitor, **state)
        if is_chief():
            content = {**dataclasses.asdict(result), "settings": self.settings}
            write_json(self.directory / _RESULT, content)
            (self.directory / _CHECKPOINT).unlink(missing_ok=True)
        return result
