"""The laws of `ModuleChoice`: `BinaryRandomChoice`'s, at the cost of one module."""

import numpy as np
import pytest
from helpers import (
    Probe,
    any_changed,
    assert_same,
    compiled_call,
    eager,
    gradient_function,
    many_calls,
    package,
    to_numpy,
    to_tensor,
    values,
)

from bert_of_theseus import BinaryRandomChoice, ModuleChoice, set_replacement_rate
from bert_of_theseus.backend import BACKEND, KERAS_2, keras, ops

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")


def dense(name, **kwargs):
    return keras.layers.Dense(3, activation="tanh", name=name, **kwargs)


def make_model(predecessor, successor, below=(), shape=(3,), **kwargs):
    """Model: `below`, then the choice."""
    inputs = x = keras.Input(shape)
    for layer in below:
        x = layer(x)
    choice = ModuleChoice(predecessor, successor, **kwargs)
    model = keras.Model(inputs, choice(x))
    return model, choice


# The choice.


def test_draws_as_binary_random_choice_does():
    x = keras.Input((3,))
    sides = dense("predecessor"), dense("successor")
    model = keras.Model(
        x,
        keras.layers.Concatenate()(
            [
                ModuleChoice(*sides, seed=2)(x),
                BinaryRandomChoice(seed=2)([side(x) for side in sides]),
                *(side(x) for side in sides),
            ]
        ),
    )
    calls = many_calls(model, 100)
    for rate in (0.0, 0.3, 1.0):
        set_replacement_rate(model, rate)
        lazy, dense_wiring, predecessor, successor = np.split(calls(X), 4, axis=-1)
        np.testing.assert_allclose(lazy, dense_wiring, atol=1e-6)
        replaced = np.isclose(lazy, successor, atol=1e-6).all((1, 2))
        kept = np.isclose(lazy, predecessor, atol=1e-6).all((1, 2))
        assert (replaced ^ kept).all()
        assert abs(replaced.sum() - 100 * rate) <= 4 * np.sqrt(100 * rate * (1 - rate))


@pytest.mark.parametrize("training", [None, False])
@pytest.mark.parametrize("rate", [0, 1])
def test_inference_is_the_successor(rate, training):
    predecessor, successor = dense("predecessor"), dense("successor")
    _, choice = make_model(predecessor, successor, replacement_rate=rate)
    before = values([choice.draw_state])
    np.testing.assert_array_equal(eager(choice, X, training), eager(successor, X))
    assert_same(before, values([choice.draw_state]))


# Only what was picked costs something.


@pytest.fixture(scope="module")
def probed():
    """A choice between probed modules, above a trainable layer; both gradients or one only."""
    predecessor = [Probe(name="p_in"), dense("p"), Probe(name="p_out")]
    successor = [Probe(name="s_in"), dense("s"), Probe(name="s_out")]
    model, _ = make_model(predecessor, successor, below=[dense("below")])
    return model, predecessor, successor, gradient_function(model)


@pytest.mark.parametrize("rate", [0, 1])
def test_only_the_picked_module_runs(rate, probed):
    model, predecessor, successor, run = probed
    set_replacement_rate(model, rate)
    run(X, Y)  # traced, if need be
    probes = [layer for layer in predecessor + successor if isinstance(layer, Probe)]
    for probe in probes:
        probe.reset()
    _, _, gradients = run(X, Y)
    expected = [0, 0, 1, 1] if rate else [1, 1, 0, 0]
    assert [probe.forwards for probe in probes] == expected
    assert [probe.backwards for probe in probes] == expected
    # What lies below is trained through either.
    by_weight = dict(zip(map(id, model.trainable_weights), gradients))
    below = by_weight[id(model.get_layer("below").kernel)]
    assert (below != 0).any()


