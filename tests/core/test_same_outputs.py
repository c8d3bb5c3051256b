"""One Theseus model on every Keras: the same outputs as NumPy's arithmetic, so as one another."""

import numpy as np
import pytest
from helpers import compiled_call, to_numpy, to_tensor, values

from bert_of_theseus import (
    ModuleChoice,
    build_successor_model,
    build_theseus_model,
    set_replacement_rate,
)
from bert_of_theseus.backend import BACKEND, keras
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.heads import FirstToken

VOCAB, HIDDEN, HEADS, INNER, CLASSES = 11, 6, 2, 8, 3
EPSILON = 1e-3  # of Keras' LayerNormalization
SHAPES = [
    *([(HIDDEN, HEADS, HIDDEN // HEADS), (HEADS, HIDDEN // HEADS)] * 3),  # query, key, value
    *[(HEADS, HIDDEN // HEADS, HIDDEN), (HIDDEN,)],  # the attention's output
    *[(HIDDEN,), (HIDDEN,)],  # norm
    *[(HIDDEN, INNER), (INNER,), (INNER, HIDDEN), (HIDDEN,)],
    *[(HIDDEN,), (HIDDEN,)],  # norm
]
TOKENS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 10]])


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.5, shape).astype("float32") for shape in shapes]


# Three predecessor layers, then two of the successor; one of each for the rest.
LAYERS = [draw(seed) for seed in range(5)]
(TABLE,) = draw(5, [(VOCAB, HIDDEN)])
HEAD = draw(6, [(HIDDEN, CLASSES), (CLASSES,)])
MODULES = [[0, 1], [2]]


def norm(x, gamma, beta):
    variance = ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + EPSILON) * gamma + beta


def by_hand(weights, x):
    """A transformer layer, of float64."""
    q, qb, k, kb, v, vb, o, ob, g1, b1, w1, c1, w2, c2, g2, b2 = weights
    query, key, value = (
        np.einsum("bsd,dhk->bhsk", x, kernel) + bias[:, None]
        for kernel, bias in ((q, qb), (k, kb), (v, vb))
    )
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(HIDDEN // HEADS)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = shares / shares.sum(-1, keepdims=True) @ value
    x = norm(x + np.einsum("bhsk,hkd->bsd", mixed, o) + ob, g1, b1)
    return norm(x + np.tanh(x @ w1 + c1) @ w2 + c2, g2, b2)


def expected(*layers):
    x = TABLE[TOKENS].astype("float64")
    for layer in layers:
        x = by_hand(LAYERS[layer], x)
    logits = x[:, 0] @ HEAD[0] + HEAD[1]
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def block(number):
    x = keras.Input((None, HIDDEN))
    attention = keras.layers.MultiHeadAttention(HEADS, HIDDEN // HEADS)
    norms = [keras.layers.LayerNormalization(epsilon=EPSILON) for _ in range(2)]
    dense = [keras.layers.Dense(INNER, activation="tanh"), keras.layers.Dense(HIDDEN)]
    y = norms[0](keras.layers.Add()([x, attention(x, x)]))
    z = norms[1](keras.layers.Add()([y, dense[1](dense[0](y))]))
    weights = LAYERS[number]
    attention.set_weights(weights[:8])
    norms[0].set_weights(weights[8:10])
    dense[0].set_weights(weights[10:12])
    dense[1].set_weights(weights[12:14])
    norms[1].set_weights(weights[14:])
    return keras.Model(x, z, name=f"block_{number}")


@pytest.fixture(scope="module")
def parts():
    def encoder(numbers):
        embedding = keras.layers.Embedding(VOCAB, HIDDEN)
        inputs = keras.Input((None,), dtype="int32")
        made = StackEncoder([block(i) for i in numbers], inputs=inputs, embedding=embedding)
        embedding(inputs)
        embedding.set_weights([TABLE])
        return made

    dense = keras.layers.Dense(CLASSES, activation="softmax")
    head = keras.Sequential([keras.Input((None, HIDDEN)), FirstToken(), dense])
    dense.set_weights(HEAD)
    return encoder([0, 1, 2]), encoder([3, 4]), head


@pytest.mark.parametrize("execution", ["lazy", "dense"])
def test_theseus_and_successor(parts, execution):
    theseus = build_theseus_model(*parts, execution=execution, module_map=MODULES)
    small = build_successor_model(theseus)
    # Apart from one another, so that the bound says something.
    assert np.abs(expected(0, 1, 2) - expected(3, 4)).max() > 0.05
    for model in (theseus, small):
        found = to_numpy(model(to_tensor(TOKENS)))
        np.testing.assert_allclose(found, expected(3, 4), atol=1e-5)
    call = compiled_call(theseus)
    choices = [layer for layer in theseus.layers if hasattr(layer, "replacement_rate")]
    for rates, layers in {(0, 0): (0, 1, 2), (1, 0): (3, 2), (0, 1): (0, 1, 4)}.items():
        for choice, rate in zip(choices, rates):
            set_replacement_rate([choice], rate)
        np.testing.assert_allclose(call(TOKENS), expected(*layers), atol=1e-5)


@pytest.mark.skipif(
    BACKEND == "torch" or keras.__name__ == "tf_keras", reason="their dropout has no Keras state"
)
@pytest.mark.parametrize("rate", [0, 1])
def test_seeds_of_the_module_that_runs_move_on(rate):
    """On JAX they go into the conditional as arguments, and come out as results."""
    sides = [keras.layers.Dropout(0.5, seed=3) for _ in range(2)]
    choice = ModuleChoice(*sides, replacement_rate=rate)
    x = keras.Input((4,))
    call = compiled_call(keras.Model(x, choice(x)))
    before = [values([side.seed_generator.state])[0] for side in sides]
    assert (before[0] == before[1]).all()
    ones = np.ones((2, 4), "float32")
    outputs = [call(ones) for _ in range(3)]
    after = [values([side.seed_generator.state])[0] for side in sides]
    assert (after[1 - rate] == before[1 - rate]).all()
    assert (after[rate] != before[rate]).any()
    # The next step draws other numbers, and the same ones from the same state.
    assert any((outputs[0] != output).any() for output in outputs[1:])
    sides[rate].seed_generator.state.assign(before[rate])
    np.testing.assert_array_equal(call(ones), outputs[0])
