"""The depth that a budget finds, for every curve of scores and times over a few depths."""

import itertools
import json
import math

import pytest

from bert_of_theseus.pretrained.budget import Remembered, check_budget, search

DEPTHS = [1, 2, 3, 4, 6]


class Curve:
    """A function of the depth that keeps what it was asked for."""

    def __init__(self, values):
        self.values, self.asked = values, []

    def __call__(self, depth):
        self.asked.append(depth)
        return self.values[depth]


def rising(values):
    return list(values) == sorted(values)


def curves(levels):
    """All curves over `DEPTHS` of these levels."""
    for values in itertools.product(levels, repeat=len(DEPTHS)):
        yield dict(zip(DEPTHS, values))


def found(row):
    return {key: row[key] for key in ("score", "kept") if row[key] is not None}


def test_the_shallowest_that_keeps_enough():
    for scores in curves([0.5, 0.79, 0.8]):
        train = Curve(scores)
        choice = search(DEPTHS, train, keep=0.99, full_score=0.8)
        enough = [depth for depth in DEPTHS if scores[depth] >= 0.99 * 0.8 - 1e-12]
        assert len(train.asked) == len(set(train.asked)) <= 3, scores
        depth = choice.num_hidden_layers
        if choice.met:
            shallower = [d for d in DEPTHS if d < depth][-1:]
            assert depth in enough and set(shallower) <= set(train.asked) - set(enough)
        else:
            assert DEPTHS[-1] in train.asked and not set(train.asked) & set(enough)
            best = max(scores[d] for d in train.asked)
            assert depth == min(d for d in train.asked if scores[d] == best)
        tried = [scores[d] for d in sorted(train.asked)]
        assert ("uncertain" in choice.reason) == (not rising(tried))
        if rising(scores.values()):  # then nothing is left to chance
            assert choice.met == bool(enough) and (not enough or depth == enough[0])
        assert [row["layers"] for row in choice.rows] == DEPTHS
        for row in choice.rows:
            assert row["chosen"] == (choice.met and row["layers"] == depth)
            assert ("score" in found(row)) == (row["layers"] in train.asked)


def test_the_deepest_that_is_quick_enough():
    for times in curves([4.0, 5.0, 6.0]):
        train, measure = Curve(dict.fromkeys(DEPTHS, 0.7)), Curve(times)
        choice = search(DEPTHS, train, max_ms=5, measure_ms=measure)
        quick = [depth for depth in DEPTHS if times[depth] <= 5]
        assert measure.asked == DEPTHS and choice.met == bool(quick)
        if quick:
            assert choice.num_hidden_layers == quick[-1] and train.asked == quick[-1:]
        else:
            assert choice.num_hidden_layers == 1 and not train.asked
            assert "1.00 ms too long" in choice.reason
        assert [row["milliseconds"] for row in choice.rows] == list(times.values())


def test_both():
    for scores in curves([0.5, 0.8]):
        for times in curves([4.0, 6.0]):
            train = Curve(scores)
            choice = search(
                DEPTHS, train, keep=0.99, full_score=0.8, max_ms=5, measure_ms=times.get
            )
            quick = [depth for depth in DEPTHS if times[depth] <= 5]
            enough = [depth for depth in quick if scores[depth] >= 0.8]
            assert set(train.asked) <= set(quick)
            depth = choice.num_hidden_layers
            assert choice.met == (depth in enough)
            if rising(scores.values()) and choice.met:
                assert depth == enough[0]
            if rising(scores.values()) and not choice.met:
                assert not enough


