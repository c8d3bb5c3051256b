"""Training under mixed precision: the same laws, weights and checkpoints in float32."""

import numpy as np
import pytest
from helpers import assert_same, dtype_policy, values
from stages import build, texts

from bert_of_theseus import Stage, compress
from bert_of_theseus.backend import keras
from bert_of_theseus.data import Batches
from bert_of_theseus.training import fit

POLICIES = [
    "mixed_bfloat16",
    "mixed_float16",
]


@pytest.fixture(params=POLICIES)
def policy(request):
    with dtype_policy(request.param):
        yield request.param


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow_unless("torch")
def test_a_stage_is_resumed(policy, tmp_path):
    def run(folder, callbacks=()):
        model = build()
        data = Batches(texts(), 32, seed=3, multiple=24)
        options = {"stage": Stage(2, 0.01), "callbacks": callbacks, "verbose": 0}
        return model, fit(model, data, data, directory=folder, **options)

    model, result = run(tmp_path / "whole")
    assert np.isfinite(result.history["loss"]).all()
    assert {str(value.dtype) for value in values(model.weights)} == {"float32"}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", [Stop()])
    again, after = run(tmp_path / "killed")
    assert after.history["loss"] == result.history["loss"]
    assert_same(values(again.weights), values(model.weights))
    # The policy is part of the call.
    keras.mixed_precision.set_global_policy("float32")
    with pytest.raises(ValueError, match="other settings"):
        run(tmp_path / "whole")


@pytest.mark.slow_unless("torch")
def test_a_whole_compression(policy, tmp_path):
    def block():
        x = keras.Input((4,))
        return keras.Model(x, keras.layers.Add()([x, keras.layers.Dense(4)(x)]))

    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    # As Keras advises, the outputs of a model are in float32.
    head = keras.Sequential([keras.layers.Dense(2, activation="softmax", dtype="float32")])
    stage = Stage(1, 0.01)
    result = compress(
        [keras.Input((4,)), block(), block()],
        [block()],
        head,
        (x, (x[:, 0] > 0).astype("int32")),
        directory=tmp_path,
        predecessor_stage=stage,
        warm_start_stage=stage,
        theseus_stage=stage,
        successor_stage=stage,
        distillation_weight=1.0,
        latency=False,
        verbose=0,
    )
    assert all(np.isfinite(value).all() for value in values(result.successor.weights))
    assert np.isfinite(result.successor.predict(x, verbose=0)).all()