@pytest.mark.parametrize("rate", [0, 1])
def test_gradients_are_those_of_the_picked_module(rate, probed):
    model, predecessor, successor, run = probed
    set_replacement_rate(model, rate)
    output, loss, gradients = run(X, Y)
    x = keras.Input((3,))
    y = model.get_layer("below")(x)
    y = (successor if rate else predecessor)[1](y)
    alone = keras.Model(x, y)
    expected = gradient_function(alone)(X, Y)
    np.testing.assert_allclose(output, expected[0], atol=1e-6)
    assert loss == pytest.approx(expected[1], abs=1e-6)
    got = dict(zip(map(id, model.trainable_weights), gradients))
    frozen = set(map(id, predecessor[1].weights))
    for weight, gradient in zip(alone.trainable_weights, expected[2]):
        if id(weight) not in frozen:
            np.testing.assert_allclose(got[id(weight)], gradient, atol=1e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX differentiates what it is asked to")
@pytest.mark.parametrize("rate", [0, 0.5, 1])
def test_no_gradient_of_the_predecessor(rate, probed):
    # Not zero: none. The predecessor's weights are `trainable` here, and watched by the tape.
    model, predecessor, successor, run = probed
    set_replacement_rate(model, rate)
    assert all(weight.trainable for weight in predecessor[1].weights)
    _, _, gradients = run(X, Y)
    by_weight = dict(zip(map(id, model.trainable_weights), gradients))
    assert all(by_weight[id(weight)] is None for weight in predecessor[1].weights)
    assert all(by_weight[id(weight)] is not None for weight in successor[1].weights)


def test_two_gradients_of_one_step():
    # Of a persistent tape, say: what is differentiated twice must not be used up.
    model, _ = make_model(dense("p"), dense("s"), below=[dense("below")], replacement_rate=0)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        kernel = model.get_layer("below").kernel
        kernel = kernel if KERAS_2 else kernel.value
        with tf.GradientTape(persistent=True) as tape:
            y = tf.reduce_sum(model(X, training=True))
        pair = [tape.gradient(y, kernel) for _ in range(2)]
    elif BACKEND == "torch":
        kernel = model.get_layer("below").kernel.value
        y = model(X, training=True).sum()
        y.backward(retain_graph=True)
        pair = [kernel.grad.clone()]
        kernel.grad = None
        y.backward()
        pair.append(kernel.grad)
    else:
        run = gradient_function(model)
        pair = [run(X, Y)[2][0] for _ in range(2)]
    first, second = map(to_numpy, pair)
    assert (first != 0).any()
    np.testing.assert_array_equal(first, second)


def test_flags_of_the_caller_stay():
    predecessor, successor = [dense("p"), dense("p2")], dense("s")
    predecessor[1].trainable = False
    model, _ = make_model(predecessor, successor, replacement_rate=0.5, seed=0)
    gradient_function(model)(X, Y)
    assert [layer.trainable for layer in [*predecessor, successor]] == [True, False, True]
    assert [w.trainable for w in predecessor[0].weights] == [True, True]


def test_an_error_inside_leaves_the_flags():
    class Broken(keras.layers.Layer):
        def compute_output_shape(self, input_shape):
            return input_shape

        def call(self, x):
            raise RuntimeError("broken on purpose")

    predecessor = [dense("p"), Broken()]
    choice = ModuleChoice(predecessor, dense("s"), replacement_rate=0)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        choice(to_tensor(X), training=True)
    assert predecessor[0].trainable


# What modules may hold.


@pytest.mark.parametrize("on", [True, False])
def test_predecessor_dropout(on):
    predecessor = [dense("p"), keras.layers.Dropout(0.5, seed=1)]
    model, _ = make_model(predecessor, dense("s"), replacement_rate=0, predecessor_dropout=on)
    call = compiled_call(model)
    outputs = [call(X) for _ in range(3)]
    assert any((output == 0).any() for output in outputs) == on
    # New noise in each step, or none.
    assert (outputs[0] != outputs[1]).any() == on


def test_successor_dropout_is_always_on():
    model, _ = make_model(
        dense("p"),
        [dense("s"), keras.layers.Dropout(0.5, seed=1)],
        replacement_rate=1,
        predecessor_dropout=False,
    )
    call = compiled_call(model)
    outputs = [call(X) for _ in range(3)]
    assert any((output == 0).any() for output in outputs)
    assert (outputs[0] != outputs[1]).any()


def test_batch_normalisation():
    predecessor, successor = (
        [dense(side), keras.layers.BatchNormalization(momentum=0.5)] for side in "ps"
    )
    model, choice = make_model(predecessor, successor)
    before = values(predecessor[1].weights), values(successor[1].non_trainable_weights)
    call = compiled_call(model)
    for rate in (0, 1):
        set_replacement_rate(choice, rate)
        for _ in range(2):
            call(X)
        assert_same(before[0], values(predecessor[1].weights))
        assert any_changed(before[1], values(successor[1].non_trainable_weights)) == bool(rate)


@package
class Biased(keras.layers.Layer):
    """`[x, bias]` to `kernel * x + bias`."""

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(3,), initializer="random_normal")
        self.built = True

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def call(self, inputs):
        return inputs[0] * self.kernel + inputs[1]


