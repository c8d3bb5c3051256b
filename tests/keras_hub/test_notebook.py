"""notebooks/keras_hub.ipynb runs from top to bottom, and what is committed ran so too."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from hub_helpers import save_tiny_bert
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from bert_of_theseus.backend import BACKEND

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "keras_hub.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def check(notebook, layers):
    # On stderr TensorFlow may say what it finds on the machine.
    printed = [o.text for o in code_cells(notebook)[-1].outputs if o.get("name") == "stdout"]
    found = json.loads("".join(printed).splitlines()[-1])
    assert found["difference_when_taken_out"] == pytest.approx(0, abs=1e-6)
    assert found["difference_when_loaded"] == pytest.approx(0, abs=1e-6)
    rows = found["rows"]
    assert [row["layers"] for row in rows] == layers
    # What the preset says of raw texts is what the report says of token ids.
    assert found["accuracy"] == pytest.approx(rows[-1]["test_score"])
    return found


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="once is enough: it takes a process")
def test_runs(tmp_path, monkeypatch):
    save_tiny_bert(tmp_path / "bert", num_hidden_layers=4)
    monkeypatch.setenv("NOTEBOOK_SMALL", "1")
    monkeypatch.setenv("NOTEBOOK_MODEL", str(tmp_path / "bert"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Nothing from, or into, the home folder.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    # With no folders of installed kernels to look in, "python3" is the Python that runs this.
    manager = AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )
    assert manager.kernel_spec.argv[0] == sys.executable
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    work = tmp_path / "work"
    work.mkdir()
    resources = {"metadata": {"path": str(work)}}
    NotebookClient(notebook, km=manager, timeout=240, resources=resources).execute()
    check(notebook, [4, 3, 3, 3])
    assert not list(work.iterdir())


def test_committed_outputs():
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert "/tmp" not in NOTEBOOK.read_text(encoding="utf-8")  # of the machine that ran it
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if "stderr" in o.values()]
    found = check(notebook, [6, 3, 3, 3])
    # MiniLM learns the task from few texts, and half of its layers keep most of it.
    predecessor, *_, successor = (row["test_score"] for row in found["rows"])
    assert successor > max(0.8 * predecessor, 2 * found["most_frequent_class"])
    assert abs(found["accuracy_in_8_bits"] - found["accuracy"]) < 0.05
