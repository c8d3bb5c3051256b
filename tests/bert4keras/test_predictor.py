"""The predictor over every form of a saved model, against the Keras model itself."""

import contextlib
import functools
import io
import json
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import transformers
from bert4keras.backend import keras
from bert4keras.tokenizers import Tokenizer
from bert_helpers import LABELS, make_bert, run, scatter, whole
from bert_helpers import TINY as SIZES
from threads import count_wrong, exit_status

from bert_of_theseus import Predictor
from bert_of_theseus.__main__ import main
from bert_of_theseus.checkpoints import save_checkpoint, save_pretrained
from bert_of_theseus.deploy.folder import FILES
from bert_of_theseus.deploy.forms import KINDS
from bert_of_theseus.deploy.runtimes import LiteRTRuntime, ONNXRuntime
from bert_of_theseus.heads import classification_head, pooler_classification_head, tagging_head

# What Keras runs here is not compiled.
pytestmark = pytest.mark.usefixtures("untraced")

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##s", "天"]
TINY = {
    **SIZES,
    "vocab_size": len(VOCAB),
    "num_hidden_layers": 1,
    "max_position_embeddings": 32,
}


@functools.cache
def encoder():
    """All have the same; their heads differ."""
    return make_bert(seed=3, **TINY)


def recurrent_head():
    """A head that no config can name."""
    inputs = keras.Input((None, 16))
    x = keras.layers.Bidirectional(keras.layers.SimpleRNN(3))(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="sigmoid")(x))


HEADS = {
    "pooler": lambda: pooler_classification_head(16, 3),
    "first token": lambda: classification_head(16, 3),
    "logits": lambda: classification_head(16, 3, activation="linear"),
    "independent": lambda: pooler_classification_head(16, 3, activation="sigmoid"),
    "tagger": lambda: tagging_head(16, 3),
    "recurrent": recurrent_head,
}


def texts(count, seed=0, longest=20):
    rng = np.random.default_rng(seed)
    letters = np.array([*"abcdefghijklmnopqrstuvwxyz天"])
    return [" ".join(rng.choice(letters, n)) for n in rng.integers(1, longest + 1, count)]


