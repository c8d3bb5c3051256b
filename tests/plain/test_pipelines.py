"""benchmarks/pipelines.py: a real command, and what the tables say of figures that are known."""

from pathlib import Path

import pytest
import tiny_onnx

from bert_of_theseus import Predictor

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "pipelines.py"
TEXTS = ["a b", "c", "d e f", "天"]


@pytest.fixture(scope="module")
def pipelines(load_script):
    return load_script(SCRIPT)


@pytest.fixture
def folder(tmp_path):
    return tiny_onnx.write(tmp_path / "model", kinds=["onnx", "int8.onnx"])


def test_labels_and_times_are_those_of_the_command(pipelines, folder, tmp_path):
    args = pipelines.parse([str(folder), "--lines", "-", "--threads", "1"])
    first, *_ = pipelines.programs(args.folders, has_peers=False)
    figures = pipelines.run(first, args, TEXTS, tmp_path)
    assert figures.labels == [answer["label"] for answer in Predictor.load(folder).predict(TEXTS)]
    assert figures.wall > 0 and figures.cpu > 0


def test_a_command_that_fails_ends_the_benchmark(pipelines, folder, tmp_path):
    args = pipelines.parse([str(folder), "--lines", "-", "--threads", "1"])
    program = pipelines.Program("bert_of_theseus predict", tmp_path / "nothing", "onnx")
    with pytest.raises(SystemExit, match=r"(?s)predict .*nothing' must be the folder of a model"):
        pipelines.run(program, args, TEXTS, tmp_path)


def test_shares_are_of_the_whole(pipelines, folder):
    args = pipelines.parse([str(folder), "--lines", "-", "--tiny"])
    args.threads = 1
    _, _, *rows = pipelines.share_table(args, lambda size: (TEXTS * size)[:size]).splitlines()
    assert len(rows) == 2
    for row in rows:
        model, library, both = (float(cell) for cell in row.strip("|").split("|")[1:])
        assert 0 < model < 100 and 0 < library < 100
        assert both == pytest.approx(model + library, abs=0.11) and both < 100


def test_the_bar_is_ours_over_the_quickest_of_optimum(pipelines, folder):
    programs = pipelines.programs([folder, folder.with_name("other")], has_peers=True)
    assert len(programs) == 2 + 2 * 2 * 2
    rows = []
    for number, program in enumerate(programs):
        rates = [2.0 ** (10 - number), 3.0 ** (10 - number)]
        rounds = [{"per_s": rate, "per_cpu_s": rate / 2, "start": 1.5} for rate in rates]
        rows.append({"program": program, "rounds": rounds, "labels": ["a", "b", "a", "b"]})
    rows[0]["labels"] = ["a", "a", "a", "b"]
    peers = [
        number
        for number, program in enumerate(programs)
        if program.name.startswith("Optimum") and program.folder == folder
    ]
    lines = pipelines.bar_table(rows).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for number, row in enumerate(cells):
        steps = peers[0] - number
        ratio = (2.0**steps + 3.0**steps) / 2  # the median of the two rounds' ratios
        assert row[1:] == [f"{ratio:.2f}", f"{ratio:.2f}", "2 PASS"]
        assert row[0].startswith(("float32", "int8")[number])
    # A third slower than it.
    for turn in rows[0]["rounds"]:
        turn["per_s"] = 0.1
    assert "2 FAIL" in pipelines.bar_table(rows)
    shown = pipelines.table(rows).splitlines()[2]
    assert shown.rstrip(" |").endswith("75.0")
