"""bert4keras on today's TensorFlow, and its BERTs as predecessor and successor."""

import bert_of_theseus.bert4keras  # noqa: F401  must come before bert4keras

# isort: split
import numpy as np
import pytest
from bert4keras import optimizers
from bert4keras.backend import keras
from bert4keras.models import build_transformer_model
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer

from bert_of_theseus import build_successor_model, build_theseus_model, set_replacement_rate
from bert_of_theseus.backend import keras as keras_in_use

TINY = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position": 12,
    "dropout_rate": 0.0,
}
EXECUTIONS = ["lazy", "dense"]
SHORT = 5  # tokens of the texts, before padding


def build(num_hidden_layers, **options):
    transformer = build_transformer_model(
        **{**TINY, **options}, num_hidden_layers=num_hidden_layers, return_keras_model=False
    )
    # BERT's initial weights are so small that attention hardly matters.
    model = transformer.model
    model.set_weights([10 * w if w.ndim > 1 else w for w in model.get_weights()])
    return transformer


def first_token_head(size=TINY["hidden_size"]):
    x = inputs = keras.Input((None, size))
    x = keras.layers.Lambda(lambda x: x[:, 0])(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def token_head(size=TINY["hidden_size"]):
    inputs = keras.Input((None, size))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))


def make_batch(length=SHORT, batch_size=3):
    """Token ids and segment ids of texts of `SHORT` tokens, padded to `length`."""
    local = np.random.default_rng(1)
    token_ids = local.integers(1, TINY["vocab_size"], (batch_size, SHORT))
    segment_ids = np.repeat([[0, 0, 1, 1, 1]], batch_size, axis=0)
    padding = [(0, 0), (0, length - SHORT)]
    return [np.pad(ids, padding).astype("float32") for ids in (token_ids, segment_ids)]


def weights_of(layers):
    return [np.array(w) for layer in layers for w in layer.get_weights()]


def same(first, second):
    return all((a == b).all() for a, b in zip(first, second))


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


@pytest.mark.parametrize("extensions", [
    [],
    *([name] for name in EXTENSIONS),
    ["weight_decay", "piecewise_linear_lr", "gradient_accumulation"],
], ids="+".join)  # fmt: skip
def test_optimizers_train(extensions):
    optimizer, arguments = optimizers.Adam, {}
    for name in extensions:
        optimizer = getattr(optimizers, f"extend_with_{name}")(optimizer)
        arguments.update(EXTENSIONS[name])
    model = make_trainable(optimizer(learning_rate=0.01, **arguments))
    x, y = np.arange(28).reshape(7, 4) % 7, np.ones((7, 2))
    before = weights_of(model.layers)
    model.fit(x, y, batch_size=1, epochs=1, verbose=0)
    after = weights_of(model.layers)
    assert all((a != b).any() for a, b in zip(before, after))
    assert all(np.isfinite(weight).all() for weight in after)
    if extensions == ["exponential_moving_average"]:
        model.optimizer.apply_ema_weights()
        assert not same(after, weights_of(model.layers))
        model.optimizer.reset_old_weights()
        assert same(after, weights_of(model.layers))


def test_tokenizer_generator_and_model():
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
    transformer = build(2)
    model = keras.Model(transformer.inputs, first_token_head()(transformer.output))
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    before = weights_of(model.layers)
    model.fit(generator.forfit(), steps_per_epoch=len(generator), epochs=1, verbose=0)
    assert not same(before, weights_of(model.layers))


# As hosts.


@pytest.fixture(scope="module")
def hosts():
    keras.utils.set_random_seed(0)
    return build(4), build(2, prefix="Successor-"), first_token_head()


@pytest.mark.parametrize("embeddings", ["predecessor", "replace"])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_padding_changes_nothing(execution, embeddings, hosts):
    predecessor, successor, head = hosts
    theseus = build_theseus_model(*hosts, execution=execution, embeddings=embeddings)
    alone = {
        0: keras.Model(predecessor.inputs, head(predecessor.output)),
        1: build_successor_model(successor, head),
    }
    for rate in (0, 1):
        set_replacement_rate(theseus, rate)
        for training in (True, False):
            outputs = [
                np.array(theseus(make_batch(length), training=training)) for length in (SHORT, 11)
            ]
            np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
            picked = rate if training else 1
            expected = np.array(alone[picked](make_batch()))
            np.testing.assert_allclose(outputs[0], expected, atol=1e-5)
    # Both the models differ and the mask matters, or this would show nothing.
    one, two = (np.array(model(make_batch())) for model in alone.values())
    assert abs(one - two).max() > 1e-3
    token_ids, segment_ids = make_batch(11)
    unmasked = np.array(alone[0]([token_ids + (token_ids == 0), segment_ids]))
    assert abs(one - unmasked).max() > 1e-4


def test_the_host_is_left_as_it_was(hosts):
    predecessor, successor, head = hosts
    kept = [(host, host.attention_bias, host.inputs, host.output) for host in hosts[:2]]
    for execution in EXECUTIONS:
        theseus = build_theseus_model(*hosts, execution=execution)
        assert all(a is b for a, b in zip(theseus.inputs, predecessor.inputs))
    for host, bias, inputs, output in kept:
        assert host.attention_bias is bias
        assert host.inputs is inputs
        assert host.output is output
    # The successor works on its own inputs still.
    small = build_successor_model(successor, head)
    assert all(a is b for a, b in zip(small.inputs, successor.inputs))


