"""Measurements: the latency of models, and the versions and machine of a run."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
import time

from . import __version__
from .backend import BACKEND, keras

__all__ = ["environment", "measure_latency"]


def measure_latency(
    models: dict, examples: list, rounds: int = 3, progress=None
) -> dict[str, float]:
    """Seconds that each model takes for one example: the median over the examples.

    Of an example the quickest of the `rounds` calls counts, and the models take turns, since
    whatever else the machine does only ever adds to a call.

    Args:
        models: Keras models by name.
        examples: List of inputs, each a batch of one.
        rounds: Integer, how often to go through all examples. Defaults to `3`.
        progress: Wraps the examples of all rounds, as `tqdm` does. Defaults to `None`.

    Returns:
        Dict of floats by name.
    """
    quickest = {name: [math.inf] * len(examples) for name in models}
    turns = [*enumerate(examples)] * (rounds + 1)
    for turn, (index, example) in enumerate(progress(turns) if progress else turns):
        for name, model in models.items():
            start = time.perf_counter()
            model.predict_on_batch(example)
            if turn >= len(examples):  # the first round compiles
                seconds = time.perf_counter() - start
                quickest[name][index] = min(quickest[name][index], seconds)
    return {name: statistics.median(values) for name, values in quickest.items()}


def environment() -> dict:
    """What a run depends on beside its settings: versions and machine."""
    packages = (
        *("bert4keras", "jax", "keras", "keras-hub", "numpy"),
        *("tensorflow", "tf-keras", "torch"),
    )
    versions = {"bert-of-theseus": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    return {
        "versions": versions,
        "keras": f"{keras.__name__} {keras.__version__} on {BACKEND}",
        "machine": machine,
    }
