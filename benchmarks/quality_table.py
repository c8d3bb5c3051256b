"""The table of quality.py: what its models keep of their predecessor, with intervals."""

from __future__ import annotations

import collections
import functools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RECORD, OUTCOMES = "student.json", "dev.npy"  # of each model


def read(output: Path) -> list[dict]:
    """The records of all models so far, each with its `score` on dev."""
    from bert_of_theseus.statistics import Score

    entries = []
    for file in sorted(output.glob(f"seed-*/*/{RECORD}")):
        entry = json.loads(file.read_text(encoding="utf-8"))
        entries.append({**entry, "score": Score(np.load(file.with_name(OUTCOMES)))})
    return entries


class Figures:
    """Figures of the models' means over the seeds, with 95 % intervals.

    The intervals are of a paired bootstrap over the examples of dev and over the seeds: all models
    are scored on the same examples and seeds of each draw.

    Args:
        entries: Records, as `read` returns them.
    """

    def __init__(self, entries: list[dict]):
        self.entries, self.groups = entries, collections.defaultdict(dict)
        for entry in entries:
            self.groups[entry["variant"], entry["layers"]][entry["seed"]] = entry

    @functools.cached_property
    def draws(self) -> dict:
        """By variant, layers and seed: the model's score in each draw of dev's examples."""
        from bert_of_theseus.statistics import resampled

        keys = [(entry["variant"], entry["layers"], entry["seed"]) for entry in self.entries]
        return dict(zip(keys, resampled(*(entry["score"] for entry in self.entries))))

    def __call__(self, function, *models: tuple):
        """A figure of some models, each `(variant, layers)`, over the seeds that all of them have.

        `function` computes it from their scores. Returns `(figure, (low, high))`, either of them
        `None` if it is no finite number.
        """
        seeds = sorted(set.intersection(*(set(self.groups.get(model, ())) for model in models)))
        if not seeds:
            return None, None
        scores = [[float(self.groups[model][seed]["score"]) for seed in seeds] for model in models]
        draws = [np.stack([self.draws[(*model, seed)] for seed in seeds]) for model in models]
        picks = np.random.default_rng(0).integers(len(seeds), size=draws[0].shape)
        drawn = [np.take_along_axis(values, picks, 0).mean(0) for values in draws]
        with np.errstate(all="ignore"):
            figure = function(*(np.array([np.mean(values)]) for values in scores))[0]
            figures = function(*drawn)
        if not np.isfinite(figure):
            return None, None
        # A draw without the figure counts as the lowest one and as the highest.
        is_missing = np.isnan(figures)
        low = np.quantile(np.where(is_missing, -np.inf, figures), 0.025, method="lower")
        high = np.quantile(np.where(is_missing, np.inf, figures), 0.975, method="higher")
        ends = min(low, figure), max(high, figure)
        return float(figure), tuple(map(float, ends)) if np.isfinite(ends).all() else None

    def best_direct(self, layers: int) -> tuple | None:
        """The model that was fine-tuned directly with the best learning rate, by validation."""
        scores = {
            model: [entry["validation"] for entry in group.values()]
            for model, group in self.groups.items()
            if model[1] == layers and next(iter(group.values()))["kind"] == "direct"
        }

        def rank(model):
            return len(scores[model]), statistics.mean(scores[model])

        return max(scores, key=rank, default=None)


def kept(predecessor, successor):
    """The share of the predecessor's score."""
    return _divided(successor, predecessor)


def gap_closed(predecessor, direct, successor):
    """The share of the gap between direct fine-tuning and the predecessor that is closed."""
    return _divided(successor - direct, predecessor - direct)


def _divided(above, below):
    """NaN unless `below` is above 0."""
    return np.where(below > 0, above / below, np.nan)


