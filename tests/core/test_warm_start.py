"""The laws of the warm start: each successor layer learns its module's work."""

import itertools

import numpy as np
import pytest
from helpers import all_changed, assert_same, dtype_policy, eager, values

from bert_of_theseus import LinearReplacement, ReplacementRateScheduler, Stage
from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import StackEncoder, initialize_successor
from bert_of_theseus.models import build_warm_start_model
from bert_of_theseus.training import fit

VOCAB, HIDDEN, CLASSES = 9, 4, 3
rng = np.random.default_rng(0)
X = rng.integers(1, VOCAB, (6, 5)).astype("int32")
X[:3, 3:] = 0  # padding, where masks are made of it
Y = rng.integers(0, CLASSES, 6).astype("int32")


class Host:
    """A predecessor of 4 layers with dropout and a head, and a successor."""

    def __init__(self, num_hidden_layers=2, mask=False, activation="tanh"):
        keras.utils.set_random_seed(0)

        def block():
            dense = keras.layers.Dense(HIDDEN, activation=activation, bias_initializer="normal")
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
        self.models = self.predecessor, self.successor, self.head

    def modules(self, encoder, size):
        count = encoder.num_hidden_layers // size
        return [encoder.module(range(size * i, size * (i + 1)), f"m{i}") for i in range(count)]

    def errors(self, replaced=False, mask=False):
        """The mean squared error of each successor layer, on what its module takes, or on what
        the one below it makes: for each layer above the first, or for all alike."""
        replaced = replaced if isinstance(replaced, tuple) else (replaced,) * 4
        weights = (X != 0) if mask else np.ones(X.shape)
        ratio = self.predecessor.num_hidden_layers // self.successor.num_hidden_layers
        embed = self.predecessor.embedding_model("embed")
        x = taken = eager(embed, X)
        found = []
        pairs = zip(
            self.modules(self.predecessor, ratio), self.modules(self.successor, 1), strict=True
        )
        for (old, new), goes_on in zip(pairs, replaced):
            x, taken = eager(old, x), eager(new, taken)
            # In float32, whatever the layers compute in.
            squares = (taken.astype("float32") - x.astype("float32")) ** 2
            found.append(float(np.average(squares.mean(-1), weights=weights)))
            taken = taken if goes_on else x
        return found


def trained(host, steps=1, y=Y, rate=0.0, learning_rate=0.05, noise=0.0):
    model = build_warm_start_model(*host.models, rate, noise=noise, seed=1)
    model.compile(keras.optimizers.Adam(learning_rate), run_eagerly=steps < 10)
    history = model.fit(X, y, epochs=steps, batch_size=len(X), shuffle=False, verbose=0)
    return model, history.history["loss"]


@pytest.mark.parametrize("mask, rate", [(False, 0.0), (True, 0.0), (True, 0.5), (False, 1.0)])
def test_only_the_successors_layers_learn_and_each_learns_its_module(mask, rate):
    host = Host(mask=mask)
    frozen = host.predecessor.model(host.head, name="all").weights
    before, first = values(frozen), host.errors(rate > 0, mask)
    layers = [module.weights for module in host.modules(host.successor, 1)]
    initial = [values(weights) for weights in layers]
    trained(host, steps=60, rate=rate)
    assert_same(before, values(frozen))
    for old, weights in zip(initial, layers, strict=True):
        assert all_changed(old, values(weights))
    after = host.errors(rate > 0, mask)
    assert all(end < 0.5 * start for end, start in zip(after, first, strict=True))


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("mask", [False, True])
def test_the_loss_is_the_sum_of_the_modules_errors_without_padding(rate, mask):
    host = Host(mask=mask)
    expected = sum(host.errors(rate == 1, mask))
    assert trained(host, rate=rate)[1][0] == pytest.approx(expected, rel=1e-5)


def test_a_layer_takes_one_or_the_other_by_a_draw_per_layer_and_batch():
    host = Host(num_hidden_layers=4)
    # By what the second, the third and the fourth layer take.
    every = list(itertools.product([False, True], repeat=3))
    sums = np.array([sum(host.errors((*taken, False))) for taken in every])
    assert np.diff(np.sort(sums)).min() > 1e-4 * sums.max()
    _, losses = trained(host, steps=40, rate=0.5, learning_rate=0.0)
    found = np.abs(np.array(losses)[:, None] - sums).argmin(1)
    np.testing.assert_allclose(losses, sums[found], rtol=1e-5)
    assert {*found} == {*range(8)}


