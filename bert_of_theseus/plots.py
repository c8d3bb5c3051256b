"""Charts of schedules, trainings and results.

They need matplotlib, which is imported when a chart is drawn. Figures are not pyplot's: pyplot
keeps no reference to them, no window opens, and a notebook shows the one that a cell returns.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

# Okabe and Ito's colours, which colour-blind people can tell apart, without the palest.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#666666"
_MARKERS = "os^Dv"  # one for each round of the colours
_KEPT = {"color": _GREY, "linestyle": ":", "linewidth": 2.5}


def plot_schedule(
    schedule, total_steps: int | None = None, path: str | os.PathLike | None = None, ax=None
):
    """Draws replacement rates over the steps of a training.

    Args:
        schedule: A function of the step that returns a rate or a list of a rate per module, as
            `ReplacementRateScheduler` takes it; or a list of such, or a dict by label.
        total_steps: Integer, the length of the training. Defaults to `None`: a length in which the
            longest schedule ends, or a share of the training for schedules with a `fraction`.
        path: Path of the file to save, `*.png`, `*.svg` or `*.pdf`. Defaults to `None`, no file.
        ax: The matplotlib axes to draw on. Defaults to those of a new figure.

    Returns:
        The matplotlib figure. A notebook shows it.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if a schedule is not callable.
        ValueError: if there is no schedule, `path` has another suffix, or `total_steps` is not
            positive or is missing for schedules in steps beside schedules with a fraction.

    Example:

    >>> plot_schedule({"linear": LinearReplacement(0.5, fraction=0.75), "constant": lambda _: 0.5})
    """
    _check_suffix(path)
    if isinstance(schedule, Mapping):
        labels, schedules = list(schedule), list(schedule.values())
    else:
        schedules = list(schedule) if isinstance(schedule, (list, tuple)) else [schedule]
        labels = [getattr(each, "__name__", None) or repr(each) for each in schedules]
    if not schedules:
        raise ValueError("`schedule` is empty: there is nothing to draw.")
    for each in schedules:
        if not callable(each):
            raise TypeError(
                "`schedule` must be a function of the step, or a list or dict of such. Received: "
                f"{each!r}"
            )
    total, is_share = _length(schedules, total_steps)
    figure, ax = _axes(ax)
    steps = sorted({round(i * total / 1000) for i in range(1001)})
    x = [step / total for step in steps] if is_share else steps
    colours = itertools.cycle(_COLOURS)
    lines = []
    for label, each in zip(labels, schedules):
        if getattr(each, "fraction", None) is not None:
            each = each.bind(total)
        rates = [each(step) for step in steps]
        if not hasattr(rates[0], "__len__"):
            lines += ax.plot(x, rates, color=next(colours), label=label, linewidth=2)
            continue
        modules = list(zip(*rates))
        for i, rates in enumerate(modules):
            colour = _shade(i, len(modules))
            name = f"{label}, module {i + 1}" if len(schedules) > 1 else f"module {i + 1}"
            # From wide to thin, so that coinciding lines are all visible.
            width = 2 + 3 * (len(modules) - 1 - i) / len(modules)
            lines += ax.plot(x, rates, color=colour, label=name, linewidth=width)
    if len(schedules) == 1:
        ax.set_title(_wrap(labels[0], 60), fontsize="medium", parse_math=False)
    if len(lines) > 1:
        _legend(ax, lines)
    ax.set(ylim=(-0.04, 1.04), xlim=(0, x[-1]), ylabel="replacement rate")
    ax.set_xlabel("share of training" if is_share else "step")
    if is_share:
        ax.xaxis.set_major_formatter("{x:.0%}")
    return _done(figure, path)


def plot_tradeoff(
    rows: Sequence[Mapping],
    x: str = "latency_ms",
    y: str = "score",
    path: str | os.PathLike | None = None,
    ax=None,
):
    """Draws a point per model: its cost and its score.

    Args:
        rows: A mapping per model, as for `markdown_table`: its name under `"model"`, the numbers
            under `x` and `y`, and, if known, the standard deviation of the latter under `y` with
            the suffix `"_std"`, which is drawn as an error bar.
        x: String, the key of the cost. Defaults to `"latency_ms"`.
        y: String, the key of the score. Defaults to `"score"`.
        path: Path of the file to save, `*.png`, `*.svg` or `*.pdf`. Defaults to `None`, no file.
        ax: The matplotlib axes to draw on. Defaults to those of a new figure.

    Returns:
        The matplotlib figure. A notebook shows it.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there are no rows, one lacks a key or has no finite number under it, or
            `path` has another suffix.

    Example:

    >>> plot_tradeoff([{"model": "12 layers", "latency_ms": 9.1, "score": 0.92}])
    """
    _check_suffix(path)
    if not rows:
        raise ValueError("`rows` is empty: there is nothing to draw.")
    for row in rows:
        if "model" not in row:
            raise ValueError(f"A row must have its name under 'model'. Received: {dict(row)}")
        for key in (x, y):
            if row.get(key) is None or not math.isfinite(row[key]):
                raise ValueError(
                    f"Row {row['model']!r} must have a finite number under {key!r}. Received: "
                    f"{row.get(key)!r}"
                )
    figure, ax = _axes(ax)
    colours = list(itertools.islice(itertools.cycle(_COLOURS), len(rows)))
    for_bars = [(row, colour) for row, colour in zip(rows, colours) if row.get(f"{y}_std")]
    if for_bars:
        low, high = ([row[y] + sign * row[f"{y}_std"] for row, _ in for_bars] for sign in (-1, 1))
        ax.vlines([row[x] for row, _ in for_bars], low, high, [colour for _, colour in for_bars])
    lines = []
    for index, (row, colour) in enumerate(zip(rows, colours)):
        marker = _MARKERS[index // len(_COLOURS) % len(_MARKERS)]
        style = {"color": colour, "marker": marker, "markersize": 9, "linestyle": "none"}
        lines += ax.plot(row[x], row[y], label=row["model"], zorder=3, **style)
    ax.margins(0.1)
    ax.set(xlabel=_TITLES.get(x, x.replace("_", " ")), ylabel=_TITLES.get(y, y.replace("_", " ")))
    _legend(ax, lines)
    return _done(figure, path)


def plot_depths(
    rows: Sequence[Mapping],
    keep: float | None = None,
    max_ms: float | None = None,
    path: str | os.PathLike | None = None,
    ax=None,
):
    """Draws what a search for a depth has found: a point for each successor that was trained.

    Args:
        rows: A mapping per depth, as the `rows` of `pretrained.budget.Choice`. Of depths without a
            score only the time is marked.
        keep: Float, the share of the score that was asked for. Defaults to `None`.
        max_ms: Float, the milliseconds that were allowed. Defaults to `None`.
        path: Path of the file to save, `*.png`, `*.svg` or `*.pdf`. Defaults to `None`, no file.
        ax: The matplotlib axes to draw on. Defaults to those of a new figure.

    Returns:
        The matplotlib figure. A notebook shows it.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if no depth has a score, or `path` has another suffix.
    """
    _check_suffix(path)
    trained = [row for row in rows if row.get("score") is not None]
    if not trained:
        raise ValueError("`rows` must hold a depth with a score: there is nothing to draw.")
    x = "layers" if any(row.get("milliseconds") is None for row in rows) else "milliseconds"
    y = "score" if any(row.get("kept") is None for row in trained) else "kept"
    figure, ax = _axes(ax)
    lines = ax.plot(
        *([row[key] for row in trained] for key in (x, y)),
        label="trained",
        color=_COLOURS[0],
        marker="o",
        markersize=8,
    )
    for row in trained:
        ax.annotate(
            row["layers"], (row[x], row[y]), (0, 7), textcoords="offset points", ha="center"
        )
        if row.get("chosen"):
            style = {"color": _COLOURS[1], "marker": "o", "markersize": 12, "linestyle": "none"}
            lines += ax.plot(row[x], row[y], label="chosen", zorder=3, **style)
    others = [row[x] for row in rows if row.get("score") is None]
    if others:
        style = {"color": _GREY, "marker": "|", "markersize": 12, "linestyle": "none"}
        at_the_bottom = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        lines += ax.plot(others, [0] * len(others), label="not trained", **style, **at_the_bottom)
    if keep is not None and y == "kept":
        lines.append(ax.axhline(keep, label=f"at least {keep:.4g}", **_KEPT))
    if max_ms is not None and x == "milliseconds":
        lines.append(ax.axvline(max_ms, label=f"at most {max_ms:.4g} ms", **_KEPT))
    ax.margins(0.15)
    titles = {"kept": "share of the predecessor's score", "milliseconds": "ms per text"}
    ax.set(xlabel=titles.get(x, x), ylabel=titles.get(y, "validation score"))
    if x == "layers":
        ax.xaxis.get_major_locator().set_params(integer=True)
    _legend(ax, lines)
    return _done(figure, path)


def plot_training(history: Sequence[Mapping], path: str | os.PathLike | None = None):
    """Draws the course of a training, its stages side by side.

    Args:
        history: A mapping per stage, in order: its name under `"stage"`; the step of each
            evaluation, counted from the start of the stage, under `"steps"`; and, as far as
            known, a number per evaluation under `"loss"`, `"val_loss"`, `"hidden_loss"`, `"score"`
            and `"replacement_rate"`, and the step whose weights were kept under `"best_step"`.
        path: Path of the file to save, `*.png`, `*.svg` or `*.pdf`. Defaults to `None`, no file.

    Returns:
        The matplotlib figure. A notebook shows it.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no stage, one lacks its name or steps, none has anything to draw,
            the numbers are not one per step, or `path` has another suffix.

    Example:

    >>> plot_training([{"stage": "theseus", "steps": [10, 20], "loss": [0.7, 0.4]}])
    """
    _check_suffix(path)
    known = [key for key in _PANELS if any(stage.get(key) for stage in history)]
    _check_history(history, known)
    panels = list(dict.fromkeys(_PANELS[key] for key in known))
    figure, _ = _axes(height=0.8 + 2 * len(panels), panels=len(panels))
    axes = dict(zip(panels, figure.axes))
    start, kept, stages = 0, [], []
    for stage, colour in zip(history, itertools.cycle(_COLOURS)):
        steps = [start + step for step in stage["steps"]]
        style = {"color": colour, "marker": "o", "markersize": 4 if len(steps) < 40 else 0}
        for key in known:
            values = [math.nan if value is None else value for value in stage.get(key) or ()]
            if values:
                dashes = "--" if key == "val_loss" else "-"
                axes[_PANELS[key]].plot(steps, values, linestyle=dashes, **style)
        stages.append(_sample(stage["stage"], color=colour))
        if stage.get("best_step") is not None:
            kept.append(start + stage["best_step"])
        for ax in axes.values() if start else ():
            ax.axvline(start, color=_GREY, linewidth=1, zorder=1)
        start = steps[-1]
    for panel, ax in axes.items():
        ax.set_ylabel(panel)
        for step in kept:
            ax.axvline(step, zorder=1, **_KEPT)
    if "replacement rate" in axes:
        axes["replacement rate"].set_ylim(-0.04, 1.04)
    figure.axes[-1].set(xlabel="step", xlim=(0, 1.01 * start))
    # Colours are stages; the axes' names say the rest, but for these.
    lines = stages if len(stages) > 1 else []
    if "val_loss" in known:
        lines = [
            *lines,
            _sample("training", color="black"),
            _sample("validation", color="black", linestyle="--"),
        ]
    if kept:
        lines = [*lines, _sample("weights kept", **_KEPT)]
    if lines:
        _legend(figure.axes[0], lines)
    return _done(figure, path)


def _check_history(history, known):
    if not known:
        raise ValueError(f"`history` must have one of {', '.join(_PANELS)} in some stage.")
    for stage in history:
        if not stage.get("steps") or "stage" not in stage:
            raise ValueError(f"A stage must have a 'stage' and 'steps'. Received: {dict(stage)}")
        for key in known:
            if stage.get(key) and len(stage[key]) != len(stage["steps"]):
                raise ValueError(
                    f"Stage {stage['stage']!r} must have a number per step under {key!r}. "
                    f"Received: {len(stage[key])} for {len(stage['steps'])} steps"
                )


_TITLES = {"latency_ms": "latency (ms per example)"}
# What is drawn of a stage, and on which panel.
_PANELS = {
    "loss": "loss",
    "val_loss": "loss",
    "hidden_loss": "loss of the warm start",
    "score": "validation score",
    "replacement_rate": "replacement rate",
}
_SUFFIXES = (".png", ".svg", ".pdf")


def _check_suffix(path):
    # Before anything is drawn.
    if path is not None and Path(path).suffix.lower() not in _SUFFIXES:
        raise ValueError(f"`path` must end in one of {', '.join(_SUFFIXES)}. Received: {path!s}")


def _axes(ax=None, height=4.0, panels=1):
    if ax is not None:
        figure = ax.figure.figure  # The whole one, if the axes' own is a part of it.
    else:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("The charts need matplotlib: pip install matplotlib") from error
        figure = Figure(figsize=(7.0, height), dpi=100, layout="constrained")
        # IPython draws figures by itself only once pyplot is imported.
        figure._repr_png_ = functools.partial(_png, figure)
        figure.subplots(panels, sharex=True)
        ax = figure.axes[0]
    for each in {*figure.axes[:panels], ax}:
        each.grid(color="#dddddd", linewidth=0.8)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, ax


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _done(figure, path):
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _legend(ax, lines):
    # Beside the axes, where it covers nothing.
    labels = [_wrap(line.get_label(), 30) for line in lines]
    legend = ax.legend(
        lines, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _sample(label, **style):
    """A line for the legend alone."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def _wrap(text, width) -> str:
    return textwrap.fill(str(text), width, break_long_words=False, break_on_hyphens=False)


def _length(schedules, total_steps) -> tuple[int, bool]:
    """The number of steps to draw, and whether the axis shows shares of the training."""
    if total_steps is not None:
        if total_steps < 1:
            raise ValueError(f"`total_steps` must be 1 or more. Received: {total_steps!r}")
        return total_steps, False
    configs = [each.get_config() for each in schedules if hasattr(each, "get_config")]
    longest = max((config.get("steps") or 0 for config in configs), default=0)
    is_share = any(config.get("fraction") is not None for config in configs)
    if is_share and longest:
        raise ValueError(
            "`total_steps` is needed to draw schedules in steps beside schedules with a fraction."
        )
    return math.ceil(1.2 * longest) or 1000, is_share


def _shade(i, of):
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * i / max(1, of - 1))
