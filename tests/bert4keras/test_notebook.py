"""notebooks/quickstart.ipynb runs from top to bottom, and what is committed ran so too."""

import ast
import importlib
import json
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def pictures(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


def result(notebook):
    """What the last cell prints."""
    (output,) = code_cells(notebook)[-1].outputs
    return json.loads(output.text)


def tables(notebook):
    data = [output.get("data", {}) for output in outputs(notebook)]
    return [each["text/markdown"] for each in data if "text/markdown" in each]


def check(notebook, predecessor_layers, successor_layers):
    found = result(notebook)
    # The law: the extracted successor predicts as the Theseus model does, and so does its file.
    assert found["difference_when_extracted"] == pytest.approx(0, abs=1e-6)
    assert found["difference_when_loaded"] == pytest.approx(0, abs=1e-6)
    report = {row["model"]: row for row in found["report"]}
    assert list(report) == ["predecessor", "warm_start", "theseus", "successor"]
    layers = [row["layers"] for row in report.values()]
    assert layers == [predecessor_layers, *[successor_layers] * 3]
    rows = {row["model"]: row for row in found["rows"]}
    assert list(rows) == ["predecessor", "successor", "direct"]
    parameters = rows["successor"]["parameters"]
    assert parameters == rows["direct"]["parameters"] < 0.6 * rows["predecessor"]["parameters"]
    for name in ("predecessor", "successor"):
        # The predecessor is as its own stage left it, whatever was trained since.
        assert rows[name]["accuracy"] == pytest.approx(report[name]["test_score"])
        assert rows[name]["parameters"] == report[name]["parameters"]
    (table,) = tables(notebook)
    assert len(table.splitlines()) == 2 + len(report)
    assert len(pictures(notebook)) == 5  # draws, wiring, schedule, training, trade-off
    return rows


def quiet(notebook):
    return not [o for o in outputs(notebook) if o.output_type == "error" or "stderr" in o.values()]


@pytest.mark.slow
def test_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTART_SMALL", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Nothing from, or into, the home folder; pictures into the notebook, whatever was chosen.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    # As in Jupyter, where nobody has chosen Keras 2 before the first cell does.
    for name in ("TF_KERAS", "TF_USE_LEGACY_KERAS", "KERAS_BACKEND"):
        monkeypatch.delenv(name, raising=False)
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
    check(notebook, 2, 1)
    assert quiet(notebook)
    assert not list(work.iterdir())


def test_what_it_imports_is_there():
    """Without running it: all of its code can be read, and every name of the package exists."""
    notebook, number = nbformat.read(NOTEBOOK, as_version=4), 0
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("bert_of_theseus"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    number += 1
                    assert hasattr(module, name.name), f"{node.module}.{name.name}"
    assert number > 5


def test_committed_outputs():
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert "/tmp" not in NOTEBOOK.read_text(encoding="utf-8")  # of the machine that ran it
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert quiet(notebook)
    rows = check(notebook, 4, 2)
    # The full settings learn the task, and half of the layers keep it.
    assert rows["predecessor"]["accuracy"] > 0.9
    assert rows["successor"]["accuracy"] > 0.9
