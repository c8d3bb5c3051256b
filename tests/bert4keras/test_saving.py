"""Weights out: what we save, others load, and so do we; failures change nothing."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers
from bert4keras.backend import keras
from bert4keras.models import build_transformer_model
from bert4keras.tokenizers import Tokenizer
from bert_helpers import (
    LABELS,
    MAIN_FILES,
    SAVE,
    TINY,
    VOCAB,
    load_into,
    make_batch,
    make_bert,
    run,
    same,
    scatter,
    weights_of,
    whole,
)
from damage import contents, full_disk, interrupted_move
from helpers import dtype_policy
from safetensors.numpy import load_file

from bert_of_theseus.checkpoints import load_bert, load_pretrained, save_checkpoint, save_pretrained
from bert_of_theseus.heads import classification_head, pooler_classification_head, tagging_head

BATCH = make_batch(10, 6, 1)


def predict(transformer, classifier=None):
    return run(whole(transformer, classifier), BATCH[:2])


def torch_load(auto, directory):
    """A model of `transformers`, which found every weight that it has, and no other."""
    model, info = auto.from_pretrained(directory, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def torch_outputs(model):
    token_ids, segment_ids, mask = (torch.tensor(a.astype("int64")) for a in BATCH)
    with torch.no_grad():
        return model(token_ids, token_type_ids=segment_ids, attention_mask=mask)


def quietly(save, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(*args, **kwargs)


@pytest.fixture(scope="module")
def bert():
    return make_bert(prefix="Successor-")


@pytest.fixture(scope="module")
def saved(bert, tmp_path_factory):
    """A folder of each kind, with a head of BERT's own."""
    classifier = scatter(pooler_classification_head(16, 3))
    folders = {}
    for kind, save in SAVE.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        save(folders[kind], bert, classifier, vocab=VOCAB, labels=LABELS)
    return folders


def pooled_dense():
    inputs = keras.Input((16,))
    x = keras.layers.Dropout(0.25)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="sigmoid")(x))


