"""From a model's outputs to labels, entities and answers; all take and return plain arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .examples import Entity


def decode_labels(probabilities, labels: Sequence[str], threshold: float = 0.5) -> list[str]:
    """Returns the names of the classes with a probability of at least `threshold`."""
    return [label for label, p in zip(labels, probabilities) if p >= threshold]


def decode_entities(
    probabilities, offsets: np.ndarray, labels: Sequence[str], cut: bool = False
) -> list[Entity]:
    """Returns the entities given by the most likely tag of each token.

    An `I-` tag that does not continue an entity of its type begins a new one, as in the evaluation
    of CoNLL.

    Args:
        probabilities: Array of shape `(at least sequence_length, num_tags)`.
        offsets: Array of shape `(sequence_length, 2)`, as in `Encoded`.
        labels: Names of the tags: `O`, `B-...`, `I-...`.
        cut: Boolean, whether the text was truncated. An entity that reaches the last token may then
            be incomplete, and is left out. Defaults to `False`.

    Returns:
        List of `Entity`, sorted and without overlaps.
    """
    tokens = np.flatnonzero(offsets[:, 0] < offsets[:, 1])
    tags = [labels[i] for i in np.asarray(probabilities)[tokens].argmax(-1)] if len(tokens) else []
    spans = []  # [type, first, last], indices into `tokens`
    before = "O"
    for index, tag in enumerate(tags):
        type = tag[2:]
        if tag != "O":
            if tag[0] == "I" and before[2:] == type:
                spans[-1][2] = index
            else:
                spans.append([type, index, index])
        before = tag
    if cut:
        spans = [span for span in spans if span[2] < len(tokens) - 1]
    found = []
    for type, first, last in spans:
        part = offsets[tokens[first : last + 1]]
        found.append(Entity(int(part[:, 0].min()), int(part[:, 1].max()), type))
    return without_overlaps(found)


def tag_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Start, end and type of each entity in a list of tags, as seqeval finds them.

    Tags are `O`, or `B-`, `I-`, `E-`, `S-` with a type; `L-` and `U-` are the same as `E-` and
    `S-`. A tag that cannot continue the entity before it begins a new one.
    """
    spans = []
    before, type_before = "O", ""
    for index, tag in enumerate(tags):
        part, type = {"L": "E", "U": "S"}.get(tag[0], tag[0]), tag[2:]
        if part != "O":
            continues = part in "IE" and before in "BI" and type == type_before
            start = spans.pop()[0] if continues else index
            spans.append((start, index + 1, type))
        before, type_before = part, type
    return spans


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is one of those of entities, as `tag_spans` takes them."""
    return re.fullmatch("O|[BIESLU]-.+", tag) is not None


def decode_answer(
    probabilities, offsets: np.ndarray, cut: bool = False, max_answer_length: int = 30
) -> tuple[int, int] | None:
    """Returns the most likely answer, given the probabilities of its start and end.

    Args:
        probabilities: Array of shape `(2, at least sequence_length)`.
        offsets: Array of shape `(sequence_length, 2)`, as in `Encoded`.
        cut: Boolean, whether the text was truncated. An answer that reaches the last token may then
            be incomplete, and is left out. Defaults to `False`.
        max_answer_length: Integer, in tokens. Defaults to `30`.

    Returns:
        The tuple `(start, end)`, in characters; `None` if "no answer", at `[CLS]`, is more likely.
    """
    start, end = np.asarray(probabilities, dtype="float64")[:, : len(offsets)]
    tokens = np.flatnonzero(offsets[:, 0] < offsets[:, 1])
    tokens = tokens[:-1] if cut else tokens
    pairs = np.triu(np.outer(start[tokens], end[tokens]))
    pairs -= np.triu(pairs, max_answer_length)
    if not pairs.size or pairs.max() <= start[0] * end[0]:
        return None
    first, last = tokens[list(np.unravel_index(pairs.argmax(), pairs.shape))]
    part = offsets[first : last + 1]
    return int(part[:, 0].min()), int(part[:, 1].max())


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def tokens_of(entity: Entity, offsets: np.ndarray, cut: bool) -> tuple[np.ndarray, bool]:
    """The tokens that overlap `entity`, and whether together they are exactly the entity."""
    touched = np.flatnonzero((offsets[:, 0] < entity.end) & (offsets[:, 1] > entity.start))
    if not len(touched):
        return touched, False
    part = offsets[touched]
    fits = part[:, 0].min() == entity.start and part[:, 1].max() == entity.end
    # At the last token of a truncated text an entity may continue: `decode_entities` leaves it out.
    last = np.flatnonzero(offsets[:, 0] < offsets[:, 1])[-1]
    return touched, bool(fits and not (cut and touched[-1] == last))


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Sorts entities and drops each that overlaps an earlier one.

    Of two with the same start the longer one is kept.
    """
    kept, end = [], 0
    for entity in sorted(entities, key=lambda entity: (entity.start, -entity.end, entity.type)):
        if end <= entity.start < entity.end:
            kept.append(entity)
            end = entity.end
    return kept
