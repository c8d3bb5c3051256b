"""Successors of another kind than their predecessor: recurrent, convolutional, narrower."""

import numpy as np
import pytest
from helpers import all_changed, any_changed, assert_same, to_numpy, to_tensor, values

from bert_of_theseus import (
    Masked,
    StackEncoder,
    Stage,
    as_encoder,
    build_successor_model,
    build_theseus_model,
    compress,
    set_replacement_rate,
)
from bert_of_theseus.backend import keras

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


def call(model, x, training=False):
    return to_numpy(model(to_tensor(x), training=training))


@pytest.fixture(scope="module", params=KINDS)
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
        np.concatenate([call(model, x[None, :n]) for x, n in zip(texts(9), LENGTHS)])
        for model in (alone, small)
    ]
    assert abs(expected[0] - expected[1]).max() > 1e-3
    for length in (5, 9):
        x = texts(length)
        np.testing.assert_allclose(call(small, x), expected[1], atol=1e-5)
        for model in theseus:
            np.testing.assert_allclose(call(model, x), expected[1], atol=1e-5)
            for rate in (0, 1):
                set_replacement_rate(model, rate)
                np.testing.assert_allclose(call(model, x, True), expected[rate], atol=1e-5)


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
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(call(loaded, texts(9)), call(small, texts(9)))


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
    theseus.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    frozen = [*classifier.weights, *(w for part in full.layers for w in part.weights)]
    before, start = values(frozen), values(successor[0].weights)
    x = texts(LENGTH, 16)
    theseus.fit(x, x[:, 0] % 3, batch_size=2, shuffle=False, verbose=0)
    assert_same(before, values(frozen))
    trained = values(successor[0].weights)
    assert all_changed(start, trained)
    assert all(np.isfinite(weight).all() for weight in trained)
    # Dropout is on in training, on both sides, and off at inference.
    for rate in (0, 1):
        set_replacement_rate(theseus, rate)
        first, second = (call(theseus, x, training=True) for _ in range(2))
        assert any_changed([first], [second])
    np.testing.assert_array_equal(call(theseus, x), call(theseus, x))


STAGES = {
    "predecessor_stage": None,
    "theseus_stage": Stage(1, 0.01, weight_decay=0.0),
    "successor_stage": Stage(1, 0.01, weight_decay=0.0),
    "batch_size": 8,
    "latency": False,
    "verbose": 0,
}


@pytest.mark.parametrize("train_ends", [True, False])
def test_compress(train_ends, tmp_path):
    keras.utils.set_random_seed(0)
    full, classifier = predecessor(), head()
    x = texts(LENGTH, 16)
    data = x, x[:, 0] % 3
    before = values(full._embedding.weights)
    options = {**STAGES, "train_embeddings_and_head": train_ends}
    result = compress(
        full,
        [convolution(), convolution()],
        classifier,
        data,
        directory=tmp_path,
        initialize=None,
        **options,
    )
    assert_same(before, values(full._embedding.weights))
    # No more of it changes than is meant to: the copies of the embedding, in the third stage.
    own = [w for w in result.successor.weights if tuple(w.shape) == (VOCAB, HIDDEN)]
    assert len(own) == 1
    assert (to_numpy(own[0]) != before[0]).any() == train_ends
    assert result.successor.count_params() == sum(w.size for w in values(result.successor.weights))


def test_there_is_nothing_to_start_from(tmp_path):
    with pytest.raises(
        ValueError, match=r"layer 0 and the successor's layer 0 do not fit.*initialize=None"
    ):
        compress(
            predecessor(),
            [convolution(), convolution()],
            head(),
            (texts(5), LENGTHS % 3),
            directory=tmp_path / "run",
            **STAGES,
        )
    assert not (tmp_path / "run").exists()


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
    np.testing.assert_allclose(call(small, texts(9)), call(theseus, texts(9)), atol=1e-6)


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
            call(theseus, texts(9)), call(build_successor_model(theseus), texts(9)), atol=1e-6
        )


# The wrapper.


def test_masked_without_a_mask_is_the_layer():
    x = np.random.default_rng(0).normal(size=(2, 5, HIDDEN)).astype("float32")
    layer = convolution()
    np.testing.assert_array_equal(call(Masked(layer), x), call(layer, x))


def test_a_stack_of_ones_own_says_which_layers_know_no_masks():
    parts = {"inputs": keras.Input((None,), dtype="int32"), "embedding": embedding()}
    with pytest.raises(ValueError, match=r"'mine' knows no masks.*Use `bert_of_theseus.Masked"):
        StackEncoder([bilstm(), keras.layers.Conv1D(4, 3, padding="same", name="mine")], **parts)
    encoder = StackEncoder([Masked(convolution())], **parts)
    model = build_successor_model(encoder, head())
    short, long = (call(model, texts(n)) for n in (5, 9))
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_masked_keeps_the_length():
    with pytest.raises(ValueError, match=r"keeps the length.*\(None, 2, 4\) of \(None, 4, 4\)"):
        Masked(keras.layers.MaxPooling1D())(keras.Input((4, HIDDEN)))
    with pytest.raises(TypeError, match="`layer` must be a layer"):
        Masked(lambda x: x)
