"""Uses the public names as a type checker and an editor see them; `make lint` checks it."""

from __future__ import annotations

from typing import Any

import bert_of_theseus as package

version: str = package.__version__

schedules: list[Any] = [
    package.AntiCurriculumReplacement(fraction=0.5),
    package.ConstantReplacement(0.5),
    package.CosineReplacement(0.3, steps=100),
    package.LinearReplacement(0.3, fraction=0.75),
    package.ModulewiseReplacement(3, steps=100),
    package.PiecewiseReplacement([(0, 0.3), (1, 1.0)], fraction=0.8),
]
rate: float = package.LinearReplacement(0.5, steps=1000)(500)
scheduler = package.ReplacementRateScheduler(schedules[0])


def layers(predecessor_layers: list[Any], successor_layers: list[Any]) -> list[Any]:
    choices = [
        package.BinaryRandomChoice(replacement_rate=0.5, seed=0),
        package.ModuleChoice(predecessor_layers, successor_layers),
    ]
    package.set_replacement_rate(choices, package.get_replacement_rate(choices) / 2)
    return choices


def build(predecessor: Any, successor: Any, classifier: Any) -> Any:
    indices: list[int] = package.initialize_successor(predecessor, successor, layers=[0, 1, 2])
    depth: int = package.as_encoder(predecessor).num_hidden_layers
    assert len(indices) < depth
    package.bert_of_theseus(predecessor, successor, classifier)
    theseus = package.build_theseus_model(
        predecessor, successor, classifier, module_map=[[0, 1], [2, 3]], seed=0
    )
    return package.build_successor_model(theseus, name="small")


def run(classifier: Any, train: Any) -> str:
    result = package.compress(
        classifier,
        package.build_successor_backbone(classifier, 3),
        train=train,
        directory="runs/1",
        theseus_stage=package.Stage(epochs=4, learning_rate=1e-4),
    )
    package.load_model("successor.keras")
    package.Predictor.load("successor")
    return result.table
