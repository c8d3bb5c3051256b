"""Tags of words: the labels are the model's own, in whatever scheme."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..validation import is_integer
from .decoding import tag_spans
from .examples import NO_LABEL, Words
from .span_tasks import MaskedTask
from .tokenizer import Encoded


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

    def __init__(self, labels: Sequence[str], metric: str | None = None):
        self.has_entities = "O" in labels and all(
            re.fullmatch("O|[BIESLU]-.+", label) for label in labels
        )
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
        encodings = _encodings(examples, tokenizer, max_length)
        labels, offsets = [], []
        for example, given, encoding in zip(examples, tags, encodings):
            spans, units = _words_of(example, encoding)
            label = np.full(len(spans), NO_LABEL, dtype="int32")
            if given is not None:
                label[units >= 0] = given[units[units >= 0]]
            labels.append(label)
            offsets.append(spans)
        words = [len(e.words) if isinstance(e, Words) else 0 for e in examples]
        kept = [(o[:, 0] < o[:, 1]).sum() for o in offsets]
        return Encoded(
            [np.array(encoding.ids, dtype="int32") for encoding in encodings],
            labels,
            offsets=offsets,
            cut=np.array([bool(encoding.overflowing) for encoding in encodings], dtype=bool),
            examples=examples,
            dropped=sum(max(0, all - left) for all, left in zip(words, kept)),
        )

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
        pairs = []
        for output, tags in zip(outputs, encoded.labels):
            has_label = tags != NO_LABEL
            found = np.asarray(output)[: len(tags)].argmax(-1)
            pairs.append((tags[has_label], found[has_label]))
        hits, words = sum((a == b).sum() for a, b in pairs), sum(len(a) for a, _ in pairs)
        scores = {"accuracy": hits / max(words, 1)}
        if not self.has_entities:
            return scores
        wanted, found = (
            [
                (number, *span)
                for number, tags in enumerate(side)
                for span in tag_spans([self.labels[tag] for tag in tags])
            ]
            for side in zip(*pairs)
        )
        right = len(set(wanted) & set(found))
        scores |= {
            "precision": right / max(len(found), 1),
            "recall": right / max(len(wanted), 1),
            "f1": 2 * right / max(len(found) + len(wanted), 1),
        }
        return {name: scores[name] for name in dict.fromkeys((self.metric, *scores))}

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


def _encodings(examples, tokenizer, max_length):
    """The tokenizer's encodings: of words that are given, or of whole texts."""
    found = [None] * len(examples)
    for encode, is_asked in (
        (tokenizer.encode_words, lambda example: isinstance(example, Words)),
        (tokenizer.encode_batch, lambda example: not isinstance(example, Words)),
    ):
        rows = [row for row, example in enumerate(examples) if is_asked(example)]
        texts = [getattr(examples[row], "words", examples[row].text) for row in rows]
        for row, encoding in zip(rows, encode(texts, max_length) if rows else ()):
            found[row] = encoding
    return found


def _words_of(example, encoding):
    """Start and end of the word that begins at each token, and its place among the labels.

    Where no word begins, start and end are 0, and the place is -1.
    """
    spans = np.zeros((len(encoding.ids), 2), dtype="int32")
    units = np.full(len(encoding.ids), -1)
    words = getattr(example, "words", None)
    ends = np.cumsum([len(word) + 1 for word in words]) - 1 if words else ()
    before = first = None
    for row, word in enumerate(encoding.word_ids):
        if word is None:
            before = None
            continue
        if words:
            start, end = ends[word] - len(words[word]), ends[word]
        else:
            start, end = encoding.offsets[row]
        if word == before:
            spans[first, 1] = end
        else:
            first = row
            space = re.match(r"\s*", example.text[start:end]).end()
            spans[row] = start + space, end
            units[row] = word if words else start + space
        before = word
    empty = spans[:, 0] >= spans[:, 1]
    spans[empty], units[empty] = 0, -1
    return spans, units
