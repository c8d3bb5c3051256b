"""`compress_pretrained` is killed wherever it writes, goes on, and ends as if it never was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from damage import contents
from pretrained_folders import write_texts
from tiny_transformers import texts, write

from bert_of_theseus.backend import BACKEND

if BACKEND != "torch":
    pytest.skip("once is enough: each stage is killed on all", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_killed_it_ends_with_the_same_folder(tmp_path):
    write(tmp_path / "model", "bert", num_hidden_layers=4)
    write_texts(tmp_path / "train.csv", 48)
    write_texts(tmp_path / "test.csv", 16, seed=1)
    (tmp_path / "more.txt").write_text("\n".join(texts(32, seed=2)))
    child = Path(__file__).with_name("compress_child.py")
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, str(child), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    report = f"{done.stdout}\n{done.stderr}"
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines[:-2]] == ["-9"] * (len(lines) - 2), report
    assert len(lines) > 2 and lines[-2:] == ["ended with 0", "whole ended with 0"], report
    small, whole = (contents(tmp_path / name) for name in ("small", "whole"))
    assert small.keys() == whole.keys()
    # Times and charts differ from run to run.
    timed = {"report.json", "report.md", "training.png", "tradeoff.png", "README.md"}
    for name in small.keys() - timed:
        assert small[name] == whole[name], name
