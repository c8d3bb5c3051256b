"""Tags of words: the labels are the model's own, in whatever scheme."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..statistics import ratio
from ..validation import is_integer
from .batches import Encoded
from .decoding import is_entity_tag, tag_spans
from .examples import NO_LABEL, Words
from .span_tasks import MaskedTask, rows_of_entities


class TokenClassification(MaskedTask):
    """A tag for each word of a text, with the labels of a model that is there.

    An example is `Words` with the number of a tag for each word, or an `Example` with one for each
    character. As in `transformers`, the first token of a word has its tag, and the others have no
    label; so a score is that of whole words. Words that are cut off do not count.

    Args:
        labels: List of strings, the tags in the order of the model's outputs.
        metric: `"accuracy"` of the words; or `"f1"`, `"precision"` or `"recall"` of entities, as
            seqeval computes them, if the tags are `O` and `B-`, `I-`, `E-`, `S-` (or `L-`, `U-`)
            with a type. Defaults to `None`: `"f1"` for such tags, `"accuracy"` for others.

    Example:

    >>> TokenClassification(["B-place", "I-place", "O"]).metric
    'f1'
    >>> TokenClassification(["NOUN", "VERB"]).metric
    'accuracy'
    """

    _metrics: ClassVar = dict.fromkeys(("accuracy", "f1", "precision", "recall"))
    _kind = "tagging"

    def __init__(self, labels: Sequence[str], metric: str | None = None):
        self.has_entities = "O" in labels and all(map(is_entity_tag, labels))
        super().__init__(labels, metric or ("f1" if self.has_entities else "accuracy"))
        if self.metric != "accuracy" and not self.has_entities:
            raise ValueError(
                f"With `metric={self.metric!r}`, `labels` must be O, B-... and I-..., and maybe "
                f"E-... and S-.... Received: {self.labels}"
            )

    def head(self, hidden_size):
        from ..heads import tagging_head

        return tagging_head(hidden_size, len(self.labels))

    def encode(self, examples, tokenizer, max_length):
        """As in `TextTask`. `offsets` are those of words, at their first tokens."""
        tags = [self._tags(example, number) for number, example in enumerate(examples)]
        encoded, labels, dropped = _encoded(examples, tokenizer, max_length), [], 0
        for example, given, offsets in zip(examples, tags, encoded.offsets):
            is_first = offsets[:, 0] < offsets[:, 1]
            label = np.full(len(offsets), NO_LABEL, dtype="int32")
            if given is not None:
                label[is_first] = given[offsets[is_first, 0]]
            labels.append(label)
            dropped += len(example.words) - is_first.sum() if isinstance(example, Words) else 0
        return encoded._replace(labels=labels, dropped=int(dropped))

    def _tags(self, example, number):
        if example.label is None:
            return None
        units = example.words if isinstance(example, Words) else example.text
        count, tags = len(self.labels), example.label
        if (
            not isinstance(tags, (list, tuple))
            or len(tags) != len(units)
            or not all(is_integer(tag) and 0 <= tag < count for tag in tags)
        ):
            raise self._invalid(
                number, f"a list of {len(units)} integers from 0 to {count - 1}", tags
            )
        return np.array(tags, dtype="int32")

    def measure(self, outputs, encoded):
        hits, words, right, found, wanted = self._counts(outputs, encoded).sum(0)
        scores = {"accuracy": hits / max(words, 1)}
        if self.has_entities:
            scores |= {
                "precision": right / max(found, 1),
                "recall": right / max(wanted, 1),
                "f1": 2 * right / max(found + wanted, 1),
            }
        return {name: scores[name] for name in dict.fromkeys((self.metric, *scores))}

    def _by_example(self, outputs, encoded):
        counts = self._counts(outputs, encoded)
        if self.metric == "accuracy":
            return counts[:, :2], ratio
        return rows_of_entities(self.metric, *counts[:, 2:].T), ratio

    def _counts(self, outputs, encoded):
        """Of each text: words that are right, words, entities that are right, found, wanted."""
        counts = []
        for output, tags in zip(outputs, encoded.labels):
            has_label = tags != NO_LABEL
            sides = tags[has_label], np.asarray(output)[: len(tags)].argmax(-1)[has_label]
            hits, words = (sides[0] == sides[1]).sum(), len(sides[0])
            wanted, found = (
                tag_spans([self.labels[tag] for tag in side]) if self.has_entities else []
                for side in sides
            )
            right = len(set(wanted) & set(found))
            counts.append((hits, words, right, len(found), len(wanted)))
        return np.array(counts)

    def decode(self, outputs, encoded):
        """Returns the list of tags of each text, one for each word that is not cut off."""
        return [
            [
                self.labels[tag]
                for tag in np.asarray(output)[: len(offsets)].argmax(-1)[
                    offsets[:, 0] < offsets[:, 1]
                ]
            ]
            for output, offsets in zip(outputs, encoded.offsets)
        ]


def _encoded(examples, tokenizer, max_length):
    """Token ids of words that are given, or of whole texts, with the offsets of each word."""
    ids, offsets, cut = [[None] * len(examples) for _ in range(3)]
    rows = [row for row, example in enumerate(examples) if isinstance(example, Words)]
    if rows:
        found = tokenizer.encode_words([examples[row].words for row in rows], max_length)
        for row, *parts in zip(rows, found.token_ids, found.offsets, found.cut):
            ids[row], offsets[row], cut[row] = parts
    rows = [row for row, example in enumerate(examples) if ids[row] is None]
    if rows:
        texts = [examples[row].text for row in rows]
        for row, text, found in zip(rows, texts, tokenizer.encode_batch(texts, max_length)):
            ids[row] = np.array(found.ids, dtype="int32")
            offsets[row], cut[row] = _offsets_of_words(found, text), bool(found.overflowing)
    return Encoded(ids, None, offsets=offsets, cut=np.array(cut, dtype=bool), examples=examples)


def _offsets_of_words(encoding, text):
    """Start and end, in characters, of the word that begins at each token; 0 where none does."""
    offsets = np.zeros((len(encoding.ids), 2), dtype="int32")
    before = first = None
    for row, word in enumerate(encoding.word_ids):
        start, end = encoding.offsets[row]
        if word is not None and word == before:
            offsets[first, 1] = end
        elif word is not None:
            first = row
            offsets[row] = start + re.match(r"\s*", text[start:end]).end(), end
        before = word
    offsets[offsets[:, 0] >= offsets[:, 1]] = 0
    return offsets
