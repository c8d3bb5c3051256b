"""The laws of `BinaryRandomChoice`."""

import itertools

import numpy as np
import pytest
from helpers import (
    any_changed,
    assert_same,
    compiled_call,
    dtype_policy,
    eager,
    gradient_function,
    many_calls,
    values,
)
from laws import ShowMask

from bert_of_theseus import BinaryRandomChoice, get_replacement_rate, set_replacement_rate
from bert_of_theseus.backend import BACKEND, KERAS_2, keras

DRAWS = 400
# One number per draw says which branch it was: the predecessor's is 0, the successor's 1.
BRANCHES = [np.zeros((2, 3), "float32"), np.ones((2, 3), "float32")]


def make_model(*choices):
    """Model on `[predecessor, successor]` with one output per choice, side by side."""
    inputs = [keras.Input((3,)), keras.Input((3,))]
    outputs = [choice(inputs) for choice in choices]
    output = keras.layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0]
    return keras.Model(inputs, output)


def draws(model, number=DRAWS):
    """`(number, batch_size, 3 * choices)` of 0 and 1."""
    return many_calls(model, number)(BRANCHES)


def within_4_sigma(hits, number, probability):
    return abs(hits - number * probability) <= 4 * np.sqrt(number * probability * (1 - probability))


# The choice.


def test_one_draw_per_batch_at_the_rate():
    choice = BinaryRandomChoice(seed=3)
    draw = many_calls(make_model(choice), DRAWS)
    for rate in (0.0, 0.1, 0.5, 0.8, 1.0):
        set_replacement_rate(choice, rate)
        drawn = draw(BRANCHES)
        assert set(np.unique(drawn)) <= {0, 1}
        # One branch, for the whole batch.
        assert (drawn == drawn[:, :1, :1]).all()
        assert within_4_sigma(drawn[:, 0, 0].sum(), DRAWS, rate)


def test_outputs_are_the_branches_to_the_bit():
    rng = np.random.default_rng(0)
    branches = [rng.normal(size=(4, 3)).astype("float32") * 1e20 for _ in range(2)]
    call = compiled_call(make_model(BinaryRandomChoice(seed=0)))
    seen = {
        next(i for i, branch in enumerate(branches) if (output == branch).all())
        for output in (call(branches) for _ in range(20))
    }
    assert seen == {0, 1}


@pytest.mark.parametrize("training", [None, False])
def test_inference_is_the_successor(training):
    choice = BinaryRandomChoice(seed=0)
    compiled = compiled_call(make_model(choice), training)
    for rate in (0, 0.5, 1):
        set_replacement_rate(choice, rate)
        before = values(choice.weights)
        for _ in range(8):
            np.testing.assert_array_equal(eager(choice, BRANCHES, training), BRANCHES[1])
        np.testing.assert_array_equal(compiled(BRANCHES), BRANCHES[1])
        assert_same(before, values(choice.weights))


def test_eager_and_compiled_draw_the_same():
    choice = BinaryRandomChoice(seed=5)
    one_by_one = [eager(choice, BRANCHES, training=True) for _ in range(24)]
    compiled = draws(make_model(BinaryRandomChoice(seed=5)), 24)
    np.testing.assert_array_equal(one_by_one, compiled)
    assert 0 < np.mean(compiled) < 1


def test_seeds():
    model = make_model(*(BinaryRandomChoice(seed=s) for s in [0, 1, 2, 1000, -1, 2**40, 0]))
    drawn = draws(model)[:, 0, ::3]
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, -1])
    correlations = np.corrcoef(drawn[:, :-1].T)[np.triu_indices(6, k=1)]
    assert (abs(correlations) <= 4 / np.sqrt(DRAWS)).all()
    # Nor is one sequence another one, shifted: seeds are added to counters in some backends.
    for lag in (1, 2):
        shifted = np.corrcoef(drawn[lag:, :-1].T, drawn[:-lag, :-1].T)[:6, 6:]
        assert (abs(shifted) <= 4 / np.sqrt(DRAWS - lag)).all()


