"""How `compress` trains the successor, in the stages after the predecessor's."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence

from .backend import keras
from .callbacks import ReplacementRateScheduler
from .defaults import default_noise
from .encoders import as_encoder, initialize_successor, nearest_layers
from .encoders.initialize import CHOICES, pair_initial_weights
from .encoders.nearest import check_alike
from .layers import has_choices, rate_per_choice
from .models import build_theseus_model, build_warm_start_model, distil
from .models.plan import make_plan
from .schedules import ConstantReplacement
from .training import described, plain
from .validation import number, one_of

_OTHERS = {"predecessor", "successor", "classifier", "replacement_rate", "seed", "name"}
# Options of `build_theseus_model` that `compress` takes too, by name.
DEFAULTS = {
    parameter.name: parameter.default
    for parameter in inspect.signature(build_theseus_model).parameters.values()
    if parameter.name not in _OTHERS
}


@dataclasses.dataclass
class Method:
    """How the successor is initialized and trained: what `compress` is told.

    Whatever changes the weights of a stage must be in the settings of that stage, or a run with
    another value would resume from its checkpoints.
    """

    warm_start_schedule: Callable | float
    warm_start_noise: float | None
    schedule: Callable | float
    initialize: str | Sequence[int] | None
    train_embeddings_and_head: bool
    distillation_weight: float
    temperature: float
    from_logits: bool
    seed: int
    theseus_options: dict

    def __post_init__(self):
        if self.warm_start_noise is not None:
            number("warm_start_noise", self.warm_start_noise, "[0, 1]")
        number("distillation_weight", self.distillation_weight)
        number("temperature", self.temperature, "(0, inf)")
        unknown = sorted(set(self.theseus_options) - set(DEFAULTS))
        if unknown:
            raise TypeError(
                f"compress() takes no {', '.join(map(repr, unknown))}. Beside its own arguments it "
                f"takes those of build_theseus_model: {', '.join(sorted(DEFAULTS))}."
            )
        for name in ("warm_start_schedule", "schedule"):
            schedule = getattr(self, name)
            if isinstance(schedule, (int, float)):
                setattr(self, name, ConstantReplacement(schedule))
            elif not callable(schedule):
                raise TypeError(
                    f"`{name}` must be a function of the step, such as LinearReplacement(0.3, "
                    f"fraction=0.75), or a rate. Received: {schedule!r}"
                )
        if isinstance(self.initialize, str):
            one_of("initialize", self.initialize, ("nearest", *CHOICES))
        self.warm_start_scheduler = ReplacementRateScheduler(self.warm_start_schedule)
        self.scheduler = ReplacementRateScheduler(self.schedule)

    @property
    def warm_start_settings(self) -> dict:
        return {
            "schedule": described(self.warm_start_schedule),
            "noise": self.warm_start_noise,
        }

    @property
    def theseus_settings(self) -> dict:
        given = {k: v for k, v in self.theseus_options.items() if plain(v) != DEFAULTS[k]}
        return {
            "schedule": described(self.schedule),
            "initialize": self.initialize,
            "distillation": self._distillation,
            **given,
        }

    @property
    def successor_settings(self) -> dict:
        return {
            "train_embeddings_and_head": self.train_embeddings_and_head,
            "distillation": self._distillation,
        }

    @property
    def _distillation(self):
        options = {"weight": self.distillation_weight, "temperature": self.temperature}
        return options if self.distillation_weight else None

    def check(self, predecessor, successor, classifier):
        """Raises what does not fit."""
        options = {**DEFAULTS, **self.theseus_options, "seed": self.seed}
        del options["predecessor_dropout"]
        plan = make_plan(predecessor, successor, classifier, replacement_rate=0.5, **options)
        for schedule, count, equal in (
            (self.warm_start_schedule, len(plan.modules) - 1, False),
            (self.schedule, len(plan.draws), options["at_least_one"]),
        ):
            if count:
                rate = (schedule.bind(1) if hasattr(schedule, "bind") else schedule)(0)
                rate_per_choice(rate, count, equal and count > 1)
        if self.initialize is not None:
            layers = self.initialize
            if layers == "nearest":
                check_alike(as_encoder(predecessor))
                layers = "module_first"
            pair_initial_weights(predecessor, successor, layers, options["module_map"])

    def choose_noise(self, stage, steps_per_epoch: int):
        """Chooses the noise of the warm start, a resolved `Stage` or `None`, if it is not given."""
        if self.warm_start_noise is None:
            self.warm_start_noise = default_noise(stage.num_steps(steps_per_epoch) if stage else 0)

    def initialize_successor(self, predecessor, successor, batches) -> list[int] | None:
        """Initializes the successor; returns the indices of the predecessor's layers.

        `batches` are some of the model's inputs.
        """
        layers = self.initialize
        if layers is None:
            return None
        module_map = self._option("module_map")
        if layers == "nearest":
            depth = successor.num_hidden_layers
            layers = nearest_layers(predecessor, batches, depth, module_map)
        return initialize_successor(predecessor, successor, layers, module_map)

    def build(self, predecessor, successor, classifier) -> keras.Model:
        return build_theseus_model(
            predecessor, successor, classifier, seed=self.seed, **self.theseus_options
        )

    def build_warm_start(self, predecessor, successor, classifier) -> tuple:
        """The model of the warm start, and the callbacks that it is trained with."""
        options = {name: self._option(name) for name in ("embeddings", "module_map")}
        options |= {"noise": self.warm_start_noise, "seed": self.seed}
        model = build_warm_start_model(predecessor, successor, classifier, **options)
        return model, [self.warm_start_scheduler] if has_choices(model) else []

    def _option(self, name):
        return self.theseus_options.get(name, DEFAULTS[name])

    def with_teacher(self, model, teacher) -> keras.Model:
        """`model`, with the loss of distillation if there is one."""
        if not self.distillation_weight:
            return model
        return distil(model, teacher, self.temperature, self.distillation_weight, self.from_logits)
