"""Examples, corpora, and how a corpus is cut into parts."""

from __future__ import annotations

import collections
import random
from typing import NamedTuple

__all__ = ["NO_LABEL", "Corpus", "Entity", "Example", "Pair", "split_off"]

# The label of what neither loss nor metric counts: padding, for one. See `losses`.
NO_LABEL = -1


class Entity(NamedTuple):
    """A named entity: `text[start:end]`, and its type."""

    start: int
    end: int
    type: str


class Example(NamedTuple):
    """One text and its label: the number of a class, or what the task at hand takes.

    See `bert_of_theseus.tasks`.
    """

    text: str
    label: object
    second_text = None


class Pair(NamedTuple):
    """Two texts that belong together, and their label; used wherever an `Example` is."""

    text: str
    second_text: str
    label: object


class Corpus(NamedTuple):
    """A task's data: three disjoint lists of `Example`, and names of classes or types of entities.

    `validation` is for choosing a checkpoint, `dev` for the one number that is reported.
    """

    train: list[Example]
    validation: list[Example]
    dev: list[Example]
    labels: list[str]

    @property
    def majority_share(self) -> float:
        """Accuracy on `dev` of always answering the most frequent class of `dev`."""
        counts = collections.Counter(example.label for example in self.dev)
        return max(counts.values()) / len(self.dev)


def at_most(examples, limit, seed):
    if limit is None or limit >= len(examples):
        return examples
    if limit < 1:
        raise ValueError(f"limit should be at least 1. Received: {limit}.")
    kept = random.Random(seed).sample(range(len(examples)), limit)
    return [examples[index] for index in sorted(kept)]


def normalized(text: str) -> str:
    return " ".join(text.split()).casefold()


def split_off(
    examples: list[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Cuts a part off a list of examples, stratified by class where classes are large enough.

    Rows with the same text, up to case and white space, stay on one side, whatever their labels.
    A class's only text stays in the larger part.

    Args:
        examples: the list.
        fraction: the share of the part to cut off, in (0, 1).
        seed: the same seed makes the same cut.

    Returns:
        `(rest, part)`, both in the order of `examples`.

    Raises:
        ValueError: one of the two would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction should be in (0, 1). Received: {fraction}.")
    label_of = {}  # normalised text -> the class of its first row; other labels are no strata
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
        # Spreads a class evenly over [0, 1) from a random start, so that the lowest share of all
        # classes together is as good as that share of each.
        start = rng.random()
        ranked += [((i + start) / len(keys), key) for i, key in enumerate(keys) if len(keys) > 1]
    size = max(1, round(fraction * len(label_of)))
    part = {key for _, key in sorted(ranked)[:size]}
    if not part or len(part) == len(label_of):
        raise ValueError(
            f"{len(label_of)} different texts in {len(groups)} classes cannot be cut in two "
            f"(fraction {fraction}); one of the sets would be empty."
        )
    sides = [], []
    for example in examples:
        sides[normalized(example.text) in part].append(example)
    return sides