def test_the_global_seed_governs_layers_without_one():
    def two_layers(seed):
        keras.utils.set_random_seed(seed)
        return draws(make_model(BinaryRandomChoice(), BinaryRandomChoice()), 48)

    first = two_layers(1)
    np.testing.assert_array_equal(first, two_layers(1))
    assert (first != two_layers(2)).any()
    assert (first[..., 0] != first[..., 3]).any()


# The live rate.


def make_trainable(rate, **compile_options):
    """A trainable layer on each side of a choice."""
    x = keras.Input((3,))
    sides = [keras.layers.Dense(2, name=name) for name in ("predecessor", "successor")]
    choice = BinaryRandomChoice(rate, seed=1)
    model = keras.Model(x, choice([side(x) for side in sides]))
    if compile_options:
        model.compile(keras.optimizers.SGD(0.1), "mse", **compile_options)
    return model, *sides, choice


X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 2)).astype("float32")


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_rate_changed_after_a_step_takes_effect(run_eagerly):
    model, predecessor, successor, choice = make_trainable(0, run_eagerly=run_eagerly)
    for rate, trained, still in [
        (0, predecessor, successor),
        (1, successor, predecessor),
        (0, predecessor, successor),
    ]:
        set_replacement_rate(model, rate)
        assert get_replacement_rate(model) == rate
        before, rest = values(trained.weights), values(still.weights)
        for _ in range(4):
            model.train_on_batch(X, Y)
        assert any_changed(before, values(trained.weights))
        assert_same(rest, values(still.weights))
    assert all(w is not choice.replacement_rate for w in model.trainable_weights)


def test_rates_of_many_choices():
    model = make_model(BinaryRandomChoice(0.25), BinaryRandomChoice(0.75))
    draw = many_calls(model, 8)
    assert get_replacement_rate(model) == 0.5
    set_replacement_rate(model, 1)
    assert draw(BRANCHES).all()
    set_replacement_rate(model.layers[2:], 0)
    assert not draw(BRANCHES).any()
    with pytest.raises(ValueError, match="no BinaryRandomChoice or ModuleChoice"):
        set_replacement_rate(keras.Sequential([keras.layers.Dense(1)]), 0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\].*Received: 2"):
        set_replacement_rate(model, 2)


