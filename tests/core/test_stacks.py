"""Successors of another kind than their predecessor: recurrent, convolutional, narrower."""

import numpy as np
import pytest
from helpers import (
    all_changed,
    any_changed,
    assert_same,
    compiled_call,
    eager,
    gradient_function,
    to_numpy,
    values,
)

from bert_of_theseus import (
    as_encoder,
    build_successor_model,
    build_theseus_model,
    load_model,
    set_replacement_rate,
)
from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.wrappers import Masked

VOCAB, HIDDEN, LENGTH = 9, 4, 5
LENGTHS = np.array([5, 2, 3, 4])


def texts(length, number=4, seed=0):
    """Ids of texts of `LENGTHS` tokens, padded to `length`."""
    ids = np.random.default_rng(seed).integers(1, VOCAB, (number, 9))
    ids *= np.arange(9) < np.resize(LENGTHS, number)[:, None]
    return ids[:, :length].astype("int32")


def embedding():
    """Token ids -> hidden states that are not zero at the padding, and a mask."""
    x = inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(VOCAB, HIDDEN, mask_zero=True)(x)
    return keras.Model(inputs, keras.layers.LayerNormalization(beta_initializer="ones")(x))


def predecessor(number=4, final=None):
    return StackEncoder(
        [keras.layers.Dense(HIDDEN, activation="tanh") for _ in range(number)],
        inputs=keras.Input((None,), dtype="int32"),
        embedding=embedding(),
        final=final,
    )


def head(pool=True):
    x = inputs = keras.Input((None, HIDDEN))
    if pool:  # which reads the mask
        x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def model_of(function):
    inputs = keras.Input((None, HIDDEN))
    return keras.Model(inputs, function(inputs))


def convolution():
    return keras.layers.Conv1D(HIDDEN, 3, padding="same", activation="tanh")


def convolution_block():
    def block(x):
        y = Masked(convolution())(Masked(convolution())(x))
        return keras.layers.LayerNormalization()(keras.layers.Add()([x, y]))

    return model_of(block)


def narrow_transformer():
    def block(x):
        y = keras.layers.Dense(2)(x)
        y = keras.layers.Add()([y, keras.layers.MultiHeadAttention(1, 2)(y, y)])
        return keras.layers.LayerNormalization()(keras.layers.Dense(HIDDEN)(y))

    return model_of(block)


