"""LiteRT and ONNX files: they do what Keras does, whole or not at all."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.special
from bert4keras.backend import keras
from bert_helpers import LABELS, VOCAB, make_batch, make_bert, run, scatter, whole
from damage import FEW_OR_MANY, damage_property, damages, full_disk, interrupted_move
from hypothesis import given

from bert_of_theseus.checkpoints import bert4keras_models, save_pretrained
from bert_of_theseus.deploy import export_litert, export_onnx, open_runtime
from bert_of_theseus.heads import classification_head, pooler_classification_head, tagging_head

ROOT = Path(__file__).parents[2]
LENGTH = {"max_position_embeddings": 20}
# How far from Keras' outputs, which are of the order of 1, a form may be on a tiny model.
FORMS = {
    "model.onnx": (export_onnx, None, 1e-5),
    "model.int8.onnx": (export_onnx, "int8", 0.15),
    "model.tflite": (export_litert, None, 1e-5),
    "model.float16.tflite": (export_litert, "float16", 5e-3),
    "model.int8.tflite": (export_litert, "int8", 0.15),
}
EXACT = [name for name, (_, quantize, _) in FORMS.items() if quantize is None]
SHAPES = ((1,), (20,), (7, 3), (9, 4, 1, 9, 2))  # lengths of the texts of a batch


def in_litert(name, fast):
    """Both exact forms; LiteRT's, which takes seconds to make, in the slow tier unless `fast`."""
    marks = () if fast else pytest.mark.slow
    return [(name, "model.onnx"), pytest.param(name, "model.tflite", marks=marks)]


def texts(*lengths):
    return make_batch(*lengths, first_segment=5)[:2]


def check(folder, transformer, classifier, name):
    """Exports, and compares on batches of several shapes and paddings."""
    model = whole(transformer, classifier)
    if classifier is not None:
        scatter(classifier, seed=1)
    export, quantize, tolerance = FORMS[name]
    export(folder / name, transformer, classifier, quantize=quantize)
    runtime = open_runtime(folder / name)
    for lengths in SHAPES:
        batch = texts(*lengths)
        found = runtime(*batch)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, run(model, batch), atol=tolerance, rtol=0)
    assert runtime.max_length in (20, None)


@pytest.fixture(scope="module")
def bert():
    return make_bert(prefix="Successor-", **LENGTH)


@pytest.fixture(scope="module")
def exported(bert, tmp_path_factory):
    """A folder as `save_pretrained` writes it, with every exported form, and the Keras model."""
    folder = tmp_path_factory.mktemp("successor")
    classifier = scatter(pooler_classification_head(16, 3))
    save_pretrained(folder, bert, classifier, vocab=VOCAB, labels=LABELS)
    for name, (export, quantize, _) in FORMS.items():
        export(folder / name, bert, classifier, quantize=quantize)
    return folder, whole(bert, classifier), classifier


# The same outputs.


@pytest.mark.parametrize("name", FORMS)
def test_forms(name, exported):
    folder, model, _ = exported
    runtime = open_runtime(folder / name)
    assert runtime.kind == ("onnx" if name.endswith("onnx") else "litert")
    assert runtime.max_length == 20 and runtime.vocab_size == 40
    for lengths in SHAPES:
        batch = texts(*lengths)
        found = runtime(*batch)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, run(model, batch), atol=FORMS[name][2], rtol=0)
    # Segments are zeros by default, and padding changes nothing.
    token_ids, _ = texts(7, 3)
    expected = runtime(token_ids, np.zeros_like(token_ids))
    np.testing.assert_array_equal(runtime(token_ids), expected)
    if FORMS[name][1] != "int8":  # where activations are rounded by the range of the batch
        alone = runtime(token_ids[1:, :3])
        np.testing.assert_allclose(alone, expected[1:], atol=1e-5)
    assert np.isfinite(runtime(np.zeros((1, 4), int))).all()


def test_keras_behind_the_same_interface(exported):
    folder, model, _ = exported
    runtime = open_runtime(folder)
    assert runtime.kind == "keras" and runtime.max_length == 20
    batch = texts(9, 4)
    np.testing.assert_allclose(runtime(*batch), run(model, batch), atol=1e-6)
    with pytest.raises(ValueError, match="comes too late for Keras"):
        open_runtime(folder, num_threads=1)


