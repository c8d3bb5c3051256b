"""The fused optimizer does what Keras' Adam does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_of_theseus.backend import BACKEND, KERAS_2, keras, to_numpy
from bert_of_theseus.optimizer import FusedAdam
from bert_of_theseus.training import Stage
from bert_of_theseus.training.stage import build_optimizer

if BACKEND == "tensorflow":
    import tensorflow as tf

FLAVOURS = ("torch", "tensorflow", "tf_keras")  # on JAX it is Keras' own
pytestmark = pytest.mark.slow_unless(*FLAVOURS)
on_tensorflow = pytest.mark.only("tensorflow", "tf_keras")

SHAPES = {"matrix": (7, 5), "bias": (5,), "table": (40, 3), "number": ()}


# In double precision: in single, Keras' own powers of beta have but four digits.
def weights(dtype="float64"):
    rng = np.random.default_rng(0)
    variable = tf.Variable if KERAS_2 else keras.Variable
    return [
        variable(rng.normal(size=shape), dtype=dtype, name=name) for name, shape in SHAPES.items()
    ]


def as_tensor(array, variable):
    if BACKEND == "tensorflow":
        return tf.convert_to_tensor(array, variable.dtype)
    return keras.ops.convert_to_tensor(array, variable.dtype)


def gradients(variables, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [as_tensor(scale * rng.normal(size=each.shape), each) for each in variables]


def apply(optimizer, given, variables):
    if KERAS_2:
        optimizer.apply_gradients(list(zip(given, variables)))
    else:
        optimizer.apply(given, variables)


def trained(optimizer, variables, steps=30, missing=None):
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(variables)
    for step in range(steps):
        given = gradients(variables, step, scale=10.0 ** (step % 5 - 3))
        if missing is not None and step % 3:
            given[missing] = None
        before = [None if gradient is None else to_numpy(gradient) for gradient in given]
        apply(optimizer, given, variables)
        for gradient, kept in zip(given, before):
            assert gradient is None or (to_numpy(gradient) == kept).all()
    return [to_numpy(variable) for variable in [*variables, *optimizer.variables[2:]]]


OPTIONS = [
    {},
    {"global_clipnorm": 1.0, "weight_decay": 0.1},
    {"clipnorm": 0.1},
    {"clipvalue": 0.1, "epsilon": 1e-2, "beta_1": 0.5, "beta_2": 0.9},
    {"amsgrad": True, "global_clipnorm": 1.0},
    {"use_ema": True, "global_clipnorm": 0.5},
    *([] if KERAS_2 else [{"gradient_accumulation_steps": 2}]),
]


@pytest.mark.only(*FLAVOURS)
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "none")
def test_the_same_weights_and_moments_as_keras(options):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 40)
    # An average of gradients needs all of them.
    missing = None if "gradient_accumulation_steps" in options else 1
    found = trained(FusedAdam(schedule, **options), weights(), missing=missing)
    expected = trained(keras.optimizers.Adam(schedule, **options), weights(), missing=missing)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.only(*FLAVOURS)
def test_single_precision():
    options = {"learning_rate": 0.1, "global_clipnorm": 1.0}
    found = trained(FusedAdam(**options), weights("float32"))
    for a, b in zip(found, trained(keras.optimizers.Adam(**options), weights("float32"))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.only("torch")
def test_weights_that_are_not_contiguous():
    def transposed():
        variables = weights()
        variables[0].value.data = variables[0].value.data.T.contiguous().T
        assert not variables[0].value.is_contiguous()
        return variables

    found = trained(FusedAdam(0.1), transposed())
    for a, b in zip(found, trained(keras.optimizers.Adam(0.1), weights())):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@on_tensorflow
@pytest.mark.filterwarnings("error:Converting sparse IndexedSlices")
def test_gradients_of_some_rows():
    """As those of embeddings are, a row that occurs twice among them; of the others it is zero."""

    def looked_up(optimizer, convert):
        (table,) = variables = [weights()[2]]
        optimizer.build(variables)
        for step in range(10):
            rows = np.random.default_rng(step).integers(0, 10, 20)
            variable = table if KERAS_2 else table.value
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.gather(variable, rows) ** 3)
            gradient = tape.gradient(loss, variable)
            assert isinstance(gradient, tf.IndexedSlices)
            apply(optimizer, [convert(gradient)], variables)
        return to_numpy(table)

    found = looked_up(FusedAdam(0.1), lambda gradient: gradient)
    expected = looked_up(keras.optimizers.Adam(0.1), tf.convert_to_tensor)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert not np.allclose(found[:10], to_numpy(weights()[2])[:10])


@on_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_within_a_compiled_step(jit_compile):
    """With XLA too. Of several replicas tests/core/test_distribution.py tells."""

    def fitted(optimizer, jit_compile):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(9, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        optimizer = optimizer(0.1, weight_decay=0.1, global_clipnorm=1.0)
        model.compile(optimizer, "mse", jit_compile=jit_compile)
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 9, (64, 4)), rng.normal(size=(64, 2))
        model.fit(x, y, batch_size=8, epochs=3, verbose=0, shuffle=False)
        return model.get_weights()

    expected = fitted(keras.optimizers.Adam, jit_compile=False)
    for a, b in zip(fitted(FusedAdam, jit_compile), expected):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.only("torch")
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_seen_in_all_weights(value):
    variables = weights()
    given = gradients(variables, 0)
    given[2][0, 0] = value
    FusedAdam(0.1, global_clipnorm=1.0).apply(given, variables)
    assert all(np.isnan(to_numpy(variable)).all() for variable in variables)


def small_model(weight_decay):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    stage = Stage(1, 0.1, weight_decay=weight_decay)
    model.compile(build_optimizer(stage, model, 10), "mse")
    return model, np.ones((8, 3)), np.zeros((8, 2))


@pytest.mark.only("torch")
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_a_stage_trains_with_the_kernel(weight_decay):
    from torch.profiler import profile

    model, x, y = small_model(weight_decay)
    with profile() as seen:
        model.train_on_batch(x, y)
    names = {event.key for event in seen.key_averages()}
    assert "aten::_fused_adam_" in names and "aten::_foreach_sqrt" not in names


@on_tensorflow
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_a_stage_trains_with_the_operation(weight_decay):
    model, x, y = small_model(weight_decay)
    x, y = tf.constant(x, "float32"), tf.constant(y, "float32")
    step = tf.function(lambda: model.train_step((x, y)))
    names = {operation.type for operation in _operations(step.get_concrete_function().graph)}
    assert "ResourceApplyAdam" in names


def _operations(graph):
    yield from graph.get_operations()
    for function in graph._functions.values():
        yield from function.graph.get_operations()


@pytest.mark.slow
@pytest.mark.only("torch", "tensorflow")
def test_the_benchmark():
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "optimizer.py"
    options = [
        "--backend",
        BACKEND,
        "--tiny",
        "--rounds",
        "1",
        "--layers",
        "1",
        "2",
        "--tokens",
        "8",
    ]
    line = [sys.executable, script, *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    kinds = [("1", "Keras'"), ("1", "fused"), ("2", "Keras'"), ("2", "fused")]
    assert [(row[0].strip("| "), row[2]) for row in rows] == kinds
    assert [row[5].strip(" |") for row in rows[::2]] == ["1.00", "1.00"]
