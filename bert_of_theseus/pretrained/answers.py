"""The predecessor's answers: computed once, kept on disk, and learned in place of labels.

    batches = Batches(task.encode(unlabelled(task, examples), tokenizer, max_length), 32)
    answers = predecessor_answers(predecessor_model, batches, "answers/train")
    train = SoftBatches(task, [Texts(labelled), Texts(batches.encoded, answers)], 32)
    result = compress(..., train, validation, **soft_options(task))

`validation` is `SoftBatches` too: a training has one loss. Where validation texts have no labels
either, `answered` makes labels of the answers. The predecessor's score is 1 then, and that of a
successor is its agreement with the predecessor.
"""

from __future__ import annotations

import bisect
import copy
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data import (
    NO_LABEL,
    Batches,
    Classification,
    Encoded,
    MultiLabel,
    Regression,
    SpanExtraction,
    TextTask,
    TokenClassification,
)
from ..validation import number

if TYPE_CHECKING:
    from ..training.answers import Answers  # which imports Keras


def predecessor_answers(
    model,
    batches: Batches,
    directory: str | os.PathLike,
    *,
    verbose="auto",
) -> Answers:
    """Returns the outputs of `model` for each text, computed once and kept in a folder.

    See `training.answers` for its files. Of outputs per token, those of padding are left out.

    Args:
        model: Keras model, from the inputs of `batches` to the task's outputs.
        batches: `Batches` of the texts. Their labels are not read.
        directory: The folder, created if it is missing.
        verbose: Whether to say how far it is. Defaults to `"auto"`, yes.

    Returns:
        `Answers`, in the order of `batches.encoded`.

    Raises:
        ArithmeticError: if an answer is NaN or infinite.
        OSError: if a file cannot be written.
        ValueError: if the folder holds answers of another model or to other texts, or they are
            damaged; or if the outputs are neither one row per text nor one per token.
    """
    from ..training import BatchAccess
    from ..training.answers import compute_answers, model_key

    shape = tuple(model.outputs[0].shape)
    if len(model.outputs) != 1 or len(shape) not in (2, 3):
        raise ValueError(
            "`model` must have one output, (batch_size, outputs) or (batch_size, "
            f"sequence_length, outputs). Received: {[tuple(x.shape) for x in model.outputs]}"
        )
    in_order = copy.copy(batches)
    in_order.shuffle = False  # sorted by length, so that padding costs little
    in_order.set_epoch(0)
    lengths = batches.lengths if len(shape) == 3 else None
    key = {**model_key(model), "texts": _texts_key(batches.encoded)}
    access = BatchAccess(in_order, in_order.batch_size)
    return compute_answers(
        model, access, Path(directory), key, lengths, verbose, name="predecessor"
    )


def _texts_key(encoded):
    texts = hashlib.sha256()
    for part in (encoded.token_ids, encoded.segment_ids or ()):
        for ids in part:
            texts.update(f"{len(ids)} ".encode())
            texts.update(np.asarray(ids, "int32").tobytes())
    return texts.hexdigest()


# What is learned: labels, the predecessor's answers, or both.


class Texts(NamedTuple):
    """Texts to learn from.

    Attributes:
        encoded: `Encoded`, with labels, or of `unlabelled` examples.
        answers: `Answers` to them, or `None`: the labels alone are learned.
        share: Float in [0, 1], the answers' part of the target; the labels are the rest. Each of
            the losses then has the gradient of the weighted mean of two, one on the answers and one
            on the labels. 1 where there are no labels.
    """

    encoded: Encoded
    answers: Answers | None = None
    share: float = 1.0


