"""Two worker processes train as one does, and when one is killed, both go on where they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_of_theseus import Stage
from bert_of_theseus.backend import BACKEND, KERAS_2, keras
from bert_of_theseus.training import fit

if BACKEND == "torch":
    pytest.skip("Keras distributes on TensorFlow and JAX", allow_module_level=True)

ON_TENSORFLOW = BACKEND == "tensorflow" and not KERAS_2
with_workers = pytest.mark.skipif(ON_TENSORFLOW, reason="Keras 3 trains with no such strategy")


def run(folder, what):
    """What the processes of `workers_child.py` printed, and what they left."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1")
    child = Path(__file__).with_name("workers_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(folder), what],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    report = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, report
    lines = [line.split() for line in done.stdout.splitlines() if line]
    return folder, lines, report


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    return run(tmp_path_factory.mktemp("workers"), "whole")


def read(folder, run, role):
    return json.loads((folder / run / f"{role}.json").read_text())


def check_alike(ends):
    """That two workers have trained as one does, and the same."""
    folder, _, report = ends
    one, two, other = (read(folder, *run) for run in (("one", "alone"), ("two", 0), ("two", 1)))
    assert len(one["loss"]) == 3, report
    np.testing.assert_allclose(two["hidden_loss"], one["hidden_loss"], rtol=1e-5)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=1e-5)
    for a, b in zip(one["weights"], two["weights"]):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for key in ("hidden_loss", "loss", "weights", "predecessor"):
        assert two[key] == other[key]
    assert two["predecessor"] == one["predecessor"]  # frozen, so bit for bit


@pytest.mark.slow_unless("tf_keras")
@with_workers
def test_two_workers_train_as_one_does(ends):
    check_alike(ends)


@pytest.mark.only("jax")
def test_two_workers_train_as_one_does_without_a_warm_start(tmp_path):
    check_alike(run(tmp_path, "quick"))


@pytest.mark.slow
@with_workers
def test_killed_workers_go_on_when_started_again(tmp_path):
    folder, lines, report = run(tmp_path, "killed")
    exits = {name: codes for name, *codes in lines}
    # SIGKILL; and the one that is left does not wait for ever.
    assert exits["killed"][0] == "-9" and exits["killed"][1] != "0", report
    assert exits["two"] == exits["again"] == ["0", "0"], report
    for role in (0, 1):
        whole, killed = read(folder, "two", role), read(folder, "killed", role)
        for key in ("hidden_loss", "loss", "val_loss", "weights", "predecessor"):
            assert killed[key] == whole[key], (key, report)


@pytest.mark.slow_unless("tf_keras")
@with_workers
def test_the_first_worker_alone_writes(ends):
    folder, _, _ = ends
    names = [
        sorted(p.name for p in (folder / run / "run").rglob("*") if p.is_file())
        for run in ("one", "two")
    ]
    # Where a batch is divided, milliseconds per example are not measured.
    assert set(names[0]) - set(names[1]) <= {"tradeoff.png"}
    assert {"report.json", "settings.json", "stage.json", "model.weights.h5"} <= set(names[1])
    assert not any(name.startswith(("part-", "checkpoint")) for name in names[1])


@pytest.mark.slow
@with_workers
def test_workers_with_other_data_are_refused(tmp_path):
    _, lines, report = run(tmp_path, "refused")
    assert ["refused", "1", "1"] in lines, report
    assert report.count("All workers must be given the same data") >= 2, report


@pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras 2 trains with it, and JAX has another")
def test_keras_3_says_that_it_takes_no_workers(tmp_path):
    import tensorflow as tf

    from bert_of_theseus.pretrained.trainer import Trainer

    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    data = np.ones((4, 2), "float32"), np.ones(4, "int32")
    with pytest.raises(
        ValueError, match=r"MultiWorkerMirroredStrategy.*distribution on JAX, or Keras 2"
    ):
        fit(model, data, stage=Stage(1), directory=tmp_path)
    # And a folder's files are written by one process, whatever trains.
    refused = pytest.raises(ValueError, match="A folder must be compressed by one process")
    with tf.distribute.MultiWorkerMirroredStrategy().scope(), refused:
        Trainer(None, {}, batch_size=1, seed=0, verbose=0)
