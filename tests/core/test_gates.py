"""The laws of the gates: what e may be, and for whom it is drawn."""

import numpy as np
import pytest
from helpers import (
    all_changed,
    assert_same,
    compiled_call,
    eager,
    gradient_function,
    many_calls,
    to_numpy,
    to_tensor,
    values,
    weights_of,
)

from bert_of_theseus import (
    BinaryRandomChoice,
    build_successor_model,
    build_theseus_model,
    set_replacement_rate,
)
from bert_of_theseus.backend import BACKEND, keras

BATCH, DRAWS = 20, 40
# What comes out is 1 - e, the successor's share.
BRANCHES = [np.zeros((BATCH, 2, 3), "float32"), np.ones((BATCH, 2, 3), "float32")]
GATES = ["bernoulli", "uniform", "blend"]


def make(*choices):
    """Model on `[predecessor, successor]` with an output per choice on the last axis."""
    inputs = [keras.Input((2, 3)), keras.Input((2, 3))]
    outputs = [choice(inputs) for choice in choices]
    return keras.Model(
        inputs, keras.layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0]
    )


def shares(model, number=DRAWS):
    """A function that draws: the successor's share by example, `(number, BATCH, choices)`."""
    calls = many_calls(model, number)

    def draw():
        outputs = calls(BRANCHES)
        assert (outputs == outputs[:, :, :1]).all()  # one for all positions
        outputs = outputs.reshape(*outputs.shape[:-1], -1, 3)
        assert (outputs == outputs[..., :1]).all()  # and all units
        return outputs[:, :, 0, :, 0]

    return draw


def test_example_draws_are_bernoullis_at_the_rate():
    choice = BinaryRandomChoice(seed=1, sampling="example")
    draw = shares(make(choice))
    for rate in (0.2, 0.5):
        set_replacement_rate(choice, rate)
        drawn = draw()
        assert set(np.unique(drawn)) == {0, 1}
        number = drawn.size
        assert abs(drawn.sum() - rate * number) <= 4 * np.sqrt(number * rate * (1 - rate))


@pytest.mark.parametrize("gate", ["bernoulli", "uniform"])
def test_draws_are_independent(gate):
    model = make(*(BinaryRandomChoice(seed=s, gate=gate, sampling="example") for s in (0, 1)))
    drawn = shares(model, 100)()  # of batches, examples and modules
    columns = drawn[:, :3].reshape(100, -1)
    others = np.corrcoef(columns.T)[np.triu_indices(6, k=1)]
    assert (abs(others) <= 4 / np.sqrt(100)).all()
    later = np.corrcoef(columns[1:].T, columns[:-1].T)[:6, 6:]
    assert (abs(later) <= 4 / np.sqrt(99)).all()
    flat = drawn.reshape(-1, 2)
    assert abs(np.corrcoef(flat.T)[0, 1]) <= 4 / np.sqrt(len(flat))


def test_batch_sampling_draws_once():
    drawn = shares(make(*(BinaryRandomChoice(seed=0, gate=gate) for gate in GATES)), 8)()
    assert (drawn == drawn[:, :1]).all()
    assert len(np.unique(drawn[..., GATES.index("uniform")])) == 8


def test_uniform_shares_have_the_rate_as_their_mean():
    choice = BinaryRandomChoice(seed=2, gate="uniform", sampling="example")
    draw = shares(make(choice))
    for rate in (0.1, 0.25, 0.5, 0.9):
        set_replacement_rate(choice, rate)
        drawn = draw().ravel()
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        # P(1 - e <= x) = x**power, hence its mean and variance.
        power = rate / (1 - rate)
        variance = power / (power + 2) - rate**2
        assert abs(drawn.mean() - rate) <= 4 * np.sqrt(variance / drawn.size), rate
        for x in (0.1, 0.5, 0.9):
            below = x**power
            sigma = np.sqrt(below * (1 - below) / drawn.size)
            assert abs((drawn <= x).mean() - below) <= 4 * sigma, rate


def of_every_kind(rate, **options):
    """A choice of every gate, for batches and for examples."""
    return [
        BinaryRandomChoice(rate, gate=gate, sampling=sampling, **options)
        for gate in GATES
        for sampling in ("batch", "example")
    ]


def test_rates_0_and_1_are_one_branch_to_the_bit():
    rng = np.random.default_rng(0)
    branches = [rng.normal(size=(BATCH, 2, 3)).astype("float32") * 1e20 for _ in range(2)]
    choices = of_every_kind(0.5, seed=0)
    call = compiled_call(make(*choices))
    for rate in (0, 1):
        set_replacement_rate(choices, rate)
        for bad in (np.nan, np.inf):  # the other one may hold anything
            pair = list(branches)
            pair[1 - rate] = np.full_like(branches[0], bad)
            np.testing.assert_array_equal(call(pair), np.tile(branches[rate], len(choices)))


def test_inference_is_the_successor():
    choices = of_every_kind(0.3, seed=0)
    before = values(weights_of(choices))
    poisoned = [BRANCHES[0] * np.nan, BRANCHES[1]]
    for choice in choices:
        np.testing.assert_array_equal(eager(choice, poisoned), BRANCHES[1])
    output = compiled_call(make(*choices), training=False)(poisoned)
    np.testing.assert_array_equal(output, np.tile(BRANCHES[1], len(choices)))
    assert_same(before, values(weights_of(choices)))


