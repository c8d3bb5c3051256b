"""The families of bert4keras as predecessor and successor: one table, one set of laws."""

import numpy as np
import pytest
from bert4keras.backend import K, keras
from bert4keras.layers import Lambda
from bert4keras.models import BERT, NEZHA, RoFormerV2
from bert_helpers import TINY, make_bert, run, same, weights_of

from bert_of_theseus import (
    as_encoder,
    build_successor_model,
    build_theseus_model,
    initialize_successor,
    set_replacement_rate,
)

VOCAB = TINY["vocab_size"]
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

# The predecessor's options, the successor's where they differ, and the execution it trains in.
TRAINED = {
    "albert": ({"model": "albert", "embedding_size": 8}, {}, "lazy"),
    "albert-unshared": ({"model": "albert"}, {"model": "albert_unshared"}, "dense"),
    "electra": ({"model": "electra", "embedding_size": 8}, {}, "dense"),
    "nezha": ({"model": "nezha"}, {}, "lazy"),
    "roformer": ({"model": "roformer"}, {}, "dense"),
    "roformer_v2": ({"model": "roformer_v2", "embedding_size": 8}, {}, "dense"),
    "gpt2": ({"model": "gpt2", **GPT}, {}, "dense"),
    "t5": ({"model": "t5_encoder"}, {}, "lazy"),
}
# The same laws in one execution, for other ways to the same code; and which embeddings.
WIRED = {
    "bert": (
        {"custom_position_ids": True, "shared_segment_embeddings": True},
        {"model": "roberta"},
        "replace",
    ),
    "unshared-albert": ({"model": "albert_unshared"}, {"model": "albert"}, "predecessor"),
    "albert-bert": (
        {"model": "albert", "embedding_size": 8},
        {"model": "bert"},
        "predecessor",
    ),
    "nezha-roformer": ({"model": "nezha"}, {"model": "roformer"}, "predecessor"),
    "nezha-bert": ({"model": "nezha"}, {"model": "bert"}, "replace"),
    "nezha-lm": ({"model": "nezha", **LM}, {}, "predecessor"),
    "roformer-unilm": (
        {"model": "roformer", "custom_position_ids": True, **UNILM},
        {},
        "predecessor",
    ),
    "gpt": ({"model": "gpt", **GPT}, {}, "predecessor"),
    "gpt2_ml": ({"model": "gpt2_ml", **GPT}, {}, "predecessor"),
    "t5.1.1": ({"model": "t5.1.1_encoder", "hidden_act": ["gelu", "linear"]}, {}, "replace"),
    "keep_tokens": (
        {"keep_tokens": [*range(5, 5 + VOCAB)], "segment_vocab_size": 0},
        {},
        "predecessor",
    ),
    "own mask": ({"model": SameSegment}, {}, "replace"),
}
# What runs each time, in one execution, and in few steps that are not compiled.
FAST = ("roformer_v2", "t5", "gpt", "own mask")
CAUSAL = ("gpt", "gpt2", "gpt2_ml", "nezha-lm", "roformer-unilm")


def make_head(width):
    inputs = keras.Input((None, width))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))


def make_batch(host, length=6, copies=1, seed=1):
    """What `host` takes of texts of `LENGTHS` tokens, in two segments, padded to `length`."""
    rng = np.random.default_rng(seed)
    real = np.arange(8) < np.repeat(LENGTHS, copies)[:, None]
    token_ids = rng.integers(1, VOCAB, real.shape) * real
    segment_ids = (np.arange(8) > 1) * real
    position_ids = np.arange(8)[::-1] * real
    inputs = [token_ids, segment_ids, position_ids][: len(host.inputs)]
    return [x[:, :length].astype("float32") for x in inputs]


def state(host):
    """What bert4keras keeps of the inputs that a model was built on."""
    return [host.inputs, host.output, host.attention_bias, host.position_bias]


