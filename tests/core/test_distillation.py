"""The laws of the distillation terms."""

import numpy as np
import pytest
from helpers import (
    Probe,
    all_changed,
    assert_same,
    compiled_call,
    eager,
    to_numpy,
    to_tensor,
    values,
)

from bert_of_theseus import build_successor_model, build_theseus_model, set_replacement_rate
from bert_of_theseus.backend import keras
from bert_of_theseus.distillation import HiddenDistillation, LogitsDistillation
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.models import TheseusModel, distil

VOCAB, HIDDEN, CLASSES = 9, 4, 3
rng = np.random.default_rng(0)
X = rng.integers(1, VOCAB, (6, 5)).astype("int32")
X[:3, 3:] = 0  # padding, where masks are made of it
Y = rng.integers(0, CLASSES, 6).astype("int32")


def head(activation="softmax"):
    x = inputs = keras.Input((5, HIDDEN))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, activation=activation)(x))


class Host:
    """A predecessor with a head, of some dropout, and a successor; `teacher` is the former."""

    def __init__(self, seed=0, dropout=0.3, activation="softmax", mask=False):
        keras.utils.set_random_seed(seed)

        def block():
            layers = [keras.layers.Dense(HIDDEN, activation="tanh", bias_initializer="normal")]
            layers += [keras.layers.Dropout(dropout)] if dropout else []
            return keras.Sequential([keras.Input((5, HIDDEN)), *layers])

        self.predecessor, self.successor = (
            StackEncoder(
                [block() for _ in range(number)],
                inputs=keras.Input((5,), dtype="int32"),
                embedding=keras.layers.Embedding(VOCAB, HIDDEN, "normal", mask_zero=mask),
            )
            for number in (4, 2)
        )
        self.head = head(activation)
        self.teacher = keras.Model(self.predecessor.inputs, self.head(self.predecessor.output))

    def theseus(self, **kwargs):
        return build_theseus_model(self.predecessor, self.successor, self.head, **kwargs)

    def student(self):
        """The successor with a head of its own."""
        copy = keras.models.clone_model(self.head)
        copy.set_weights(self.head.get_weights())
        return build_successor_model(self.successor, copy)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def expected_term(theirs, own, temperature, from_logits):
    """After Hinton et al., in NumPy."""
    theirs, own = np.float64(theirs), np.float64(own)
    if not from_logits:
        theirs, own = np.log(theirs), np.log(own)
    theirs, own = softmax(theirs / temperature), softmax(own / temperature)
    return temperature**2 * (theirs * np.log(theirs / own)).sum(-1).mean()


def task_loss(from_logits=False):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def no_task(y, outputs):
    return 0.0 * outputs[..., 0]


def compiled(model, from_logits=False, rate=0.1, run_eagerly=True):
    """Eager by default: most tests take a step or two, which are not worth a compilation."""
    optimizer = keras.optimizers.SGD(rate)
    model.compile(optimizer, task_loss(from_logits), run_eagerly=run_eagerly)
    return model


def loss_of_a_step(model):
    return float(np.ravel(model.train_on_batch(X, Y))[0])


# Logits.


@pytest.mark.parametrize("temperature, weight, from_logits", [
    (1.0, 1.0, False), (5.0, 3.0, False), (2.0, 0.5, True),
])  # fmt: skip
def test_the_loss_is_the_tasks_and_the_term(temperature, weight, from_logits):
    host = Host(dropout=0, activation=None if from_logits else "softmax")
    student = host.student()
    theirs, own = (eager(model, X) for model in (host.teacher, student))
    distilled = distil(student, host.teacher, temperature, weight, from_logits)
    compiled(distilled, from_logits)
    term = expected_term(theirs, own, temperature, from_logits)
    assert term > 1e-4
    task = float(to_numpy(task_loss(from_logits)(Y, own)))
    assert distilled.evaluate(X, Y, verbose=0) == pytest.approx(task, rel=1e-4)
    assert loss_of_a_step(distilled) == pytest.approx(task + weight * term, rel=1e-4)