def mean_head():
    inputs = keras.Input((None, 16))
    x = keras.layers.GlobalAveragePooling1D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


HEADS = {
    # name: (head, whether the encoder has a pooler)
    "first token": (lambda: classification_head(16, 3), False),
    "logits": (lambda: pooler_classification_head(16, 3, activation="linear"), False),
    "many labels": (lambda: classification_head(16, 3, activation="sigmoid"), False),
    "tagger": (lambda: tagging_head(16, 3), False),
    "none": (lambda: None, False),
    "pooled": (lambda: None, True),
    "mean, traced": (mean_head, False),
}


@pytest.fixture(scope="module")
def encoders():
    return {with_pool: make_bert(1, with_pool=with_pool, **LENGTH) for with_pool in (False, True)}


@pytest.mark.parametrize("head, name", [
    case for head in HEADS for case in in_litert(head, head in ("tagger", "mean, traced"))
])  # fmt: skip
def test_heads(head, name, encoders, tmp_path):
    make, with_pool = HEADS[head]
    check(tmp_path, encoders[with_pool], make(), name)


@pytest.mark.parametrize("activation, name", [
    case
    for activation in ("gelu_tanh", "relu", "swish", "tanh", "linear")
    for case in in_litert(activation, activation == "gelu_tanh")
])  # fmt: skip
def test_activations(activation, name, tmp_path):
    bert4keras_models()  # registers gelu_tanh
    transformer = make_bert(1, hidden_act=activation, **LENGTH)
    check(tmp_path, transformer, classification_head(16, 3), name)


@pytest.mark.slow
def test_another_family(tmp_path):
    transformer = make_bert(1, model="nezha", **LENGTH)
    check(tmp_path, transformer, classification_head(16, 3), "model.tflite")


def test_what_the_head_does_not_ask_for_is_not_computed(bert, exported, tmp_path):
    """Where the head looks at `[CLS]`, one query stands in the last layer, for all of its keys."""

    def operations(path):
        return [node.op_type for node in onnx.load(path).graph.node]

    export_onnx(tmp_path / "a.onnx", bert, tagging_head(16, 3))
    assert operations(tmp_path / "a.onnx").count("Attention") == 2
    found = operations(exported[0] / "model.onnx")
    assert found.count("Attention") == found.count("MultiHeadAttention") == 1


@pytest.mark.parametrize("suffix, most", [
    ("onnx", {"int8.": 0.35}),
    pytest.param("tflite", {"int8.": 0.35, "float16.": 0.6}, marks=pytest.mark.slow),
])  # fmt: skip
def test_quantized_files_are_smaller(suffix, most, tmp_path):
    transformer = make_bert(1, hidden_size=64, intermediate_size=256, vocab_size=2000, **LENGTH)
    head = pooler_classification_head(64, 2)

    def size(infix):
        name = f"model.{infix}{suffix}"
        export, quantize, _ = FORMS[name]
        export(tmp_path / name, transformer, head, quantize=quantize)
        return (tmp_path / name).stat().st_size

    whole = size("")
    for infix, share in most.items():
        assert size(infix) < share * whole