def test_blend_is_its_formula_and_follows_a_live_rate():
    rng = np.random.default_rng(1)
    pair = [rng.normal(size=(BATCH, 2, 3)).astype("float32") for _ in range(2)]
    choice = BinaryRandomChoice(0.25, gate="blend", seed=0)
    before = values([choice.draw_state])
    call = compiled_call(make(choice))
    for rate in (0.25, 0.6, 0.9):
        set_replacement_rate([choice], rate)
        expected = (1 - rate) * pair[0] + rate * pair[1]
        for _ in range(2):
            np.testing.assert_allclose(call(pair), expected, rtol=1e-5, atol=1e-6)
    assert_same(before, values([choice.draw_state]))


def test_eager_and_compiled_draw_the_same():
    one, other = (make(*of_every_kind(0.4, seed=5)) for _ in range(2))
    call = compiled_call(other)
    for _ in range(6):
        np.testing.assert_allclose(eager(one, BRANCHES, True), call(BRANCHES), rtol=1e-6)


def test_each_example_trains_what_it_drew():
    x = keras.Input((3,))
    sides = [keras.layers.Dense(2, name=name) for name in ("predecessor", "successor")]
    choice = BinaryRandomChoice(0.5, seed=1, sampling="example")
    model = keras.Model(x, choice([side(x) for side in sides]))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(8, 3)).astype("float32")
    outputs = [to_numpy(side(to_tensor(data))) for side in sides]
    output, _, gradients = gradient_function(model)(data, np.zeros((8, 2), "float32"))
    drawn = np.isclose(output, outputs[1]).all(1)
    assert 0 < drawn.sum() < 8
    np.testing.assert_allclose(output, np.where(drawn[:, None], outputs[1], outputs[0]), rtol=1e-5)
    by_weight = dict(zip(map(id, model.trainable_weights), gradients))
    for side, picked, made in zip(sides, (~drawn, drawn), outputs):
        upstream = 2 * made * picked[:, None] / made.size
        np.testing.assert_allclose(
            by_weight[id(side.kernel)], data.T @ upstream, rtol=1e-4, atol=1e-6
        )


def test_the_branch_that_an_example_did_not_draw_poisons_nothing():
    x, y = keras.Input((3,)), keras.Input((3,))
    side = keras.layers.Dense(3)
    model = keras.Model([x, y], BinaryRandomChoice(seed=1, sampling="example")([y, side(x)]))
    data = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    call, expected = compiled_call(model), eager(side, data)
    for bad in (np.nan, np.inf):
        other = np.full_like(data, bad)
        output = call([data, other])
        drawn = np.isfinite(output).all(1)
        assert 0 < drawn.sum() < 8
        np.testing.assert_allclose(output[drawn], expected[drawn], rtol=1e-5)
        np.testing.assert_array_equal(output[~drawn], other[~drawn])


# Precision and compilation.


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    exact = eager(make(*of_every_kind(0.3, seed=3)), BRANCHES, training=True)
    model = make(*of_every_kind(0.3, seed=3, dtype=policy))
    assert policy[6:] in str(model.layers[-2].output.dtype)
    rounded = eager(model, BRANCHES, training=True).astype("float32")
    np.testing.assert_allclose(rounded, exact, atol=0.01)


# JAX compiles with it whenever it compiles.
@pytest.mark.slow_unless("jax")
@pytest.mark.skipif(BACKEND == "torch", reason="torch.compile takes minutes and a C++ compiler")
@pytest.mark.parametrize("gate, sampling", [
    ("bernoulli", "example"), ("uniform", "batch"), ("uniform", "example"), ("blend", "batch"),
])  # fmt: skip
def test_fit_under_xla(gate, sampling):
    x = keras.Input((3,))
    sides = [keras.layers.Dense(2), keras.layers.Dense(2)]
    choice = BinaryRandomChoice(0.5, seed=1, gate=gate, sampling=sampling)
    model = keras.Model(x, choice([side(x) for side in sides]))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=True)
    data = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
    for rate in (0.5, 0.0, 1.0):
        choice.replacement_rate.assign(rate)
        before = [values(side.weights) for side in sides]
        model.fit(data, data[:, :2], batch_size=6, verbose=0)
        changed = [all_changed(a, values(side.weights)) for a, side in zip(before, sides)]
        assert changed == [rate < 1, rate > 0]
        assert all(np.isfinite(w).all() for side in sides for w in values(side.weights))


# In a Theseus model.


def parts():
    keras.utils.set_random_seed(0)
    predecessor, successor = (
        [keras.Input((4,)), *(keras.layers.Dense(4, activation="tanh") for _ in range(number))]
        for number in (4, 2)
    )
    return predecessor, successor, keras.layers.Dense(2)


@pytest.mark.parametrize("gate, sampling", [("bernoulli", "example"), ("blend", "batch")])
def test_a_theseus_model_trains_with_it(gate, sampling, tmp_path):
    predecessor, successor, classifier = parts()
    theseus = build_theseus_model(
        predecessor, successor, classifier, 0.5, "dense", gate=gate, sampling=sampling, seed=0
    )
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(12, size)).astype("float32") for size in (4, 2))
    theseus.compile(keras.optimizers.SGD(0.1), "mse")
    frozen = [*predecessor[1:], classifier]
    before, moving = values(weights_of(frozen)), values(weights_of(successor[1:]))
    theseus.fit(x, y, batch_size=6, epochs=2, verbose=0)
    assert_same(before, values(weights_of(frozen)))
    assert all_changed(moving, values(weights_of(successor[1:])))
    small = build_successor_model(theseus)
    np.testing.assert_allclose(eager(small, x), eager(theseus, x), atol=1e-6)
    theseus.save(tmp_path / "theseus.keras")
    copy = keras.models.load_model(tmp_path / "theseus.keras")
    drawn = eager(theseus, x, training=True)
    np.testing.assert_allclose(eager(copy, x, training=True), drawn, atol=1e-6)
