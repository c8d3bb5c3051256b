"""The scheduler moves the rate with the optimizer's step."""

import numpy as np
import pytest

from bert_of_theseus import (
    BinaryRandomChoice,
    LinearReplacement,
    ModulewiseReplacement,
    ReplacementRateScheduler,
    get_replacement_rate,
    set_replacement_rate,
)
from bert_of_theseus.backend import BACKEND, KERAS_2, keras
from bert_of_theseus.models.chain import ChainedRandomChoice

X = np.ones((16, 3), "float32")


def build(choices=2, **compile_options):
    x = keras.Input((3,))
    y = keras.layers.Dense(3)(x)
    for _ in range(choices):
        y = BinaryRandomChoice(0.5, seed=0)([y, keras.layers.Dense(3)(y)])
    model = keras.Model(x, y)
    model.compile(keras.optimizers.SGD(0.01), "mse", **compile_options)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


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
    held, _ = fit(build(), LinearReplacement(0.5, fraction=0.5), epochs=2)
    np.testing.assert_allclose(held, [0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1])


def test_a_rate_per_module_and_steps_per_execution():
    at_once = 1 if BACKEND == "torch" else 2  # Keras on PyTorch takes no more
    model = build(steps_per_execution=at_once)
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
    model = build()
    model.compile(keras.optimizers.SGD(0.01, gradient_accumulation_steps=2), "mse")
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


def test_errors(model):
    with pytest.raises(TypeError, match="function of the step"):
        ReplacementRateScheduler(0.5)
    with pytest.raises(ValueError, match="no BinaryRandomChoice or ModuleChoice"):
        fit(build(choices=0), LinearReplacement(0.5, steps=3))
    with pytest.raises(ValueError, match="2 choices, and 3 rates"):
        set_replacement_rate(model, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fit(model, lambda step: 1.5)
    x = keras.Input((3,))
    pair = [ChainedRandomChoice(modules_left=left)([x, x]) for left in (2, 1)]
    counting = keras.Model(x, pair)
    set_replacement_rate(counting, 0.1)
    with pytest.raises(ValueError, match=r"`at_least_one` .*a rate per module.*\[0.1, 0.2\]"):
        set_replacement_rate(counting, [0.1, 0.2])
