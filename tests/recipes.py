"""A small compression by the whole recipe, which several files look at."""

import numpy as np
from helpers import eager, values

from bert_of_theseus import Stage, compress
from bert_of_theseus.backend import keras

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
TRAIN, VALIDATION, TEST = (X[:64], Y[:64]), (X[64:80], Y[64:80]), (X[80:], Y[80:])

# The paper's stages, for tests of something else; and what `compress` has beside them by default.
OPTIONS = {
    "predecessor_stage": Stage(2, 0.01),
    "warm_start_stage": None,
    "initialize": "first",
    "theseus_stage": Stage(2, 0.01),
    "successor_stage": Stage(2, 0.01),
    "batch_size": 16,
    "verbose": 0,
    "seed": 3,
}
WARM_START = {"warm_start_stage": Stage(2, 0.01), "initialize": "nearest"}


def block():
    x = keras.Input((8,))
    y = keras.layers.Dropout(0.1)(keras.layers.Dense(8, activation="relu")(x))
    return keras.Model(x, keras.layers.Add()([x, y]))


def parts(seed=1):
    keras.utils.set_random_seed(seed)
    predecessor = [keras.Input((8,)), *(block() for _ in range(4))]
    successor = [block() for _ in range(2)]
    layers = [keras.layers.Dense(8), keras.layers.LayerNormalization()]
    head = [keras.Input((8,)), *layers, keras.layers.Dense(2, activation="softmax")]
    return predecessor, successor, keras.Sequential(head)


class Start(keras.callbacks.Callback):
    """Keeps, as a stage begins, the weights of `models` and the trained model's own answers."""

    def __init__(self, models):
        super().__init__()
        self.models = models

    def on_train_begin(self, logs=None):
        self.weights = [values(model.weights) for model in self.models]
        self.answers = eager(self.model, VALIDATION[0]).argmax(-1)


def whole_run(folder, **options):
    """All stages: the result, what they were given, and the `Start` of the successor's."""
    predecessor, successor, head = parts()
    start = Start([*predecessor[1:], head])
    result = compress(
        predecessor,
        successor,
        head,
        TRAIN,
        VALIDATION,
        directory=folder,
        test=TEST,
        callbacks={"successor": [start]},
        **{**OPTIONS, **WARM_START, **options},
    )
    return result, (predecessor, successor, head), start
