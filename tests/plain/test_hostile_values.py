"""Hostile values in each file of a model's folder: an answer, or one line that names the folder."""

import itertools
import json
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import tiny_onnx
from limits import memory_limit

from bert_of_theseus.__main__ import main
from bert_of_theseus.checkpoints import find_checkpoint, read_task
from bert_of_theseus.commands.running import run_command
from bert_of_theseus.data import Tokenizer
from scripts import iflytek

VALUES = [
    *("null", "true", "false", "0", "1", "-1", "7", "1.5", "-0.0", "1e400", "NaN", "-Infinity"),
    *("1000000000", str(2**63), str(10**40), "9" * 5000),
    *('""', '"x"', '"7"', '"天"', r'"\ud800"', r'"\u0000"', '"../../etc/passwd"', '"\\n"'),
    json.dumps("a" * 10**6),
    *("[]", "[1]", '["x"]', "[[]]", "[null]", "[[1, 2], [3, 4]]", '["x", "x", 1]'),
    *("{}", '{"0": 0}', '{"a": {"b": []}}', '{"content": 1}', '{"type": "x"}', '{"": null}'),
    *("[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, "tru", "{", '{"a": 1} x', ""),
]
# Each file, and the keys in it that are set to each value.
KEYS = {
    "config.json": (
        *("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("intermediate_size", "max_position_embeddings", "id2label", "architectures", "pruned"),
        *("hidden_act", "pad_token_id", "type_vocab_size", "layer_norm_eps", "problem_type"),
        *("classifier_activation", "hidden_dropout_prob", "tokenizer_class", "auto_map"),
        *("quantization_config", "position_embedding_type", "num_labels", "label2id"),
    ),
    "tokenizer_config.json": (
        *("do_lower_case", "strip_accents", "tokenizer_class", "unk_token", "pad_token"),
        *("cls_token", "mask_token", "added_tokens_decoder", "additional_special_tokens"),
        *("extra_special_tokens", "model_input_names", "truncation_side", "padding_side"),
        *("model_max_length", "never_split", "wordpieces_prefix", "image_token"),
        *("tokenize_chinese_chars", "split_special_tokens", "name_or_path"),
    ),
    "special_tokens_map.json": ("unk_token", "sep_token", "additional_special_tokens", "other"),
    "added_tokens.json": ("x", "[UNK]", ""),
    "tokenizer.json": (
        *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer"),
        *("post_processor", "decoder", "model"),
    ),
    "checksums.json": ("config.json", "vocab.txt", "other"),
}
CASES = [
    (name, key, value)
    for name, keys in KEYS.items()
    for key in (None, *keys)  # None: the value in place of the whole file
    for value in VALUES
]
ALL = pytest.mark.slow


def case_name(case):
    return "-".join(str(part)[:20] for part in case)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny_onnx.write(tmp_path_factory.mktemp("hostile") / "model")
    for name in ("special_tokens_map.json", "added_tokens.json", "checksums.json"):
        (folder / name).write_text("{}")
    Tokenizer.from_folder(folder).save(folder.with_name("saved"))
    shutil.copy(folder.with_name("saved") / "tokenizer.json", folder)
    (folder.with_name("in.txt")).write_text("a b c\n天\n")
    return folder


def written(folder, name, key, value):
    """The content of a file with one value that is no JSON which Python would write."""
    if key is None:
        return value
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    content[key] = "HERE"
    return json.dumps(content).replace('"HERE"', value)


def check_line(said, folder, where):
    """One line that names what it is about, in words that somebody has written."""
    lines = [line for line in said.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, (where, said)
    assert lines[0].startswith("bert-of-theseus: error: "), (where, said)
    assert str(folder) in lines[0], (where, said)
    assert not re.search(r"\.py, line \d+\)", lines[0]), (where, said)
    assert len(lines[0]) < 2000, where


def predicted(folder, capsys, where):
    """Whether `predict` labelled both texts; an error is one line."""
    output = folder.with_name("out.jsonl")
    with memory_limit(2):
        status = main(["predict", *map(str, (folder, folder.with_name("in.txt")))]
                      + ["--output", str(output)])  # fmt: skip
    said = capsys.readouterr().err
    if status == 0:
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert len(rows) == 2 and all(0 <= row["probability"] <= 1 for row in rows), where
        return True
    assert status == 2, where
    check_line(said, folder, where)
    return False


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=ALL)])
def test_hostile_values(step, folder, capsys):
    counts = [0, 0]
    for name, key, value in CASES[::step]:
        whole = (folder / name).read_bytes()
        try:
            text = written(folder, name, key, value)
            (folder / name).write_text(text, encoding="utf-8")
            counts[predicted(folder, capsys, (name, key, value[:60]))] += 1
        finally:
            (folder / name).write_bytes(whole)
    with capsys.disabled():
        print(f"\n{sum(counts)} hostile values: {counts[0]} refused, {counts[1]} without effect")
    assert sum(counts) >= 300 // step and counts[0] > counts[1]


def tensors(header, data=b"\0" * 64, length=None):
    text = header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ENTRY = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}