class Case:
    """A predecessor and a successor, the models made of them, and what they do on some texts."""

    def __init__(self, depths, options, changes, executions, embeddings="predecessor"):
        keras.utils.set_random_seed(0)
        self.successor_options = {**options, **changes}
        self.hosts = (
            make_bert(depths[0], **options),
            make_bert(depths[1], seed=1, **self.successor_options),
        )
        self.before = [state(host) for host in self.hosts]
        self.predecessor, self.successor = (host.model for host in self.hosts)
        self.head = make_head(self.hosts[0].output.shape[-1])
        self.theseus = {
            execution: build_theseus_model(
                *self.hosts, self.head, execution=execution, embeddings=embeddings, seed=3
            )
            for execution in executions
        }
        self.alone = keras.Model(self.hosts[0].inputs, self.head(self.hosts[0].output))
        self.small = build_successor_model(next(iter(self.theseus.values())))

    def fit(self, execution, run_eagerly):
        self.frozen = weights_of(self.predecessor, self.head)
        self.start = weights_of(self.successor)
        theseus = self.theseus[execution]
        theseus.compile(
            keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", run_eagerly=run_eagerly
        )
        theseus.optimizer.build(theseus.trainable_variables)  # or the step is traced twice
        batch = make_batch(self.hosts[0], 6, copies=2)
        theseus.fit(batch, batch[0] % 3, batch_size=1, shuffle=False, verbose=0)

    def evaluate(self):
        """Outputs on texts, and with more padding, and other padding, and another last token."""
        short, long = (make_batch(self.hosts[0], length) for length in (5, 8))
        padding, last = ([x.copy() for x in long] for _ in range(2))
        for x in padding[1:]:
            x[long[0] == 0] = 1
        rows = np.arange(len(LENGTHS))
        last[0][rows, LENGTHS - 1] = last[0][rows, LENGTHS - 1] % (VOCAB - 1) + 1
        together = [np.concatenate(x) for x in zip(long, padding, last)]
        self.mask = short[0] != 0

        def outputs(model, training=False):
            three = np.split(run(model, together, training), 3)
            return [run(model, short, training), *three]

        self.outputs = {"predecessor": outputs(self.alone), "successor": outputs(self.small)}
        for execution, theseus in self.theseus.items():
            self.outputs[execution, "inference"] = outputs(theseus)
            for rate in (0, 1):
                set_replacement_rate(theseus, rate)
                self.outputs[execution, f"rate {rate}"] = outputs(theseus, training=True)


def cases(names, traced=()):
    """The names of cases, and whether what they train is compiled and built in both executions."""
    params = []
    for name in names:
        marks = () if name in FAST else pytest.mark.slow
        params.append(pytest.param((name, False), id=name, marks=marks))
        if name in traced:
            params.append(pytest.param((name, True), id=f"{name}, traced", marks=pytest.mark.slow))
    return params


@pytest.fixture(scope="module", params=cases([*TRAINED, *WIRED], TRAINED))
def case(request):
    name, traced = request.param
    if name in TRAINED:
        options, changes, execution = TRAINED[name]
        if traced:
            case = Case((4, 2), options, changes, EXECUTIONS)
        else:
            execution = "lazy"
            case = Case((2, 2), options, changes, [execution])
    else:
        (options, changes, embeddings), execution = WIRED[name], "lazy"
        case = Case((2, 1), options, changes, [execution], embeddings)
    case.fit(execution, run_eagerly=not traced)
    case.is_causal = name in CAUSAL
    case.evaluate()
    yield case
    keras.backend.clear_session()


def test_training(case):
    assert same(case.frozen, weights_of(case.predecessor, case.head))
    in_modules = {
        id(weight)
        for choice in case.theseus["lazy"].layers
        for layer in [
            *getattr(choice, "successor_layers", []),
            *([choice] if choice.name == "successor_embeddings" else []),  # replaced too
        ]
        for weight in layer.trainable_weights
    }
    trained = weights_of(case.successor)
    for weight, before, after in zip(case.successor.weights, case.start, trained):
        assert np.isfinite(after).all()
        if id(weight) not in in_modules:  # embeddings and end: the predecessor's, frozen
            assert (before == after).all(), weight.name
        elif len(weight.shape) > 1:
            assert (before != after).any(), weight.name


def test_rate_0_is_the_predecessor_and_inference_the_successor(case):
    expected = {
        "rate 0": case.outputs["predecessor"],
        "rate 1": case.outputs["successor"],
        "inference": case.outputs["successor"],
    }
    for execution in case.theseus:
        for mode, outputs in expected.items():
            for found, output in zip(case.outputs[execution, mode], outputs):
                np.testing.assert_allclose(found, output, atol=1e-6)
    # Both the models differ, or this would show nothing.
    assert abs(case.outputs["predecessor"][0] - case.outputs["successor"][0]).max() > 1e-3


def test_padding_changes_nothing(case):
    for short, long, other, _ in case.outputs.values():
        for padded in (long, other):
            np.testing.assert_allclose(padded[:, :5][case.mask], short[case.mask], atol=1e-5)


def test_only_without_a_causal_mask_a_token_sees_later_ones(case):
    rows = np.arange(len(LENGTHS))
    for _, before, _, after in case.outputs.values():
        change = abs(before - after).max(axis=-1)
        assert (change[rows, LENGTHS - 1] > 1e-4).all()
        seen = max(change[row, : LENGTHS[row] - 1].max() for row in rows)
        assert seen < 1e-6 if case.is_causal else seen > 1e-4


def test_the_successor_holds_no_predecessor_weight(case):
    held = {id(weight) for weight in case.predecessor.weights}
    assert not held & {id(weight) for weight in case.small.weights}
    assert len(case.small.weights) == len(case.successor.weights) + len(case.head.weights)


