"""The command on each family and each task: what it writes is what `transformers` reads."""

import csv
import json

import numpy as np
import pytest
import tiny_transformers
from pretrained_folders import write_texts
from tiny_transformers import FAMILIES, LABELS, LENGTH, TAGS, texts

from bert_of_theseus import Predictor
from bert_of_theseus.__main__ import main

transformers = pytest.importorskip("transformers")
# The families on each backend: test_whole_families.py. The command runs for minutes where every
# length of a batch is compiled, so there with one family.
pytestmark = pytest.mark.slow
ONCE = pytest.mark.only("torch")


def compress(folder, train, *more):
    return main(
        ["compress", str(folder / "model"), "--train", str(folder / train), "--layers", "2"]
        + [
            "--output",
            str(folder / "small"),
            "--quiet",
            "--epochs",
            "1",
            "--batch-size",
            "16",
            *more,
        ]
    )


def load(folder, task="Sequence"):
    """The smaller model, in `transformers`: no weight may be new or left over."""
    model, info = getattr(transformers, f"AutoModelFor{task}Classification").from_pretrained(
        folder / "small", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.num_hidden_layers == 2
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder / "small")


def files_went_through(folder):
    names = [path.name for path in (folder / "model").iterdir() if "token" in path.name]
    assert "tokenizer.json" in names
    for name in names:
        assert (folder / "small" / name).read_bytes() == (folder / "model" / name).read_bytes()


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[ONCE] if name != "bert" else []) for name in FAMILIES]
)
def test_texts(family, tmp_path):
    tiny_transformers.write(tmp_path / "model", family, num_hidden_layers=4)
    write_texts(tmp_path / "train.csv", 40)
    assert compress(tmp_path, "train.csv") == 0
    load(tmp_path)
    files_went_through(tmp_path)
    some = texts(20, seed=3)
    ours = Predictor.load(tmp_path / "small").predict(some)
    theirs = transformers.pipeline("text-classification", str(tmp_path / "small"), device="cpu")
    theirs = theirs(some, truncation=True, max_length=LENGTH)
    assert [row["label"] for row in ours] == [row["label"] for row in theirs]
    np.testing.assert_allclose(
        [row["probability"] for row in ours], [row["score"] for row in theirs], atol=1e-4
    )


@ONCE
@pytest.mark.parametrize("family", FAMILIES)
def test_words(family, tmp_path):
    tiny_transformers.write(tmp_path / "model", family, "Token", num_hidden_layers=4)
    rng = np.random.default_rng(0)
    rows = [{"tokens": text.split()} for text in texts(40)]
    for row in rows:
        row["ner_tags"] = [str(tag) for tag in rng.choice(TAGS, len(row["tokens"]))]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert compress(tmp_path, "train.jsonl") == 0
    model, tokenizer = load(tmp_path, "Token")
    files_went_through(tmp_path)
    for text in texts(10, seed=3):
        found = Predictor.load(tmp_path / "small").predict(text)["tokens"]
        wanted = tiny_transformers.logits(model, tokenizer, text).argmax(-1)[1:-1]
        assert [token["label"] for token in found] == [TAGS[tag] for tag in wanted]


def rows_of(kind):
    """Rows of a task of another kind, and what the model's config has for it."""
    rng = np.random.default_rng(0)
    some = texts(40, longest=8)
    if kind == "several labels":
        labels = [[label for label in LABELS if rng.random() < 0.5] for _ in some]
        rows = [{"text": t, "labels": names} for t, names in zip(some, labels)]
        return rows, LABELS, {"problem_type": "multi_label_classification"}
    if kind == "number":
        rows = [{"text": text, "score": float(rng.normal())} for text in some]
        return rows, ["LABEL_0"], {"problem_type": "regression"}
    labels = [str(label) for label in rng.choice(LABELS, 40)]
    rows = zip(some, texts(40, seed=1, longest=8), labels)
    return [{"premise": a, "hypothesis": b, "label": c} for a, b, c in rows], LABELS, {}


@ONCE
@pytest.mark.parametrize("kind", ["several labels", "number", "pairs"])
def test_tasks(kind, tmp_path):
    rows, labels, config = rows_of(kind)
    tiny_transformers.write(
        tmp_path / "model", "bert", labels=labels, num_hidden_layers=4, **config
    )
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert compress(tmp_path, "train.jsonl") == 0
    model, tokenizer = load(tmp_path)
    assert model.config.problem_type == config.get("problem_type", "single_label_classification")
    predictor = Predictor.load(tmp_path / "small")
    for a, b in zip(texts(5, seed=3, longest=8), texts(5, seed=4, longest=8)):
        logits = tiny_transformers.logits(model, tokenizer, a, *[b] * (kind == "pairs"))
        found = predictor.predict([(a, b) if kind == "pairs" else a])[0]
        if kind == "number":
            assert abs(found["value"] - logits[0]) < 1e-4
        elif kind == "pairs":
            assert found["label"] == LABELS[logits.argmax()]
        else:
            assert set(found["labels"]) == {LABELS[i] for i in np.flatnonzero(logits >= 0)}


@ONCE
@pytest.mark.parametrize("kind", ["single label", "several labels", "number", "words"])
def test_no_labels(kind, tmp_path):
    task = "Token" if kind == "words" else "Sequence"
    _, labels, config = rows_of(kind)
    labels = None if kind == "words" else labels
    tiny_transformers.write(
        tmp_path / "model", "bert", task, labels=labels, num_hidden_layers=4, scale=0.8, **config
    )
    for name, seed in (("train", 0), ("test", 1)):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in texts(40, seed))])
    assert compress(tmp_path, "train.csv", "--test", str(tmp_path / "test.csv")) == 0
    load(tmp_path, task)
    rows = json.loads((tmp_path / "small" / "report.json").read_text())["rows"]
    assert abs(rows[0]["test_score"] - 1) < 1e-6  # it agrees with itself
    if kind == "single label":
        answers = [
            [row["label"] for row in Predictor.load(tmp_path / name).predict(texts(40, 1))]
            for name in ("model", "small")
        ]
        agree = sum(a == b for a, b in zip(*answers)) / 40
        assert abs(rows[-1]["test_score"] - agree) < 1e-6
