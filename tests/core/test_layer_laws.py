"""The laws of Keras' layers, for each layer of the package; what it is for stands elsewhere."""

import functools

import numpy as np
import pytest
from helpers import weights_of
from laws import check_layer

from bert_of_theseus import BinaryRandomChoice, ModuleChoice
from bert_of_theseus.backend import keras
from bert_of_theseus.distillation import HiddenDistillation, LogitsDistillation
from bert_of_theseus.heads import FirstToken, PositionSoftmax
from bert_of_theseus.models.chain import ChainedModuleChoice, ChainedRandomChoice
from bert_of_theseus.noise import TokenNoise
from bert_of_theseus.wrappers import Frozen, Masked


def padded(seed):
    """`(4, 5, 3)`, the last positions of two of them zero."""
    x = np.random.default_rng(seed).uniform(0.1, 1, (4, 5, 3)).astype("float32")
    x[:2, 3:] = 0
    return x


ONE, PAIR = padded(0), [padded(0), padded(1)]


def dense(**options):
    return keras.layers.Dense(3, **options)


def module_choice(cls=ModuleChoice, **options):
    sides = [dense(name="p"), keras.layers.Dropout(0.1)], dense(name="s")
    return cls(*sides, 0.35, seed=7, predecessor_dropout=False, **options)


def nothing(layer):
    return []


# By name: how to make it, what it is called on, whether its mask goes on, what of it is trained.
LAYERS = {
    "BinaryRandomChoice": (
        functools.partial(BinaryRandomChoice, 0.35, seed=7), PAIR, True, nothing,
    ),
    "BinaryRandomChoice, of options": (
        functools.partial(BinaryRandomChoice, 0.35, seed=7, gate="uniform", sampling="example"),
        PAIR, True, nothing,
    ),
    "ModuleChoice": (
        module_choice, ONE, True, lambda layer: weights_of(layer.successor_layers),
    ),
    "ChainedRandomChoice": (
        functools.partial(ChainedRandomChoice, 0.35, seed=7, modules_left=2), PAIR, True, nothing,
    ),
    "ChainedModuleChoice": (
        functools.partial(module_choice, ChainedModuleChoice, modules_left=2),
        ONE, True, lambda layer: weights_of(layer.successor_layers),
    ),
    "TokenNoise": (functools.partial(TokenNoise, 0.5, seed=7), ONE, True, nothing),
    # Under Keras 2 what a wrapper returns has the precision of the layer within.
    "Frozen": (
        lambda **options: Frozen(dense(dtype=options.get("dtype")), dropout=False, **options),
        ONE, True, nothing,
    ),
    "Masked": (
        lambda **options: Masked(
            keras.layers.Conv1D(3, 3, padding="same", dtype=options.get("dtype")), **options
        ),
        ONE, True, lambda layer: layer.layer.weights,
    ),
    "LogitsDistillation": (
        lambda **options: LogitsDistillation(
            dense(activation="softmax"), temperature=4.0, weight=0.5, **options
        ),
        PAIR, True, nothing,
    ),
    "HiddenDistillation": (functools.partial(HiddenDistillation, 0.25), PAIR, True, nothing),
    "FirstToken": (FirstToken, ONE, False, nothing),
    "PositionSoftmax": (PositionSoftmax, ONE, False, nothing),
}  # fmt: skip


# Those of a Theseus model have the call and the config of the choices above, with two more options.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow_unless("torch") if "Chained" in name else [])
    for name in LAYERS
]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_keeps_the_laws(name, tmp_path):
    make, arrays, passes_mask, trained = LAYERS[name]
    check_layer(make, arrays, passes_mask=passes_mask, trained=trained, folder=tmp_path)
