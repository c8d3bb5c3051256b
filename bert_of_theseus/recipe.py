"""The method from end to end: predecessor, Theseus, successor, in one call that can be resumed.

A caller fine-tunes, replaces and fine-tunes again:

    result = compress(
        predecessor, successor, classifier, train, validation, directory="runs/sentiment"
    )
    result.successor.save("successor.keras")
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import math
import os
import sys
from pathlib import Path

import numpy as np

from .backend import is_chief, keras, num_devices
from .callbacks import ReplacementRateScheduler
from .encoders import as_encoder, as_head
from .files import check_room, replace_file, write_json
from .layers import set_replacement_rate
from .measure import environment, measure_latency
from .models import build_theseus_model, distil, initialize_successor
from .schedules import ConstantReplacement, LinearReplacement
from .table import markdown_table
from .training import (
    BatchAccess,
    Stage,
    StageResult,
    described,
    evaluator,
    fit,
    lower_is_better,
    plain,
    uncompiled,
)

__all__ = ["Compressed", "Stage", "compress", "measure_latency"]

TITLES = {
    "predecessor": "predecessor",
    "theseus": "successor after Theseus",
    "successor": "successor, fine-tuned",
}


@dataclasses.dataclass(repr=False)
class Compressed:
    """What `compress` returns.

    Attributes:
        successor: The compressed model: a plain Keras model, not compiled, or a KerasHub
            `TextClassifier` if the predecessor was one.
        classifier: Its head, fine-tuned with it: not the one that was given, which is the
            predecessor's.
        predecessor: The predecessor's model, encoder and head, not compiled.
        theseus: The Theseus model. It shares its modules with `successor`.
        stages: List of `StageResult`, one per stage that was trained.
        rows: The report, a dict per model: `model`, `layers`, `parameters`, `score` (on the
            validation data), `test_score`, `kept` (share of the predecessor's score),
            `latency_ms`, `seconds`, `cpu_seconds`.
        settings: Dict of every setting, version and seed.
        directory: Where all of it is saved.
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
        return _table(self.rows)

    @property
    def history(self) -> list[dict]:
        """A record per stage, by evaluation: `steps`, `loss`, `val_loss`, `score`, ..."""
        records = []
        for stage in self.stages:
            record = {"stage": stage.name, "steps": stage.history["step"]}
            for key in ("loss", "val_loss", "replacement_rate"):
                if key in stage.history:
                    record[key] = stage.history[key]
            if stage.monitor is not None:
                record["score"] = stage.history[stage.monitor]
            records.append({**record, "best_step": stage.best_step})
        return records

    def _repr_markdown_(self):
        return self.table

    def __repr__(self):
        return f"{self.table}\n\nSaved in {self.directory}"


def compress(
    predecessor,
    successor,
    classifier: keras.layers.Layer | None = None,
    train=None,
    validation=None,
    *,
    directory: str | os.PathLike,
    predecessor_stage: Stage | None = Stage(epochs=3, learning_rate=5e-5),
    theseus_stage: Stage = Stage(epochs=4, learning_rate=1e-4),
    successor_stage: Stage | None = Stage(epochs=2, learning_rate=5e-5),
    schedule=LinearReplacement(0.3, fraction=0.75),
    initialize="first",
    train_embeddings_and_head: bool = True,
    distillation_weight: float = 0.0,
    temperature: float = 2.0,
    from_logits: bool | None = None,
    loss=None,
    metrics=("accuracy",),
    monitor: str | None = None,
    score=None,
    test=None,
    seed: int = 0,
    batch_size: int = 32,
    callbacks=(),
    tensorboard: bool = False,
    latency: bool = True,
    verbose="auto",
    **theseus_options,
) -> Compressed:
    """Compresses a predecessor into a successor: the three stages, with a report.

    1. The predecessor is fine-tuned, unless it is already.
    2. The Theseus model replaces its modules by the successor's, at a rate that `schedule` moves.
    3. The successor is taken out and fine-tuned, embeddings and head included.

    Each stage keeps the weights that do best on `validation`, in stage 2 the successor's by the
    successor's own score; stage 3 gives back what it began with if it finds nothing as good. The
    predecessor is as it was after stage 1 when all is done: the successor gets a head and
    embeddings of its own.

    Killed at any moment, the same call goes on from the last checkpoint, written after each
    evaluation, and ends with the same weights as one that was not interrupted, where the backend
    computes the same twice. For that what is built before, the head's first weights say, should
    be the same too: call `keras.utils.set_random_seed` first.

    Args:
        predecessor, successor, classifier: As in `build_theseus_model`: two encoders, and a Keras
            model or layer from the encoder's output to the task's. Of a KerasHub `TextClassifier`
            as predecessor the head is used if no other is given.
        train, validation: Data, as in `bert_of_theseus.training.fit`: what the model takes, so for
            KerasHub what a preprocessor makes of texts.
        directory: Folder of the run; one folder per run.
        predecessor_stage: `Stage`, or `None` for a predecessor and a classifier that are fitted.
        theseus_stage: `Stage`.
        successor_stage: `Stage`, or `None` to leave it out.
        schedule: Replacement schedule of stage 2: see `bert_of_theseus.schedules`. A float is a
            constant rate.
        initialize: Which of the fine-tuned predecessor's layers the successor starts from, see
            `initialize_successor`; `None` leaves the successor's layers as they are: pretrained,
            or of another kind than the predecessor's. Defaults to `"first"`.
        train_embeddings_and_head: Boolean. Whether stage 3 trains them too, or the modules alone.
            Defaults to `True`.
        distillation_weight: Float. If above 0, stages 2 and 3 add so many times the distillation
            loss on the predecessor's outputs, see `distil`. Defaults to `0.0`: the task's loss is
            the only loss.
        temperature: Float, of the distillation. Defaults to `2.0`.
        from_logits: Boolean, whether the classifier's outputs are logits rather than
            probabilities; for the distillation, and for the default of `loss`. Defaults to
            `None`: what a `TextClassifier` says of its head, `False` for any other.
        loss: As in `training.fit`. Defaults to `None`, sparse categorical crossentropy.
        metrics, monitor, score, batch_size, tensorboard, verbose: As in `training.fit`.
        test: Data that is only reported, never chosen on. Defaults to `None`.
        seed: Integer. Defaults to `0`.
        callbacks: Further Keras callbacks, for all stages; or a dict of them by stage.
        latency: Boolean. Whether to measure the milliseconds per example for the report, on one
            device: with a distributed model nothing is measured. Defaults to `True`.
        **theseus_options: Options of `build_theseus_model`: `execution`, `embeddings`,
            `module_map`, `at_least_one`, `predecessor_dropout`, `gate`, `sampling`,
            `hidden_loss_weight`.

    Returns:
        A `Compressed`. In `directory` are left: `settings.json`, `report.md`, `report.json`,
        `training.png`, `tradeoff.png` (with matplotlib), and per stage a folder with the weights.

    Raises:
        NonFiniteLossError, OSError, ValueError: as in `training.fit`; and, before anything is
            trained, as in `build_theseus_model`.

    Example:

    >>> result = compress(bert, small_bert, head, train, validation, directory="runs/1")
    >>> print(result.table)

    References:
        - [BERT-of-Theseus](https://arxiv.org/abs/2002.02925) (Xu et al., 2020)
    """
    if train is None:
        raise TypeError("`train` must be the data to train on. Received: None")
    directory = Path(directory)
    predecessor = as_encoder(predecessor)
    successor = as_encoder(successor, like=predecessor)
    classifier = as_head(classifier, predecessor)
    if from_logits is None:
        from_logits = getattr(classifier, "from_logits", False)
    if loss is None:
        loss = "sparse_categorical_crossentropy"
        if from_logits:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if isinstance(schedule, (int, float)):
        schedule = ConstantReplacement(schedule)
    scheduler = ReplacementRateScheduler(schedule)
    _check_options(theseus_options)

    def build():
        return build_theseus_model(predecessor, successor, classifier, seed=seed, **theseus_options)

    def start():
        if initialize is not None:
            module_map = theseus_options.get("module_map")
            initialize_successor(predecessor, successor, initialize, module_map=module_map)

    # What does not fit together is said before anything is trained.
    first = schedule.bind(1) if hasattr(schedule, "bind") else schedule
    set_replacement_rate(build(), first(0))
    start()
    # Of which the stages' results are functions, beside what `fit` is told; they go into its check.
    defaults = _theseus_defaults()
    distillation = {"weight": distillation_weight, "temperature": temperature}
    theseus_settings = {
        "schedule": _schedule_settings(schedule),
        "initialize": initialize,
        "distillation": distillation if distillation_weight else None,
        **{
            name: value for name, value in theseus_options.items() if plain(value) != defaults[name]
        },
    }
    successor_settings = {
        "train_embeddings_and_head": train_embeddings_and_head,
        "distillation": distillation if distillation_weight else None,
    }
    settings = {
        "stages": {
            "predecessor": predecessor_stage and dataclasses.asdict(predecessor_stage),
            "theseus": dataclasses.asdict(theseus_stage),
            "successor": successor_stage and dataclasses.asdict(successor_stage),
        },
        "theseus": {**defaults, **theseus_settings},
        "successor": successor_settings,
        "layers": [predecessor.num_hidden_layers, successor.num_hidden_layers],
        "batch_size": batch_size,
        "loss": described(loss),
        "metrics": [described(metric) for metric in metrics],
        "monitor": monitor,
        "score": score and described(score),
        "from_logits": from_logits,
        "seed": seed,
        "command": sys.argv,
        **environment(),
    }
    settings = plain(settings)
    full = predecessor.model(classifier, name="predecessor")
    if is_chief() and not (directory / "report.json").exists():
        # What the first two stages leave, and the third needs.
        check_room(directory, 4 * (2 + 8) * full.count_params())

    def note(logs):
        # Once a stage has found nothing in the folder that other settings made.
        if is_chief():
            write_json(directory / "settings.json", settings)

    recorder = keras.callbacks.LambdaCallback(on_train_begin=note)
    judged = {"loss": loss, "metrics": metrics, "monitor": monitor, "score": score}
    judged["batch_size"] = batch_size
    stages, rows = [], []

    def run(name, model, kept, stage, first=(), initial_score=None, **more):
        given = callbacks.get(name, ()) if isinstance(callbacks, dict) else callbacks
        if verbose:
            print(f"\n{name}: {stage}", flush=True)
        result = fit(
            model,
            train,
            validation,
            stage,
            directory=directory / name,
            kept=kept,
            callbacks=[recorder, *first, *given],
            initial_score=initial_score,
            settings=more,
            seed=seed,
            tensorboard=tensorboard,
            verbose=verbose,
            **judged,
        )
        stages.append(result)

    def report(name, model, encoder):
        spent = stages[-1] if stages and stages[-1].name == name else None
        row = {
            "model": name,
            "layers": encoder.num_hidden_layers,
            "parameters": model.count_params(),
            "seconds": spent and spent.seconds,
            "cpu_seconds": spent and spent.cpu_seconds,
        }
        judge = evaluator(model, **judged)
        for key, data in (("score", validation), ("test_score", test)):
            if data is not None:
                row[key] = judge(data)
        rows.append(row)

    if predecessor_stage is not None:
        run("predecessor", uncompiled(full), full, predecessor_stage)
    report("predecessor", full, predecessor)

    start()
    theseus = build()
    head = successor.own_head(classifier)
    small = successor.model(head, name="successor")
    head.set_weights(classifier.get_weights())
    trained = theseus
    if distillation_weight:
        trained = distil(theseus, full, temperature, distillation_weight, from_logits)
    run("theseus", trained, small, theseus_stage, [scheduler], **theseus_settings)
    report("theseus", small, successor)

    if successor_stage is not None:
        trained = uncompiled(small)
        if not train_embeddings_and_head:
            trained = theseus
            set_replacement_rate(theseus, 1.0)
        if distillation_weight:
            trained = distil(trained, full, temperature, distillation_weight, from_logits)
        # Only of what is on the validation data does the report have the score.
        comparable = monitor is None or monitor.startswith("val_")
        before = rows[-1].get("score") if comparable else None
        run(
            "successor",
            trained,
            small,
            successor_stage,
            initial_score=before,
            **successor_settings,
        )
        report("successor", small, successor)

    if latency and num_devices() == 1:
        examples = _single_examples(validation if validation is not None else train, batch_size)
        took = measure_latency({"predecessor": full, "successor": small}, examples)
        for row in rows:
            row["latency_ms"] = 1000 * took["predecessor" if row is rows[0] else "successor"]
    for row in rows:
        best = rows[0].get("test_score", rows[0].get("score"))
        own = row.get("test_score", row.get("score"))
        row["kept"] = own / best if best and not lower_is_better(stages[-1].monitor) else None
    models = successor.finished(small, head), head, predecessor.finished(full, classifier), theseus
    result = Compressed(*models, stages, rows, settings, directory)
    if is_chief():
        _save_report(result)
    if verbose:
        print(f"\n{result}")
    return result


def _theseus_defaults():
    parameters = inspect.signature(build_theseus_model).parameters
    own = {"predecessor", "successor", "classifier", "replacement_rate", "seed", "name"}
    return {name: parameters[name].default for name in parameters if name not in own}


def _check_options(options):
    valid = _theseus_defaults()
    unknown = sorted(set(options) - set(valid))
    if unknown:
        raise TypeError(
            f"compress() takes no {', '.join(map(repr, unknown))}. Beside its own arguments it "
            f"takes those of build_theseus_model: {', '.join(sorted(valid))}."
        )


def _schedule_settings(schedule):
    if hasattr(schedule, "get_config"):
        return [type(schedule).__name__, schedule.get_config()]
    return described(schedule)


def _single_examples(data, batch_size, count=10):
    batches = BatchAccess(data, batch_size)
    examples = []
    for index in np.linspace(0, batches.length - 1, min(count, batches.length)).astype(int):
        inputs = batches.get(0, int(index))[0]
        examples.append(_first(inputs))
    return examples


def _first(inputs):
    if isinstance(inputs, dict):
        return {key: _first(part) for key, part in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return [_first(part) for part in inputs]
    return np.asarray(inputs)[:1]


def _table(rows):
    return markdown_table(
        rows,
        {
            "model": ("model", TITLES.get),
            "layers": ("layers", "d"),
            "parameters": ("parameters", lambda count: f"{count / 1e6:.2f} M"),
            "score": ("validation", ".4f"),
            "test_score": ("test", ".4f"),
            "kept": ("kept", ".1%"),
            "latency_ms": ("ms per example", ".2f"),
            "cpu_seconds": ("CPU s to train", ".0f"),
        },
    )


def _save_report(result):
    directory, rows = result.directory, result.rows
    write_json(
        directory / "report.json",
        {
            "rows": rows,
            "stages": [dataclasses.asdict(stage) for stage in result.stages],
            "settings": result.settings,
        },
    )
    table = result.table + "\n"
    replace_file(directory / "report.md", lambda path: path.write_text(table, encoding="utf-8"))
    if importlib.util.find_spec("matplotlib") is None:
        return
    from .plots import plot_tradeoff, plot_training

    plot_training(result.history, path=directory / "training.png")
    score = "test_score" if "test_score" in rows[0] else "score"
    if all(math.isfinite(row.get(key, math.nan)) for row in rows for key in ("latency_ms", score)):
        named = [{**row, "model": TITLES[row["model"]]} for row in rows]
        plot_tradeoff(named, y=score, path=directory / "tradeoff.png")
