"""How sure a difference between models is: scores that know their examples, and intervals.

The examples that a model is scored on are some of many that could have been drawn. A bootstrap
draws as many again from them, with replacement, and scores the models on each draw, thousands of
times: as far as a figure varies among the draws, it depends on the examples. All models are scored
on the same draws, so what is hard for all of them makes no difference. Nothing here needs Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_MOST, _FEWEST = 9_999, 999  # draws
_WORK = 20_000_000  # counts of rows in all draws, above which there are fewer draws
_CELLS = 2_000_000  # counts of rows at a time, for the memory


class Score(float):
    """A number that knows the examples that it was computed from.

    It is a score as a function of how often each example counts. A `score` function for `compress`
    may return one: the report then has intervals. Copies are plain floats.

    Args:
        rows: Array of shape `(num_examples, k)`: what the score needs to know of each example.
        function: Function of such rows and of `counts`, floats of shape `(draws, num_rows)`, how
            often each row occurs in each draw; returns an array of shape `(draws,)`. Defaults to
            `ratio`.
        value: Float, the score. Defaults to that of `function` with each example once.
        examples: Array of integers that tell the examples from others. Scores of different
            examples are not compared. Defaults to `None`: their number is all that is compared,
            and their order must be the same.

    Example:

    >>> is_right = np.array([True, True, False, True])
    >>> Score(np.stack([is_right, np.ones(4)], axis=1))
    0.75
    """

    def __new__(cls, rows, function: Callable | None = None, value=None, examples=None):
        rows, function = np.asarray(rows, "float64"), function or ratio
        if rows.ndim != 2 or not len(rows):
            raise ValueError(
                "`rows` must have the shape (num_examples, k), of one example at least. "
                f"Received: shape {rows.shape}"
            )
        if value is None:
            value = function(rows, np.ones((1, len(rows))))[0]
        score = super().__new__(cls, value)
        score.rows, score.function, score.examples = rows, function, examples
        return score

    def __reduce__(self):
        return float, (float(self),)

    def is_paired(self, other) -> bool:
        """Whether `other` is a `Score` of the same examples."""
        if not isinstance(other, Score) or len(self.rows) != len(other.rows):
            return False
        if self.examples is None or other.examples is None:
            return self.examples is other.examples
        return np.array_equal(self.examples, other.examples)


class Comparison(NamedTuple):
    """What `compare` found.

    Attributes:
        num_examples: Integer.
        difference: Float, the successor's score less the predecessor's.
        difference_interval: Its 95 % interval, or `None`: of a single example, or of a score that
            is undefined in a draw, there is none.
        kept: Float, the successor's share of the predecessor's score; `None` unless that is above
            0.
        kept_interval: Its 95 % interval, or `None`; there is none either if the predecessor's score
            is not above 0 in each draw.
    """

    num_examples: int
    difference: float
    difference_interval: tuple[float, float] | None
    kept: float | None
    kept_interval: tuple[float, float] | None


def compare(predecessor: Score, successor: Score, *, seed: int = 0) -> Comparison:
    """The difference and the share of two models' scores on the same examples, with intervals.

    Args:
        predecessor, successor: `Score`, such as `training.evaluate` returns.
        seed: Integer, of the draws. Defaults to `0`.

    Raises:
        TypeError, ValueError: as in `interval`.

    Example:

    >>> found = compare(evaluate(bert, test), evaluate(small_bert, test))
    >>> low, high = found.difference_interval
    """
    scores = predecessor, successor
    draws = resampled(*scores, seed=seed)
    kept = float(successor / predecessor) if predecessor > 0 else None
    return Comparison(
        len(predecessor.rows),
        float(successor - predecessor),
        _interval(lambda before, after: after - before, scores, draws),
        kept,
        None if kept is None else _interval(_share, scores, draws),
    )


def interval(function: Callable, *scores: Score, level: float = 0.95, seed: int = 0):
    """The interval of a figure that is computed from models' scores on the same examples.

    A percentile interval of a paired bootstrap; it holds the figure itself. With few examples, some
    thirty, it is rather too narrow.

    Args:
        function: Function of as many arrays as there are scores, that computes the figure.
        *scores: Each a `Score`.
        level: Float, how often the interval should hold the true figure. Defaults to `0.95`.
        seed: Integer, of the draws. Defaults to `0`.

    Returns:
        `(low, high)`; `None` if there is one example, or the figure is no finite number in a draw.

    Raises:
        TypeError: if a score is no `Score`.
        ValueError: if the scores are not of the same examples.

    Example:

    >>> def gap_closed(predecessor, direct, successor):
    ...     return (successor - direct) / (predecessor - direct)
    >>> interval(gap_closed, *(evaluate(model, test) for model in models))

    References:
        - [An Introduction to the Bootstrap](https://doi.org/10.1201/9780429246593) (Efron and
          Tibshirani, 1993), chapter 13
    """
    return _interval(function, scores, resampled(*scores, seed=seed), level)


def _interval(function, scores, draws, level=0.95):
    if len(scores[0].rows) < 2:
        return None
    with np.errstate(all="ignore"):
        figure = function(*(np.array([score], "float64") for score in scores))[0]
        figures = function(*draws)
    if not np.isfinite(figure) or not np.isfinite(figures).all():
        return None
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), float(figure)), max(float(high), float(figure))


def _share(before, after):
    return np.where(before > 0, after / before, np.nan)


def resampled(*scores: Score, seed: int = 0) -> np.ndarray:
    """The scores of the same examples in each draw of a bootstrap.

    Examples that are alike for all scores are counted together, so large sets take no longer. There
    are 9,999 draws, or as few as 999 where many examples differ.

    Returns:
        Array of shape `(len(scores), draws)`.

    Raises:
        TypeError, ValueError: as in `interval`.
    """
    for score in scores:
        if not isinstance(score, Score):
            raise TypeError(f"Each score must be a `Score`. Received: {type(score).__name__}")
        if not scores[0].is_paired(score):
            raise ValueError(
                "The scores must be of the same examples, in one order. Received scores of "
                f"{len(scores[0].rows)} and {len(score.rows)} examples"
            )
    joined = np.concatenate([score.rows for score in scores], axis=1)
    _, first, places, times = np.unique(
        joined, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    rows = [score.rows[first] for score in scores]
    num_draws = int(np.clip(_WORK // len(first), _FEWEST, _MOST))
    at_a_time = max(1, _CELLS // len(first))
    generator, found = np.random.default_rng(seed), []
    for start in range(0, num_draws, at_a_time):
        size = min(at_a_time, num_draws - start)
        counts = _draw(generator, places.ravel(), times, size)
        found.append([score.function(own, counts) for score, own in zip(scores, rows)])
    return np.concatenate(found, axis=1)


def _draw(generator, places, times, size):
    """How often each distinct row, `times` of them in all, is drawn: `(size, len(times))`."""
    count = len(places)
    if len(times) < 200 + count / 10:  # else this is the slower way
        return generator.multinomial(count, times / count, size).astype("float64")
    counts = np.empty((size, len(times)))
    for row in counts:
        drawn = places[generator.integers(count, size=count)]
        row[:] = np.bincount(drawn, minlength=len(times))
    return counts


# Scores as functions of rows and of how often each counts.


def ratio(rows, counts):
    """The sum of the first column by that of the second; 0 if that is 0.

    Accuracy is a ratio of right answers to answers; F1 one of twice the right to all that was found
    or wanted.
    """
    above, below = (counts @ rows).T
    return _divided(above, below)


def macro_f1(rows, counts):
    """The mean F1 of the classes; a row is the wanted and the found class.

    As in scikit-learn, a class that is neither wanted nor found does not count.
    """
    wanted, found, both = _by_class(rows, counts)
    is_there = (wanted + found) > 0
    return _divided(2 * both, wanted + found).sum(0) / is_there.sum(0)


def mean_f1(rows, counts):
    """The mean F1 of yes-no decisions; a row has those that are wanted, then those found."""
    wanted, found = np.split(rows, 2, axis=1)
    return _divided(2 * counts @ (wanted * found), counts @ (wanted + found)).mean(1)


def matthews(rows, counts):
    """Matthews' correlation; a row is the wanted and the found class."""
    wanted, found, both = _by_class(rows, counts)
    total = counts.sum(1)
    above = both.sum(0) * total - (wanted * found).sum(0)
    spread = (total**2 - (wanted**2).sum(0)) * (total**2 - (found**2).sum(0))
    return _divided(above, np.sqrt(spread))