@pytest.mark.parametrize("wrong", [{"replacement_rate": 7.0}, {"noise": 1.5}, {"seed": -1}])
def test_what_is_refused_changes_nothing(wrong):
    host = Host(num_hidden_layers=1)
    weights = host.successor.embedding_model("embed").weights
    before = values(weights)
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", ".")):
        build_warm_start_model(*host.models, **wrong)
    assert_same(before, values(weights))


@pytest.mark.parametrize("embeddings", ["predecessor", "replace"])
def test_the_layers_learn_on_the_predecessors_embeddings(embeddings):
    host = Host()
    weights, theirs = (
        encoder.embedding_model("embed").weights for encoder in (host.successor, host.predecessor)
    )
    before, expected = values(weights), sum(host.errors())
    model = build_warm_start_model(*host.models, 0.0, embeddings, noise=0.0)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    assert model.fit(X, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)
    assert_same(values(weights), values(theirs) if embeddings == "predecessor" else before)


def test_modules_may_be_of_any_size():
    host = Host()
    first, end = host.modules(host.predecessor, 1)[0], host.modules(host.predecessor, 4)[0]
    x = eager(host.predecessor.embedding_model("embed"), X)
    one, other = host.modules(host.successor, 1)
    y = eager(first, x)
    expected = np.mean((eager(one, x) - y) ** 2) + np.mean((eager(other, y) - eager(end, x)) ** 2)
    modules = [[0], [1, 2, 3]]
    model = build_warm_start_model(*host.models, 0.0, module_map=modules, noise=0.0)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    assert model.fit(X, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("mask", [False, True])
def test_noise_changes_what_both_sides_begin_with(mask):
    """At rate 1 every text is the batch's previous one, but where one of the two is padding."""
    host = Host(mask=mask)
    kept = (X == 0) | (np.roll(X, 1, 0) == 0) if mask else np.zeros(X.shape, bool)
    others = np.where(kept, X, np.roll(X, 1, 0))
    weights = (X != 0) if mask else np.ones(X.shape)
    x = eager(host.predecessor.embedding_model("embed"), others)
    expected = 0.0
    for old, new in zip(host.modules(host.predecessor, 2), host.modules(host.successor, 1)):
        y = eager(old, x)
        squares = ((eager(new, x) - y) ** 2).mean(-1)
        expected += float(np.average(squares, weights=weights))
        x = y
    assert trained(host, noise=1.0)[1] == [pytest.approx(expected, rel=1e-5)]
    assert expected != pytest.approx(sum(host.errors(mask=mask)), rel=1e-3)


def test_at_inference_it_is_the_successor():
    host = Host()
    model, _ = trained(host, rate=0.5, noise=0.5)
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
    """At rate 0 another first layer leaves the second one's training as it is."""
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


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def policy(request):
    with dtype_policy(request.param):
        yield request.param


@pytest.mark.slow_unless("torch")
def test_under_mixed_precision_the_loss_is_computed_in_float32(policy):
    host = Host(activation="linear")
    for layer in host.modules(host.predecessor, 1):
        layer.set_weights([20.0 * value for value in layer.get_weights()])
    expected = sum(host.errors())
    assert float(np.finfo("float16").max) < expected < np.inf
    # Of bfloat16 the next number is further away than this.
    assert trained(host)[1] == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.slow_unless("torch")
def test_under_mixed_precision_layers_learn_and_weights_are_float32(policy, tmp_path):
    host = Host()
    first = host.errors(True)
    model = build_warm_start_model(*host.models, noise=0.0, seed=1)
    result = fit(
        model,
        (np.tile(X, (30, 1)), np.tile(Y, 30)),
        stage=Stage(2, 0.05),
        directory=tmp_path,
        loss=None,
        metrics=(),
        batch_size=len(X),
        callbacks=[ReplacementRateScheduler(LinearReplacement(0.0, fraction=0.75))],
        verbose=0,
    )
    before, after = result.history["loss"]
    assert 0 < after < before < np.inf
    assert all(end < 0.5 * start for end, start in zip(host.errors(True), first, strict=True))
    assert {str(value.dtype) for value in values(model.trainable_weights)} == {"float32"}
