"""benchmarks/quality.py from end to end: tiny models and texts, two seeds, stopped and resumed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_transformers import make_model, make_tokenizer, texts

from bert_of_theseus.backend import keras
from bert_of_theseus.locks import exclusive
from bert_of_theseus.training import Stage

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


def models_of(printed):
    """The variant and seed of each record in what a run has printed, and its table."""
    records, table, _ = printed.split("\n\n")
    entries = [json.loads(line) for line in records.splitlines() if line.startswith("{")]
    return [(entry["variant"], entry["seed"]) for entry in entries], table


def record(folder):
    return json.loads((folder / "student.json").read_text())


@pytest.mark.only("torch")
def test_two_seeds_stopped_and_resumed(quality, given, tmp_path, capsys):
    output, ours = tmp_path / "study", "ours:schedule.start=0.5"
    # Another process is at work on one of them: it is left to that one.
    (output / "seed-0").mkdir(parents=True)
    with exclusive(output / "seed-0" / "direct-1.lock", "it"):
        assert quality.main(arguments(given, output, seeds=(0,), variants=["direct", ours])) == 0
    printed = capsys.readouterr().out
    made, _ = models_of(printed)
    assert made == [(ours, 0)] and "dev has 24 examples" in printed
    head = "\niflytek (43 train, 5 validation, 24 dev; 64 tokens; accuracy), bert (2 layers, "
    assert head in printed

    before = {path: path.stat().st_mtime_ns for path in output.rglob("student.json")}
    line = arguments(given, output, variants=["direct"])
    assert quality.main(line) == 0
    made, table = models_of(capsys.readouterr().out)
    assert made == [("direct", 0), ("direct", 1)]
    found = [(row["recipe"], row["layers"], row["seeds"]) for row in rows_of(table)]
    assert found == [("predecessor", "2", "2"), ("direct", "1", "2"), (ours, "1", "1")]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert quality.main(["--report", "--output-dir", str(output)]) == 0
    assert models_of(capsys.readouterr().out)[1] == table

    # Equal steps for all, and what the models said of each text of dev.
    folders = [path.parent for path in output.rglob("student.json")]
    assert {record(folder)["steps"] for folder in folders if folder.name != "predecessor"} == {8}
    for folder in folders:
        right, count = np.load(folder / "dev.npy").T
        assert len(right) == 24 and (count == 1).all()
        assert right.mean() == pytest.approx(record(folder)["dev"])
    assert not list(output.glob("seed-*/*-1/**/*.h5"))

    assert quality.main([*line, "--batch-size", "16"]) == 2
    assert "batch_size: 32, now 16" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.only("torch")
def test_models_that_are_given_score_as_where_they_were_trained(quality, given, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert quality.main(arguments(given, first, seeds=(0,), variants=["direct", "ours"])) == 0
    folders = [first / "predecessors"]
    line = arguments(given, second, seeds=(0,), predecessors=folders, variants=["direct", "ours"])
    assert quality.main(line) == 0
    for name in ("predecessor", "direct-1", "ours-1"):
        before, after = (record(folder / "seed-0" / name) for folder in (first, second))
        assert before["dev"] == after["dev"] and before["validation"] == after["validation"]
        assert "cpu_seconds" in before and ("cpu_seconds" in after) == (name != "predecessor")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Saved to .*pooler")  # which a tagger does not use
@pytest.mark.parametrize(
    ("task", "variants", "kind"),
    [
        pytest.param("iflytek", None, "Sequence", marks=pytest.mark.only("torch")),
        pytest.param(
            *("cluener", ["direct", "ours"], "Token"),
            marks=pytest.mark.only("torch", "tf_keras"),  # once for each host
        ),
    ],
)
def test_every_task_and_variant(quality, given, tmp_path, task, variants, kind, capsys):
    variants = variants or list(quality.VARIANTS)
    assert quality.main(arguments(given, tmp_path, task, (0,), variants=variants)) == 0
    table = capsys.readouterr().out.split("\n\n")[1]
    found = [(row["recipe"], row["layers"]) for row in rows_of(table)]
    deep = [name for name in ("predecessor", "same_depth") if name in ["predecessor", *variants]]
    small = [name for name in quality.VARIANTS if name in variants and name != "same_depth"]
    assert found == [*((name, "2") for name in deep), *((name, "1") for name in small)]
    records = [record(path.parent) for path in tmp_path.rglob("student.json")]
    assert {one["steps"] for one in records if one["kind"] != "predecessor"} == {8}
    config = json.loads((tmp_path / "predecessors" / "seed-0" / "config.json").read_text())
    assert config["architectures"] == [f"BertFor{kind}Classification"]


@pytest.mark.slow
@pytest.mark.only("torch")
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
        "warm_start_stage": None,
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
            "warm_start_stage.epochs=None,distillation_weight=1,at_least_one=True"
        )
    )
    assert (arguments["theseus_stage"].epochs, arguments["theseus_stage"].decay) == (8, "cosine")
    assert arguments["warm_start_stage"] == Stage()
    assert arguments["schedule"].start == 0.1 and arguments["schedule"].end == 1.0
    assert arguments["distillation_weight"] == 1 and arguments["at_least_one"] is True
    linear = quality.arguments_of(quality.parse_variant("linear"))["schedule"]
    assert (linear.start, linear.at(0), linear.at(1)) == (0.3, 0.3, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "must be some of direct, distillation, article"),
        ("ours:initialise=first", "initialise must be one of .*initialize"),
        ("direct:schedule=0.5", "schedule must be one of .*learning_rate"),
        ("direct:epochs.x=1", "epochs.x must be one of"),
        ("ours:initialize.x=1", "initialize.x must be one of"),
        ("ours:latency", "must be NAME:OPTION=VALUE"),
    ],
)
def test_wrong_variants_are_named(quality, text, message):
    with pytest.raises(ValueError, match=message):
        quality.arguments_of(quality.parse_variant(text))
