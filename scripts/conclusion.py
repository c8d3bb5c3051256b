"""What a comparison with direct fine-tuning shows, in words that follow from its numbers."""

from __future__ import annotations


def conclude(scores: dict, cpu_seconds: dict) -> dict:
    """Compares the successor with the predecessor and with direct fine-tuning.

    Args:
        scores: A `statistics.Score` of each of `"predecessor"`, `"direct"` and `"successor"`, on
            the same examples of dev.
        cpu_seconds: By `"direct"` and `"successor"`, what their training took.

    Returns:
        A dict: `kept`, the successor's share of the predecessor's score, and `gap_closed`, that of
        the gap between direct fine-tuning and the predecessor, each `None` where there is none;
        `gap_is_noise`; `difference`, of the successor to direct fine-tuning, its `standard_error`
        and its 95 % `interval`, or `None`, paired over the examples; and the `sentence`.
    """
    import numpy as np

    from bert_of_theseus.statistics import compare, resampled

    predecessor, direct, successor = map(scores.get, ("predecessor", "direct", "successor"))
    found, gap = compare(direct, successor), compare(direct, predecessor)
    draws = resampled(direct, successor)
    result = {
        "kept": float(successor / predecessor) if predecessor > 0 else None,
        "gap_closed": found.difference / gap.difference if gap.difference > 0 else None,
        "gap_is_noise": not gap.difference_interval or gap.difference_interval[0] <= 0,
        "difference": found.difference,
        "standard_error": float(np.std(draws[1] - draws[0])),
        "interval": found.difference_interval and list(found.difference_interval),
    }
    return {**result, "sentence": _sentence(result, cpu_seconds)}


def _sentence(result, cpu_seconds):
    kept = "The predecessor is never right"
    if result["kept"] is not None:
        kept = f"The successor keeps {result['kept']:.1%} of the predecessor's dev accuracy"
    points = 100 * result["difference"]
    if abs(points) < 0.05:
        amount = "It is level with direct fine-tuning"
    else:
        side = "above" if points > 0 else "below"
        amount = f"It is {abs(points):.1f} points {side} direct fine-tuning"
    error = f"standard error {100 * result['standard_error']:.1f}"
    if result["interval"]:
        ends = (100 * end for end in result["interval"])
        error += ", 95% interval {:.1f} to {:.1f}, paired over the dev texts".format(*ends)
    ours, direct = cpu_seconds["successor"], cpu_seconds["direct"]
    return (
        f"{kept}. {amount} ({error}): {_verdict(result)}. {_gap(result)} Its training took "
        f"{ours:.0f} CPU s, direct fine-tuning {direct:.0f}."
    )


def _verdict(result):
    interval = result["interval"]
    if interval and interval[0] > 0:
        return "more than noise"
    if interval and interval[1] < 0:
        return "more than noise, so in this run direct fine-tuning is better"
    if result["difference"] > result["standard_error"] > 0:
        return "more than the standard error, but the interval holds 0"
    return "within noise, so in this run direct fine-tuning is as good"


def _gap(result):
    share, gap = result["gap_closed"], "the gap between direct fine-tuning and the predecessor"
    if share is None:
        return "Direct fine-tuning is as good as the predecessor, so there is no gap to close."
    closed = f"{f'{share:.0%}' if share > 0 else 'None'} of {gap} is closed"
    return f"{closed}; that gap is within noise itself." if result["gap_is_noise"] else f"{closed}."