def raw_head():
    # As in the original script: a Lambda, and bert4keras' way to the first token.
    inputs = keras.Input((None, 16))
    x = keras.layers.Lambda(lambda x: x[:, 0])(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def recurrent_head():
    # One-sided, as on a padded text `transformers` sees no mask here.
    return keras.Sequential(
        [keras.layers.Input((None, 16)), keras.layers.SimpleRNN(4), keras.layers.Dense(3)]
    )


HEADS = {
    # name: (how it is made, with_pool, the class of `transformers`, what makes of its logits ours)
    "pooler": (lambda: pooler_classification_head(16, 3), False, "SequenceClassification"),
    "pooled": (pooled_dense, True, "SequenceClassification"),
    "tagger": (lambda: tagging_head(16, 3), False, "TokenClassification"),
    "bare layer": (lambda: keras.layers.Dense(3), False, "TokenClassification"),
    "first token": (lambda: classification_head(16, 3), False, None),
    "lambda": (raw_head, False, None),
    "recurrent": (recurrent_head, False, None),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_in_other_programs_and_back(name, bert, tmp_path):
    make, with_pool, kind = HEADS[name]
    bert = make_bert(with_pool=True) if with_pool else bert
    classifier = make()
    classifier(bert.output)
    scatter(classifier)
    expected = predict(bert, classifier)
    for save in SAVE.values():
        folder = tmp_path / save.__name__
        options = {"vocab": VOCAB, "labels": LABELS}
        if kind is None:
            with pytest.warns(UserWarning, match="none of the family's own.*head.keras"):
                save(folder, bert, classifier, **options)
        else:
            save(folder, bert, classifier, **options)
        again, head, labels = load_pretrained(folder, prefix="Again-")
        assert labels == LABELS and again.prefix == "Again-"
        np.testing.assert_array_equal(predict(again, head), expected)

    folder = tmp_path / "save_pretrained"
    if kind is None:
        model = torch_load(transformers.AutoModel, folder)
        hidden = torch_outputs(model).last_hidden_state
        np.testing.assert_allclose(hidden, predict(bert), atol=1e-4, rtol=0)
    else:
        model = torch_load(getattr(transformers, f"AutoModelFor{kind}"), folder)
        logits = torch_outputs(model).logits.numpy()
        # Ours, which was loaded from this folder last, without the activation: logits.
        head.layers[-1].activation = keras.activations.linear
        np.testing.assert_allclose(logits, predict(again, head), atol=1e-4, rtol=0)
    assert list(model.config.id2label.values()) == LABELS
    assert model.config.label2id["好"] == 2 and model.config.num_hidden_layers == 2


def test_without_a_head(bert, tmp_path):
    with pytest.warns(UserWarning, match="an identity is written"):
        save_pretrained(tmp_path / "a", bert)
    found = torch_outputs(torch_load(transformers.AutoModel, tmp_path / "a"))
    np.testing.assert_allclose(found[0], predict(bert), atol=1e-4, rtol=0)
    np.testing.assert_allclose(found[1], np.tanh(predict(bert)[:, 0]), atol=1e-4, rtol=0)
    transformer, classifier, labels = load_pretrained(tmp_path / "a")
    assert classifier is None and labels is None
    np.testing.assert_array_equal(predict(transformer), predict(bert))

    pooled = make_bert(with_pool=True, hidden_act="gelu_tanh")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_pretrained(tmp_path / "b", pooled)
    found = torch_outputs(torch_load(transformers.AutoModel, tmp_path / "b"))
    np.testing.assert_allclose(found[1], predict(pooled), atol=1e-4, rtol=0)


def test_pretraining_heads(tmp_path):
    bert = make_bert(with_mlm="linear", with_nsp=True)
    save_pretrained(tmp_path, bert)
    model = torch_load(transformers.AutoModelForPreTraining, tmp_path)
    nsp, mlm = predict(bert)
    found = torch_outputs(model)
    np.testing.assert_allclose(found.prediction_logits, mlm, atol=1e-4, rtol=0)
    proba = torch.softmax(found.seq_relationship_logits, -1)
    np.testing.assert_allclose(proba, nsp, atol=1e-4, rtol=0)


def test_plain_bert4keras_loads_the_google_checkpoint(bert, saved):
    folder = saved["google"]
    plain = build_transformer_model(
        str(folder / "bert_config.json"),
        str(folder / "bert_model.ckpt"),
        return_keras_model=False,
    )
    assert plain.num_hidden_layers == 2
    np.testing.assert_array_equal(predict(plain), predict(bert))
    # Google's own names and shapes of a classifier's variables.
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    shapes = reader.get_variable_to_shape_map()
    assert shapes["output_weights"] == [3, 16] and shapes["output_bias"] == [3]
    assert shapes["bert/encoder/layer_1/intermediate/dense/kernel"] == [16, 24]
    assert not any("layer_2" in name or "Successor" in name for name in shapes)


def test_a_google_checkpoint_tensor_by_tensor(bert, saved):
    """`transformers` has no reader of TensorFlow's checkpoints any more: its names, by hand."""
    reader = tf.train.load_checkpoint(str(saved["google"] / "bert_model.ckpt"))
    config = transformers.BertConfig.from_json_file(saved["google"] / "bert_config.json")
    model = transformers.BertForSequenceClassification(config).eval()
    names = {"output_weights": "classifier.weight", "output_bias": "classifier.bias"}
    state = {}
    for name in reader.get_variable_to_shape_map():
        value = reader.get_tensor(name)
        new = names.get(name, name.replace("layer_", "layer.").replace("/", "."))
        for old, part in (("kernel", "weight"), ("gamma", "weight"), ("beta", "bias")):
            if new.endswith("." + old):
                new = new.removesuffix(old) + part
        new += ".weight" if new.endswith("_embeddings") else ""
        state[new] = torch.tensor(value.T if name.endswith("kernel") else value)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)
    expected = torch_outputs(
        torch_load(transformers.AutoModelForSequenceClassification, saved["huggingface"])
    )
    torch.testing.assert_close(torch_outputs(model).logits, expected.logits, atol=1e-6, rtol=0)


def test_epsilon_other_than_bert4keras_own_is_said(saved, tmp_path):
    bert = load_bert(saved["google"])
    for layer in bert.layers.values():
        if hasattr(layer, "epsilon"):
            layer.epsilon = 1e-5
    with pytest.warns(UserWarning, match="epsilon is 1e-05"):
        save_checkpoint(tmp_path, bert)
    np.testing.assert_array_equal(predict(load_bert(tmp_path)), predict(bert))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_models_of_mixed_precision_are_saved_in_float32(policy, tmp_path):
    with dtype_policy(policy):
        bert = make_bert()
        for name, head in (("own", pooler_classification_head(16, 3)), ("other", recurrent_head())):
            scatter(head)
            for save in SAVE.values():
                quietly(save, tmp_path / name / save.__name__, bert, head, labels=LABELS)
            assert {layer.compute_dtype for layer in head.layers[1:]} == {policy[6:]}
    for folder in (path for name in ("own", "other") for path in (tmp_path / name).iterdir()):
        again, head, _ = load_pretrained(folder)
        assert same(weights_of(again.model), weights_of(bert.model))
        assert {layer.compute_dtype for layer in head._flatten_layers()} == {"float32"}
    tensors = load_file(tmp_path / "own/save_pretrained/model.safetensors")
    assert {value.dtype.name for value in tensors.values()} == {"float32"}
    torch_load(transformers.AutoModelForSequenceClassification, tmp_path / "own/save_pretrained")


# Round trips.


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification", None])
def test_round_trip_of_a_hugging_face_directory(kind, tmp_path):
    torch.manual_seed(0)
    names = dict(enumerate(LABELS)) if kind == "TokenClassification" else None
    options = {"num_labels": 3, "id2label": names, "classifier_dropout": 0.2}
    config = transformers.BertConfig(**TINY, num_hidden_layers=2, **options)
    auto = getattr(transformers, f"AutoModelFor{kind}" if kind else "AutoModel")
    theirs = auto.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "a")
    options = {} if kind else {"with_pool": True}  # a BertModel's pooler is its own
    transformer, classifier, labels = load_pretrained(tmp_path / "a", **options)
    assert labels == (names and LABELS) and (classifier is None) == (kind is None)
    save_pretrained(tmp_path / "b", transformer, classifier, labels=labels)
    # And by way of the other kind.
    save_checkpoint(tmp_path / "c", transformer, classifier, labels=labels)
    again, classifier, labels = load_pretrained(tmp_path / "c", **options)
    save_pretrained(tmp_path / "d", again, classifier, labels=labels)
    source = load_file(tmp_path / "a/model.safetensors")
    for folder in ("b", "d"):
        found = load_file(tmp_path / folder / "model.safetensors")
        assert found.keys() == source.keys()
        for name, value in source.items():
            assert found[name].tobytes() == value.tobytes() and found[name].shape == value.shape
    model = torch_load(auto, tmp_path / "d")
    torch.testing.assert_close(torch_outputs(model), torch_outputs(theirs), atol=0, rtol=0)
    if kind:
        assert type(model) is type(theirs) and model.config.id2label == theirs.config.id2label
        assert model.config.classifier_dropout == 0.2


