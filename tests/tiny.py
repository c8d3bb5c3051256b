"""Tiny encoders, and Theseus models of them, that several folders use."""

import math

from helpers import package

from bert_of_theseus import BinaryRandomChoice, build_theseus_model
from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import StackEncoder

HIDDEN, VOCAB, CLASSES = 4, 9, 3


def dense_block(name):
    """A layer of an encoder."""
    return keras.layers.Dense(HIDDEN, activation="tanh", name=name)


class Host:
    """A predecessor, a successor and a head, of the same weights for the same seed.

    Of one token a text: a tensor of three dimensions makes a graph of a dense layer several times
    as large, and no law here is about the third.
    """

    def __init__(self, layers=(4, 2), seed=0, block=dense_block, **options):
        keras.utils.set_random_seed(seed)
        self.predecessor, self.successor = (
            StackEncoder(
                [block(f"{side}{i}", **options) for i in range(number)],
                inputs=keras.Input((), dtype="int32"),
                embedding=keras.layers.Embedding(VOCAB, HIDDEN, name=f"{side}_embedding"),
            )
            for side, number in zip("ps", layers)
        )
        dense = keras.layers.Dense(CLASSES, activation="softmax")
        self.head = keras.Sequential([keras.Input((HIDDEN,)), dense], name="head")

    def theseus(self, *args, **kwargs):
        return build_theseus_model(self.predecessor, self.successor, self.head, *args, **kwargs)

    def alone(self, path):
        """The model of the modules picked by `path`, 1 for the successor's."""
        x = inputs = self.predecessor.inputs[0]
        x = self.predecessor._embedding(x)
        for index, picked in enumerate(path):
            for layer in (
                [self.successor.layers[index]]
                if picked
                else self.predecessor.layers[2 * index : 2 * index + 2]
            ):
                x = layer(x)
        return keras.Model(inputs, self.head(x))


@package
class Scale(keras.layers.Layer):
    """Multiplies: the product at the end tells which layers were run."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, input_shape):
        self.scale = self.add_weight(
            name="scale", shape=(), initializer=keras.initializers.Constant(self.factor)
        )
        self.built = True

    def call(self, x):
        return x * self.scale

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23]


def scales(n, m, **kwargs):
    """A Theseus model of the first `n` primes as predecessor and the next `m` as successor."""
    predecessor = [keras.Input((1,)), *map(Scale, PRIMES[:n])]
    successor = [Scale(prime) for prime in PRIMES[n : n + m]]
    identity = keras.layers.Activation("linear", name="head")
    return build_theseus_model(predecessor, successor, identity, **kwargs)


def product_of(n, modules, path):
    """What `scales(n, len(modules))` makes of 1 when `path` says which modules were replaced."""
    return math.prod(
        PRIMES[n + index] if picked else math.prod(PRIMES[j] for j in modules[index])
        for index, picked in enumerate(path)
    )


def rate_model(choices=2, **compile_options):
    """A compiled model of three numbers with `choices` in it, at rate 0.5."""
    x = keras.Input((3,))
    y = keras.layers.Dense(3)(x)
    for _ in range(choices):
        y = BinaryRandomChoice(0.5, seed=0)([y, keras.layers.Dense(3)(y)])
    model = keras.Model(x, y)
    model.compile(keras.optimizers.SGD(0.01), "mse", **compile_options)
    return model
