"""The laws of `TokenNoise`: which tokens are replaced, by which, and how often."""

import numpy as np
import pytest
from helpers import eager

from bert_of_theseus.backend import keras
from bert_of_theseus.noise import TokenNoise

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 200, 2)).astype("float32")
LENGTHS = np.array([200, 150, 200, 90, 20, 200])
MASK = np.arange(200) < LENGTHS[:, None]
# What the batch's previous example has; the first follows the last.
PREVIOUS, BOTH = np.roll(X, 1, 0), MASK & np.roll(MASK, 1, 0)


def noisy(layer, mask=None, training=True, x=X):
    inputs = keras.Input(x.shape[1:])
    if mask is None:
        return eager(keras.Model(inputs, layer(inputs, training=training)), x, training)
    given = keras.Input(mask.shape[1:], dtype="int32")
    outputs = layer(inputs, padding_mask=given, training=training)
    return eager(keras.Model([inputs, given], outputs), [x, mask.astype("int32")], training)


def is_replaced(found, mask=None):
    """Where; each position holds one of the two vectors."""
    replaced = (found == PREVIOUS).all(-1)
    assert ((found == X).all(-1) != replaced).all()
    if mask is not None:
        assert not replaced[~BOTH].any()
    return replaced


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "padding"])
def test_every_position_with_the_probability_and_never_by_or_in_padding(mask):
    for rate in (0.2, 0.7):
        found = is_replaced(noisy(TokenNoise(rate, seed=1), mask), mask)
        found = found[BOTH] if mask is not None else found
        # Five standard errors.
        assert abs(found.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / found.size)
        assert 0 < np.corrcoef(found.ravel()[1:], found.ravel()[:-1])[0, 1] + 0.2 < 0.4
    everything = BOTH if mask is not None else np.ones_like(BOTH)
    assert (is_replaced(noisy(TokenNoise(1.0), mask), mask) == everything).all()


@pytest.mark.parametrize("rate, training", [(0.0, True), (1.0, False)])
def test_without_noise_it_is_the_input(rate, training):
    np.testing.assert_array_equal(noisy(TokenNoise(rate), training=training), X)


def test_each_batch_has_draws_of_its_own_and_a_seed_repeats_them():
    layer, same, other = TokenNoise(0.5, seed=1), TokenNoise(0.5, seed=1), TokenNoise(0.5, seed=2)
    first, second = noisy(layer), noisy(layer)
    np.testing.assert_array_equal(noisy(same), first)
    np.testing.assert_array_equal(noisy(same), second)
    assert (first != second).any() and (noisy(other) != first).any()


def test_one_example_has_none_to_take_from():
    np.testing.assert_array_equal(noisy(TokenNoise(1.0), x=X[:1]), X[:1])


@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 5, 3)])
def test_vectors_of_any_arrangement(shape):
    x = rng.normal(size=shape).astype("float32")
    np.testing.assert_array_equal(noisy(TokenNoise(1.0), x=x), np.roll(x, 1, 0))


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match="`rate` must be a number in"):
        TokenNoise(rate)
