"""The laws of the builders, on stacks of small Keras layers."""

import itertools

import numpy as np
import pytest
from helpers import (
    Probe,
    all_changed,
    any_changed,
    assert_same,
    compiled_call,
    gradient_function,
    package,
    to_numpy,
    to_tensor,
    values,
    weights_of,
)

import bert_of_theseus as package_names
from bert_of_theseus import (
    StackEncoder,
    build_successor_model,
    build_theseus_model,
    get_replacement_rate,
    set_replacement_rate,
)
from bert_of_theseus.backend import BACKEND, KERAS_2, keras
from bert_of_theseus.layers import choice_layers
from bert_of_theseus.models import _module_map

EXECUTIONS = ["lazy", "dense"]
PATHS = list(itertools.product([0, 1], repeat=3))
HIDDEN = 4
VOCAB = 9

rng = np.random.default_rng(0)
X = rng.integers(1, VOCAB, (12, 5)).astype("int32")
Y = rng.integers(0, 3, 12).astype("int32")
TARGETS = np.eye(3, dtype="float32")[Y]


def block(name, probe=False):
    """A layer of an encoder."""
    dense = keras.layers.Dense(HIDDEN, activation="tanh", name=name)
    if not probe:
        return dense
    inputs = keras.Input((5, HIDDEN))
    return keras.Model(inputs, Probe(name=f"{name}_probe")(dense(inputs)), name=f"{name}_probed")


def embedding(name):
    return keras.layers.Embedding(VOCAB, HIDDEN, name=name)


def head():
    x = inputs = keras.Input((5, HIDDEN))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="head")


class Host:
    """A predecessor, a successor and a head, of the same weights for the same seed."""

    def __init__(self, layers=(4, 2), seed=0, block=block, **options):
        keras.utils.set_random_seed(seed)
        self.predecessor, self.successor = (
            StackEncoder(
                [block(f"{side}{i}", **options) for i in range(number)],
                inputs=keras.Input((5,), dtype="int32"),
                embedding=embedding(f"{side}_embedding"),
            )
            for side, number in zip("ps", layers)
        )
        self.head = head()

    def theseus(self, *args, **kwargs):
        return build_theseus_model(self.predecessor, self.successor, self.head, *args, **kwargs)

    def alone(self, path):
        """The model of the modules picked by `path`, 1 for the successor's."""
        x = inputs = self.predecessor.inputs[0]
        x = self.predecessor._embedding(x)
        for index, picked in enumerate(path):
            for layer in (
                [self.successor.layers[index]]
                if picked
                else self.predecessor.layers[2 * index : 2 * index + 2]
            ):
                x = layer(x)
        return keras.Model(inputs, self.head(x))


def set_path(theseus, path):
    for choice, picked in zip(choice_layers(theseus), path):
        choice.replacement_rate.assign(float(picked))


# One law in both executions.


@pytest.fixture(scope="module")
def host():
    return Host((6, 3), probe=True)


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
            np.testing.assert_allclose(theseus.predict(X, verbose=0), expected, atol=1e-6)


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
    x = inputs = keras.Input((5, HIDDEN))
    x = keras.layers.Dense(HIDDEN, activation="tanh")(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dropout(0.1)(x), name=name)


@pytest.mark.parametrize("execution, embeddings", [
    ("lazy", "predecessor"),
    ("lazy", "replace"),
    ("dense", "replace"),
])  # fmt: skip
def test_what_each_stage_trains(execution, embeddings, tmp_path):
    host = Host(block=noisy_block)
    predecessor, successor = host.predecessor, host.successor
    fine_tuned = keras.Model(predecessor.inputs, host.head(predecessor.output))
    loss = "sparse_categorical_crossentropy"
    fine_tuned.compile(keras.optimizers.Adam(0.01), loss)  # before the Theseus model is built
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
    np.testing.assert_array_equal(small.predict(X, verbose=0), theseus.predict(X, verbose=0))
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
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), small.predict(X, verbose=0))

    # Trained on, all of it; and the predecessor's model of the beginning still trains, too.
    for model, weights in [
        (small, small.trainable_weights),
        (fine_tuned, predecessor.layers[0].trainable_weights),
    ]:
        if model is small:
            model.compile(keras.optimizers.Adam(0.01), loss)
        before = values(weights)
        model.fit(X, Y, batch_size=4, verbose=0)
        assert all_changed(before, values(weights))


