"""benchmarks/quality.py from end to end: tiny models and texts, two seeds, stopped and resumed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_transformers import make_model, make_tokenizer, texts

from bert_of_theseus.backend import KERAS_2, keras
from bert_of_theseus.locks import exclusive

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CLASSES = ["sport", "food", "music"]


@pytest.fixture(scope="module")
def quality(load_script):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield load_script(BENCHMARKS / "quality.py")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """IFLYTEK's and CLUENER's forms, and a pretrained BERT of two layers."""
    folder = tmp_path_factory.mktemp("given")
    for name in ("iflytek", "cluener"):
        (folder / name).mkdir()
    labels = [{"label": str(i), "label_des": name} for i, name in enumerate(CLASSES)]
    write(folder / "iflytek" / "labels.json", labels)
    for name, count in (("train", 48), ("dev", 24)):
        sentences = texts(count, seed=count)
        numbers = [ord(sentence[0]) % 3 for sentence in sentences]
        rows = [
            {"label": str(i), "label_des": CLASSES[i], "sentence": sentence}
            for i, sentence in zip(numbers, sentences)
        ]
        write(folder / "iflytek" / f"{name}.json", rows)
        rows = [
            {"text": text, "label": {"name": {text[0]: [[0, 0]]}} if text[0] < "m" else {}}
            for text in sentences
        ]
        write(folder / "cluener" / f"{name}.json", rows)
    tokenizer = make_tokenizer("bert")
    tokenizer.save_pretrained(folder / "bert")
    bert = make_model("bert", "Model", vocab_size=len(tokenizer), max_position_embeddings=64)
    bert.save_pretrained(folder / "bert")
    return folder


def write(path, rows):
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def arguments(given, output, task="iflytek", seeds=(0, 1), **more):
    options = {
        "task": [task],
        "data-dir": [given / task],
        "bert-dir": [given / "bert"],
        "output-dir": [output],
        "layers": [1],
        "seeds": seeds,
        "epochs": [1],
        "predecessor-epochs": [1],
        **more,
    }
    return [str(part) for key, values in options.items() for part in (f"--{key}", *values)]


def rows_of(table):
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    return [dict(zip(header, row)) for row in rows]


def test_two_seeds_stopped_and_resumed(quality, given, tmp_path, capsys):
    output = tmp_path / "study"
    of_ours = "warm:schedule.start=0.5,theseus_stage.learning_rate=1e-3"
    names = ["direct", "ours", of_ours]
    line = arguments(given, output, variants=names)
    # Another process is at work on one of them: it is left to that one.
    (output / "seed-0").mkdir(parents=True)
    with exclusive(output / "seed-0" / "ours-1.lock", "it"):
        assert quality.main(line) == 0
    records, table, notes = capsys.readouterr().out.split("\n\n")
    assert [row["seeds"] for row in rows_of(table)] == ["2", "2", "1", "2"]
    assert "24 examples" in notes
    *records, head = records.splitlines()
    assert head.startswith("iflytek (43 train, 5 validation, 24 dev; 64 tokens; accuracy), bert")
    made = [(entry["variant"], entry["seed"]) for entry in map(json.loads, records)]
    both = [(name, seed) for seed in (0, 1) for name in names]
    assert made == [job for job in both if job != ("ours", 0)]

    before = {path: path.stat().st_mtime_ns for path in output.rglob("student.json")}
    assert quality.main(line) == 0
    records, table, _ = capsys.readouterr().out.split("\n\n")
    assert [json.loads(line)["variant"] for line in records.splitlines()[:-1]] == ["ours"]
    assert [row["seeds"] for row in rows_of(table)] == ["2", "2", "2", "2"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert quality.main(["--report", "--output-dir", str(output)]) == 0
    assert capsys.readouterr().out.split("\n\n")[1] == table

    # Equal steps for all, and what the models said of each text of dev.
    entries = [json.loads(path.read_text()) for path in output.rglob("student.json")]
    steps = {entry["steps"] for entry in entries if entry["variant"] != "predecessor"}
    assert steps == {4}  # two passes over two batches
    for path in output.rglob("dev.npy"):
        right, count = np.load(path).T
        entry = json.loads(path.with_name("student.json").read_text())
        assert len(right) == 24 and (count == 1).all()
        assert right.mean() == pytest.approx(entry["dev"])
    assert not list(output.glob("seed-*/*-1/**/*.h5"))

    # Ready-made models in place of those that were trained here: the same scores.
    other = arguments(
        given, tmp_path / "other", predecessors=[output / "predecessors"], variants=["direct"]
    )
    assert quality.main(other) == 0
    capsys.readouterr()
    for seed in (0, 1):
        for name in ("predecessor", "direct-1"):
            place = Path(f"seed-{seed}") / name / "student.json"
            found, expected = (
                json.loads((folder / place).read_text()) for folder in (tmp_path / "other", output)
            )
            assert found["dev"] == expected["dev"]
            assert ("cpu_seconds" in found) == (name != "predecessor")

    assert quality.main([*line, "--batch-size", "16"]) == 2
    assert "batch_size: 32, now 16" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("task", ["iflytek", "cluener"])
def test_every_variant(quality, given, tmp_path, task, capsys):
    line = arguments(given, tmp_path, task, (0,), variants=quality.VARIANTS)
    assert quality.main(line) == 0
    table = capsys.readouterr().out.split("\n\n")[1]
    found = {(row["recipe"], row["layers"]) for row in rows_of(table)}
    deep = [("predecessor", "2"), ("same_depth", "2")]
    assert found == {*deep, *((name, "1") for name in quality.VARIANTS if name != "same_depth")}
    config = json.loads((tmp_path / "predecessors" / "seed-0" / "config.json").read_text())
    kind = {"iflytek": "Sequence", "cluener": "Token"}[task]
    assert config["architectures"] == [f"BertFor{kind}Classification"]


@pytest.mark.slow
@pytest.mark.skipif(KERAS_2, reason="half precision is for Keras 3")
def test_half_precision(quality, given, tmp_path, capsys):
    try:
        flags = ["--precision", "mixed_bfloat16"]
        line = arguments(given, tmp_path, seeds=(0,), variants=["direct", "ours"])
        assert quality.main([*line, *flags]) == 0
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert "mixed_bfloat16\n\n" in capsys.readouterr().out


def test_a_variant_is_another_with_changes(quality):
    article = quality.parse_variant("article")
    assert article.options == {
        "execution": "dense",
        "embeddings": "replace",
        "schedule": 0.5,
        "initialize": None,
    }
    given = quality.parse_variant("uniform:schedule.fraction=0.5,initialize=(0, 1),x.y=a,b")
    changes = {"schedule.fraction": 0.5, "initialize": (0, 1), "x.y": "a,b"}
    assert given.options == {**article.options, "gate": "uniform", **changes}
    assert (given.base, given.kind, given.is_deep) == ("ours", "compressed", False)
    assert quality.parse_variant("same_depth:gate=uniform").is_deep
    assert quality.parse_variant("direct:learning_rate=1e-4").kind == "direct"
    assert quality.parse_variant("distillation").kind == "compressed"
    assert quality.parse_variant("ours").options == {}

    arguments = quality.arguments_of(
        quality.parse_variant(
            "new:theseus_stage.epochs=8,theseus_stage.decay=cosine,schedule.start=0.1,"
            "distillation_weight=1,at_least_one=True"
        )
    )
    assert (arguments["theseus_stage"].epochs, arguments["theseus_stage"].decay) == (8, "cosine")
    assert arguments["schedule"].start == 0.1 and arguments["schedule"].end == 1.0
    assert arguments["distillation_weight"] == 1 and arguments["at_least_one"] is True
    linear = quality.arguments_of(quality.parse_variant("linear"))["schedule"]
    assert (linear.start, linear.at(0), linear.at(1)) == (0.3, 0.3, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "must be some of direct, distillation, ours"),
        ("ours:initialise=first", "initialise must be one of .*initialize"),
        ("direct:schedule=0.5", "schedule must be one of .*learning_rate"),
        ("direct:epochs.x=1", "epochs.x must be one of"),
        ("ours:latency", "must be NAME:OPTION=VALUE"),
    ],
)
def test_wrong_variants_are_named(quality, text, message):
    with pytest.raises(ValueError, match=message):
        quality.arguments_of(quality.parse_variant(text))
