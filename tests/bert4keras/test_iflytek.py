"""scripts/iflytek.py from end to end, on a tiny BERT and a tiny task."""

import contextlib
import functools
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import types
import zipfile
from pathlib import Path

import bert_helpers
import numpy as np
import pytest

from bert_of_theseus import Predictor, build_successor_model, initialize_successor
from bert_of_theseus.backend import keras
from bert_of_theseus.checkpoints import build_bert, load_pretrained, save_pretrained
from bert_of_theseus.data import Batches, Tokenizer, load_iflytek
from bert_of_theseus.defaults import default_learning_rate
from bert_of_theseus.training import predict
from scripts import download

# Tracing would take most of the time of so small trainings.
pytestmark = pytest.mark.usefixtures("untraced")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "iflytek.py"
WORDS = ["good", "fine", "nice", "bad", "poor", "sad", "the", "app", "is", "very"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
CONFIG = {
    "vocab_size": len(VOCAB),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-6,
}
FLAGS = {
    "successor-layers": 1,
    "max-length": 16,
    "predecessor-epochs": 3,
    "warm-start-epochs": 1,
    "theseus-epochs": 2,
    "successor-epochs": 1,
    "predecessor-learning-rate": 0.01,
    "warm-start-learning-rate": 0.01,
    "theseus-learning-rate": 0.01,
    "successor-learning-rate": 0.01,
    "batch-size": 8,
    "seed": 7,
}
MODELS = ["predecessor", "warm_start", "theseus", "successor", "direct"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A task that a bag of words solves: IFLYTEK's form, two classes."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "data").mkdir()
    labels = [{"label": "4", "label_des": "bad"}, {"label": "9", "label_des": "good"}]
    rng = np.random.default_rng(0)

    def rows(count):
        for i in range(count):
            words = list(rng.choice(WORDS[6:], size=rng.integers(2, 12)))
            words += list(rng.choice(WORDS[:3] if i % 2 else WORDS[3:6], size=3))
            yield {"label": "9" if i % 2 else "4", "label_des": "", "sentence": " ".join(words)}

    for name, content in (("labels", labels), ("train", rows(120)), ("dev", rows(40))):
        lines = "\n".join(map(json.dumps, content))
        (folder / "data" / f"{name}.json").write_text(lines)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(VOCAB))
    keras.utils.set_random_seed(0)
    bert = build_bert({**CONFIG, "type_vocab_size": 2})
    with pytest.warns(UserWarning, match="no pooler"):
        save_pretrained(folder / "bert", bert, tokenizer=Tokenizer(folder / "vocab.txt"))
    return folder


@pytest.mark.parametrize("option", [["--no-warm-start"], ["--recipe", "article"]])
def test_the_demo_without_a_warm_start(option, script, given, tmp_path):
    line = [*option, "--bert-dir", str(given / "bert"), "--output-dir", str(tmp_path / "out")]
    args = script.build_parser().parse_args(line)
    script.resolve(args)
    assert args.task == "demo" and args.warm_start is False
    assert script.common.stages(args)["warm_start_stage"] is None


def arguments(given, **changes):
    flags = {
        "data-dir": given / "data",
        "bert-config": given / "config.json",
        "vocab": given / "vocab.txt",
        **FLAGS,
        **changes,
    }
    pairs = [(f"--{flag}", str(value)) for flag, value in flags.items() if value is not None]
    return [part for pair in pairs for part in pair]


# More of them: so few steps that nothing is learned, by our recipe; or all, as in the article.
SIZES = {
    "few": {
        "recipe": "ours",
        "patience": 1,
        "limit": 16,
        "validation-fraction": 0.5,
        **{f"{stage}-epochs": 1 for stage in ("predecessor", "theseus", "successor")},
    },
    "all": {
        "recipe": "article",
        "direct-learning-rate": 0.02,
        **dict.fromkeys(("warm-start-epochs", "warm-start-learning-rate")),  # it has none
    },
}


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupted(script, given, tmp_path_factory):
    """A run of few steps, into a folder in use, that ended before anything was saved."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("mine")
    bert = {"bert-config": None, "vocab": None, "bert-dir": given / "bert"}
    argv = arguments(given, **{"output-dir": folder / "out", **bert, **SIZES["few"]})
    said = io.StringIO()
    with (
        bert_helpers.untraced(),
        contextlib.redirect_stderr(said),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(script, "save", interrupt)
        assert script.main(argv) == 130
    files = sorted(path.name for path in (folder / "out-2").iterdir())
    return types.SimpleNamespace(
        argv=argv, used=folder / "out", folder=folder / "out-2", said=said.getvalue(), files=files
    )


@pytest.fixture(scope="module", params=["few", pytest.param("all", marks=pytest.mark.slow)])
def size(request):
    return request.param


@pytest.fixture(scope="module")
def output(size, script, given, request, tmp_path_factory):
    if size == "few":  # taken up again
        run = request.getfixturevalue("interrupted")
        before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("stage.json")}
        assert len(before) == 6  # four stages, and two of the baseline
        with bert_helpers.untraced():
            assert script.main(run.argv) == 0
        # Neither the predecessor nor anything else was trained again.
        assert {path: path.stat().st_mtime_ns for path in before} == before
        return run.folder
    folder = tmp_path_factory.mktemp("runs") / "out"
    with bert_helpers.untraced():
        assert script.main(arguments(given, **{"output-dir": folder}, **SIZES[size])) == 0
    return folder


@pytest.fixture(scope="module")
def results(output):
    return json.loads((output / "table.json").read_text())


def accuracy(model, tokenizer, given, size, texts):
    """Share of the `texts` of a run that a model is right about."""
    task = load_iflytek(
        given / "data",
        validation_fraction=SIZES[size].get("validation-fraction", 0.1),
        limit=SIZES[size].get("limit"),
        seed=FLAGS["seed"],
    )
    batches = Batches(tokenizer.encode(getattr(task, texts), 16), 64, shuffle=False)
    return (predict(model, batches).argmax(-1) == batches.labels).mean()


def test_table(output, results, size):
    rows = {row["model"]: row for row in results["rows"]}
    # The article has no warm start.
    assert list(rows) == [name for name in MODELS if size == "few" or name != "warm_start"]
    first, *others = rows.values()
    assert first["layers"] == 2 and {row["layers"] for row in others} == {1}
    epochs = [row["epochs"] for row in rows.values()]
    assert epochs == ([3, 2, 1, 3] if size == "all" else [1, 1, 1, 1, 3])
    # The baseline has as many steps as the stages it stands against.
    assert rows["direct"]["steps"] == sum(row["steps"] for row in others[:-1])
    for key in ("parameters", "bytes"):
        (small,) = {row[key] for row in others}
        assert small < first[key]
    for name, row in rows.items():
        weights = output / name / "model.safetensors"
        assert row["bytes"] == weights.stat().st_size
        assert row["kept"] == row["test_score"] / first["test_score"]
        if name != "warm_start":  # which knows no scores
            choices = list(row["history"]["val_accuracy"])
            before = {"theseus": "warm_start", "successor": "theseus"}.get(name)
            if before in rows:  # it may give back what it began with
                choices.append(rows[before]["score"])
            assert row["score"] == max(choices)
        assert len(row["history"]["loss"]) == row["epochs"]
        assert row["latency_ms"] > 0
    assert results["chance"] == 0.5
    assert results["is_resumed"] == (size == "few")
    if size == "all":  # it learns, and is compressed
        assert results["majority_share"] == 0.5
        assert first["test_score"] > 0.8
        assert rows["successor"]["test_score"] > 0.8


def test_table_in_markdown(output, results, size):
    text = (output / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heading, rule, *body = cells
    assert all(re.fullmatch("-+:?", cell) for cell in rule)
    assert heading[:2] == ["model", "layers"]
    for row, line in zip(results["rows"], body, strict=True):
        assert line[1] == str(row["layers"])
        assert line[heading.index("dev accuracy")] == f"{row['test_score']:.1%}"
        assert line[heading.index("kept")] == f"{row['kept']:.1%}"
    assert f"scores {results['majority_share']:.1%} on dev" in text
    numbers = {"all": (108, 12, 40), "few": (8, 8, 16)}[size]
    assert "{} texts to train on, {} to choose the best epoch, {} (dev)".format(*numbers) in text


def test_config_holds_every_setting(output, size):
    config = json.loads((output / "config.json").read_text())
    for flag, value in {**FLAGS, **SIZES[size]}.items():
        assert config[flag.replace("-", "_")] == value
    is_article = size == "all"
    method = {"replacement_rate": 0.5, "schedule": "constant", "successor_init": "pretrained"}
    for name, value in method.items():
        assert config[name] == (value if is_article else None)  # `compress` has its own
    settings = json.loads((output / "settings.json").read_text())
    assert settings["theseus"]["initialize"] == (None if is_article else "nearest")
    stage = settings["stages"]["theseus"]
    assert (stage["weight_decay"], stage["clip_norm"]) == ((0, None) if is_article else (0.01, 1))
    assert settings["stages"]["predecessor"]["patience"] == (None if is_article else 1)
    assert config["labels"] == ["bad", "good"]
    assert config["bert"]["layer_norm_eps"] == 1e-6
    assert set(config["versions"]) >= {"bert-of-theseus", "bert4keras", "tensorflow", "python"}


@pytest.mark.parametrize("size", ["few"], indirect=True)
def test_baseline_has_its_best_learning_rate(script, output, results):
    """By validation, of a few that follow from the package's rule."""
    rule = default_learning_rate("predecessor", CONFIG["hidden_size"], FLAGS["batch-size"], 3)
    rates, direct = results["rates"], results["rows"][-1]
    found = [row["learning_rate"] for row in rates]
    assert found == pytest.approx([factor * rule for factor in script.FACTORS], rel=0.05)
    for row in rates:
        path = output / "direct-rates" / f"{row['learning_rate']:g}" / "stage.json"
        stage = json.loads(path.read_text())
        assert stage["history"]["step"][-1] == direct["steps"] == 3
        assert row["score"] == stage["score"] == max(stage["history"]["val_accuracy"])
    best = max(rates, key=lambda row: row["score"])
    assert (direct["learning_rate"], direct["score"]) == (best["learning_rate"], best["score"])
    assert (
        f"{best['score']:.1%} with {best['learning_rate']:.1e}" in (output / "table.md").read_text()
    )


def test_sentence_follows_from_the_rows(output, results):
    _, *trained, direct = results["rows"]
    successor = trained[-1]
    found = results["conclusion"]
    difference = successor["test_score"] - direct["test_score"]
    assert found["difference"] == pytest.approx(difference, abs=1e-6)
    assert found["kept"] == pytest.approx(successor["kept"])
    assert found["sentence"] in (output / "table.md").read_text()
    seconds = sum(row["cpu_seconds"] for row in trained)
    spent = f"took {seconds:.0f} CPU s, direct fine-tuning {direct['cpu_seconds']:.0f}."
    assert spent in found["sentence"]


@pytest.fixture(scope="module")
def loaded(output):
    found = {}
    for name in filter(lambda name: (output / name).is_dir(), MODELS):
        transformer, classifier, labels = load_pretrained(output / name)
        found[name] = build_successor_model(transformer, classifier), labels
    return found


@pytest.mark.parametrize("name", MODELS)
def test_saved_models_predict_as_the_table_says(given, output, loaded, results, name, size):
    if name not in loaded:
        pytest.skip("the article has no warm start")
    model, labels = loaded[name]
    tokenizer = Tokenizer.from_folder(output / name)
    row = next(row for row in results["rows"] if row["model"] == name)
    assert labels == ["bad", "good"]
    assert model.count_params() == row["parameters"]
    found = accuracy(model, tokenizer, given, size, "dev")
    assert found == pytest.approx(row["test_score"])  # float32


@pytest.mark.slow
@pytest.mark.parametrize("size", ["all"], indirect=True)
def test_saved_successor_answers(output):
    predictor = Predictor.load(output / "successor")
    for text in ("the app is very good, nice, fine", "BAD, sad, poor app"):
        assert predictor.predict(text)["label"] in text.lower()


def test_random_weights_differ():
    keras.utils.set_random_seed(3)
    bert = build_bert({**CONFIG, "type_vocab_size": 2})
    attention = bert.layers["Transformer-0-MultiHeadSelfAttention"]
    kernels = [weight.numpy() for weight in attention.weights if len(weight.shape) == 2]
    assert len(kernels) == 4
    for i, kernel in enumerate(kernels):
        assert 0.01 < kernel.std() < 0.03
        assert not any(np.array_equal(kernel, other) for other in kernels[i + 1 :])
    # As many layers as asked for, and copied from those of the same number.
    small = build_bert({**CONFIG, "type_vocab_size": 2}, num_hidden_layers=1, prefix="S-")
    assert initialize_successor(bert, small) == [0]
    copy = small.layers["S-Transformer-0-MultiHeadSelfAttention"].get_weights()
    assert all(map(np.array_equal, copy, attention.get_weights()))
    assert "S-Transformer-1-MultiHeadSelfAttention" not in small.layers
    tokens = [model.layers[f"{model.prefix}Embedding-Token"] for model in (bert, small)]
    assert np.array_equal(*(layer.get_weights()[0] for layer in tokens))


def test_models_are_different_ones(loaded):
    weights = {}
    for name in MODELS[-3:]:
        model, _ = loaded[name]
        weights[name] = np.concatenate([value.ravel() for value in model.get_weights()])
    assert not np.array_equal(weights["theseus"], weights["direct"])
    assert not np.array_equal(weights["successor"], weights["direct"])


def test_interrupted_it_says_how_to_resume(interrupted):
    said = interrupted.said.strip().splitlines()[-1]
    assert said.startswith("iflytek.py: interrupted; the same command resumes")
    assert [path.name for path in interrupted.used.iterdir()] == ["mine.txt"]
    assert "predecessor" in interrupted.files and "table.md" not in interrupted.files
    stage = json.loads((interrupted.folder / "predecessor" / "stage.json").read_text())
    assert stage["score"] == max(stage["history"]["val_accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize("size", ["all"], indirect=True)
def test_interrupted_it_ends_as_it_would_have(script, given, output, tmp_path, monkeypatch):
    argv = arguments(given, **{"output-dir": tmp_path / "out"}, **SIZES["all"])
    with monkeypatch.context() as patch:
        patch.setattr("bert_of_theseus.method.build_theseus_model", interrupt)
        assert script.main(argv) == 130
    assert script.main(argv) == 0
    rows, whole = (
        json.loads((path / "table.json").read_text())["rows"] for path in (tmp_path / "out", output)
    )
    for key in ("test_score", "score"):
        assert [row[key] for row in rows] == [row[key] for row in whole]


def test_download_then_refused(script, given, tmp_path, monkeypatch, capsys):
    """Fetches the data from a real server; then a BERT that is none is refused in one line."""
    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "iflytek_public.zip", "w") as archive:
        for path in (given / "data").iterdir():
            archive.write(path, path.name)
    handler = functools.partial(QuietHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = download.SOURCES["iflytek"]._replace(
            url=f"http://127.0.0.1:{server.server_port}/iflytek_public.zip", size=None, sha256=None
        )
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setitem(download.SOURCES, "iflytek", source)
        argv = arguments(
            given,
            **{
                "data-dir": None,
                "successor-layers": 5,
                "cache-dir": tmp_path / "cache",
                "output-dir": tmp_path / "out",
            },
        )
        assert script.main([*argv, "--download"]) == 2
        server.shutdown()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--successor-layers 5: the predecessor has only 2 layers" in last
    assert not (tmp_path / "out").exists()
    fetched = tmp_path / "cache" / "iflytek" / "train.json"
    assert fetched.read_bytes() == (given / "data" / "train.json").read_bytes()


@pytest.fixture
def lacking(given, tmp_path):
    """Arguments that name a Google checkpoint that lacks all tensors but one."""
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "bert_model.ckpt"),
        tensor_names=["bert/embeddings/word_embeddings"],
        shape_and_slices=[""],
        tensors=[tf.zeros((CONFIG["vocab_size"], CONFIG["hidden_size"]))],
    )
    (tmp_path / "bert_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB))
    changes = {"bert-config": None, "vocab": None, "bert-dir": tmp_path}
    return arguments(given, **changes, **{"output-dir": tmp_path / "out"})


def assert_lacks(message, tmp_path):
    last = message.strip().splitlines()[-1]
    assert last.startswith("iflytek.py: error: ")
    assert "missing: bert/embeddings/LayerNorm/gamma" in last
    assert not (tmp_path / "out").exists()


def test_google_checkpoint_that_lacks_a_tensor(script, lacking, tmp_path, capsys):
    assert script.main(lacking) == 2
    assert_lacks(capsys.readouterr().err, tmp_path)


@pytest.mark.slow
def test_the_same_where_nothing_has_chosen_keras_2(lacking, tmp_path):
    """In a process of its own, before the checkpoint is read."""
    chosen = ("TF_KERAS", "TF_USE_LEGACY_KERAS")
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *lacking],
        env={name: value for name, value in os.environ.items() if name not in chosen},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert_lacks(result.stderr, tmp_path)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
