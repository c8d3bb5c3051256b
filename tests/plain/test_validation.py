"""Checks of arguments: what they return, and what they say."""

import numpy as np
import pytest

from bert_of_theseus import validation as v


def test_values_come_back_as_pythons_own():
    for value, expected in (
        (v.integer("n", np.int32(3), 1, 3), 3),
        (v.integer("n", None, optional=True), None),
        (v.positive_integer("n", 1), 1),
        (v.number("x", np.float32(0.5), "[0, 1]"), 0.5),
        (v.number("x", 1, "(0, 1]"), 1.0),
        (v.one_of("x", "a", ("a", "b")), "a"),
    ):
        assert value == expected
        assert type(value) is type(expected)


@pytest.mark.parametrize("call, error, text", [
    (lambda: v.integer("n", True), TypeError, "an integer. Received: True (of type bool)"),
    (lambda: v.integer("n", 2.0, 0), TypeError, "an integer of at least 0. Received: 2.0"),
    (lambda: v.integer("n", 4, 1, 3), ValueError, "an integer from 1 to 3. Received: 4"),
    (lambda: v.positive_integer("n", 0, optional=True), ValueError, "at least 1, or None"),
    (lambda: v.number("n", 0, "(0, 1]"), ValueError, "a number in (0, 1]. Received: 0"),
    (lambda: v.number("n", 1, "[0, 1)"), ValueError, "a number in [0, 1). Received: 1"),
    (lambda: v.number("n", float("nan")), ValueError, "a finite number of at least 0"),
    (lambda: v.number("n", float("inf"), "(0, inf)"), ValueError, "a finite number above 0"),
    (lambda: v.number("n", "1", "[0, 1]", "a share"), TypeError, "in [0, 1], a share. Received"),
    (lambda: v.one_of("n", "c", ("a", "b")), ValueError, "one of ('a', 'b'). Received: 'c'"),
])  # fmt: skip
def test_errors_name_the_argument_what_it_must_be_and_what_came(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith("`n` must be ")
    assert text in str(caught.value)
