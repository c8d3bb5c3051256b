"""The scheduler moves the rate with the optimizer's step."""

import numpy as np
import pytest
from tiny import rate_model

from bert_of_theseus import (
    LinearReplacement,
    ModulewiseReplacement,
    ReplacementRateScheduler,
    get_replacement_rate,
)
from bert_of_theseus.backend import BACKEND, KERAS_2, keras

X = np.ones((16, 3), "float32")


@pytest.fixture(scope="module")
def model():
    return rate_model()


class Spy(keras.callbacks.Callback):
    """Keeps what the logs say of each batch, and what the model holds then."""

    def on_train_begin(self, logs=None):
        self.logged, self.held = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.logged.append(logs["replacement_rate"])
        self.held.append(get_replacement_rate(self.model))


def fit(model, schedule, **options):
    spy = Spy()
    callbacks = [ReplacementRateScheduler(schedule), spy]
    history = model.fit(X, X, batch_size=4, verbose=0, callbacks=callbacks, **options)
    np.testing.assert_allclose(spy.logged, spy.held)
    return spy.held, history.history["replacement_rate"]


def test_the_rate_follows_the_optimizer_across_fits(model):
    schedule = LinearReplacement(0.0, steps=16)
    held, epochs = fit(model, schedule, epochs=2)
    np.testing.assert_allclose(held, [step / 16 for step in range(8)])
    np.testing.assert_allclose(epochs, [3 / 16, 7 / 16])
    held, _ = fit(model, schedule, epochs=3)
    np.testing.assert_allclose(held, [min(1.0, step / 16) for step in range(8, 20)])


def test_a_fraction_of_the_training():
    held, _ = fit(rate_model(run_eagerly=True), LinearReplacement(0.5, fraction=0.5), epochs=2)
    np.testing.assert_allclose(held, [0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1])


def test_a_rate_per_module_and_steps_per_execution():
    at_once = 1 if BACKEND == "torch" else 2  # Keras on PyTorch takes no more
    model = rate_model(steps_per_execution=at_once)
    held, _ = fit(model, ModulewiseReplacement(2, steps=4), epochs=1)
    # The means of (0, 0), (0.5, 0), (1, 0) and (1, 0.5).
    np.testing.assert_allclose(held, [0, 0.25, 0.5, 0.75][::at_once])


@pytest.mark.skipif(KERAS_2, reason="Keras 2 accumulates no gradients")
@pytest.mark.parametrize(
    "schedule",
    [
        LinearReplacement(0.0, steps=4),
        LinearReplacement(0.0, fraction=1.0),
    ],
)
def test_steps_of_accumulated_gradients(schedule):
    model = rate_model()
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)
    model.compile(optimizer, "mse", run_eagerly=True)
    rates = []
    log = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(logs["replacement_rate"])
    )
    callbacks = [ReplacementRateScheduler(schedule), log]
    model.fit(X, X, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
    # The optimizer makes a step every other batch, so this training is four steps long.
    assert rates == pytest.approx([0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75])


def test_a_function_of_ones_own(model):
    held, _ = fit(model, lambda step: 0.25, epochs=1)
    np.testing.assert_allclose(held, 0.25)
