"""The fused optimizer does what Keras' Adam does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_of_theseus.backend import keras, to_numpy
from bert_of_theseus.optimizer import FusedAdam
from bert_of_theseus.training import Stage
from bert_of_theseus.training.stage import build_optimizer

pytestmark = pytest.mark.only("torch")

SHAPES = {"matrix": (7, 5), "bias": (5,), "table": (40, 3), "number": ()}


# In double precision: in single, Keras' own powers of beta have but four digits.
def weights(dtype="float64"):
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape), dtype=dtype, name=name)
        for name, shape in SHAPES.items()
    ]


def gradients(variables, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [
        keras.ops.convert_to_tensor(scale * rng.normal(size=variable.shape), variable.dtype)
        for variable in variables
    ]


def trained(optimizer, variables, steps=30, missing=None):
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(variables)
    for step in range(steps):
        given = gradients(variables, step, scale=10.0 ** (step % 5 - 3))
        if missing is not None and step % 3:
            given[missing] = None
        before = [None if gradient is None else gradient.clone() for gradient in given]
        optimizer.apply(given, variables)
        for gradient, kept in zip(given, before):
            assert gradient is None or bool((gradient == kept).all())
    return [to_numpy(variable) for variable in [*variables, *optimizer.variables[2:]]]


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_clipnorm": 1.0, "weight_decay": 0.1},
        {"clipnorm": 0.1},
        {"clipvalue": 0.1, "epsilon": 1e-2, "beta_1": 0.5, "beta_2": 0.9},
        {"amsgrad": True, "global_clipnorm": 1.0},
        {"use_ema": True, "gradient_accumulation_steps": 2, "global_clipnorm": 0.5},
    ],
    ids=lambda options: ", ".join(options) or "none",
)
def test_the_same_weights_and_moments_as_keras(options):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 40)
    found = trained(FusedAdam(schedule, **options), weights(), missing=1)
    expected = trained(keras.optimizers.Adam(schedule, **options), weights(), missing=1)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_single_precision():
    options = {"learning_rate": 0.1, "global_clipnorm": 1.0}
    found = trained(FusedAdam(**options), weights("float32"))
    for a, b in zip(found, trained(keras.optimizers.Adam(**options), weights("float32"))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_weights_that_are_not_contiguous():
    def transposed():
        variables = weights()
        variables[0].value.data = variables[0].value.data.T.contiguous().T
        assert not variables[0].value.is_contiguous()
        return variables

    found = trained(FusedAdam(0.1), transposed())
    for a, b in zip(found, trained(keras.optimizers.Adam(0.1), weights())):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_seen_in_all_weights(value):
    variables = weights()
    given = gradients(variables, 0)
    given[2][0, 0] = value
    FusedAdam(0.1, global_clipnorm=1.0).apply(given, variables)
    assert all(np.isnan(to_numpy(variable)).all() for variable in variables)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_a_stage_trains_with_the_kernel(weight_decay):
    from torch.profiler import profile

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    stage = Stage(1, 0.1, weight_decay=weight_decay)
    model.compile(build_optimizer(stage, model, 10), "mse")
    x, y = np.ones((8, 3)), np.zeros((8, 2))
    with profile() as seen:
        model.train_on_batch(x, y)
    names = {event.key for event in seen.key_averages()}
    assert "aten::_fused_adam_" in names and "aten::_foreach_sqrt" not in names


@pytest.mark.slow
def test_the_benchmark():
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "optimizer.py"
    options = ["--tiny", "--rounds", "1", "--layers", "1", "2", "--tokens", "8"]
    line = [sys.executable, script, *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    kinds = [("1", "Keras'"), ("1", "fused"), ("2", "Keras'"), ("2", "fused")]
    assert [(row[0].strip("| "), row[2]) for row in rows] == kinds
    assert [row[5].strip(" |") for row in rows[::2]] == ["1.00", "1.00"]
