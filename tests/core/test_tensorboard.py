"""The scheduler's rate reaches Keras' own loggers."""

import csv
import importlib.util
import re

import numpy as np
import pytest
from tiny import rate_model

from bert_of_theseus import LinearReplacement, ReplacementRateScheduler
from bert_of_theseus.backend import BACKEND, keras

if BACKEND != "tensorflow":
    pytest.skip("Keras logs for TensorBoard through TensorFlow", allow_module_level=True)

import tensorflow as tf

SCHEDULE = LinearReplacement(0.25, steps=8)  # Two epochs of four batches.
X = np.ones((16, 3), "float32")


def scalars(directory):
    """What event files hold: by name a list of `(step, value)`."""
    found = {}
    for path in sorted(directory.rglob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor)
                if number.dtype == "float32" and number.ndim == 0:
                    found.setdefault(value.tag, []).append((event.step, float(number)))
    return found


@pytest.mark.parametrize("at_once", [1, 2])
def test_tensorboard_csv_and_progress_bar(at_once, tmp_path, capsys):
    loggers = [keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))]
    tensorboard = importlib.util.find_spec("tensorboard") is not None
    if tensorboard:
        loggers.append(keras.callbacks.TensorBoard(str(tmp_path / "logs"), update_freq=1))
    rate_model(steps_per_execution=at_once).fit(
        X,
        X,
        batch_size=4,
        epochs=2,
        verbose=2,
        callbacks=[ReplacementRateScheduler(SCHEDULE), *loggers],
    )
    # Of the steps that run at once, the rate is the first one's.
    rates = [SCHEDULE(step) for step in range(8)][::at_once]
    epochs = [SCHEDULE(4 - at_once), SCHEDULE(8 - at_once)]
    assert epochs == [rates[len(rates) // 2 - 1], rates[-1]]
    shown = re.findall(r"replacement_rate: ([\d.e+-]+)", capsys.readouterr().out)
    assert [float(rate) for rate in shown] == pytest.approx(epochs, abs=1e-3)
    with open(tmp_path / "log.csv", newline="") as file:
        logged = [float(row["replacement_rate"]) for row in csv.DictReader(file)]
    assert logged == pytest.approx(epochs)
    if not tensorboard:
        pytest.skip("tensorboard is not installed")
    found = scalars(tmp_path / "logs")
    assert found["epoch_replacement_rate"] == list(enumerate(map(pytest.approx, epochs)))
    assert [rate for _, rate in found["batch_replacement_rate"]] == pytest.approx(rates)
