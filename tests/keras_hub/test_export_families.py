"""Folders of seven families as ONNX files: other programs' names, and `transformers`' outputs."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.special
import torch
from cpu import INT8_SATURATES
from helpers import dtype_policy
from hub_helpers import Host, outputs
from threads import count_wrong, exit_status
from tiny_transformers import FAMILIES, LABELS, LENGTH, TAGS, logits, texts, write

from bert_of_theseus import Predictor
from bert_of_theseus.__main__ import main
from bert_of_theseus.checkpoints import load_pretrained
from bert_of_theseus.deploy import export_folder, export_onnx, open_runtime
from bert_of_theseus.deploy.padding import by_length

pytestmark = pytest.mark.slow_unless("torch")

HAVE_SEGMENTS = ("bert", "electra", "albert")
ORDER = ("input_ids", "token_type_ids", "attention_mask")  # of the arguments of a runtime
INT8_ERROR, INT8_APART = (0.15, 0.15) if INT8_SATURATES else (0.03, 0.05)
MIXED = np.random.default_rng(0).permutation([LENGTH, 19, 10, 9, *[3] * 20])


def inputs(model, *lengths, hole=()):
    """Random tokens, padded, without the positions in `hole`; and two segments."""
    pad, rng = model.config.pad_token_id, np.random.default_rng(0)
    mask = 1 * (np.arange(max(lengths)) < np.array(lengths)[:, None])
    mask[:, list(hole)] = 0
    token_ids = np.where(mask, rng.integers(2, model.config.vocab_size, mask.shape), pad)
    segments = np.arange(max(lengths))[None] > 2
    return {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": segments * mask}


def file_and_model(path, model, fed):
    """The logits of an ONNX file, in plain ONNX Runtime, and those of `transformers`."""
    session = onnxruntime.InferenceSession(path)
    fed = {x.name: fed[x.name].astype("int64") for x in session.get_inputs()}
    with torch.no_grad():
        expected = model(**{name: torch.tensor(x) for name, x in fed.items()}).logits.numpy()
    return session.run(["logits"], fed)[0], expected


@pytest.mark.only("torch")
@pytest.mark.parametrize("task", ["Sequence", pytest.param("Token", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_other_programs_find(family, task, tmp_path):
    model, tokenizer = write(tmp_path, family, task)
    assert export_folder(tmp_path) == [tmp_path / "onnx/model.onnx"]
    graph = onnx.load(tmp_path / "onnx/model.onnx").graph
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (family in HAVE_SEGMENTS)
    assert [x.name for x in graph.input] == names
    assert [x.name for x in graph.output] == ["logits"]
    axes = [[a.dim_param or a.dim_value for a in x.type.tensor_type.shape.dim] for x in graph.input]
    assert axes == [["batch_size", "sequence_length"]] * len(names)
    for fed in (
        inputs(model, 1),
        inputs(model, LENGTH),
        inputs(model, 9, 4, 1),
        inputs(model, 12, 8, hole=(3, 6)),
    ):
        found, expected = file_and_model(tmp_path / "onnx/model.onnx", model, fed)
        shown = fed["attention_mask"] == 1 if task == "Token" else ...
        np.testing.assert_allclose(found[shown], expected[shown], atol=1e-5)

    # A batch of mixed lengths runs in groups, which changes no answer.
    fed = inputs(model, *MIXED, hole=(4,))
    fed["token_type_ids"] *= family in HAVE_SEGMENTS
    found = open_runtime(tmp_path / "onnx/model.onnx")(*(fed[name] for name in ORDER))
    whole, expected = file_and_model(tmp_path / "onnx/model.onnx", model, fed)
    shown = fed["attention_mask"] == 1 if task == "Token" else ...
    for logits_of_all, most in ((whole, 1e-6), (expected, 1e-5)):
        probabilities = scipy.special.softmax(logits_of_all, axis=-1)
        np.testing.assert_allclose(found[shown], probabilities[shown], atol=most)

    predictors = [Predictor.load(tmp_path, kind=kind) for kind in ("onnx", "keras")]
    some = texts(5)
    some += [("a b c", "d e")] if task == "Sequence" else []
    for text, *rows in zip(some, *(predictor.predict(some) for predictor in predictors)):
        scores = logits(model, tokenizer, *([text] if isinstance(text, str) else text))
        scores = scipy.special.softmax(scores, axis=-1)
        for row in rows:
            check(row, scores, task)


def check(row, scores, task):
    if task == "Sequence":
        found = [row["probabilities"][label] for label in LABELS]
        np.testing.assert_allclose(found, scores, atol=1e-5)
        return
    for token, expected in zip(row["tokens"], scores[1:-1], strict=True):
        assert token["label"] == TAGS[expected.argmax()]
        assert abs(token["probability"] - expected.max()) < 1e-5
    assert "".join(token["text"] for token in row["tokens"]).isalpha()


@pytest.mark.only("torch")
@pytest.mark.parametrize("task", ["Sequence", "Token"])
def test_a_group_of_like_lengths_answers_as_it_does_alone(task, tmp_path):
    """In 8 bits too, where the scale of the activations depends on the texts of a batch."""
    model, _ = write(tmp_path, "bert", task, hidden_size=32, intermediate_size=64, scale=0.1)
    export_folder(tmp_path, onnx=(None, "int8"))
    fed = [inputs(model, *MIXED)[name] for name in ORDER]
    groups = by_length(fed[-1])
    assert len(groups) > 1
    shown = fed[-1] == 1 if task == "Token" else ...
    outputs = []
    for file in ("model.onnx", "model_quantized.onnx"):
        runtime = open_runtime(tmp_path / "onnx" / file)
        found = runtime(*fed)
        for rows, length in groups:
            alone = runtime(*(ids[rows, :length] for ids in fed))
            part = found[rows, :length] if task == "Token" else found[rows]
            np.testing.assert_array_equal(part, alone)
        outputs.append(found[shown])
        # Texts of one length, and a single one, are one group: the same as each is alone.
        for some in (inputs(model, *[5] * 9), inputs(model, 7)):
            together = runtime(*(some[name] for name in ORDER))
            one_by_one = [runtime(*row) for row in zip(*(some[name][:, None] for name in ORDER))]
            most = 1e-6 if file == "model.onnx" else INT8_APART
            np.testing.assert_allclose(together, np.concatenate(one_by_one), atol=most)
    assert abs(outputs[0] - outputs[1]).mean() < INT8_ERROR


@pytest.mark.only("torch")
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_in_8_bits(family, tmp_path):
    model, _ = write(tmp_path, family, hidden_size=32, intermediate_size=64, scale=0.1)
    assert main(["export", str(tmp_path), "--float32", "--int8"]) == 0
    path = tmp_path / "onnx/model_quantized.onnx"
    found, expected = file_and_model(path, model, inputs(model, 9, 4, 1))
    assert abs(found - expected).mean() < INT8_ERROR * np.ptp(expected)
    assert Predictor.load(tmp_path, kind="int8.onnx").predict("a b")["label"] in LABELS


def test_other_outputs(tmp_path):
    """Independent labels and numbers."""
    problem = "multi_label_classification"
    model, tokenizer = write(tmp_path / "a", "bert", problem_type=problem)
    export_folder(tmp_path / "a")
    row = Predictor.load(tmp_path / "a", kind="onnx").predict("a b")
    scores = scipy.special.expit(logits(model, tokenizer, "a b"))
    found = [row["probabilities"][label] for label in LABELS]
    np.testing.assert_allclose(found, scores, atol=1e-5)
    assert set(row["labels"]) == {label for label, p in zip(LABELS, scores) if p >= 0.5}
    model, tokenizer = write(tmp_path / "b", "bert", labels=["score"])
    export_folder(tmp_path / "b")
    row = Predictor.load(tmp_path / "b", kind="onnx").predict("a b")
    assert abs(row["value"] - logits(model, tokenizer, "a b")[0]) < 1e-5


def test_a_file_of_another_program(tmp_path):
    """The same without this package's note: logits, and config.json says what is padding."""
    model, tokenizer = write(tmp_path, "roberta")
    export_folder(tmp_path)
    path = tmp_path / "onnx/model.onnx"
    expected = Predictor.load(tmp_path, kind="onnx").predict(texts(4))
    bare = onnx.load(path)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "model.onnx")
    path.unlink()
    predictor = Predictor.load(tmp_path, kind="onnx")
    for row, other in zip(predictor.predict(texts(4)), expected):
        np.testing.assert_allclose(
            [*row["probabilities"].values()], [*other["probabilities"].values()], atol=1e-6
        )
    runtime = open_runtime(tmp_path / "model.onnx")
    ids = tokenizer("a b")["input_ids"]
    found = runtime([ids + [model.config.pad_token_id] * 3])
    np.testing.assert_allclose(found[0], logits(model, tokenizer, "a b"), atol=1e-5)