def test_probabilities_and_logits_are_one_law():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, 8, CLASSES)).astype("float32") * 3
    terms = []
    for from_logits in (True, False):
        outputs, taught = keras.Input((CLASSES,)), keras.Input((CLASSES,))
        layer = LogitsDistillation(
            keras.layers.Activation("linear"), temperature=3.0, from_logits=from_logits
        )
        model = keras.Model([outputs, taught], layer([outputs, taught]))
        model.compile("sgd", no_task, run_eagerly=True)
        pair = list(logits if from_logits else softmax(logits))
        terms.append(float(np.ravel(model.train_on_batch(pair, pair[0]))[0]))
    assert terms[0] == pytest.approx(terms[1], rel=1e-4)
    assert terms[0] == pytest.approx(expected_term(logits[1], logits[0], 3.0, True), rel=1e-4)


def test_probabilities_of_0_do_no_harm():
    own, theirs = np.eye(3, dtype="float32"), np.roll(np.eye(3, dtype="float32"), 1, axis=0)
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False)])
    student.layers[-1].set_weights([own])
    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False)])
    teacher.layers[-1].set_weights([theirs])
    distilled = distil(student, teacher)
    distilled.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    assert np.isfinite(distilled.train_on_batch(own, own)).all()
    assert all(np.isfinite(w).all() for w in values(student.weights))


@pytest.mark.parametrize("kind", ["lazy", "dense", "successor"])
def test_what_a_fit_trains(kind):
    host = Host()
    student = host.student() if kind == "successor" else host.theseus(execution=kind, seed=0)
    flags = [layer.trainable for layer in host.teacher._flatten_layers()]
    distilled = distil(student, host.teacher, weight=0.5)
    assert isinstance(distilled, TheseusModel)
    own = {id(w) for w in student.trainable_weights}
    assert {id(w) for w in distilled.trainable_weights} == own
    total = len(distilled.trainable_weights) + len(distilled.non_trainable_weights)
    assert total == len(distilled.weights)
    assert [layer.trainable for layer in host.teacher._flatten_layers()] == flags

    before, moving = values(host.teacher.weights), values(distilled.trainable_weights)
    compiled(distilled, run_eagerly=kind != "lazy").fit(X, Y, batch_size=2, epochs=3, verbose=0)
    assert_same(before, values(host.teacher.weights))
    assert all_changed(moving, values(distilled.trainable_weights))
    # The same model, but for the loss.
    expected = eager(student, X)
    np.testing.assert_allclose(eager(distilled, X), expected, atol=1e-6)
    if kind != "successor":
        set_replacement_rate(distilled, 1.0)
        small = build_successor_model(distilled)
        np.testing.assert_allclose(eager(small, X), expected, atol=1e-6)
        teachers = {id(w) for w in host.predecessor.layers[0].weights}
        assert not teachers & {id(w) for w in small.weights}


def test_the_gradient_is_the_teachers_advice():
    # A task that says nothing: the student moves, and only towards the teacher.
    host = Host(dropout=0)
    student = host.student()
    distilled = distil(student, host.teacher, weight=1.0)
    distilled.compile(keras.optimizers.SGD(0.5), no_task, run_eagerly=True)
    terms = [loss_of_a_step(distilled) for _ in range(30)]
    assert 0 < terms[-1] < 0.5 * terms[0]


@pytest.mark.slow_unless("torch")
def test_names_change_nothing():
    """A student and a teacher from the same function have layers of one name."""

    def train(teachers_name):
        keras.utils.set_random_seed(0)
        inputs = [keras.Input((4,)) for _ in "ab"]
        student, teacher = (
            keras.Model(x, keras.layers.Dense(3, "softmax", name=name)(x))
            for x, name in zip(inputs, ("dense", teachers_name))
        )
        student.layers[-1].set_weights([np.eye(4, 3), np.zeros(3)])
        teacher.layers[-1].set_weights([-np.eye(4, 3), np.ones(3)])
        distilled = compiled(distil(student, teacher, weight=1.0), rate=0.5)
        x = np.eye(4, dtype="float32")
        for _ in range(3):
            distilled.train_on_batch(x, np.array([0, 1, 2, 0]))
        return values(student.weights)

    assert_same(train("dense"), train("another"))


