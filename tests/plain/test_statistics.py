"""Intervals of what is computed from scores, and scores that know their examples."""

import copy
import pickle

import numpy as np
import pytest
from docs_blocks import run_block

from bert_of_theseus import statistics
from bert_of_theseus.data import (
    Batches,
    Classification,
    Encoded,
    Entity,
    Example,
    MultiLabel,
    Pair,
    Regression,
    SpanExtraction,
    Tagging,
    TokenClassification,
)
from bert_of_theseus.statistics import Score, compare, interval, resampled
from bert_of_theseus.table import differences, report_text

stats = pytest.importorskip("scipy.stats")
sklearn_metrics = pytest.importorskip("sklearn.metrics")


def accuracy(is_right):
    return Score(np.stack([is_right, np.ones(len(is_right))], axis=1))


def two_models(rng, n, share=0.8, changed=0.1):
    """Which answers are right, of a model and of another that answers some otherwise."""
    one = rng.random(n) < share
    return one, np.where(rng.random(n) < changed, rng.random(n) < share, one)


# Scores by examples.


def columns(rng, n):
    """Rows for each function, and the function of a library that computes the same of them."""
    wanted = rng.integers(0, 4, n)
    found = np.where(rng.random(n) < 0.6, wanted, rng.integers(0, 6, n))
    x = rng.normal(size=n).round(1)
    y = (x + rng.normal(size=n)).round(1)
    bits = rng.integers(0, 2, (n, 6))
    metrics = sklearn_metrics
    return {
        "ratio": (np.stack([x, np.abs(y)], axis=1), lambda r: r[:, 0].sum() / r[:, 1].sum()),
        "macro_f1": (
            np.stack([wanted, found], axis=1),
            lambda r: metrics.f1_score(*r.T, average="macro", zero_division=0),
        ),
        "matthews": (
            np.stack([wanted, found], axis=1),
            lambda r: metrics.matthews_corrcoef(*r.T),
        ),
        "mean_f1": (
            bits,
            lambda r: metrics.f1_score(r[:, :3], r[:, 3:], average="macro", zero_division=0),
        ),
        "pearson": (np.stack([x, y], axis=1), lambda r: stats.pearsonr(*r.T)[0]),
        "spearman": (np.stack([x, y], axis=1), lambda r: stats.spearmanr(*r.T)[0]),
    }


