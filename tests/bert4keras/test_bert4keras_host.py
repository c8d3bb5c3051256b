"""bert4keras on today's TensorFlow, and its BERTs as predecessor and successor."""

import numpy as np
import pytest
from bert4keras import optimizers
from bert4keras.backend import keras
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer
from bert_helpers import TINY, make_bert, run, same, weights_of
from bert_helpers import make_batch as make_texts

from bert_of_theseus import build_successor_model, build_theseus_model, set_replacement_rate
from bert_of_theseus.backend import keras as keras_in_use

EXECUTIONS = ["lazy", "dense"]
SHORT = 5  # tokens of the texts, before padding


def first_token_head(size=TINY["hidden_size"]):
    x = inputs = keras.Input((None, size))
    x = keras.layers.Lambda(lambda x: x[:, 0])(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def token_head(size=TINY["hidden_size"]):
    inputs = keras.Input((None, size))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))


def make_batch(length=SHORT, batch_size=3):
    """Token ids and segment ids of texts of `SHORT` tokens, padded to `length`."""
    texts = make_texts(*[SHORT] * batch_size, width=length, first_segment=2)
    return [ids.astype("float32") for ids in texts[:2]]


# bert4keras itself.


def make_trainable(optimizer):
    inputs = keras.Input((4,))
    x = keras.layers.Embedding(7, 3)(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    model.compile(optimizer, "mse")
    return model


EXTENSIONS = {
    "weight_decay": {"weight_decay_rate": 0.1, "exclude_from_weight_decay": ["bias"]},
    "piecewise_linear_lr": {"lr_schedule": {2: 1, 4: 0.1}},
    "gradient_accumulation": {"grad_accum_steps": 2},
    "layer_adaptation": {"exclude_from_layer_adaptation": ["bias"]},
    "lookahead": {"steps_per_slow_update": 2, "slow_step_size": 0.5},
    "exponential_moving_average": {"ema_momentum": 0.9},
}


TOGETHER = ["weight_decay", "piecewise_linear_lr", "gradient_accumulation"]


@pytest.mark.parametrize("extensions", [
    pytest.param([], marks=pytest.mark.slow),
    *(pytest.param([name], marks=pytest.mark.slow) for name in TOGETHER),
    *([name] for name in EXTENSIONS if name not in TOGETHER),
    TOGETHER,
], ids="+".join)  # fmt: skip
def test_optimizers_train(extensions):
    optimizer, arguments = optimizers.Adam, {}
    for name in extensions:
        optimizer = getattr(optimizers, f"extend_with_{name}")(optimizer)
        arguments.update(EXTENSIONS[name])
    model = make_trainable(optimizer(learning_rate=0.01, **arguments))
    x, y = np.arange(28).reshape(7, 4) % 7, np.ones((7, 2))
    before = weights_of(model)
    model.fit(x, y, batch_size=1, epochs=1, verbose=0)
    after = weights_of(model)
    assert all((a != b).any() for a, b in zip(before, after))
    assert all(np.isfinite(weight).all() for weight in after)
    if extensions == ["exponential_moving_average"]:
        model.optimizer.apply_ema_weights()
        assert not same(after, weights_of(model))
        model.optimizer.reset_old_weights()
        assert same(after, weights_of(model))


def test_tokenizer_generator_and_model(untraced):
    assert keras.layers.Layer is keras_in_use.layers.Layer
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"天地人", "ship", "##s"]
    tokenizer = Tokenizer({word: index for index, word in enumerate(words)}, do_lower_case=True)
    assert tokenizer.encode("天地 Ships") == ([2, 4, 5, 7, 8, 3], [0] * 6)

    class Generator(DataGenerator):
        def __iter__(self, random=False):
            batch = []
            for is_end, (text, label) in self.sample(random):
                batch.append((*tokenizer.encode(text, maxlen=12), [label]))
                if len(batch) == self.batch_size or is_end:
                    ids, segments, labels = map(sequence_padding, zip(*batch))
                    yield [ids, segments], labels
                    batch = []

    generator = Generator([("天", 0), ("ship ships", 1), ("地人天", 2)], batch_size=2)
    transformer = make_bert(1)
    model = keras.Model(transformer.inputs, first_token_head()(transformer.output))
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    before = weights_of(model)
    model.fit(generator.forfit(), steps_per_epoch=len(generator), epochs=1, verbose=0)
    assert not same(before, weights_of(model))


