"""scripts/keras_hub_sst2.py from end to end, on a tiny BERT and a tiny task."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras_hub
import numpy as np
import pytest
from hub_helpers import WORDS, save_tiny_bert

from bert_of_theseus.backend import BACKEND

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "keras_hub_sst2.py"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """SST-2's form, and a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("given")
    save_tiny_bert(folder / "bert", num_hidden_layers=2)
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("dev", 10)):
        rows = ["sentence\tlabel"]
        for i in range(count):
            words = [*rng.choice(WORDS[6:], 4), WORDS[3 * (i % 2) + rng.integers(3)]]
            rows.append(f"{' '.join(rng.permutation(words))} \t{1 - i % 2}")
        (folder / "data" / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def arguments(given, output, **changes):
    options = {
        "data-dir": given / "data",
        "preset": given / "bert",
        "output-dir": output,
        "successor-layers": 1,
        "max-length": 8,
        "warm-start-epochs": 1,
        "theseus-epochs": 1,
        "batch-size": 16,
        **changes,
    }
    return [str(part) for key, value in options.items() for part in (f"--{key}", value)]


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="once is enough: `compress` is tested on each")
def test_from_texts_to_a_preset(load_script, given, tmp_path, capsys):
    script = load_script(SCRIPT)
    assert script.main(arguments(given, tmp_path)) == 0
    out = capsys.readouterr().out
    table = (tmp_path / "report.md").read_text()
    assert table in out
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [row["layers"] for row in rows] == [2, 1, 1, 1]
    assert json.loads((tmp_path / "labels.json").read_text()) == ["negative", "positive"]
    loaded = keras_hub.models.TextClassifier.from_preset(str(tmp_path / "preset"))
    lines = (given / "data" / "dev.tsv").read_text().splitlines()[1:]
    texts, labels = zip(*(line.split("\t") for line in lines))
    answers = loaded.predict([text.strip() for text in texts], verbose=0).argmax(-1)
    right = (answers == np.array(labels, int)).mean()
    assert right == pytest.approx(rows[-1]["test_score"])
    # Again: nothing is trained; and other settings are refused.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("stage.json")}
    assert len(before) == 4
    assert script.main(arguments(given, tmp_path)) == 0
    assert script.main(arguments(given, tmp_path, **{"theseus-epochs": 2})) == 2
    assert "other settings" in capsys.readouterr().err
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize("changes, problem", [
    ({"data-dir": "nowhere"}, "nowhere must be a folder with train.tsv"),
    ({"max-length": 2}, "--max-length 2 leaves no room"),
    ({"max-length": 13}, "--max-length 13: the model has positions for 12 tokens"),
    ({"successor-layers": 3}, "must be an integer from 1 to 2. Received: 3"),
    ({"output-dir": "/dev/null/out"}, "--output-dir /dev/null/out: /dev/null is a file"),
])  # fmt: skip
def test_what_is_refused(load_script, given, tmp_path, capsys, changes, problem):
    output = tmp_path / "out"
    assert load_script(SCRIPT).main(arguments(given, output, **changes)) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("keras_hub_sst2.py: error: ")
    assert problem in err
    assert not output.exists()


def test_help_needs_no_keras():
    code = "import sys, runpy; sys.argv[1:] = ['--help']\n"
    code += f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    code += "except SystemExit as end: print(end.code, {'keras', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
    assert "--successor-layers" in done.stdout
