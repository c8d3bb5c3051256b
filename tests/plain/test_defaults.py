"""The rule by which a stage finds its epochs and learning rate, in numbers."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_of_theseus.defaults import (
    default_epochs,
    default_evaluations,
    default_learning_rate,
    default_noise,
)
from bert_of_theseus.pretrained.stages import default_stages

NAMES = ("predecessor", "warm_start", "theseus", "successor")
# Hidden size, batch size, steps.
AT_HAND = st.tuples(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 10**7))


@given(st.sampled_from(NAMES), AT_HAND, AT_HAND)
def test_the_learning_rate_is_bounded_and_moves_one_way(name, one, other):
    narrow, wide = sorted([one[0], other[0]])
    small, large = sorted([one[1], other[1]])
    few, many = sorted([one[2], other[2]])
    highest = default_learning_rate(name, narrow, large, few)
    lowest = default_learning_rate(name, wide, small, many)
    assert 0 < lowest <= highest < 0.1
    for size, batch_size, steps in itertools.product((narrow, wide), (small, large), (few, many)):
        assert lowest <= default_learning_rate(name, size, batch_size, steps) <= highest


@pytest.mark.parametrize("name", NAMES)
def test_models_of_the_usual_sizes(name):
    """Of BERT-base the learning rates of the papers; of smaller models, higher ones."""
    rates = [default_learning_rate(name, size, 32, 1500) for size in (1024, 768, 384, 128)]
    assert 1e-5 < rates[1] < (2e-3 if name == "warm_start" else 2e-4)
    assert rates == sorted(rates) and len(set(rates)) == 4
    assert default_learning_rate(name, 768, 64, 1500) > rates[1]
    # But for a warm start, whose rate is high already.
    assert (default_learning_rate(name, 768, 32, 300) > rates[1]) == (name != "warm_start")
    # It is printed as it is, and so can be given.
    assert all(rate == float(f"{rate:.1e}") for rate in rates)


def test_few_examples_have_more_passes():
    steps = [1, 10, 100, 200, 1000, 100_000]
    for name, (low, high) in {
        "predecessor": (3, 20),
        "warm_start": (3, 20),
        "theseus": (2, 10),
        "successor": (2, 10),
    }.items():
        passes = [default_epochs(name, count) for count in steps]
        assert passes == sorted(passes, reverse=True)
        assert passes[0] == high and low <= passes[-1] <= 3
    assert default_epochs("predecessor", 100) * 100 >= 1500  # but for the limit of passes
    assert [default_evaluations(count) for count in (1, 1499, 1501, 10_000)] == [1, 1, 2, 10]


def test_short_warm_starts_have_no_noise():
    found = [default_noise(steps) for steps in (0, 200, 1500, 2000)]
    assert found[:2] == [0, 0] and 0 < found[2] == found[3] < 0.5


def test_what_is_given_wins_and_the_rest_follows():
    by_rule = default_stages(3200, 384)
    assert by_rule["warm_start"]["epochs"] > by_rule["theseus"]["epochs"]
    epochs = {name: stage["epochs"] for name, stage in default_stages(3200, 384, epochs=4).items()}
    assert epochs == {"warm_start": 8, "theseus": 4, "successor": 4}
    assert {stage["steps"] for stage in by_rule.values()} == {2000, None}
    given = default_stages(3200, 384, learning_rate=3e-4)
    assert given["theseus"]["learning_rate"] == 3e-4
    assert 0 < given["successor"]["learning_rate"] <= 3e-4
    # As a stage of `compress` finds it, with as many batches.
    for name, stage in by_rule.items():
        assert stage["epochs"] == default_epochs(name, 100)
        steps = min(100 * stage["epochs"], stage["steps"] or 10_000)
        assert stage["learning_rate"] == default_learning_rate(name, 384, 32, steps)
    # The default of the Theseus stage may be given as it is printed.
    printed = by_rule["theseus"]["learning_rate"]
    assert default_stages(3200, 384, learning_rate=printed) == by_rule
    for wrong in ({"epochs": 0}, {"learning_rate": -1.0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            default_stages(3200, 384, **wrong)
