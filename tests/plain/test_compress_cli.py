"""`bert-of-theseus compress`, up to where Keras is loaded: what is wrong is said in one line."""

import json
import subprocess
import sys

import pytest
from damage import contents
from docs_blocks import ROOT, write_bert

from bert_of_theseus.__main__ import main
from bert_of_theseus.pretrained import compress_pretrained
from bert_of_theseus.pretrained.inputs import read_inputs

LABELS = ["bad", "good"]
ROWS = "text,label\na joy,good\ntwo hours,bad\nmy life,bad\nto watch,good\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    write_bert(folder / "model", labels=LABELS)
    (folder / "train.csv").write_text(ROWS)
    return folder


# What the file that is trained on holds, arguments, and what is said.
BAD_TEXTS = {
    "empty": ("", [], ["bad.csv", "empty"]),
    "header alone": ("text,label\n", [], ["bad.csv"]),
    "no text column": ("a,label\nx,good\n", [], ["bad.csv", "'a'", "'label'", "--text-column"]),
    "no label column": ("text,y\nx,good\n", [], ["bad.csv", "'y'", "--label-column"]),
    "no such column": (ROWS, ["--text-column", "body"], ["bad.csv", "'body'", "'text'"]),
    "no such label column": (ROWS, ["--label-column", "y"], ["bad.csv", "'y'", "'label'"]),
    "unknown label": (ROWS + "a joy,fine\n", [], ["bad.csv", "fine", "good", "Write the model's"]),
    "number of no label": ("text,label\na joy,1\nmy life,2\n", [], ["bad.csv", "2"]),
    "one class": ("text,label\na joy,good\nmy life,good\n", [], ["bad.csv", "good"]),
    "empty text": (ROWS + " ,good\n", [], ["bad.csv", "6", "text"]),
    "few": ("text,label\na joy,good\n", [], ["bad.csv"]),
    "pairs": (
        "a,b,label\na,my,good\nmy,life,bad\nlife,a joy,good\nto,a,bad\n",
        ["--text-column", "a", "--text-column", "b"],
        ["type_vocab_size"],
    ),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_texts(folder, tmp_path, capsys, name):
    text, more, words = BAD_TEXTS[name]
    model = folder / "model"
    if name == "pairs":
        model = tmp_path / "model"
        write_bert(model, labels=LABELS, type_vocab_size=1)
    (tmp_path / "bad.csv").write_text(text)
    refused(capsys, tmp_path, model, tmp_path / "bad.csv", more, words)


def test_half_an_emoji(folder, tmp_path, capsys):
    rows = [{"text": "a joy", "label": "good"}, {"text": "\ud83d", "label": "bad"}]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["bad.jsonl", "2", "Unicode"]
    refused(capsys, tmp_path, folder / "model", tmp_path / "bad.jsonl", [], words)


# Of the model's config, or what is done to its folder.
BAD_MODELS = {
    "decoder": ({"is_decoder": True}, ["is_decoder"]),
    "quantized": ({"quantization_config": {"bits": 4}}, ["quantiz"]),
    "family": ({"model_type": "gpt2"}, ["'gpt2'"]),
    "no head": ({"labels": ()}, ["head"]),
    "no weights": ("model.safetensors", ["model.safetensors"]),
    "no tokenizer": ("vocab.txt", ["vocab.txt"]),
    "one layer": ({"num_hidden_layers": 1}, ["one layer"]),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models(folder, tmp_path, capsys, name):
    change, words = BAD_MODELS[name]
    options = {"labels": LABELS, **(change if isinstance(change, dict) else {})}
    depth = options.pop("num_hidden_layers", 3)
    write_bert(tmp_path / "model", depth, **options)
    if isinstance(change, str):
        (tmp_path / "model" / change).unlink()
    refused(capsys, tmp_path, tmp_path / "model", folder / "train.csv", [], words)


def test_a_tokenizer_of_another_vocabulary(folder, tmp_path, capsys):
    write_bert(tmp_path / "model", labels=LABELS)
    with open(tmp_path / "model" / "vocab.txt", "a") as file:
        file.writelines(f"\nword{number}" for number in range(9))
    words = ["tokenizer", "27 tokens", "18"]
    refused(capsys, tmp_path, tmp_path / "model", folder / "train.csv", [], words)


BAD_ARGUMENTS = [
    (["--layers", "3"], ["num_hidden_layers", "3"]),
    (["--layers", "0"], ["--layers", "0"]),
    (["--layers", "six"], ["--layers", "six"]),
    (["--max-length", "513"], ["max_length", "512"]),
    (["--validation", "nowhere.csv"], ["nowhere.csv"]),
    (["--test", "nowhere.csv"], ["nowhere.csv"]),
    (["--learning-rate", "2"], ["--learning-rate", "2"]),
    (["--keep", "0.9"], ["--layers and a budget do not go together", "--keep"]),
    (["--speed"], ["no option --speed"]),
    (["--layer", "1"], ["no option --layer", "--layers?"]),
    (["--labels", "fine"], ["`labels`", "2 different names", "Received 1: fine"]),
    (["--labels", "fine", "fine"], ["`labels`", "2 different names"]),
    (["--labels", "dull", "fine"], ["`labels`", "names of its own, bad, good"]),
]


@pytest.mark.parametrize("more, words", BAD_ARGUMENTS, ids=lambda value: value[0])
def test_bad_arguments(folder, tmp_path, capsys, more, words):
    refused(capsys, tmp_path, folder / "model", folder / "train.csv", more, words)


def test_a_required_option_that_is_misspelt(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compress", "model", "--train", "train.csv", "--layers", "2", "--ouput", "small"])
    assert "there is no option --ouput; --output?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model", "train", "directory", "validation", "unlabeled"])
def test_what_is_no_path(folder, tmp_path, name):
    given = {"model": folder / "model", "train": folder / "train.csv", "directory": tmp_path / "x"}
    given[name] = ["a joy", "my life"]
    with pytest.raises(TypeError, match=f"`{name}` must be a path. Received: .'a joy'"):
        compress_pretrained(**given, num_hidden_layers=2)


def test_one_column_needs_no_list(folder, tmp_path):
    (tmp_path / "train.csv").write_text(ROWS.replace("text", "body", 1))
    inputs = read_inputs(folder / "model", tmp_path / "train.csv", text_columns="body")
    assert inputs.count("train") == read_inputs(folder / "model", folder / "train.csv").count(
        "train"
    )


def test_missing_folders_and_files(folder, tmp_path, capsys):
    refused(capsys, tmp_path, tmp_path / "none", folder / "train.csv", [], ["none", "missing"])
    refused(capsys, tmp_path, folder / "train.csv", folder / "train.csv", [], ["folder", "file"])
    refused(capsys, tmp_path, folder / "model", folder / "none.csv", [], ["none.csv"])


def test_places_for_the_output(folder, tmp_path, capsys):
    def output(place, words):
        more = ["--output", str(place)]
        refused(capsys, tmp_path, folder / "model", folder / "train.csv", more, words)

    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    output(tmp_path / "file", ["file", "folder"])
    output(tmp_path / "file" / "below", ["file", "folder"])
    output(tmp_path / "full", ["full", "not empty", "--overwrite", "overwrite=True"])
    output(folder / "model", ["model itself"])


def test_labels_for_a_model_without_names(folder, tmp_path, capsys):
    write_bert(tmp_path / "model", labels=["LABEL_0", "LABEL_1"])
    refused(capsys, tmp_path, tmp_path / "model", folder / "train.csv", [], ["no names", "labels"])
    inputs = read_inputs(tmp_path / "model", folder / "train.csv", labels=LABELS)
    assert inputs.head.labels == inputs.task.labels == LABELS
    assert sorted(inputs.texts["train"].labels) == [0, 1]


@pytest.mark.parametrize("texts", [1, 2])
def test_very_few_unlabeled_texts(folder, tmp_path, texts):
    (tmp_path / "more.txt").write_text("".join(["a life\n", "to watch my hours\n"][:texts]))
    more = {"unlabeled": tmp_path / "more.txt"}
    assert read_inputs(folder / "model", folder / "train.csv", **more).count("unlabeled") == texts


def refused(capsys, place, model, train, more, words):
    """The command ends with status 2 and one line that has all `words`, and writes nothing."""
    before = contents(place)
    arguments = ["compress", str(model), "--train", str(train), "--layers", "2"]
    try:
        status = main([*arguments, "--output", str(place / "small"), *more])
    except SystemExit as end:  # argparse's
        status = end.code
    out, error = capsys.readouterr()
    assert status == 2, out
    assert error.startswith("bert-of-theseus") and error.count("\n") == 1, error
    assert not [word for word in words if word not in error], error
    assert contents(place) == before


def test_nothing_heavy_is_loaded_before_all_is_checked(folder, tmp_path):
    arguments = [
        "compress",
        str(folder / "model"),
        "--layers",
        "2",
        "--output",
        str(tmp_path / "x"),
    ]
    code = "import sys; from bert_of_theseus.__main__ import main\n"
    code += f"try: status = main({arguments} + sys.argv[1:])\n"
    code += "finally: print(*sys.modules)\nassert status == 2"
    (tmp_path / "bad.csv").write_text(ROWS + "a joy,fine\n")
    done = subprocess.run(
        [sys.executable, "-c", code, "--train", str(tmp_path / "bad.csv")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0 and "fine" in done.stderr, done.stderr
    assert not {"keras", "tf_keras", "tensorflow", "torch", "jax"} & set(done.stdout.split())
