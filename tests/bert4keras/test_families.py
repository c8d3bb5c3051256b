"""The families of bert4keras as predecessor and successor: one table, one set of laws."""

import bert_of_theseus.bert4keras  # noqa: F401  must come before bert4keras

# isort: split
import types

import numpy as np
import pytest
from bert4keras.backend import K, keras
from bert4keras.layers import Lambda
from bert4keras.models import BERT, NEZHA, RoFormerV2, build_transformer_model

from bert_of_theseus import (
    build_successor_model,
    build_theseus_model,
    set_replacement_rate,
)

VOCAB = 40
TINY = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position": 12,
    "dropout_rate": 0.0,
}
EXECUTIONS = ["lazy", "dense"]
LENGTHS = np.array([5, 3, 4])  # tokens of the texts, before padding


class SameSegment(BERT):
    """A mask of one's own: tokens see those of their segment, and any odd token."""

    def compute_attention_bias(self, inputs=None):
        if self.attention_bias is None:

            def mask(x):
                token_ids, s = x
                same = K.equal(s[:, None, :], s[:, :, None])
                return same | K.equal(token_ids[:, None, :] % 2, 1)

            self.attention_bias = self.apply(
                inputs=self.inputs[:2], layer=Lambda, function=mask, name="Own-Mask"
            )
        return self.attention_bias


LM = {"application": "lm", "with_mlm": "linear"}
UNILM = {"application": "unilm", "with_mlm": "linear"}
GPT = {"final_activation": "linear"}
T5_11 = {"model": "t5.1.1_encoder", "hidden_act": ["gelu", "linear"]}

# (predecessor's options, successor's where they differ, executions that are trained)
TRAINED = {
    "roberta": ({"model": "roberta"}, {}, ["lazy"]),
    "albert": ({"model": "albert", "embedding_size": 8}, {}, EXECUTIONS),
    "albert-unshared": ({"model": "albert"}, {"model": "albert_unshared"}, ["lazy"]),
    "electra": ({"model": "electra", "embedding_size": 8}, {}, ["dense"]),
    "nezha": ({"model": "nezha"}, {}, ["lazy"]),
    "roformer": ({"model": "roformer"}, {}, ["lazy"]),
    "roformer_v2": ({"model": "roformer_v2", "embedding_size": 8}, {}, ["dense"]),
    "gpt": ({"model": "gpt", **GPT}, {}, ["dense"]),
    "gpt2": ({"model": "gpt2", **GPT}, {}, ["lazy"]),
    "t5": ({"model": "t5_encoder"}, {}, EXECUTIONS),
    "lm": (LM, {}, ["dense"]),
    "unilm": (UNILM, {}, ["lazy"]),
}
# The same laws without training: other ways to the same code.
WIRED = {
    "unshared-albert": ({"model": "albert_unshared"}, {"model": "albert"}),
    "nezha-roformer": ({"model": "nezha"}, {"model": "roformer"}),
    "roformer-positions": ({"model": "roformer", "custom_position_ids": True}, {}),
    "roformer-unilm": ({"model": "roformer", "custom_position_ids": True, **UNILM}, {}),
    "nezha-lm": ({"model": "nezha", **LM}, {}),
    "gpt2_ml": ({"model": "gpt2_ml", **GPT}, {}),
    "t5.1.1": (T5_11, {}),
    "keep_tokens": (
        {"keep_tokens": [*range(VOCAB)], "vocab_size": 90, "segment_vocab_size": 0},
        {},
    ),
    "own mask": ({"model": SameSegment}, {}),
}
CAUSAL = ("gpt", "gpt2", "gpt2_ml", "lm", "nezha-lm", "unilm", "roformer-unilm")


def build(num_hidden_layers, **options):
    transformer = build_transformer_model(
        **{**TINY, **options}, num_hidden_layers=num_hidden_layers, return_keras_model=False
    )
    # The initial weights are so small that attention hardly matters.
    for weight in transformer.model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(10 * weight)
    return transformer


def make_head(width):
    inputs = keras.Input((None, width))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))


def make_batch(host, length=6, copies=1, seed=1):
    """What `host` takes of texts of `LENGTHS` tokens, two segments, padded to `length`."""
    rng = np.random.default_rng(seed)
    real = np.arange(8) < np.repeat(LENGTHS, copies)[:, None]
    token_ids = rng.integers(1, VOCAB, real.shape) * real
    segment_ids = (np.arange(8) > 1) * real
    position_ids = np.arange(8)[::-1] * real
    inputs = [token_ids, segment_ids, position_ids][: len(host.inputs)]
    return [x[:, :length].astype("float32") for x in inputs]


def run(model, batch, training=False):
    return np.array(model(batch[0] if len(batch) == 1 else batch, training=training))


def snapshot(*models):
    return [np.array(w) for model in models for w in model.get_weights()]


def same(first, second):
    return len(first) == len(second) and all((a == b).all() for a, b in zip(first, second))