def table(entries: list[dict], names: Sequence[str], published: dict | None = None) -> str:
    """All models so far: means and standard deviations over the seeds, as a Markdown table.

    Args:
        entries: Records, as `read` returns them.
        names: The order of the variants; others come last.
        published: Scores in per cent by `(variant, layers)`, for a column beside ours.
    """
    from bert_of_theseus.table import markdown_table

    figures, rows = Figures(entries), []
    predecessor = next((model for model in figures.groups if model[0] == "predecessor"), None)
    names = ["predecessor", *names]

    def rank(model):
        name = model[0].split(":")[0]
        return -model[1], names.index(name) if name in names else len(names), model[0]

    for model in sorted(figures.groups, key=rank):
        (name, layers), group = model, figures.groups[model]
        direct = figures.best_direct(layers)
        row = {
            "layers": layers,
            "variant": name,
            "what": next(iter(group.values()))["what"],
            "seeds": len(group),
            "validation": [entry["validation"] for entry in group.values()],
            "dev": [entry["dev"] for entry in group.values()],
            "published": (published or {}).get(model),
            "steps": _mean([entry.get("steps") for entry in group.values()]),
            "cpu": _mean([entry.get("cpu_seconds") for entry in group.values()]),
        }
        if model != predecessor:
            row["kept"] = figures(kept, predecessor, model) if predecessor else None
            row["share"] = _cpu_share(group, figures.groups.get(("article", layers), {}))
        if model not in (predecessor, direct) and None not in (predecessor, direct):
            row["gap"] = figures(gap_closed, predecessor, direct, model)
        rows.append(row)
    columns = {
        "layers": ("layers", "d"),
        "variant": ("recipe", ""),
        "what": ("", ""),
        "seeds": ("seeds", "d"),
        "validation": ("validation", _spread),
        "dev": ("dev", _spread),
        "published": ("article's dev", ".2f"),
        "kept": ("kept %", _with_interval),
        "gap": ("gap closed %", _with_interval),
        "steps": ("steps", ",.0f"),
        "cpu": ("CPU s", ".0f"),
        "share": ("CPU / article", ".2f"),
    }
    if not published:
        del columns["published"]
    return markdown_table(rows, columns)


def _mean(values):
    return None if None in values else statistics.mean(values)


def _cpu_share(group, article):
    seeds = sorted(set(group) & set(article))
    if not seeds:
        return None
    return sum(group[s]["cpu_seconds"] for s in seeds) / sum(
        article[s]["cpu_seconds"] for s in seeds
    )


def _spread(values):
    deviation = statistics.stdev(values) if len(values) > 1 else None
    mean = f"{100 * statistics.mean(values):.2f}"
    return mean if deviation is None else f"{mean} ± {100 * deviation:.2f}"


def _with_interval(value):
    figure, ends = value
    if figure is None:
        return "-"
    if ends is None:
        return f"{100 * figure:.1f} (no interval)"
    return f"{100 * figure:.1f} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"


def notes(entries: list[dict]) -> str:
    """What the figures of the table are, and what to know of the predecessors."""
    figures = Figures(entries)
    count, depths = len(entries[0]["score"].rows), sorted({e["layers"] for e in entries})[::-1]
    found = {depth: figures.best_direct(depth) for depth in depths}
    directs = [f'"{model[0]}" with {depth} layers' for depth, model in found.items() if model]
    lines = [
        f"Mean ± standard deviation over the seeds; dev has {count:,} examples. Kept and gap "
        "closed are of the means; in brackets 95 % intervals, by a paired bootstrap over the "
        "examples of dev and the seeds.",
    ]
    if directs:
        lines.append(
            "Gap closed is (successor - direct) / (predecessor - direct), where direct is the "
            f"learning rate with the best validation score: {', '.join(directs)}. There is no "
            "interval where direct fine-tuning may be as good as the predecessor."
        )
    for entry in entries:
        lines += [f"Seed {entry['seed']}: {note}" for note in entry.get("notes", ())]
    return "\n".join(lines)


def report(
    output: Path,
    names: Sequence[str],
    published: dict | None = None,
    remark: Callable | None = None,
) -> None:
    """Prints the table of all models in `output`; `remark` makes a last sentence of the study."""
    from bert_of_theseus.files import read_json

    entries = read(output)
    if not entries:
        raise FileNotFoundError(f"{output} holds no results yet")
    study = read_json(output / "study.json")
    size = f"{study['num_hidden_layers']} layers, hidden size {study['hidden_size']}"
    rows = ", ".join(f"{count:,} {name}" for name, count in study["examples"].items())
    print(
        f"{study['task']} ({rows}; {study['max_length']} tokens; {study['score']}), "
        f"{study['bert']} ({size}), {study['host']}, {study['precision']}\n"
    )
    print(f"{table(entries, names, published)}\n\n{notes(entries)}")
    if remark:
        print(remark(study))
