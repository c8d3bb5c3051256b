"""The result of `compress`: the models, the history of their training, and a report."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path

from .backend import keras
from .files import replace_file, write_json
from .statistics import Score, compare
from .table import TITLES, report_table, report_text
from .training import StageResult, stage_notes


def compared(predecessor, score, has_share) -> dict:
    """What a row says of a score beside the predecessor's, as far as the scores tell."""
    found = {"difference": float(score - predecessor)}
    if isinstance(score, Score) and score.is_paired(predecessor):
        _, _, difference, _, kept = compare(predecessor, score)
        found["difference_interval"] = difference and list(difference)
        found["kept_interval"] = list(kept) if kept and has_share else None
    return found


@dataclasses.dataclass(repr=False)
class Compressed:
    """Result of `compress`.

    Attributes:
        successor: The compressed model: a plain Keras model, not compiled, or a KerasHub
            `TextClassifier` if the predecessor was one.
        classifier: The head of the successor, fine-tuned with it. The head that was given belongs
            to the predecessor.
        predecessor: The predecessor's model, encoder and head, not compiled.
        theseus: The Theseus model. It shares its modules with `successor`.
        stages: List of `StageResult`, one per stage that was trained.
        rows: The report, a dict per model: `model`, `layers`, `parameters`, `score` (on the
            validation data), `test_score`, `kept` (share of the predecessor's score),
            `difference` (to that score), `latency_ms`, `seconds`, `cpu_seconds`; and where the
            score knows its examples, as accuracies and the tasks' scores do, `num_examples`,
            `kept_interval` and `difference_interval`, see `statistics.compare`. The three are of
            the test data, if there are any, else of the validation data.
        settings: Dict of all settings, versions and seeds.
        directory: Folder in which everything is saved.
    """

    successor: keras.Model
    classifier: keras.layers.Layer
    predecessor: keras.Model
    theseus: keras.Model
    stages: list[StageResult]
    rows: list[dict]
    settings: dict
    directory: Path

    @property
    def table(self) -> str:
        """The report as a Markdown table."""
        return report_table(self.rows)

    @property
    def notes(self) -> list[str]:
        """Sentences on stages that were still improving when they ended, or came to nothing."""
        return [note for stage in self.stages for note in stage_notes(stage)]

    @property
    def report(self) -> str:
        """The table, whether differences to the predecessor are within noise, and the notes."""
        return report_text(self.rows, notes=self.notes)

    @property
    def history(self) -> list[dict]:
        """A dict per stage, as `plot_training` takes it. A warm start's loss is `hidden_loss`."""
        records = []
        for stage in self.stages:
            record = {"stage": stage.name, "steps": stage.history["step"]}
            for key in ("loss", "val_loss", "replacement_rate"):
                if key in stage.history:
                    is_hidden = stage.name == "warm_start" and key == "loss"
                    record["hidden_loss" if is_hidden else key] = stage.history[key]
            if stage.monitor is not None:
                record["score"] = stage.history[stage.monitor]
            records.append({**record, "best_step": stage.best_step})
        return records

    def save_report(self) -> None:
        """Writes `report.json` and `report.md`, and with matplotlib the charts."""
        content = {
            "rows": self.rows,
            "notes": self.notes,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "settings": self.settings,
        }
        write_json(self.directory / "report.json", content)
        text = f"{self.report}\n"
        replace_file(
            self.directory / "report.md", lambda path: path.write_text(text, encoding="utf-8")
        )
        if importlib.util.find_spec("matplotlib") is not None:
            self._save_charts()

    def _save_charts(self):
        from .plots import plot_tradeoff, plot_training

        plot_training(self.history, path=self.directory / "training.png")
        score = "test_score" if "test_score" in self.rows[0] else "score"
        numbers = [row.get(key, math.nan) for row in self.rows for key in ("latency_ms", score)]
        if all(map(math.isfinite, numbers)):
            named = [{**row, "model": TITLES[row["model"]]} for row in self.rows]
            plot_tradeoff(named, y=score, path=self.directory / "tradeoff.png")

    def _repr_markdown_(self):
        return self.report

    def __repr__(self):
        return f"{self.report}\n\nSaved in {self.directory}"
