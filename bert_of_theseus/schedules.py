"""Replacement schedules: functions from the training step to the replacement rate.

Steps are counted from 0. The length of a schedule is given in `steps` or as a `fraction` of the
training; `ReplacementRateScheduler` binds a fraction to the number of steps. No Keras is needed.
"""

import bisect
import math
import numbers


def _rate(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number in [0, 1]. Received: {value!r}")
    return float(value)


class ReplacementSchedule:
    """Base of all schedules.

    Args:
        steps: Integer, the number of steps to the end of the schedule.
        fraction: Or float in (0, 1], its share of the whole training.

    Call arguments:
        step: Integer, the number of optimizer steps done so far.

    Returns:
        The replacement rate, a float in [0, 1].

    Raises:
        ValueError: if a rate is not in [0, 1], both or none of the lengths are given, or a
            schedule with a fraction is called before `bind`.
    """

    def __init__(self, steps=None, fraction=None):
        if (steps is None) == (fraction is None):
            raise ValueError(
                f"{type(self).__name__} takes either `steps` or `fraction`. Received: "
                f"steps={steps!r}, fraction={fraction!r}"
            )
        if steps is not None and not (
            isinstance(steps, numbers.Integral) and not isinstance(steps, bool) and steps >= 1
        ):
            raise ValueError(f"`steps` must be an integer of at least 1. Received: {steps!r}")
        if fraction is not None and not (
            isinstance(fraction, numbers.Real)
            and not isinstance(fraction, bool)
            and 0 < fraction <= 1
        ):
            raise ValueError(f"`fraction` must be a number in (0, 1]. Received: {fraction!r}")
        # Python's own numbers, since a config goes into JSON.
        self.steps = None if steps is None else int(steps)
        self.fraction = None if fraction is None else float(fraction)

    def bind(self, total_steps: int) -> "ReplacementSchedule":
        """Returns the schedule with its length in steps, for a training of `total_steps`."""
        if self.fraction is None:
            return self
        config = self.get_config()
        config.update(steps=max(1, round(self.fraction * total_steps)), fraction=None)
        return type(self)(**config)

    def __call__(self, step: int) -> float:
        if self.steps is None:
            raise ValueError(
                f"{type(self).__name__}(fraction={self.fraction}) does not know the number of "
                "steps: use it in ReplacementRateScheduler, or call `bind(total_steps)` first."
            )
        if step < 0:
            raise ValueError(f"`step` must be 0 or more. Received: {step!r}")
        return self.at(min(1.0, step / self.steps))

    def at(self, progress: float) -> float:
        """Returns the rate at `progress`, the share of the schedule that is done, in [0, 1]."""
        raise NotImplementedError

    def get_config(self) -> dict:
        return {"steps": self.steps, "fraction": self.fraction}

    @classmethod
    def from_config(cls, config: dict) -> "ReplacementSchedule":
        return cls(**config)

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    __hash__ = None

    def __repr__(self):
        given = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items() if v is not None)
        return f"{type(self).__name__}({given})"


class ConstantReplacement(ReplacementSchedule):
    """A constant rate, and 1 after the end of the schedule, if it has one.

    Args:
        rate: Float in [0, 1]. Defaults to `0.5`, that of the original Keras script.
        steps, fraction: As in `ReplacementSchedule`. Default to `None`: no end.
    """

    def __init__(self, rate=0.5, steps=None, fraction=None):
        self.rate = _rate("rate", rate)
        self._endless = steps is None and fraction is None
        super().__init__(1 if self._endless else steps, fraction)

    def at(self, progress):
        return 1.0 if progress >= 1 and not self._endless else self.rate

    def get_config(self):
        length = {} if self._endless else super().get_config()
        return {"rate": self.rate, **length}


