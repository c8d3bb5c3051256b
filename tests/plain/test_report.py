"""Tables and charts say what they were given."""

import math
import pickle
import sys
import warnings
import xml.etree.ElementTree

import pytest

from bert_of_theseus.plots import plot_depths, plot_schedule, plot_tradeoff, plot_training
from bert_of_theseus.schedules import (
    ConstantReplacement,
    LinearReplacement,
    ModulewiseReplacement,
)
from bert_of_theseus.table import markdown_table

pytest.importorskip("matplotlib")

ROWS = [
    {"model": "predecessor, 12 layers", "latency_ms": 9.1, "score": 0.921, "score_std": 0.004},
    {"model": "successor after Theseus", "latency_ms": 4.7, "score": 0.905, "score_std": 0.006},
    {"model": "successor, fine-tuned", "latency_ms": 4.7, "score": 0.911},
    {"model": "first 6 layers", "latency_ms": 4.72, "score": 0.904},
    {"model": "3 layers", "latency_ms": 2.5, "score": 0.86},
]
HISTORY = [
    {"stage": "predecessor", "steps": [5, 10], "loss": [0.9, 0.5], "score": [0.6, 0.7]},
    {
        "stage": "theseus",
        "steps": [5, 10, 15],
        "loss": [0.8, 0.6, 0.5],
        "val_loss": [0.9, None, 0.7],
        "score": [0.5, 0.7, 0.6],
        "replacement_rate": [0.5, 0.8, 1.0],
        "best_step": 10,
    },
]
DEPTHS = [
    {"layers": 1, "milliseconds": 2.0, "score": None, "kept": None, "chosen": False},
    {"layers": 2, "milliseconds": 3.0, "score": 0.78, "kept": 0.975, "chosen": False},
    {"layers": 3, "milliseconds": 4.0, "score": 0.796, "kept": 0.995, "chosen": True},
]
CHARTS = {
    "depths": lambda **options: plot_depths(DEPTHS, 0.99, 5.0, **options),
    "schedule": lambda **options: plot_schedule(LinearReplacement(0.5, steps=10), **options),
    "tradeoff": lambda **options: plot_tradeoff(ROWS, **options),
    "training": lambda **options: plot_training(HISTORY, **options),
}


def lines(ax):
    """The y values of the lines of `ax` by their x values, without those that mark a step."""
    return [
        dict(zip(line.get_xdata(), line.get_ydata()))
        for line in ax.lines
        if list(line.get_ydata()) != [0, 1]
    ]


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


def test_a_table():
    table = markdown_table(
        [{"a": "x|y", "b": 0.5}, {"a": "z"}], {"a": ("name", ""), "b": ("share", ".0%")}
    )
    assert table.split("\n") == [
        "| name | share |",
        "| ---- | ----: |",
        "| x\\|y |   50% |",
        "| z    |     - |",
    ]


@pytest.mark.parametrize("total, expected", [(None, 1200), (40, 40), (30_000, 30_000)])
def test_a_schedule_is_drawn_at_its_rates(total, expected):
    schedule = LinearReplacement(0.25, steps=1000)
    (ax,) = plot_schedule(schedule, total).axes
    (drawn,) = lines(ax)
    assert len(drawn) == min(expected, 1000) + 1
    assert (min(drawn), max(drawn)) == (0, expected)
    assert all(rate == schedule(step) for step, rate in drawn.items())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "replacement rate")
    low, high = ax.get_ylim()
    assert low < 0 and high > 1


def test_schedules_by_label_and_in_a_list():
    halves = {"first": lambda step: 0.25, "$second": ConstantReplacement(0.5)}
    for schedules in (halves, list(halves.values()), [halves["first"]] * 2):
        figure = plot_schedule(schedules, 10)
        assert len(lines(figure.axes[0])) == 2
        labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert len(labels) == 2
        if schedules is halves:
            assert labels == list(halves)
            figure._repr_png_()  # A lone dollar sign starts no formula.


def test_a_fraction_is_a_share_of_the_training():
    schedule = LinearReplacement(0.0, fraction=0.5)
    figure = plot_schedule([schedule, ConstantReplacement(0.5)])
    drawn, constant = lines(figure.axes[0])
    assert max(drawn) == 1
    assert all(rate == pytest.approx(min(1, 2 * share)) for share, rate in drawn.items())
    assert set(constant.values()) == {0.5}
    assert figure.axes[0].get_xlabel() == "share of training"
    (drawn,) = lines(plot_schedule(schedule, 20).axes[0])
    assert drawn == {step: min(1, step / 10) for step in range(21)}
    assert schedule.fraction == 0.5  # The caller's is as it was.


