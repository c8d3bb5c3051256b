"""What a reader of a report should know of how the stages went."""

from __future__ import annotations

from .scoring import is_better
from .stage import StageResult

# A score that changes by less from one evaluation to the next says nothing: it is what a few
# hundred examples tell apart.
_NOISE = 0.01


def stage_notes(result: StageResult) -> list[str]:
    """Sentences on a stage that should have been longer, or that came to nothing.

    A stage was still improving when it ended, if its last evaluation is the best and at least 1 %
    better than the best one before it. One evaluation tells nothing, and a stage that `patience`
    ended was not improving. A stage never beat its start if the weights it began with are kept,
    which can only be where their score was known: `initial_score` in `fit`.

    Args:
        result: `StageResult`.

    Returns:
        A list of strings, mostly empty.
    """
    name, monitor = result.name, result.monitor
    if result.best_step == 0:
        return [
            f"The {name} stage never beat its start: the best {monitor} is the one that it began "
            f"with, {result.score:.4f}, and so the weights are those that it began with."
        ]
    scores = result.history.get(monitor, ())
    if len(scores) < 2 or result.stopped_early or result.best_step != result.history["step"][-1]:
        return []
    last, before = scores[-1], None
    for score in scores[:-1]:
        before = score if is_better(score, before, monitor) else before
    if abs(last - before) < _NOISE * abs(before) or not is_better(last, before, monitor):
        return []
    return [
        f"The {name} stage was still improving when it ended: {monitor} was {last:.4f} at its last "
        f"evaluation, and {before:.4f} at best before. More epochs may make the model better."
    ]