def headers():
    """Contents of model.safetensors, of which none is a model."""
    for value in VALUES:
        yield tensors(value)
        yield tensors('{"bert.x": ' + value + "}")
        yield tensors('{"__metadata__": ' + value + "}")
        for key in ENTRY:
            entry = json.dumps({"bert.x": {**ENTRY, key: "HERE"}})
            yield tensors(entry.replace('"HERE"', value))
    whole = json.dumps({"bert.x": ENTRY})
    for length in (0, 1, 8, len(whole) - 1, len(whole) + 1, 2**31, 2**40, 2**63, 2**64 - 1):
        yield tensors(whole, length=length)
    for shape in ([2**32, 2**32], [2**62, 4], [10**9], [0], [-1, -16], [1] * 10_000):
        yield tensors(json.dumps({"bert.x": {**ENTRY, "shape": shape}}))
    for offsets in ([0, 2**63], [64, 0], [0, 65], [8, 72], [0], [0, 0, 0]):
        yield tensors(json.dumps({"bert.x": {**ENTRY, "data_offsets": offsets}}))
    yield from (b"", b"\0" * 7, b"\xff" * 64, whole.encode(), b"PK\x03\x04" + bytes(99))


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=ALL)])
def test_hostile_headers_of_weights(step, folder, tmp_path, capsys):
    shutil.copy(folder / "config.json", tmp_path)
    contents = list(headers())[::step]
    for content in contents:
        (tmp_path / "model.safetensors").write_bytes(content)
        with memory_limit(2), pytest.raises((ValueError, OSError)) as caught:
            read_task(find_checkpoint(tmp_path))
        assert str(tmp_path) in str(caught.value), content[:80]
    with capsys.disabled():
        print(f"\n{len(contents)} hostile headers, all refused")
    assert len(contents) >= 290 // step


LINES = [*(value.encode() for value in VALUES), b"\xff\xfe", b"\0", b'{"text": "\\ud800"}']
LINES += [b'{"text": ' + value.encode() + b"}" for value in VALUES]


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=ALL)])
@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "tsv", "txt"])
def test_hostile_lines(format, step, folder, tmp_path, capsys):
    """A line that cannot be used costs no other line, where lines stand alone."""
    path, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    good = b'{"text": "a"}' if format in ("jsonl", "json") else b"a"
    head = {"csv": b"text\n", "tsv": b"text\tid\n"}.get(format, b"")
    good += b"\t1" if format == "tsv" else b""
    for line in LINES[::step]:
        path.write_bytes(head + good + b"\n" + line.replace(b"\n", b" ") + b"\n" + good + b"\n")
        arguments = [folder, path, "--format", format, "--output", output]
        with memory_limit(2):
            status = main(["predict", *map(str, arguments)])
        said = capsys.readouterr().err
        rows = [json.loads(row) for row in output.read_text(encoding="utf-8").splitlines()]
        assert status in (0, 1, 2) and "Traceback" not in said, line[:60]
        assert rows or format == "json", line[:60]  # in which no line stands alone
        assert not re.search(r"\.py, line \d+\)", said), (line[:60], said[:2000])
        if status < 2:
            assert rows[0]["probability"] == rows[-1]["probability"], line[:60]
        if format in ("jsonl", "txt"):
            assert status < 2 and rows[-1]["line"] == 3, (line[:60], said[:2000])