class Saved:
    """A model in a folder, and what it makes of a text by bert4keras' own tokenizer."""

    def __init__(self, folder, head, save=save_pretrained):
        self.folder = folder
        keras.utils.set_random_seed(0)
        classifier = scatter(HEADS[head](), seed=1, scale=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a head that others do not know
            save(folder, encoder(), classifier, vocab=VOCAB, labels=LABELS)
        self.model = whole(encoder(), classifier)
        self.tokenizer = Tokenizer(dict(zip(VOCAB, range(len(VOCAB)))), do_lower_case=True)

    def outputs(self, *text):
        return run(self.model, [[ids] for ids in self.tokenizer.encode(*text)])[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return {head: Saved(tmp_path_factory.mktemp("saved") / "model", head) for head in HEADS}


def values(row):
    return [row["probabilities"][label] for label in LABELS]


@pytest.mark.parametrize("head", ["pooler", "first token"])
def test_as_the_keras_model(head, saved):
    some = texts(20)
    predictor = Predictor.load(saved[head].folder, kind="keras")
    assert predictor.kind == "keras" and predictor.max_length == 32
    found = predictor.predict(some)
    for text, row in zip(some, found, strict=True):
        expected = saved[head].outputs(text)
        np.testing.assert_allclose(values(row), expected, atol=1e-5)
        assert row["label"] == LABELS[expected.argmax()]
    assert np.ptp([*map(values, found)], axis=0).max() > 0.01  # or this would say little
    pair = ("a b c", "天 d")
    np.testing.assert_allclose(
        values(predictor.predict([pair])[0]), saved[head].outputs(*pair), atol=1e-5
    )


@pytest.fixture(scope="module")
def exported(saved):
    """What the command makes of a folder: all forms of one model."""
    flags = ["--onnx", "--litert", "--float32", "--float16", "--int8"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["export", str(saved["pooler"].folder), *flags]) == 0
    sizes = [line.rsplit("  ", 1) for line in output.getvalue().splitlines()]
    folder = saved["pooler"].folder
    assert {Path(path) for path, _ in sizes} == {folder / names[0] for names in FILES.values()}
    return saved["pooler"]


# How far probabilities may be from the Keras model's, at most and on average. These weights are
# wild, and rounding them tells.
TOLERANCES = {
    "keras": (1e-5, 1e-6),
    "onnx": (1e-5, 1e-6),
    "tflite": (1e-4, 1e-5),
    "float16.tflite": (0.03, 3e-3),
    "int8.onnx": (0.3, 0.03),
    "int8.tflite": (0.3, 0.03),
}


@pytest.fixture(scope="module")
def expected(exported):
    """Texts and pairs of texts, and the Keras model's outputs."""
    some = texts(20, seed=5)
    some += list(zip(texts(10, seed=6, longest=10), texts(10, seed=7, longest=10)))
    return some, [exported.outputs(*([x] if isinstance(x, str) else x)) for x in some]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind, exported, expected):
    some, expected = expected
    predictor = Predictor.load(exported.folder, kind=kind, num_threads=threads(kind))
    assert predictor.kind == kind and predictor.max_length == 32
    found = predictor.predict(some)
    errors = abs(np.array([*map(values, found)]) - expected)
    assert errors.max() < TOLERANCES[kind][0] and errors.mean() < TOLERANCES[kind][1]
    for row, scores in zip(found, expected):
        first, second = sorted(scores)[:-3:-1]
        if first - second > 2 * TOLERANCES[kind][0]:
            assert row["label"] == LABELS[scores.argmax()]
    if "int8" in kind:
        return  # it rounds by the batch
    other = Predictor.load(exported.folder, kind=kind, batch_size=7)
    again = list(other.stream(iter(some[::-1])))[::-1]
    np.testing.assert_allclose([*map(values, again)], [*map(values, found)], atol=1e-5)


def threads(kind):
    return None if kind == "keras" else 1  # TensorFlow's are set before its first use


def slowly(run):
    def waiting(*arguments):
        time.sleep(0.1)
        return run(*arguments)

    return waiting


def test_which_kind_is_picked(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported.folder, tmp_path / "a")
    for slow, kind in ((ONNXRuntime, "tflite"), (LiteRTRuntime, "onnx")):
        with monkeypatch.context() as patch:
            patch.setattr(slow, "_run", slowly(slow._run))
            assert Predictor.load(folder).kind == kind
    monkeypatch.setattr(LiteRTRuntime, "_run", slowly(LiteRTRuntime._run))
    (folder / "checksums.json").unlink()
    sound = (folder / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(b"not a model")
    with pytest.warns(UserWarning, match=r"The form 'tflite' is left out: .*model\.tflite"):
        assert Predictor.load(folder).kind == "onnx"
    (folder / "model.tflite").write_bytes(sound)
    for kind in KINDS:
        assert Predictor.load(folder).kind == kind
        (folder / FILES.get(kind, ["model.safetensors"])[0]).unlink()
    # A new model takes what was exported from the old one with it.
    again = shutil.copytree(exported.folder, tmp_path / "b")
    assert list(again.glob("**/*.onnx")) and list(again.glob("*.tflite"))
    assert not [*Saved(again, "pooler").folder.glob("**/*.onnx"), *again.glob("*.tflite")]


@pytest.mark.parametrize("calls", [10, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["onnx", "tflite", "keras"])
def test_threads_share_a_predictor(kind, calls, exported, expected):
    """LiteRT's runner has one memory for all of its callers."""
    some = dict(zip(*expected))
    predictor = Predictor.load(exported.folder, kind=kind, batch_size=4)
    calls = calls // 3 if kind == "keras" else calls  # it is not compiled here
    assert count_wrong(predictor, list(some), some, calls, atol=1e-4) == (0, 8 * calls)


@pytest.mark.parametrize("kind", ["tflite", "keras"])
def test_after_a_fork(kind, exported, expected):
    """LiteRT's file is opened again; Keras is refused, as TensorFlow would wait for ever."""
    some, outputs = expected
    predictor = Predictor.load(exported.folder, kind=kind)
    assert predictor.predict(some)

    def child():
        if kind == "keras":
            with pytest.raises(RuntimeError, match="Load it after the fork"):
                predictor.predict(some)
        else:
            found = [values(row) for row in predictor.predict(some)]
            np.testing.assert_allclose(found, outputs, atol=1e-4)

    assert exit_status(child) == 0


def test_taggers_exported(saved):
    assert main(["export", str(saved["tagger"].folder)]) == 0
    onnx = Predictor.load(saved["tagger"].folder)
    assert onnx.kind == "onnx"
    tokens = onnx.predict("ab 天 cs")["tokens"]
    expected = saved["tagger"].outputs("ab 天 cs")[1:-1]
    for token, scores in zip(tokens, expected, strict=True):
        assert abs(token["probability"] - scores.max()) < 1e-5


def test_what_cannot_be_exported(tmp_path, capsys):
    assert main(["export", str(tmp_path / "nowhere")]) == 2
    assert "it is missing" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--float16"]) == 2
    assert "--float16 needs --litert" in capsys.readouterr().err


def test_other_outputs(saved):
    for head in ("logits", "independent", "recurrent"):
        predictor = Predictor.load(saved[head].folder)
        for text, row in zip(texts(5), predictor.predict(texts(5))):
            expected = saved[head].outputs(text)
            if head == "logits":
                expected = np.exp(expected) / np.exp(expected).sum()
            np.testing.assert_allclose(values(row), expected, atol=1e-5)
            assert ("labels" in row) == (head != "logits")
    text = "ab 天 cs"
    (row,) = Predictor.load(saved["tagger"].folder, kind="keras").predict([text])
    expected = saved["tagger"].outputs(text)[1:-1]
    assert [token["text"] for token in row["tokens"]] == ["ab", "天", "c", "s"]
    for token, scores in zip(row["tokens"], expected, strict=True):
        assert text[token["start"] : token["end"]] == token["text"]
        assert token["label"] == LABELS[scores.argmax()]
        assert abs(token["probability"] - scores.max()) < 1e-5


def test_google_checkpoints(saved, tmp_path):
    model = Saved(tmp_path / "a", "first token", save_checkpoint)
    predictor = Predictor.load(tmp_path / "a")
    assert predictor.labels == LABELS
    for text, row in zip(texts(5), predictor.predict(texts(5))):
        np.testing.assert_allclose(values(row), model.outputs(text), atol=1e-5)


def test_what_transformers_saved(tmp_path):
    config = transformers.BertConfig(**TINY, problem_type="single_label_classification")
    theirs = transformers.BertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"must hold tokenizer\.json, vocab\.txt"):
        Predictor.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB), encoding="utf-8")
    predictor = Predictor.load(tmp_path)
    assert predictor.labels == ["LABEL_0", "LABEL_1"]
    row = predictor.predict("a b")
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    logits = theirs(**tokenizer("a b", return_tensors="pt")).logits
    expected = logits.softmax(-1)[0].tolist()
    found = [row["probabilities"][label] for label in predictor.labels]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_encoder_without_a_head(tmp_path):
    with pytest.warns(UserWarning, match="an identity is written"):
        save_pretrained(tmp_path, encoder(), vocab=VOCAB)
    with pytest.raises(
        ValueError, match=r"config\.json. must describe a model with a head.*Received: an encoder"
    ):
        Predictor.load(tmp_path)


