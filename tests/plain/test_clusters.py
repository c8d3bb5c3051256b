"""docs/clusters.md: a table is labelled by two processes of Dask, and again when one dies."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
from docs_blocks import named_blocks, run_block

from bert_of_theseus import Predictor

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
ROWS, FILES = 70, 7


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """In a folder with the model, and the texts in some files of `reviews`."""
    pytest.importorskip("dask.dataframe")
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    monkeypatch.chdir(tmp_path)
    tiny_onnx.write(tmp_path / "successor")
    rng = np.random.default_rng(0)
    some = [" ".join(rng.choice([*"abcdefghij"], n)) for n in rng.integers(1, 20, ROWS)]
    (tmp_path / "reviews").mkdir()
    for number, rows in enumerate(np.split(np.arange(ROWS), FILES)):
        table = pyarrow.table({"id": rows, "text": [some[row] for row in rows]})
        pyarrow.parquet.write_table(table, f"reviews/part-{number}.parquet")
    return some


def check(folder, texts):
    """That the table in `folder` has all rows in order, each with its label."""
    import pyarrow.parquet

    parts = sorted(folder.glob("*.parquet"))
    rows = [row for part in parts for row in pyarrow.parquet.read_table(part).to_pylist()]
    assert len(parts) > 1
    assert [row["id"] for row in rows] == [*range(ROWS)]
    assert [row["text"] for row in rows] == texts
    for row, expected in zip(rows, Predictor.load("successor").predict(texts), strict=True):
        assert row["label"] == expected["label"]
        assert abs(row["probability"] - expected["probability"]) < 1e-6
    assert len({row["label"] for row in rows}) == 3  # or this would say little


# Before the page's blocks, in the same file: each process notes which models it loads.
NOTE_LOADS = """
import os, pathlib
from bert_of_theseus import Predictor

def noted(cls, *arguments, load=Predictor.load.__func__, **options):
    with open(pathlib.Path("loads") / str(os.getpid()), "a") as file:
        file.write("a model\\n")
    return load(cls, *arguments, **options)

Predictor.load = classmethod(noted)
"""


def test_a_table_is_labelled_as_the_page_says_with_one_model_in_each_process(tmp_path, texts):
    blocks = named_blocks()
    code = "\n".join([NOTE_LOADS, blocks["label-rows"], blocks["dask"]])
    (tmp_path / "label.py").write_text(code)
    (tmp_path / "loads").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "label.py"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path / "labelled", texts)
    loads = [path.read_text().splitlines() for path in (tmp_path / "loads").iterdir()]
    assert 2 <= len(loads) <= 3 and all(len(models) == 1 for models in loads), loads


def test_partitions_of_a_process_that_dies_are_labelled_again(tmp_path, texts):
    from dask.distributed import Client, LocalCluster

    scope = {"__name__": "__main__"}
    run_block("label-rows", scope)
    label, predictor = scope["label"], scope["predictor"]
    seen, died = tmp_path / "seen", tmp_path / "died"
    seen.mkdir()

    def label_or_die(rows):
        if ROWS // 2 in set(rows["id"]) and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        threads = os.environ.get("RAYON_NUM_THREADS")
        (seen / f"{os.getpid()}-{rows['id'].min()}").write_text(
            json.dumps([id(predictor), threads])
        )
        return label(rows)

    scope["label"] = label_or_die
    scope["__name__"] = "without_a_cluster_of_its_own"
    run_block("dask", scope)
    options = {"n_workers": 2, "threads_per_worker": 1, "env": {"RAYON_NUM_THREADS": "1"}}
    with LocalCluster(**options) as cluster, Client(cluster):
        scope["label_table"]("reviews", tmp_path / "labelled")
    assert died.exists()
    check(tmp_path / "labelled", texts)
    found = {}
    for path in seen.iterdir():
        found.setdefault(path.name.split("-")[0], []).append(tuple(json.loads(path.read_text())))
    # One model in each process, however many partitions it had.
    assert max(map(len, found.values())) > 1
    assert all(len(set(models)) == 1 for models in found.values())
    assert {threads for models in found.values() for _, threads in models} == {"1"}
