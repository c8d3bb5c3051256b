"""The model card: what the Hub reads of it, and what it says to readers."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_of_theseus.pretrained.card import base_metadata, hub_id, to_yaml, write_card

yaml = pytest.importorskip("yaml")

ROWS = [
    {"model": "predecessor", "layers": 12, "parameters": 110_000_000, "score": 0.93}
    | {"test_score": 0.92, "kept": 1.0, "latency_ms": 30.0},
    {"model": "theseus", "layers": 6, "parameters": 66_000_000, "score": 0.91}
    | {"test_score": 0.9, "kept": 0.9 / 0.92, "latency_ms": 15.0, "cpu_seconds": 60.0},
    {"model": "successor", "layers": 6, "parameters": 66_000_000, "score": 0.92}
    | {"test_score": 0.91, "kept": 0.91 / 0.92, "latency_ms": 15.0, "cpu_seconds": 30.0},
]
STAGE = {"epochs": 3, "learning_rate": 1e-4}
SETTINGS = {
    "stages": {
        "predecessor": None,
        "warm_start": {**STAGE, "steps": 2000},
        "theseus": STAGE,
        "successor": {**STAGE, "epochs": 1},
    },
    "batch_size": 32,
    "seed": 7,
    "keras": "keras 3.15.0 on torch",
    "machine": "Linux x86_64, 2 CPU cores",
    "versions": {"bert-of-theseus": "0.1.0", "python": "3.11.7"},
    "command": ["/usr/bin/bert-of-theseus", "compress", "my model", "--layers", "6"],
}
SEARCH = {
    "num_hidden_layers": 6,
    "met": True,
    "reason": "6 layers kept 98.92 % (95.00 % were asked for); 5 layers kept 90.00 %.",
    "rows": [
        {"layers": 5, "milliseconds": 4.0, "score": 0.83, "kept": 0.9, "chosen": False},
        {"layers": 6, "milliseconds": 5.0, "score": 0.92, "kept": 0.9892, "chosen": True},
    ],
    "timed": "5.00 ms: an ONNX file in ONNX Runtime",
}
FACTS = {
    "predecessor": {"name": "my-model", "hub_id": None, "layers": 12},
    "task": {"kind": "classification", "metric": "accuracy", "labels": ["neg", "pos"]},
    "texts": {"train": 9000, "validation": 1000, "test": 500},
    "files": {"train": "train.csv", "test": "test.csv"},
    "has_labels": True,
    "pairs": False,
    "max_length": 128,
}


@pytest.fixture
def card(tmp_path):
    """Writes a card: its data, read as the Hub's library does, and its text."""
    hub = pytest.importorskip("huggingface_hub")
    folder = tmp_path / "small"

    def write(beside=(), config=None, report=None, **facts):
        for name in beside:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", **(config or {})}))
        report = {"rows": ROWS, "settings": SETTINGS, "search": None, **(report or {})}
        write_card(folder, json.loads(json.dumps(report)), {**FACTS, **facts})
        assert (folder / "README.md").read_bytes().endswith(b".\n")
        loaded = hub.ModelCard.load(folder / "README.md")
        return loaded.data, loaded.text

    return write


def test_what_the_hub_reads(card):
    data, text = card()
    assert data.to_dict().keys() == {
        *("library_name", "pipeline_tag", "tags", "metrics", "model-index")
    }
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert data.metrics == ["accuracy"] and data.tags == ["bert-of-theseus", "model-compression"]
    assert data.model_name == "small"
    found = [
        (r.task_type, r.dataset_name, r.dataset_split, r.metric_type, r.metric_value)
        for r in data.eval_results
    ]
    assert found == [
        ("text-classification", "test.csv", "test", "accuracy", 0.91),
        ("text-classification", "a part of train.csv", "validation", "accuracy", 0.92),
    ]
    for said in (
        "# small\n\nA BERT of 6 layers that puts texts into classes.",
        "It was compressed from my-model, which has 12 layers, with [BERT-of-Theseus]",
        "| successor, fine-tuned   |      6 |",
        "`neg`, `pos`",
        "- 9,000 texts to train on (train.csv)\n- 1,000 texts to choose the weights by (a part of ",
        "warm start, by the predecessor's hidden states, without labels: 3 epochs, "
        "at most 2,000 steps, learning rate",
        "3 epochs, learning rate 0.0001, batches of 32",
        "1 epoch, learning rate",
        "bert-of-theseus 0.1.0, keras 3.15.0 on torch, Python 3.11.7, Linux x86_64",
        "```sh\nbert-of-theseus compress 'my model' --layers 6\n```",
        "One test text more or less is 0.2 points of accuracy.",
    ):
        assert said in text, said
    for unsaid in ("onnx", "ONNX", "search", "agreement"):
        assert unsaid not in text


def test_how_sure_the_figures_are(card):
    told = {"num_examples": 500, "difference": -0.01, "kept_interval": [0.97, 1.003]}
    sure = [*ROWS[:2], ROWS[2] | told | {"difference_interval": [-0.025, 0.003]}]
    _, text = card(report={"rows": sure})
    assert "| 97.0% to 100.3% |" in text
    assert "on 500 test examples" in text
    assert "successor, fine-tuned: -0.0100 (-0.0250 to 0.0030), within noise." in text
    _, text = card()  # of a report that does not know
    assert "noise" not in text and "interval" not in text