FUNCTIONS = ["ratio", "macro_f1", "matthews", "mean_f1", "pearson", "spearman"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_draw_has_the_score_of_its_rows(name):
    rng = np.random.default_rng(1)
    rows, theirs = columns(rng, 40)[name]
    draws = rng.integers(40, size=(8, 40))
    counts = np.stack([np.bincount(draw, minlength=40) for draw in draws]).astype("float64")
    ours = getattr(statistics, name)(rows.astype("float64"), counts)
    np.testing.assert_allclose(ours, [theirs(rows[draw]) for draw in draws], atol=1e-12)


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
def test_a_correlation_with_a_constant_is_none(name):
    rows = np.stack([np.ones(9), np.arange(9)], axis=1)
    assert Score(rows, getattr(statistics, name)) == 0
    assert Score(rows[:, ::-1] + 1e6 / 3, getattr(statistics, name)) == 0


def test_all_draws_are_those_of_a_bootstrap():
    """With the same random numbers, each draw has the score of the rows that it drew."""
    rows, theirs = columns(np.random.default_rng(2), 300)["pearson"]
    rows = rows + np.arange(300)[:, None]  # no two alike
    found = resampled(Score(rows, statistics.pearson), seed=5)[0]
    rng = np.random.default_rng(5)
    by_hand = [theirs(rows[rng.integers(300, size=300)]) for _ in range(40)]
    assert found.shape == (9999,)
    np.testing.assert_allclose(found[:40], by_hand, atol=1e-12)


@pytest.mark.parametrize("n", [60, 1000])  # few rows are alike, or most are
def test_intervals_are_those_of_scipy(n):
    rng = np.random.default_rng(3)
    right, found = rng.integers(0, 4, (2, n))
    rows = np.stack([2 * right, 2 * right + found], axis=1)
    low, high = interval(lambda score: score, Score(rows))

    def f1(index, axis=-1):
        return rows[index, 0].sum(axis) / rows[index, 1].sum(axis)

    theirs = stats.bootstrap(
        (np.arange(n),), f1, method="percentile", rng=np.random.default_rng(0), batch=500
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(low - theirs.low) < 0.05 * width and abs(high - theirs.high) < 0.05 * width


def test_copies_are_numbers():
    score = accuracy(np.array([True, False]))
    for other in (copy.deepcopy(score), pickle.loads(pickle.dumps(score)), score + 0):
        assert type(other) is float and other == score == 0.5


# Comparisons.


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [2, 3, 40])
def test_an_interval_holds_the_figure(name, n):
    rng = np.random.default_rng(4)
    function = getattr(statistics, name)
    one, other = (Score(columns(rng, n)[name][0] + 0.0, function) for _ in range(2))
    found = compare(one, other)
    assert found.num_examples == n
    assert found.difference == other - one
    low, high = found.difference_interval
    assert low <= found.difference <= high
    if found.kept_interval:
        assert found.kept == pytest.approx(other / one)
        assert found.kept_interval[0] <= found.kept <= found.kept_interval[1]
    assert found == compare(one, other)
    assert n < 40 or found != compare(one, other, seed=1)


@pytest.mark.parametrize("n", [2, 500])
def test_equal_models(n):
    is_right = np.arange(n) < n - 1
    found = compare(accuracy(is_right), accuracy(is_right))
    assert (found.difference, found.difference_interval) == (0, (0, 0))
    # With two examples some draws have none that is right.
    assert found.kept == 1 and found.kept_interval == ((1, 1) if n > 2 else None)
    everything = accuracy(np.ones(n, bool))
    assert compare(everything, everything).kept_interval == (1, 1)


def test_what_has_no_interval():
    right, wrong = np.array([True]), np.array([False])
    assert compare(accuracy(right), accuracy(wrong)) == (1, -1, None, 0, None)
    none, some = np.zeros(50, bool), np.arange(50) < 25
    _, _, difference, kept, kept_interval = compare(accuracy(none), accuracy(some))
    assert difference[0] > 0 and kept is None and kept_interval is None
    undefined = Score(np.stack([np.where(some, np.nan, 1), np.ones(50)], axis=1))
    assert np.isnan(undefined)
    for pair in ((accuracy(some), undefined), (undefined, accuracy(some))):
        found = compare(*pair)
        assert found.difference_interval is None and found.kept_interval is None


def test_models_that_err_alike_are_told_apart_sooner():
    rng = np.random.default_rng(5)
    one, other = two_models(rng, 400)

    def width(other):
        low, high = compare(accuracy(one), accuracy(other)).difference_interval
        return high - low

    assert width(other) < 0.6 * width(rng.permutation(other))


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_it_holds_the_truth_as_often_as_it_says(count):
    """Of 95 % intervals, within 4 sigma."""
    rng = np.random.default_rng(6)
    held = []
    for _ in range(count):
        one = rng.random(150) < 0.9
        other = np.where(rng.random(150) < 0.2, rng.random(150) < 0.6, one)
        low, high = compare(accuracy(one), accuracy(other)).difference_interval
        held.append(low <= 0.2 * (0.6 - 0.9) <= high)
    assert abs(np.mean(held) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / count)


def test_any_figure_of_any_number_of_models():
    rng = np.random.default_rng(7)
    scores = [accuracy(rng.random(3000) < share) for share in (0.9, 0.5, 0.8)]

    def gap_closed(predecessor, direct, successor):
        return (successor - direct) / (predecessor - direct)

    low, high = interval(gap_closed, *scores)
    assert 0.6 < low < gap_closed(*scores) < high < 0.9
    narrow = interval(gap_closed, *scores, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_compare_as_documented(capsys):
    run_block("compare", {})
    assert capsys.readouterr().out.startswith("-0.100 (-0.1")


def test_scores_of_other_examples():
    one, other = accuracy(np.ones(3)), accuracy(np.ones(4))
    with pytest.raises(ValueError, match=r"of the same examples.* 3 and 4 examples"):
        compare(one, other)
    named = [Score(one.rows, examples=np.array(ids)) for ids in ([1, 2, 3], [1, 2, 4], [1, 2, 3])]
    assert named[0].is_paired(named[2]) and not named[0].is_paired(named[1])
    assert not one.is_paired(named[0]) and not one.is_paired(1.0)
    with pytest.raises(ValueError, match="of the same examples"):
        compare(*named[:2])
    with pytest.raises(TypeError, match=r"must be a `Score`\. Received: float"):
        compare(one, 0.5)
    with pytest.raises(ValueError, match=r"\(num_examples, k\).*shape \(3,\)"):
        Score([1, 2, 3])


# The tasks' scores.


class Given:
    """A model whose answers are there; `Batches` says to which texts."""

    def __init__(self, outputs):
        self.outputs = outputs

    def predict_on_batch(self, inputs):
        return np.stack([self.outputs[number] for number in np.ravel(inputs[0][:, 0])])


def labelled(task, rng, n):
    """`Encoded` of a task, of `n` texts of five tokens, and answers to them."""
    ids = [np.array([number, *b"abcd"]) for number in range(n)]
    offsets = [np.stack([np.arange(5), np.arange(1, 6)], axis=1)] * n
    width, outputs = len(task.labels), rng.random((n, len(task.labels)))
    examples, labels = [Example("abcde", None)] * n, rng.integers(0, width, n)
    if isinstance(task, MultiLabel):
        labels = rng.integers(0, 2, (n, width)).astype("float32")
    elif isinstance(task, Regression):
        outputs = outputs.round(1)
        labels = (outputs + rng.random((n, 1))).round(1).astype("float32")
    elif isinstance(task, SpanExtraction):
        offsets = [np.array([[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]])] * n
        spans = [None if start == 3 else (start, start + 1) for start in rng.integers(0, 4, n)]
        examples = [Pair("a", "abcd", span) for span in spans]
        outputs = rng.random((n, 2, 5))
    elif width > 3:  # tags
        outputs = rng.random((n, 5, width))
        starts = rng.integers(0, 4, n)
        examples = [Example("abcde", [Entity(s, s + 2, "x")]) for s in starts]
        labels = [rng.integers(-1, width, 5) for _ in range(n)]
        outputs = [output + 0.6 * np.eye(width)[label] for output, label in zip(outputs, labels)]
    return Encoded(ids, labels, None, offsets, np.zeros(n, bool), examples), np.array(outputs)


TASKS = [
    *(Classification("ab", metric) for metric in ("accuracy", "f1", "macro_f1", "matthews")),
    *(Classification("abc", metric) for metric in ("accuracy", "macro_f1", "matthews")),
    *(MultiLabel("abc", metric) for metric in ("micro_f1", "macro_f1")),
    *(Regression(metric) for metric in ("pearson", "spearman")),
    *(TokenClassification(["O", "B-x", "I-x", "B-y"], m) for m in ("accuracy", "f1", "precision")),
    TokenClassification(["a", "b", "c", "d"]),
    *(Tagging(["x", "y"], metric) for metric in ("f1", "precision", "recall")),
    *(SpanExtraction(metric) for metric in ("f1", "exact_match")),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{type(t).__name__} {t.metric}")
def test_the_score_of_a_task_is_that_of_its_examples(task):
    if isinstance(task, Tagging):
        pytest.importorskip("seqeval")
    encoded, outputs = labelled(task, np.random.default_rng(8), 30)
    score = task.score(Given(outputs), Batches(encoded, 7))
    assert score == pytest.approx(task.measure(list(outputs), encoded)[task.metric])
    everything = np.ones((1, 30))
    assert score.function(score.rows, everything)[0] == pytest.approx(score, abs=1e-12)
    # And so it is for any of them.
    some = np.random.default_rng(9).permutation(30)[:12]
    part = encoded._replace(
        labels=[encoded.labels[i] for i in some]
        if isinstance(encoded.labels, list)
        else encoded.labels[some],
        examples=[encoded.examples[i] for i in some],
        offsets=encoded.offsets[:12],
        cut=encoded.cut[:12],
    )
    counts = np.isin(np.arange(30), some)[None].astype("float64")
    expected = task.measure([outputs[i] for i in some], part)[task.metric]
    assert score.function(score.rows, counts)[0] == pytest.approx(expected, abs=1e-12)
    assert score not in (0, 1)


def test_outputs_that_are_not_one_to_a_text():
    task = Classification("abc")
    encoded, outputs = labelled(task, np.random.default_rng(8), 30)
    model = Given(outputs)
    answers = model.predict_on_batch
    model.predict_on_batch = lambda inputs: answers(inputs)[:-1]
    with pytest.raises(ValueError, match=r"one output to each text.* 6 outputs to 7 texts"):
        task.predict(model, Batches(encoded, 7))
    model.predict_on_batch = lambda inputs: np.concatenate([answers(inputs), 1 + answers(inputs)])
    with pytest.raises(ValueError, match=r"one output to each text.* 14 outputs to 7 texts"):
        task.predict(model, Batches(encoded, 7))


# In words.


def rows_of(one, other, key="test_score"):
    found = compare(accuracy(one), accuracy(other))
    after = {"num_examples": found.num_examples, **found._asdict()}
    return [
        {"model": "predecessor", "layers": 4, "parameters": 9, key: np.mean(one), "kept": 1.0},
        {"model": "successor", "layers": 2, "parameters": 5, key: np.mean(other), **after},
    ]


def test_the_report_says_what_is_noise():
    right = np.arange(1000) < 900
    rows = rows_of(right, right & (np.arange(1000) != 0))
    text = report_text(rows)
    low, high = rows[1]["kept_interval"]
    assert f"{low:.1%} to {high:.1%} |" in text and "95% interval" in text
    assert "on 1,000 test examples" in text and text.endswith("0.0000), within noise.")
    assert "successor, fine-tuned: -0.0010 (-0.0030 to 0.0000)" in text
    worse = rows_of(right, right & (np.arange(1000) >= 30), "score")
    assert "), more than noise. The weights were chosen by these exa" in report_text(worse)
    assert "on 1,000 validation examples" in report_text(worse)
    # Without labels, that the predecessor agrees with itself is no finding.
    high = worse[1]["difference_interval"][1]
    assert differences(worse, agreement=True).endswith(f"to {high:.4f}).")


@pytest.mark.parametrize("one, other, said", [
    ([1] * 40, [1] * 40, "successor, fine-tuned: none, on any draw of the examples."),
    ([1, 0] * 10, [1] * 20, "With so few examples the intervals are rather too narrow."),
    ([1], [0], "One test example is too few to tell models apart."),
    ([1, 0] * 20, [np.nan] * 40, "nan, without an interval: some draws have no score."),
])  # fmt: skip
def test_the_report_says_what_cannot_be_told(one, other, said):
    text = report_text(rows_of(np.array(one), np.array(other)))
    assert text.endswith(said)


def test_a_report_of_scores_alone_says_nothing_of_noise():
    rows = rows_of(np.arange(9) < 5, np.arange(9) < 4)
    for row in rows:
        for key in ("num_examples", "kept_interval", "difference_interval"):
            row.pop(key, None)
    assert differences(rows) == ""
    assert "interval" not in report_text(rows) and "chosen" not in report_text(rows)