# The law of the draws.


@package
class Scale(keras.layers.Layer):
    """Multiplies: the product at the end tells which layers were run."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, input_shape):
        self.scale = self.add_weight(
            name="scale", shape=(), initializer=keras.initializers.Constant(self.factor)
        )
        self.built = True

    def call(self, x):
        return x * self.scale

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23]


def scales(n, m, **kwargs):
    """Predecessor of the first `n` primes, successor of the next `m`."""
    predecessor = [keras.Input((1,)), *map(Scale, PRIMES[:n])]
    successor = [Scale(prime) for prime in PRIMES[n : n + m]]
    identity = keras.layers.Activation("linear", name="head")
    return build_theseus_model(predecessor, successor, identity, **kwargs)


def draw_paths(theseus, number):
    """`(number, 3)` of 0 and 1, of a model of `scales(3, 3)`."""
    call = compiled_call(theseus)
    one = np.ones((1, 1), "float32")
    products = np.array([call(one).item() for _ in range(number)]).astype(int)
    return np.stack([products % prime == 0 for prime in PRIMES[3:6]], axis=1).astype(int)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("at_least_one", [False, True])
def test_distribution_of_the_paths(execution, at_least_one):
    theseus = scales(3, 3, execution=execution, at_least_one=at_least_one, seed=1)
    number = 250
    for rate in (0.5, 0.2, 0.0):
        set_replacement_rate(theseus, rate)
        paths = draw_paths(theseus, number)
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
    assert compiled_call(alone)(np.ones((1, 1), "float32")) == PRIMES[3]


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
    return trained()


@pytest.mark.parametrize("option", OPTIONS)
def test_a_fit_is_reproducible(option, reference):
    if BACKEND == "torch" and option != "plain":
        pytest.skip("PyTorch knows one way")
    if BACKEND == "tensorflow" and option == "XLA":
        reference = trained(**OPTIONS[option])  # XLA's numbers are others than TensorFlow's
    for a, b in zip(reference, trained("lazy", **OPTIONS[option])):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_other_seeds_train_otherwise(reference):
    first = trained(seed=None)
    assert any_changed(first, reference)
    assert any_changed(trained(seed=4), reference)
    for a, b in zip(first, trained(seed=None)):  # `set_random_seed` governs it
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_mixed_precision(execution, policy):
    set_policy = (
        keras.mixed_precision.set_global_policy if KERAS_2 else keras.config.set_dtype_policy
    )
    set_policy(policy)
    try:
        host = Host()
        theseus = host.theseus(0.1, execution=execution, seed=0)
        theseus.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    finally:
        set_policy("float32")
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


@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_files(execution, file, tmp_path):
    host = Host()
    theseus = host.theseus(execution=execution, embeddings="replace", seed=0)
    theseus.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    theseus.fit(X, Y, batch_size=4, verbose=0)
    set_replacement_rate(theseus, 0.75)
    path = str(tmp_path / file)
    if "weights" in file:
        theseus.save_weights(path)
        copy = Host(seed=1).theseus(execution=execution, embeddings="replace", seed=1)
        copy.load_weights(path)
        copy.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    else:
        theseus.save(path)
        copy = keras.models.load_model(path)
        with pytest.raises(ValueError, match=r"Pass the successor itself"):
            build_successor_model(copy)
    assert get_replacement_rate(copy) == 0.75
    assert len(copy.trainable_weights) == len(theseus.trainable_weights)
    assert len(copy.weights) == len(theseus.weights)
    np.testing.assert_allclose(copy.predict(X, verbose=0), theseus.predict(X, verbose=0), atol=1e-6)
    # It goes on where it was: the same draws, and the same is trained and frozen.
    trainable = {id(weight) for weight in copy.trainable_weights}
    frozen = [w for w in copy.weights if id(w) not in trainable and "draw" not in w.name]
    before, moving = values(frozen), values(copy.trainable_weights)
    for model in (theseus, copy):
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert_same(before, values(frozen))
    assert any_changed(moving, values(copy.trainable_weights))
    np.testing.assert_allclose(copy.predict(X, verbose=0), theseus.predict(X, verbose=0), atol=1e-5)


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
    call = compiled_call(theseus)
    for replaced in range(m):
        path = [int(index == replaced) for index in range(m)]
        set_path(theseus, path)
        expected = np.prod(
            [
                PRIMES[n + i] if path[i] else np.prod([PRIMES[j] for j in modules[i]])
                for i in range(m)
            ]
        )
        assert call(np.ones((1, 1), "float32")) == expected


@pytest.mark.parametrize("n, m, module_map, text", [
    (2, 3, None, r"more layers \(3\) than the predecessor \(2\)"),
    (2, 3, [[0], [1], []], r"more layers \(3\) than the predecessor \(2\)"),
    (4, 2, [[0, 1], [2]], r"2 non-empty lists.*0 to 3 once each, in order.*\[\[0, 1\], \[2\]\]"),
    (4, 2, [[0, 1], [3, 2]], "once each, in order"),
    (4, 2, [[0, 1, 2, 3], []], "2 non-empty lists"),
    (4, 2, [[0], [1], [2, 3]], "2 non-empty lists"),
    (4, 2, [[0, 1], [1, 2, 3]], "once each"),
])  # fmt: skip
def test_bad_module_maps(n, m, module_map, text):
    with pytest.raises(ValueError, match=text):
        scales(n, m, module_map=module_map)


def test_default_modules_are_even():
    for n in range(1, 25):
        for m in range(1, n + 1):
            modules = _module_map(None, n, m)
            assert sum(modules, []) == list(range(n))  # complete, once each, in order
            assert len(modules) == m
            sizes = {len(module) for module in modules}
            assert sizes <= {n // m, -(-n // m)}  # so equal where m divides n
    assert [len(module) for module in _module_map(None, 12, 5)] == [2, 3, 2, 3, 2]


# Errors.


@pytest.mark.parametrize("change, error, text", [
    ({"execution": "eager"}, ValueError, r"`execution` must be one of .*'lazy', 'dense'.*'eager'"),
    ({"embeddings": "own"}, ValueError, "`embeddings` must be one of .*Received: 'own'"),
    ({"replacement_rate": 1.5}, ValueError, r"in \[0, 1\].*Received: 1.5"),
    ({"replacement_rate": "0.5"}, TypeError, r"number in \[0, 1\]"),
    ({"seed": 0.5}, ValueError, "at least 0, or None. Received: 0.5"),
    ({"seed": -1}, ValueError, "at least 0, or None. Received: -1"),
])  # fmt: skip
def test_bad_options(change, error, text):
    with pytest.raises(error, match=text):
        scales(2, 1, **change)


def test_bad_parts():
    host = Host()
    with pytest.raises(
        TypeError, match="`classifier` must be a model or layer of the Keras in use"
    ):
        build_theseus_model(host.predecessor, host.successor, lambda x: x)
    with pytest.raises(TypeError, match=r"An encoder must be .*Received: None"):
        build_theseus_model(None, host.successor, host.head)
    with pytest.raises(TypeError, match="A finished model does not say which of its layers"):
        build_successor_model(host.head, host.head)
    with pytest.raises(TypeError, match=r"`classifier` must be a model or layer.*Received: None"):
        build_successor_model(host.successor)
    with pytest.raises(ValueError, match="Both encoders need an embedding, or neither"):
        bare = StackEncoder(host.successor.layers, inputs=keras.Input((5, HIDDEN)))
        build_theseus_model(host.predecessor, bare, host.head)
    wider = StackEncoder(
        host.successor.layers,
        inputs=keras.Input((5,), dtype="int32"),
        embedding=keras.layers.Embedding(VOCAB + 1, HIDDEN),
    )
    with pytest.raises(ValueError, match=r"embeddings do not fit.*\(9, 4\).*\(10, 4\).*replace"):
        build_theseus_model(host.predecessor, wider, host.head)


def test_the_original_name():
    host = Host()
    theseus = package_names.bert_of_theseus(host.predecessor, host.successor, host.head)
    assert get_replacement_rate(theseus) == 0.5
    assert [type(choice).__name__ for choice in choice_layers(theseus)] == [
        "BinaryRandomChoice"
    ] * 3


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
        outputs = [compiled_call(model, training)(x) for x in (plain, padded)]
        np.testing.assert_allclose(*outputs, atol=1e-6)
