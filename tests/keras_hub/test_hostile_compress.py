"""`compress` and `export` on hostile values: a result, or one line that names the folder."""

import shutil
import sys
from pathlib import Path

import pytest
import tiny_transformers
from limits import memory_limit

sys.path.append(str(Path(__file__).parents[1] / "plain"))
from test_hostile_values import CASES, check_line, written

from bert_of_theseus.__main__ import main

COMMANDS = {
    "compress": ["--layers", "1", "--dry-run", "--train"],
    "export": [],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "model"
    tiny_transformers.write(folder, "bert")
    for name in ("special_tokens_map.json", "added_tokens.json", "checksums.json"):
        (folder / name).write_text("{}")
    rows = [f"{text},{tiny_transformers.LABELS[n % 3]}" for n, text in
            enumerate(tiny_transformers.texts(40))]  # fmt: skip
    folder.with_name("train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return folder


@pytest.mark.only("torch")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("step", [601, pytest.param(23, marks=pytest.mark.slow)])
def test_hostile_values(step, command, folder, capsys):
    output, train = folder.with_name("out"), folder.with_name("train.csv")
    arguments = [command, str(folder), *COMMANDS[command]]
    if command == "compress":
        arguments += [str(train), "--output", str(output)]
    assert main(arguments) == 0
    (folder / "checksums.json").write_text("{}")
    capsys.readouterr()
    counts = [0, 0]
    for name, key, value in CASES[::step]:
        whole = (folder / name).read_bytes()
        try:
            (folder / name).write_text(written(folder, name, key, value), encoding="utf-8")
            with memory_limit(4):
                status = main(arguments)
        finally:
            (folder / name).write_bytes(whole)
        said = capsys.readouterr().err
        counts[status == 0] += 1
        if status:
            assert status == 2
            check_line(said, folder, (name, key, value[:60]))
        assert not output.exists()  # a dry run
        shutil.rmtree(folder / "onnx", ignore_errors=True)
    with capsys.disabled():
        print(f"\n{command}: {counts[0]} refused, {counts[1]} done")
    assert counts[0]
