"""The files of a training stage, and the settings that tell one stage from another."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..backend import keras, to_numpy
from ..distribution import is_chief
from ..files import check_room, replace_file, write_json
from .stage import StageResult

WEIGHTS = "model.weights.h5"
_CHECKPOINT = "checkpoint.npz"
_RESULT = "stage.json"


@dataclasses.dataclass
class Progress:
    """State of a stage after a round, stored in its checkpoint beside the weights.

    Attributes:
        rounds_done: Integer.
        history: As in `StageResult`.
        best_step, best_round, score: Step, round and score of the best weights so far. The round
            is -1 if these are the initial weights.
        seconds, cpu_seconds: Floats, time spent in all rounds.
        stopped_early: Boolean.
    """

    # Written to checkpoints in this order.
    rounds_done: int = 0
    history: dict = dataclasses.field(default_factory=dict)
    best_step: int = 0
    score: float | None = None
    best_round: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stopped_early: bool = False

    def log(self, values: dict) -> None:
        """Appends an evaluation to the history."""
        for key, value in values.items():
            self.history.setdefault(key, []).append(value)

    def result(self, name: str, monitor: str | None) -> StageResult:
        """The outcome of the stage, if this is its last round."""
        fields = {field.name for field in dataclasses.fields(StageResult)} - {"name", "monitor"}
        return StageResult(name, monitor=monitor, **{key: getattr(self, key) for key in fields})


class StageFolder:
    """The files of one stage: checkpoint, best weights, result. Each is complete or absent.

    A checkpoint holds all non-frozen weights, the optimizer's variables and a `Progress`. With
    several workers, only the first one writes.

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

    def check_room(self, allocate: bool = True) -> None:
        """Creates the folder and checks that everything fits; see `files.check_room`."""
        # Checkpoint (weights and Adam's two moments) and best weights, twice each: a new file is
        # complete before it replaces the old one.
        floats = 6 * self.settings["trained_weights"] + 2 * self.weights.count_params()
        if is_chief():
            check_room(self.directory, 4 * floats, take=allocate)

    def read_result(self) -> StageResult | None:
        """Loads the best weights and the result of a finished stage; `None` if it is not."""
        path = self.directory / _RESULT
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        self._check_settings(content.pop("settings"))
        self.checkpoint.unlink(missing_ok=True)  # a process killed in `write_result` leaves it
        self.read_weights()
        return StageResult(**content)

    def write_result(self, result: StageResult) -> None:
        """Writes the result, which ends the stage: the checkpoint is deleted."""
        if is_chief():
            content = {**dataclasses.asdict(result), "settings": self.settings}
            write_json(self.directory / _RESULT, content)
            self.checkpoint.unlink(missing_ok=True)

    def read_weights(self) -> None:
        self.weights.load_weights(str(self.directory / WEIGHTS))

    def write_weights(self) -> None:
        self._write(WEIGHTS, lambda path: self.weights.save_weights(str(path)))

    def read_checkpoint(self, model: keras.Model) -> Progress:
        """Loads the checkpoint into the compiled `model`; a new `Progress` if there is none."""
        model.optimizer.build(model.trainable_variables)
        path = self.checkpoint
        if not path.is_file():
            return Progress()
        variables = _saved_variables(model)
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(bytes(file["meta"]).decode("utf-8"))
                values = [file[f"{index}"] for index in range(len(file.files) - 1)]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path} is not a complete checkpoint ({error}). Delete it to start this stage "
                "again."
            ) from error
        self._check_settings(meta.pop("settings"))
        if [value.shape for value in values] != [tuple(v.shape) for v in variables]:
            raise ValueError(
                f"{path} holds other weights than this model has. Choose another folder, or "
                "delete this one to start again."
            )
        for variable, value in zip(variables, values):
            variable.assign(value)
        return Progress(**meta)

    def write_checkpoint(self, model: keras.Model, progress: Progress) -> None:
        meta = {"settings": self.settings, **dataclasses.asdict(progress)}
        arrays = {f"{i}": to_numpy(v) for i, v in enumerate(_saved_variables(model))}
        meta = np.frombuffer(json.dumps(meta).encode("utf-8"), "uint8")

        def write(path):
            with open(path, "wb") as file:
                np.savez(file, meta=meta, **arrays)

        self._write(_CHECKPOINT, write)

    def _write(self, name, write):
        if is_chief():
            replace_file(self.directory / name, write)
        else:  # reading a weight that differs among replicas needs all workers
            with tempfile.TemporaryDirectory() as scratch:
                write(Path(scratch) / name)

    def _check_settings(self, before):
        now = self.settings
        differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        if differing:
            changes = ", ".join(f"{k}: {before.get(k)!r}, now {now.get(k)!r}" for k in differing)
            raise ValueError(
                f"{self.directory} holds a training with other settings ({changes}). Choose "
                "another folder, or delete this one to start again."
            )


def frozen_checksum(model: keras.Model) -> int:
    """Checksum of the frozen weights, which no checkpoint of `model` holds."""
    total = 0
    for weight in _split_weights(model)[0]:
        total = zlib.crc32(np.ascontiguousarray(to_numpy(weight)).tobytes(), total)
    return total


def _saved_variables(model):
    return [*_split_weights(model)[1], *model.optimizer.variables]


def _split_weights(model):
    """The frozen weights of a Theseus model, and all others."""
    ids = getattr(model, "_frozen_ids", frozenset)()
    frozen = [weight for weight in model.weights if id(weight) in ids]
    return frozen, [weight for weight in model.weights if id(weight) not in ids]


def described(value):
    """Describes a loss, metric or function by name and config, the same in every process."""
    if isinstance(value, str):
        return value
    owner = getattr(value, "__self__", value)
    if hasattr(owner, "get_config"):
        return [type(owner).__name__, owner.get_config()]
    return getattr(value, "__qualname__", type(value).__name__)


def plain(settings):
    """Converts `settings` to plain JSON types, so that they equal those read from a file."""

    def default(value):
        if hasattr(value, "tolist"):  # NumPy's
            return value.tolist()
        return list(value) if isinstance(value, range) else described(value)

    return json.loads(json.dumps(settings, default=default))
