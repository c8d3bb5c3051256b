"""`python -m bert_of_theseus predict`, as real processes over a tiny model.onnx."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_onnx
from tiny_onnx import LABELS

import bert_of_theseus
from bert_of_theseus import Predictor

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "bert_of_theseus"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_onnx.write(tmp_path_factory.mktemp("saved") / "model"))


@pytest.fixture(scope="module")
def predictor(folder):
    return Predictor.load(folder)


def run(*arguments, text=b"", **options):
    """Exit status, the rows on stdout, and the lines on stderr."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], input=text, capture_output=True, cwd=ROOT, **options
    )
    rows = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
    return done.returncode, rows, done.stderr.decode().splitlines()


def start(*arguments, **options):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=ROOT, **{**pipes, **options})


def test_help_answers_at_once_and_teaches():
    code = "import sys, runpy\nsys.argv = ['x', *sys.argv[1:]]\ntry: runpy.run_module("
    code += "'bert_of_theseus', run_name='__main__')\nfinally: print(*sys.modules, file=sys.stderr)"
    for arguments, words in (
        (["--help"], ["predict", "examples:"]),
        (["predict", "--help"], ["DIR", "--jsonl", "Exit status", "examples:"]),
    ):
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
            )
            times.append(time.perf_counter() - begin)
        assert done.returncode == 0
        assert all(word in done.stdout for word in words)
        assert min(times) < 1
        heavy = {"tensorflow", "keras", "tf_keras", "numpy", "tokenizers", "onnxruntime"}
        assert not heavy & set(done.stderr.split())


def test_version_and_no_command():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == f"bert-of-theseus {bert_of_theseus.__version__}"
    done = subprocess.run(COMMAND, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "COMMAND" in done.stderr


def test_lines_of_text(folder, predictor, tmp_path):
    # Lines end at a newline only, of Windows too, and the last one may have none.
    lines = ["a b c", "d\u2028e", "f\x0bg\x85h", "天 \ufeff", "x y z"]
    text = "\ufeffa b c\r\n" + "\n".join(lines[1:])
    (tmp_path / "in.txt").write_bytes(text.encode())
    status, rows, errors = run("predict", folder, text=text.encode())
    assert (status, errors) == (0, [])
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5]
    for line, row in zip(lines, rows):
        expected = predictor.predict(line)
        assert row["label"] == expected["label"]
        assert list(row["probabilities"]) == list(expected["probabilities"])
        for label, p in expected["probabilities"].items():
            assert abs(row["probabilities"][label] - p) < 2e-6
    for arguments in ([tmp_path / "in.txt"], ["-"], ["--batch-size", 2], ["--threads", 1]):
        found = run("predict", folder, *arguments, text=text.encode())[1]
        assert [row["label"] for row in found] == [row["label"] for row in rows]
    status, echoed, _ = run("predict", folder, "--echo", "--top", 1, text=text.encode())
    assert [row["input"] for row in echoed] == lines
    assert [row["probabilities"] for row in echoed] == [
        {row["label"]: row["probability"]} for row in rows
    ]


def test_output_file(folder, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("old")
    status, rows, errors = run("predict", folder, "--output", output, text="a\n天\n".encode())
    assert (status, rows, errors) == (0, [], [])
    written = output.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in written] == [1, 2]
    assert "好" in written[0]  # readable, not escaped
    before = output.read_bytes()
    for arguments in ([output], ["-"]):
        with open(output, "rb") as file:
            done = subprocess.run(
                [*COMMAND, "predict", folder, *arguments, "--output", output],
                stdin=file, capture_output=True, text=True, cwd=ROOT,
            )  # fmt: skip
        assert done.returncode == 2 and "is the file that is read" in done.stderr
    assert output.read_bytes() == before


