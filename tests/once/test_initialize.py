"""The laws of `initialize_successor`."""

import numpy as np
import pytest
from helpers import assert_same, values

from bert_of_theseus import as_encoder, build_theseus_model
from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import StackEncoder, initialize_successor

VOCAB, HIDDEN = 9, 4
X = np.random.default_rng(0).integers(0, VOCAB, (6, 5)).astype("int32")
Y = np.random.default_rng(1).integers(0, 2, 6).astype("int32")


class Block(keras.layers.Layer):
    """A layer of layers, with statistics beside its weights."""

    def __init__(self):
        super().__init__()
        self.layers = [
            keras.layers.BatchNormalization(),
            keras.layers.Dense(HIDDEN, activation="tanh"),
            keras.layers.BatchNormalization(),
        ]

    def build(self, input_shape):
        for layer in self.layers:
            layer.build(input_shape)
        self.built = True

    def call(self, x, training=None):
        first, dense, second = self.layers
        return second(dense(first(x, training=training)), training=training)

    def compute_output_shape(self, input_shape):
        return input_shape


def randomise(model, seed):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in str(weight.dtype):
            weight.assign(rng.uniform(0.5, 1.5, tuple(weight.shape)).astype("float32"))


def encoder(number, seed, vocab=VOCAB, final=True):
    stack = StackEncoder(
        [Block() for _ in range(number)],
        inputs=keras.Input((5,), dtype="int32"),
        embedding=keras.layers.Embedding(vocab, HIDDEN),
        final=keras.layers.Dense(3) if final else None,
    )
    stack.model = keras.Model(stack.inputs, stack.output)
    randomise(stack.model, seed)
    return stack


def of(layer):
    return values(layer.weights)


@pytest.mark.parametrize("n, m, options, expected", [
    (6, 3, {}, [0, 1, 2]),
    (6, 3, {"layers": "last"}, [3, 4, 5]),
    (6, 3, {"layers": "every_kth"}, [1, 3, 5]),
    (5, 2, {"layers": "every_kth"}, [1, 4]),
    (3, 3, {"layers": "every_kth"}, [0, 1, 2]),
    (6, 3, {"layers": "module_first"}, [0, 2, 4]),
    (5, 2, {"layers": "module_first"}, [0, 2]),
    (5, 2, {"layers": "module_first", "module_map": [[0, 1, 2, 3], [4]]}, [0, 4]),
    (5, 3, {"layers": [4, 0, 4]}, [4, 0, 4]),
    (5, 2, {"layers": np.array([3, 1])}, [3, 1]),
])  # fmt: skip
def test_each_layer_starts_as_one_of_the_predecessors(n, m, options, expected):
    predecessor, successor = encoder(n, seed=0), encoder(m, seed=1)
    before = of(predecessor.model)
    assert initialize_successor(predecessor, successor, **options) == expected
    for own, theirs in enumerate(expected):
        assert_same(of(predecessor.layers[theirs]), of(successor.layers[own]))
    assert_same(of(predecessor._embedding), of(successor._embedding))
    assert_same(of(predecessor._final), of(successor._final))
    assert_same(before, of(predecessor.model))


def test_the_shortest_example_of_every_kth():
    predecessor, successor = (
        [keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(number))] for number in (12, 3)
    )
    assert initialize_successor(predecessor, successor, "every_kth") == [3, 7, 11]


def test_flags_and_compiled_models_stay_as_they_are():
    predecessor, successor = encoder(4, seed=0), encoder(2, seed=1)
    predecessor.layers[0].layers[0].trainable = False  # Keras 2 orders weights by the flags
    successor.layers[1].trainable = False
    head = keras.Sequential(
        [
            keras.Input((5, 3)),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    fine_tuned = keras.Model(predecessor.inputs[0], head(predecessor.output))
    fine_tuned.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    fine_tuned.train_on_batch(X, Y)
    layers = [*fine_tuned._flatten_layers(), *successor.model._flatten_layers()]
    flags = [layer.trainable for layer in layers]
    step = fine_tuned.train_function

    initialize_successor(predecessor, successor)
    assert [layer.trainable for layer in layers] == flags
    assert fine_tuned.train_function is step
    for theirs, own in zip(predecessor.layers, successor.layers):
        for inner, copy in zip(theirs.layers, own.layers):
            assert_same(of(inner), of(copy))
    # What both encoders are now, they are in what follows too.
    copied = of(successor.model)
    build_theseus_model(predecessor, successor, head)
    assert_same(copied, of(successor.model))
    before = of(predecessor.layers[2])
    fine_tuned.train_on_batch(X, Y)
    assert any((a != b).any() for a, b in zip(before, of(predecessor.layers[2])))
    assert_same(copied, of(successor.model))


def test_layers_that_were_never_called():
    predecessor = [keras.Input((HIDDEN,)), *(keras.layers.Dense(HIDDEN) for _ in range(4))]
    successor = [keras.layers.Dense(HIDDEN) for _ in range(2)]
    assert initialize_successor(predecessor, successor, "last") == [2, 3]
    assert_same(of(predecessor[3]), of(successor[0]))
    build_theseus_model(predecessor, successor, keras.layers.Dense(2))


def test_ends_that_one_lacks_or_that_do_not_fit_stay():
    predecessor = encoder(4, seed=0)
    for options in ({"vocab": VOCAB + 1}, {"final": False}):
        successor = encoder(2, seed=1, **options)
        kept = [
            part
            for part, option in [(successor._embedding, "vocab"), (successor._final, "final")]
            if option in options and part is not None
        ]
        before = [of(part) for part in kept]
        initialize_successor(predecessor, successor)
        assert_same(of(predecessor.layers[1]), of(successor.layers[1]))
        for weights, part in zip(before, kept):
            assert_same(weights, of(part))


def test_layers_that_do_not_fit_and_nothing_is_copied():
    predecessor = encoder(3, seed=0)
    successor = as_encoder([Block(), keras.layers.Dense(HIDDEN)], like=predecessor)
    keras.Model(successor.inputs, successor.output)
    before = of(successor.layers[0])
    with pytest.raises(
        ValueError,
        match=r"predecessor's layer 2 and the successor's layer 1 do not fit.*"
        r"Predecessor: .*\(4, 4\).*Successor: .*\(4, 4\)",
    ):
        initialize_successor(predecessor, successor, "last")
    assert_same(before, of(successor.layers[0]))


@pytest.mark.parametrize("n, m, options, text", [
    (2, 3, {}, r"more layers \(3\) than the predecessor \(2\)"),
    (4, 2, {"layers": "odd"}, r"`layers` must be one of .*'every_kth'.*Received: 'odd'"),
    (4, 2, {"layers": [0]}, r"`layers` must name 2 of .* 0 to 3.*Received: \[0\]"),
    (4, 2, {"layers": [0, 4]}, r"`layers` must name 2 .*Received: \[0, 4\]"),
    (4, 2, {"layers": [-1, 0]}, "`layers` must name 2"),
    (4, 2, {"layers": [0, 1.0]}, "`layers` must name 2"),
    (4, 2, {"layers": "module_first", "module_map": [[0], [1]]}, "0 to 3 once each"),
])  # fmt: skip
def test_bad_arguments(n, m, options, text):
    predecessor, successor = (
        [keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(number))] for number in (n, m)
    )
    with pytest.raises(ValueError, match=text):
        initialize_successor(predecessor, successor, **options)
