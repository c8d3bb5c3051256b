"""Which head a Keras model is, by its layers: one of BERT's own, dense on [CLS], or none."""

import bert_of_theseus.bert4keras  # noqa: F401  must come before bert4keras

# isort: split
import numpy as np
import pytest
from bert4keras.backend import keras

from bert_of_theseus import heads
from bert_of_theseus.checkpoints.families import SEQUENCE, TOKEN
from bert_of_theseus.checkpoints.keras_heads import read_head

layers = keras.layers
Dense, Lambda = layers.Dense, layers.Lambda


def chain(*steps, size=8, length=None):
    """A functional model of layers and functions, one after the other."""
    x = inputs = keras.Input((length, size) if length != 0 else (size,))
    for step in steps:
        x = step(x)
    return keras.Model(inputs, x)


def first(x):
    return x[:, 0]


def residual():
    inputs = keras.Input((None, 8))
    x = layers.Add()([inputs, Dense(8)(inputs)])
    return keras.Model(inputs, Dense(3)(x))


class Twice(Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


PLAIN = (None, "first token")
POOLER = Dense(8, activation="tanh")
HEADS = {
    # name: (how it is made, its kind, the activation of its output)
    "classification_head": (lambda: heads.classification_head(8, 3), PLAIN, "softmax"),
    "pooler": (lambda: heads.pooler_classification_head(8, 3), SEQUENCE, "softmax"),
    "tagger": (lambda: heads.tagging_head(8, 3, activation="sigmoid"), TOKEN, "sigmoid"),
    "layer": (lambda: Dense(3), TOKEN, "linear"),
    "sequential": (lambda: keras.Sequential([layers.Dropout(0.1), Dense(3)]), TOKEN, "linear"),
    "slice": (lambda: chain(first, Dense(3)), PLAIN, "linear"),
    "Lambda": (lambda: chain(Lambda(first), Dense(3, activation="sigmoid")), PLAIN, "sigmoid"),
    "nested": (lambda: chain(chain(first, POOLER), chain(Dense(3), length=0)), SEQUENCE, "linear"),
    "pooler before [CLS]": (lambda: chain(POOLER, first, Dense(3)), SEQUENCE, "linear"),
    "softmax apart": (lambda: chain(Dense(3), layers.Softmax()), TOKEN, "softmax"),
    "tanh apart": (
        lambda: chain(first, Dense(8), layers.Activation("tanh"), Dense(3)), SEQUENCE, "linear",
    ),
    "no bias": (lambda: chain(first, Dense(3, use_bias=False)), PLAIN, "linear"),
    "noise": (lambda: chain(layers.GaussianNoise(1.0), Dense(3)), TOKEN, "linear"),
    "pooled": (lambda: chain(Dense(3), length=0), SEQUENCE, "linear"),
    "one length": (lambda: chain(Lambda(first), Dense(3), length=5), PLAIN, "linear"),
}  # fmt: skip
OTHERS = {
    "second token": lambda: chain(lambda x: x[:, 1], Dense(3)),
    "last token": lambda: chain(Lambda(lambda x: x[:, -1]), Dense(3)),
    "mean": lambda: chain(layers.GlobalAveragePooling1D(), Dense(3)),
    "relu": lambda: chain(first, Dense(3, activation="relu")),
    "a narrow pooler": lambda: chain(first, Dense(4, activation="tanh"), Dense(3)),
    "a pooler without tanh": lambda: chain(first, Dense(8), Dense(3)),
    "dense layers at every position": lambda: chain(POOLER, Dense(3)),
    "three dense layers": lambda: chain(first, POOLER, POOLER, Dense(3)),
    "a subclass": lambda: chain(first, Twice(3)),
    "dropout at inference": lambda: chain(
        lambda x: layers.Dropout(0.5)(x, training=True), Dense(3)
    ),
    "softmax of other axis": lambda: chain(Dense(3), layers.Softmax(axis=1)),
    "two activations": lambda: chain(Dense(3, activation="tanh"), layers.Softmax()),
    "a normalization": lambda: chain(layers.LayerNormalization(), Dense(3)),
    "a residual": residual,
    "no dense layer": lambda: chain(first),
    "span": lambda: heads.span_head(8),
    "GRU": lambda: chain(layers.GRU(4), Dense(3)),
    "pooler on pooled": lambda: chain(POOLER, Dense(3), length=0),
}


def shape_of(classifier):
    shape = getattr(classifier, "input_shape", None) if classifier.built else None
    return shape or (None, None, 8)


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_known(name):
    make, kind, activation = HEADS[name]
    classifier = make()
    shape = shape_of(classifier)
    head = read_head(classifier, shape)
    assert head.kind == (None if kind is PLAIN else kind)
    assert head.activation == activation and head.num_classes == 3
    # Its numbers compute what the classifier does.
    x = np.random.default_rng(0).normal(size=(4, shape[1] or 5, 8)[3 - len(shape) :])
    x = x.astype("float32")
    y = x if len(shape) == 2 or head.kind == TOKEN else x[:, 0]
    functions = {"softmax": keras.activations.softmax, "sigmoid": keras.activations.sigmoid}
    for layer in head.layers:
        y = y @ layer.kernel + layer.bias
        y = np.tanh(y) if layer.activation == "tanh" else y
    y = np.array(functions.get(activation, lambda y: y)(keras.backend.constant(y)))
    np.testing.assert_allclose(np.array(classifier(x)), y, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_heads_that_are_not(name):
    classifier = OTHERS[name]()
    assert read_head(classifier, shape_of(classifier)) is None
