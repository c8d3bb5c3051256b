"""The batches that a successor learns from: of labels, or of the predecessor's answers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..data import Batches, Encoded
from .answers import SoftBatches, Texts, answered, soft_options
from .inputs import Inputs

if TYPE_CHECKING:
    from ..training.answers import Answers  # which imports Keras


def make_batches(
    inputs: Inputs, answer: Callable[[str, Encoded], Answers] | None = None, **options
) -> tuple[dict, dict]:
    """Batches to train on, to choose by and to report on.

    Args:
        inputs: `Inputs`.
        answer: Function of the name of a set of texts without labels and its `Encoded`, that
            returns the predecessor's answers. Defaults to `None`: labels that mean nothing take
            their place, which do to time steps.
        **options: Of `Batches`.

    Returns:
        `Batches` by `"train"`, `"validation"` and, where there are such texts, `"test"`; of a saved
        dataset, `StoredBatches` to train on. And the keyword arguments for `compress` that go with
        them.
    """
    task = inputs.task
    parts = {name: Texts(encoded) for name, encoded in inputs.texts.items()}
    for name in inputs.without_labels if answer else ():
        encoded = parts[name].encoded
        answers = answer(name, encoded)
        if name in ("train", "unlabeled"):
            parts[name] = Texts(encoded, answers)
        else:  # scores say how often the successor decides as the predecessor does
            parts[name] = Texts(answered(task, encoded, answers))
    sets = {name: [part] for name, part in parts.items() if name != "unlabeled"}
    if "unlabeled" in parts:
        sets["train"].append(parts["unlabeled"])
    soft = bool(inputs.without_labels)
    make = functools.partial(SoftBatches, task) if soft else _of_labels
    batches = {name: make(some, shuffle=name == "train", **options) for name, some in sets.items()}
    if inputs.saved is not None:
        batches["train"] = inputs.saved.batches(**options)
    return batches, soft_options(task) if soft else task.options


def _of_labels(texts, **options):
    return Batches(texts[0].encoded, **options)
