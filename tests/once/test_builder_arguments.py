"""What the builders take for an encoder, and what they refuse."""

import numpy as np
import pytest
from tiny import HIDDEN, VOCAB, Host, scales

import bert_of_theseus as package_names
from bert_of_theseus import (
    as_encoder,
    build_successor_model,
    build_theseus_model,
    compress,
    get_replacement_rate,
)
from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import Encoder, StackEncoder
from bert_of_theseus.encoders.initialize import split_into_modules
from bert_of_theseus.layers import choice_layers


@pytest.mark.parametrize("n, m, module_map, text", [
    (2, 3, None, r"more layers \(3\) than the predecessor \(2\)"),
    (2, 3, [[0], [1], []], r"more layers \(3\) than the predecessor \(2\)"),
    (4, 2, [[0, 1], [2]], r"2 non-empty lists.*0 to 3 once each, in order.*\[\[0, 1\], \[2\]\]"),
    (4, 2, [[0, 1], [3, 2]], "once each, in order"),
    (4, 2, [[0, 1, 2, 3], []], "2 non-empty lists"),
    (4, 2, [[0], [1], [2, 3]], "2 non-empty lists"),
    (4, 2, [[0, 1], [1, 2, 3]], "once each"),
])  # fmt: skip
def test_bad_module_maps(n, m, module_map, text):
    with pytest.raises(ValueError, match=text):
        scales(n, m, module_map=module_map)


def test_default_modules_are_even():
    for n in range(1, 25):
        for m in range(1, n + 1):
            modules = split_into_modules(n, m)
            assert sum(modules, []) == list(range(n))  # complete, once each, in order
            assert len(modules) == m
            sizes = {len(module) for module in modules}
            assert sizes <= {n // m, -(-n // m)}  # so equal where m divides n
    assert [len(module) for module in split_into_modules(12, 5)] == [2, 3, 2, 3, 2]


@pytest.mark.parametrize("change, error, text", [
    ({"execution": "eager"}, ValueError, r"`execution` must be one of .*'lazy', 'dense'.*'eager'"),
    ({"embeddings": "own"}, ValueError, "`embeddings` must be one of .*Received: 'own'"),
    ({"replacement_rate": 1.5}, ValueError, r"in \[0, 1\].*Received: 1.5"),
    ({"replacement_rate": "0.5"}, TypeError, r"number in \[0, 1\]"),
    ({"seed": 0.5}, TypeError, "at least 0, or None. Received: 0.5"),
    ({"seed": -1}, ValueError, "at least 0, or None. Received: -1"),
])  # fmt: skip
def test_bad_options(change, error, text):
    with pytest.raises(error, match=text):
        scales(2, 1, **change)


def test_bad_parts():
    host = Host()
    with pytest.raises(
        TypeError, match="`classifier` must be a model or layer of the Keras in use"
    ):
        build_theseus_model(host.predecessor, host.successor, lambda x: x)
    with pytest.raises(TypeError, match=r"An encoder must be .*Received: None"):
        build_theseus_model(None, host.successor, host.head)
    with pytest.raises(TypeError, match="A finished model does not say which of its layers"):
        build_successor_model(host.alone([1, 1]), host.head)
    with pytest.raises(TypeError, match=r"`classifier` must be a model or layer.*Received: None"):
        build_successor_model(host.successor)
    with pytest.raises(ValueError, match="Both encoders need an embedding, or neither"):
        bare = StackEncoder(host.successor.layers, inputs=keras.Input((HIDDEN,)))
        build_theseus_model(host.predecessor, bare, host.head)
    wider = StackEncoder(
        host.successor.layers,
        inputs=keras.Input((), dtype="int32"),
        embedding=keras.layers.Embedding(VOCAB + 1, HIDDEN),
    )
    with pytest.raises(ValueError, match=r"embeddings do not fit.*\(9, 4\).*\(10, 4\).*replace"):
        build_theseus_model(host.predecessor, wider, host.head)


def test_the_original_name():
    host = Host()
    theseus = package_names.bert_of_theseus(host.predecessor, host.successor, host.head)
    assert get_replacement_rate(theseus) == 0.5
    assert [type(choice).__name__ for choice in choice_layers(theseus)] == [
        "ChainedRandomChoice"
    ] * 3


# What is an encoder.


def dense_layers(number, units=3):
    return [keras.layers.Dense(units, activation="tanh") for _ in range(number)]


def shape_of(encoder):
    (tensor,) = encoder.inputs
    return tuple(tensor.shape)


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


# Successors that do not fit.


def convolution():
    return keras.layers.Conv1D(HIDDEN, 3, padding="same")


def predecessor():
    return StackEncoder(
        [keras.layers.Dense(HIDDEN) for _ in range(4)],
        inputs=keras.Input((None,), dtype="int32"),
        embedding=keras.layers.Embedding(VOCAB, HIDDEN, mask_zero=True),
    )


def head():
    x = keras.Input((None, HIDDEN))
    return keras.Model(x, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))


@pytest.mark.parametrize("execution", ["lazy", "dense"])
@pytest.mark.parametrize("layers, text", [
    (lambda: [keras.layers.LSTM(HIDDEN), keras.layers.LSTM(HIDDEN)],
     r"module_0'.*predecessor \(None, None, 4\), successor \(None, 4\)"),
    (lambda: [convolution(), keras.layers.GRU(3, return_sequences=True)],
     r"module_1'.*predecessor \(None, None, 4\), successor \(None, None, 3\)"),
])  # fmt: skip
def test_mixed_shapes(layers, text, execution):
    with pytest.raises(ValueError, match=text):
        build_theseus_model(predecessor(), layers(), head(), execution=execution)


def test_there_is_nothing_to_start_from(tmp_path):
    with pytest.raises(
        ValueError, match=r"layer 0 and the successor's layer 0 do not fit.*initialize=None"
    ):
        compress(
            predecessor(),
            [convolution(), convolution()],
            head(),
            (np.ones((4, 5), "int32"), np.arange(4) % 3),
            directory=tmp_path / "run",
            predecessor_stage=None,
            verbose=0,
        )
    assert not (tmp_path / "run").exists()