class SoftBatches(Batches):
    """`Batches` whose labels are distributions: the predecessor's answers, labels, or both.

    Labels are of shape `(batch_size, outputs)`: probabilities of classes, or numbers. Labels per
    token are of shape `(batch_size, sequence_length, outputs)`, zeros where there is no label.

    Args:
        task: `Classification`, `MultiLabel`, `Regression`, `Tagging` or `TokenClassification`.
        texts: List of `Texts`, encoded by the task.
        *args, **kwargs: As in `Batches`.

    Raises:
        TypeError: if the task is another.
        ValueError: if the answers are not those to these texts, or not as many as the task has
            outputs; or as in `Batches`.
    """

    def __init__(self, task: TextTask, texts: Sequence[Texts], *args, **kwargs):
        if isinstance(task, SpanExtraction):
            raise TypeError("Answers cannot be learned without labels. Received: spans of a text")
        self.task, self.texts = task, list(texts)
        for part in self.texts:
            self._check(part)
        self._ends = list(itertools.accumulate(len(part.encoded.token_ids) for part in self.texts))
        super().__init__(_joined([part.encoded for part in self.texts]), *args, **kwargs)

    def _check(self, part):
        number("share", part.share, "[0, 1]")
        if part.answers is None:
            return
        if len(part.answers) != len(part.encoded.token_ids):
            raise ValueError(
                "There must be an answer to each text. Received: "
                f"{len(part.answers)} answers to {len(part.encoded.token_ids)} texts"
            )
        width = part.answers.values.shape[-1]
        if width != len(self.task.labels):
            raise ValueError(
                f"There must be {len(self.task.labels)} outputs, one per label of the task. "
                f"Received: answers of {width}"
            )

    def __getitem__(self, index):
        inputs, labels = super().__getitem__(index)
        targets = [self.target(row) for row in self._batches[index]]
        if targets[0].ndim == 1:
            return inputs, np.stack(targets)
        padded = np.zeros((*labels.shape, targets[0].shape[-1]), "float32")
        for row, target in zip(padded, targets):
            row[: len(target)] = target
        return inputs, padded

    def target(self, row: int) -> np.ndarray:
        """What is learned for text `row` of `encoded`."""
        place = bisect.bisect_right(self._ends, row)
        encoded, answers, share = self.texts[place]
        row -= self._ends[place - 1] if place else 0
        label = encoded.labels[row]
        if answers is None or share == 0:
            return self._as_outputs(label)
        answer = answers[row]
        if answer.ndim == 2:
            answer[np.asarray(label) == NO_LABEL] = 0
        if share == 1:
            return answer
        # In this order no sum of probabilities is rounded to more than 1.
        return answer + np.float32(1 - share) * (self._as_outputs(label) - answer)

    def _as_outputs(self, label):
        label = np.asarray(label)
        if isinstance(self.task, (MultiLabel, Regression)):
            return label.astype("float32")
        return (label[..., None] == np.arange(len(self.task.labels))).astype("float32")


def soft_options(task: TextTask) -> dict:
    """The task's `options`, for `SoftBatches`.

    Raises:
        ImportError: as `TextTask.options` does.
    """
    options = task.options
    if isinstance(task, Classification):
        options["loss"] = "categorical_crossentropy"
    elif isinstance(task, MultiLabel):
        # Keras' binary accuracy compares a decision with a probability, and is always 0.
        options["metrics"] = ("mean_absolute_error",)
    return options


def unlabelled(task: TextTask, examples: Sequence) -> list:
    """The examples with a label that `task` can encode. It means nothing."""
    if isinstance(task, TokenClassification):  # one for each word, or for each character
        units = (getattr(example, "words", example.text) for example in examples)
        return [e._replace(label=[0] * len(part)) for e, part in zip(examples, units)]
    kinds = {Classification: 0, MultiLabel: (), Regression: 0.0}
    label = next((label for kind, label in kinds.items() if isinstance(task, kind)), ())
    return [example._replace(label=label) for example in examples]


def answered(task: TextTask, encoded: Encoded, answers: Answers) -> Encoded:
    """The `unlabelled` texts with the predecessor's answers as labels: its decision on each.

    `task.score` then measures the agreement with the predecessor, whose own score is 1.
    """
    outputs = [answers[row] for row in range(len(answers))]
    if isinstance(task, Classification):
        labels = np.array([output.argmax() for output in outputs], "int32")
        found = labels.tolist()
    elif isinstance(task, MultiLabel):
        labels = np.array(outputs >= np.float32(task.threshold), "float32")
        found = [np.flatnonzero(label).tolist() for label in labels]
    elif isinstance(task, Regression):
        labels = np.array(outputs, "float32")
        found = labels[:, 0].tolist()
    else:
        # The tags of words stand in `labels` alone: words that are cut off have none.
        of_words = isinstance(task, TokenClassification)
        found = [None] * len(outputs) if of_words else task.decode(outputs, encoded)
        labels = [
            np.where(old == NO_LABEL, NO_LABEL, output.argmax(-1)).astype("int32")
            for old, output in zip(encoded.labels, outputs)
        ]
    examples = [example._replace(label=label) for example, label in zip(encoded.examples, found)]
    return encoded._replace(labels=labels, examples=examples)


def _joined(parts):
    """All texts in one `Encoded`, for batches of token ids."""
    if len(parts) == 1:
        return parts[0]
    segments = None
    if any(part.segment_ids is not None for part in parts):
        segments = [
            ids
            for part in parts
            for ids in part.segment_ids or [np.zeros_like(ids) for ids in part.token_ids]
        ]
    labels = [part.labels for part in parts]
    per_token = isinstance(labels[0], list)
    return Encoded(
        [ids for part in parts for ids in part.token_ids],
        sum(labels, []) if per_token else np.concatenate(labels),
        segments,
    )
