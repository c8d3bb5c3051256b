"""The laws of the warm start: each successor layer learns its module's work."""

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

    def errors(self, replaced=False):
        """The mean squared error of each successor layer, on what its module takes, or on what
        the one below it makes."""
        ratio = self.predecessor.num_hidden_layers // self.successor.num_hidden_layers
        embed = self.predecessor.embedding_model("embed")
        x = taken = eager(embed, X)
        found = []
        for old, new in zip(
            self.modules(self.predecessor, ratio), self.modules(self.successor, 1), strict=True
        ):
            x, taken = eager(old, x), eager(new, taken)
            found.append(float(np.mean((taken - x) ** 2)))
            taken = taken if replaced else x
        return found


def trained(host, steps=1, y=Y, rate=0.0, learning_rate=0.05):
    model = build_warm_start_model(host.predecessor, host.successor, host.head, rate, seed=1)
    model.compile(keras.optimizers.Adam(learning_rate), run_eagerly=steps < 10)
    history = model.fit(X, y, epochs=steps, batch_size=len(X), verbose=0)
    return model, history.history["loss"]


@pytest.mark.parametrize("mask, rate", [(False, 0.0), (True, 0.0), (True, 0.5), (False, 1.0)])
def test_only_the_successors_layers_learn_and_each_learns_its_module(mask, rate):
    host = Host(mask=mask)
    frozen = host.predecessor.model(host.head, name="all").weights
    before, first = values(frozen), host.errors()
    layers = [module.weights for module in host.modules(host.successor, 1)]
    initial = [values(weights) for weights in layers]
    trained(host, steps=60, rate=rate)
    assert_same(before, values(frozen))
    for old, weights in zip(initial, layers, strict=True):
        assert all_changed(old, values(weights))
    after = host.errors(replaced=rate > 0)
    assert all(end < 0.5 * start for end, start in zip(after, first, strict=True))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_loss_is_the_sum_of_the_modules_errors(rate):
    host = Host()
    expected = sum(host.errors(replaced=rate == 1))
    assert trained(host, rate=rate)[1][0] == pytest.approx(expected, rel=1e-5)


def test_between_the_rates_it_is_one_or_the_other_with_a_draw_per_batch():
    host = Host()
    apart, together = (sum(host.errors(replaced)) for replaced in (False, True))
    assert abs(apart - together) > 0.01 * apart
    _, losses = trained(host, steps=9, rate=0.5, learning_rate=0.0)
    found = [abs(loss - apart) > abs(loss - together) for loss in losses]
    expected = [together if replaced else apart for replaced in found]
    assert losses == pytest.approx(expected, rel=1e-5) and {*found} == {False, True}


def test_at_inference_it_is_the_successor():
    host = Host()
    model, _ = trained(host, rate=0.5)
    expected = eager(host.successor.model(keras.layers.Identity(), name="all"), X)
    np.testing.assert_allclose(eager(model, X), expected, atol=1e-6)


def test_a_successor_of_one_layer_has_nothing_to_choose():
    host = Host(num_hidden_layers=1)
    expected = host.errors()
    assert trained(host)[1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_successor_that_is_the_predecessor_has_nothing_to_learn(rate):
    """Its dropout would give it something."""
    host = Host(num_hidden_layers=4)
    initialize_successor(host.predecessor, host.successor)
    assert trained(host, rate=rate)[1] == [pytest.approx(0.0, abs=1e-12)]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_layers_learn_apart_from_labels_and_at_rate_0_from_each_other(rate):
    """Another first layer leaves the second one's training as it is."""
    one, other = Host(), Host()
    first = other.modules(other.successor, 1)[0]
    first.set_weights([2.0 * value for value in first.get_weights()])
    trained(one, rate=rate)
    trained(other, y=1 - Y, rate=rate)
    second = (values(host.modules(host.successor, 1)[1].weights) for host in (one, other))
    same = [np.allclose(*pair, atol=1e-6) for pair in zip(*second, strict=True)]
    assert all(same) if rate == 0 else not any(same)


def test_at_rate_1_a_layer_learns_for_those_above_it():
    host = Host()
    first = host.modules(host.successor, 1)[0].weights
    apart, together = Host(), Host()
    trained(apart)
    trained(together, rate=1.0)
    found = [values(h.modules(h.successor, 1)[0].weights) for h in (apart, together)]
    assert all_changed(values(first), found[0]) and all_changed(*found)
