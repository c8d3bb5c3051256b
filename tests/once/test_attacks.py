"""Kills at any moment, and runs in one folder at once: the weights of a whole run, or a refusal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Minutes each; the code is the same on every backend.
pytestmark = pytest.mark.only("torch")

if not hasattr(os, "fork"):
    pytest.skip("needs processes that fork", allow_module_level=True)


def attack(folder, *arguments):
    child = Path(__file__).with_name("attack_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(folder / "runs"), *map(str, arguments)],
        env=dict(os.environ, OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    print(done.stdout)
    return done.stdout


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(tmp_path):
    said = attack(tmp_path, "kills", 100, 50)
    assert "100 kills at random moments, 50 at file events" in said
    assert said.endswith("all ended with the same weights\n")


@pytest.mark.slow
def test_of_two_runs_in_one_folder_none_is_wrong(tmp_path):
    assert attack(tmp_path, "pairs", 12).endswith("none wrong\n")
