"""Recurrent and convolutional successors of bert4keras' models."""

import numpy as np
import pytest
from bert4keras.backend import keras
from bert_helpers import TINY, make_bert, run, same, weights_of
from bert_helpers import make_batch as make_texts

from bert_of_theseus import (
    Stage,
    as_encoder,
    build_successor_model,
    build_theseus_model,
    compress,
    set_replacement_rate,
)

SHORT = 4  # tokens of the texts, before padding


def pooling_head(size=16):
    x = inputs = keras.Input((None, size))
    x = keras.layers.GlobalAveragePooling1D()(x)  # reads the mask
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def make_batch(host, length=SHORT, batch_size=3):
    texts = make_texts(*[SHORT] * batch_size, width=length, first_segment=2)
    return [ids.astype("float32") for ids in texts[: len(host.inputs)]]


LAYERS = keras.layers
KINDS = {
    "bilstm, convolution": lambda size: [
        LAYERS.Bidirectional(LAYERS.LSTM(size // 2, return_sequences=True)),
        LAYERS.Conv1D(size, 3, padding="same"),
    ],
    "gru": lambda size: [LAYERS.GRU(size, return_sequences=True)],
    "convolution": lambda size: [LAYERS.Conv1D(size, 3, padding="same")],
}
CASES = [
    pytest.param("bilstm, convolution", {}, marks=pytest.mark.slow),
    pytest.param("gru", {"model": "albert", "embedding_size": 8}, marks=pytest.mark.slow),
    pytest.param("gru", {"model": "t5_encoder"}, marks=pytest.mark.slow),
    pytest.param("convolution", {"model": "roformer", "with_pool": False}, marks=pytest.mark.slow),
    ("convolution", {"model": "nezha", "application": "unilm", "with_mlm": "linear"}),
    pytest.param("gru", {"model": "gpt2", "final_activation": "linear"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind, options", CASES, ids=str)
def test_any_family_to_any_layers(kind, options, tmp_path):
    keras.utils.set_random_seed(0)
    host = make_bert(**options)
    successor = KINDS[kind](TINY["hidden_size"])
    head = pooling_head(host.output.shape[-1])
    theseus = build_theseus_model(host, successor, head, embeddings="replace")
    small = build_successor_model(theseus)
    alone = keras.Model(host.inputs, head(host.output))
    held = {id(weight) for weight in host.model.weights}
    assert not held & {id(weight) for weight in small.weights}
    own = {id(weight) for layer in successor for weight in layer.weights}
    assert own < {id(weight) for weight in small.weights}
    # The copies of the embeddings do what those that they were made of do.
    short, long = make_batch(host), make_batch(host, 9)
    encoders = as_encoder(host), as_encoder(successor, like=host)
    theirs, own = (
        encoder.embedding_model("embeddings")(long[0] if len(long) == 1 else long)
        for encoder in encoders
    )
    for a, b in zip(*(x if isinstance(x, list) else [x] for x in (theirs, own)), strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    expected = [run(model, short) for model in (alone, small)]
    assert abs(expected[0] - expected[1]).max() > 1e-3
    for batch in (short, long):
        np.testing.assert_allclose(run(small, batch), expected[1], atol=1e-5)
        for rate in (0, 1):
            set_replacement_rate(theseus, rate)
            np.testing.assert_allclose(run(theseus, batch, True), expected[rate], atol=1e-5)
        np.testing.assert_allclose(run(theseus, batch), expected[1], atol=1e-5)
    small.save(tmp_path / "small.keras")
    np.testing.assert_array_equal(
        run(keras.models.load_model(tmp_path / "small.keras"), long), run(small, long)
    )


def test_ties_between_both_ends_stay():
    """GPT's scores are made with its token embeddings, and the copies' with theirs."""
    host = make_bert(1, model="gpt2", final_activation="linear")
    encoder = as_encoder([LAYERS.GRU(16, return_sequences=True)], like=host)
    small = keras.Model(encoder.inputs, encoder.output)
    shapes = [tuple(weight.shape) for weight in small.weights]
    assert shapes.count((TINY["vocab_size"], TINY["hidden_size"])) == 1


@pytest.mark.slow
def test_bert_to_lstm_in_one_call(tmp_path, untraced):
    keras.utils.set_random_seed(0)
    host, head = make_bert(1, dropout_rate=0.1), pooling_head()
    batch = make_batch(host, 6, batch_size=8)
    data = batch, batch[0][:, 0].astype(int) % 3
    before = weights_of(host.model, head)
    options = {
        "predecessor_stage": None,
        "warm_start_stage": Stage(1, 0.01),
        "theseus_stage": Stage(1, 0.01),
        "successor_stage": Stage(1, 0.01),
        "batch_size": 4,
        "latency": False,
        "verbose": 0,
    }
    lstm = LAYERS.LSTM(16, return_sequences=True, dropout=0.1)
    with pytest.raises(ValueError, match=r"do not fit.*initialize=None"):
        compress(host, [lstm], head, data, data, directory=tmp_path / "a", **options)
    result = compress(
        host, [lstm], head, data, data, directory=tmp_path / "b", initialize=None, **options
    )
    assert same(before, weights_of(host.model, head))
    start = {tuple(w.shape): w for w in weights_of(host.model)}
    # The embeddings, a copy of the predecessor's, were trained on in the last stage.
    own = [w for w in weights_of(result.successor) if w.shape == (40, 16)]
    assert len(own) == 1 and (own[0] != start[40, 16]).any()
    assert result.rows[-1]["layers"] == 1