def test_round_trip_of_a_google_checkpoint(saved, tmp_path):
    transformer, classifier, labels = load_pretrained(saved["google"])
    save_checkpoint(tmp_path / "b", transformer, classifier, labels=labels)
    save_pretrained(tmp_path / "c", transformer, classifier, labels=labels)
    save_checkpoint(tmp_path / "d", *load_pretrained(tmp_path / "c")[:2])
    first, *others = (
        tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
        for folder in (saved["google"], tmp_path / "b", tmp_path / "d")
    )
    names = first.get_variable_to_shape_map()
    for other in others:
        assert other.get_variable_to_shape_map() == names
        for name in names:
            assert other.get_tensor(name).tobytes() == first.get_tensor(name).tobytes()


def test_what_the_model_does_not_hold_is_named(tmp_path):
    quietly(save_pretrained, tmp_path / "a", make_bert(with_mlm="linear", with_nsp=True))
    transformer = load_bert(tmp_path / "a", num_hidden_layers=1)
    with pytest.warns(UserWarning) as caught:
        save_checkpoint(tmp_path / "b", transformer)
    text = str(caught[0].message)
    for name in ("bert/pooler/dense/kernel", "cls/predictions/output_bias", "not written"):
        assert name in text
    assert "layer_1" not in text  # deeper layers are left out on purpose
    # A pooler that the head brings is not missing.
    with pytest.warns(UserWarning) as caught:
        save_pretrained(tmp_path / "c", transformer, pooler_classification_head(16, 2))
    assert "pooler" not in str(caught[0].message)


def test_files_that_others_may_read(saved):
    """All that is written has the rights that any new file has."""
    for folder in saved.values():
        (folder / "any").touch()
        rights = {path.stat().st_mode for path in folder.iterdir()}
        (folder / "any").unlink()
        assert len(rights) == 1


