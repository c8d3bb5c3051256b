"""Charts of schedules, trainings and results.

They need matplotlib, which is imported when one is drawn. They are figures of their own, not
pyplot's: nothing is left behind, no window opens, and a notebook shows what a cell returns.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["plot_schedule", "plot_tradeoff", "plot_training"]

# Okabe and Ito's colours, which colour-blind people can tell apart, less the palest.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_COLOURS = (_BLUE, _ORANGE, _GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#666666"


def plot_schedule(
    schedule,
    total_steps: int | None = None,
    path: str | os.PathLike | None = None,
    ax=None,
):
    """Draws replacement rates over the steps of a training.

    Args:
        schedule: A function of the step that returns a rate or a list of a rate per module, as
            `ReplacementRateScheduler` takes it; or a list of such, or a dict by label.
        total_steps: Integer, length of the training. Defaults to one in which the longest of the
            schedules ends, and to a share of the training if they are given as a `fraction`.
        path: Where to save the chart, `*.png`, `*.svg` or `*.pdf`. Defaults to `None`, nowhere.
        ax: The matplotlib axes to draw on. Defaults to those of a new figure.

    Returns:
        The matplotlib figure. A notebook shows it.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if a schedule is not callable.
        ValueError: if there is no schedule, `path` ends in something else, `total_steps` is not
            positive, or is not given for schedules in steps beside schedules with a fraction.

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
            # From wide to thin, so that lines on one another are all seen.
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
    """Draws a labelled point per model: what it costs, and what it scores.

    Args:
        rows: A mapping per model, as for `markdown_table`: its name under `"model"`, the numbers
            under `x` and `y`, and, if known, the standard deviation of the latter under `y` with
            `"_std"` behind, which is drawn as an error bar.
        x: String, the key of the cost. Defaults to `"latency_ms"`.
        y: String, the key of the score. Defaults to `"score"`.
        path: Where to save the chart, `*.png`, `*.svg` or `*.pdf`. Defaults to `None`, nowhere.
        ax: The matplotlib axes to draw on. Defaults to those of a new figure.

    Returns:
        The matplotlib figure. A notebook shows it.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there are no rows, one lacks a key or has no finite number under it, or
            `path` ends in something else.

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
    ax.margins(0.2)  # room for the labels
    xs, ys = [row[x] for row in rows], [row[y] for row in rows]
    bars = [row.get(f"{y}_std") or 0 for row in rows]
    known = [point for point in zip(xs, ys, bars) if point[2]]
    if known:
        ax.errorbar(*zip(*known), fmt="none", ecolor=_GREY, elinewidth=1.5, capsize=4, zorder=2)
    ax.plot(xs, ys, "o", color=_BLUE, markersize=9, zorder=3)
    ax.set(xlabel=_TITLES.get(x, x.replace("_", " ")), ylabel=_TITLES.get(y, y.replace("_", " ")))
    _label_points(ax, xs, ys, bars, [_wrap(row["model"], 24) for row in rows])
    return _done(figure, path)


def plot_training(history: Sequence[Mapping], path: str | os.PathLike | None = None):
    """Draws the course of a training, its stages side by side.

    Args:
        history: A mapping per stage, in their order: its name under `"stage"`; the step at each
            evaluation, counted from the start of the stage, under `"steps"`; and, as far as
            known, a number per evaluation under `"loss"`, `"val_loss"`, `"score"` and
            `"replacement_rate"`, and the step whose weights were kept under `"best_step"`.
        path: Where to save the chart, `*.png`, `*.svg` or `*.pdf`. Defaults to `None`, nowhere.

    Returns:
        The matplotlib figure. A notebook shows it.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no stage, one lacks its name or steps, none has anything to draw,
            there is not one number per step, or `path` ends in something else.

    Example:

    >>> plot_training([{"stage": "theseus", "steps": [10, 20], "loss": [0.7, 0.4]}])
    """
    _check_suffix(path)
    known = [key for key in _PANELS if any(stage.get(key) for stage in history)]
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
    panels = list(dict.fromkeys(_PANELS[key] for key in known))
    figure, _ = _axes(height=0.8 + 2 * len(panels), panels=len(panels))
    axes = dict(zip(panels, figure.axes))
    start, names, kinds = 0, [], {}
    for stage in history:
        steps = [start + step for step in stage["steps"]]
        for key in known:
            if not stage.get(key):
                continue
            panel = _PANELS[key]
            values = [math.nan if value is None else value for value in stage[key]]
            (line,) = axes[panel].plot(
                steps,
                values,
                color=_ORANGE if key == "val_loss" else _BLUE,
                linestyle="--" if key == "val_loss" else "-",
                marker="o",
                markersize=4 if len(steps) < 40 else 0,
                label=_TITLES.get(key, key.replace("_", " ")),
            )
            kinds.setdefault(key, line)
        if stage.get("best_step") is not None:
            for ax in axes.values():
                best = start + stage["best_step"]
                style = {"color": _GREEN, "linestyle": ":", "linewidth": 2.5, "zorder": 1}
                kinds["best_step"] = ax.axvline(best, label="weights kept", **style)
        end = steps[-1]
        names.append(((start + end) / 2, stage["stage"]))
        if start:
            for ax in axes.values():
                ax.axvline(start, color=_GREY, linewidth=1, zorder=1)
        start = end
    for panel, ax in axes.items():
        ax.set_ylabel(panel)
    # The axes' names say the rest.
    explained = [kinds[key] for key in ("loss", "val_loss", "best_step") if key in kinds]
    if len(explained) > 1 or "best_step" in kinds:
        _legend(figure.axes[0], explained)
    if "replacement rate" in axes:
        axes["replacement rate"].set_ylim(-0.04, 1.04)
    figure.axes[-1].set(xlabel="step", xlim=(0, 1.01 * start))
    _name_stages(figure.axes[0], names)
    return _done(figure, path)


_TITLES = {
    "latency_ms": "latency (ms per example)",
    "loss": "training",
    "val_loss": "validation",
}
# What is drawn of a stage, and on which of the panels.
_PANELS = {
    "loss": "loss",
    "val_loss": "loss",
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
    # Beside the axes, where it hides nothing.
    labels = [_wrap(line.get_label(), 30) for line in lines]
    legend = ax.legend(
        lines, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _wrap(text, width) -> str:
    return textwrap.fill(str(text), width, break_long_words=False, break_on_hyphens=False)


def _length(schedules, total_steps) -> tuple[int, bool]:
    """Number of steps to draw, and whether it only stands for a share of the training."""
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


def _label_points(ax, xs, ys, bars, labels):
    """Writes a label beside each point, where it hides no point, error bar or other label."""
    from matplotlib.transforms import Bbox

    figure = ax.figure.figure
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Letters that the font lacks; saving says it once more.
        figure.draw_without_rendering()  # From here on the axes know their place.
        point = figure.dpi / 72
        to_pixels = ax.transData.transform
        taken = []
        for x, y, bar in zip(xs, ys, bars):
            (left, bottom), (right, top) = to_pixels((x, y - bar)), to_pixels((x, y + bar))
            taken.append(Bbox([[left, bottom], [right, top]]).padded(6 * point))
        for x, y, label in zip(xs, ys, labels):
            text = ax.annotate(
                label,
                (x, y),
                (0, 0),
                textcoords="offset points",
                ha="center",
                va="center",
                parse_math=False,
                zorder=4,
            )
            size = text.get_window_extent()
            centre = to_pixels((x, y))
            best = None
            # The nearest free place: rings around the point, from its right side on.
            for far, turn in itertools.product(range(1, 12), range(16)):
                angle = math.tau * turn / 16
                dx = math.cos(angle) * (size.width / 2 + 8 * point * far)
                dy = math.sin(angle) * (size.height / 2 + 8 * point * far)
                box = Bbox.from_bounds(
                    centre[0] + dx - size.width / 2,
                    centre[1] + dy - size.height / 2,
                    size.width,
                    size.height,
                )
                hidden = sum(_area(box, other) for other in taken)
                outside = box.width * box.height - _area(box, ax.bbox)
                if best is None or hidden + outside < best[0]:
                    best = hidden + outside, dx, dy, box, far
                if best[0] <= 0:
                    break
            _, dx, dy, box, far = best
            text.set_position((dx / point, dy / point))
            taken.append(box)
            if far > 2:  # So far off that a line must say whose label it is.
                ax.annotate(
                    "",
                    (x, y),
                    (dx / point, dy / point),
                    textcoords="offset points",
                    arrowprops={"arrowstyle": "-", "color": _GREY, "patchB": None},
                    zorder=1,
                )


def _area(a, b) -> float:
    """The area that two boxes share."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)


def _name_stages(ax, names):
    """Writes the stages' names above `ax`, in as many lines as they need not to touch."""
    figure = ax.figure.figure
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.draw_without_rendering()
        ends = []  # By line, where its last name ends.
        for position, name in names:
            text = ax.annotate(
                name,
                (position, 1),
                (0, 0),
                xycoords=ax.get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                va="bottom",
                annotation_clip=False,
                parse_math=False,
            )
            box = text.get_window_extent()
            line = next((i for i, end in enumerate(ends) if box.x0 > end), len(ends))
            ends[line : line + 1] = [box.x1 + 8]
            text.set_position((0, 4 + 14 * line))
