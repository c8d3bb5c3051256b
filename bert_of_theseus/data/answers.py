"""What outputs say of a text: classes, entities, answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .examples import Entity

__all__ = ["decode_answer", "decode_entities", "decode_labels"]


def decode_labels(probabilities, labels: Sequence[str], threshold: float = 0.5) -> list[str]:
    """The names of the classes whose probability reaches `threshold`."""
    return [label for label, p in zip(labels, probabilities) if p >= threshold]


def decode_entities(
    probabilities, offsets: np.ndarray, labels: Sequence[str], cut: bool = False
) -> list[Entity]:
    """The entities that the likeliest tags of a text's tokens spell.

    A tag `I-` that does not go on with an entity of its type begins one, as in the evaluation of
    CoNLL.

    Args:
        probabilities: Array of shape `(at least sequence_length, num_tags)`.
        offsets: Array of shape `(sequence_length, 2)`, as in `data.Encoded`.
        labels: Names of the tags, `O`, `B-...`, `I-...`.
        cut: Boolean, whether the text goes on after these tokens. What reaches the last of them
            may be half an entity, and is left out. Defaults to `False`.

    Returns:
        List of `Entity`, in order, none of which overlap.
    """
    own = np.flatnonzero(offsets[:, 0] < offsets[:, 1])
    tags = [labels[i] for i in np.asarray(probabilities)[own].argmax(-1)] if len(own) else []
    spans = []  # [type, first, last], of `own`
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
        spans = [span for span in spans if span[2] < len(own) - 1]
    found = []
    for type, first, last in spans:
        part = offsets[own[first : last + 1]]
        found.append(Entity(int(part[:, 0].min()), int(part[:, 1].max()), type))
    return without_overlaps(found)


def decode_answer(
    probabilities, offsets: np.ndarray, cut: bool = False, max_answer_length: int = 30
) -> tuple[int, int] | None:
    """The likeliest answer, from the probabilities of its start and of its end.

    Args:
        probabilities: Array of shape `(2, at least sequence_length)`.
        offsets, cut: As in `decode_entities`.
        max_answer_length: Integer, in tokens. Defaults to `30`.

    Returns:
        Its characters, `(start, end)`; `None` if no answer, at `[CLS]`, is likelier.
    """
    start, end = np.asarray(probabilities, dtype="float64")[:, : len(offsets)]
    own = np.flatnonzero(offsets[:, 0] < offsets[:, 1])
    own = own[:-1] if cut else own
    pairs = np.triu(np.outer(start[own], end[own]))
    pairs -= np.triu(pairs, max_answer_length)
    if not pairs.size or pairs.max() <= start[0] * end[0]:
        return None
    first, last = own[list(np.unravel_index(pairs.argmax(), pairs.shape))]
    part = offsets[first : last + 1]
    return int(part[:, 0].min()), int(part[:, 1].max())


def trimmed(text, start, end):
    """The span without the white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def tokens_of(entity, offsets, cut):
    """The tokens that hold a part of `entity`, and whether they are it, no less and no more."""
    touched = np.flatnonzero((offsets[:, 0] < entity.end) & (offsets[:, 1] > entity.start))
    if not len(touched):
        return touched, False
    part = offsets[touched]
    fits = part[:, 0].min() == entity.start and part[:, 1].max() == entity.end
    # Whether an entity goes on after the last token of a cut text is not to be seen there.
    last = np.flatnonzero(offsets[:, 0] < offsets[:, 1])[-1]
    return touched, bool(fits and not (cut and touched[-1] == last))


def without_overlaps(entities):
    """`entities` in order, without those that overlap one before; of two with one start the
    longer one comes first."""
    kept, end = [], 0
    for entity in sorted(entities, key=lambda entity: (entity.start, -entity.end, entity.type)):
        if end <= entity.start < entity.end:
            kept.append(entity)
            end = entity.end
    return kept
