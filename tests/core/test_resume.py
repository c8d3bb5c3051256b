"""Nothing is lost: a compression that is killed goes on, and ends as one that was not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# SIGKILL; in the middle of a file the kernel's own SIGXFSZ.
ENDS = ["-9", "-9", "-25", "-9", "-9", "-9", "-9", "-9", "-9", "-9"]
IN_THE_MIDDLE_OF_A_FILE = ENDS.index("-25")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize(
    "points",
    [
        pytest.param([IN_THE_MIDDLE_OF_A_FILE], marks=pytest.mark.slow_unless("torch"), id="once"),
        pytest.param(
            [*range(len(ENDS))],
            marks=[pytest.mark.slow, pytest.mark.only("torch")],
            id="at every stage",
        ),
    ],
)
def test_killed_it_ends_with_the_same_weights(points, tmp_path):
    environment = dict(os.environ, OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1")
    environment.update(TF_NUM_INTEROP_THREADS="1", PYTHONUNBUFFERED="1")
    child = Path(__file__).with_name("resume_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(tmp_path), *map(str, points)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    report = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, report
    ends = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("killed by")]
    assert ends == [ENDS[point] for point in points], report
    assert "\nended with 0\nwhole ended with 0" in done.stdout, report
    digests = [(tmp_path / run / "digest").read_text() for run in ("whole", "killed")]
    assert digests[0] == digests[1], report
    # The half-written file was there, and is not any more.
    assert re.search(r"killed/predecessor/part-\d+-\w+-checkpoint\.npz", done.stdout)
    left = sorted(path.name for path in (tmp_path / "killed").rglob("*") if path.is_file())
    assert left == sorted(path.name for path in (tmp_path / "whole").rglob("*") if path.is_file())