def test_what_is_known_of_the_base_model(card, tmp_path):
    predecessor = {"name": "abc", "hub_id": "org/model", "layers": 12, "license": "mit"}
    data, text = card(predecessor={**predecessor, "language": ["en", "de"]})
    assert (data.base_model, data.license, data.language) == ("org/model", "mit", ["en", "de"])
    assert "compressed from org/model, which has 12 layers" in text
    for content, found in (
        (None, {}),
        ("no front matter\n\nlicense: mit\n", {}),
        ("---\ntags:\n- x\n---\nlicense: mit\n", {}),
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n",
         {"license": "apache-2.0", "language": "en"}),
        ("---\r\nlicense: 'mit'\r\nlanguage:\r\n- zh\r\n- en\r\ntags: [a]\r\n---\r\n",
         {"license": "mit", "language": ["zh", "en"]}),
        ("---\nlanguage:\n  - en\n  - de\n---", {"language": ["en", "de"]}),
        ("---\nlicense: other\nlicense_name: llama3\nlicense_link: https://a.b/c#d\n---\n",
         {"license": "other", "license_name": "llama3", "license_link": "https://a.b/c#d"}),
        ("---\nlicense: [mit, gpl]\nlanguage: {}\n---\n", {}),
    ):  # fmt: skip
        if content is not None:
            (tmp_path / "README.md").write_bytes(content.encode())
        assert base_metadata(tmp_path) == found, content
    cached = tmp_path / "hub" / "models--dbmdz--bert-large-cased" / "snapshots" / "0a1b2c"
    assert hub_id(cached) == "dbmdz/bert-large-cased"
    assert hub_id(tmp_path) is None


def test_agreement_is_no_score(card):
    data, text = card(has_labels=False, texts={**FACTS["texts"], "unlabeled": 5})
    assert data.metrics is None and data.eval_results is None
    assert "| agreement with the predecessor, validation |" in text
    assert "The texts had no labels." in text and "was not measured" in text


def test_every_kind_of_task(card):
    for kind, metric, pipeline, hubs in (
        ("classification", "matthews", "text-classification", "matthews_correlation"),
        ("multi-label", "micro_f1", "text-classification", "f1"),
        ("regression", "pearson", "text-classification", "pearsonr"),
        ("tagging", "f1", "token-classification", "f1"),
    ):
        data, text = card(task={"kind": kind, "metric": metric, "labels": ["a"]})
        assert (data.pipeline_tag, data.metrics) == (pipeline, [hubs])
        assert f'pipeline("{pipeline}", model="small")' in text
        assert ("top_k=None" in text) == (kind == "multi-label")
        assert ("## Labels" in text) == (kind != "regression")
    _, text = card(pairs=True)
    assert '"text_pair": "..."' in text and '.predict([("...", "...")])' in text


def test_onnx_files_that_are_there(card):
    data, text = card(beside=["onnx/model.onnx"])
    assert {"onnx", "transformers.js"} <= set(data.tags)
    assert "`onnx/model.onnx` are" in text and "int8" not in text
    _, text = card(beside=["onnx/model.onnx", "onnx/model_quantized.onnx"])
    assert "That of `model_quantized.onnx` was not measured" in text


def test_a_search_and_a_call_in_python(card):
    settings = {**SETTINGS, "command": ["notebook.py"]}
    _, text = card(report={"search": SEARCH, "settings": settings})
    assert (
        SEARCH["reason"] in text
        and "|      6 |        5.00 |     0.9200 | 98.92% | chosen |" in text
    )
    assert "chose the weights and the number of layers" in text and SEARCH["timed"] in text
    assert "```sh" not in text and "notebook" not in text


def test_names_that_mean_something_to_markdown_and_yaml(card, tmp_path):
    names = ["a`b", "*c*", "d\ne", "", 'f"g', "h: i", "😀 #", "\u2028", "- j", "yes", "`"]
    data, text = card(
        task={**FACTS["task"], "labels": names},
        files={"train": "*[x](y)\n---\n: {z}.csv"},
        predecessor={**FACTS["predecessor"], "name": "<b>_m_"},
    )
    assert data.eval_results[0].dataset_name == "a part of *[x](y)\n---\n: {z}.csv"
    assert '``a`b``, `*c*`, `d e`, ` `, `f"g`' in text and "`` ` ``" in text
    assert r"compressed from \<b\>\_m\_," in text and r"(\*\[x\](y) --- : {z}.csv)" in text
    _, text = card(task={**FACTS["task"], "labels": [f"label {n}" for n in range(60)]})
    assert "`label 49`, and 10 more in config.json" in text
    command = ["bert-of-theseus", "compress", "```"]
    _, text = card(report={"settings": {**SETTINGS, "command": command}})
    assert f"````sh\n{shlex.join(command)}\n````" in text


scalars = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))


def maps(inner):
    return st.dictionaries(st.text("ab-_", min_size=1), inner, min_size=1)


values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(st.one_of(scalars, maps(inner)), min_size=1),
        maps(inner),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["license", "tags", "model-index"]), values, min_size=1))
def test_yaml_is_read_as_it_was_meant(value):
    found = yaml.safe_load(to_yaml(value))
    # YAML 1.1 takes 1e-07 for a string.
    assert json.dumps(found) == json.dumps(value) or any(
        isinstance(leaf, float) for leaf in leaves(value)
    )


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list) else [value]


def test_how_the_stages_went(card):
    note = "The successor stage never beat its start: the best val_f1 is the one of its start."
    assert f"\n- {note}\n" in card(report={"notes": [note]})[1]
    assert "stage" not in card()[1].split("## What was measured")[1]