def test_others_read_the_files(exported):
    """The model's limits are an entry of ONNX' metadata, and come after the end of a .tflite."""
    import onnxruntime
    import tensorflow as tf

    folder, model, _ = exported
    metadata = onnx.load(folder / "model.onnx").metadata_props
    assert [entry.key for entry in metadata] == ["bert_of_theseus"]
    batch = dict(zip(("token_ids", "segment_ids"), (ids.astype("int32") for ids in texts(9, 4))))
    expected = run(model, batch.values())
    names = ("input_ids", "attention_mask", "token_type_ids")
    token_ids, segment_ids = (ids.astype("int64") for ids in batch.values())
    fed = dict(zip(names, (token_ids, (token_ids != 0).astype("int64"), segment_ids)))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    found = scipy.special.softmax(session.run(["logits"], fed)[0], axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # The mask counts, not the token.
    fed["attention_mask"][0, 5:] = 0
    cut = [ids * (fed["attention_mask"] == 1) for ids in batch.values()]
    found = scipy.special.softmax(session.run(["logits"], fed)[0], axis=-1)
    np.testing.assert_allclose(found, run(model, cut), atol=1e-5)
    interpreter = tf.lite.Interpreter(model_path=str(folder / "model.tflite"))
    found = interpreter.get_signature_runner()(**batch)["output"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


FRESH = """
    import sys
    import numpy as np
    from bert_of_theseus.deploy import open_runtime
    from bert_of_theseus.__main__ import main

    folder, *kerases = sys.argv[1:]
    for name, forbidden in (
        ("model.int8.onnx", ["bert4keras", "torch", "keras", "tf_keras", "tensorflow"]),
        ("model.int8.tflite", ["bert4keras", "torch", *kerases]),
    ):
        runtime = open_runtime(f"{folder}/{name}", num_threads=1)
        assert runtime(np.array([[2, 5, 7, 0]])).shape == (1, 3)
        found = set(forbidden) & set(sys.modules)
        assert not found, (name, found)
    # The checkpoint itself: bert4keras has its set-up to do.
    sys.exit(main(["predict", folder, f"{folder}/texts", "--kind", "keras"]))
"""


def test_a_fresh_process_imports_what_it_needs(exported):
    kerases = ["keras", "tf_keras", "tensorflow"]
    if not importlib.util.find_spec("ai_edge_litert"):
        kerases = []  # it is TensorFlow's own LiteRT
    folder, model, _ = exported
    (folder / "texts").write_text("天 7\n\n1\n", encoding="utf-8")
    arguments = [sys.executable, "-c", textwrap.dedent(FRESH), str(folder), *kerases]
    done = subprocess.run(arguments, capture_output=True, cwd=ROOT)
    (folder / "texts").unlink()
    assert done.returncode == 1, done.stderr.decode()
    assert "line 2: empty" in done.stderr.decode()
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [row["line"] for row in rows] == [1, 3]
    expected = run(model, [[[2, 5, VOCAB.index("7"), 3]], [[0] * 4]])[0]
    found = [rows[0]["probabilities"][label] for label in LABELS]
    np.testing.assert_allclose(found, expected, atol=1e-5)


# What is refused, with nothing written.


REFUSED = {
    "no model": ({"encoder": 3}, TypeError, "bert4keras Transformer, a KerasHub backbone or"),
    "not built": ({"encoder": keras.Sequential()}, TypeError, "a Keras model that is built"),
    "no classifier": ({"classifier": "head"}, TypeError, "`classifier` must be a Keras"),
    "quantize": ({"quantize": "int4"}, ValueError, "`quantize` must be one of.*Received: 'int4'"),
    "other inputs": (
        {"encoder": keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])},
        ValueError,
        "must have two inputs",
    ),
    "suffix": ({"path": "model.bin"}, ValueError, r"must end with \.(onnx|tflite)"),
    "too far from Keras": (
        {"tolerance": 1e-9, "quantize": "int8"},
        ValueError,
        "was not written.*outputs differ by",
    ),
}


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, suffix, bert, exported, tmp_path):
    change, error, message = REFUSED[case]
    arguments = {"path": f"model.{suffix}", "encoder": bert, "classifier": exported[2]}
    arguments = {**arguments, **change}
    path = tmp_path / arguments.pop("path")
    path.write_text("old")
    export = export_onnx if suffix == "onnx" else export_litert
    with pytest.raises(error, match=message):
        export(path, **arguments)
    assert path.read_text() == "old" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", [
    "model.onnx", pytest.param("model.tflite", marks=pytest.mark.slow)
])  # fmt: skip
def test_a_model_that_holds_nan(name, tmp_path):
    transformer = make_bert(1, prefix=f"NaN-{len(name)}-", **LENGTH)
    transformer.model.set_weights([w * np.nan for w in transformer.model.get_weights()])
    with pytest.raises(ValueError, match="output is NaN"):
        FORMS[name][0](tmp_path / name, transformer, pooler_classification_head(16, 3))
    assert not os.listdir(tmp_path)