def test_a_line_per_module():
    schedule = ModulewiseReplacement(3, steps=12)
    figure = plot_schedule(schedule, 12)
    drawn = lines(figure.axes[0])
    for step in range(13):
        assert [line[step] for line in drawn] == schedule(step)
    assert {"module 1", "module 2", "module 3"} <= set(texts(figure))
    assert len({line.get_color() for line in figure.axes[0].lines}) == 3


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_depths_are_points_of_time_and_score():
    (ax,) = plot_depths(DEPTHS, keep=0.99, max_ms=5.0).axes
    drawn = {line.get_label(): [*map(list, line.get_xydata())] for line in ax.lines}
    assert drawn == {
        "trained": [[3.0, 0.975], [4.0, 0.995]],
        "chosen": [[4.0, 0.995]],
        "not trained": [[2.0, 0.0]],
        "at least 0.99": [[0.0, 0.99], [1.0, 0.99]],
        "at most 5 ms": [[5.0, 0.0], [5.0, 1.0]],
    }
    assert names(ax) == list(drawn) and {"2", "3"} <= set(texts(ax.figure))
    # Without times over the layers, and without the predecessor's score.
    (ax,) = plot_depths([{**row, "milliseconds": None, "kept": None} for row in DEPTHS]).axes
    assert [*map(list, ax.lines[0].get_xydata())] == [[2, 0.78], [3, 0.796]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layers", "validation score")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_depths(DEPTHS[:1])


def test_models_are_points_with_names_in_the_legend():
    figure = plot_tradeoff(ROWS)
    (ax,) = figure.axes
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [tuple(point) for line in points for point in line.get_xydata()] == [
        (row["latency_ms"], row["score"]) for row in ROWS
    ]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latency (ms per example)", "score")
    (bars,) = ax.collections
    spans = [end[1] for path in bars.get_paths() for end in path.vertices]
    assert spans == pytest.approx([0.917, 0.925, 0.899, 0.911])

    assert names(ax) == [row["model"] for row in ROWS]
    figure.draw_without_rendering()
    box = ax.get_legend().get_window_extent()
    assert box.x0 > ax.bbox.x1  # it covers no point
    assert figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max)


def test_a_crowd_of_models_can_be_told_apart():
    rows = [{"model": f"model number {i}", "latency_ms": 5, "score": 0.9} for i in range(15)]
    (ax,) = plot_tradeoff(rows).axes
    assert names(ax) == [row["model"] for row in rows]
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 15


def test_other_columns():
    rows = [{"model": "a", "parameters": 10, "f1": 0.5}]
    (ax,) = plot_tradeoff(rows, x="parameters", y="f1").axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("parameters", "f1")


def test_stages_follow_one_another():
    figure = plot_training(HISTORY)
    loss, score, rate = figure.axes
    first, second, validation = lines(loss)
    assert first == {5: 0.9, 10: 0.5}
    assert second == {15: 0.8, 20: 0.6, 25: 0.5}
    assert math.isnan(validation.pop(20))
    assert validation == {15: 0.9, 25: 0.7}
    assert lines(score) == [{5: 0.6, 10: 0.7}, {15: 0.5, 20: 0.7, 25: 0.6}]
    assert lines(rate) == [{15: 0.5, 20: 0.8, 25: 1.0}]
    for ax in figure.axes:  # Where the second stage starts, and what was kept of it.
        marks = {line.get_xdata()[0] for line in ax.lines if list(line.get_ydata()) == [0, 1]}
        assert marks == {10, 20}
    assert {"predecessor", "theseus", "training", "validation", "weights kept"} <= set(
        texts(figure)
    )


def test_a_warm_start_has_a_panel_of_its_own():
    """Its loss is none of the task's, and it has no score."""
    warm = {"stage": "warm_start", "steps": [4, 8], "hidden_loss": [90.0, 30.0], "best_step": 8}
    figure = plot_training([HISTORY[0], warm, HISTORY[1]])
    loss, hidden, score, _ = figure.axes
    assert hidden.get_ylabel() == "loss of the warm start"
    assert lines(hidden) == [{14: 90.0, 18: 30.0}]
    first, second, _ = lines(loss)
    assert list(first) == [5, 10] and list(second) == [23, 28, 33]
    assert lines(score) == [{5: 0.6, 10: 0.7}, {23: 0.5, 28: 0.7, 33: 0.6}]
    assert max(loss.get_ylim()) < 2
    for ax in figure.axes:
        marks = {line.get_xdata()[0] for line in ax.lines if list(line.get_ydata()) == [0, 1]}
        assert marks == {10, 18, 28}


