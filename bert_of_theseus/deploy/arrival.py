"""Where a pickled predictor arrives: one model in each process."""

from __future__ import annotations

import collections
import os
import threading
import weakref

_lock = threading.RLock()  # to load one is to remember it
_alive = weakref.WeakValueDictionary()
_recent = collections.deque(maxlen=2)  # those that arrived last stay in memory between tasks


def remember(predictor, key: str) -> None:
    """Keeps `predictor` as what this process has for `key`, for as long as it is in use."""
    with _lock:
        _alive[key] = predictor


def arrived(cls: type, key: str, arguments: tuple):
    """Loads a predictor, or returns the one that this process has.

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
        predictor = _alive.get(key)
        if predictor is None:
            predictor = cls.load(*arguments)
            predictor._source = (key, arguments)
            remember(predictor, key)
            _recent.append(predictor)
        return predictor


def _renew_after_fork():
    """Another thread may have held the lock."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)
