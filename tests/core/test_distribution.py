"""One process, several devices: virtual CPUs, on which a batch is divided.

`tf.distribute.MirroredStrategy` on TensorFlow, Keras' own `DataParallel` on JAX. In a process of
its own, since the number of devices is settled when a backend starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_of_theseus.backend import BACKEND

if BACKEND == "torch":
    pytest.skip("Keras distributes on TensorFlow and JAX", allow_module_level=True)

# Under Keras 2 it is TensorFlow's strategy, too.
pytestmark = pytest.mark.slow_unless("tensorflow", "jax")
TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="of tf.distribute")
JAX = pytest.mark.skipif(BACKEND != "jax", reason="of Keras' own distribution on JAX")


def run(folder, what):
    child = Path(__file__).with_name("devices_child.py")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, str(child), str(folder), what],
        env=dict(os.environ, XLA_FLAGS=flags),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run(tmp_path_factory.mktemp("devices"), "whole")


each_kind = pytest.mark.parametrize("kind", ["theseus", "warm_start"])


@each_kind
def test_two_devices_train_as_one_does(found, kind):
    one, two = found[kind]["one"], found[kind]["two"]
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    if kind == "theseus":  # the warm start knows no labels
        np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=1e-5)
    for a, b in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_each_text_has_its_own_answer(found):
    answers = found["answers"]
    np.testing.assert_allclose(answers["found"], answers["expected"], rtol=1e-5, atol=1e-6)


def check_weights(run):
    """The predecessor is bit-identical, and the devices agree on the successor."""
    assert run["frozen as before"] and run["devices agree"]
    assert not run["trained as before"]


@each_kind
def test_the_predecessor_is_bit_identical_and_the_successor_agrees(found, kind):
    check_weights(found[kind]["two"])


@each_kind
def test_the_rate_is_scheduled(found, kind):
    rates = found[kind]["two"]["rates"]
    assert rates == found[kind]["one"]["rates"] and rates[0] < rates[-1]


def test_draws_are_shared_by_default(found):
    # Each device's own account of whether the successor ran, batch by batch.
    first, second = found["draws"]["batch"]
    assert first == second
    assert {False, True} == set(first)


@TENSORFLOW
def test_draws_of_each_replica_differ_and_are_reproducible(found):
    first, second = found["draws"]["replica"]
    assert first != second
    assert first == found["draws"]["batch"][0]  # the first one's are those that would be shared
    assert found["draws"]["again"] == [first, second]


@TENSORFLOW
def test_examples_on_different_replicas_draw_independently(found):
    first, second = found["draws"]["example"]
    assert first != second and len(first) == len(second) == 16


@pytest.mark.slow
@TENSORFLOW
def test_replicas_that_draw_for_themselves_agree_and_resume(tmp_path):
    found = run(tmp_path, "replica")
    check_weights(found["replica"])
    # Interrupted, with dropout, it ends the same.
    whole, resumed = found["replica"], found["resumed"]
    assert len(whole["losses"]) == 8 and len(resumed["losses"]) == 4
    assert resumed["losses"] == whole["losses"][4:]
    assert resumed["weights"] == whole["weights"]


@JAX
def test_draws_of_each_replica_are_refused(found):
    assert 'sampling="replica" needs replicas that run a program each' in found["refused"]


@JAX
def test_batches_that_cannot_be_divided_are_refused_in_time(found):
    for refused in found["uneven"]:  # wherever the smaller batch is
        assert "must be a multiple of 2" in refused
        assert "a batch of 3 examples" in refused
