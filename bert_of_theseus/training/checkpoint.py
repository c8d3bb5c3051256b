"""The files of a training stage, and the settings that tell one stage from another."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

from ..backend import is_finite, keras, to_numpy
from ..distribution import is_chief
from ..files import (
    CHECKSUMS,
    check_room,
    read_checksums,
    read_json,
    remove_scratch,
    replace_file,
    sha256,
    write_json,
)
from ..locks import exclusive
from .identity import differences, finite_value, plain, split_weights, weights_checksum
from .stage import StageResult

WEIGHTS = "model.weights.h5"
_CHECKPOINT = "checkpoint.npz"
_RESULT = "stage.json"
_BEST = "best-{}.weights.h5"  # by step, until the stage ends


@dataclasses.dataclass
class Progress:
    """State of a stage after a round, stored in its checkpoint beside the weights.

    Attributes:
        rounds_done: Integer.
        history: As in `StageResult`.
        best_step, best_round, score: Step, round and score of the best weights so far. The round
            is -1 if these are the initial weights.
        best_file, best_sha256: Strings, the name of their file and its checksum.
        seconds, cpu_seconds: Floats, time spent in all rounds.
        stopped_early: Boolean.
    """

    # Written to checkpoints in this order.
    rounds_done: int = 0
    history: dict = dataclasses.field(default_factory=dict)
    best_step: int = 0
    score: float | None = None
    best_round: int = 0
    best_file: str | None = None
    best_sha256: str | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stopped_early: bool = False

    def log(self, values: dict) -> None:
        """Appends an evaluation to the history."""
        for key, value in values.items():
            self.history.setdefault(key, []).append(value)

    def has_ended(self, rounds: int) -> bool:
        """Whether nothing is left to train, of so many rounds."""
        return self.stopped_early or self.rounds_done >= rounds

    def result(self, name: str, monitor: str | None) -> StageResult:
        """The outcome of the stage, if this is its last round."""
        fields = {field.name for field in dataclasses.fields(StageResult)} - {"name", "monitor"}
        return StageResult(name, monitor=monitor, **{key: getattr(self, key) for key in fields})


class StageFolder:
    """The files of one stage: checkpoint, best weights, result. Each is complete or absent.

    A checkpoint holds all non-frozen weights, the optimizer's variables and a `Progress`, which
    names the file of the best weights. With several workers, only the first one writes.

    Args:
        directory: Path.
        settings: Dict. Files of a stage with other settings are refused.
        weights: Keras model, not compiled: its weights are the ones that are kept.

    Raises:
        ValueError: if a file is damaged or belongs to a stage with other settings.
    """

    def __init__(self, directory: str | os.PathLike, settings: dict, weights: keras.Model):
        self.directory = Path(directory)
        self.settings = plain(settings)
        self.weights = weights

    @property
    def checkpoint(self) -> Path:
        return self.directory / _CHECKPOINT

    @property
    def has_result(self) -> bool:
        """Whether the stage has ended."""
        return (self.directory / _RESULT).is_file()

    def check_room(self, allocate: bool = True) -> None:
        """Creates the folder and checks that everything fits; see `files.check_room`."""
        # Checkpoint (weights and Adam's two moments) and best weights, twice each: a new file is
        # complete before it replaces the old one.
        floats = 6 * self.settings["trained weights"] + 2 * self.weights.count_params()
        if is_chief():
            check_room(self.directory, 4 * floats, take=allocate)

    # The end of a stage.

    def read_result(self) -> StageResult | None:
        """Loads the best weights and the result of a finished stage; `None` if it is not."""
        path = self.directory / _RESULT
        if not self.has_result:
            return None
        with self._told(path):
            content, listed = read_json(path), read_checksums(self.directory)
            before, final = content.pop("settings"), content.pop("final weights", None)
            if _RESULT in listed:  # before differences are told that are none
                self._check_file(path, listed[_RESULT], CHECKSUMS)
        # The model may have been trained already: in a notebook, by the same call.
        has_final = final is not None and final == self._final_weights()
        self._check_settings(before, but="initial weights" if has_final else None)
        with self._told(path):
            for name in (_RESULT, WEIGHTS):
                self._check_file(self.directory / name, listed.get(name), CHECKSUMS)
            result = StageResult(**content)
        if is_chief():
            self._remove_the_rest()  # which a process that is killed in `write_result` leaves
        self._load(self.directory / WEIGHTS)
        return result

    def write_result(self, progress: Progress, result: StageResult) -> None:
        """Writes the result, which ends the stage: the checkpoint is deleted."""
        if not is_chief():
            return
        content = {
            **dataclasses.asdict(result),
            "final weights": self._final_weights(),
            "settings": self.settings,
        }
        scratch = self.directory / f"new-{_RESULT}"
        write_json(scratch, content)
        digests = {WEIGHTS: progress.best_sha256, _RESULT: sha256(scratch)}
        write_json(self.directory / CHECKSUMS, digests)
        os.replace(scratch, self.directory / _RESULT)
        self._remove_the_rest()

    def _remove_the_rest(self):
        """Leaves only what belongs to a stage that has ended."""
        self.checkpoint.unlink(missing_ok=True)
        self._remove_best(but=None)
        remove_scratch(self.directory)

    def _final_weights(self):
        return weights_checksum(self.weights.weights)

    # The best weights.

    def write_best(self, progress: Progress, step: int) -> None:
        """Writes the weights to a file of their own: the checkpoint still names the one before."""
        name = _BEST.format(step)
        self._write(name, lambda path: self.weights.save_weights(str(path)))
        progress.best_file = name
        progress.best_sha256 = sha256(self.directory / name) if is_chief() else None

    def finish_best(self, progress: Progress) -> None:
        """Gives the best weights the name by which users know them."""
        if not is_chief():
            return
        path, named = self.directory / progress.best_file, self.directory / WEIGHTS
        if path.is_file():
            os.replace(path, named)
        self._check_file(named, progress.best_sha256, _CHECKPOINT)

    def read_best(self) -> None:
        """Loads the best weights into the model that is kept."""
        self._load(self.directory / WEIGHTS)

    def _load(self, path):
        with self._told(path):
            self.weights.load_weights(str(path))
            for weight in self.weights.weights:
                finite_value(weight)

    # Checkpoints.

    def read_progress(self) -> Progress:
        """The checkpoint's `Progress`; a new one if there is no checkpoint."""
        if is_chief():
            remove_scratch(self.directory)
        path = self.checkpoint
        if not path.is_file():
            return Progress()
        with self._told(path):
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(bytes(file["meta"]).decode("utf-8"))
            before = meta.pop("settings")
        self._check_settings(before)
        with self._told(path):
            progress = Progress(**meta)
        best = self.directory / progress.best_file
        # The first name is there until the stage is about to end.
        best = best if best.is_file() else self.directory / WEIGHTS
        self._check_file(best, progress.best_sha256, _CHECKPOINT)
        return progress

    def read_checkpoint(self, model: keras.Model) -> None:
        """Loads the weights in the checkpoint, if there is one, into the compiled `model`."""
        model.optimizer.build(model.trainable_variables)
        path = self.checkpoint
        if not path.is_file():
            return
        variables = _saved_variables(model)
        with self._told(path):
            with np.load(path, allow_pickle=False) as file:
                values = [file[f"{index}"] for index in range(len(file.files) - 1)]
            if [value.shape for value in values] != [tuple(v.shape) for v in variables]:
                raise ValueError("it holds other weights than this model has")
            if not all(map(is_finite, values)):
                raise ValueError("it holds weights that are NaN or infinite")
            for variable, value in zip(variables, values):
                variable.assign(value)

    def write_checkpoint(self, model: keras.Model, progress: Progress) -> None:
        """Writes a checkpoint, and removes the files of weights that were the best before."""
        meta = {"settings": self.settings, **dataclasses.asdict(progress)}
        arrays = {f"{i}": to_numpy(v) for i, v in enumerate(_saved_variables(model))}
        meta = np.frombuffer(json.dumps(meta).encode("utf-8"), "uint8")

        def write(path):
            with open(path, "wb") as file:
                np.savez(file, meta=meta, **arrays)

        self._write(_CHECKPOINT, write)
        if is_chief():
            self._remove_best(but=progress.best_file)

    def _remove_best(self, but):
        for path in self.directory.glob(_BEST.format("*")):
            if path.name != but:
                path.unlink(missing_ok=True)

    def _write(self, name, write):
        if is_chief():
            replace_file(self.directory / name, write)
        else:  # reading a weight that differs among replicas needs all workers
            with tempfile.TemporaryDirectory() as scratch:
                write(Path(scratch) / name)

    # Refusals.

    @contextlib.contextmanager
    def _told(self, path):
        """Makes of what a damaged file raises, whatever it is, an error that says what to do."""
        try:
            yield
        except Exception as error:
            if isinstance(error, ValueError) and str(self.directory) in str(error):
                reason = str(error)
            else:
                reason = f"{path} cannot be used ({type(error).__name__}: {error})"
            if "to train this stage again" not in reason:
                reason = f"{reason.rstrip('.')}. Delete {self.directory} to train this stage again."
            raise ValueError(reason) from error

    def _check_file(self, path, expected, listed_in):
        what = None
        if not path.is_file():
            what = "is missing"
        elif expected is not None and sha256(path) != expected:
            what = f"does not match its checksum in {listed_in}: one of the two is damaged"
        elif expected is None and is_chief():
            what = f"has no checksum in {listed_in}"
        if what is not None:
            raise ValueError(f"{path} {what}. Delete {self.directory} to train this stage again.")

    def _check_settings(self, before, but=None):
        before, now = dict(before), dict(self.settings)
        if "training data" not in before:
            raise ValueError(
                f"{self.directory} was written by an earlier version of bert_of_theseus, which "
                "kept no checksums of data, models and initial weights. Whether they were the same "
                "cannot be told: choose another folder, or delete this one to start again."
            )
        versions = differences(before.pop("versions", {}), now.pop("versions", {}))
        before.pop(but, None), now.pop(but, None)
        changes = differences(before, now)
        if changes:
            hint = ""
            if any("weights" in change for change in changes):
                hint = (
                    "Models must be built with the same weights each time: call "
                    "keras.utils.set_random_seed before building them. "
                )
            raise ValueError(
                f"{self.directory} holds a training with other settings ({'; '.join(changes)}). "
                f"{hint}Choose another folder, or delete this one to start again."
            )
        if versions:
            warnings.warn(
                f"{self.directory} holds a training that was begun with other versions "
                f"({'; '.join(versions)}). Its results may differ from those of a training from "
                "start to end with one of them.",
                stacklevel=5,
            )


@contextlib.contextmanager
def run_lock(directory: Path):
    """A context in which no other run uses `directory`. Of several workers, the first has it."""
    if not is_chief():
        yield
        return
    with contextlib.suppress(OSError):  # `check_room` says what is wrong
        directory.mkdir(parents=True, exist_ok=True)
    with exclusive(directory / ".lock", str(directory)):
        yield


def _saved_variables(model):
    return [*split_weights(model)[1], *model.optimizer.variables]


def non_finite(model: keras.Model) -> str | None:
    """The name of a weight, or of a variable of the optimizer, that is NaN or infinite."""
    for variable in _saved_variables(model):
        if not is_finite(to_numpy(variable)):
            return getattr(variable, "path", variable.name)
    return None
