"""Where a pickled predictor arrives: one model in each process."""

from __future__ import annotations

import functools
import threading

_lock = threading.Lock()


def arrived(cls: type, key: str, arguments: tuple):
    """Loads a predictor, or returns the one that has arrived in this process before.

    A cluster pickles what a task uses with each task. Without this, each would load the model.

    Args:
        cls: `Predictor`.
        key: String of the predictor that was pickled. Another one that was loaded from the same
            folder has another key, as the folder may have changed in between.
        arguments: Of `cls.load`.

    Returns:
        A `Predictor`.
    """
    with _lock:
        return _load(cls, key, arguments)


@functools.lru_cache(maxsize=2)  # the models that stay in memory
def _load(cls, key, arguments):
    predictor = cls.load(*arguments)
    predictor._source = (key, arguments)
    return predictor
