"""benchmarks/gpu.py: what it counts, and tiny runs on the CPU without TensorFlow and bert4keras."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
BACKENDS = [name for name in ("jax", "torch") if importlib.util.find_spec(name)]
# As if what may not be needed were not installed.
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_others(name, *args):
    missing = name.split(".")[0] in ("tensorflow", "tf_keras", "bert4keras", "keras_hub")
    return None if missing else find(name, *args)
PathFinder.find_spec = staticmethod(find_others)
sys.argv = sys.argv[1:]
sys.path.insert(0, {folder!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*flags, **environment):
    kept = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "TF_KERAS")}
    code = WITHOUT.format(folder=str(BENCHMARKS))
    return subprocess.run(
        [sys.executable, "-c", code, str(BENCHMARKS / "gpu.py"), *map(str, flags)],
        env={**kept, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.fixture(scope="module")
def gpu(load_script):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield load_script(BENCHMARKS / "gpu.py")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_flops_are_those_of_the_matrix_products(gpu):
    sizes = {"batch_size": 2, "sequence_length": 3, "hidden_size": 4, "intermediate_size": 5}
    # Of a product (a, b) by (b, c): 2abc. Its gradient by either factor costs the same again.
    projections = 4 * 2 * 6 * 4 * 4
    feed_forward = 2 * 2 * 6 * 4 * 5
    attention = 2 * 2 * (2 * 3 * 3 * 4)  # scores and mixture, for each of two texts
    dense = projections + feed_forward
    forward, frozen, trained = gpu.layer_flops(sizes)
    assert forward == dense + attention
    assert frozen == 2 * dense + 3 * attention
    assert trained == 3 * dense + 3 * attention
    # 4 layers to 2: the lower module is the predecessor's, with nothing trained below.
    assert gpu.step_flops("lazy", (4, 2), (0, 1), sizes) == 2 * forward + trained
    assert gpu.step_flops("lazy", (4, 2), (1, 0), sizes) == trained + 2 * frozen
    dense_wiring = 2 * forward + 2 * frozen + 2 * trained
    assert gpu.step_flops("dense", (4, 2), None, sizes) == dense_wiring
    assert gpu.step_flops("plain", (4, 4), None, sizes) == 4 * trained


@pytest.mark.slow
@pytest.mark.skipif(not BACKENDS, reason="needs JAX or PyTorch")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tiny_run_of_speed(backend, tmp_path):
    flags = ["--tiny", "--sizes", "2-1", "--dtypes", "bfloat16", "--no-memory"]
    done = run("speed", "--backend", backend, *flags, "--json", tmp_path / "speed.json")
    assert done.returncode == 0, done.stderr
    head, table = done.stdout.strip().split("\n\n")
    assert backend in head and "in bfloat16" in head
    header, _, *found = rows(table)
    assert [row[header.index("run")] for row in found] == [
        "dense",
        "lazy, rate 0",
        "lazy, rate 0.5",
        "lazy, rate 1",
        "plain fine-tuning, 1 layer",
        "plain fine-tuning, 2 layers",
    ]
    for row in found:
        entry = dict(zip(header, row))
        assert entry["dtype"] == "bfloat16" and float(entry["ms (quartiles)"].split()[0]) > 0
        assert float(entry["TFLOP/s"]) > 0
    assert found[0][header.index("/ dense")] == found[4][header.index("/ plain")] == "1.00"
    assert (tmp_path / "speed.json").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["speed", "--sizes", "12-5"], "the second depth must divide the first"),
        (["speed", "--rounds", "0"], "argument --rounds: expected at least 1"),
    ],
)
def test_wrong_flags_are_named(gpu, flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
