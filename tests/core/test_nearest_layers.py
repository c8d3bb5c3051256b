"""The layer that does most nearly what a module does is found."""

import numpy as np
import pytest

from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import StackEncoder, nearest_layers

VOCAB, HIDDEN = 9, 4
rng = np.random.default_rng(0)
X = rng.integers(1, VOCAB, (6, 5)).astype("int32")
X[:3, 3:] = 0


def encoder(*layers, mask=False):
    """Layers with dropout, which multiply hidden states by a number and apply an activation."""
    keras.utils.set_random_seed(0)

    def layer(scale, activation="linear", use_bias=False):
        options = {"use_bias": use_bias, "kernel_initializer": keras.initializers.Identity(scale)}
        dense = keras.layers.Dense(HIDDEN, activation=activation, **options)
        return keras.Sequential([keras.Input((5, HIDDEN)), dense, keras.layers.Dropout(0.5)])

    embedding = keras.layers.Embedding(VOCAB, HIDDEN, mask_zero=mask)
    inputs = keras.Input((5,), dtype="int32")
    embedding(inputs)
    rows = rng.uniform(0.1, 1.0, (VOCAB, HIDDEN))
    rows[0] = -5.0
    embedding.set_weights([rows])
    return StackEncoder([layer(*each) for each in layers], inputs=inputs, embedding=embedding)


@pytest.mark.parametrize("mask", [False, True])
def test_the_nearest_layer_is_found(mask):
    """Of layers that multiply; of two that are equally near, the first."""
    layers = encoder((2.0,), (3.0,), (0.25,), (2.0,), mask=mask)
    assert nearest_layers(layers, [X[:2], X[2:]], 2) == [1, 2]
    assert nearest_layers(layers, [X], 2, module_map=[[0], [1, 2, 3]]) == [0, 0]


def test_a_module_of_one_layer_is_nearest_to_itself():
    assert nearest_layers(encoder((0.5,), (0.7,), (1.2,)), [X], 3) == [0, 1, 2]


@pytest.mark.parametrize("mask", [False, True])
def test_padding_does_not_count(mask):
    """The first layer is the module where there is text, and the second one on the padding."""
    layers = encoder((2.0,), (1.0, "relu"), mask=mask)
    assert nearest_layers(layers, [X], 1) == [0 if mask else 1]


def test_layers_that_are_unlike_are_refused():
    """Not all of the last one's weights have a place in the first."""
    with pytest.raises(ValueError, match=r"all layers are alike.* layer 0 with .* layer 2 with"):
        nearest_layers(encoder((1.0,), (2.0,), (2.0, "linear", True)), [X], 1)


def test_without_texts_nothing_is_found():
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        nearest_layers(encoder((1.0,), (2.0,)), [], 1)