def _by_class(rows, counts):
    """How often each class is wanted, found and both: each of shape `(classes, draws)`."""
    sums = []
    for number in np.unique(rows):
        is_number = rows == number
        some = np.flatnonzero(is_number.any(1))  # few, if there are many classes
        parts = np.column_stack([is_number[some], is_number[some].all(1)])
        sums.append((np.take(counts, some, axis=1) @ parts.astype("float64")).T)
    return np.stack(sums, axis=1)


def pearson(rows, counts):
    """Pearson's correlation of the two columns; 0 if one of them is constant."""
    rows = rows - rows.mean(0)
    x, y = _divided(rows, rows.std(0)).T
    parts = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)
    return _correlation(*(counts @ parts).T)


def spearman(rows, counts):
    """Spearman's correlation of the two columns, ranks in each draw; 0 if one is constant."""
    total = counts.sum(1)
    x, y = (_ranks(column, counts) / total[:, None] - 0.5 for column in rows.T)
    products = ((counts, x), (counts, y), (counts * x, x), (counts * y, y), (counts * x, y))
    return _correlation(total, *(np.einsum("ij,ij->i", *pair) for pair in products))


def _ranks(values, counts):
    """The mean rank of each row among all that a draw has."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    sizes = np.add.reduceat(np.take(counts, order, axis=1), starts, axis=1)
    return np.take(np.cumsum(sizes, axis=1) - (sizes - 1) / 2, group, axis=1)


def _correlation(n, x, y, xx, yy, xy):
    """From the sums of two columns that are about 0 and of about 1 in size."""
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    # What rounding leaves of a constant is none.
    is_spread = (spread_x > 1e-12 * n * n) & (spread_y > 1e-12 * n * n)
    scale = np.sqrt(np.where(is_spread, spread_x * spread_y, 0))
    return _divided(n * xy - x * y, scale)


def _divided(above, below):
    """Division; 0 where `below` is 0."""
    below = np.broadcast_to(below, np.shape(above))
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below != 0)
