"""Small texts and models for a stage of training."""

import numpy as np

from bert_of_theseus.backend import keras
from bert_of_theseus.data import Encoded
from bert_of_theseus.heads import classification_head


def texts():
    """Texts of several lengths whose first token is the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=120).astype("int32")
    ids = [
        np.array([1 + label, *rng.integers(3, 9, size=rng.integers(1, 20))], dtype="int32")
        for label in labels
    ]
    return Encoded(ids, labels)


def build():
    """A classifier of `texts()`."""
    keras.utils.set_random_seed(1)
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    embed = keras.layers.Embedding(9, 8, mask_zero=True)
    hidden = keras.layers.Add()([embed(inputs[0]), keras.layers.Embedding(2, 8)(inputs[1])])
    return keras.Model(inputs, classification_head(8, 2)(hidden))


def linear():
    x = keras.Input((2,))
    dense = keras.layers.Dense(2, kernel_initializer="ones", bias_initializer="ones")
    return keras.Model(x, keras.layers.LayerNormalization()(dense(x)))