@pytest.mark.parametrize("application", ["lm", "unilm"])
def test_attention_bias(application):
    keras.utils.set_random_seed(0)
    predecessor, successor = (build(n, application=application) for n in (2, 1))
    head = token_head(TINY["vocab_size"])  # these end in the language model's scores
    models = [
        build_theseus_model(predecessor, successor, head, execution=execution)
        for execution in EXECUTIONS
    ]
    alone = [
        keras.Model(predecessor.inputs, head(predecessor.output)),
        build_successor_model(successor, head),
    ]
    batch = make_batch()
    changed = [batch[0].copy(), batch[1]]
    changed[0][:, -1] = changed[0][:, -1] % (TINY["vocab_size"] - 1) + 1
    for rate in (0, 1):
        expected = np.array(alone[rate](batch))
        for theseus in models:
            set_replacement_rate(theseus, rate)
            output = np.array(theseus(batch, training=True))
            np.testing.assert_allclose(output, expected, atol=1e-5)
            # No position sees the last one, which is in the second segment, but itself.
            other = np.array(theseus(changed, training=True))
            np.testing.assert_allclose(output[:, :-1], other[:, :-1], atol=1e-6)
            assert abs(output[:, -1] - other[:, -1]).max() > 1e-4
    # "lm" takes token ids alone into account for its mask; "unilm" lets the first segment see all
    # of itself.
    changed = [batch[0].copy(), batch[1]]
    changed[0][:, 1] = changed[0][:, 1] % (TINY["vocab_size"] - 1) + 1
    first = [np.array(models[0](ids, training=True))[:, 0] for ids in (batch, changed)]
    assert (abs(first[0] - first[1]).max() > 1e-4) == (application == "unilm")


@pytest.mark.parametrize("application, width", [("encoder", 16), ("unilm", 20)])
def test_a_fit_is_the_same_in_both_executions(application, width):
    results = []
    for execution in EXECUTIONS:
        keras.utils.set_random_seed(0)
        predecessor, successor = (build(n, application=application) for n in (2, 1))
        theseus = build_theseus_model(
            predecessor, successor, first_token_head(width), execution=execution, seed=2
        )
        theseus.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        before = weights_of(successor.model.layers), weights_of(predecessor.model.layers)
        batch = make_batch(8, batch_size=12)
        labels = np.arange(12) % 3
        theseus.fit(batch, labels, batch_size=2, shuffle=False, verbose=0)
        assert same(before[1], weights_of(predecessor.model.layers))
        results.append(weights_of(successor.model.layers))
        assert not same(before[0], results[-1])
    for lazy, dense in zip(*results):
        np.testing.assert_allclose(lazy, dense, atol=1e-5)


@pytest.mark.parametrize("options, width", [
    ({"with_pool": True}, None),
    ({"with_nsp": True}, None),
    ({"with_mlm": "linear"}, 20),
    ({"model": "roberta"}, 16),
    ({"embedding_size": 8}, 16),
    ({"custom_position_ids": True}, 16),
], ids=str)  # fmt: skip
def test_other_berts(options, width):
    keras.utils.set_random_seed(0)
    predecessor, successor = build(2, **options), build(1, **options)
    head = token_head(width) if width else keras.Sequential([keras.layers.Dense(3)])
    batch = make_batch()
    if "custom_position_ids" in options:
        batch.append(np.repeat([np.arange(SHORT)], len(batch[0]), axis=0))
    theseus = build_theseus_model(predecessor, successor, head)
    set_replacement_rate(theseus, 0)
    alone = keras.Model(predecessor.inputs, head(predecessor.output))
    np.testing.assert_allclose(
        np.array(theseus(batch, training=True)), np.array(alone(batch)), atol=1e-5
    )
    small = build_successor_model(theseus)
    np.testing.assert_allclose(np.array(theseus(batch)), np.array(small(batch)), atol=1e-6)


def test_files(tmp_path):
    predecessor, successor = build(2), build(1)  # the layers of both have the same names
    theseus = build_theseus_model(predecessor, successor, token_head())
    theseus.save(tmp_path / "theseus.keras")
    copy = keras.models.load_model(tmp_path / "theseus.keras")
    batch = make_batch(8)
    np.testing.assert_allclose(np.array(copy(batch)), np.array(theseus(batch)), atol=1e-6)
    for model in (copy, theseus):
        set_replacement_rate(model, 0)
    np.testing.assert_allclose(
        np.array(copy(batch, training=True)), np.array(theseus(batch, training=True)), atol=1e-6
    )


# What is refused.


def test_a_finished_model_is_not_an_encoder(hosts):
    with pytest.raises(TypeError, match="return_keras_model=False"):
        build_theseus_model(hosts[0].model, hosts[1], hosts[2])


def test_hosts_that_do_not_fit(hosts):
    with pytest.raises(ValueError, match=r"more layers \(4\) than the predecessor \(2\)"):
        build_theseus_model(hosts[1], hosts[0], hosts[2])
    with pytest.raises(ValueError, match=r"embeddings do not fit.*\(20, 16\).*\(20, 32\)"):
        build_theseus_model(hosts[0], build(2, hidden_size=32), hosts[2])
    pooled = build(2, with_pool=True)
    with pytest.raises(ValueError, match=r"The successor's last .* predecessor's do not.*pool"):
        build_theseus_model(hosts[0], pooled, hosts[2])
    # A layer would take the hidden states in the pooler's place.
    with pytest.raises(ValueError, match=r"The predecessor's last .* successor's do not.*pool"):
        build_theseus_model(pooled, build(1), keras.layers.Dense(3))