# As hosts.


def state(host):
    """What bert4keras keeps of the inputs that a model was built on."""
    return [host, host.attention_bias, host.inputs, host.output]


@pytest.fixture(scope="module")
def hosts():
    keras.utils.set_random_seed(0)
    return make_bert(2), make_bert(1, seed=1, prefix="Successor-"), first_token_head()


@pytest.fixture(scope="module")
def models(hosts):
    """Their Theseus models, and what the hosts were before."""
    before = [state(host) for host in hosts[:2]]
    theseus = {
        execution: build_theseus_model(*hosts, execution=execution) for execution in EXECUTIONS
    }
    return theseus, before


@pytest.mark.parametrize("execution, embeddings", [
    ("lazy", "predecessor"),
    ("dense", "predecessor"),
    ("lazy", "replace"),
    pytest.param("dense", "replace", marks=pytest.mark.slow),
])  # fmt: skip
def test_padding_changes_nothing(execution, embeddings, hosts, models):
    predecessor, successor, head = hosts
    if embeddings == "predecessor":
        theseus = models[0][execution]
    else:
        theseus = build_theseus_model(*hosts, execution=execution, embeddings=embeddings)
    alone = {
        0: keras.Model(predecessor.inputs, head(predecessor.output)),
        1: build_successor_model(successor, head),
    }
    for rate in (0, 1):
        set_replacement_rate(theseus, rate)
        for training in (True, False):
            outputs = [run(theseus, make_batch(length), training) for length in (SHORT, 11)]
            np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
            picked = rate if training else 1
            expected = run(alone[picked], make_batch())
            np.testing.assert_allclose(outputs[0], expected, atol=1e-5)
    # Both the models differ and the mask matters, or this would show nothing.
    one, two = (run(model, make_batch()) for model in alone.values())
    assert abs(one - two).max() > 1e-3
    token_ids, segment_ids = make_batch(11)
    unmasked = run(alone[0], [token_ids + (token_ids == 0), segment_ids])
    assert abs(one - unmasked).max() > 1e-4


def test_the_host_is_left_as_it_was(hosts, models):
    predecessor, successor, head = hosts
    for theseus in models[0].values():
        assert all(a is b for a, b in zip(theseus.inputs, predecessor.inputs))
    for host, before in zip(hosts, models[1]):
        assert all(now is then for now, then in zip(state(host), before))
    # The successor works on its own inputs still.
    small = build_successor_model(successor, head)
    assert all(a is b for a, b in zip(small.inputs, successor.inputs))


@pytest.mark.parametrize("application", ["lm", pytest.param("unilm", marks=pytest.mark.slow)])
def test_attention_bias(application):
    keras.utils.set_random_seed(0)
    predecessor, successor = (make_bert(1, seed=n, application=application) for n in (2, 1))
    head = token_head(TINY["vocab_size"])  # these end in the language model's scores
    models = [
        build_theseus_model(predecessor, successor, head, execution=execution)
        for execution in (EXECUTIONS if application == "lm" else EXECUTIONS[:1])
    ]
    alone = [
        keras.Model(predecessor.inputs, head(predecessor.output)),
        build_successor_model(successor, head),
    ]
    batch = make_batch()
    changed = [batch[0].copy(), batch[1]]
    changed[0][:, -1] = changed[0][:, -1] % (TINY["vocab_size"] - 1) + 1
    for rate in (0, 1):
        expected = run(alone[rate], batch)
        for theseus in models:
            set_replacement_rate(theseus, rate)
            output = run(theseus, batch, True)
            np.testing.assert_allclose(output, expected, atol=1e-5)
            # No position sees the last one, which is in the second segment, but itself.
            other = run(theseus, changed, True)
            np.testing.assert_allclose(output[:, :-1], other[:, :-1], atol=1e-6)
            assert abs(output[:, -1] - other[:, -1]).max() > 1e-4
    # "lm" takes token ids alone into account for its mask; "unilm" lets the first segment see all
    # of itself.
    changed = [batch[0].copy(), batch[1]]
    changed[0][:, 1] = changed[0][:, 1] % (TINY["vocab_size"] - 1) + 1
    first = [run(models[0], ids, True)[:, 0] for ids in (batch, changed)]
    assert (abs(first[0] - first[1]).max() > 1e-4) == (application == "unilm")


