"""A folder gives its result to the call that made it, and to no other."""

import functools
import json
import warnings

import numpy as np
import pytest
from helpers import assert_same, package, values

from bert_of_theseus import Stage
from bert_of_theseus.backend import keras
from bert_of_theseus.training import BatchAccess, fit
from bert_of_theseus.training.examples import first_batch, summary

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 9, (40, 5)).astype("int32")
LABELS = (IDS[:, 0] % 3).astype("int32")
SCALE = 1.0


@package
class Scaled(keras.layers.Layer):
    """A user's layer, without a config of its own."""

    def call(self, x):
        return SCALE * x


@package
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2.0 * SCALE * x


def build(activation="relu", dropout=0.1, heads=2, seed=1, epsilon=1e-3, first=0, own=Scaled):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(9, 8)(inputs)
    y = keras.layers.Dense(8, activation=activation)(x)
    z = keras.layers.MultiHeadAttention(heads, 8 // heads)(y, y)
    x = keras.layers.Add()([[x, y][first], keras.layers.Dropout(dropout)(z)])
    x = own()(keras.layers.LayerNormalization(epsilon=epsilon)(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def helper(x):
    return 1.0 * x


def my_loss(true, predicted, factor=1.0):
    return factor * helper(keras.losses.sparse_categorical_crossentropy(true, predicted))


def other_loss(true, predicted, factor=1.0):
    return factor + helper(keras.losses.sparse_categorical_crossentropy(true, predicted))


def loss_of(factor):
    def inner(true, predicted):
        return factor * keras.losses.sparse_categorical_crossentropy(true, predicted)

    return inner


other_loss.__qualname__ = other_loss.__name__ = "my_loss"  # edited, not renamed


def run(folder, model=None, **changed):
    options = {
        "train": (IDS, LABELS),
        "validation": (IDS[:8], LABELS[:8]),
        "stage": Stage(1, 0.01),
        "loss": my_loss,
        "metrics": ("accuracy",),
        "directory": folder,
        "batch_size": 8,
        "verbose": 0,
        **changed,
    }
    return fit(model or build(), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same") / "stage"
    model = build()
    return folder, run(folder, model), model


def changed(array, rows, by=1, top=3):
    array = array.copy()
    array[rows] = (array[rows] + by) % top
    return array


SEEN = np.random.default_rng([0, 0]).permutation(40)[:8]  # the first batch
REST = np.setdiff1d(np.arange(40), SEEN)
CHANGES = {
    "one label": ({"train": (IDS, changed(LABELS, REST[:1]))}, "training data"),
    "most labels": ({"train": (IDS, changed(LABELS, REST))}, "training data"),
    "ids": ({"train": (changed(IDS, REST, top=9), LABELS)}, "training data"),
    "order": ({"train": (IDS[::-1], LABELS[::-1])}, "first batch"),
    "one example fewer": ({"train": (IDS[:-1], LABELS[:-1])}, "40 examples.*now '39 examples"),
    "sample weights": ({"train": (IDS, LABELS, np.full(40, 2.0))}, "training data"),
    "class weights": ({"class_weight": {0: 2.0}}, r"class_weight: None, now \[2.0, 1.0, 1.0\]"),
    "validation labels": (
        {"validation": (IDS[:8], changed(LABELS[:8], [3]))},
        "validation data: '8 examples",
    ),
    "no validation": ({"validation": None}, "validation data: .*now None"),
    "another pretrained model": ({"model": lambda: build(seed=2)}, "initial weights.*set_random"),
    "activation": ({"model": lambda: build("gelu")}, r"layer 3 \(Dense\).activation: 'relu'"),
    "dropout": ({"model": lambda: build(dropout=0.2)}, r"\(Dropout\).rate: 0.1, now 0.2"),
    "heads": ({"model": lambda: build(heads=4)}, r"num_heads: 2, now 4"),
    "epsilon": ({"model": lambda: build(epsilon=1e-6)}, r"epsilon: 0.001, now 1e-06"),
    "connections": ({"model": lambda: build(first=1)}, r"wiring"),
    "a layer's code": ({"model": lambda: build(own=Doubled)}, r"\(Scaled\).*now 'Doubled'"),
    "the loss's body": ({"loss": other_loss}, "loss: 'my_loss"),
    "the loss": ({"loss": "sparse_categorical_crossentropy"}, "loss: 'my_loss"),
    "a metric": ({"metrics": (my_loss,)}, "metrics"),
    "seed": ({"seed": 1}, "seed: 0, now 1"),
    "stage": ({"stage": Stage(1, 0.02)}, "stage.learning_rate: 0.01, now 0.02"),
}


def test_the_same_call_gives_the_same_result(finished):
    folder, result, model = finished
    again = build()
    assert run(folder, again) == result
    assert_same(values(again.weights), values(model.weights))
    assert run(folder, model) == result  # which is trained already, as in a notebook
    wider = (IDS.astype("int64"), LABELS.tolist())
    assert run(folder, train=wider, validation=tuple(part[:8] for part in wider)) == result


@pytest.mark.parametrize("what", CHANGES)
def test_another_call_is_refused(what, finished):
    options, said = CHANGES[what]
    options = {**options}
    model = options.pop("model", build)()
    with pytest.raises(ValueError, match=rf"holds a training with other settings \(.*{said}"):
        run(finished[0], model, **options)


crossentropy = keras.losses.sparse_categorical_crossentropy


class Weighted:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, true, predicted):
        return self.factor * crossentropy(true, predicted)

    def method(self, true, predicted):
        return self(true, predicted)


class OwnLoss(keras.losses.Loss):  # its config does not have the factor
    def __init__(self, factor):
        super().__init__()
        self._factor = factor

    def call(self, true, predicted):
        return self._factor * crossentropy(true, predicted)


class OwnLayer(keras.layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return self.factor * x


def around(loss):
    return lambda true, predicted: loss(true, predicted)


def with_layer(factor):
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Flatten()(keras.layers.Embedding(9, 2, embeddings_initializer="ones")(inputs))
    outputs = keras.layers.Dense(3, "softmax", kernel_initializer="zeros")(OwnLayer(factor)(x))
    return keras.Model(inputs, outputs)


def around_itself(factor):
    class Loss:
        def __call__(self, true, predicted):
            return loss.factor * crossentropy(true, predicted)

    loss = Loss()
    loss.factor = factor
    return loss


OBJECTS = {
    "object": lambda factor: {"loss": Weighted(factor)},
    "bound method": lambda factor: {"loss": Weighted(factor).method},
    "own loss": lambda factor: {"loss": OwnLoss(factor)},
    "closure over an object": lambda factor: {"loss": around(Weighted(factor))},
    "closure over a method": lambda factor: {"loss": around(Weighted(factor).method)},
    "closure over itself": lambda factor: {"loss": around_itself(factor)},
    "closure over a number of NumPy": lambda factor: {"loss": loss_of(np.float32(factor))},
    "closure over a loss of Keras": lambda factor: {
        "loss": around(keras.losses.SparseCategoricalCrossentropy(from_logits=factor > 1))
    },
    "own layer without a config": lambda factor: {"model": with_layer(factor)},
}


@pytest.mark.parametrize("what", OBJECTS)
def test_the_attributes_of_objects_are_part_of_a_call(what, tmp_path):
    keras.utils.set_random_seed(1)
    before = run(tmp_path, **OBJECTS[what](1.0))
    assert run(tmp_path, **OBJECTS[what](1.0)) == before
    with pytest.raises(ValueError, match=r"other settings \((loss|model)"):
        run(tmp_path, **OBJECTS[what](2.0))


def test_a_score_may_count_its_calls(tmp_path):
    class Score:
        calls = 0

        def __call__(self, model, data):
            self.calls += 1
            return 1.0 / self.calls

    score = Score()
    before = run(tmp_path, score=score)
    assert run(tmp_path, score=score) == before and score.calls == 1


@pytest.mark.parametrize("change", ["helper", "constant"])
def test_what_a_function_calls_is_part_of_it(change, finished, monkeypatch):
    if change == "helper":
        monkeypatch.setitem(globals(), "helper", lambda x: 2.0 * x)
    else:
        monkeypatch.setitem(globals(), "SCALE", 3.0)
    with pytest.raises(ValueError, match="other settings"):
        run(finished[0])


def test_an_unfinished_stage_is_refused_too(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    options = {"stage": Stage(2, 0.01), "loss": loss_of(2.0)}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Stop()], **options)
    assert (tmp_path / "checkpoint.npz").is_file()
    for change in ({"loss": loss_of(3.0)}, {"train": CHANGES["one label"][0]["train"]}):
        with pytest.raises(ValueError, match="other settings"):
            run(tmp_path, **{**options, **change})
    assert len(run(tmp_path, **options).history["loss"]) == 2


def test_other_versions_are_told_of(finished, monkeypatch):
    monkeypatch.setattr("bert_of_theseus.training.identity.__version__", "0.0.1")
    with warnings.catch_warnings(record=True) as caught:
        assert run(finished[0]) == finished[1]
    said = [str(one.message) for one in caught if "other versions" in str(one.message)]
    assert len(said) == 1 and "(bert_of_theseus: '" in said[0] and "now '0.0.1')" in said[0]


def test_a_folder_of_an_earlier_version_is_refused(tmp_path):
    content = {"name": "x", "history": {}, "settings": {"first_batch": 1, "steps": 5}}
    (tmp_path / "stage.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"written by an earlier version .*delete this one"):
        run(tmp_path)


def test_examples_in_any_order_and_form_are_the_same():
    text = functools.partial(lambda *data: summary(BatchAccess(data, 8)).text)
    first = text(IDS, LABELS)
    rows = np.random.default_rng(1).permutation(40)
    assert text(IDS[rows], LABELS[rows]) == first
    assert text(IDS.astype("int64"), LABELS.tolist()) == first
    assert text(np.pad(IDS, [(0, 0), (0, 3)]), LABELS) == first
    assert text(IDS, LABELS[rows]) != first and text(IDS[:, ::-1], LABELS) != first
    # Every change of one number is seen.
    flat = {text(changed(IDS, np.unravel_index(n, IDS.shape), top=9), LABELS) for n in range(200)}
    assert len(flat | {first}) == 201
    batches = [(IDS[i : i + 8], LABELS[i : i + 8]) for i in range(0, 40, 8)]
    assert summary(BatchAccess(batches, 8)).text == first


def test_the_first_batch_has_an_order_and_a_padding():
    text = functools.partial(lambda *data: first_batch(BatchAccess(data, 8)))
    first = text(IDS, LABELS)
    assert text(IDS.astype("int64"), LABELS.tolist()) == first
    assert text(IDS[REST], LABELS[REST]) != first
    assert text(IDS[[1, 0, *range(2, 40)]], LABELS[[1, 0, *range(2, 40)]]) != first
    assert text(np.pad(IDS, [(0, 0), (0, 3)]), LABELS) != first
    # Texts are told by what they say, not by where they are in memory.
    words = [str(row) for row in IDS]
    assert text(np.array(words, object), LABELS) == text(np.array(words), LABELS) != first