class LinearReplacement(ReplacementSchedule):
    """Linear from `start` to `end`: the paper's curriculum, `min(1, k * t + b)`.

    Args:
        start: Float in [0, 1], the rate at step 0, the paper's b.
        end: Float in [0, 1], the rate after the end of the schedule. Defaults to `1.0`.
        steps, fraction: As in `ReplacementSchedule`. The paper's k is `(end - start) / steps`.

    Example:

    >>> LinearReplacement(0.5, steps=1000)(500)
    0.75

    References:
        - [BERT-of-Theseus](https://arxiv.org/abs/2002.02925), section 3.3
    """

    def __init__(self, start, end=1.0, steps=None, fraction=None):
        super().__init__(steps, fraction)
        self.start, self.end = _rate("start", start), _rate("end", end)

    def at(self, progress):
        return self.start + (self.end - self.start) * progress

    def get_config(self):
        return {"start": self.start, "end": self.end, **super().get_config()}


class CosineReplacement(LinearReplacement):
    """From `start` to `end` along half a cosine: slow at both ends."""

    def at(self, progress):
        return super().at((1 - math.cos(math.pi * progress)) / 2)


class AntiCurriculumReplacement(LinearReplacement):
    """Linear, with falling defaults: the paper's control experiment, section 5.3.

    Args:
        start: Float in [0, 1]. Defaults to `1.0`.
        end: Float in [0, 1]. Defaults to `0.0`.
        steps, fraction: As in `ReplacementSchedule`.
    """

    def __init__(self, start=1.0, end=0.0, steps=None, fraction=None):
        super().__init__(start, end, steps, fraction)


class PiecewiseReplacement(ReplacementSchedule):
    """Linear between points.

    Args:
        points: List of `(progress, rate)`, both in [0, 1], with rising progress.
        steps, fraction: As in `ReplacementSchedule`, for progress 1.

    Example:

    >>> PiecewiseReplacement([(0, 0.3), (0.5, 0.6), (1, 1.0)], fraction=0.8)
    """

    def __init__(self, points, steps=None, fraction=None):
        super().__init__(steps, fraction)
        try:
            pairs = [(float(position), float(rate)) for position, rate in points]
        except (TypeError, ValueError):
            pairs = []
        positions = [position for position, _ in pairs]
        if not pairs or positions != sorted(set(positions)):
            raise ValueError(
                f"`points` must be (progress, rate) pairs of rising progress. Received: {points!r}"
            )
        for position, rate in pairs:
            _rate("progress of a point", position)
            _rate("rate of a point", rate)
        self.points = pairs

    def at(self, progress):
        right = bisect.bisect_right([position for position, _ in self.points], progress)
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (a, low), (b, high) = self.points[right - 1], self.points[right]
        return low + (high - low) * (progress - a) / (b - a)

    def get_config(self):
        return {"points": self.points, **super().get_config()}


class ModulewiseReplacement(ReplacementSchedule):
    """Linear from `start` to `end` for one module after another.

    A call returns a list with a rate per module, from the bottom up.

    Args:
        num_modules: Integer, number of modules, the embeddings included if they are replaced.
        order: `"bottom-up"` or `"top-down"`. Defaults to `"bottom-up"`.
        start: Float in [0, 1], the rate before a module's turn. Defaults to `0.0`.
        end: Float in [0, 1], the rate after it. Defaults to `1.0`.
        steps, fraction: As in `ReplacementSchedule`, until the last module's end.
    """

    def __init__(
        self, num_modules, order="bottom-up", start=0.0, end=1.0, steps=None, fraction=None
    ):
        super().__init__(steps, fraction)
        if not isinstance(num_modules, numbers.Integral) or num_modules < 1:
            raise ValueError(f"`num_modules` must be 1 or more. Received: {num_modules!r}")
        if order not in ("bottom-up", "top-down"):
            raise ValueError(f'`order` must be "bottom-up" or "top-down". Received: {order!r}')
        self.num_modules, self.order = int(num_modules), order
        self.start, self.end = _rate("start", start), _rate("end", end)

    def at(self, progress):
        turns = [
            min(1.0, max(0.0, progress * self.num_modules - i)) for i in range(self.num_modules)
        ]
        rates = [self.start + (self.end - self.start) * turn for turn in turns]
        return rates if self.order == "bottom-up" else rates[::-1]

    def get_config(self):
        return {
            "num_modules": self.num_modules,
            "order": self.order,
            "start": self.start,
            "end": self.end,
            **super().get_config(),
        }
