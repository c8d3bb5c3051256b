"""The benchmarks: what speed.py counts, and runs from end to end on tiny models."""

import itertools
import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "speed.py"


@pytest.fixture(scope="module")
def speed(load_script):
    return load_script(SCRIPT)


@pytest.mark.parametrize("depths", [(12, 3), (12, 6), (4, 4), (2, 1)])
@pytest.mark.parametrize("rate", [0, 0.3, 0.5, 1])
def test_expected_counts_are_those_of_the_formulas(speed, depths, rate):
    n, m = depths
    r = n // m
    # Predecessor modules with nothing trained below: the one at i, if i + 1 are the predecessor's.
    idle = sum((1 - rate) ** (i + 1) for i in range(m))
    expected = {
        ("dense", False): m * (2 * r + 3),
        ("dense", True): m * (2 * r + 3) - r,
        ("lazy", False): m * (3 * rate + 2 * r * (1 - rate)),
        ("lazy", True): m * (3 * rate + 2 * r * (1 - rate)) - r * idle,
        ("original", False): m * (3 * rate + 3 * r * (1 - rate)),
        ("plain", False): 3 * m,
    }
    for (kind, finer), units in expected.items():
        assert speed.count(kind, depths, rate, finer) == pytest.approx(units), (kind, finer)
    lazy = speed.count("lazy", depths, rate, True)
    assert speed.count("without frozen gradients", depths, rate, True) == pytest.approx(lazy)


@pytest.mark.parametrize("num_modules", [1, 3, 4, 6, 12])
def test_paths_are_balanced(speed, num_modules):
    parts = [speed.balanced_paths(num_modules, part) for part in range(8)]
    assert all(
        len(set(paths)) == len(paths) == 2 ** min(num_modules, 4 if num_modules > 7 else 3)
        for paths in parts
    )
    for paths in parts:
        for a, b in itertools.combinations(range(num_modules), 2):
            pairs = [(path[a], path[b]) for path in paths]
            assert {pairs.count(p) for p in itertools.product((0, 1), repeat=2)} == {len(paths) / 4}
    if num_modules <= 6:
        together = [path for paths in parts for path in paths]
        assert set(together) == set(itertools.product((0, 1), repeat=num_modules))


