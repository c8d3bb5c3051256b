"""Whole models in KerasHub, from and into folders: heads, tokenizers, precision, refusals."""

import contextlib
import json
import os
import shutil
import sys
import warnings

import keras
import keras_hub
import numpy as np
import pytest
from damage import contents
from helpers import dtype_policy
from safetensors.numpy import load_file, save_file

from bert_of_theseus import heads
from bert_of_theseus.checkpoints import (
    find_checkpoint,
    load_pretrained,
    read_task,
    save_checkpoint,
    save_pretrained,
)
from bert_of_theseus.checkpoints.families import SEQUENCE, TOKEN
from bert_of_theseus.checkpoints.keras_heads import read_head
from bert_of_theseus.data import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import tiny_transformers  # noqa: E402

pytestmark = pytest.mark.slow_unless("torch")  # the same code on each backend


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    tiny_transformers.write(folder, "bert")
    return folder


@pytest.fixture(scope="module")
def electra(tmp_path_factory):
    folder = tmp_path_factory.mktemp("electra")
    tiny_transformers.write(folder, "electra", problem_type="multi_label_classification")
    return folder


def config(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def values(folder):
    return load_file(folder / "model.safetensors")


def changed(source, target, **tensors):
    shutil.copytree(source, target)
    save_file({**values(source), **tensors}, target / "model.safetensors")
    return target


@contextlib.contextmanager
def warned(text):
    with pytest.warns(UserWarning, match=text):
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # NumPy's, of PyTorch
        yield


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_without_a_head(tmp_path, family):
    """All comes out as it came in, bit by bit, the pooler too."""
    model, _ = tiny_transformers.write(tmp_path / "a", family)
    pooled = type(model.base_model)(model.config)  # RoBERTa's with a head has none
    pooled.save_pretrained(tmp_path / "a")
    encoder, classifier, labels = load_pretrained(tmp_path / "a")
    assert classifier is None and labels == tiny_transformers.LABELS
    save_pretrained(tmp_path / "b", encoder, labels=labels)
    before, after = values(tmp_path / "a"), values(tmp_path / "b")
    assert before.keys() == after.keys() and any("pooler" in name for name in before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert config(tmp_path / "b")["architectures"] == [type(pooled).__name__]


def test_without_the_head_that_it_had(bert, tmp_path):
    encoder, *_ = load_pretrained(bert)
    with warned("an identity is written"):
        save_pretrained(tmp_path, encoder)
    pooler = {name: value for name, value in values(tmp_path).items() if "pooler" in name}
    assert len(pooler) == 2
    for value in pooler.values():
        np.testing.assert_array_equal(value, np.eye(16) if value.ndim == 2 else np.zeros(16))


def test_first_layers_and_names(bert):
    encoder, *_ = load_pretrained(bert, num_hidden_layers=1, prefix="first_")
    whole, *_ = load_pretrained(bert)
    assert len(encoder.transformer_layers) == 1 and encoder.name.startswith("first_")
    assert all(map(np.array_equal, encoder.get_weights(), whole.get_weights()))
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"from 1 to 2.*Received: {number}"):
            load_pretrained(bert, num_hidden_layers=number)
    with pytest.raises(TypeError, match="do not take dropout_rate, sequence_length"):
        load_pretrained(bert, sequence_length=3, dropout_rate=0.1)


def test_without_keras_hub(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pip install 'bert-of-theseus\[keras-hub\]'"):
        load_pretrained(bert)


def test_a_pooler_that_a_tagger_does_not_use(tmp_path):
    tiny_transformers.write(tmp_path / "a", "bert", "Token")
    pooler = {
        "bert.pooler.dense.weight": np.ones((16, 16), "float32"),
        "bert.pooler.dense.bias": np.ones(16, "float32"),
    }
    encoder, classifier, _ = load_pretrained(changed(tmp_path / "a", tmp_path / "b", **pooler))
    with warned("not written: bert/pooler/dense/bias, bert/pooler/dense/kernel"):
        save_pretrained(tmp_path / "c", encoder, classifier)
    assert values(tmp_path / "c").keys() == values(tmp_path / "a").keys()


def test_tasks_come_out_as_they_went_in(electra, tmp_path):
    """With a tagger and a number, of other families, in test_whole_families.py."""
    save_pretrained(tmp_path, *load_pretrained(electra)[:2], labels=tiny_transformers.LABELS)
    assert config(tmp_path)["problem_type"] == "multi_label_classification"
    assert read_task(find_checkpoint(tmp_path)) == read_task(find_checkpoint(electra))
    theirs = transformers.AutoConfig.from_pretrained(electra).to_dict()
    found = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
    different = {key for key in theirs if theirs[key] != found.get(key)}
    assert different <= {"_name_or_path", "classifier_dropout"}  # by default that of hidden states
    assert set(found) - set(theirs) == {"classifier_activation"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_models_of_mixed_precision_are_saved_in_float32(policy, electra, tmp_path):
    with dtype_policy(policy):
        encoder, classifier, labels = load_pretrained(electra)
        other = keras.Sequential(
            [keras.Input((None, 16)), keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(3)]
        )
        save_pretrained(tmp_path / "own", encoder, classifier, labels=labels)
        with warned(r"head\.keras"):
            save_pretrained(tmp_path / "other", encoder, other, labels=labels)
    assert classifier.compute_dtype in ("float16", "bfloat16")
    expected, found = values(electra), values(tmp_path / "own")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes()
    again, head, _ = load_pretrained(tmp_path / "other")
    assert {layer.compute_dtype for layer in head._flatten_layers()} == {"float32"}
    assert all(map(np.array_equal, head.get_weights(), other.get_weights()))
    assert all(weight.dtype == "float32" for weight in again.weights)


@pytest.mark.parametrize("given", ["folder", "tokenizer"])
def test_the_tokenizers_files_byte_for_byte(given, electra, tmp_path):
    encoder, classifier, labels = load_pretrained(electra)
    tokenizer = electra if given == "folder" else Tokenizer.from_folder(electra)
    folder = tmp_path / "a"
    folder.mkdir()
    old = ("vocab.json", "spm.model", "pytorch_model.bin", "model-00001-of-00002.safetensors")
    for name in old:  # of another model
        (folder / name).write_text("old")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_text("old")
    (folder / "README.md").write_text("mine")
    save_pretrained(folder, encoder, classifier, tokenizer=tokenizer, labels=labels)
    files = {path.name for path in Tokenizer.from_folder(electra).files()}
    assert {"tokenizer.json", "tokenizer_config.json"} <= files
    for name in files:
        assert (folder / name).read_bytes() == (electra / name).read_bytes()
    left = {path.name for path in folder.iterdir() if path.is_file()}
    assert left == {*files, "config.json", "model.safetensors", "checksums.json", "README.md"}
    assert not (folder / "onnx" / "model.onnx").exists()
    listed = json.loads((folder / "checksums.json").read_text())
    assert set(listed) == left - {"checksums.json", "README.md"}
    theirs = transformers.pipeline("text-classification", str(folder), top_k=None)
    assert {entry["label"] for entry in theirs("a b")[0]} == set(labels)


REFUSED = {
    "another tokenizer": ({"tokenizer": "large"}, ValueError, "has 62 tokens.*have 57 rows"),
    "no tokenizer": ({"tokenizer": 3}, TypeError, "`tokenizer` must be a data.Tokenizer"),
    "a missing folder": ({"tokenizer": "no/folder"}, FileNotFoundError, "no/folder"),
    "two of them": ({"tokenizer": "large", "vocab": ["a"]}, ValueError, "Only one of"),
    "no encoder": ({"encoder": keras.Sequential}, TypeError, "`encoder` must be"),
    "labels": ({"labels": ["a"]}, ValueError, "name the 3 classes"),
    "NaN": ({"encoder": "broken"}, ValueError, r"NaN or infinity: bert/embeddings/LayerNorm/beta"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_nothing_written(case, electra, tmp_path):
    changes, error, text = REFUSED[case]
    encoder, classifier, labels = load_pretrained(electra)
    arguments = {"encoder": encoder, "classifier": classifier, "labels": labels, **changes}
    if arguments.get("tokenizer") == "large":
        vocabulary = [*["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], *map(str, range(57))]
        arguments["tokenizer"] = tmp_path / "large"
        arguments["tokenizer"].mkdir()
        (tmp_path / "large" / "vocab.txt").write_text("\n".join(vocabulary))
    if arguments["encoder"] == "broken":
        norm = encoder.embeddings_layer_norm
        norm.set_weights([norm.get_weights()[0], np.full(8, np.nan)])
        arguments["encoder"] = encoder
    folder = shutil.copytree(electra, tmp_path / "a")
    for target in (folder, tmp_path / "new"):
        with pytest.raises(error, match=text):
            save_pretrained(target, **arguments)
    assert contents(folder) == contents(electra)
    assert not (tmp_path / "new").exists()


def test_other_refusals(bert, electra, tmp_path):
    with pytest.raises(ValueError, match=r"Google's checkpoints are of BERT.*'electra'"):
        save_checkpoint(tmp_path / "a", *load_pretrained(electra)[:2])
    backbone = keras_hub.models.FNetBackbone(20, 1, 8, 16, num_segments=2)
    with pytest.raises(ValueError, match="FNetBackbone cannot be written"):
        save_pretrained(tmp_path / "a", backbone)
    broken = {"classifier.bias": np.full(3, np.inf, "float32")}
    with pytest.raises(
        ValueError, match=r"NaN or infinity \(nothing was loaded\): classifier.bias"
    ):
        load_pretrained(changed(bert, tmp_path / "b", **broken))
    words = "bert.embeddings.word_embeddings.weight"
    broken = {words: np.full_like(values(bert)[words], np.nan)}
    with pytest.raises(ValueError, match=rf"NaN or infinity.*{words}"):
        load_pretrained(changed(bert, tmp_path / "c", **broken))
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def chain(*steps, size=8):
    x = inputs = keras.Input((None, size))
    for step in steps:
        x = step(x)
    return keras.Model(inputs, x)


def first(x):
    return x[:, 0]


Dense = keras.layers.Dense
DEEP = ("gelu", "relu", "swish", "tanh")
HEADS = {
    "relu": (heads.pooler_classification_head(8, 3, pooler_activation="relu"), ("relu",), SEQUENCE),
    "gelu, two dropouts": (
        heads.pooler_classification_head(8, 3, pooler_activation="gelu", input_dropout_rate=0.1),
        ("gelu",),
        SEQUENCE,
    ),
    "silu": (chain(first, Dense(8, activation="silu"), Dense(3)), DEEP, SEQUENCE),
    "tagger": (heads.tagging_head(8, 3), ("relu",), TOKEN),
    "slice": (chain(first, Dense(3)), ("tanh",), None),
    "nested": (
        chain(chain(first, Dense(8, "tanh")), lambda x: Dense(3, "sigmoid")(x)),
        ("tanh",),
        SEQUENCE,
    ),
}  # fmt: skip
OTHERS = {
    "another family's": (heads.pooler_classification_head(8, 3), ("relu",)),
    "second token": (chain(lambda x: x[:, 1], Dense(3)), DEEP),
    "mean": (chain(keras.layers.GlobalAveragePooling1D(), Dense(3)), DEEP),
    "a pooler without activation": (chain(first, Dense(8), Dense(3)), DEEP),
    "approximate gelu": (
        chain(first, Dense(8, lambda x: keras.activations.gelu(x, approximate=True)), Dense(3)),
        DEEP,
    ),
    "GRU": (chain(keras.layers.GRU(4), Dense(3)), DEEP),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_known(name):
    model, poolers, kind = HEADS[name]
    head = read_head(model, (None, None, 8), poolers)
    assert head.kind == kind and head.num_classes == 3
    kernels = [layer.kernel for layer in head.layers]
    assert all(map(np.array_equal, kernels, model.get_weights()[::2]))


@pytest.mark.parametrize("name", OTHERS)
def test_heads_that_are_not(name):
    model, poolers = OTHERS[name]
    assert read_head(model, (None, None, 8), poolers) is None