def test_json_lines(folder, predictor):
    rows = [{"text": "a b", "id": 7}, {"sentence": "c 天"}, {"text": "d\u2028", "label": "x"}]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    status, found, errors = run("predict", folder, "--jsonl", "--echo", text=text.encode())
    assert (status, errors) == (0, [])
    assert [row["input"] for row in found] == rows
    expected = predictor.predict(["a b", "c 天", "d"])
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    # A field of one's own; two make a pair.
    pairs = [("a b", "c d"), ("x y", "z")]
    text = "\n".join(json.dumps({"p": p, "h": h}) for p, h in pairs)
    for fields, texts in ((["p", "h"], pairs), (["h"], [h for _, h in pairs])):
        arguments = [part for field in fields for part in ("--field", field)]
        found = run("predict", folder, *arguments, text=text.encode())[1]
        expected = predictor.predict(texts)
        for row, other in zip(found, expected, strict=True):
            assert abs(row["probability"] - other["probability"]) < 2e-6
    found = run("predict", folder, "--pairs", text=b"a b\tc d\nx y\tz\n")[1]
    expected = predictor.predict(pairs)
    assert [row["label"] for row in found] == [row["label"] for row in expected]


BAD_TEXT = {
    b"": "empty",
    b" \t ": "empty",
    b"\r": "empty",
    b"a \xff": "not UTF-8: invalid start byte at byte 3",
    b"\xed\xa0\x80": "not UTF-8",
}
BAD_JSON = {
    b"": "empty",
    b"{": "not JSON: ",
    b"[1]": "expected a JSON object, received list",
    b"null": "expected a JSON object, received NoneType",
    b"{}": "no field 'text or sentence'",
    b'{"sentence": 3}': "field 'sentence' must be a string, received int",
    b'{"text": null}': "field 'text' must be a string, received NoneType",
    b'{"text": " "}': "field 'text' is empty",
    b'{"text": "\\ud800"}': "field 'text' is not valid Unicode",
    b"[" * 100_000: "not JSON",
    b'{"text": "a", "n": ' + b"1" * 5000 + b"}": "not JSON",
    b"\xff": "not UTF-8",
    b"NaN": "expected a JSON object, received float",
}
BAD_PAIRS = {
    b"a": "expected two texts with a tab between, received 1",
    b"a\tb\tc": "expected two texts with a tab between, received 3",
}


@pytest.mark.parametrize("options, good, bad", [
    ([], b"a b", BAD_TEXT),
    (["--jsonl"], b'{"text": "a b"}', BAD_JSON),
    (["--pairs"], b"a\tb", BAD_PAIRS),
], ids=["text", "jsonl", "pairs"])  # fmt: skip
def test_bad_lines_are_named_and_the_rest_goes_on(folder, options, good, bad):
    lines = [line for pair in zip([good] * len(bad), bad) for line in pair] + [good]
    status, rows, errors = run("predict", folder, *options, text=b"\n".join(lines) + b"\n")
    assert status == 1
    assert [row["line"] for row in rows] == list(range(1, len(lines) + 1, 2))
    for number, message in zip(range(2, len(lines), 2), bad.values()):
        assert any(error.startswith(f"line {number}: {message}") for error in errors), number
    assert errors[-1] == f"{len(bad)} of {len(lines)} lines could not be used."
    assert len(errors) == len(bad) + 1


def test_nothing_to_read(folder):
    assert run("predict", folder) == (0, [], [])
    assert run("predict", folder, text=b"\n")[0] == 1


def test_long_texts_are_said_once(folder):
    text = b"a " * 100 + b"\n"
    status, rows, errors = run("predict", folder, "--batch-size", 1, text=text * 50)
    assert status == 0 and len(rows) == 50
    assert len(errors) == 1 and errors[0].startswith("warning: A text is longer than 32 tokens")


def test_taggers_and_other_outputs(tmp_path):
    tagger = tiny_onnx.write(tmp_path / "a", tags=True)
    _, (row,), _ = run("predict", tagger, "--echo", text="a 天\n".encode())
    for token in row["tokens"]:
        assert row["input"][token["start"] : token["end"]] == token["text"]
        assert token["label"] in LABELS
    status, _, errors = run("predict", tagger, "--pairs", text=b"a\tb\n")
    assert status == 2 and "tags tokens" in errors[-1]
    several = tiny_onnx.write(tmp_path / "b", classifier_activation="sigmoid")
    _, (row,), _ = run("predict", several, "--top", 2, text=b"a b\n")
    assert row.keys() == {"line", "labels", "probabilities"} and len(row["probabilities"]) == 2