def build_case(options, changes):
    keras.utils.set_random_seed(0)
    predecessor, successor = build(4, **options), build(2, **{**options, **changes})
    head = make_head(predecessor.output.shape[-1])
    theseus = {
        execution: build_theseus_model(predecessor, successor, head, execution=execution, seed=3)
        for execution in EXECUTIONS
    }
    return types.SimpleNamespace(
        options={**options, **changes},
        predecessor=predecessor,
        successor=successor,
        head=head,
        theseus=theseus,
        alone=keras.Model(predecessor.inputs, head(predecessor.output)),
        small=build_successor_model(theseus["lazy"]),
        trained=[],
    )


@pytest.fixture(scope="module", params=[*TRAINED, *WIRED])
def case(request):
    name = request.param
    options, changes, executions = TRAINED.get(name) or (*WIRED[name], [])
    case = build_case(options, changes)
    case.is_causal = name in CAUSAL
    case.frozen = snapshot(case.predecessor.model, case.head)
    case.start = snapshot(case.successor.model)
    batch = make_batch(case.predecessor, 6, copies=2)
    for execution in executions:
        case.successor.model.set_weights(case.start)
        theseus = case.theseus[execution]
        theseus.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        theseus.fit(batch, batch[0] % 3, batch_size=1, shuffle=False, verbose=0)
        case.trained.append(snapshot(case.successor.model))
    yield case
    keras.backend.clear_session()


@pytest.fixture(params=EXECUTIONS)
def theseus(request, case):
    return case.theseus[request.param]


def test_training(case):
    assert same(case.frozen, snapshot(case.predecessor.model, case.head))
    for weights in case.trained:
        module_weights = {
            id(weight)
            for layer in case.theseus["lazy"].layers
            for inner in getattr(layer, "successor_layers", [])
            for weight in inner.trainable_weights
        }
        assert module_weights
        for weight, before, after in zip(case.successor.model.weights, case.start, weights):
            assert np.isfinite(after).all()
            if id(weight) not in module_weights:  # embeddings and end: the predecessor's, frozen
                assert (before == after).all(), weight.name
            elif len(weight.shape) > 1:
                assert (before != after).any(), weight.name
    if len(case.trained) > 1:
        for lazy, dense in zip(*case.trained):
            np.testing.assert_allclose(lazy, dense, atol=1e-5)


def test_rate_0_is_the_predecessor(case, theseus):
    set_replacement_rate(theseus, 0)
    for length in (6, 8):
        batch = make_batch(case.predecessor, length)
        expected = run(case.alone, batch)
        np.testing.assert_allclose(run(theseus, batch, training=True), expected, atol=1e-6)
    # Both the models differ, or this and the next would show nothing.
    assert abs(expected - run(case.small, batch)).max() > 1e-3


def test_inference_is_the_extracted_successor(case, theseus):
    for length in (5, 8):
        batch = make_batch(case.predecessor, length, seed=2)
        np.testing.assert_allclose(run(theseus, batch), run(case.small, batch), atol=1e-6)
        set_replacement_rate(theseus, 1)
        np.testing.assert_allclose(
            run(theseus, batch, training=True), run(case.small, batch), atol=1e-6
        )


def test_the_successor_holds_no_predecessor_weight(case):
    held = {id(weight) for weight in case.predecessor.model.weights}
    assert not held & {id(weight) for weight in case.small.weights}
    assert len(case.small.weights) == len(case.successor.model.weights) + 2


def test_padding_changes_nothing(case, theseus):
    batches = [make_batch(case.predecessor, length) for length in (5, 8, 8)]
    for x in batches[2][1:]:  # of the padding, other segments and positions
        x[batches[2][0] == 0] = 1
    real = (batches[0][0] != 0)[..., None]
    set_replacement_rate(theseus, 0)
    for model, training in ((theseus, True), (theseus, False), (case.small, False)):
        expected, *outputs = [run(model, x, training)[:, :5] * real for x in batches]
        for output in outputs:
            np.testing.assert_allclose(output, expected, atol=1e-5)


def test_no_token_sees_a_later_one(case, theseus):
    batch = make_batch(case.predecessor)
    changed = [x.copy() for x in batch]
    changed[0][0, 4] = changed[0][0, 4] % (VOCAB - 1) + 1
    set_replacement_rate(theseus, 0)
    for model, training in ((theseus, True), (theseus, False), (case.small, False)):
        differences = abs(run(model, batch, training) - run(model, changed, training))[0]
        assert differences[4].max() > 1e-4
        # The others see it, so the masks are not just everywhere.
        assert (differences[:4].max() < 1e-6) == case.is_causal


def test_weights_in_a_file(case, tmp_path):
    file = tmp_path / "successor.weights.h5"
    case.small.save_weights(file)
    fresh = build(2, **case.options)
    head = make_head(fresh.output.shape[-1])
    copy = build_successor_model(fresh, head)
    batch = make_batch(fresh, 8)
    expected = run(case.small, batch)
    assert abs(run(copy, batch) - expected).max() > 1e-4
    copy.load_weights(file)
    np.testing.assert_allclose(run(copy, batch), expected, atol=1e-6)


# What a family has of its own.


def count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.weights)