def test_weight_0_is_no_term():
    results = []
    for weight in (None, 0.0):
        host = Host()
        theseus = host.theseus(seed=0, predecessor_dropout=False, execution="dense")
        model = theseus if weight is None else distil(theseus, host.teacher, weight=weight)
        keras.utils.set_random_seed(1)
        compiled(model)
        results.append((loss_of_a_step(model), values(theseus.trainable_weights)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    for a, b in zip(results[0][1], results[1][1]):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("weight, training, runs", [
    (1.0, True, 1), (0.0, True, 0), (1.0, False, 0), (1.0, None, 0),
])  # fmt: skip
def test_the_teacher_runs_in_training_alone(weight, training, runs):
    x = inputs = keras.Input((CLASSES,))
    probe = Probe(name="teacher_probe")
    teacher = keras.Model(inputs, keras.layers.Softmax()(probe(x)))
    student = keras.Sequential([keras.Input((CLASSES,)), keras.layers.Dense(3, "softmax")])
    distilled = distil(student, teacher, weight=weight)
    data = rng.normal(size=(2, CLASSES)).astype("float32")
    call = compiled_call(distilled, training)
    call(data)
    probe.reset()
    call(data)
    assert probe.forwards == runs
    assert probe.backwards == 0


def test_the_teachers_dropout_is_off():
    host = Host(dropout=0.5)
    student = build_successor_model(
        StackEncoder(
            [keras.layers.Dense(HIDDEN)],
            inputs=keras.Input((5,), dtype="int32"),
            embedding=keras.layers.Embedding(VOCAB, HIDDEN),
        ),
        head(),
    )
    distilled = compiled(distil(student, host.teacher), rate=0.0)
    losses = [loss_of_a_step(distilled) for _ in range(4)]
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-6)


def test_positions_that_the_mask_drops_do_not_count():
    rng = np.random.default_rng(5)
    x = inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(VOCAB, HIDDEN, "normal", mask_zero=True)(x)
    student = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(x))
    x = inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(VOCAB, CLASSES, "normal")(x)
    teacher = keras.Model(inputs, keras.layers.Softmax()(x))
    for model in (student, teacher):
        for weight in model.weights:
            weight.assign(rng.normal(size=tuple(weight.shape)).astype("float32"))
    own, theirs = (eager(model, X) for model in (student, teacher))
    distilled = distil(student, teacher)
    distilled.compile(keras.optimizers.SGD(0.1), no_task, run_eagerly=True)
    kept = X != 0
    expected = expected_term(theirs[kept], own[kept], 2.0, False)
    assert abs(expected - expected_term(theirs, own, 2.0, False)) > 1e-3
    assert loss_of_a_step(distilled) == pytest.approx(expected, rel=1e-4)


