"""The blocks of the documentation for any Keras layers run as they stand."""

import numpy as np
import pytest
from docs_blocks import run_block

from bert_of_theseus import get_replacement_rate
from bert_of_theseus.backend import KERAS_2

if KERAS_2:
    pytest.skip("the blocks import Keras 3", allow_module_level=True)


@pytest.fixture(scope="module")
def scope():
    scope = {}
    run_block("keras-layers", scope)
    return scope


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_keras_layers(scope):
    theseus, small = scope["theseus"], scope["small"]
    x = numbers(4, 5, 32)
    np.testing.assert_array_equal(theseus.predict(x, verbose=0), small.predict(x, verbose=0))
    assert len(theseus.trainable_weights) == len(small.trainable_weights) - 2  # the head


def test_initialize(scope):
    run_block("initialize", scope)
    for predecessor, successor in zip(scope["predecessor"][1:3], scope["successor"]):
        for before, after in zip(predecessor.get_weights(), successor.get_weights()):
            np.testing.assert_array_equal(after, before)


def test_another_kind_of_successor(scope):
    inner = dict(scope)
    run_block("lstm", inner)
    assert inner["theseus"].predict(numbers(2, 5, 32), verbose=0).shape == (2, 2)
    assert len(inner["theseus"].trainable_weights) == 6


def test_choices(scope):
    inner = dict(scope)
    run_block("choices", inner)
    assert inner["after_both"].shape == inner["before_either"].shape == (None, None, 32)


def test_schedules(scope):
    inner = {**scope, "x": numbers(8, 5, 32), "y": np.arange(8) % 2}
    run_block("schedules", inner)
    assert inner["schedule"].bind(4)(0) == 0.3
    assert get_replacement_rate(inner["theseus"]) == 1.0