def bilstm():
    return keras.layers.Bidirectional(keras.layers.LSTM(HIDDEN // 2, return_sequences=True))


KINDS = {
    "recurrent, convolution": lambda: [bilstm(), convolution()],
    "gru for all": lambda: [keras.layers.GRU(HIDDEN, return_sequences=True)],
    "sequential": lambda: [keras.Sequential([Masked(convolution()), keras.layers.Dense(HIDDEN)])],
    "blocks": lambda: [convolution_block(), narrow_transformer()],
}


# The others are made of the same layers; JAX compiles a recurrence anew wherever it stands.
FAST = {"recurrent, convolution": ["tensorflow"], "blocks": ["tf_keras"]}
CASES = [
    pytest.param(kind, marks=pytest.mark.slow_unless("torch", *FAST.get(kind, [])))
    for kind in KINDS
]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    keras.utils.set_random_seed(0)
    full, classifier = predecessor(), head()
    successor = KINDS[request.param]()
    lazy = build_theseus_model(full, successor, classifier, 0.5, seed=0)
    dense = build_theseus_model(full, successor, classifier, 0.5, execution="dense", seed=0)
    return full, successor, classifier, (lazy, dense)


def test_padding_reaches_no_module_and_no_head(case):
    full, _, classifier, theseus = case
    alone = keras.Model(full.inputs, classifier(full.output))
    small = build_successor_model(theseus[0])
    expected = [
        # Each text alone, with no padding at all.
        np.concatenate([eager(model, x[None, :n]) for x, n in zip(texts(9), LENGTHS)])
        for model in (alone, small)
    ]
    assert abs(expected[0] - expected[1]).max() > 1e-3
    for length in (5, 9):
        x = texts(length)
        np.testing.assert_allclose(eager(small, x), expected[1], atol=1e-5)
        for model in theseus:
            np.testing.assert_allclose(eager(model, x), expected[1], atol=1e-5)
            for rate in (0, 1):
                set_replacement_rate(model, rate)
                np.testing.assert_allclose(eager(model, x, True), expected[rate], atol=1e-5)


def test_the_successor_has_ends_of_its_own_and_lives_in_a_file(case, tmp_path):
    full, successor, classifier, theseus = case
    small = build_successor_model(theseus[0])
    own = {id(weight) for layer in successor for weight in layer.weights}
    ids = {id(weight) for weight in small.weights}
    assert own <= ids
    held = [*full._embedding.weights, *(w for layer in full.layers for w in layer.weights)]
    assert not ids & {id(weight) for weight in held}
    count = len(own) + len(full._embedding.weights) + len(classifier.weights)
    assert len(small.weights) == len(small.trainable_weights) == count
    small.save(tmp_path / "small.keras")
    loaded = load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(eager(loaded, texts(9)), eager(small, texts(9)))


# On JAX `test_same_outputs.py` has the generators that count inside a conditional.
@pytest.mark.slow_unless("tf_keras", "tensorflow", "torch")
def test_recurrent_layers_train_inside_the_choice():
    """On either side, with dropout, whose generators count inside a conditional."""
    keras.utils.set_random_seed(0)
    options = {"return_sequences": True, "dropout": 0.3, "recurrent_dropout": 0.3}
    full = StackEncoder(
        [keras.layers.GRU(HIDDEN, **options) for _ in range(2)],
        inputs=keras.Input((LENGTH,), dtype="int32"),
        embedding=embedding(),
    )
    successor, classifier = [keras.layers.LSTM(HIDDEN, **options)], head()
    theseus = build_theseus_model(full, successor, classifier, seed=1)
    theseus.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", jit_compile=False)
    frozen = [*classifier.weights, *(w for part in full.layers for w in part.weights)]
    before, start = values(frozen), values(successor[0].weights)
    x = texts(LENGTH, 16)
    theseus.fit(x, x[:, 0] % 3, batch_size=2, shuffle=False, verbose=0)
    assert_same(before, values(frozen))
    trained = values(successor[0].weights)
    assert all_changed(start, trained)
    assert all(np.isfinite(weight).all() for weight in trained)
    # Dropout is on in training, on both sides, and off at inference.
    draw, infer = (compiled_call(theseus, training) for training in (True, False))
    for rate in (0, 1):
        set_replacement_rate(theseus, rate)
        first, second = (draw(x) for _ in range(2))
        assert any_changed([first], [second])
    np.testing.assert_array_equal(infer(x), infer(x))


def test_what_follows_the_last_layer_is_copied_too():
    keras.utils.set_random_seed(0)
    full = predecessor(2, final=keras.layers.Dense(HIDDEN, name="projection"))
    classifier = head()
    encoder = as_encoder([convolution()], like=full)
    small = build_successor_model(encoder, classifier)
    parts = ("embedding_model", "final_model")
    theirs, own = ([getattr(e, part)("part").weights for part in parts] for e in (full, encoder))
    for a, b in zip(theirs, own):
        assert_same(values(a), values(b))
        assert not set(map(id, a)) & set(map(id, b))
    full._final.kernel.assign(np.ones((HIDDEN, HIDDEN)))  # trained on, say
    theseus = build_theseus_model(full, encoder, classifier)
    assert_same(values(full._final.weights), values(encoder.final_model("part").weights))
    np.testing.assert_allclose(eager(small, texts(9)), eager(theseus, texts(9)), atol=1e-6)


def test_ends_that_do_not_fit():
    full = predecessor(2)
    for first in (keras.Input((None,), dtype="int32"), keras.Input((None, HIDDEN + 1))):
        with pytest.raises(ValueError, match="list of layers from hidden states to hidden states"):
            build_theseus_model(full, [first, keras.layers.Dense(HIDDEN)], head())
    # One that fits is the hidden states', like the input of a model that was built before.
    successors = [
        [keras.Input((None, HIDDEN)), keras.layers.Dense(HIDDEN)],
        keras.Sequential([keras.Input((None, HIDDEN)), keras.layers.Dense(HIDDEN)]),
    ]
    for successor in successors:
        theseus = build_theseus_model(full, successor, head(), 1.0)
        np.testing.assert_allclose(
            eager(theseus, texts(9)), eager(build_successor_model(theseus), texts(9)), atol=1e-6
        )


def test_embedding_and_end_of_a_stack():
    keras.utils.set_random_seed(0)

    def stack(number):
        return StackEncoder(
            [keras.layers.Dense(3, activation="tanh") for _ in range(number)],
            inputs=keras.Input((6,), dtype="int32"),
            embedding=keras.layers.Embedding(5, 3),
            final=keras.layers.Dense(2, name=f"final_of_{number}"),
        )

    predecessor, successor, classifier = stack(4), stack(2), pooled(2)
    theseus = build_theseus_model(predecessor, successor, classifier, 1.0)
    small = build_successor_model(theseus)
    ids = np.arange(12).reshape(2, 6) % 5
    np.testing.assert_allclose(eager(theseus, ids), eager(small, ids), atol=1e-6)
    # Embedding and end are the predecessor's, copied, and stand still.
    for ours, theirs in [
        (successor._embedding, predecessor._embedding),
        (successor._final, predecessor._final),
    ]:
        for a, b in zip(ours.weights, theirs.weights):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
            assert all(a is not weight for weight in theseus.trainable_weights)


def pooled(units):
    return keras.Sequential([keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(units)])


def convolution_and_recurrence(number):
    """Modules of a convolution, then modules of an LSTM."""
    half = number // 2
    convolutions = [keras.layers.Conv1D(3, 3, padding="same") for _ in range(half)]
    return [*convolutions, *(keras.layers.LSTM(3, return_sequences=True) for _ in range(half))]


def strided(number):
    """A stack that changes the shape on its way: by 2 in each module."""
    return [
        keras.layers.Conv1D(3 + i // (number // 2), 3, strides=1 + (i == number // 2 - 1),
                            padding="same", activation="tanh")
        for i in range(number)
    ]  # fmt: skip


@pytest.mark.parametrize("layers", [
    pytest.param(
        convolution_and_recurrence, marks=pytest.mark.slow_unless("torch", "tensorflow")
    ),
    strided,
])  # fmt: skip
def test_lazy_is_dense(layers):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=size).astype("float32") for size in ((4, 6, 3), (4, 2)))
    full = as_encoder([keras.Input((6, 3)), *layers(4)])
    successor, classifier = as_encoder(layers(2), like=full), pooled(2)
    models = [
        build_theseus_model(full, successor, classifier, execution=execution)
        for execution in ("lazy", "dense")
    ]
    runs = [gradient_function(model) for model in models]
    for rates in ((1, 0), (0, 1)):
        for model in models:
            set_replacement_rate(model, rates)
        lazy, dense = (run(x, y) for run in runs)
        np.testing.assert_allclose(lazy[0], dense[0], atol=1e-5)
        assert lazy[1] == pytest.approx(dense[1], abs=1e-5)
        used = 0
        for a, b in zip(lazy[2], dense[2]):
            a, b = (np.zeros(1) if gradient is None else gradient for gradient in (a, b))
            np.testing.assert_allclose(a, np.broadcast_to(b, np.shape(a)) if b.size == 1 else b,
                                       atol=1e-5)  # fmt: skip
            used += bool((b != 0).any())
        assert 0 < used < len(lazy[2])


# The wrapper.


def test_masked_without_a_mask_is_the_layer():
    x = np.random.default_rng(0).normal(size=(2, 5, HIDDEN)).astype("float32")
    layer = convolution()
    np.testing.assert_array_equal(eager(Masked(layer), x), eager(layer, x))


def test_a_stack_of_ones_own_says_which_layers_know_no_masks():
    parts = {"inputs": keras.Input((None,), dtype="int32"), "embedding": embedding()}
    with pytest.raises(ValueError, match=r"'mine' knows no masks.*Use `bert_of_theseus\.wrap"):
        StackEncoder([bilstm(), keras.layers.Conv1D(4, 3, padding="same", name="mine")], **parts)
    encoder = StackEncoder([Masked(convolution())], **parts)
    model = build_successor_model(encoder, head())
    short, long = (eager(model, texts(n)) for n in (5, 9))
    np.testing.assert_allclose(short, long, atol=1e-6)
