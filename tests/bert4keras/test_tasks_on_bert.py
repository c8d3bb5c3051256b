"""Tasks on real BERTs, and scripts/tasks.py from end to end on tiny ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bert_helpers import run, same, untraced, weights_of

from bert_of_theseus import build_successor_model, build_theseus_model, set_replacement_rate
from bert_of_theseus.backend import keras
from bert_of_theseus.checkpoints import build_bert, load_pretrained, save_pretrained
from bert_of_theseus.data import (
    Classification,
    Entity,
    Example,
    Pair,
    SpanExtraction,
    Tagging,
    Tokenizer,
    load_cluener,
)
from bert_of_theseus.data.decoding import decode_entities

# What save_pretrained says of heads that others do not know: test_saving.py has it.
pytestmark = pytest.mark.filterwarnings("ignore:Saved to .*head is none of the family's own")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tasks.py"
WORDS = "甲乙丙丁天地人在和"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "good", "bad", "the", "film"]
CONFIG = {
    "vocab_size": len(VOCAB),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-6,
}
CASES = {
    "pairs": (Classification("ab"), [Pair("甲 乙", "丙", 1), Pair("天", "地人", 0)]),
    "tagging": (Tagging(["x"]), [Example("甲乙", [Entity(0, 2, "x")]), Example("在天地和", [])]),
    "spans": (SpanExtraction(), [Pair("甲", "乙丙天", (0, 2)), Pair("人", "地", None)]),
}


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB), encoding="utf-8")
    return path


@pytest.mark.parametrize("name, executions", [
    ("pairs", ["lazy", "dense"]),
    ("tagging", ["lazy"]),
    ("spans", ["lazy"]),
    pytest.param("tagging", ["dense"], marks=pytest.mark.slow),
    pytest.param("spans", ["dense"], marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.usefixtures("untraced")
def test_a_theseus_model_of_a_task(name, executions, vocab):
    """At inference it is the successor; padding changes neither that nor the loss."""
    task, examples = CASES[name]
    tokenizer = Tokenizer(vocab)
    keras.utils.set_random_seed(0)
    hosts = [build_bert(CONFIG, num_hidden_layers=1, prefix=prefix) for prefix in ("", "Small-")]
    head = task.head(16)
    for model in (*(host.model for host in hosts), head):
        # The initial weights are so small that attention hardly matters.
        model.set_weights([10 * w if w.ndim > 1 else w for w in model.get_weights()])
    small = build_successor_model(hosts[1], head)
    full = build_successor_model(hosts[0], head)
    data = task.batches(examples, tokenizer, 16, batch_size=2, multiple=1)
    inputs, labels = data[0]
    length = inputs[0].shape[1]
    padding = [(0, 0), (0, 3)]
    longer = [np.pad(x, padding) for x in inputs]
    more = np.pad(labels, padding, constant_values=-1) if name == "tagging" else labels
    short, long = run(small, inputs), run(small, longer)
    if name == "tagging":
        real = inputs[0] > 0
        np.testing.assert_allclose(long[:, :length][real], short[real], atol=1e-5)
    elif name == "spans":
        np.testing.assert_allclose(long[..., :length], short, atol=1e-5)
        assert (long[..., length:] == 0).all()
    else:
        np.testing.assert_allclose(long, short, atol=1e-5)
    for execution in executions:
        theseus = build_theseus_model(*hosts, head, execution=execution, seed=1)
        theseus.compile(keras.optimizers.SGD(0.1), task.loss, metrics=list(task.metrics))
        losses = []
        for x, y in ((inputs, labels), (longer, more)):
            losses.append(theseus.evaluate(x, y, verbose=0))
            found = run(theseus, x)
            np.testing.assert_allclose(found, run(small, x), atol=1e-6)
            assert not np.allclose(found, run(full, x), atol=1e-3)
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
        before, start = weights_of(hosts[0].model, head), weights_of(hosts[1].model)
        set_replacement_rate(theseus, 1.0)
        theseus.fit(inputs, labels, epochs=1, verbose=0)
        assert same(before, weights_of(hosts[0].model, head))
        assert not same(start, weights_of(hosts[1].model))


# The script.


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What can be learned: 256 texts of each task."""
    return write_data(tmp_path_factory.mktemp("given"), 256)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Too few texts to learn anything of."""
    return write_data(tmp_path_factory.mktemp("few"), 32)


def write_data(folder, size):
    """Entities are what follows 在, two characters; good films and bad ones."""
    rng = np.random.default_rng(0)

    def ner(count):
        for _ in range(count):
            text = "".join(rng.choice(list(WORDS[:7]), 6))
            place = int(rng.integers(0, 4))
            text = f"{text[:place]}在{text[place:]}"
            name = text[place + 1 : place + 3]
            label = {"地": {name: [[place + 1, place + 2]]}}
            yield json.dumps({"text": text, "label": label}, ensure_ascii=False, indent=2)

    for name, count in (("train", size), ("dev", size // 4)):
        (folder / f"{name}.json").write_text("\n".join(ner(count)), encoding="utf-8")
        lines = ["sentence\tlabel"]
        for i in range(count):
            words = " ".join(rng.choice(["the", "film", *WORDS], 5))
            lines.append(f"{words} {('bad', 'good')[i % 2]}\t{i % 2}")
        (folder / f"{name}.tsv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def arguments(given, vocab, task, **changes):
    options = {
        "data_dir": given,
        "vocab": vocab,
        "bert_config": given / "config.json",
        "successor_layers": 1,
        "max_length": 16,
        "predecessor_epochs": 8,
        "warm_start_epochs": 2,
        "theseus_epochs": 5,
        "successor_epochs": 2,
        "predecessor_learning_rate": 0.02,
        "warm_start_learning_rate": 0.02,
        "theseus_learning_rate": 0.02,
        "successor_learning_rate": 0.01,
        "batch_size": 16,
        **changes,
    }
    flags = [(f"--{key.replace('_', '-')}", str(value)) for key, value in options.items()]
    return [task, *(part for pair in flags for part in pair)]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


STAGES = ("predecessor", "warm_start", "theseus", "successor")
ONE_EPOCH = {f"{stage}_epochs": 1 for stage in STAGES}


@pytest.mark.slow
def test_cluener(script, few, vocab, tmp_path, capsys):
    """All but that something is learned."""
    with untraced():
        argv = arguments(few, vocab, "cluener", output_dir=tmp_path / "run", **ONE_EPOCH)
        run_cluener(script, argv, 32, tmp_path / "run", capsys)


@pytest.mark.slow
def test_cluener_learns(script, given, vocab, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = arguments(given, vocab, "cluener", output_dir=folder)
    rows = run_cluener(script, argv, 256, folder, capsys)
    assert rows[0]["test_score"] > 0.5 and rows[-1]["test_score"] > 0.5
    encoder, head, labels = load_pretrained(folder / "model")
    tokenizer = Tokenizer(folder / "model" / "vocab.txt")
    encoded = tokenizer.encode_with_offsets([Example("在甲乙和", None)], 16)
    ids = encoded.token_ids[0][None]
    output = run(build_successor_model(encoder, head), [ids, 0 * ids])[0]
    assert decode_entities(output, encoded.offsets[0], labels) == [Entity(1, 3, "地")]
    # The same command again trains nothing; other settings are refused.
    record = (folder / "task.json").read_bytes()
    changed = os.stat(folder / "successor" / "model.weights.h5").st_mtime_ns
    assert script.main(argv) == 0
    assert os.stat(folder / "successor" / "model.weights.h5").st_mtime_ns == changed
    assert (folder / "task.json").read_bytes() == record
    capsys.readouterr()
    assert script.main([*argv, "--seed", "3"]) == 2
    assert "holds a training with other settings" in capsys.readouterr().err


def run_cluener(script, argv, count, folder, capsys):
    data = Path(argv[argv.index("--data-dir") + 1])
    assert script.main(argv) == 0
    text, dev = capsys.readouterr().out, count // 4
    assert f"dev: {dev} texts, 0 texts cut, {dev} entities, 0 entities without labels" in text
    record = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    rows = json.loads((folder / "report.json").read_text(encoding="utf-8"))["rows"]
    assert [row["layers"] for row in rows] == [2, 1, 1, 1]
    assert rows[0]["test_score"] == record["dev"]["predecessor"]["f1"]
    assert rows[-1]["test_score"] == record["dev"]["successor"]["f1"]
    assert record["sets"]["train"]["texts"] + record["sets"]["validation"]["texts"] == count
    # What is saved is the successor, with the names of its tags.
    encoder, head, labels = load_pretrained(folder / "model")
    assert labels == record["labels"] == ["O", "B-地", "I-地"]
    model = build_successor_model(encoder, head)
    task = Tagging(["地"])
    tokenizer = Tokenizer(folder / "model" / "vocab.txt")
    batches = task.batches(load_cluener(data).dev, tokenizer, 16)
    assert task.score(model, batches) == pytest.approx(rows[-1]["test_score"])
    return rows


OWN = {  # Beside CLUENER and SST-2, which are tagging and classification.
    "multi-label": [("甲 乙", None, ["a", "b"]), ("天", None, [])],
    "regression": [("甲 乙", "丙", 1), ("天", "地人", 2.5)],
    "spans": [("甲", "乙丙天", [0, 2]), ("人", "地", None)],
}


@pytest.mark.parametrize("task", [
    pytest.param(task, marks=() if task == "spans" else pytest.mark.slow) for task in OWN
])  # fmt: skip
def test_tasks_of_ones_own(script, few, vocab, tmp_path, capsys, task):
    """From texts to a saved successor; and what is said where nothing was learned."""
    for name in ("train", "dev"):
        rows = [
            {"text": text + WORDS[i], "second_text": second, "label": label}
            for i in range(4)
            for text, second, label in OWN[task]
        ]
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    rates = {f"{name}_learning_rate": 1e-6 for name in STAGES}
    folder = tmp_path / "run"
    changes = {"data_dir": tmp_path, "output_dir": folder, **rates, **ONE_EPOCH}
    with untraced():
        assert script.main(arguments(few, vocab, task, **changes)) == 0
    out, err = capsys.readouterr()
    record = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    (metric, *_), (score, *_) = zip(*record["dev"]["predecessor"].items())
    rows = json.loads((folder / "report.json").read_text(encoding="utf-8"))["rows"]
    assert rows[0]["test_score"] == pytest.approx(score) and metric in out
    floor = record["one answer"]
    assert floor == (0.5 if task == "spans" else 0)
    assert ("The most frequent answer, given to every text, scores 0.5000" in out) == (floor > 0)
    error = (floor * (1 - floor) / 8) ** 0.5
    assert ("after 1 steps the predecessor scores no better on dev" in err) == (
        score <= floor + 2 * error
    )
    encoder, head, labels = load_pretrained(folder / "model")
    assert labels == (None if task == "spans" else record["labels"])
    assert build_successor_model(encoder, head).count_params() == rows[-1]["parameters"]


@pytest.mark.slow
def test_a_model_that_is_fine_tuned_already(script, few, vocab, tmp_path, capsys):
    """It is the predecessor as it is: its own answers, as labels, are all right."""
    keras.utils.set_random_seed(0)
    names, task = ["so", "wie", "ja"], Classification(["so", "wie", "ja"])
    bert, head = build_bert(CONFIG), task.head(16)
    for model in (bert.model, head):
        model.set_weights([10 * w if w.ndim > 1 else w for w in model.get_weights()])
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(WORDS), 6)) for _ in range(96)]
    data = task.batches([Example(text, 0) for text in texts], Tokenizer(vocab), 16)
    model = build_successor_model(bert, head)
    *weights, bias = head.get_weights()  # so that each class is an answer to some text
    head.set_weights([*weights, bias - np.log(task.predict(model, data)).mean(0)])
    answers = task.decode(task.predict(build_successor_model(bert, head), data))
    assert len(set(answers)) == 3
    save_pretrained(tmp_path / "model", bert, head, tokenizer=Tokenizer(vocab), labels=names)
    for name, part in (("train", slice(0, 64)), ("dev", slice(64, 96))):
        rows = (f"{text},{answer}\n" for text, answer in zip(texts[part], answers[part]))
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    folder = tmp_path / "run"
    changes = {"data_dir": tmp_path, "output_dir": folder, "bert_dir": tmp_path / "model"}
    argv = arguments(few, vocab, "classification", **changes, **ONE_EPOCH)
    for name in ("--vocab", "--bert-config"):
        del argv[argv.index(name) : argv.index(name) + 2]
    with untraced():
        assert script.main(argv) == 0
    record = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    assert record["dev"]["predecessor"] == {"accuracy": 1.0}
    assert load_pretrained(folder / "model")[2] == names


@pytest.mark.slow
def test_sst2_killed_and_taken_up(script, given, vocab, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = arguments(given, vocab, "sst2", output_dir=folder, theseus_epochs=2)
    process = subprocess.Popen([sys.executable, str(SCRIPT), *argv], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not (folder / "predecessor" / "checkpoint.npz").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert script.main(argv) == 0
    out = capsys.readouterr().out
    assert "predecessor: resumes after step" in out
    assert "The most frequent answer, given to every text, scores 0.5000 on dev." in out
    rows = json.loads((folder / "report.json").read_text(encoding="utf-8"))["rows"]
    assert [row["model"] for row in rows] == [*STAGES]
    # The warm start has learned nothing of the task itself.
    assert min(row["test_score"] for row in rows if row["model"] != "warm_start") > 0.9
    _, _, labels = load_pretrained(folder / "model")
    assert labels == ["negative", "positive"]