# A failure leaves what was there.


@pytest.mark.parametrize("name", [
    "model.onnx", "model.int8.onnx", pytest.param("model.tflite", marks=pytest.mark.slow)
])  # fmt: skip
def test_a_full_disk(name, bert, exported, tmp_path):
    path = tmp_path / name
    path.write_bytes(old := (exported[0] / name).read_bytes())
    export, quantize, _ = FORMS[name]
    for limit in (0, 1000, len(old) - 100):
        with full_disk(limit), pytest.raises(OSError):
            export(path, bert, exported[2], quantize=quantize)
        assert path.read_bytes() == old and os.listdir(tmp_path) == [name]
    export(path, bert, exported[2], quantize=quantize)
    open_runtime(path)


def test_an_interruption_before_the_file_is_in_place(bert, exported, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with interrupted_move(suffix="model.onnx"):
        export_onnx(path, bert, exported[2])
    assert path.read_text() == "old"


# Damage.


@pytest.mark.parametrize("count", FEW_OR_MANY)
@pytest.mark.parametrize("name", FORMS)
def test_random_damage(name, count, exported, tmp_path_factory):
    """A cut, a flipped bit, bytes put in or taken out, anywhere: never a model."""
    content = (exported[0] / name).read_bytes()

    @damage_property(count)
    @given(damage=damages(content))
    def check(damage):
        path = tmp_path_factory.mktemp("damaged") / name
        shutil.copy(exported[0] / "checksums.json", path.parent)
        path.write_bytes(damage[1])
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            open_runtime(path)

    check()


@pytest.mark.parametrize("name", EXACT)
def test_files_of_another_kind(name, exported, tmp_path):
    folder = exported[0]
    other = "model.tflite" if name == "model.onnx" else "model.onnx"
    contents = {
        "empty": b"",
        "text": b"not a model\n",
        "zeros": bytes(5000),
        "another format": (folder / other).read_bytes(),
        "a checkpoint": (folder / "model.safetensors").read_bytes(),
    }
    for content in contents.values():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="truncated or corrupt"):
            open_runtime(tmp_path / name)


# The runtimes' own arguments.


def test_paths_and_threads(exported, tmp_path):
    folder = exported[0]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_runtime(tmp_path / "no.onnx")
    with pytest.raises(ValueError, match=r"must be a folder or end with \.onnx, \.tflite"):
        open_runtime(folder / "config.json")
    with pytest.raises(FileNotFoundError, match="lacks what was looked for"):
        open_runtime(tmp_path)
    for threads in (0, -1, 1.5, True, "2"):
        with pytest.raises((TypeError, ValueError), match="must be an integer of at least 1"):
            open_runtime(folder / "model.onnx", num_threads=threads)
    for name in EXACT:
        a, b = (open_runtime(folder / name, num_threads=n)(*texts(9, 4)) for n in (1, 2))
        np.testing.assert_allclose(a, b, atol=1e-6)


INPUTS = {
    "one text": (np.array([1, 2]), None, "must be integers"),
    "fractions": (np.ones((1, 2)), None, "Received: float64"),
    "lists of several lengths": (np.array([[1, 2]]), np.array([[0]]), "of one shape"),
    "no text": (np.ones((0, 3), int), None, "at least one text"),
    "no token": (np.ones((3, 0), int), None, "at least one text and one token"),
    "too long": (np.ones((1, 21), int), None, "at most 20 tokens. Received: 21"),
    "an unknown token": (np.array([[1, 40]]), None, "`token_ids` must be from 0 to 39"),
    "a negative one": (np.array([[-1, 4]]), None, "Received: -1 to 4"),
    "a third segment": (np.array([[1]]), np.array([[2]]), "`segment_ids` must be from 0 to 1"),
}


@pytest.mark.parametrize("name", [*EXACT, "."])
def test_wrong_inputs(name, exported):
    runtime = open_runtime(exported[0] / name)
    for token_ids, segment_ids, message in INPUTS.values():
        with pytest.raises(ValueError, match=message):
            runtime(token_ids, segment_ids)