def test_the_cost_of_balanced_paths_is_the_expected_one(speed):
    for depths, tolerance in (((12, 3), 1e-9), ((12, 6), 0.01), ((12, 12), 0.02)):
        n, m = depths
        for finer in (False, True):
            costs = [
                speed.count_path("lazy", path, n // m, finer)
                for part in range(3)  # the default number of rounds
                for path in speed.balanced_paths(m, part)
            ]
            expected = speed.count("lazy", depths, 0.5, finer)
            assert statistics.mean(costs) == pytest.approx(expected, rel=tolerance)


def test_more_modules_than_there_are_parities_are_refused(speed):
    with pytest.raises(ValueError, match=r"At most 15 modules. Received: 16"):
        speed.balanced_paths(16)


def _rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


RUNS = [  # 2 layers to 1
    "dense",
    "lazy, rate 0",
    "lazy, rate 0.5",
    "lazy, rate 1",
    "lazy, rate 0.5 as drawn",
    "plain fine-tuning, 1 layer",
    "plain fine-tuning, 2 layers",
]


def check_tables(speed, table, bars):
    """What the two tables hold, of whatever was measured; gives back their rows."""
    header, rule, *rows = _rows(table)
    assert set(rule) == {"---"} and {len(row) for row in rows} == {len(header)}
    runs = {row[header.index("run")]: dict(zip(header, row)) for row in rows}
    assert list(runs) == RUNS
    for row in runs.values():
        for column in ("CPU ms (quartiles)", "wall ms", "/ dense", "/ ideal", "first step s"):
            assert float(row[column].split()[0]) > 0, (column, row)
    assert runs["dense"]["/ dense"] == runs["plain fine-tuning, 1 layer"]["/ ideal"] == "1.00"
    assert [row["units"] for row in runs.values()] == ["7", "4", "3.5", "3", "3.5", "3", "6"]
    assert [row["finer"] for row in runs.values()] == ["5", "2", "2.5", "3", "2.5", "3", "6"]

    _, _, *bars = _rows(bars)
    assert len(bars) == len(speed.BARS)
    for (name, limit), row in zip(speed.BARS, bars):
        assert row[:2] == [name, f"{limit:.2f}"]
        if row[2] != "not measured":
            value, verdict = re.fullmatch(r"([\d.]+) (PASS|FAIL)", row[2]).groups()
            assert verdict == "FAIL" or float(value) <= limit
    assert bars[3][2] == "not measured"  # plain PyTorch was not asked for
    return runs, bars


def test_tables_of_a_machine_that_counts(speed):
    """A step that takes a second per unit of work is as fast as its ideal."""
    pair, backend = (2, 1), "bert4keras"
    models = speed.models_of(backend, pair)

    def seconds(kind, depths, path):
        if kind in ("plain", "dense"):
            units = speed.count(kind, depths)
        elif path == (0.5,):
            units = speed.count(kind, depths, 0.5)
        else:
            units = speed.count_path(kind, path, 2)
        return [(units, 2 * units)]

    rounds = [
        {
            (backend, pair, kind, depths, path): seconds(kind, depths, path)
            for kind, depths in models
            for path in speed.steps_of(kind, depths, part)
        }
        for part in range(2)
    ]
    first = {(backend, *model): [(2.0, 3.0)] for model in models}
    peak = {(backend, *key[2:]): 1e6 * value[0][0] for key, value in rounds[0].items()}
    results = speed.Results(rounds, first, peak)
    runs, bars = check_tables(
        speed,
        speed.speed_table(results, [backend], [pair]),
        speed.bar_table(results, [backend], [pair]),
    )
    assert {row["/ ideal"] for row in runs.values()} == {"1.00"}
    assert [row["/ dense"] for row in runs.values()][:4] == ["1.00", "0.57", "0.50", "0.43"]
    assert {row["first step s"] for row in runs.values()} == {"3.0"}
    values = [row[2].split() for row in bars]
    assert [value[0] for value in values] == ["0.50", "1.00", "1.00", "not", "1.00", "0.57"]
    assert [value[1] for value in values] == ["FAIL", "PASS", "PASS", "measured", "PASS", "PASS"]


def test_steps_of_a_worker(speed, untraced):
    """In this process: models of both kinds are built, choose as they are told, and take steps."""
    bench = speed.KerasBench("bert4keras", speed.TINY)
    for key in (("lazy", (2, 1)), ("plain", (1, 1))):
        bench.build(*key)
        bench.choose(*key, speed.rates_at(*key, 1))
        before = [np.array(weight) for weight in bench.models[key].get_weights()]
        cpu, wall = speed._time_step(bench, key)
        assert cpu > 0 and wall > 0
        after = bench.models[key].get_weights()
        assert any((a != b).any() for a, b in zip(before, after))
    assert float(bench.models["lazy", (2, 1)].get_layer("module_0").replacement_rate) == 1


@pytest.mark.slow
def test_a_tiny_run_prints_both_tables(speed, tmp_path):
    record = tmp_path / "speed.json"
    flags = ["--tiny", "--sizes", "2-1", "--steps", "2", "--backends", "bert4keras"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *flags, "--json", record],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    machine, table, bars = done.stdout.strip().split("\n\n")
    assert "cores" in machine and "bert4keras 0." in machine
    _, bars = check_tables(speed, table, bars)

    written = json.loads(record.read_text())
    assert len(written["rounds"]) == 2
    steps = {
        (kind, path and tuple(path)): times
        for _, _, kind, depths, path, times in written["rounds"][0]
        if depths != [2, 2]
    }
    assert set(steps) == {
        ("dense", None),
        ("lazy", (0,)),
        ("lazy", (1,)),
        ("lazy", (0.5,)),
        ("plain", None),
    }
    assert len(steps["dense", None]) == 2 and len(steps["lazy", (0.5,)]) == speed.DRAWS
    assert all(math.isfinite(t) and t > 0 for times in steps.values() for _, t in times)
    for _, name, limit, value in written["bars"]:
        shown = dict(zip((b[0] for b in bars), (b[2] for b in bars)))[name]
        if value is not None:
            assert shown == f"{value:.2f} {'PASS' if value <= limit else 'FAIL'}"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "12-5"], "the second depth must divide the first"),
        (["--sizes", "twelve"], "expected two depths like 12-3"),
        (["--steps", "0"], "expected at least 1, received 0"),
    ],
)
def test_wrong_flags_are_named(speed, flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_worker_that_fails_is_named_with_its_output(speed, monkeypatch):
    monkeypatch.setitem(speed.BACKENDS, "jax", ((), {"KERAS_BACKEND": "no-such-backend"}))
    worker = speed.Worker("jax", speed.TINY)
    with pytest.raises(SystemExit, match=r"(?s)no-such-backend.*worker for jax ended with"):
        worker.ask("build", "dense", (2, 1), None)
    worker.close()


# inference.py


@pytest.fixture(scope="module")
def inference(load_script):
    return load_script(SCRIPT.with_name("inference.py"))


@pytest.fixture
def sst2(tmp_path):
    """A corpus of SST-2's form, with as many words as it takes to split it."""
    words = ["good", "bad", "fine", "dull", "warm", "cold", "film", "plot", "cast", "end"]
    for name, number in (("train", 120), ("dev", 40)):
        texts = itertools.islice(itertools.permutations(words, 4), 0, number * 40, 40)
        rows = [f"{name} {' '.join(text)}\t{index % 2}" for index, text in enumerate(texts)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return tmp_path


def check_inference(inference, title, table, bars, figures, record):
    """What the tables hold of the figures `{(depth, kind): ...}` and of the bars."""
    assert title == "MiniLM:"
    header, _, *rows = _rows(table)
    assert [row[:2] for row in rows] == [
        [str(depth), kind]
        for depth in inference.TINY["MiniLM"]
        for kind in inference.FILES
        if "LiteRT" not in kind
    ]
    for row in rows:
        assert len(row) == len(header)
        assert all(float(cell) >= 0 for cell in row[2:])
        assert 0 <= float(row[header.index("dev %")]) <= 100
    assert rows[0][header.index("× predict")] == "1.0"  # of itself
    for found in figures.values():
        assert found["peak"] > 20 and found["start"] > 0 and len(found["rounds"]) == 2
        assert all(
            cpu >= 0 and wall > 0 and 1 <= texts <= int(size)
            for seconds in found["rounds"]
            for size, calls in seconds.items()
            for cpu, wall, texts in calls
        )
    for (name, limit, value, _, met), line in zip(record, _rows(bars)[2:]):
        assert line[:2] == [name, limit] and line[2].startswith(f"{value:.2f} ")
        bound = float(limit.split()[-1])
        assert met == (value >= bound if limit.startswith("at least") else value <= bound)
        assert line[2].endswith("PASS" if met else "FAIL")


def test_tables_of_inference(inference):
    """Of figures that are known: each form, and each layer fewer, is twice as fast."""

    class Args:
        families, runtimes, tiny, peers = ["MiniLM"], ["ONNX"], True, None

    found = {}
    for depth in inference.depths_of(Args, "MiniLM"):
        for number, kind in enumerate(inference.kinds_of(Args)):
            seconds = depth / 2**number
            calls = {
                size: [[seconds * size, 2 * seconds * size, size]] * count
                for size, count in inference.calls_of(Args, "MiniLM").items()
            }
            found["MiniLM", depth, kind] = {
                "start": 1.5,
                "peak": 100.0,
                "megabytes": 4.0 * depth,
                "accuracy": 80.0 + depth - number,
                "rounds": [calls, calls],
            }
    tables = (
        inference.table(Args, found, "MiniLM"),
        inference.bar_table(inference.bars(Args, found)),
    )
    figures = {key[1:]: value for key, value in found.items()}
    check_inference(inference, "MiniLM:", *tables, figures, inference.bars(Args, found))
    header, _, *rows = _rows(tables[0])
    faster = [float(row[header.index("× predict")]) for row in rows]
    assert faster == [1, 2, 4, 8, 2, 4, 8, 16]
    column = dict(zip(header, rows[-1]))
    assert column["batch 1: p50 ms"] == "250.0" and column["texts/s"] == "4"
    assert column["file MB"] == "4.0" and column["dev %"] == "78.00" and column["lost"] == "2.00"


@pytest.mark.slow
def test_a_tiny_run_of_inference(inference, sst2, tmp_path):
    """Trains, exports, measures in every runtime, and prints tables that hold what was found."""
    flags = ["--tiny", "--rounds", "2", "--rows", "80", "--epochs", "1", "--data-dir", sst2]
    flags += ["--families", "MiniLM", "--runtimes", "ONNX", "--output-dir", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, SCRIPT.with_name("inference.py"), *flags, "--json", tmp_path / "a.json"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    machine, title, table, bars = done.stdout.strip().split("\n\n")
    assert "onnxruntime 1." in machine
    found = json.loads((tmp_path / "a.json").read_text())
    figures = {(depth, kind): value for _, depth, kind, value in found["figures"]}
    check_inference(inference, title, table, bars, figures, found["bars"])
    for (depth, kind), value in figures.items():
        path = tmp_path / "out" / f"MiniLM-{depth}" / inference.FILES[kind]
        assert value["megabytes"] == pytest.approx(path.stat().st_size / 1e6)


def test_bars_of_inference_are_ratios_of_what_was_measured(inference):
    """Twice as slow a predecessor makes the bars' figures twice as large."""

    class Args:
        families, runtimes, tiny = ["MiniLM", "BERT-base"], inference.RUNTIMES, False
        peers = None

    def figures(seconds, accuracy=80.0):
        rounds = [{size: [[seconds, seconds, size]] for size in (1, 32)} for _ in range(3)]
        return {"rounds": rounds, "accuracy": accuracy}

    def found(slow):
        return {
            (family, depth, kind): figures(slow if depth == depths[0] else 1.0)
            for family, depths in inference.FAMILIES.items()
            for kind in inference.FILES
            for depth in depths
        }

    for slow in (2.0, 4.0, 7.0):
        rows = inference.bars(Args, found(slow))
        speed = [row for row in rows if row[1].startswith("at least")]
        assert len(speed) == 2 * 2 * len(inference.FILES) + 2
        for name, limit, value, cpu, met in speed:
            assert value == cpu == pytest.approx(slow), name
            assert met == (slow >= float(limit.split()[-1]))
    # A form that loses too much is not the best, however fast.
    results = found(4.0)
    results["MiniLM", 3, "ONNX Runtime int8"] = figures(0.1, accuracy=79.0)
    names = [row[0] for row in inference.bars(Args, results) if row[0].startswith("MiniLM")]
    assert names and not any("ONNX Runtime int8" in name for name in names)