@pytest.mark.parametrize("size", [2 * 10**6, pytest.param(50 * 10**6, marks=ALL)])
@pytest.mark.parametrize("word", ["a b ", "a", "天", "\u0301", " "])
def test_a_long_line_costs_no_other(word, size, folder, tmp_path, capsys):
    path, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    long = "b" + word * (size // len(word.encode()))
    path.write_text(f"a\n{long}\na\n", encoding="utf-8")
    with memory_limit(2):
        status = main(["predict", *map(str, (folder, path, "--output", output))])
    rows = [json.loads(row) for row in output.read_text(encoding="utf-8").splitlines()]
    said = capsys.readouterr().err
    assert rows[0]["line"] == 1 and rows[-1]["line"] == 3
    assert rows[0]["probability"] == rows[-1]["probability"]
    assert (status, len(rows)) in ((0, 3), (1, 2)), said
    assert status == 0 or "line 2: a text must have 1,000,000 characters at most" in said


STREAMS = [group for count in range(4) for group in itertools.combinations(range(3), count)]


@pytest.mark.parametrize("directory", ["model", "missing"])
@pytest.mark.parametrize(
    "streams", [*STREAMS[1:4], *(pytest.param(s, marks=ALL) for s in STREAMS[4:])]
)
def test_closed_streams(streams, directory, folder, tmp_path):
    """What runs as a service may have no stdin, stdout or stderr."""

    def close():
        for stream in streams:
            os.close(stream)

    output = tmp_path / "out.jsonl"
    paths = folder.with_name(directory), folder.with_name("in.txt"), "--output", output
    done = subprocess.run(
        [sys.executable, "-m", "bert_of_theseus", "predict", *map(str, paths)],
        capture_output=True, text=True, preexec_fn=close, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "Traceback" not in done.stderr and done.stdout == ""
    if directory == "missing":
        assert done.returncode == 2 and not output.exists()
        if 2 not in streams:
            check_line(done.stderr, folder.with_name(directory), streams)
    else:
        assert done.returncode == 0 and done.stderr == ""
        rows = [json.loads(row) for row in output.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == 2  # nothing else was written into the file


@pytest.mark.parametrize("name", ["model", "model.keras", "head.keras"])
def test_a_saved_model_is_not_opened_for_a_folder_of_ours(name, folder, tmp_path):
    """It is a program of TensorFlow's, which may write files."""
    code = f"""
import sys
from bert_of_theseus.checkpoints import find_checkpoint
from bert_of_theseus.deploy import Predictor, open_runtime

for read in (find_checkpoint, Predictor.load, open_runtime):
    try:
        read({str(tmp_path / name)!r})
        raise SystemExit(f"{{read}} opened it")
    except FileNotFoundError as error:
        assert "lacks what was looked for" in str(error) and {name!r} in str(error)
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    (tmp_path / name / "variables").mkdir(parents=True)
    (tmp_path / name / "saved_model.pb").write_bytes(b"\x08\x01")
    (tmp_path / name / "keras_metadata.pb").write_bytes(b"")
    (tmp_path / name / "variables" / "variables.index").write_bytes(b"")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def raised(error):
    def work():
        raise error

    return work


ERRORS = [
    RecursionError("maximum recursion depth exceeded"), MemoryError(), KeyError("x"), EOFError(),
    lzma.LZMAError("Corrupt"), zlib.error("Error -3"), zipfile.BadZipFile("no"), RuntimeError(),
    struct.error("unpack"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), AssertionError(),
    ValueError("a\nb" * 10**6), OSError(28, "No space", "/x/\udc80"), NotImplementedError(),
    ValueError("half of \ud83d"), IndexError(), AttributeError("x"), OverflowError("x"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_is_one_line(error, capsys):
    assert run_command("name", raised(error)) == 2
    said = capsys.readouterr().err
    assert said.startswith("name: error: ") and said.count("\n") == 1 and 14 < len(said) < 2000
    assert isinstance(error, (ValueError, OSError)) or type(error).__name__ in said or (
        str(error) or "memory"
    ) in said  # fmt: skip


@pytest.mark.parametrize("file", ["labels.json", "train.json", "dev.json"])
def test_hostile_corpora_of_a_script(file, tmp_path, capsys):
    whole = {
        "labels.json": '{"label": "0", "label_des": "a"}\n{"label": "1", "label_des": "b"}\n',
        **{
            name: "".join(f'{{"label": "{n % 2}", "sentence": "a{n}"}}\n' for n in range(20))
            for name in ("train.json", "dev.json")
        },
    }
    for name, content in whole.items():
        (tmp_path / name).write_text(content)
    arguments = ["--data-dir", tmp_path, "--bert-dir", tmp_path, "--output-dir", tmp_path / "out"]
    for value in VALUES:
        for content in (value, whole[file] + value, f'{{"label": {value}, "sentence": {value}}}'):
            (tmp_path / file).write_text(content + "\n", encoding="utf-8")
            assert iflytek.main([*map(str, arguments)]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and str(tmp_path) in said, (content[:80], said[:300])
            assert not re.search(r"\.py, line \d+\)", said), said[:2000]
