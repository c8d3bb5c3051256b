"""Each public name as a type checker and an editor see it. `make lint` checks this file.

It is read, never run: Keras' own types are unknown where Keras is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bert_of_theseus import (
    AntiCurriculumReplacement,
    BinaryRandomChoice,
    ConstantReplacement,
    CosineReplacement,
    LinearReplacement,
    ModuleChoice,
    ModulewiseReplacement,
    PiecewiseReplacement,
    Predictor,
    ReplacementRateScheduler,
    Stage,
    __version__,
    as_encoder,
    bert_of_theseus,
    build_successor_backbone,
    build_successor_model,
    build_theseus_model,
    compress,
    compress_pretrained,
    export_litert,
    export_onnx,
    get_replacement_rate,
    initialize_successor,
    load_model,
    set_replacement_rate,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type

    from bert_of_theseus.schedules import ReplacementSchedule


version: str = __version__


def layers(predecessor: list[Any], successor: list[Any]) -> None:
    choice = BinaryRandomChoice(0.5, seed=1)
    assert_type(choice, BinaryRandomChoice)
    module = ModuleChoice(predecessor, successor, replacement_rate=0.5)
    assert_type(module, ModuleChoice)


def schedules() -> None:
    schedule = LinearReplacement(0.3, steps=1000)
    assert_type(schedule, LinearReplacement)
    assert_type(schedule(10), float)
    every: list[ReplacementSchedule] = [
        schedule,
        AntiCurriculumReplacement(steps=1000),
        ConstantReplacement(0.5),
        CosineReplacement(0.3, steps=1000),
        ModulewiseReplacement(3, order="top-down", steps=1000),
        PiecewiseReplacement([(0, 0.3), (1, 1.0)], fraction=0.8),
    ]
    for one in every:
        scheduler = ReplacementRateScheduler(one)
        assert_type(scheduler, ReplacementRateScheduler)


def method(predecessor: Any, successor: Any, classifier: Any) -> None:
    initialize_successor(as_encoder(predecessor), as_encoder(successor))
    theseus = build_theseus_model(
        predecessor, successor, classifier, replacement_rate=0.5, execution="lazy"
    )
    set_replacement_rate(theseus, 0.7)
    get_replacement_rate(theseus)
    build_successor_model(theseus, classifier)
    build_successor_backbone(predecessor, 3)
    bert_of_theseus(predecessor, successor, classifier)


def recipe(predecessor: Any, successor: Any, train: Any, validation: Any) -> None:
    stage = Stage(epochs=3, learning_rate=1e-4)
    assert_type(stage, Stage)
    assert_type(stage.epochs, int | None)
    result = compress(
        predecessor,
        successor,
        train=train,
        validation=validation,
        directory="runs/example",
        warm_start_stage=stage,
        theseus_stage=stage,
        schedule=LinearReplacement(0.3, fraction=0.5),
    )
    assert_type(result.table, str)


def deployment() -> None:
    load_model("model.keras")
    predictor = Predictor.load("model")
    assert_type(predictor, Predictor)
    predictor.predict(["A fine film."])


def exports(model: Any) -> None:
    export_onnx("model.onnx", model, quantize="int8")
    export_litert("model.tflite", model)


def whole_folder() -> None:
    compress_pretrained("model", train="train.csv", num_hidden_layers=6, directory="small")
