"""benchmarks/memory.py: tiny runs, and what its table says of figures that are known."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "memory.py"


@pytest.fixture(scope="module")
def memory(load_script):
    return load_script(SCRIPT)


def test_rows_are_those_that_are_asked_for(memory, tmp_path):
    assert memory.chunks(250_000) == [(0, 100_000), (1, 100_000), (2, 50_000)]
    memory.make("memmap", 300, tmp_path / "data")
    batches = memory.load("memmap", tmp_path / "data")
    assert sum(len(labels) for _, labels in batches) == 300
    made = memory.texts(50, seed=1)
    assert made == memory.texts(50, seed=1) != memory.texts(50, seed=2)
    assert all(4 <= len(text.split()) <= 28 for text in made["text"])


def test_the_table_compares_with_the_first(memory):
    figures = {"resident": 2**21, "resume_s": 0.25, "batch_ms": 1.5, "data": "texts"}
    rows = [
        {**figures, "count": 1000, "size": 2**20, "peak": 2**30, "ratio": 1.0},
        {**figures, "count": 5000, "size": 2**22, "peak": 2**30 + 2**26, "ratio": 1.0625},
    ]
    last = memory.table(rows).splitlines()[-1]
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells == ["texts", "5,000", "4 MiB", "1,088 MiB", "1.06", "2 MiB", "0.25", "1.50"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_tiny_run():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--tiny", "--storages", "memmap", "arrays"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6