def test_what_is_not_known_has_no_panel():
    (ax,) = plot_training([{"stage": "only", "steps": [3], "score": [0.5], "loss": []}]).axes
    assert lines(ax) == [{3: 0.5}]
    assert ax.get_legend() is None
    assert ax.get_ylabel() == "validation score"


def test_stages_are_told_apart_by_colour():
    stages = [{"stage": f"stage {i}", "steps": [1], "loss": [1]} for i in range(5)]
    (ax,) = plot_training(stages).axes
    assert names(ax) == [stage["stage"] for stage in stages]
    drawn = [line.get_color() for line in ax.lines if list(line.get_ydata()) == [1]]
    assert drawn == [line.get_color() for line in ax.get_legend().get_lines()]
    assert len(set(drawn)) == 5


@pytest.mark.parametrize("chart", CHARTS)
def test_files(chart, tmp_path):
    for suffix in ("png", "svg", "pdf"):
        CHARTS[chart](path=tmp_path / f"chart.{suffix}")
    from matplotlib.image import imread

    height, width, _ = imread(tmp_path / "chart.png").shape
    assert width > 1000 and height > 500
    root = xml.etree.ElementTree.parse(tmp_path / "chart.svg").getroot()
    assert root.tag.endswith("}svg")
    assert (tmp_path / "chart.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match=r"must end in one of .png, .svg, .pdf. Received: .*xlsx"):
        CHARTS[chart](path=tmp_path / "chart.xlsx")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("chart", CHARTS)
def test_a_notebook_shows_the_figure_and_nothing_else_keeps_it(chart):
    figure = CHARTS[chart]()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )
    assert len(pickle.loads(pickle.dumps(figure)).axes) == len(figure.axes)
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(figure)
    assert shown["image/png"]


def test_axes_of_the_caller():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = (part.subplots() for part in figure.subfigures(1, 2))
    assert plot_schedule(LinearReplacement(0.5, steps=10), ax=left) is figure
    assert plot_tradeoff(ROWS, ax=right) is figure
    assert len(lines(left)) == 1
    assert names(right) == [row["model"] for row in ROWS]


def test_letters_that_the_font_lacks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for figure in (
            plot_schedule({"线性": LinearReplacement(0.5, steps=10), "常数": lambda step: 0.5}),
            plot_tradeoff([{"model": "教师模型", "latency_ms": 1, "score": 1}]),
            plot_training([{"stage": "第一阶段", "steps": [1], "loss": [1]}]),
        ):
            assert figure._repr_png_()


@pytest.mark.parametrize(
    "call, error, problem",
    [
        (lambda: plot_schedule(0.5), TypeError, "function of the step.*Received: 0.5"),
        (lambda: plot_schedule({"a": 1}), TypeError, "function of the step.*Received: 1"),
        (lambda: plot_schedule([]), ValueError, "empty"),
        (lambda: plot_schedule(lambda step: 0.5, 0), ValueError, "1 or more. Received: 0"),
        (
            lambda: plot_schedule(
                [LinearReplacement(0.5, steps=9), LinearReplacement(0.5, fraction=0.5)]
            ),
            ValueError,
            "`total_steps` is needed",
        ),
        (lambda: plot_tradeoff([]), ValueError, "empty"),
        (lambda: plot_tradeoff([{"score": 1}]), ValueError, "under 'model'"),
        (lambda: plot_tradeoff(ROWS, y="f1"), ValueError, "12 layers' must have .* 'f1'.*None"),
        (
            lambda: plot_tradeoff([{**ROWS[0], "score": math.nan}]),
            ValueError,
            "finite number under 'score'. Received: nan",
        ),
        (lambda: plot_training([]), ValueError, "must have one of loss, val_loss, hidden_loss"),
        (lambda: plot_training([{"stage": "a", "steps": [1]}]), ValueError, "must have one of"),
        (lambda: plot_training([{"stage": "a", "loss": [1]}]), ValueError, "'stage' and 'steps'"),
        (lambda: plot_training([{"steps": [1], "loss": [1]}]), ValueError, "'stage' and 'steps'"),
        (
            lambda: plot_training([{"stage": "a", "steps": [1, 2], "loss": [1]}]),
            ValueError,
            "'a' must have a number per step under 'loss'. Received: 1 for 2",
        ),
    ],
)
def test_errors(call, error, problem):
    with pytest.raises(error, match=problem):
        call()


def test_without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # What Python itself calls "not there".
    for chart in CHARTS.values():
        with pytest.raises(ImportError, match="pip install matplotlib"):
            chart()
    assert markdown_table([{"a": 1}], {"a": ("a", "")})
