"""What scripts/tasks.py says before it starts; none of it needs TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bert_of_theseus.checkpoints.configs import read_config
from bert_of_theseus.checkpoints.families import FAMILIES, encoder_shapes

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
    ({"task": "tagging"}, "train.json, row 1: column 'label' must be a list of tags"),
    ({"task": "regression", "text-column": "body"}, "train.json: no column 'body', but 'text'"),
    ({"task": "classification", "data-dir": "nowhere.csv"}, "nowhere.csv must be a file"),
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


def fine_tuned(folder, names, rows=None, **config):
    """A BERT's folder with a head for these classes, whose tensors are zeros."""
    folder.mkdir()
    sizes = {"vocab_size": len(VOCAB), "hidden_size": 4, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 4, "max_position_embeddings": 16}
    labels = {"id2label": {str(i): name for i, name in enumerate(names)}} if names else {}
    config = {"model_type": "bert", **sizes, **labels, **config}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(VOCAB), encoding="utf-8")
    checked, _ = read_config(folder / "config.json")
    family = FAMILIES["bert"]
    shapes = {**dict(encoder_shapes(checked)), "bert/pooler/dense/kernel": (4, 4)}
    shapes["bert/pooler/dense/bias"] = (4,)
    if names:
        shapes |= {"classifier/kernel": (4, len(names)), "classifier/bias": (len(names),)}
    tensors = {}
    for name, shape in shapes.items():
        stored = family.stored(name, "sequence" if names else None)
        tensors[stored] = np.zeros(shape[::-1] if name.endswith("kernel") else shape, "float32")
    save_file(tensors, folder / "model.safetensors")
    return folder


def prepared(script, *argv):
    args = script.build_parser().parse_args([*map(str, argv), "--max-length", "16"])
    script.resolve(args)
    return script.prepare(args)


def test_a_fine_tuned_model_brings_its_head_and_labels(script, tmp_path, capsys):
    names = ["positive", "neutral", "negative"]
    model = fine_tuned(tmp_path / "model", names)
    data = tmp_path / "reviews.csv"
    data.write_text("review,label\n" + "".join(f"好{i},{names[i % 3]}\n" for i in range(40)))
    argv = ["classification", "--data-dir", data, "--successor-layers", "1"]
    argv += ["--output-dir", tmp_path / "out", "--bert-dir", model]
    inputs = prepared(script, *argv)
    assert inputs["has_head"] and inputs["task"].labels == names
    for part in inputs["batches"]:
        for example in part.encoded.examples:
            assert example.label == int(example.text[1:]) % 3
    assert capsys.readouterr().err == ""
    prepared(script, *argv, "--predecessor-epochs", "2")
    assert "not trained again: --predecessor-epochs do nothing" in capsys.readouterr().err
    inputs = prepared(script, *argv, "--new-head")
    assert not inputs["has_head"] and inputs["task"].labels == sorted(names)
    # Names for a model that has none.
    argv[-1] = fine_tuned(tmp_path / "unnamed", ["LABEL_0", "LABEL_1", "LABEL_2"])
    assert prepared(script, *argv, "--labels", *names)["task"].labels == names
    with pytest.raises(ValueError, match="--labels must name 3 classes, and the head"):
        prepared(script, *argv, "--labels", *names[:2])
    # An encoder alone has nothing to keep.
    argv[-1] = fine_tuned(tmp_path / "encoder", [])
    assert not prepared(script, *argv)["has_head"]


@pytest.mark.parametrize("task, names, config, problem", [
    ("classification", ["good", "bad"], {}, "reviews.csv, row 1 (line 2): label 'yes' is none of"),
    ("classification", ["LABEL_0", "LABEL_1"], {}, "has LABEL_0, LABEL_1; the file has yes, no"),
    ("multi-label", ["no", "yes"], {}, "a head (sequence, softmax: no, yes) that is not for"),
    ("tagging", ["no", "yes"], {}, "that is not for tagging. --new-head trains a new one"),
    ("spans", ["no", "yes"], {}, "that is not for spans"),
    ("sst2", ["positive", "negative"], {}, "a head with the labels negative, positive, in"),
    ("classification", ["no", "yes"], {"model_type": "albert"}, "lacks"),
])  # fmt: skip
def test_a_head_that_does_not_fit(script, tmp_path, capsys, task, names, config, problem):
    data = tmp_path / "reviews.csv"
    data.write_text("text,label\n" + "".join(f"好{i},{['yes', 'no'][i % 2]}\n" for i in range(40)))
    lines = ["sentence\tlabel", *(f"text {i}\t{i % 2}" for i in range(40))]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
    argv = [task, "--data-dir", tmp_path if task == "sst2" else data, "--successor-layers", 1]
    argv += ["--output-dir", tmp_path / "out"]
    model = fine_tuned(tmp_path / "model", names)
    if config:
        changed = {**json.loads((model / "config.json").read_text()), **config}
        (model / "config.json").write_text(json.dumps(changed))
        problem = str(model)
    assert script.main([*map(str, argv), "--bert-dir", str(model)]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1


def test_bad_data_is_named_without_tensorflow(given):
    (given / "dev.json").write_text('{"text": 1}')
    command = [sys.executable, "-X", "importtime", str(SCRIPT), *arguments(given)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "dev.json, row 1: must be an object" in result.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert imported.isdisjoint({"tensorflow", "keras", "tf_keras", "bert4keras"})


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
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
    assert imported.isdisjoint({"numpy", "tensorflow", "keras", "tf_keras"})
