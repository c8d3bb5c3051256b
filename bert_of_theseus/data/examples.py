"""Examples, a corpus of them, and the split of a list of examples in two."""

from __future__ import annotations

import collections
import random
from typing import NamedTuple

from ..validation import positive_integer

# Loss and metric leave out what has this label, such as padding. See `losses`.
NO_LABEL = -1


class Entity(NamedTuple):
    """A named entity: `text[start:end]`, and its type."""

    start: int
    end: int
    type: str


class Example(NamedTuple):
    """A text and its label: a class index, or what the task takes (see `tasks`)."""

    text: str
    label: object
    second_text = None


class Pair(NamedTuple):
    """A pair of texts and its label. Valid wherever an `Example` is."""

    text: str
    second_text: str
    label: object


class Words(NamedTuple):
    """A text that is split into words, and its labels, one for each word."""

    words: tuple[str, ...]
    label: object
    second_text = None

    @property
    def text(self) -> str:
        """The words with spaces between."""
        return " ".join(self.words)


class Corpus(NamedTuple):
    """Three disjoint lists of examples, and the names of their classes, entity types or tags.

    Checkpoints are chosen on `validation`; results are reported on `dev`.
    """

    train: list[Example | Pair | Words]
    validation: list[Example | Pair | Words]
    dev: list[Example | Pair | Words]
    labels: list[str]

    @property
    def majority_share(self) -> float:
        """Accuracy on `dev` of always predicting its most frequent class."""
        counts = collections.Counter(example.label for example in self.dev)
        return max(counts.values()) / len(self.dev)


def at_most(examples: list, limit: int | None, seed: int) -> list:
    """`limit` random examples in their order; all of them if there are fewer."""
    limit = positive_integer("limit", limit, optional=True)
    if limit is None or limit >= len(examples):
        return examples
    kept = random.Random(seed).sample(range(len(examples)), limit)
    return [examples[index] for index in sorted(kept)]


def normalized(text: str) -> str:
    """`text` with single spaces and without case: texts that agree in it count as equal."""
    return " ".join(text.split()).casefold()


def split_off(
    examples: list[Example | Pair], fraction: float, seed: int
) -> tuple[list[Example | Pair], list[Example | Pair]]:
    """Splits a list of examples in two, stratified by class.

    Examples whose texts differ only in case and white space stay together, even if their labels
    differ. A class with a single text stays in the larger part.

    Args:
        examples: The list.
        fraction: Share of the part to split off, in (0, 1).
        seed: Integer. The same seed gives the same split.

    Returns:
        The tuple `(rest, part)`, both in the order of `examples`.

    Raises:
        ValueError: if one of the two would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must be a number in (0, 1). Received: {fraction!r}")
    label_of = {}  # normalized text -> class of its first example; other labels are one stratum
    for example in examples:
        label = example.label if isinstance(example.label, int) else 0
        label_of.setdefault(normalized(example.text), label)
    groups = collections.defaultdict(list)
    for key, label in label_of.items():
        groups[label].append(key)
    rng = random.Random(seed)
    ranked = []
    for label in sorted(groups):
        keys = groups[label]
        rng.shuffle(keys)
        # Each class is spread evenly over [0, 1) from a random start. So the texts with the lowest
        # ranks hold every class in its proportion.
        start = rng.random()
        ranked += [((i + start) / len(keys), key) for i, key in enumerate(keys) if len(keys) > 1]
    size = max(1, round(fraction * len(label_of)))
    part = {key for _, key in sorted(ranked)[:size]}
    if not part or len(part) == len(label_of):
        raise ValueError(
            f"`examples` must be enough to split: {len(label_of)} different texts in "
            f"{len(groups)} classes leave one part empty at a fraction of {fraction}."
        )
    sides = [], []
    for example in examples:
        sides[normalized(example.text) in part].append(example)
    return sides