def test_several_inputs_and_a_teacher_of_a_dict():
    def classifier(names, as_dict):
        inputs = {name: keras.Input((2,), name=name) for name in names}
        x = keras.layers.Dense(CLASSES)(keras.layers.Concatenate()([inputs["b"], inputs["a"]]))
        x = keras.layers.Softmax()(x)
        return keras.Model(inputs if as_dict else list(inputs.values()), x)

    keras.utils.set_random_seed(0)
    student, teacher = classifier("ba", False), classifier("ab", True)
    data = {name: rng.normal(size=(6, 2)).astype("float32") for name in "ab"}
    pair = [data["b"], data["a"]]
    tensors = {name: to_tensor(part) for name, part in data.items()}
    theirs, own = to_numpy(teacher(tensors)), eager(student, pair)
    distilled = compiled(distil(student, teacher))
    term = expected_term(theirs, own, 2.0, False) + float(to_numpy(task_loss()(Y, own)))
    loss = float(np.ravel(distilled.train_on_batch(pair, Y))[0])
    assert loss == pytest.approx(term, rel=1e-4)
    with pytest.raises(ValueError, match=r"dict of \['a', 'b'\].*\['b', 'c'\]"):
        x, y = keras.Input((2,), name="b"), keras.Input((2,), name="c")
        distil(keras.Model([x, y], keras.layers.Add()([x, y])), teacher)


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_files(file, tmp_path):
    def make(seed):
        host = Host(seed, dropout=0)
        theseus = host.theseus(seed=0, hidden_loss_weight=0.5, execution="dense")
        # Keras' whole-model files lose what two layers of a model share, weights files do not.
        teacher = Host(seed + 1, dropout=0).teacher if file == "model.keras" else host.teacher
        return compiled(distil(theseus, teacher, 3.0, 0.25))

    distilled, path = make(0), tmp_path / file
    if file == "model.keras":
        distilled.save(path)
        copy = keras.models.load_model(path)
    else:
        distilled.save_weights(path)
        copy = make(7)
        copy.load_weights(path)
    assert len(copy.trainable_weights) == len(distilled.trainable_weights)
    losses = [[loss_of_a_step(model) for _ in range(3)] for model in (distilled, copy)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    x = keras.Input((5,))
    dense = keras.layers.Dense(CLASSES, dtype=policy)(x)
    for last, dtype in [("float32", "float32"), (policy, policy[6:])]:
        student = keras.Model(x, keras.layers.Softmax(dtype=last)(dense))
        teacher = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
        distilled = distil(student, teacher)
        assert dtype in str(distilled.outputs[0].dtype)
        data = rng.normal(size=(6, 5)).astype("float32")
        compiled(distilled)
        before = values(student.trainable_weights)
        assert np.isfinite(distilled.train_on_batch(data, Y)).all()
        assert all_changed(before, values(student.trainable_weights))
        theirs, own = (np.float32(eager(model, data)) for model in (distilled, student))
        np.testing.assert_array_equal(theirs, own)


# Hidden states.


@pytest.mark.parametrize("mask", [False, True])
def test_the_hidden_term(mask):
    weight = 0.7
    host = Host(dropout=0, mask=mask)
    theseus = host.theseus(execution="dense", hidden_loss_weight=weight, replacement_rate=0.0)
    plain = host.theseus(execution="dense", replacement_rate=0.0)
    before = values(host.predecessor.layers[0].weights)
    # At rate 0 the state that goes into a module is the predecessor's.
    state = to_numpy(host.predecessor._embedding(X))
    distances = []
    for index in range(2):
        own = to_numpy(host.successor.layers[index](state))
        for layer in host.predecessor.layers[2 * index : 2 * index + 2]:
            state = to_numpy(layer(state))
        squares = ((state - own) ** 2).mean(-1)
        distances.append(squares[X != 0].mean() if mask else squares.mean())
    task = loss_of_a_step(compiled(plain, rate=0.0))
    compiled(theseus)
    moving = values(theseus.trainable_weights)
    assert loss_of_a_step(theseus) == pytest.approx(task + weight * np.mean(distances), rel=1e-4)
    # At rate 0 the task trains nothing; the term does, and only the successor.
    assert all_changed(moving, values(theseus.trainable_weights))
    assert_same(before, values(host.predecessor.layers[0].weights))
    evaluated = compiled(build_successor_model(theseus)).evaluate(X, Y, verbose=0)
    assert theseus.evaluate(X, Y, verbose=0) == pytest.approx(evaluated, rel=1e-5)


def test_hidden_weight_0_is_the_plain_model():
    host = Host()
    theseus = host.theseus(execution="dense", hidden_loss_weight=0.0)
    assert not [layer for layer in theseus.layers if isinstance(layer, HiddenDistillation)]