def test_an_encoder_alone(tmp_path):
    model, _ = write(tmp_path, "bert")
    encoder, _, _ = load_pretrained(tmp_path)
    export_onnx(tmp_path / "onnx/model.onnx", encoder)
    fed = inputs(model, 9, 4)
    with torch.no_grad():
        tensors = {name: torch.tensor(x) for name, x in fed.items()}
        expected = model.bert(**tensors).last_hidden_state.numpy()
    runtime = open_runtime(tmp_path / "onnx/model.onnx")
    found = runtime(fed["input_ids"], fed["token_type_ids"])
    shown = fed["attention_mask"] == 1
    np.testing.assert_allclose(found[shown], expected[shown], atol=1e-5)
    with pytest.raises(ValueError, match=r"with a head.*whose output is last_hidden_state"):
        Predictor.load(tmp_path, kind="onnx")
    model.bert.save_pretrained(tmp_path / "alone")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "alone" / file).write_bytes((tmp_path / file).read_bytes())
    with pytest.raises(ValueError, match=r"with a head.*an encoder without a head"):
        Predictor.load(tmp_path / "alone")


@pytest.mark.parametrize("family", ["Bert", pytest.param("Roberta", marks=pytest.mark.slow)])
def test_a_text_classifier_of_keras_hub(family, tmp_path):
    host = Host(family)
    export_onnx(tmp_path / "model.onnx", host.task)
    x = host.x
    found = open_runtime(tmp_path / "model.onnx")(
        x["token_ids"], x.get("segment_ids"), x["padding_mask"]
    )
    np.testing.assert_allclose(found, outputs(host.task, x), atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_models_of_16_bits_are_exported_in_32(policy, tmp_path):
    model, _ = write(tmp_path, "bert")
    with dtype_policy(policy):
        export_folder(tmp_path)
    found, expected = file_and_model(tmp_path / "onnx/model.onnx", model, inputs(model, 9, 4))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.only("torch")
@pytest.mark.parametrize("calls", [5, pytest.param(250, marks=pytest.mark.slow)])
def test_threads_and_forks(calls, tmp_path):
    """Threads share Keras' form; a process that is forked is told to load its own."""
    write(tmp_path, "bert")
    predictor = Predictor.load(tmp_path, kind="keras", batch_size=4)
    some = texts(40)
    rows = predictor.predict(some)
    expected = {text: [row["probabilities"][x] for x in LABELS] for text, row in zip(some, rows)}
    assert count_wrong(predictor, some, expected, calls) == (0, 8 * calls)

    def child():
        with pytest.raises(RuntimeError, match="Load it after the fork, or export it to ONNX"):
            predictor.predict(some)

    assert exit_status(child) == 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="LiteRT needs TensorFlow")