def test_a_vocabulary_of_another_model(saved, tmp_path):
    text = (saved["pooler"].folder / "vocab.txt").read_text(encoding="utf-8")
    Saved(tmp_path / "a", "pooler")
    (tmp_path / "a/vocab.txt").write_text(text.replace("a\nb\n", "b\na\n"), encoding="utf-8")
    with pytest.raises(ValueError, match="does not match its checksum"):
        Predictor.load(tmp_path / "a")


def command(*arguments, text=""):
    return subprocess.run(
        [sys.executable, "-m", "bert_of_theseus", *map(str, arguments)],
        input=text.encode(),
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.slow  # test_export.py has another model in a fresh process each time
def test_the_command(saved):
    """A process of its own has the set-up of bert4keras to do, and picks Keras 2 for it."""
    done = command("predict", saved["first token"].folder, text="a b\n\n天\n")
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [row["line"] for row in rows] == [1, 3]
    np.testing.assert_allclose(values(rows[1]), saved["first token"].outputs("天"), atol=1e-5)
    assert "line 2: empty" in done.stderr.decode()


@pytest.mark.slow
def test_the_export_command(saved, tmp_path):
    folder = shutil.copytree(saved["first token"].folder, tmp_path / "a")
    done = command("export", folder)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().startswith(f"{folder / 'onnx/model.onnx'}  ")
    row = Predictor.load(folder, kind="onnx").predict("天")
    np.testing.assert_allclose(values(row), saved["first token"].outputs("天"), atol=1e-5)
