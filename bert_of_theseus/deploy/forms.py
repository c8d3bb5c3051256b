"""Which forms of a model are in a folder, and which of them runs."""

from __future__ import annotations

import importlib.util
import sys
import timeit
import warnings
from pathlib import Path

import numpy as np

from ..checkpoints.base import missing_file
from ..checkpoints.families import SEQUENCE, TOKEN
from ..checkpoints.heads import HEAD_FILE, HeadFacts, read_labels, read_task, stored_activation
from ..checkpoints.load import KINDS as CHECKPOINTS
from ..checkpoints.load import find_checkpoint
from .folder import FILES
from .runtimes import open_runtime

# Each but "keras", the checkpoint, is a file. In order of preference: quantized files last, as they
# change the results.
KINDS = ("onnx", "tflite", "keras", "float16.tflite", "int8.onnx", "int8.tflite")
_QUICK = ("onnx", "tflite")  # of which the one that is quicker here runs
_WORDS = range(2, 34, 4)  # in the texts that are labelled to find out
_MOST = 0.01  # by which the answers of two forms of one model differ


def find_forms(directory: Path, kind: str | None) -> dict[str, Path]:
    """The forms that are there, in order of preference, or the one that is asked for."""
    there = {}
    for k in KINDS:
        names = [name for name in FILES.get(k, ()) if (directory / name).is_file()]
        if names:
            there[k] = directory / names[0]
        elif k == "keras" and any(c.find_tensors(directory) for c in CHECKPOINTS):
            there[k] = directory
    if kind is not None and kind not in there:
        raise missing_file(
            directory, "a checkpoint for Keras" if kind == "keras" else " or ".join(FILES[kind])
        )
    if not there:
        names = ", ".join(name for names in FILES.values() for name in names)
        raise missing_file(directory, f"a checkpoint, {names}")
    return there if kind is None else {kind: there[kind]}


def open_forms(
    there: dict[str, Path],
    config_path: Path,
    raw: dict,
    num_threads: int | None,
    num_workers: int,
):
    """Those that may be the quickest: of each its kind, what its head is, and its runtime.

    Args:
        there: As `find_forms` returns them.
        config_path: The model's config, with the content `raw`.
        num_threads, num_workers: As in `open_runtime`.

    Raises:
        ImportError: if a package is missing for each of them.
        ValueError: if a file is no such model.
    """
    opened, errors = [], []
    for kind, path in there.items():
        if opened and (kind not in _QUICK or _loads_tensorflow(kind)):
            continue
        facts = _read_facts(kind, config_path, raw)
        try:
            runtime = open_runtime(path, num_threads, num_workers)
        except ImportError as error:
            errors.append(error)
            continue
        except ValueError as error:
            if not opened:
                raise
            _warn(kind, error)
            continue
        if runtime.output_name in ("last_hidden_state", "pooler_output"):
            raise _no_head(config_path, f"{path.name}, whose output is {runtime.output_name}")
        opened.append((kind, facts, runtime))
    if not opened:
        raise ImportError(" ".join(map(str, errors))) from errors[0]
    return opened


def _warn(kind, error):
    warnings.warn(f"The form {kind!r} is left out: {error}", stacklevel=5)


def _loads_tensorflow(kind: str) -> bool:
    """Whether it runs in a TensorFlow that is not loaded yet."""
    has_its_own = importlib.util.find_spec("ai_edge_litert") is not None
    return kind.endswith("tflite") and not has_its_own and "tensorflow" not in sys.modules


def quickest(predictors: list):
    """The predictor that takes the least time, of several with the same model and limit.

    Raises:
        ValueError: if their answers are not those of one model.

    Warns:
        UserWarning: if one of them, but the first, fails. It is left out.
    """
    first, *others = predictors
    if not others:
        return first
    texts = [" ".join(["word"] * count) for count in _WORDS]
    encodings = first.tokenizer.encode_batch(texts, first.max_length)

    def answers(predictor):
        outputs = predictor._outputs(encodings, texts)
        if not first.tags_tokens:
            return list(outputs)
        return [output[: len(encoding)] for output, encoding in zip(outputs, encodings)]

    expected, alike = answers(first), [first]
    for predictor in others:
        try:
            found = answers(predictor)
        except (ValueError, RuntimeError) as error:
            _warn(predictor.kind, error)
            continue
        if not all(map(_alike, expected, found)):
            raise ValueError(
                f"The forms {first.kind!r} and {predictor.kind!r} must be of one model. Received: "
                "different answers to one text. Delete the older file, or name the `kind` to run."
            )
        alike.append(predictor)
    # As many batches for each as one of them runs at once.
    batches = [encodings] * max(predictor.num_workers for predictor in alike)

    def label(predictor):
        list(predictor.map_batches(lambda _: answers(predictor), batches))

    return min(alike, key=lambda predictor: _seconds(lambda: label(predictor)))


def _alike(a, b):
    return a.shape == b.shape and np.abs(a - b).max() <= _MOST * max(1, np.abs(a).max())


def _seconds(call):
    return min(timeit.repeat(call, number=1, repeat=3))


def _read_facts(kind: str, path: Path, raw: dict) -> HeadFacts:
    """What the head is: by the weights if they are to run, else by the config alone."""
    if kind == "keras":
        facts = read_task(find_checkpoint(path.parent))
        if facts.kind is None:
            raise _no_head(path)
        return facts
    said = raw.get("architectures")
    said = str(said[0]) if isinstance(said, list) and said else ""
    ends = {"ForSequenceClassification": SEQUENCE, "ForTokenClassification": TOKEN}
    kind = next((ends[end] for end in ends if said.endswith(end)), None)
    # A head that other programs do not know is saved as an encoder with its labels beside it.
    own = "classifier_activation" in raw or path.with_name(HEAD_FILE).is_file()
    if said and kind is None and not own:
        raise _no_head(path, said)
    labels = read_labels(raw.get("id2label"), path)
    number = len(raw.get("id2label") or (0, 1))
    return HeadFacts(kind, labels, stored_activation(raw, number, path, kind or SEQUENCE), number)


def _no_head(path: Path, what: str = "an encoder without a head") -> ValueError:
    return ValueError(
        f"{str(path)!r} must describe a model with a head that labels texts or tokens. Received: "
        f"{what}. Save an encoder with its classifier."
    )
