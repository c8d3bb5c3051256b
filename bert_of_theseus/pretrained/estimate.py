"""What a compression would take, by a few steps of it."""

from __future__ import annotations

import dataclasses
import math
import sys
import time

import numpy as np

from ..encoders import as_encoder
from ..layers import set_replacement_rate
from ..models import build_theseus_model, build_warm_start_model
from ..training.stage import build_optimizer
from .trainer import Trainer

_BATCHES, _ROUNDS = 4, 2
_MEAN_RATE = 0.74  # of the recipe's schedule: from 0.3 to 1 in three quarters of the stage


@dataclasses.dataclass
class Estimate:
    """What a compression would take on this machine.

    Attributes:
        seconds: Float, of the whole.
        parts: Dict of the seconds by what takes them.
        disk: Integer, bytes that the output folder needs while it is made.
        size: Integer, bytes of the model at the end.
        memory: Integer, bytes of this process at its peak; `None` where the system does not say.
    """

    seconds: float
    parts: dict[str, float]
    disk: int
    size: int
    memory: int | None

    def __str__(self):
        parts = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in self.parts.items())
        memory = "unknown" if self.memory is None else _size(self.memory)
        return (
            f"time: about {_duration(self.seconds)} ({parts})\n"
            f"disk: {_size(self.disk)} meanwhile, {_size(self.size)} at the end\n"
            f"memory: {memory}"
        )


def estimate(trainer: Trainer, num_hidden_layers: int | None, search: bool) -> Estimate:
    """Times a few steps of each part. Nothing is written.

    Args:
        trainer: `Trainer`.
        num_hidden_layers: Integer, or `None` for the most that a search may come to.
        search: Boolean. Whether several successors are trained, to find one that keeps enough.
    """
    deepest = trainer.inputs.checkpoint.config["num_hidden_layers"] - 1
    num_hidden_layers = num_hidden_layers or deepest
    runs = math.ceil(math.log2(deepest + 1)) if search else 1
    predecessor, classifier = trainer.predecessor, trainer.classifier
    successor = trainer.new_successor(num_hidden_layers)
    theseus = build_theseus_model(predecessor, successor, classifier, seed=trainer.seed)
    set_replacement_rate(theseus, _MEAN_RATE)
    warm_start = build_warm_start_model(predecessor, successor, classifier)
    timer = _Timer()
    models = [trainer.predecessor_model, as_encoder(successor).model(classifier, name="timed")]
    stages, parts, evaluations = trainer.stages, {}, 0
    trained = {"warm_start": warm_start, "theseus": theseus, "successor": models[1]}
    for name, model in trained.items():
        stage = stages[f"{name}_stage"]
        steps = stage.num_steps(len(trainer.batches["train"]))
        loss = {} if name == "warm_start" else _loss(trainer)
        if loss:
            evaluations += stage.epochs * stage.evaluations_per_epoch
        title = name.replace("_", " ")
        model.compile(build_optimizer(stage, model, steps), **loss)
        per_step = timer.seconds(model.train_on_batch, _some(trainer.batches["train"]))
        parts[title] = runs * steps * per_step
    # The report scores the predecessor, and the successor after each stage.
    passes = {"validation": (1, evaluations + len(trained)), "test": (1, len(trained))}
    parts["scores"] = runs * sum(
        _seconds_of_passes(timer, models, batches, passes[name])
        for name, batches in trainer.batches.items()
        if name in passes
    )
    inputs = trainer.inputs
    if inputs.without_labels:
        share = sum(map(inputs.count, inputs.without_labels)) / inputs.num_texts
        batches = trainer.batches["train"]
        parts["answers"] = share * _seconds_of_passes(timer, models, batches, [1])
    parts["start"] = runs * timer.start
    # A run leaves weights of each stage, and needs eight more copies while the last one trains.
    disk = 4 * (8 + len(trained) * runs) * models[0].count_params()
    size = 4 * models[1].count_params()
    return Estimate(sum(parts.values()), parts, disk, size, _peak_memory())


def _loss(trainer) -> dict:
    return {"loss": trainer.options["loss"], "metrics": list(trainer.options["metrics"])}


def _seconds_of_passes(timer, models, batches, counts) -> float:
    some = [(x,) for x, _ in _some(batches)]
    return len(batches) * sum(
        count * timer.seconds(model.predict_on_batch, some) for model, count in zip(models, counts)
    )


def _some(batches) -> list:
    places = np.linspace(0, len(batches) - 1, min(_BATCHES, len(batches))).astype(int)
    return [batches[int(place)] for place in places]


class _Timer:
    """Times calls. What first calls take beyond later ones, to be compiled, is `start`."""

    def __init__(self):
        self.start = 0.0

    def seconds(self, call, batches) -> float:
        """Mean seconds of a call."""
        first, seconds = 0.0, []
        for batch in batches:
            first += self._once(call, batch)
            seconds += [self._once(call, batch) for _ in range(_ROUNDS)]
        mean = sum(seconds) / len(seconds)
        self.start += max(0.0, first - len(batches) * mean)
        return mean

    def _once(self, call, batch) -> float:
        start = time.perf_counter()
        call(*batch)
        return time.perf_counter() - start


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