def test_the_unpicked_branch_poisons_nothing():
    model, predecessor, successor, choice = make_trainable(0)
    gradients_of = gradient_function(model)
    for rate, bad in itertools.product((0, 1), (np.nan, np.inf, -np.inf)):
        set_replacement_rate(choice, rate)
        picked, unpicked = (successor, predecessor) if rate else (predecessor, successor)
        picked.bias.assign(np.zeros(2, "float32"))
        unpicked.bias.assign(np.full(2, bad, "float32"))
        output, loss, gradients = gradients_of(X, Y)
        clean = eager(picked, X)
        np.testing.assert_allclose(output, clean, rtol=1e-6)
        assert np.isfinite(loss)
        by_weight = dict(zip(map(id, model.trainable_weights), gradients))
        kernel, bias = (by_weight[id(weight)] for weight in picked.trainable_weights)
        upstream = 2 * (clean - Y) / Y.size
        np.testing.assert_allclose(kernel, X.T @ upstream, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(bias, upstream.sum(0), rtol=1e-4, atol=1e-6)
        for weight in unpicked.trainable_weights:
            gradient = by_weight[id(weight)]
            assert gradient is None or (gradient == 0).all()


# Masks.


@pytest.mark.parametrize("masked, expected", [
    ("neither", [-1, -1, -1]),
    ("predecessor", [1, 0, 1]),
    ("successor", [1, 0, 1]),
    ("both", [1, 0, 1]),
    ("differently", [0, 0, 1]),
])  # fmt: skip
def test_masks_pass(masked, expected):
    inputs = keras.Input((3, 2))
    plain = keras.layers.Activation("linear")(inputs)
    first = keras.layers.Masking(0.0)(inputs)
    second = keras.layers.Masking(1.0)(inputs)
    pair = {
        "neither": [plain, inputs],
        "predecessor": [first, plain],
        "successor": [plain, first],
        "both": [first, keras.layers.Activation("linear")(first)],
        "differently": [first, second],
    }[masked]
    model = keras.Model(inputs, ShowMask()(BinaryRandomChoice(seed=0)(pair)))
    x = np.array([[[1, 1], [0, 0], [2, 2]]], "float32")
    for training in (False, True):
        np.testing.assert_array_equal(eager(model, x, training), [expected])


# Configs and files.


def test_a_config_has_the_live_rate():
    choice = BinaryRandomChoice(0.1, seed=7)
    assert choice.get_config()["replacement_rate"] == 0.1
    choice.replacement_rate.assign(0.35)
    copy = BinaryRandomChoice.from_config(choice.get_config())
    assert copy.get_config()["replacement_rate"] == 0.35 and copy.seed == 7
    assert_same(values(choice.weights), values(copy.weights))
    plain = BinaryRandomChoice().get_config()
    assert (plain["gate"], plain["sampling"]) == ("bernoulli", "batch")


FORMATS = ["model.keras", "model.weights.h5"]
if KERAS_2:
    FORMATS += ["model.h5", "saved_model", "model.weights"]


@pytest.mark.skipif(KERAS_2 or BACKEND != "tensorflow", reason="Keras 3 on TensorFlow exports")
def test_exported_model_is_the_successor(tmp_path):
    import tensorflow as tf

    make_model(BinaryRandomChoice(0.0)).export(str(tmp_path / "model"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(served.serve(BRANCHES), BRANCHES[1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model that has drawn, in files of every format; and what it draws then."""
    model = make_model(BinaryRandomChoice(0.5, seed=4), BinaryRandomChoice(0.9, seed=None))
    for _ in range(7):
        eager(model, BRANCHES, training=True)
    set_replacement_rate(model, 0.45)
    folder = tmp_path_factory.mktemp("files")
    for file in FORMATS:
        (model.save_weights if "weights" in file else model.save)(str(folder / file))
    return folder, np.stack([eager(model, BRANCHES, training=True) for _ in range(24)])


@pytest.mark.parametrize("file", FORMATS)
def test_files_keep_the_rate_and_the_draws(file, saved):
    folder, expected = saved
    assert all(0 < expected[..., unit].mean() < 1 for unit in (0, 3))
    if "weights" in file:
        copy = make_model(BinaryRandomChoice(seed=9), BinaryRandomChoice(seed=9))
        copy.load_weights(str(folder / file))
    else:
        copy = keras.models.load_model(str(folder / file))
    assert get_replacement_rate(copy) == pytest.approx(0.45)
    for output in expected:
        np.testing.assert_array_equal(eager(copy, BRANCHES, training=True), output)


# Precision and compilation.


@pytest.fixture(scope="module")
def exact():
    return draws(make_model(BinaryRandomChoice(0.1, seed=3)), 60)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, exact):
    choice = BinaryRandomChoice(0.1, seed=3, dtype=policy)
    inputs = [keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(inputs, choice(inputs))
    assert policy.removeprefix("mixed_") in str(model.output.dtype)
    # 0.1 is neither rounded nor is the number that it is compared with.
    assert "float32" in str(choice.replacement_rate.dtype)
    np.testing.assert_array_equal(values([choice.replacement_rate]), [np.float32(0.1)])
    np.testing.assert_array_equal(draws(model, 60).astype("float32"), exact)


@pytest.mark.skipif(BACKEND == "torch", reason="torch.compile takes minutes and a C++ compiler")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fit_under_xla(policy):
    with dtype_policy(policy):
        model, predecessor, successor, choice = make_trainable(0.5, jit_compile=True)
    before = values(predecessor.weights + successor.weights)
    count = values([choice.draw_state])[0][1]
    model.fit(X, Y, batch_size=2, epochs=2, verbose=0)
    assert all_finite_and_changed(before, values(predecessor.weights + successor.weights))
    assert values([choice.draw_state])[0][1] == count + 12


def all_finite_and_changed(before, after):
    return all(np.isfinite(b).all() and (a != b).any() for a, b in zip(before, after))
