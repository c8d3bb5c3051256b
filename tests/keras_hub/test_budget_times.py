"""The times that a budget is compared with, and a search for a depth that is killed."""

import numpy as np
import pytest
from damage import interrupted_move
from hub_helpers import make_backbone
from pretrained_folders import write_texts
from tiny_transformers import texts, write

from bert_of_theseus import compress_pretrained
from bert_of_theseus.data import Batches, Encoded
from bert_of_theseus.heads import pooler_classification_head
from bert_of_theseus.pretrained import budget
from bert_of_theseus.pretrained.budget import time_answers

pytestmark = pytest.mark.only("torch")


def batches_of(lengths, names):
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 20, length).astype("int32") for length in lengths]
    return Batches(Encoded(ids, np.zeros(len(ids), "int32")), 4, input_names=names)


@pytest.mark.parametrize(
    "family, installed", [("Bert", True), ("DistilBert", True), ("Bert", False)]
)
def test_single_texts_as_they_are_exported(family, installed, tmp_path, monkeypatch):
    if installed:
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setattr(budget.importlib.util, "find_spec", lambda name: None)
    backbone = make_backbone(family, vocabulary_size=20)
    activation = "relu" if family == "DistilBert" else "tanh"
    head = pooler_classification_head(8, 2, pooler_activation=activation)
    batches = batches_of([3, 7, 5, 4, 6, 2, 7], list(backbone.input))
    before = [x["token_ids"].shape for x, _ in batches]
    timing = time_answers(backbone, head, batches, tmp_path, count=4)
    assert (timing.shortest, timing.longest, timing.count) == (2, 7, 4)
    assert 0 < timing.milliseconds <= timing.slowest < 1000
    assert ("in ONNX Runtime" in str(timing)) == ("[export]" not in str(timing)) == installed
    assert "4 validation texts of 2 to 7" in str(timing)
    assert not [*tmp_path.iterdir()]
    assert [x["token_ids"].shape for x, _ in batches] == before and batches.batch_size == 4


@pytest.mark.parametrize(
    "kind",
    ["classes", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("words", "number"))],
)
def test_a_dry_run_without_labels(kind, tmp_path):
    number = {"labels": ["LABEL_0"], "problem_type": "regression"}
    task = "Token" if kind == "words" else "Sequence"
    write(tmp_path / "model", "bert", task, **(number if kind == "number" else {}))
    (tmp_path / "train.txt").write_text("\n".join(texts(40)))
    estimate = compress_pretrained(
        tmp_path / "model", train=tmp_path / "train.txt", directory=tmp_path / "small",
        keep=0.9, batch_size=16, verbose=0, dry_run=True,
    )  # fmt: skip
    names = {"warm start", "theseus", "successor", "scores", "answers", "start"}
    assert estimate.parts.keys() == names
    assert all(seconds > 0 for seconds in estimate.parts.values())
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path):
    """The depth that was trained is not trained again, no depth is timed twice, and the end is
    that of a search that was not killed."""
    write(tmp_path / "model", "bert", num_hidden_layers=4)
    write_texts(tmp_path / "train.csv", 64)

    def compress(name):
        return compress_pretrained(
            tmp_path / "model", train=tmp_path / "train.csv", directory=tmp_path / name,
            keep=1.0, max_ms=1e6, batch_size=16, epochs=2, verbose=0,
        )  # fmt: skip

    def outcome(name):
        try:
            found = compress(name)
        except ValueError as error:  # nothing keeps so much
            return str(error).replace(name, "")
        rows = [{**row, "milliseconds": None} for row in found.search["rows"]]
        return rows, (tmp_path / name / "model.safetensors").read_bytes()

    with interrupted_move(8, "checkpoint.npz"):  # eight for each depth: in the second one
        compress("killed")
    runs = tmp_path / "killed" / "unfinished"
    first = runs / "2-layers" / "successor" / "stage.json"
    times, trained = ((path, path.stat().st_mtime_ns) for path in (runs / "times.json", first))
    second = next(path for path in runs.glob("[13]-layers"))
    assert not (second / "successor" / "stage.json").exists()
    with interrupted_move(1, "stage.json"):
        compress("killed")
    for path, written in (times, trained):
        assert path.stat().st_mtime_ns == written
    assert outcome("killed") == outcome("whole")
