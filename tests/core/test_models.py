"""The laws of the builders, on stacks of small Keras layers."""

import itertools

import numpy as np
import pytest
from helpers import (
    Probe,
    all_changed,
    any_changed,
    assert_same,
    dtype_policy,
    eager,
    gradient_function,
    many_calls,
    to_numpy,
    to_tensor,
    values,
    weights_of,
)
from tiny import HIDDEN, PRIMES, VOCAB, Host, dense_block, product_of, scales

from bert_of_theseus import (
    build_successor_model,
    build_theseus_model,
    get_replacement_rate,
    set_replacement_rate,
)
from bert_of_theseus.backend import BACKEND, KERAS_2, keras
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.layers import choice_layers

EXECUTIONS = ["lazy", "dense"]
PATHS = list(itertools.product([0, 1], repeat=3))

rng = np.random.default_rng(0)
X = rng.integers(1, VOCAB, 12).astype("int32")
Y = rng.integers(0, 3, 12).astype("int32")
TARGETS = np.eye(3, dtype="float32")[Y]


def set_path(theseus, path):
    for choice, picked in zip(choice_layers(theseus), path):
        choice.replacement_rate.assign(float(picked))


def probed_block(name):
    inputs = keras.Input((HIDDEN,))
    output = Probe(name=f"{name}_probe")(dense_block(name)(inputs))
    return keras.Model(inputs, output, name=f"{name}_probed")


# One law in both executions.


@pytest.fixture(scope="module")
def host():
    return Host((6, 3), block=probed_block)


@pytest.fixture(scope="module")
def both(host):
    models = {execution: host.theseus(execution=execution) for execution in EXECUTIONS}
    return {name: (model, gradient_function(model)) for name, model in models.items()}


@pytest.mark.parametrize("path", PATHS)
def test_lazy_is_dense(path, host, both):
    results = {}
    for execution, (theseus, run) in both.items():
        set_path(theseus, path)
        output, loss, gradients = run(X, TARGETS)
        results[execution] = output, loss, dict(zip(map(id, theseus.trainable_weights), gradients))
    lazy, dense = results["lazy"], results["dense"]
    np.testing.assert_allclose(lazy[0], dense[0], atol=1e-5)
    assert lazy[1] == pytest.approx(dense[1], abs=1e-5)
    # And both are the model of the picked modules alone.
    alone = to_numpy(host.alone(path)(to_tensor(X)))
    np.testing.assert_allclose(lazy[0], alone, atol=1e-5)
    assert set(lazy[2]) == set(dense[2]) == set(map(id, weights_of(host.successor.layers)))
    for picked, layer in zip(path, host.successor.layers):
        for weight in layer.weights:
            # Some backends give None, some zeros, for what was not used.
            a, b = (
                np.zeros(weight.shape) if result[2][id(weight)] is None else result[2][id(weight)]
                for result in (lazy, dense)
            )
            np.testing.assert_allclose(a, b, atol=1e-5)
            assert (a != 0).any() == bool(picked)


@pytest.mark.parametrize("path", PATHS)
def test_lazy_runs_what_was_picked_and_no_gradient_that_is_useless(path, host, both):
    theseus, run = both["lazy"]
    set_path(theseus, path)
    run(X, TARGETS)
    probes = [Probe.counts[f"{name}_probe"] for name in ("p0", "p2", "p4", "s0", "s1", "s2")]
    for counts in probes:
        counts[:] = [0, 0]
    run(X, TARGETS)
    forwards, backwards = zip(*probes)
    assert forwards == tuple(1 - picked for picked in path) + path
    assert backwards[3:] == path
    # Through the predecessor's modules only to reach a successor's module below.
    assert backwards[:3] == tuple(
        int(not picked and any(path[:index])) for index, picked in enumerate(path)
    )