def test_what_is_said():
    scores = {1: 0.70, 2: 0.785, 3: 0.795, 4: 0.80, 6: 0.80}
    times = {1: 2.0, 2: 3.0, 3: 4.0, 4: 5.0, 6: 7.0}

    def said(**options):
        options = {"full_score": 0.8, "measure_ms": times.get, **options}
        choice = search(DEPTHS, scores.get, **options)
        return choice.met, choice.num_hidden_layers, choice.reason

    def kept(depth):
        return {2: "2 layers kept 98.12 %", 3: "3 layers kept 99.38 %"}[depth]

    asked = "(99 % were asked for)"
    assert said(keep=0.99) == (True, 3, f"{kept(3)} {asked}; {kept(2)}.")
    no_less = "1 layer kept 87.50 % (80 % were asked for), and there was no shallower one to try."
    assert said(keep=0.8) == (True, 1, no_less)
    quick = "4 layers took 5.00 ms (5 ms were allowed); 6 layers took 7.00 ms."
    assert said(max_ms=5) == (True, 4, quick)
    slow = "The quickest: 1 layer took 2.00 ms, 0.50 ms too long."
    assert said(max_ms=1.5) == (False, 1, f"No successor answers in 1.5 ms. {slow}")
    both = f"{kept(3)} {asked}; {kept(2)}. 3 layers took 4.00 ms (5 ms were allowed)."
    assert said(keep=0.99, max_ms=5) == (True, 3, both)
    assert said(keep=0.99, max_ms=3) == (
        *(False, 2),
        "No successor that answers in 3 ms keeps 99 % of the score. The nearest: "
        f"{kept(2)}, 0.88 points too few; 2 layers took 3.00 ms, 3 layers took 4.00 ms.",
    )
    scores[6] = 0.78
    assert said(keep=1) == (
        *(False, 3),
        f"No successor keeps 100 % of the score. The nearest: {kept(3)}, 0.62 points too few. A "
        "deeper successor scored lower than a shallower one: the scores are uncertain.",
    )


def test_the_table():
    choice = search([1, 2], {1: 0.5, 2: 0.8}.get, keep=0.9, full_score=0.8)
    assert choice.table.splitlines() == [
        "| layers | validation |    kept |        |",
        "| -----: | ---------: | ------: | ------ |",
        "|      1 |     0.5000 |  62.50% |        |",
        "|      2 |     0.8000 | 100.00% | chosen |",
    ]
    choice = search([2], lambda depth: 0.5, max_ms=3, measure_ms=lambda depth: 2)
    assert choice.table.splitlines()[-1] == "|      2 |        2.00 |     0.5000 | chosen |"


def test_scores_that_cannot_be_compared():
    choice = search([1, 2, 3], {1: 0.8, 2: math.nan, 3: 0.8}.get, keep=0.9, full_score=0.8)
    assert choice.num_hidden_layers == 3 and choice.met
    with pytest.raises(ValueError, match=r"above 0. Received: 0\.0"):
        search([1], lambda depth: 1.0, keep=0.9, full_score=0.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keep": 99}, r"`keep` must be a number in \(0, 1\], .*0\.99. Received: 99"),
        ({"keep": 0}, "`keep` must be"),
        ({"max_ms": 0}, "`max_ms` must be a finite number above 0. Received: 0"),
        ({"max_ms": math.nan}, "`max_ms` must be"),
    ],
)
def test_limits_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        check_budget(**options)
    with pytest.raises(ValueError, match=message):
        search([1], lambda depth: 1.0, full_score=1.0, measure_ms=lambda depth: 1.0, **options)
    with pytest.raises(TypeError, match="keep"):
        check_budget(keep="0.9")
    with pytest.raises(ValueError, match="`keep` and `max_ms`"):
        search([1], lambda depth: 1.0)
    with pytest.raises(ValueError, match="one depth at least"):
        search([], lambda depth: 1.0, keep=0.5, full_score=1.0)


def test_what_was_found_is_remembered(tmp_path):
    path = tmp_path / "times.json"
    measure = Curve({1: 2.5, 2: 3.5})
    assert [Remembered(path, measure, {"cores": 2})(depth) for depth in (2, 1, 2)] == [
        3.5,
        2.5,
        3.5,
    ]
    assert measure.asked == [2, 1]
    assert Remembered(path, None, {"cores": 2}).results == {1: 2.5, 2: 3.5}
    assert json.loads(path.read_text())["results"] == {"1": 2.5, "2": 3.5}
    # On another machine the times are others.
    Remembered(path, measure, {"cores": 4})(2)
    assert measure.asked == [2, 1, 2]
    assert Remembered(path, None, {"cores": 4}).results == {2: 3.5}