def test_in_lite_rt(tmp_path):
    model, tokenizer = write(tmp_path / "a", "bert")
    assert export_folder(tmp_path / "a", onnx=(), litert=(None,)) == [tmp_path / "a/model.tflite"]
    row = Predictor.load(tmp_path / "a", kind="tflite").predict("a b")
    check(row, scipy.special.softmax(logits(model, tokenizer, "a b")), "Sequence")
    write(tmp_path / "b", "roberta")
    with pytest.raises(ValueError, match=r"must be a BERT.*Received: a roberta.*Use export_onnx"):
        export_folder(tmp_path / "b", onnx=(), litert=(None,))


def test_what_cannot_be_exported(tmp_path):
    write(tmp_path, "roberta")
    encoder, classifier, _ = load_pretrained(tmp_path)
    inputs = keras.Input((None, 16))
    head = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GRU(3)(inputs)))
    with pytest.raises(ValueError, match=r"must be a head of bert_of_theseus\.heads"):
        export_onnx(tmp_path / "onnx/model.onnx", encoder, head)
    with pytest.raises(ValueError, match="NaN"):
        classifier.set_weights([w * np.nan for w in classifier.get_weights()])
        export_onnx(tmp_path / "onnx/model.onnx", encoder, classifier)
    assert not list(tmp_path.glob("onnx/*.onnx"))
