"""What the command line does, one module per command. No module imports Keras at its top."""

from __future__ import annotations

import argparse
import contextlib
import os


def positive(value: str) -> int:
    """The type of an argument that is a whole number of at least 1."""
    with contextlib.suppress(ValueError):
        if int(value) > 0:
            return int(value)
    raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {value!r}")


def quieten_tensorflow() -> None:
    """Turns off TensorFlow's start-up notices and its warnings about retracing."""
    import logging

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
