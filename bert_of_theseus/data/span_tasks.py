"""Tasks whose labels are spans of a text: named entities, and answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..statistics import ratio
from ..validation import positive_integer
from .decoding import decode_answer, decode_entities, tokens_of, trimmed, without_overlaps
from .examples import NO_LABEL, Entity
from .tasks import TextTask


class MaskedTask(TextTask):
    """Outputs without a label, such as those of padding, count in neither loss nor metric."""

    @property
    def loss(self):
        from .losses import MaskedCrossentropy

        return MaskedCrossentropy()

    @property
    def metrics(self):
        from .losses import MaskedAccuracy

        return (MaskedAccuracy(),)


class Tagging(MaskedTask):
    """Named entities: one tag per token, in the BIO scheme.

    An example's label is a list of `Entity`; white space at their ends is ignored. An entity is
    labelled only if whole tokens represent it exactly. Entities that are truncated, begin or end
    within a token, or overlap an earlier one get no tags; their tokens get no label, `dropped` of
    `Encoded` counts them, and the score counts them as missed.

    The score is seqeval's over all texts, computed on characters: an entity is correct if its
    start, end and type are.

    Args:
        types: List of strings, the entity types. `labels` are the tags: `O`, and `B-` and `I-`
            with each type.
        metric: `"f1"`, `"precision"` or `"recall"`. Defaults to `"f1"`.

    Example:

    >>> Tagging(["person", "place"]).labels
    ['O', 'B-person', 'I-person', 'B-place', 'I-place']
    """

    _metrics: ClassVar = dict.fromkeys(("f1", "precision", "recall"), "seqeval.metrics")

    def __init__(self, types: Sequence[str], metric: str = "f1"):
        self.types = list(types)
        super().__init__(["O", *(f"{tag}-{type}" for type in types for tag in "BI")], metric)

    def get_config(self):
        return {"types": self.types, "metric": self.metric}

    def head(self, hidden_size):
        from ..heads import tagging_head

        return tagging_head(hidden_size, len(self.labels))

    def encode(self, examples, tokenizer, max_length):
        given = [self._entities(example, number) for number, example in enumerate(examples)]
        encoded = tokenizer.encode_with_offsets(examples, max_length)
        labels, kept = [], 0
        for entities, offsets, cut in zip(given, encoded.offsets, encoded.cut):
            tags = np.where(offsets[:, 0] < offsets[:, 1], 0, NO_LABEL).astype("int32")
            for entity in without_overlaps(entities):
                touched, whole = tokens_of(entity, offsets, cut)
                if whole:
                    number = 1 + 2 * self.types.index(entity.type)
                    tags[touched] = number + 1
                    tags[touched[0]] = number
                    kept += 1
                else:
                    tags[touched] = NO_LABEL
            labels.append(tags)
        dropped = sum(map(len, given)) - kept
        return encoded._replace(labels=labels, dropped=dropped)

    def measure(self, outputs, encoded):
        module = self._module()
        wanted = [
            _tags(without_overlaps(self._entities(example, number)), len(example.text))
            for number, example in enumerate(encoded.examples)
        ]
        found = [
            _tags(entities, len(example.text))
            for entities, example in zip(self.decode(outputs, encoded), encoded.examples)
        ]
        names = dict.fromkeys((self.metric, "precision", "recall", "f1"))
        return {
            name: getattr(module, f"{name}_score")(wanted, found, zero_division=0) for name in names
        }

    def _by_example(self, outputs, encoded):
        counts = []
        for number, found in enumerate(self.decode(outputs, encoded)):
            wanted = set(without_overlaps(self._entities(encoded.examples[number], number)))
            counts.append((len(wanted & set(found)), len(found), len(wanted)))
        return rows_of_entities(self.metric, *np.array(counts).T), ratio

    def decode(self, outputs, encoded):
        """Returns the list of `Entity` of each text."""
        return [
            decode_entities(output, offsets, self.labels, cut)
            for output, offsets, cut in zip(outputs, encoded.offsets, encoded.cut)
        ]

    def _entities(self, example, number):
        text, entities = example.text, []
        if not isinstance(example.label, (list, tuple)) or not all(
            isinstance(entity, (list, tuple)) and len(entity) == 3 for entity in example.label
        ):
            raise self._invalid(number, "a list of entities: (start, end, type)", example.label)
        for entity in example.label:
            start, end, type = entity
            if type not in self.types or not 0 <= start < end <= len(text):
                raise self._invalid(
                    number,
                    f"entities within 0 to {len(text)} of the types {', '.join(self.types)}",
                    entity,
                )
            entities.append(Entity(*trimmed(text, start, end), type))
        return entities


class SpanExtraction(MaskedTask):
    """The part of a text that answers a question.

    An example is a `Pair` of the question and the text that is searched; its label is the
    answer's `(start, end)` in `second_text`, or `None` if there is no answer. `second_text` is
    truncated to fit; an answer that is not whole then gets no label, `dropped` of `Encoded` counts
    it, and the score counts it as missed.

    Args:
        metric: `"f1"`, the mean overlap of predicted and true answer, in characters other than
            white space, or `"exact_match"`. Defaults to `"f1"`.
        max_answer_length: Integer, in tokens. Defaults to `30`.
    """

    _metrics: ClassVar = {"f1": None, "exact_match": None}
    label_names = ()

    def __init__(self, metric: str = "f1", max_answer_length: int = 30):
        super().__init__(["start", "end"], metric)
        self.max_answer_length = positive_integer("max_answer_length", max_answer_length)

    def get_config(self):
        return {"metric": self.metric, "max_answer_length": self.max_answer_length}

    def head(self, hidden_size):
        from ..heads import span_head

        return span_head(hidden_size)

    def encode(self, examples, tokenizer, max_length):
        answers = [self._answer(example, number) for number, example in enumerate(examples)]
        encoded = tokenizer.encode_with_offsets(examples, max_length)
        # "No answer" is labelled as the position of [CLS], as in BERT.
        labels, dropped = np.zeros((len(examples), 2), dtype="int32"), 0
        for row, (answer, offsets, cut) in enumerate(zip(answers, encoded.offsets, encoded.cut)):
            if answer is None:
                continue
            touched, whole = tokens_of(Entity(*answer, ""), offsets, cut)
            labels[row] = touched[[0, -1]] if whole else NO_LABEL
            dropped += not whole
        return encoded._replace(labels=labels, dropped=dropped)

    def measure(self, outputs, encoded):
        exact, overlap = self._answers(outputs, encoded)
        return {"f1": np.mean(overlap), "exact_match": np.mean(exact)}

    def _by_example(self, outputs, encoded):
        exact, overlap = self._answers(outputs, encoded)
        rows = overlap if self.metric == "f1" else exact
        return np.stack([rows, np.ones(len(rows))], axis=1), ratio

    def _answers(self, outputs, encoded):
        """Whether each answer is exact, and its overlap with the true one."""
        exact, overlap = [], []
        decoded = self.decode(outputs, encoded)
        for number, (example, found) in enumerate(zip(encoded.examples, decoded)):
            wanted = self._answer(example, number)
            exact.append(found == wanted)
            a, b = (_characters(example.second_text, span) for span in (wanted, found))
            overlap.append(2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0)
        return exact, overlap

    def decode(self, outputs, encoded):
        """Returns `(start, end)` of each answer in the second text, or `None`."""
        return [
            decode_answer(output, offsets, cut, self.max_answer_length)
            for output, offsets, cut in zip(outputs, encoded.offsets, encoded.cut)
        ]

    def _answer(self, example, number):
        if example.second_text is None:
            raise ValueError(
                f"Example {number}: must be a `Pair` of a question and the text that is searched."
            )
        if example.label is None:
            return None
        start, end = example.label
        length = len(example.second_text)
        if not 0 <= start < end <= length:
            raise self._invalid(
                number, f"(start, end) within 0 to {length}, or None", example.label
            )
        return trimmed(example.second_text, start, end)


def rows_of_entities(metric, right, found, wanted):
    """Of each text, from its numbers of entities: what `statistics.ratio` has the score from."""
    if metric == "f1":
        return np.stack([2 * right, found + wanted], axis=1)
    return np.stack([right, found if metric == "precision" else wanted], axis=1)


def _tags(entities, length):
    tags = ["O"] * length
    for start, end, type in entities:
        tags[start:end] = [f"B-{type}", *[f"I-{type}"] * (end - start - 1)]
    return tags


def _characters(text, span):
    return set() if span is None else {i for i in range(*span) if not text[i].isspace()}
