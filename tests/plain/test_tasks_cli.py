"""What scripts/tasks.py says before it starts; none of it needs TensorFlow."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tasks.py"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "好"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


@pytest.fixture
def given(tmp_path):
    rows = [{"text": f"好{i}", "label": {"字": {"好": [[0, 0]]}}} for i in range(30)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB), encoding="utf-8")
    return tmp_path


def arguments(given, task="cluener", **changes):
    options = {"data-dir": given, "vocab": given / "vocab.txt", "output-dir": given / "out"}
    options.update(changes)
    return [
        task,
        *(str(part) for k, v in options.items() if v is not None for part in (f"--{k}", v)),
    ]


@pytest.mark.parametrize("changes, problem", [
    ({"task": "squad"}, "invalid choice: 'squad'"),
    ({"data-dir": None}, "required: --data-dir"),
    ({"data-dir": "nowhere"}, "nowhere must be a folder with train.json"),
    ({"vocab": None}, "cluener needs a BERT"),
    ({"task": "spans", "vocab": None}, "spans needs a BERT"),
    ({"task": "tagging"}, "train.json, row 1: 'label' must be a list of [start, end, type]"),
    ({"vocab": "nowhere.txt"}, "nowhere.txt must be a vocabulary"),
    ({"vocab": None, "bert-config": "x.json"}, "--bert-config needs --vocab"),
    ({"bert-config": "nowhere.json"}, "nowhere.json must be a BERT config"),
    ({"bert-dir": "."}, "--bert-dir excludes --vocab"),
    ({"vocab": None, "bert-dir": "nowhere"}, "nowhere"),
    ({"max-length": 2}, "--max-length 2 leaves no room"),
    ({"max-length": 513}, "positions for 512 tokens"),
    ({"successor-layers": 7}, "the predecessor has only 6 layers"),
    ({"predecessor-epochs": 0}, "expected a whole number of at least 1"),
    ({"theseus-learning-rate": 2}, "expected a number above 0 and below 1"),
])  # fmt: skip
def test_bad_arguments_are_refused(script, capsys, given, changes, problem):
    before = sorted(given.rglob("*"))
    try:
        code = script.main(arguments(given, **changes))
    except SystemExit as error:  # how argparse leaves
        code = error.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("tasks.py: error: ") and problem in err and err.count("\n") == 1
    assert sorted(given.rglob("*")) == before


def test_bad_data_is_named_without_tensorflow(given):
    (given / "dev.json").write_text('{"text": 1}')
    command = [sys.executable, "-X", "importtime", str(SCRIPT), *arguments(given)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "dev.json, row 1: must be an object" in result.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert imported.isdisjoint({"tensorflow", "keras", "tf_keras", "bert4keras"})


def test_help_is_fast_and_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    for text in (
        "sst2",
        "cluener",
        "multi-label",
        "second_text",
        "examples:",
        "exit codes:",
        "--successor-layers",
        "task.json",
    ):
        assert text in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert imported.isdisjoint({"numpy", "tensorflow", "keras", "tf_keras", "bert_of_theseus"})
    assert min(seconds) < 1
