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


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    child = Path(__file__).with_name("devices_child.py")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, str(child), str(folder)],
        env=dict(os.environ, XLA_FLAGS=flags),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads((folder / "found.json").read_text())


def test_two_devices_train_as_one_does(found):
    one, two = found["one"], found["two"]
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=1e-5)
    for a, b in zip(one["weights"], two["weights"]):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_predecessor_is_bit_identical_and_the_successor_agrees(found):
    for run in ("two", "replica"):
        if run in found:
            assert found[run]["frozen as before"] and found[run]["devices agree"], run
            assert not found[run]["trained as before"]


def test_the_rate_is_scheduled(found):
    rates = found["two"]["rates"]
    assert rates == found["one"]["rates"] and rates[0] < rates[-1]


def test_draws_are_shared_by_default(found):
    # Each device's own account of whether the successor ran, batch by batch.
    first, second = found["two"]["draws"]
    assert first == second
    assert {False, True} == set(first)


@TENSORFLOW
def test_draws_of_each_replica_differ_and_are_reproducible(found):
    first, second = found["replica"]["draws"]
    assert first != second
    assert first == found["two"]["draws"][0]  # the first one's are those that would be shared
    assert found["resumed"]["draws"] == [first, second]


@TENSORFLOW
def test_examples_on_different_replicas_draw_independently(found):
    first, second = found["example draws"]
    assert first != second and len(first) == len(second) == 16


@TENSORFLOW
def test_interrupted_with_dropout_it_ends_the_same(found):
    whole, resumed = found["replica"], found["resumed"]
    assert len(whole["losses"]) == 8 and len(resumed["losses"]) == 4
    assert resumed["losses"] == whole["losses"][4:]
    assert resumed["weights"] == whole["weights"]


@JAX
def test_draws_of_each_replica_are_refused(found):
    assert 'sampling="replica" needs replicas that run a program each' in found["refused"]


@JAX
def test_batches_that_cannot_be_divided_are_refused_in_time(found):
    assert "divides a batch into 2 equal parts" in found["uneven"]
    assert "batch 2 has 3 examples" in found["uneven"]
