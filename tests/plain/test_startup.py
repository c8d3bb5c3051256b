"""TensorFlow's start-up lines are hidden, and shown if its import fails."""

import subprocess
import sys

import pytest
from docs_blocks import ROOT

CODE = """import os, sys
{before}
from bert_of_theseus.startup import hide_startup_lines
hide_startup_lines()
import json, tensorflow
assert tensorflow.answer == 42 and tensorflow.__spec__.loader is not None
print("done")
{after}"""
NOISE = "import os\nos.write(2, b'noise')\nanswer = 42\n"


def run(folder, package, before="", after=""):
    """Exit status, stdout and stderr, with a `tensorflow` of this source, which is quick."""
    (folder / "tensorflow.py").write_text(package)
    code = CODE.format(
        before=f"sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n{before}", after=after
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_lines_are_hidden_and_nothing_else(tmp_path):
    assert run(tmp_path, NOISE, after="os.write(2, b'mine')") == (0, "done\n", "mine")


@pytest.mark.parametrize("closed", ["os.close(2)", "sys.stderr = None"])
def test_closed_streams(tmp_path, closed):
    quiet = "import os\nanswer = 42\n"  # what it would write goes nowhere
    status, _, error = run(tmp_path, quiet, before=closed, after="os._exit(0)")
    assert status == 0 and error == ""


def test_a_failed_import_says_all(tmp_path):
    status, _, error = run(tmp_path, NOISE + "raise ImportError('no such library')\n")
    assert status == 1 and "noise" in error and "no such library" in error