@pytest.mark.parametrize("arguments, message", [
    (["nowhere"], "'nowhere' must be a checkpoint folder; it is missing"),
    (["DIR", "nowhere.txt"], "No such file or directory: 'nowhere.txt'"),
    (["DIR", "."], "Is a directory"),
    (["DIR", "--output", "nowhere/out"], "No such file or directory: 'nowhere/out'"),
    (["DIR", "--kind", "h5"], "one of onnx, tflite"),
    (["DIR", "--kind", "tflite"], "lacks what was looked for: model.tflite"),
    (["DIR", "--max-length", "33"], "at most 32"),
    (["DIR", "--max-length", "0"], "at least 1, received '0'"),
    (["DIR", "--batch-size", "many"], "received 'many'"),
    (["DIR", "--pairs", "--jsonl"], "--pairs is for lines of text"),
    (["DIR", "--field", "a", "--field", "b", "--field", "c"], "one text or two"),
    (["DIR", "--speed"], "unrecognized arguments: --speed"),
    ([], "required: DIR"),
])  # fmt: skip
def test_what_cannot_be_done(folder, arguments, message):
    arguments = [folder if argument == "DIR" else argument for argument in arguments]
    status, rows, errors = run("predict", *arguments, text=b"a\n")
    assert (status, rows) == (2, [])
    assert errors[-1].startswith("bert-of-theseus") and message in errors[-1]
    assert not any("Traceback" in error for error in errors)


def test_results_come_as_the_lines_do(folder):
    with start("predict", folder) as process:
        for number in (1, 2, 3):
            process.stdin.write(b"a b\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number
        process.stdin.write(b"no newline yet")
        process.stdin.close()
        assert json.loads(process.stdout.readline())["line"] == 4
        assert process.wait(30) == 0


def test_a_reader_that_has_seen_enough(folder):
    """`... | head -1`"""
    with start("predict", folder) as process:
        process.stdin.write(b"a b\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"a b\n" * 5000)
        process.stdin.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_ctrl_c(folder, tmp_path):
    with start("predict", folder) as process:
        process.stdin.write(b"a b\n")
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert json.loads(first)["line"] == 1
        assert process.stderr.read().decode().strip() == "bert-of-theseus: interrupted."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(folder):
    status, _, errors = run("predict", folder, "--output", "/dev/full", text=b"a\n")
    assert status == 2 and "No space left on device" in errors[-1]


@pytest.mark.slow
def test_progress_bar_on_a_terminal(folder, tmp_path):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    fcntl = pytest.importorskip("fcntl")
    source = tmp_path / "in.txt"
    source.write_bytes(b"a b\n\n" + b"c\n" * 500)
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with open(tmp_path / "out.jsonl", "wb") as output:
        process = start("predict", folder, source, stdout=output, stderr=child)
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # Linux' way to say that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait(30) == 1
    process.communicate()
    assert b"502/502" in shown and b"line 2: empty" in shown


# A process that is forked starts with its parent's peak, so a small one measures.
MEASURE = """
import os, subprocess, sys
with open(sys.argv[1], "wb") as output:
    process = subprocess.Popen(sys.argv[2:], stdout=output)
    _, status, usage = os.wait4(process.pid, 0)
print(status, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_lines(folder, tmp_path):
    """Short lines, 5,000 and 100,000 of them: at most 8 MiB more for the process, in all 200."""
    peaks = []
    for count in (5_000, 100_000):
        source, output = tmp_path / f"{count}.txt", tmp_path / "out.jsonl"
        with open(source, "w") as file:
            file.writelines(f"{'a b c d e f g h'[: 1 + n % 15]}\n" for n in range(count))
        command = [sys.executable, "-c", MEASURE, output, *COMMAND, "predict", folder, source]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        status, peak = done.stdout.split()
        assert status == "0", done.stderr
        with open(output, "rb") as file:
            assert sum(1 for _ in file) == count
        peaks.append(float(peak))
    assert peaks[1] - peaks[0] < 8
    assert 20 < peaks[1] < 200
