"""Checks of arguments: each returns the value, in Python's own type, or says what it must be."""

from __future__ import annotations

import numbers
from collections.abc import Collection
from typing import Any


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer, NumPy's included. `True` and `False` are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is a real number, NumPy's included. `True` and `False` are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def one_of(name: str, value: Any, valid: Collection) -> Any:
    """Returns `value` if it is in `valid`. Raises a `ValueError` otherwise."""
    if value not in valid:
        raise ValueError(f"`{name}` must be one of {valid}. Received: {value!r}")
    return value


def integer(name: str, value: Any, minimum=None, maximum=None, optional: bool = False) -> Any:
    """Returns `value` as an `int`, or `None` if that is allowed.

    Args:
        name: Name of the argument, for the error.
        value: What was received.
        minimum: Smallest valid value. Defaults to `None`, no limit.
        maximum: Largest valid value. Defaults to `None`, no limit.
        optional: Boolean. Whether `None` is valid too. Defaults to `False`.

    Raises:
        TypeError: if `value` is not an integer.
        ValueError: if it is out of range.
    """
    if value is None and optional:
        return None
    expected = "an integer"
    if minimum is not None and maximum is not None:
        expected += f" from {minimum} to {maximum}"
    elif minimum is not None:
        expected += f" of at least {minimum}"
    if optional:
        expected += " or None" if minimum is None else ", or None"
    if not is_integer(value):
        raise TypeError(_message(name, expected, value, typed=True))
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        raise ValueError(_message(name, expected, value))
    return int(value)


def positive_integer(name: str, value: Any, optional: bool = False) -> Any:
    """Returns `value` as an `int` of at least 1, or `None` if that is allowed. See `integer`."""
    return integer(name, value, minimum=1, optional=optional)


def number(name: str, value: Any, interval: str = "[0, inf)", meaning: str = "") -> float:
    """Returns `value` as a `float`.

    Args:
        name: Name of the argument, for the error.
        value: What was received.
        interval: The valid values: a square bracket includes the end beside it, a round one does
            not: `"[0, 1]"`, `"(0, 1]"`. Defaults to `"[0, inf)"`.
        meaning: What the number is, for the error. Defaults to `""`.

    Raises:
        TypeError: if `value` is not a number.
        ValueError: if it is out of `interval`, which NaN always is.
    """
    expected = _IN_WORDS.get(interval, f"a number in {interval}")
    expected += f", {meaning}" if meaning else ""
    if not is_number(value):
        bounded = "inf" not in interval
        raise TypeError(_message(name, expected if bounded else "a number", value, typed=True))
    low, high = map(float, interval[1:-1].split(","))
    above = low < value if interval[0] == "(" else low <= value
    below = value < high if interval[-1] == ")" else value <= high
    if not (above and below):
        raise ValueError(_message(name, expected, value))
    return float(value)


_IN_WORDS = {"[0, inf)": "a finite number of at least 0", "(0, inf)": "a finite number above 0"}


def _message(name, expected, value, typed=False):
    kind = f" (of type {type(value).__name__})" if typed else ""
    return f"`{name}` must be {expected}. Received: {value!r}{kind}"
