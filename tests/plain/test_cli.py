"""`python -m bert_of_theseus predict`, as real processes over a tiny model.onnx."""

import csv
import gzip
import io
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_onnx
from tiny_onnx import LABELS

import bert_of_theseus
from bert_of_theseus import Predictor
from bert_of_theseus.__main__ import main

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


def test_help_imports_nothing_heavy_and_teaches():
    code = "import sys, runpy\nsys.argv = ['x', *sys.argv[1:]]\ntry: runpy.run_module("
    code += "'bert_of_theseus', run_name='__main__')\nfinally: print(*sys.modules, file=sys.stderr)"
    for arguments, words in (
        (["--help"], ["predict", "examples:"]),
        (["predict", "--help"], ["DIR", "--text-column", "Exit status", "examples:"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0
        assert all(word in done.stdout for word in words)
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


TABLE = 'id,text,label\n1,"a good, film",pos\n2,"two\nlines",neg\n3,c,pos\n'
ROWS = [{"id": i, "text": text, "label": "x"} for i, text in enumerate(["a b", "c\u2028d", "天"])]


def labelled(folder, path, *arguments):
    """Exit status, and the rows that are written, in this process."""
    output = path.with_name("out.jsonl")
    status = main(["predict", folder, *map(str, arguments), str(path), "--output", str(output)])
    return status, [
        json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]
    ]


def test_tables(folder, predictor, tmp_path, capsys):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "reviews.csv"
    for content in (TABLE, "\ufeff" + TABLE.replace("\n", "\r\n"), TABLE.replace(",", ";")):
        path.write_text(content, encoding="utf-8", newline="")
        expected = predictor.predict([row["text"] for row in csv.DictReader(io.StringIO(content))]
                                     if ";" not in content else ["a good; film", "c"])  # fmt: skip
        status, rows = labelled(folder, path, "--echo")
        assert status == 0
        if ";" not in content:
            assert [row["row"] for row in rows] == [1, 2, 3]
            assert [row["input"]["id"] for row in rows] == ["1", "2", "3"]
            assert [row["label"] for row in rows] == [row["label"] for row in expected]
    contents = {
        "a.jsonl": "\n".join(map(json.dumps, ROWS)),
        "a.json": json.dumps(ROWS, indent=2),
        "b.json": "".join(json.dumps(row, indent=2) for row in ROWS),
        "a.tsv": "id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in ROWS),
        "a.txt": "\n".join(row["text"] for row in ROWS),
        "no_suffix": "\n".join(row["text"] for row in ROWS),
    }
    paths = [tmp_path / name for name in contents]
    for path, content in zip(paths, contents.values()):
        path.write_text(content, encoding="utf-8")
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    expected = predictor.predict([row["text"] for row in ROWS])
    for path in [*paths, packed, tmp_path / "a.parquet"]:
        status, rows = labelled(folder, path)
        key = "line" if path.suffix in (".jsonl", ".txt", "") else "row"
        assert [row[key] for row in rows] == [1, 2, 3], path
        assert [row["label"] for row in rows] == [row["label"] for row in expected]
    assert capsys.readouterr() == ("", "")


def test_columns_by_name_and_number(folder, predictor, tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("x,p,h\n1,a b,c d\n")
    pair = labelled(folder, path, "--text-column", "p", "--text-column", "h")[1]
    assert pair[0]["label"] == predictor.predict([("a b", "c d")])[0]["label"]
    assert labelled(folder, path, "--field", "h")[1][0]["label"] == predictor("c d")["label"]
    assert labelled(folder, path, "--text-column", "2")[0] == 0  # no header is expected then
    path.write_text("x|a b\n")
    (row,) = labelled(folder, path, "--text-column", "2", "--delimiter", "|", "--echo")[1]
    assert row["input"] == {"1": "x", "2": "a b"}
    # As lines of text, if that is what is asked for.
    assert labelled(folder, path, "--format", "txt", "--echo")[1][0]["input"] == "x|a b"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name, content, problem, written", [
    ("a.csv", "text,label\na,b\nc\n\nd,e\n", "row 2 (line 3): has 1 fields", [1, 3]),
    ("a.csv", 'text,label\na,b\n"c"c,d\ne,f\n', "row 2 (line 3): bad quotation marks", [1, 3]),
    ("a.csv", "stars,label\na,b\n", "a.csv: no column is known to hold texts", None),
    ("a.csv", "text,title\na,b\n", "a.csv: several may hold the texts", None),
    ("a.csv", "text,text\na,b\n", "a.csv: the header has column 'text' twice", None),
    ("a.csv", "text,a;b\na,b\n", "a.csv: line 1 may be separated by", None),
    ("a.json", '[{"text": "a"}, {"text": 1}, {"text": "b"}]', "row 2: column 'text'", [1, 3]),
    ("a.json", '[{"text": "a"}, {"text": "b"}', "a.json: row 3: not JSON", [1, 2]),
    ("a.json.gz", "[]", "a.json.gz is no whole gzip file", None),
    ("a.parquet", "PAR1", "a.parquet is no Parquet file", None),
])  # fmt: skip
def test_bad_tables(folder, tmp_path, capsys, name, content, problem, written):
    (tmp_path / name).write_text(content)
    status, rows = labelled(folder, tmp_path / name)
    error = capsys.readouterr().err
    assert problem in error and "Traceback" not in error
    # What is there before a file breaks off is labelled.
    assert [row["row"] for row in rows] == (written or [])
    assert status == (1 if "(line 3)" in problem or "row 2:" in problem else 2)


def test_the_file_may_stand_anywhere(folder, tmp_path):
    (tmp_path / "a.txt").write_text("a b\n")
    path, output = str(tmp_path / "a.txt"), ["--output", str(tmp_path / "out")]
    for arguments in (
        [folder, "--kind", "onnx", path, *output],
        [*output, folder, path, "--top", "1"],
        [folder, *output, "--kind", "onnx", path],
        ["--kind", "onnx", folder, path, *output],
    ):
        assert main(["predict", *arguments]) == 0
        assert json.loads((tmp_path / "out").read_text())["line"] == 1
        (tmp_path / "out").unlink()


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
    b"{}": "no column is known to hold texts",
    b'{"sentence": 3}': "column 'sentence' must be a string, received int",
    b'{"text": null}': "column 'text' must be a string, received nothing",
    b'{"text": " "}': "column 'text' is empty",
    b'{"text": "a", "title": "b"}': "several may hold the texts",
    b'{"text": "\\ud800"}': "column 'text' is not valid Unicode",
    b"[" * 100_000: "not JSON",
    b'{"text": "a", "n": ' + b"1" * 5000 + b"}": "not JSON",
    b'{"text": "a", "n": NaN}': "not JSON: NaN is no number",
    b'{"text": "a", "n": -Infinity}': "not JSON: -Infinity is no number",
    b'{"text": "a", "n": 1e999}': "not JSON: 1e999 is too large",
    b"\xff": "not UTF-8",
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
    (["nowhere"], "'nowhere' must be the folder of a model; it is missing"),
    (["DIR", "nowhere.txt"], "there is no file of texts 'nowhere.txt'"),
    (["DIR", "."], "'.' is a folder. The file of texts comes after the model's folder"),
    (["DIR", "--output", "nowhere/out"], "--output nowhere/out: there is no folder "),
    (["DIR", "--kind", "h5"], "one of onnx, tflite"),
    (["DIR", "--kind", "tflite"], "lacks what was looked for: model.tflite"),
    (["DIR", "--max-length", "33"], "at most 32"),
    (["DIR", "--max-length", "0"], "at least 1, received '0'"),
    (["DIR", "--batch-size", "many"], "received 'many'"),
    (["DIR", "--pairs", "--jsonl"], "--pairs is for lines of text"),
    (["DIR", "--format", "txt", "--text-column", "a"], "lines of text have no columns"),
    (["DIR", "--format", "parquet"], "Parquet must be a file, not stdin"),
    (["DIR", "a.conll"], "a.conll: texts must be of the formats csv, tsv, jsonl, json, parquet"),
    (["DIR", "--format", "xml"], "invalid choice: 'xml'"),
    (["DIR", "--threads", "100000"], "expected at most"),
    (["DIR", "--output", "labels.csv"], "labels.csv: results are JSON lines"),
    (["DIR", "--delimiter", "::"], "expected one character"),
    (["DIR", "a", "--top", "1", "b"], "unrecognized arguments: b"),
    (["DIR", "--field", "a", "--field", "b", "--field", "c"], "one text or two"),
    (["DIR", "--speed"], "there is no option --speed ("),
    (["DIR", "--kin", "onnx"], "there is no option --kin; --kind?"),
    (["--ouput=labels.jsonl"], "there is no option --ouput; --output?"),
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
def test_a_full_disk(folder, tmp_path):
    status, _, errors = run("predict", folder, "--output", "/dev/full", text=b"a\n")
    assert status == 2
    assert errors[-1].endswith("/dev/full cannot be written: No space left on device")
    # A limit on the size of files is met in the middle of a line.
    resource, output = pytest.importorskip("resource"), tmp_path / "out.jsonl"
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))}
    status, _, errors = run("predict", folder, "--output", output, text=b"a b\n" * 999, **limited)
    assert status == 2 and errors == [f"bert-of-theseus: error: [Errno 27] {output} cannot be "
                                      "written: File too large"]  # fmt: skip
    lines = output.read_text().split("\n")
    assert lines[-1] == "" and 9_000 < output.stat().st_size <= 10_000
    assert [json.loads(line)["line"] for line in lines[:-1]] == list(range(1, len(lines)))


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed as POSIX does")
def test_closed_streams(folder):
    for number, problem in ((0, "stdin is closed"), (1, "stdout is closed"), (2, None)):
        closed = {"preexec_fn": lambda number=number: os.close(number)}
        status, rows, errors = run("predict", folder, text=b"a\n\n", **closed)
        assert (status, len(rows)) == ((2, 0) if problem else (1, 1))
        if problem:
            assert len(errors) == 1 and problem in errors[0]


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
