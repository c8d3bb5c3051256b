"""The sentence below the table of scripts/iflytek.py says what its numbers say."""

import re

import numpy as np
import pytest

from bert_of_theseus.statistics import Score
from scripts.conclusion import conclude

CPU = {"direct": 200.0, "successor": 100.0}
COUNT = 400


def score(right, count=COUNT, shift=0):
    """A model that is right about `right` of the examples, from number `shift` on."""
    is_right = np.roll(np.arange(count) < right, shift)
    return Score(np.stack([is_right, np.ones(count)], axis=1))


def concluded(predecessor, direct, successor):
    scores = {"predecessor": predecessor, "direct": direct, "successor": successor}
    return conclude(scores, CPU)


def test_numbers():
    found = concluded(score(360), score(320), score(350))
    assert found["kept"] == pytest.approx(350 / 360)
    assert found["gap_closed"] == pytest.approx(30 / 40)
    assert found["difference"] == pytest.approx(30 / COUNT)
    # Of 400 examples, 30 tell the two apart, all of them for the same one.
    share = 30 / COUNT
    assert found["standard_error"] == pytest.approx((share * (1 - share) / COUNT) ** 0.5, rel=0.05)
    low, high = found["interval"]
    assert low < found["difference"] < high
    said = found["sentence"]
    assert "keeps 97.2% of" in said
    assert "7.5 points above direct fine-tuning (standard error 1.3" in said
    assert f"{100 * low:.1f} to {100 * high:.1f}" in said
    assert "75% of the gap between direct fine-tuning and the predecessor is closed." in said
    assert "took 100 CPU s, direct fine-tuning 200." in said


def test_standard_error_is_paired():
    """It counts the examples that only one model is right about, not how hard the others are."""
    near = concluded(score(360), score(320), score(330))
    far = concluded(score(360), score(320), score(330, shift=50))
    assert near["difference"] == pytest.approx(far["difference"])
    assert near["standard_error"] < far["standard_error"] / 2


BETTER, WORSE, AS_GOOD = "more than noise.", "direct fine-tuning is better.", "is as good."


@pytest.mark.parametrize(
    "direct, successor, verdict",
    [
        (score(320), score(350), BETTER),
        (score(350), score(320), WORSE),
        (score(330), score(330), AS_GOOD),
        (score(331), score(330), AS_GOOD),
        (score(330), score(331, shift=30), AS_GOOD),
        (score(330), score(337, shift=10), "more than the standard error, but the interval"),
    ],
)
def test_verdict_follows_from_the_numbers(direct, successor, verdict):
    found = concluded(score(360), direct, successor)
    verdicts = {BETTER, WORSE, AS_GOOD, verdict}
    assert [each for each in verdicts if each in found["sentence"]] == [verdict]
    low, high = found["interval"]
    assert (low > 0) == (verdict == BETTER)
    assert (high < 0) == (verdict == WORSE)
    if found["difference"] <= found["standard_error"]:
        assert verdict in (WORSE, AS_GOOD)


@pytest.mark.parametrize(
    "predecessor, direct, successor, said",
    [
        (360, 320, 350, "75% of the gap between direct fine-tuning and the predecessor is closed."),
        (350, 320, 360, "133% of the gap"),
        (
            360,
            330,
            320,
            "None of the gap between direct fine-tuning and the predecessor is closed.",
        ),
        (330, 330, 320, "there is no gap to close"),
        (320, 330, 340, "there is no gap to close"),
        (331, 330, 340, "closed; that gap is within noise itself."),
    ],
)
def test_gap(predecessor, direct, successor, said):
    found = concluded(score(predecessor), score(direct), score(successor))
    assert said in found["sentence"]
    assert (found["gap_closed"] is None) == ("no gap" in said)


def test_level():
    said = concluded(score(360), score(330), score(330))["sentence"]
    assert "It is level with direct fine-tuning (standard error 0.0" in said


def test_nothing_is_right_and_one_example():
    assert "never right" in concluded(score(0), score(0), score(0))["sentence"]
    one = concluded(score(1, 1), score(0, 1), score(1, 1))
    assert one["interval"] is None
    assert "interval" not in one["sentence"]
    assert not re.search(r"nan|None|inf\b", one["sentence"])