@pytest.mark.parametrize("application, width", [
    ("encoder", 16), pytest.param("unilm", 40, marks=pytest.mark.slow)
])  # fmt: skip
def test_a_fit_is_the_same_in_both_executions(application, width):
    results = []
    for execution in EXECUTIONS:
        keras.utils.set_random_seed(0)
        predecessor, successor = (make_bert(1, seed=n, application=application) for n in (2, 1))
        theseus = build_theseus_model(
            predecessor, successor, first_token_head(width), execution=execution, seed=2
        )
        theseus.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        before = weights_of(successor.model), weights_of(predecessor.model)
        batch = make_batch(8, batch_size=12)
        labels = np.arange(12) % 3
        theseus.fit(batch, labels, batch_size=2, shuffle=False, verbose=0)
        assert same(before[1], weights_of(predecessor.model))
        results.append(weights_of(successor.model))
        assert not same(before[0], results[-1])
    for lazy, dense in zip(*results):
        np.testing.assert_allclose(lazy, dense, atol=1e-5)


@pytest.mark.parametrize("options, width", [
    ({"with_pool": True}, None),
    pytest.param({"with_nsp": True}, None, marks=pytest.mark.slow),
    ({"with_mlm": "linear"}, 40),
    pytest.param({"model": "roberta"}, 16, marks=pytest.mark.slow),
    pytest.param({"embedding_size": 8}, 16, marks=pytest.mark.slow),
    ({"custom_position_ids": True}, 16),
], ids=str)  # fmt: skip
def test_other_berts(options, width):
    keras.utils.set_random_seed(0)
    predecessor, successor = make_bert(1, **options), make_bert(1, seed=1, **options)
    head = token_head(width) if width else keras.Sequential([keras.layers.Dense(3)])
    batch = make_batch()
    if "custom_position_ids" in options:
        batch.append(np.repeat([np.arange(SHORT)], len(batch[0]), axis=0))
    theseus = build_theseus_model(predecessor, successor, head)
    set_replacement_rate(theseus, 0)
    alone = keras.Model(predecessor.inputs, head(predecessor.output))
    np.testing.assert_allclose(run(theseus, batch, True), run(alone, batch), atol=1e-5)
    small = build_successor_model(theseus)
    np.testing.assert_allclose(run(theseus, batch), run(small, batch), atol=1e-6)


def test_files(tmp_path):
    predecessor, successor = (
        make_bert(),
        make_bert(1, seed=1),
    )  # the layers of both have the same names
    theseus = build_theseus_model(predecessor, successor, token_head())
    theseus.save(tmp_path / "theseus.keras")
    copy = keras.models.load_model(tmp_path / "theseus.keras")
    batch = make_batch(8)
    np.testing.assert_allclose(run(copy, batch), run(theseus, batch), atol=1e-6)
    for model in (copy, theseus):
        set_replacement_rate(model, 0)
    np.testing.assert_allclose(run(copy, batch, True), run(theseus, batch, True), atol=1e-6)


# What is refused.


def test_a_finished_model_is_not_an_encoder(hosts):
    with pytest.raises(TypeError, match="return_keras_model=False"):
        build_theseus_model(hosts[0].model, hosts[1], hosts[2])


def test_hosts_that_do_not_fit(hosts):
    with pytest.raises(ValueError, match=r"more layers \(2\) than the predecessor \(1\)"):
        build_theseus_model(hosts[1], hosts[0], hosts[2])
    with pytest.raises(ValueError, match=r"embeddings do not fit.*\(40, 16\).*\(40, 32\)"):
        build_theseus_model(hosts[0], make_bert(1, hidden_size=32), hosts[2])
    pooled = make_bert(1, with_pool=True)
    with pytest.raises(ValueError, match=r"The successor's last .* predecessor's do not.*pool"):
        build_theseus_model(hosts[0], pooled, hosts[2])
    # A layer would take the hidden states in the pooler's place.
    with pytest.raises(ValueError, match=r"The predecessor's last .* successor's do not.*pool"):
        build_theseus_model(pooled, make_bert(1), keras.layers.Dense(3))
