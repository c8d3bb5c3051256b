"""What can be an encoder, and stacks of Keras layers as one."""

import numpy as np
import pytest
from helpers import gradient_function, to_numpy, to_tensor

from bert_of_theseus import (
    Encoder,
    StackEncoder,
    as_encoder,
    build_successor_model,
    build_theseus_model,
    set_replacement_rate,
)
from bert_of_theseus.backend import keras

X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(4, 2)).astype("float32")


def dense_layers(number, units=3):
    return [keras.layers.Dense(units, activation="tanh") for _ in range(number)]


def shape_of(encoder):
    (tensor,) = encoder.inputs
    return tuple(tensor.shape)


def test_what_is_an_encoder():
    encoder = StackEncoder(dense_layers(2), inputs=keras.Input((6, 3)))
    assert as_encoder(encoder) is encoder

    sequential = keras.Sequential([keras.Input((6, 3)), *dense_layers(2)])
    listed = [keras.Input((6, 3)), *dense_layers(2)]
    called = dense_layers(2)
    x = keras.Input((6, 3))
    for layer in called:
        x = layer(x)
    for model in (sequential, listed, called):
        encoder = as_encoder(model)
        assert isinstance(encoder, Encoder)
        assert encoder.num_hidden_layers == 2
        assert shape_of(encoder) == (None, 6, 3)
        assert tuple(encoder.output.shape) == (None, 6, 3)


def test_a_stack_in_the_middle_of_a_model_begins_with_an_input_of_its_own():
    layers = dense_layers(2)
    x = keras.layers.Dense(3)(keras.Input((6, 5)))
    for layer in layers:
        x = layer(x)
    assert shape_of(as_encoder(layers)) == (None, 6, 3)


def test_layers_never_called_take_the_predecessors_input():
    predecessor = as_encoder([keras.Input((6, 3)), *dense_layers(4)])
    assert shape_of(as_encoder(dense_layers(2), like=predecessor)) == (None, 6, 3)


@pytest.mark.parametrize("model, error, text", [
    (None, TypeError, "An encoder must be a bert4keras Transformer.*Received: None"),
    ("bert", TypeError, "Received: 'bert'"),
    ([], ValueError, "at least one layer"),
    ([lambda x: x], TypeError, "A stack is made of layers of the Keras in use"),
])  # fmt: skip
def test_what_is_none(model, error, text):
    with pytest.raises(error, match=text):
        as_encoder(model)


def test_unclear_models():
    with pytest.raises(ValueError, match=r"was never called.*Put `keras.Input\(shape\)` in front"):
        as_encoder(dense_layers(2))
    x = keras.Input((6, 3))
    with pytest.raises(TypeError, match="does not say which of its layers are the encoder's"):
        as_encoder(keras.Model(x, keras.layers.Dense(3)(x)))


def convolutions(number):
    return [keras.layers.Conv1D(3, 3, padding="same", activation="tanh") for _ in range(number)]


def lstms(number):
    return [keras.layers.LSTM(3, return_sequences=True) for _ in range(number)]


def strided(number):
    """A stack that changes the shape on its way: by 2 in each module."""
    return [
        keras.layers.Conv1D(3 + i // (number // 2), 3, strides=1 + (i == number // 2 - 1),
                            padding="same", activation="tanh")
        for i in range(number)
    ]  # fmt: skip


def head():
    return keras.Sequential([keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)])


@pytest.mark.parametrize("layers", [convolutions, lstms, strided])
def test_lazy_is_dense(layers):
    keras.utils.set_random_seed(0)
    predecessor = as_encoder([keras.Input((6, 3)), *layers(4)])
    successor, classifier = as_encoder(layers(2), like=predecessor), head()
    models = [
        build_theseus_model(predecessor, successor, classifier, execution=execution)
        for execution in ("lazy", "dense")
    ]
    runs = [gradient_function(model) for model in models]
    for rates in ((1, 0), (0, 1)):
        for model in models:
            choices = [layer for layer in model.layers if hasattr(layer, "replacement_rate")]
            for choice, rate in zip(choices, rates):
                set_replacement_rate([choice], rate)
        lazy, dense = (run(X, Y) for run in runs)
        np.testing.assert_allclose(lazy[0], dense[0], atol=1e-5)
        assert lazy[1] == pytest.approx(dense[1], abs=1e-5)
        used = 0
        for a, b in zip(lazy[2], dense[2]):
            a, b = (np.zeros(1) if gradient is None else gradient for gradient in (a, b))
            np.testing.assert_allclose(a, np.broadcast_to(b, np.shape(a)) if b.size == 1 else b,
                                       atol=1e-5)  # fmt: skip
            used += bool((b != 0).any())
        assert 0 < used < len(lazy[2])


def test_embedding_and_end_of_a_stack():
    keras.utils.set_random_seed(0)

    def stack(number):
        return StackEncoder(
            dense_layers(number),
            inputs=keras.Input((6,), dtype="int32"),
            embedding=keras.layers.Embedding(5, 3),
            final=keras.layers.Dense(2, name=f"final_of_{number}"),
        )

    predecessor, successor, classifier = stack(4), stack(2), head()
    theseus = build_theseus_model(predecessor, successor, classifier, 1.0)
    small = build_successor_model(theseus)
    ids = np.arange(12).reshape(2, 6) % 5
    expected = to_numpy(small(to_tensor(ids)))
    np.testing.assert_allclose(theseus.predict(ids, verbose=0), expected, atol=1e-6)
    # Embedding and end are the predecessor's, copied, and stand still.
    for ours, theirs in [
        (successor._embedding, predecessor._embedding),
        (successor._final, predecessor._final),
    ]:
        for a, b in zip(ours.weights, theirs.weights):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
            assert all(a is not weight for weight in theseus.trainable_weights)
