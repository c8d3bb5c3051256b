"""What the command line does, one module per command. No module imports Keras at its top."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from pathlib import Path

from ..startup import hide_startup_lines


def positive(value: str) -> int:
    """The type of an argument that is a whole number of at least 1."""
    with contextlib.suppress(ValueError):
        if int(value) > 0:
            return int(value)
    raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {value!r}")


def prepare_keras() -> None:
    """Has Keras start on a backend that is there, if it is imported, and without lines of others.

    Those are TensorFlow's at its start, its warnings about retracing, and KerasHub's.
    """
    import logging

    _choose_backend()
    hide_startup_lines()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _choose_backend():
    """Lets Keras run on what is installed, where the user has not chosen a backend."""
    if "KERAS_BACKEND" in os.environ or "keras" in sys.modules:
        return
    # Keras itself writes this file, with TensorFlow in it.
    file = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "keras.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if importlib.util.find_spec(json.loads(file.read_text())["backend"]):
            return
    for name in ("tensorflow", "torch", "jax"):
        if importlib.util.find_spec(name):
            os.environ["KERAS_BACKEND"] = name
            return