def test_vocabularies(bert, tmp_path):
    words = dict(zip(VOCAB, range(40)))
    quietly(save_pretrained, tmp_path, bert, vocab=Tokenizer(words, do_lower_case=False))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("天 7").input_ids == [2, 5, VOCAB.index("7"), 3]
    assert tokenizer.do_lower_case is False
    for vocab in (tmp_path / "vocab.txt", words, VOCAB):
        quietly(save_pretrained, tmp_path / "b", bert, vocab=vocab)
        assert (tmp_path / "b/vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()
        settings = json.loads((tmp_path / "b/tokenizer_config.json").read_text())
        assert settings["do_lower_case"] is (vocab is words or vocab is VOCAB)
    # All that stands beside a vocab.txt is part of the tokenizer.
    settings = {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[E]": len(VOCAB)}))
    quietly(save_pretrained, tmp_path / "c", bert, vocab=tmp_path / "vocab.txt")
    kept = json.loads((tmp_path / "c/tokenizer_config.json").read_text())
    assert settings.items() <= kept.items()
    assert json.loads((tmp_path / "c/added_tokens.json").read_text()) == {"[E]": len(VOCAB)}


# What is refused, with nothing written.


REFUSED = {
    "no transformer": ({"encoder": None}, TypeError, "bert4keras Transformer"),
    "a Keras model": ({"encoder": keras.Sequential()}, TypeError, "Received: Sequential"),
    "no classifier": ({"classifier": "head"}, TypeError, "`classifier` must be"),
    "too few labels": ({"labels": ["a"]}, ValueError, "name the 3 classes.*Received: 1"),
    "labels twice": ({"labels": ["a", "b", "a"]}, ValueError, "distinct"),
    "numbers as labels": ({"labels": [1, 2, 3]}, ValueError, "distinct strings"),
    "too many tokens": ({"vocab": [*VOCAB, "more"]}, ValueError, "41 tokens.*40 rows"),
    "gaps in the ids": ({"vocab": {"[PAD]": 0, "a": 2}}, ValueError, "ids 0, 1, 2"),
    "a number as vocab": ({"vocab": 3}, TypeError, "`vocab` must be"),
    "a missing vocab": ({"vocab": "no/vocab.txt"}, FileNotFoundError, "no/vocab.txt"),
}


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("case", REFUSED)
def test_refused(kind, case, bert, saved, tmp_path):
    changes, error, text = REFUSED[case]
    folder = shutil.copytree(saved[kind], tmp_path / "a")
    classifier = pooler_classification_head(16, 3)
    arguments = {"encoder": bert, "classifier": classifier, "labels": LABELS, **changes}
    for target in (folder, tmp_path / "new"):
        with pytest.raises(error, match=text):
            SAVE[kind](target, **arguments)
    assert contents(tmp_path / "a") == contents(saved[kind])
    assert os.listdir(tmp_path) == ["a"]


def test_models_that_no_config_can_say(bert, tmp_path):
    for options, text in [
        ({"application": "lm"}, "attention mask"),
        ({"attention_head_size": 4}, "heads of another size"),
        ({"hierarchical_position": True}, "hierarchical_position"),
        ({"with_pool": "linear"}, "without tanh"),
        ({"hidden_act": "leaky_relu"}, "activation leaky_relu"),
        ({"model": "albert"}, "Received: ALBERT"),
    ]:
        with pytest.raises(ValueError, match=text):
            save_pretrained(tmp_path / "a", make_bert(1, **options))
    with pytest.raises(ValueError, match=r"embeddings of hidden_size 16\. Received: 8"):
        save_pretrained(tmp_path / "a", make_bert(1, embedding_size=8))
    broken = make_bert(1)
    broken.layers["Embedding-Norm"].set_weights([np.full(16, np.nan)] * 2)
    with pytest.raises(ValueError, match="NaN or infinity: bert/embeddings/LayerNorm/beta"):
        save_pretrained(tmp_path / "a", broken)

    class Unregistered(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    with pytest.raises(ValueError, match=r"'Unregistered'.*Register its classes"):
        save_pretrained(tmp_path / "a", bert, Unregistered())
    double = keras.layers.Lambda(lambda x: 2 * x)
    with pytest.raises(ValueError, match="holds a Lambda"):
        save_pretrained(tmp_path / "a", bert, keras.Sequential([keras.Input((None, 16)), double]))
    assert not os.listdir(tmp_path)


def test_folders_with_another_checkpoint(bert, saved, tmp_path):
    for kind, other in (("google", "huggingface"), ("huggingface", "google")):
        folder = shutil.copytree(saved[other], tmp_path / kind)
        with pytest.raises(FileExistsError, match="another checkpoint"):
            SAVE[kind](folder, bert)
        with pytest.raises(FileExistsError, match="overwrite=False"):
            SAVE[other](folder, bert, overwrite=False)
        assert contents(folder) == contents(saved[other])
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="it is a file"):
        save_pretrained(tmp_path / "file", bert)


# A failure leaves what was there.


@pytest.mark.parametrize("kind", SAVE)
def test_a_full_disk(kind, bert, saved, tmp_path):
    folder = shutil.copytree(saved[kind], tmp_path / "a")
    head = scatter(classification_head(16, 3), seed=1)
    for limit in (0, 100, 1000, 5000, 15000):
        for target in (folder, tmp_path / "new"):
            with full_disk(limit), pytest.raises(OSError):
                SAVE[kind](target, bert, head, vocab=VOCAB)
        assert contents(folder) == contents(saved[kind])
        assert os.listdir(tmp_path) == ["a"]
    assert load_into(make_bert(seed=1), folder, weights_of(bert.model))


@pytest.mark.parametrize("kind", SAVE)
def test_an_interruption_between_two_moves(kind, bert, saved, tmp_path):
    folder = shutil.copytree(saved[kind], tmp_path / "a")
    head = scatter(tagging_head(16, 3))
    for number in range(len(contents(folder)) * 2):
        for vocab in (VOCAB, None):
            with interrupted_move(number):
                SAVE[kind](folder, bert, head, vocab=vocab)
            assert contents(folder) == contents(saved[kind])
    SAVE[kind](folder, bert, head, vocab=VOCAB)
    assert load_pretrained(folder)[1].name == "tagger"


@pytest.mark.parametrize("kind", SAVE)
def test_an_old_model_is_replaced_whole(kind, bert, saved, tmp_path):
    folder = shutil.copytree(saved[kind], tmp_path / "a")
    (folder / "README.md").write_text("mine")
    for name in ("tokenizer.json", "model.onnx", "model.int8.tflite"):
        (folder / name).write_text("stale")
    if kind == "huggingface":
        (folder / "model-00001-of-00002.safetensors").write_text("stale")
    quietly(SAVE[kind], folder, bert, classification_head(16, 2), vocab=VOCAB)
    assert (folder / "head.keras").is_file()
    SAVE[kind](folder, bert, scatter(tagging_head(16, 3)), vocab=VOCAB)
    assert sorted(os.listdir(folder)) == sorted(
        [*MAIN_FILES[kind], "README.md", "checksums.json", "tokenizer_config.json", "vocab.txt"]
    )
    assert load_pretrained(folder)[1].name == "tagger"
    # Without a vocabulary, the old one stays if it fits.
    SAVE[kind](folder, bert, scatter(tagging_head(16, 3)))
    assert (folder / "vocab.txt").read_text(encoding="utf-8").split() == VOCAB


# A head beside.


def test_a_head_of_a_layer_that_bert4keras_has_its_own_of(bert, tmp_path):
    hidden = keras.Input((None, bert.hidden_size))
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    head = keras.Model(hidden, keras.layers.Dense(2, activation="softmax")(pooled))
    with pytest.warns(UserWarning, match="head.keras"):
        save_pretrained(tmp_path / "a", bert, head)
    _, again, _ = load_pretrained(tmp_path / "a")
    x = np.random.default_rng(0).normal(size=(2, 3, bert.hidden_size)).astype("float32")
    np.testing.assert_array_equal(again(x), head(x))


# Keras' own files.


@pytest.mark.slow
def test_saved_models_load_in_a_fresh_process(saved, tmp_path):
    """TensorFlow's own kinds of file; those of Keras are in test_family_files.py."""
    model = whole(*load_pretrained(saved["huggingface"])[:2])
    np.savez(tmp_path / "batch.npz", *BATCH[:2], run(model, BATCH[:2]))
    model.save(tmp_path / "saved_model", save_format="tf")
    model.export(tmp_path / "exported")
    code = """
        import sys
        import bert_of_theseus.bert4keras
        import numpy as np
        import tensorflow as tf
        from bert_of_theseus.backend import keras

        folder, = sys.argv[1:]
        *inputs, expected = np.load(f"{folder}/batch.npz").values()
        inputs = [tf.constant(x, tf.float32) for x in inputs]
        exported = tf.saved_model.load(f"{folder}/exported")  # whose variables live with it
        for call in (keras.models.load_model(f"{folder}/saved_model"), exported.serve):
            np.testing.assert_allclose(call(inputs), expected, atol=1e-6)
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), tmp_path]
    root = Path(__file__).parents[2]
    subprocess.run(list(map(str, arguments)), check=True, cwd=root)