def test_the_hosts_are_left_as_they_were(case):
    for host, before in zip(case.hosts, case.before):
        assert all(now is then for now, then in zip(state(host), before))


@pytest.mark.parametrize("case", cases(TRAINED), indirect=True)
def test_weights_in_a_file(case, tmp_path):
    file = tmp_path / "successor.weights.h5"
    case.small.save_weights(file)
    fresh = make_bert(2, seed=2, **case.successor_options)
    copy = build_successor_model(fresh, make_head(fresh.output.shape[-1]))
    batch = make_batch(fresh, 8)
    expected = case.outputs["successor"][1]
    assert abs(run(copy, batch) - expected).max() > 1e-4
    copy.load_weights(file)
    np.testing.assert_allclose(run(copy, batch), expected, atol=1e-6)


def test_a_bert_starts_as_the_albert_it_succeeds():
    """Whose one layer each of its own begins as."""
    albert = make_bert(2, model="albert", embedding_size=8)
    bert = make_bert(2, seed=1, model="bert", embedding_size=8)
    batch = make_batch(albert)
    assert initialize_successor(albert, bert, "last") == [0, 1]
    np.testing.assert_allclose(run(bert.model, batch), run(albert.model, batch), atol=1e-6)
    assert bert.model.count_params() > albert.model.count_params()


@pytest.mark.parametrize("options", [
    {"with_pool": True, "with_mlm": True},
    pytest.param({"model": "electra", "with_discriminator": True}, marks=pytest.mark.slow),
    pytest.param(
        {"model": "roformer_v2", "with_mlm": "linear", "embedding_size": 8}, marks=pytest.mark.slow
    ),
], ids=str)  # fmt: skip
def test_ends(options):
    hosts = predecessor, _ = make_bert(2, **options), make_bert(1, seed=1, **options)
    inputs = [keras.Input(tuple(x.shape)[1:]) for x in predecessor.outputs]
    head = keras.Model(inputs, [keras.layers.Dense(3)(x) for x in inputs])
    theseus = build_theseus_model(*hosts, head, replacement_rate=0)
    small = build_successor_model(theseus)
    alone = keras.Model(predecessor.inputs, head(predecessor.output))
    batch = make_batch(predecessor)
    for training, expected in ((True, run(alone, batch)), (False, run(small, batch))):
        found = run(theseus, batch, training)
        for a, b in zip(found, expected) if len(inputs) > 1 else [(found, expected)]:
            np.testing.assert_allclose(a, b, atol=1e-6)


# What is refused.


class GAU_alpha(RoFormerV2):  # noqa: N801  the name it has among bert4keras' users
    def apply_main_layers(self, inputs, index):
        return super().apply_main_layers(inputs, index)


SUPPORTED = r"Supported are: BERT, ALBERT, .*, T5_Encoder\."


@pytest.mark.parametrize("model, message", [
    ("t5", f"family T5 is not supported. {SUPPORTED}"),
    ("t5_decoder", f"family T5_Decoder is not supported. {SUPPORTED}"),
    (GAU_alpha, "family GAU_alpha, whose apply_main_layers replaces that of RoFormerV2, is not"),
], ids=str)  # fmt: skip
def test_other_families(model, message):
    host = make_bert(model=model)
    with pytest.raises(ValueError, match=message):
        as_encoder(host)


def test_options_that_reach_into_the_layers():
    condition = keras.Input((4,))
    caches = [keras.Input((None, 16)) for _ in range(2)]
    for options, name in [
        ({"residual_attention_scores": True}, "residual_attention_scores"),
        ({"model": "nezha", "residual_attention_scores": True}, "residual_attention_scores"),
        ({"layer_norm_cond": condition, "additional_input_layers": condition}, "layer_norm_cond"),
        ({"additional_input_layers": condition}, "additional_input_layers"),
        (
            {
                "model": "gpt2",
                "attention_caches": {"Transformer-0-MultiHeadSelfAttention": caches},
                "additional_input_layers": caches,
            },
            "attention_caches",
        ),
    ]:
        with pytest.raises(ValueError, match=rf"with .*{name}.* cannot be compressed"):
            as_encoder(make_bert(1, **options))


@pytest.mark.parametrize("application", ["lm", pytest.param("unilm", marks=pytest.mark.slow)])
def test_a_mask_on_one_side_only(application):
    masked, plain = make_bert(1, application=application), make_bert(1, with_mlm="linear")
    with pytest.raises(ValueError, match=r"Received: [12] more tensors in the predecessor, 0 in"):
        build_theseus_model(masked, plain, make_head(VOCAB))
    with pytest.raises(ValueError, match="does not go with one without"):
        build_theseus_model(make_bert(1, with_mlm="linear"), masked, make_head(VOCAB))


def test_a_host_that_is_not_built():
    with pytest.raises(ValueError, match="The NEZHA is not built"):
        as_encoder(NEZHA(max_position=12, num_hidden_layers=2, **TINY))