def test_inference_is_the_successor_at_any_rate(host, both):
    expected = to_numpy(host.alone([1, 1, 1])(to_tensor(X)))
    for theseus, _ in both.values():
        for rate in (0, 0.5):
            set_replacement_rate(theseus, rate)
            np.testing.assert_allclose(eager(theseus, X), expected, atol=1e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX differentiates what it is asked to")
@pytest.mark.parametrize("path", [(0, 1, 0), (1, 0, 0), (0, 0, 0)])
def test_no_gradient_for_frozen_weights(path, host, both):
    theseus, _ = both["lazy"]
    set_path(theseus, path)
    own = {id(weight) for weight in weights_of(host.successor.layers)}
    frozen = [w for w in theseus.weights if id(w) not in own and "float" in str(w.dtype)]
    frozen = [w for w in frozen if "replacement_rate" not in w.name]
    assert len(frozen) == len(weights_of(host.predecessor.layers)) + 1 + 2  # embedding, head
    if BACKEND == "torch":
        gradient_function(theseus)(X, TARGETS)
        gradients = [weight.value.grad for weight in frozen]
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(theseus(X, training=True) ** 2)
        gradients = tape.gradient(loss, frozen if KERAS_2 else [w.value for w in frozen])
    modules = {id(weight) for weight in weights_of(host.predecessor.layers)}
    for weight, gradient in zip(frozen, gradients):
        assert gradient is None or id(weight) not in modules, weight.name


# What is trained.


def noisy_block(name):
    """With all that a frozen layer could still change or leak: statistics and noise."""
    x = inputs = keras.Input((HIDDEN,))
    x = keras.layers.Dense(HIDDEN, activation="tanh")(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dropout(0.1)(x), name=name)


@pytest.mark.parametrize("execution, embeddings", [
    ("lazy", "predecessor"),
    pytest.param("lazy", "replace", marks=pytest.mark.slow_unless("torch", "tensorflow")),
    pytest.param("dense", "replace", marks=pytest.mark.slow_unless("torch", "tf_keras")),
])  # fmt: skip
def test_what_each_stage_trains(execution, embeddings, tmp_path):
    host = Host(block=noisy_block)
    predecessor, successor = host.predecessor, host.successor
    fine_tuned = keras.Model(predecessor.input_structure, host.head(predecessor.output))
    loss = "sparse_categorical_crossentropy"
    # Before the Theseus model is built. What is compiled is the Theseus model alone.
    fine_tuned.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    predecessor.layers[3].trainable = False  # a flag of the caller's own
    layers = list(fine_tuned._flatten_layers())
    flags = [layer.trainable for layer in layers]

    theseus = host.theseus(execution=execution, embeddings=embeddings, seed=0)
    theseus.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    own = weights_of(successor.layers)
    if embeddings == "replace":
        own += successor._embedding.weights
    else:
        assert_same(values(predecessor._embedding.weights), values(successor._embedding.weights))
    frozen = fine_tuned.weights
    before, trained = values(frozen), values(own)
    theseus.fit(X, Y, batch_size=4, epochs=3, verbose=0)
    assert_same(before, values(frozen))
    assert all_changed(trained, values(own))
    assert [layer.trainable for layer in layers] == flags
    assert {id(w) for w in theseus.trainable_weights} == {id(w) for w in own if w.trainable}
    total = len(theseus.trainable_weights) + len(theseus.non_trainable_weights)
    assert len(theseus.weights) == total

    # The successor, taken out: the same numbers, none of the predecessor's weights, no more bytes
    # than such a model built alone.
    small = build_successor_model(theseus)
    np.testing.assert_array_equal(eager(small, X), eager(theseus, X))
    own = {id(w) for w in [*weights_of(successor.layers), *successor._embedding.weights]}
    assert {id(w) for w in small.weights} == own | {id(w) for w in host.head.weights}
    fresh = Host(seed=1, block=noisy_block)
    fresh_model = build_successor_model(fresh.successor, fresh.head)
    assert small.count_params() == fresh_model.count_params()
    sizes = []
    for model in (small, fresh_model, theseus):
        path = tmp_path / f"{model.name}.weights.h5"
        model.save_weights(path)
        sizes.append(path.stat().st_size)
    assert sizes[0] == sizes[1] < sizes[2]
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(eager(loaded, X), eager(small, X))

    # Trained on, all of it; and the predecessor's model of the beginning still trains, too.
    for model, weights in [
        (small, small.trainable_weights),
        (fine_tuned, predecessor.layers[0].trainable_weights),
    ]:
        if model is small:
            model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
        before = values(weights)
        model.fit(X, Y, batch_size=4, verbose=0)
        assert all_changed(before, values(weights))


# The law of the draws.


# Hundreds of calls, which PyTorch does not compile.
uncompiled_slow = pytest.mark.slow_unless("tf_keras", "tensorflow", "jax")


@pytest.mark.parametrize("execution, at_least_one", [
    ("lazy", False),
    pytest.param("dense", True, marks=uncompiled_slow),
    pytest.param("dense", False, marks=uncompiled_slow),
    pytest.param("lazy", True, marks=uncompiled_slow),
])  # fmt: skip
def test_distribution_of_the_paths(execution, at_least_one):
    theseus = scales(3, 3, execution=execution, at_least_one=at_least_one, seed=1)
    number = 250
    draw = many_calls(theseus, number)
    for rate in (0.5, 0.2, 0.0):
        set_replacement_rate(theseus, rate)
        products = draw(np.ones((1, 1), "float32")).ravel().astype(int)
        paths = np.stack([products % prime == 0 for prime in PRIMES[3:6]], axis=1).astype(int)
        law = np.array([np.prod([rate if bit else 1 - rate for bit in path]) for path in PATHS])
        if at_least_one:
            # Drawing again until something is replaced; in the limit of rate 0, one module, any.
            law = np.where(np.sum(PATHS, 1) > 0, law, 0.0)
            law = law / law.sum() if rate else np.where(np.sum(PATHS, 1) == 1, 1 / 3, 0.0)
        counts = np.array([(paths == path).all(1).sum() for path in PATHS])
        assert counts.sum() == number
        assert (abs(counts - number * law) <= 4 * np.sqrt(number * law * (1 - law))).all(), rate
        if rate == 0.5 and not at_least_one:
            correlations = np.corrcoef(paths.T)[np.triu_indices(3, k=1)]
            assert (abs(correlations) <= 4 / np.sqrt(number)).all()


def test_at_least_one_counts_the_embeddings():
    theseus = Host().theseus(0.0, embeddings="replace", at_least_one=True, seed=0)
    choices = choice_layers(theseus)
    assert [choice.modules_left for choice in choices] == [3, 2, 1]
    alone = scales(3, 1, module_map=[[0, 1, 2]], replacement_rate=0.0, at_least_one=True)
    assert eager(alone, np.ones((1, 1), "float32"), training=True) == PRIMES[3]


# How a fit is run changes nothing.

OPTIONS = {
    "plain": {},
    "several steps per call": {"steps_per_execution": 3},
    "eager": {"run_eagerly": True},
    "XLA": {"jit_compile": True},
}


def trained(execution="dense", seed=3, **options):
    host = Host()
    theseus = host.theseus(execution=execution, seed=seed)
    options = {"jit_compile": False, **options}
    theseus.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", **options)
    theseus.fit(X, Y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    return values(weights_of(host.successor.layers))


@pytest.fixture(scope="module")
def reference():
    return trained(run_eagerly=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_fit_is_reproducible(option, reference):
    if BACKEND == "torch" and option != "plain":
        pytest.skip("PyTorch knows one way")
    if BACKEND == "tensorflow" and option == "XLA":
        reference = trained(**OPTIONS[option])  # XLA's numbers are others than TensorFlow's
    for a, b in zip(reference, trained("lazy", **OPTIONS[option])):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow traces again for new variables")
@pytest.mark.parametrize("execution, policy", [
    ("lazy", "float32"),
    ("dense", "float32"),
    ("lazy", "mixed_float16"),  # whose loss is scaled by an optimizer around the optimizer
])  # fmt: skip
def test_a_step_is_traced_once(execution, policy):
    traced = []

    class Traced(keras.layers.Dense):
        def call(self, inputs):
            traced.append(self.name)
            return super().call(inputs)

    with dtype_policy(policy):
        host = Host(block=lambda name: Traced(HIDDEN, name=name))
        theseus = host.theseus(execution=execution)
        metrics = [keras.metrics.SparseCategoricalAccuracy()]
        loss = "sparse_categorical_crossentropy"
        theseus.compile(keras.optimizers.Adam(), loss, metrics=metrics)
    traced.clear()
    theseus.fit(X, Y, batch_size=2, verbose=0)
    assert sorted(traced) == ["p0", "p1", "p2", "p3", "s0", "s1"]
    theseus.fit(X, Y, batch_size=2, verbose=0)
    assert len(traced) == 6


@pytest.mark.slow_unless("tf_keras")  # whose optimizers do not say that they are built
def test_a_second_fit_goes_on_with_the_optimizer_of_the_first():
    """Its moments and its count of steps, also where a new training step is made."""

    def trained(*epochs):
        host = Host()
        theseus = host.theseus(seed=3)
        theseus.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
        for number in epochs:
            theseus.fit(X, Y, batch_size=2, epochs=number, shuffle=False, verbose=0)
            theseus.make_train_function(force=True)
        return values(weights_of(host.successor.layers))

    for a, b in zip(trained(2), trained(1, 1), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_other_seeds_train_otherwise(reference):
    first, again = (trained(seed=None, run_eagerly=True) for _ in range(2))
    assert any_changed(first, reference)
    assert any_changed(trained(seed=4, run_eagerly=True), reference)
    for a, b in zip(first, again):  # `set_random_seed` governs it
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_mixed_precision(execution, policy):
    with dtype_policy(policy):
        host = Host()
        theseus = host.theseus(0.1, execution=execution, seed=0)
        theseus.compile(
            keras.optimizers.SGD(0.1),
            "sparse_categorical_crossentropy",
            # Dense, there are no branches that compilation must join. JAX compiles anyway.
            run_eagerly=execution == "dense" and BACKEND != "jax",
        )
    for choice in choice_layers(theseus):
        assert values([choice.replacement_rate]) == [np.float32(0.1)]
        assert choice.compute_dtype == policy.removeprefix("mixed_")
    set_replacement_rate(theseus, 0.5)
    before = values(weights_of(host.successor.layers))
    theseus.fit(X, Y, batch_size=2, epochs=2, verbose=0)
    after = values(weights_of(host.successor.layers))
    assert all_changed(before, after)
    assert all(np.isfinite(weight).all() for weight in after)


# Files.


FORMATS = ["theseus.keras", "theseus.weights.h5"]
if KERAS_2:
    FORMATS += ["theseus.h5", "saved_model", "theseus.weights"]


def compiled(theseus):
    loss = "sparse_categorical_crossentropy"
    theseus.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    return theseus


def train_on(theseus):
    theseus.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)


@pytest.fixture(scope="module", params=EXECUTIONS)
def saved(request, tmp_path_factory):
    """A Theseus model that was trained a little, in files of every format; how it goes on."""
    execution, folder = request.param, tmp_path_factory.mktemp("files")
    theseus = compiled(Host().theseus(execution=execution, embeddings="replace", seed=0))
    theseus.fit(X, Y, batch_size=4, verbose=0)
    set_replacement_rate(theseus, 0.75)
    for file in FORMATS:
        (theseus.save_weights if "weights" in file else theseus.save)(str(folder / file))
    before = eager(theseus, X)
    train_on(theseus)
    return execution, folder, theseus, before, eager(theseus, X)


@pytest.mark.parametrize("file", FORMATS)
def test_files(file, saved):
    execution, folder, theseus, outputs, later = saved
    if "weights" in file:
        copy = compiled(Host(seed=1).theseus(execution=execution, embeddings="replace", seed=1))
        copy.load_weights(str(folder / file))
    else:
        copy = keras.models.load_model(str(folder / file))
        copy.run_eagerly = True
        with pytest.raises(ValueError, match=r"Pass the successor itself"):
            build_successor_model(copy)
    assert get_replacement_rate(copy) == 0.75
    assert len(copy.trainable_weights) == len(theseus.trainable_weights)
    assert len(copy.weights) == len(theseus.weights)
    np.testing.assert_allclose(eager(copy, X), outputs, atol=1e-6)
    # It goes on where it was: the same draws, and the same is trained and frozen.
    trainable = {id(weight) for weight in copy.trainable_weights}
    frozen = [w for w in copy.weights if id(w) not in trainable and "draw" not in w.name]
    before, moving = values(frozen), values(copy.trainable_weights)
    train_on(copy)
    assert_same(before, values(frozen))
    assert any_changed(moving, values(copy.trainable_weights))
    np.testing.assert_allclose(eager(copy, X), later, atol=1e-5)


# The module map.


@pytest.mark.parametrize("n, m, module_map, modules", [
    (6, 3, None, [[0, 1], [2, 3], [4, 5]]),
    (4, 1, None, [[0, 1, 2, 3]]),
    (3, 3, None, [[0], [1], [2]]),
    (5, 2, None, [[0, 1], [2, 3, 4]]),
    (5, 3, None, [[0, 1], [2], [3, 4]]),
    (6, 3, [[0], [1, 2, 3], [4, 5]], [[0], [1, 2, 3], [4, 5]]),
    (5, 2, (range(2), range(2, 5)), [[0, 1], [2, 3, 4]]),
])  # fmt: skip
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_module_map(execution, n, m, module_map, modules):
    theseus = scales(n, m, module_map=module_map, execution=execution)
    for replaced in range(m):
        path = [int(index == replaced) for index in range(m)]
        set_path(theseus, path)
        product = eager(theseus, np.ones((1, 1), "float32"), training=True)
        assert product == product_of(n, modules, path)


@pytest.mark.parametrize("execution", ["lazy", "dense"])
def test_padding_reaches_no_module(execution):
    # Attention of Keras 3 takes the mask off its input, and both sides of a choice have the same.
    def block():
        x = keras.Input((None, 8))
        y = keras.layers.MultiHeadAttention(2, 4)(x, x)
        model = keras.Model(x, y)
        model.supports_masking = True
        return model

    ids = keras.Input((None,), dtype="int32")
    embeddings = [keras.layers.Embedding(9, 8, mask_zero=True) for _ in range(2)]
    stacks = [
        StackEncoder([block(), block()], inputs=ids, embedding=embedding)
        for embedding in embeddings
    ]
    head = keras.layers.GlobalAveragePooling1D()
    model = build_theseus_model(*stacks, head, replacement_rate=0.0, execution=execution)
    plain, padded = (np.array([[3, 5, 8, *[0] * n]], "int32") for n in (0, 4))
    for training in (False, True):
        outputs = [eager(model, x, training) for x in (plain, padded)]
        np.testing.assert_allclose(*outputs, atol=1e-6)
