"""The scheduler's rate reaches Keras' own loggers."""

import csv
import importlib.util
import re

import pytest
from test_callbacks import X, build

from bert_of_theseus import LinearReplacement, ReplacementRateScheduler
from bert_of_theseus.backend import BACKEND, keras

if BACKEND != "tensorflow":
    pytest.skip("Keras logs for TensorBoard through TensorFlow", allow_module_level=True)

import tensorflow as tf

SCHEDULE = LinearReplacement(0.25, steps=8)  # Two epochs of four batches.
AT_ONCE = [1, 2]


def fit(at_once, *loggers, verbose=0):
    build(steps_per_execution=at_once).fit(
        X,
        X,
        batch_size=4,
        epochs=2,
        verbose=verbose,
        callbacks=[ReplacementRateScheduler(SCHEDULE), *loggers],
    )


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


@pytest.mark.parametrize("at_once", AT_ONCE)
def test_tensorboard(at_once, tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    fit(at_once, keras.callbacks.TensorBoard(str(tmp_path), update_freq=1))
    found = scalars(tmp_path)
    # Of the steps that run at once, the rate is the first one's.
    rates = [SCHEDULE(step) for step in range(8)][::at_once]
    assert found["epoch_replacement_rate"] == [
        (0, pytest.approx(rates[len(rates) // 2 - 1])),
        (1, pytest.approx(rates[-1])),
    ]
    assert [rate for _, rate in found["batch_replacement_rate"]] == pytest.approx(rates)


@pytest.mark.parametrize("at_once", AT_ONCE)
def test_csv(at_once, tmp_path):
    fit(at_once, keras.callbacks.CSVLogger(str(tmp_path / "log.csv")))
    with open(tmp_path / "log.csv", newline="") as file:
        rates = [float(row["replacement_rate"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([SCHEDULE(4 - at_once), SCHEDULE(8 - at_once)])


@pytest.mark.parametrize("at_once", AT_ONCE)
def test_progress_bar(at_once, capsys):
    fit(at_once, verbose=2)
    shown = re.findall(r"replacement_rate: ([\d.e+-]+)", capsys.readouterr().out)
    assert [float(rate) for rate in shown] == pytest.approx(
        [SCHEDULE(4 - at_once), SCHEDULE(8 - at_once)], abs=1e-3
    )
