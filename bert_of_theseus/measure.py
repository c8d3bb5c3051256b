"""Measurements for reports: the latency of models, and the versions and machine of a run."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
import time

import numpy as np

from . import __version__
from .backend import KERAS_ON_BACKEND
from .training.feed import BatchAccess

_PACKAGES = (
    *("bert4keras", "jax", "keras", "keras-hub", "numpy"),
    *("tensorflow", "tf-keras", "tokenizers", "torch"),
)


def measure_latency(
    models: dict, examples: list, rounds: int = 3, progress=None
) -> dict[str, float]:
    """Measures the time that each model takes for one example.

    For each example the fastest of the `rounds` calls counts, as other processes only ever slow a
    call down. The models take turns, so that they share whatever load there is.

    Args:
        models: Dict of Keras models by name.
        examples: List of inputs, each a batch of one.
        rounds: Integer, the number of passes over the examples. Defaults to `3`.
        progress: Function that wraps the list of all calls, such as `tqdm`. Defaults to `None`.

    Returns:
        Dict of floats by name: seconds, the median over the examples.
    """
    fastest = {name: [math.inf] * len(examples) for name in models}
    turns = [*enumerate(examples)] * (rounds + 1)
    for turn, (index, example) in enumerate(progress(turns) if progress else turns):
        for name, model in models.items():
            start = time.perf_counter()
            model.predict_on_batch(example)
            if turn >= len(examples):  # the first round compiles
                seconds = time.perf_counter() - start
                fastest[name][index] = min(fastest[name][index], seconds)
    return {name: statistics.median(values) for name, values in fastest.items()}


def single_examples(data, batch_size: int, count: int = 10) -> list:
    """Inputs for `measure_latency`: `count` single examples, evenly spread over `data`."""
    batches = BatchAccess(data, batch_size)
    examples = []
    for place in np.arange(count) * batches.length / count:
        inputs = batches.get(0, int(place))[0]
        examples.append(_single(inputs, place % 1))
    return examples


def _single(inputs, share):
    """The example after this share of a batch, as a batch of one."""
    if isinstance(inputs, dict):
        return {key: _single(part, share) for key, part in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return [_single(part, share) for part in inputs]
    row = int(share * len(inputs))
    return np.asarray(inputs)[row : row + 1]


def environment() -> dict:
    """Describes what a run depends on beside its settings: versions, Keras and machine."""
    versions = {"bert-of-theseus": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "keras": KERAS_ON_BACKEND,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }
