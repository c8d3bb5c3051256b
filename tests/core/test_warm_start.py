"""The laws of the warm start: each successor layer learns its module's work, alone."""

import numpy as np
import pytest
from helpers import all_changed, assert_same, eager, values

from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import StackEncoder, initialize_successor
from bert_of_theseus.models import build_warm_start_model

VOCAB, HIDDEN, CLASSES = 9, 4, 3
rng = np.random.default_rng(0)
X = rng.integers(1, VOCAB, (6, 5)).astype("int32")
X[:3, 3:] = 0  # padding, where masks are made of it
Y = rng.integers(0, CLASSES, 6).astype("int32")


class Host:
    """A predecessor of 4 layers with dropout and a head, and a successor."""

    def __init__(self, num_hidden_layers=2, mask=False):
        keras.utils.set_random_seed(0)

        def block():
            dense = keras.layers.Dense(HIDDEN, activation="tanh", bias_initializer="normal")
            return keras.Sequential(
                [keras.Input((5, HIDDEN)), dense, keras.layers.Dropout(0.3, seed=0)]
            )

        self.predecessor, self.successor = (
            StackEncoder(
                [block() for _ in range(number)],
                inputs=keras.Input((5,), dtype="int32"),
                embedding=keras.layers.Embedding(VOCAB, HIDDEN, "normal", mask_zero=mask),
            )
            for number in (4, num_hidden_layers)
        )
        x = inputs = keras.Input((5, HIDDEN))
        x = keras.layers.Dense(CLASSES, activation="softmax")(keras.layers.Flatten()(x))
        self.head = keras.Model(inputs, x)

    def modules(self, encoder, size):
        count = encoder.num_hidden_layers // size
        return [encoder.module(range(size * i, size * (i + 1)), f"m{i}") for i in range(count)]

    def errors(self):
        """The mean squared error of each successor layer, on what its module takes."""
        ratio = self.predecessor.num_hidden_layers // self.successor.num_hidden_layers
        embed = self.predecessor.embedding_model("embed")
        x, found = eager(embed, X), []
        for old, new in zip(
            self.modules(self.predecessor, ratio), self.modules(self.successor, 1), strict=True
        ):
            y = eager(old, x)
            found.append(float(np.mean((eager(new, x) - y) ** 2)))
            x = y
        return found


def trained(host, steps=1, y=Y, rate=0.05):
    model = build_warm_start_model(host.predecessor, host.successor, host.head)
    model.compile(keras.optimizers.Adam(rate), run_eagerly=steps < 10)
    history = model.fit(X, y, epochs=steps, batch_size=len(X), verbose=0)
    return model, history.history["loss"]


@pytest.mark.parametrize("mask", [False, True])
def test_only_the_successors_layers_learn_and_each_learns_its_module(mask):
    host = Host(mask=mask)
    frozen = host.predecessor.model(host.head, name="all").weights
    before, first = values(frozen), host.errors()
    layers = [module.weights for module in host.modules(host.successor, 1)]
    initial = [values(weights) for weights in layers]
    trained(host, steps=60)
    assert_same(before, values(frozen))
    for old, weights in zip(initial, layers, strict=True):
        assert all_changed(old, values(weights))
    assert all(after < 0.5 * start for after, start in zip(host.errors(), first, strict=True))


def test_the_loss_is_the_sum_of_the_modules_errors():
    host = Host()
    expected = sum(host.errors())
    assert trained(host)[1][0] == pytest.approx(expected, rel=1e-5)


def test_a_successor_that_is_the_predecessor_has_nothing_to_learn():
    """Its dropout would give it something."""
    host = Host(num_hidden_layers=4)
    initialize_successor(host.predecessor, host.successor)
    assert trained(host)[1] == [pytest.approx(0.0, abs=1e-12)]


def test_layers_learn_apart_from_each_other_and_from_labels():
    """Another first layer leaves the second one's training as it is."""
    one, other = Host(), Host()
    first = other.modules(other.successor, 1)[0]
    first.set_weights([2.0 * value for value in first.get_weights()])
    trained(one)
    trained(other, y=1 - Y)
    second = (values(host.modules(host.successor, 1)[1].weights) for host in (one, other))
    for here, there in zip(*second, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-6)
