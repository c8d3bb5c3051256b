"""The whole method in one call: predecessor, Theseus model, successor, with a report."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .backend import keras
from .compressed import Compressed, compared
from .distribution import is_chief, num_devices
from .encoders import as_encoder, as_head
from .encoders.base import Encoder
from .files import check_room, remove_scratch, write_json
from .layers import set_replacement_rate
from .measure import environment, measure_latency, single_examples
from .method import DEFAULTS, Method
from .schedules import LinearReplacement
from .statistics import Score
from .training import (
    BatchAccess,
    Limits,
    Stage,
    check_labels,
    check_scored,
    described,
    evaluator,
    fit,
    lower_is_better,
    plain,
    read_once,
    run_lock,
    uncompiled,
)

__all__ = ["Compressed", "Stage", "compress"]

_EXAMPLES_TO_COMPARE = 256  # to find the nearest layers by
STAGES = ("predecessor", "warm_start", "theseus", "successor")


def compress(
    predecessor,
    successor,
    classifier: keras.layers.Layer | None = None,
    train=None,
    validation=None,
    *,
    directory: str | os.PathLike,
    predecessor_stage: Stage | None = Stage(),
    warm_start_stage: Stage | None = Stage(),
    theseus_stage: Stage = Stage(),
    successor_stage: Stage | None = Stage(),
    warm_start_schedule=LinearReplacement(0.0, fraction=0.75),
    warm_start_noise: float | None = None,
    schedule=LinearReplacement(0.3, fraction=0.75),
    initialize="nearest",
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
    class_weight: dict | None = None,
    callbacks=(),
    tensorboard: bool = False,
    latency: bool = True,
    print_report: bool = True,
    verbose="auto",
    **theseus_options,
) -> Compressed:
    """Compresses a predecessor into a successor, in stages, and writes a report.

    1. Predecessor: it is fine-tuned, unless it is already.
    2. Warm start: each of the successor's layers begins as the predecessor's layer that is nearest
       to its module, and learns, without labels, to do what the module does.
    3. Theseus: the successor's modules replace the predecessor's, at a rate that `schedule` sets.
    4. Successor: it is taken out and fine-tuned, embeddings and head included.

    Every stage keeps its best weights by validation score, but for the warm start, which keeps its
    last ones. The Theseus stage is scored with the successor alone. A stage of the successor gives
    back the weights that it began with if no evaluation reaches their score. The predecessor is not
    changed after its own stage: the successor has embeddings and a head of its own.

    After any interruption, the same call resumes from the last checkpoint; one is written at each
    evaluation. It ends with the same weights as a run that was never interrupted, if the backend
    is deterministic. The models must be built with the same weights each time: call
    `keras.utils.set_random_seed` before building them. A folder whose run had other data, weights,
    models or settings is refused, and so is one that another run is using.

    Args:
        predecessor, successor, classifier: As in `build_theseus_model`: two encoders, and a Keras
            model or layer from the encoder's output to the task's output. The default classifier
            is the head of the predecessor, if that is a KerasHub `TextClassifier`.
        train, validation: Data, as in `bert_of_theseus.training.fit`: the model's inputs, so for
            KerasHub the output of a preprocessor.
        directory: Folder of the run. Each run needs one of its own.
        predecessor_stage: `Stage`, or `None` if predecessor and classifier are fine-tuned already.
            What a stage leaves open follows from the model's hidden size, the batch size and the
            number of examples.
        warm_start_stage: `Stage`, or `None` to skip the warm start, see `build_warm_start_model`.
        theseus_stage: `Stage`.
        successor_stage: `Stage`, or `None` to skip it.
        warm_start_schedule: Replacement schedule of the warm start: how often a successor layer
            takes the hidden states that the one below it has made, rather than the predecessor's.
            A float is a constant rate; a list has a rate for each layer above the first. Defaults
            to a linear rise from 0 to 1 in three quarters of the stage.
        warm_start_noise: Float in [0, 1], `noise` of `build_warm_start_model`. Defaults to `None`:
            0.2 where the stage has 1,000 steps or more, else none.
        schedule: The same of the Theseus stage, see `bert_of_theseus.schedules`. Defaults to a
            linear rise from 0.3 to 1 in three quarters of the stage.
        initialize: Layers of the fine-tuned predecessor that initialize the successor, see
            `initialize_successor`. `None` keeps the successor's weights, for layers that are
            pretrained or of another kind than the predecessor's. `"nearest"` takes for each module
            the layer that does most nearly the same, see `nearest_layers`. Defaults to
            `"nearest"`.
        train_embeddings_and_head: Boolean. Whether the successor's stage trains them too, rather
            than the modules alone. Defaults to `True`.
        distillation_weight: Float. If above 0, the Theseus and the successor's stage add this
            multiple of a distillation loss on the predecessor's outputs, see `distil`. Defaults to
            `0.0`, the task's loss alone.
        temperature: Float, of the distillation. Defaults to `2.0`.
        from_logits: Boolean. Whether the classifier's outputs are logits rather than
            probabilities; used by the distillation and by the default of `loss`. Defaults to
            `None`: as the head of a `TextClassifier` says, `False` for any other.
        loss: As in `training.fit`. Defaults to `None`, sparse categorical crossentropy.
        metrics, monitor, score, batch_size, class_weight, tensorboard, verbose: As in
            `training.fit`.
        test: Data for the report alone. Defaults to `None`.
        seed: Integer. Defaults to `0`.
        callbacks: Further Keras callbacks for all stages, or a dict of lists by stage. The logs of
            the warm start have no metrics and no validation.
        latency: Boolean. Whether to measure the milliseconds per example for the report. Models
            on several devices are not measured. Defaults to `True`.
        print_report: Boolean. Whether to print the table unless `verbose=0`. Defaults to `True`.
        **theseus_options: Options of `build_theseus_model`: `execution`, `embeddings`,
            `module_map`, `at_least_one`, `predecessor_dropout`, `gate`, `sampling`,
            `hidden_loss_weight`.

    Returns:
        A `Compressed`. `directory` holds `settings.json`, `report.md`, `report.json`, with
        matplotlib `training.png` and `tradeoff.png`, and a folder with the weights of each stage.

    Raises:
        InUseError, NonFiniteLossError, OSError, TypeError, ValueError: as in `training.fit`; and,
            before anything is trained, as in `build_theseus_model`.

    Example:

    >>> result = compress(bert, small_bert, head, train, validation, directory="runs/1")
    >>> print(result.report)

    References:
        - [BERT-of-Theseus](https://arxiv.org/abs/2002.02925) (Xu et al., 2020)
    """
    if train is None:
        raise TypeError("`train` must be the data to train on. Received: None")
    predecessor = as_encoder(predecessor)
    successor = as_encoder(successor, like=predecessor)
    classifier = as_head(classifier, predecessor)
    if from_logits is None:
        from_logits = getattr(classifier, "from_logits", False)
    method = Method(
        warm_start_schedule=warm_start_schedule,
        warm_start_noise=warm_start_noise,
        schedule=schedule,
        initialize=initialize,
        train_embeddings_and_head=train_embeddings_and_head,
        distillation_weight=distillation_weight,
        temperature=temperature,
        from_logits=from_logits,
        seed=seed,
        theseus_options=theseus_options,
    )
    recipe = _Recipe(
        predecessor,
        successor,
        classifier,
        method,
        stages=dict(
            zip(STAGES, (predecessor_stage, warm_start_stage, theseus_stage, successor_stage))
        ),
        data={"train": train, "validation": validation, "test": test},
        scoring={
            "loss": _default_loss(from_logits) if loss is None else loss,
            "metrics": metrics,
            "monitor": monitor,
            "score": score,
            "batch_size": batch_size,
        },
        class_weight=class_weight,
        directory=Path(directory),
        callbacks=callbacks,
        tensorboard=tensorboard,
        verbose=verbose,
    )
    return recipe.run(latency, print_report)


def _default_loss(from_logits):
    if from_logits:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return "sparse_categorical_crossentropy"


@dataclasses.dataclass
class _Recipe:
    """One run of `compress`: a method per stage, each followed by a row of the report."""

    predecessor: Encoder
    successor: Encoder
    classifier: keras.layers.Layer
    method: Method
    stages: dict
    data: dict
    scoring: dict
    class_weight: dict | None
    directory: Path
    callbacks: Sequence | Mapping
    tensorboard: bool
    verbose: str | int

    def run(self, latency: bool, print_report: bool) -> Compressed:
        with read_once():
            self.prepare()
            with run_lock(self.directory):
                self.check_room()
                self.train_predecessor()
                self.start_successor()
                self.train_theseus()
                self.train_successor()
                if latency and num_devices() == 1:
                    self.measure_latency()
                return self.finish(print_report)

    def prepare(self):
        """Checks everything before anything is trained, and collects the settings."""
        parts = self.predecessor, self.successor, self.classifier
        self.method.check(*parts)
        self.predecessor_model = self.predecessor.model(self.classifier, name="predecessor")
        batches, texts = {}, {}
        for name, data in self.data.items():
            if name == "validation" or (name == "test" and data is not None):
                check_scored(self.scoring["score"], data, name)
            if data is not None:
                check_labels(self.classifier, data, name)
                batches[name], texts[name] = self._checked(name, self.predecessor_model)
        # The hidden size is that of all three models, as their modules take each other's place.
        self.stages = {
            name: stage and stage.resolved(name, self.predecessor_model, batches["train"])
            for name, stage in self.stages.items()
        }
        self.method.choose_noise(self.stages["warm_start"], batches["train"].length)
        self.settings = plain(self._settings(texts))
        # `scores` are those that the report compares: on the test data, if there are any.
        self.results, self.rows, self.scores = [], [], []

    def _checked(self, name, model, seed=None):
        """The `BatchAccess` of data for `model`, and what tells their examples from others."""
        batches = BatchAccess(self.data[name], self.scoring["batch_size"], seed)
        return batches, Limits(model, self.scoring["loss"]).check(batches, name)

    def check_room(self):
        if is_chief():
            remove_scratch(self.directory)
        if is_chief() and not (self.directory / "report.json").exists():
            # Each stage leaves weights, and the last one needs 8 more copies while it trains.
            count = 8 + sum(stage is not None for stage in self.stages.values())
            check_room(self.directory, 4 * count * self.predecessor_model.count_params())

    def train_predecessor(self):
        model = self.predecessor_model
        if self.stages["predecessor"] is not None:
            self._fit("predecessor", uncompiled(model), kept=model)
        self._report("predecessor", model, self.predecessor)

    def start_successor(self):
        parts = self.predecessor, self.successor, self.classifier
        # A new one: the predecessor's training has left the data at another epoch.
        train, _ = self._checked("train", self.predecessor_model, self.method.seed)
        count = min(math.ceil(_EXAMPLES_TO_COMPARE / train.batch_size), train.length)
        batches = (train.get(0, index)[0] for index in range(count))
        self.settings["initial_layers"] = self.method.initialize_successor(*parts[:2], batches)
        self.theseus = self.method.build(*parts)
        self.head = self.successor.new_head(self.classifier)
        self.successor_model = self.successor.model(self.head, name="successor")
        self.head.set_weights(self.classifier.get_weights())
        if self.stages["warm_start"] is None:
            return
        model, callbacks = self.method.build_warm_start(*parts)
        self._fit(
            "warm_start",
            model,
            kept=self.successor_model,
            callbacks=callbacks,
            settings=self.method.warm_start_settings,
            # Neither labels nor scores.
            **dict.fromkeys(("validation", "loss", "monitor", "score", "class_weight")),
            metrics=(),
        )
        self._report("warm_start", self.successor_model, self.successor)

    def train_theseus(self):
        self._fit(
            "theseus",
            self.method.with_teacher(self.theseus, self.predecessor_model),
            kept=self.successor_model,
            initial_score=None if self.stages["warm_start"] is None else self._last_score(),
            callbacks=[self.method.scheduler],
            settings=self.method.theseus_settings,
        )
        self._report("theseus", self.successor_model, self.successor)

    def train_successor(self):
        if self.stages["successor"] is None:
            return
        if self.method.train_embeddings_and_head:
            model = uncompiled(self.successor_model)
        else:
            model = self.theseus
            set_replacement_rate(model, 1.0)
        self._fit(
            "successor",
            self.method.with_teacher(model, self.predecessor_model),
            kept=self.successor_model,
            initial_score=self._last_score(),
            settings=self.method.successor_settings,
        )
        self._report("successor", self.successor_model, self.successor)

    def measure_latency(self):
        validation = self.data["validation"]
        data = self.data["train"] if validation is None else validation
        models = {"predecessor": self.predecessor_model, "successor": self.successor_model}
        seconds = measure_latency(models, single_examples(data, self.scoring["batch_size"]))
        for row in self.rows:
            name = "predecessor" if row is self.rows[0] else "successor"
            row["latency_ms"] = 1000 * seconds[name]

    def finish(self, print_report: bool) -> Compressed:
        best = self.scores[0]
        has_share = best and not lower_is_better(self.results[-1].monitor)
        for row, score in zip(self.rows, self.scores):
            row["kept"] = score / best if has_share else None
            if isinstance(score, Score):
                row["num_examples"] = len(score.rows)
            if score is not None and row is not self.rows[0]:
                row.update(compared(best, score, has_share))
        result = Compressed(
            self.successor.host_model(self.successor_model, self.head),
            self.head,
            self.predecessor.host_model(self.predecessor_model, self.classifier),
            self.theseus,
            self.results,
            self.rows,
            self.settings,
            self.directory,
        )
        if is_chief():
            result.save_report()
        if self.verbose and print_report:
            print(f"\n{result}")
        return result

    def _last_score(self) -> float | None:
        """The successor's on the validation data, which the next stage is to improve on."""
        monitor = self.scoring["monitor"]
        comparable = monitor is None or monitor.startswith("val_")
        return self.rows[-1].get("score") if comparable else None

    def _fit(self, name, model, kept, *, callbacks=(), settings=None, **options):
        given = self.callbacks
        if isinstance(given, Mapping):
            given = given.get(name, ())
        if self.verbose:
            print(flush=True)
        defaults = {"validation": self.data["validation"], "class_weight": self.class_weight}
        options = {**defaults, **self.scoring, **options}
        result = fit(
            model,
            self.data["train"],
            stage=self.stages[name],
            directory=self.directory / name,
            kept=kept,
            callbacks=[self._settings_writer(), *callbacks, *given],
            settings=settings,
            answers=self.directory / "answers",
            seed=self.method.seed,
            tensorboard=self.tensorboard,
            verbose=self.verbose,
            **options,
        )
        self.results.append(result)

    def _settings_writer(self):
        """Writes `settings.json` once `fit` trains, so has not refused the folder."""

        def write(logs):
            if is_chief():
                write_json(self.directory / "settings.json", self.settings)

        return keras.callbacks.LambdaCallback(on_train_begin=write)

    def _report(self, name, model, encoder):
        spent = self.results[-1] if self.results and self.results[-1].name == name else None
        row = {
            "model": name,
            "layers": encoder.num_hidden_layers,
            "parameters": model.count_params(),
            "seconds": spent and spent.seconds,
            "cpu_seconds": spent and spent.cpu_seconds,
        }
        evaluate, score = evaluator(model, **self.scoring), None
        for key, data in (("score", "validation"), ("test_score", "test")):
            if self.data[data] is not None:
                score = evaluate(self._checked(data, model)[0])
                row[key] = float(score)
        self.rows.append(row)
        self.scores.append(score)

    def _settings(self, data):
        scoring, method = self.scoring, self.method
        return {
            "stages": {
                name: stage and dataclasses.asdict(stage) for name, stage in self.stages.items()
            },
            "warm_start": method.warm_start_settings,
            "theseus": {**DEFAULTS, **method.theseus_settings},
            "successor": method.successor_settings,
            "layers": [self.predecessor.num_hidden_layers, self.successor.num_hidden_layers],
            "batch_size": scoring["batch_size"],
            "class_weight": self.class_weight,
            "data": data,
            "loss": described(scoring["loss"]),
            "metrics": [described(metric) for metric in scoring["metrics"]],
            "monitor": scoring["monitor"],
            "score": scoring["score"] and described(scoring["score"], attributes=False),
            "from_logits": method.from_logits,
            "seed": method.seed,
            "command": sys.argv,
            **environment(),
        }