def test_several_inputs():
    inputs = [keras.Input((3,)), keras.Input((3,))]
    predecessor, successor = Biased(), Biased()
    choice = ModuleChoice(predecessor, successor)
    model = keras.Model(inputs, choice(inputs))
    gradients_of = gradient_function(model)
    for rate in (0, 1):
        set_replacement_rate(choice, rate)
        (kernel,) = values((successor if rate else predecessor).weights)
        output, _, gradients = gradients_of([X, Y], Y)
        np.testing.assert_allclose(output, X * kernel + Y, atol=1e-6)
        np.testing.assert_allclose(
            eager(model, [X, Y]), X * values(successor.weights)[0] + Y, atol=1e-6
        )
        by_weight = dict(zip(map(id, model.trainable_weights), gradients))
        gradient = by_weight[id(successor.kernel)]
        expected = (2 * (output - Y) / Y.size * X).sum(0) * rate
        np.testing.assert_allclose(
            np.zeros(3) if gradient is None else gradient, expected, atol=1e-6
        )


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_token_ids_in(dtype):
    predecessor, successor = (keras.layers.Embedding(5, 3) for _ in range(2))
    inputs = keras.Input((), dtype=dtype)
    choice = ModuleChoice(predecessor, successor)
    gradients_of = gradient_function(keras.Model(inputs, choice(inputs)))
    ids = np.array([0, 4, 2, 2])
    for rate, picked in enumerate([predecessor, successor]):
        set_replacement_rate(choice, rate)
        output, _, _ = gradients_of(ids.astype(dtype), Y)
        np.testing.assert_array_equal(output, values(picked.weights)[0][ids])


@package
class MinusMaskedSum(keras.layers.Layer):
    """Takes off `scale` times the sum of the positions that count."""

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.scale = scale

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x, mask=None):
        weights = ops.ones_like(x) if mask is None else ops.cast(mask, x.dtype)[:, :, None]
        total = (ops.reduce_sum if KERAS_2 else ops.sum)(x * weights, axis=1, keepdims=True)
        return x - self.scale * total

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


def test_masks_reach_the_modules_and_what_lies_above():
    inputs = keras.Input((3, 2))
    x = keras.layers.Masking(9.0)(inputs)
    choice = ModuleChoice([MinusMaskedSum(2.0), MinusMaskedSum(3.0)], MinusMaskedSum(5.0))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(choice(x)))
    x = np.array([[[1, 2], [9, 9], [3, 4]]], "float32")
    # Two positions count, of mean m: their sum is 2 m.
    mean = np.array([[2.0, 3.0]])
    first = mean - 2 * 2 * mean
    call = compiled_call(model)
    for rate, expected in enumerate([first - 3 * 2 * first, mean - 5 * 2 * mean]):
        set_replacement_rate(choice, rate)
        np.testing.assert_allclose(call(x), expected, rtol=1e-5)
        np.testing.assert_allclose(eager(model, x), mean - 5 * 2 * mean, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    sides = [dense(side, dtype=policy) for side in "ps"]
    model, choice = make_model(*sides, below=[dense("below", dtype=policy)], dtype=policy)
    assert policy.removeprefix("mixed_") in str(model.output.dtype)
    assert "float32" in str(choice.replacement_rate.dtype)
    gradients_of = gradient_function(model)
    for rate, side in enumerate(sides):
        set_replacement_rate(choice, rate)
        output, loss, _ = gradients_of(X, Y)
        assert np.isfinite(loss)
        alone = keras.Model(model.input, side(model.get_layer("below")(model.input)))
        expected = eager(alone, X, training=True).astype("float32")
        np.testing.assert_allclose(output.astype("float32"), expected, atol=1e-2)


# Files.


FORMATS = ["model.keras", "model.weights.h5", *(["model.h5", "saved_model"] if KERAS_2 else [])]


def normalised():
    sides = [dense("p"), keras.layers.BatchNormalization(name="n")], dense("s")
    return make_model(*sides, below=[dense("below")], seed=4)[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model that has drawn, in files of every format; what it makes of `X` then."""
    folder, model = tmp_path_factory.mktemp("files"), normalised()
    call = compiled_call(model)
    for _ in range(5):
        call(X)
    for file in FORMATS:
        (model.save_weights if "weights" in file else model.save)(str(folder / file))
    return folder, eager(model, X), [call(X) for _ in range(12)]


@pytest.mark.parametrize("file", FORMATS)
def test_files(file, saved):
    folder, inference, expected = saved
    assert any((output != expected[0]).any() for output in expected)
    if "weights" in file:
        copy = normalised()
        copy.load_weights(str(folder / file))
    else:
        copy = keras.models.load_model(str(folder / file))
    np.testing.assert_allclose(eager(copy, X), inference, atol=1e-6)
    again = compiled_call(copy) if file == "model.keras" else lambda x: eager(copy, x, True)
    np.testing.assert_allclose([again(X) for _ in range(12)], expected, atol=1e-6)


FORMATS = ["model.keras", "model.weights.h5", *(["model.h5", "saved_model"] if KERAS_2 else [])]


class Conditional(keras.layers.Layer):
    """A Python `if` on a tensor, which Keras 2 on TensorFlow lets autograph convert."""

    def call(self, x):
        if KERAS_2 and ops.reduce_sum(x) > 0:
            return x * 2.0
        return x * 3.0


def test_python_conditions_in_layers_are_converted():
    x = keras.Input((3,))
    choice = ModuleChoice(Conditional(), Conditional())
    model = keras.Model(x, keras.layers.Dense(1)(choice(x)))
    model.compile("sgd", "mse")
    for rate in (0.0, 1.0):
        set_replacement_rate(choice, rate)
        model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
