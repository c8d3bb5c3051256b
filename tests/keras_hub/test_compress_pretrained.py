"""A folder of `transformers` in, a smaller one out, by the command and in Python."""

import csv
import json
import shutil

import numpy as np
import pytest
from damage import contents, interrupted_move
from docs_blocks import run_block
from pretrained_folders import write_texts
from tiny_transformers import LABELS, LENGTH, write

from bert_of_theseus import Predictor, compress_pretrained
from bert_of_theseus.__main__ import main

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.only("torch"),
    # Its weights and the labels are random.
    pytest.mark.filterwarnings("ignore:The model's accuracy on the validation texts is"),
    pytest.mark.filterwarnings("ignore:The best weights are chosen on . validation texts"),
]

FEW = ["--batch-size", "16", "--epochs", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, its texts, and what the command makes of them, interrupted once."""
    folder = tmp_path_factory.mktemp("pretrained")
    write(folder / "model", "bert", num_hidden_layers=4)
    write_texts(folder / "train.csv", 64)
    tests = write_texts(folder / "test.csv", 25, seed=1)
    paths = {"train": folder / "train.csv", "test": folder / "test.csv"}
    with interrupted_move(2, "checkpoint.npz"):
        compress_pretrained(
            folder / "model", **paths, directory=folder / "small", num_hidden_layers=2,
            batch_size=16, epochs=2, verbose=0,
        )  # fmt: skip
    left = set(contents(folder / "small"))
    assert run(folder, "small") == 0
    return folder, tests, left


def run(folder, output, *more, layers=2, train="train.csv", model="model"):
    return main(
        ["compress", str(folder / model), "--train", str(folder / train)]
        + ["--test", str(folder / "test.csv"), "--layers", str(layers)]
        + ["--output", str(folder / output), "--quiet", *FEW, *more]
    )


def pipeline(folder):
    return transformers.pipeline("text-classification", model=str(folder), device="cpu")


@pytest.mark.filterwarnings("ignore:A text is longer than")
def test_the_folder_is_a_model_that_others_load(made):
    folder, tests, _ = made
    small = folder / "small"
    _, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        small, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    config = json.loads((small / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["num_hidden_layers"] == 2
    assert list(config["id2label"].values()) == LABELS
    texts = [text for text, _ in tests]
    theirs = pipeline(small)(texts, truncation=True, max_length=LENGTH)
    ours = Predictor.load(small).predict(texts)
    assert [row["label"] for row in ours] == [row["label"] for row in theirs]
    np.testing.assert_allclose(
        [row["probability"] for row in ours], [row["score"] for row in theirs], atol=1e-5
    )
    # The tokenizer's files went through byte for byte, and nothing is left of the work.
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        if (folder / "model" / name).exists():
            assert (small / name).read_bytes() == (folder / "model" / name).read_bytes()
    assert not (small / "unfinished").exists()
    card = (small / "README.md").read_text()
    assert card.startswith("---\n") and "25 texts for the report alone (test.csv)" in card


def test_the_table_says_what_transformers_says(made):
    folder, tests, _ = made
    rows = json.loads((folder / "small" / "report.json").read_text())["rows"]
    for name, row in ((folder / "model", rows[0]), (folder / "small", rows[-1])):
        found = pipeline(name)([text for text, _ in tests], truncation=True, max_length=LENGTH)
        right = sum(label == answer["label"] for (_, label), answer in zip(tests, found))
        assert round(row["test_score"] * len(tests), 3) == right
    assert 0 < rows[0]["test_score"] < 1


def test_interrupted_it_goes_on(made, tmp_path):
    folder, _, left = made
    assert "unfinished/request.json" in left and not any(name == "config.json" for name in left)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole, ignore=shutil.ignore_patterns("small"))
    assert run(whole, "small") == 0
    names = ("model.safetensors", "config.json")
    for name in names:
        assert (whole / "small" / name).read_bytes() == (folder / "small" / name).read_bytes()


def test_finished_it_says_so_at_once(made, capsys):
    folder, _, _ = made
    before = contents(folder / "small")
    assert run(folder, "small") == 0
    assert "predecessor" in capsys.readouterr().out
    assert contents(folder / "small") == before
    # A folder with the result of another command is left as it is.
    for more in (["--seed", "1"], ["--learning-rate", "0.001"]):
        assert run(folder, "small", *more) == 2
    assert run(folder, "small", layers=3) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "layers: 2, now 3" in error
    assert contents(folder / "small") == before


def test_a_dry_run_writes_nothing(made, capsys):
    folder, _, _ = made
    before = set(contents(folder))
    assert run(folder, "other", "--dry-run") == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("time: about", "disk: ", "memory: "))
    assert set(contents(folder)) == before


@pytest.mark.slow
def test_docs(made, tmp_path, monkeypatch):
    folder, _, _ = made
    shutil.copytree(folder / "model", tmp_path / "my-model")
    write_texts(tmp_path / "train.csv", 20)
    monkeypatch.chdir(tmp_path)
    scope = {}
    run_block("compress-pretrained", scope)
    assert scope["result"].rows[-1]["layers"] == 2
    assert Predictor.load("small").labels == LABELS


@pytest.mark.slow
def test_a_budget_in_place_of_a_depth(made, tmp_path, capsys):
    folder, _, _ = made

    def search(*budget):
        arguments = ["compress", str(folder / "model"), "--train", str(folder / "train.csv")]
        return main([*arguments, "--output", str(tmp_path / "small"), *FEW, *budget])

    assert search("--keep", "1", "--max-ms", "0.0001") == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert "chosen on 6 validation texts" in warning
    assert "No successor answers in 0.0001 ms" in error
    assert not (tmp_path / "small" / "config.json").exists()
    # What was found out is there for another budget.
    assert (tmp_path / "small" / "unfinished" / "times.json").is_file()
    assert search("--keep", "0.01", "--max-ms", "1000") == 0
    assert "| layers |" in capsys.readouterr().out
    assert json.loads((tmp_path / "small" / "config.json").read_text())["num_hidden_layers"] == 1
    assert (tmp_path / "small" / "depths.png").is_file()
    report = json.loads((tmp_path / "small" / "report.json").read_text())
    assert [row["chosen"] for row in report["search"]["rows"]] == [True, False, False]


def test_too_few_texts_to_choose_by(made, capsys):
    assert run(made[0], "other", "--limit", "10", "--dry-run") == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: The best weights are chosen on 1 validation text, by chance.")


@pytest.mark.filterwarnings("ignore:A text is longer than")
def test_a_model_that_knows_nothing_of_the_texts(made, tmp_path, capsys):
    folder, tests, _ = made
    found = Predictor.load(folder / "model").predict([text for text, _ in tests])
    wrong = {label: next(other for other in LABELS if other != label) for label in LABELS}
    rows = [["text", "label"], *([t, wrong[row["label"]]] for (t, _), row in zip(tests, found))]
    with open(tmp_path / "wrong.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    validation = ["--validation", str(tmp_path / "wrong.csv"), "--dry-run"]
    assert run(folder, "other", *validation) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: The model's accuracy on the validation texts is 0.0000")
