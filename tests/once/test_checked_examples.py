"""Examples that do not fit the model are refused; weights of examples count as in Keras."""

import numpy as np
import pytest
from helpers import package

from bert_of_theseus import Stage, compress
from bert_of_theseus.backend import keras
from bert_of_theseus.data.losses import MaskedCrossentropy
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.training import BatchAccess, Limits, NonFiniteLossError, evaluate, fit

IDS, SEGMENTS = np.arange(12).reshape(6, 2) % 5, np.zeros((6, 2), int)
LABELS = np.arange(6) % 3


def build(classes=3, activation="softmax", dtype="int32"):
    """Embeddings within models within a model: of 5 tokens, and of 2 segments."""
    keras.utils.set_random_seed(0)
    inner = [keras.Input((2,), dtype=dtype) for _ in range(2)]
    x = keras.layers.Embedding(5, 4)(inner[0])
    y = keras.layers.Embedding(2, 4)(inner[1])
    inner = keras.Model(inner, keras.layers.Add()([x, y]))
    inputs = [keras.Input((2,), dtype=dtype, name=name) for name in ("token_ids", "segment_ids")]
    x = keras.layers.Flatten()(inner(inputs))
    return keras.Model(inputs, keras.layers.Dense(classes, activation=activation)(x))


def at(array, value, place=4):
    array = array.astype(float) if isinstance(value, float) else array.copy()
    array[place] = value
    return array


SPARSE, BINARY = "sparse_categorical_crossentropy", "binary_crossentropy"
WRONG = [
    ([at(IDS, 5), SEGMENTS], LABELS, SPARSE, r"input\[0\]\) of `train` must be .* 0 to 4.* 5 in"),
    ([at(IDS, -1), SEGMENTS], LABELS, SPARSE, "Received: -1 in example 4"),
    ([at(IDS, 2**40), SEGMENTS], LABELS, SPARSE, r"Received: 1099511627776 in example 4"),
    ([at(IDS, 2.5), SEGMENTS], LABELS, SPARSE, r"whole numbers from 0 to 4. Received: 2.5"),
    ([IDS, at(SEGMENTS, 2)], LABELS, SPARSE, r"input\[1\]\).* from 0 to 1. Received: 2"),
    ({"token_ids": IDS, "segment_ids": IDS}, LABELS, SPARSE, r"\['segment_ids'\].* from 0 to 1"),
    ([IDS, SEGMENTS], LABELS * 0 + 7, SPARSE, "labels of `train` must be .* 0 to 2. Received: 7"),
    ([IDS, SEGMENTS], at(LABELS, -1), SPARSE, "labels .* Received: -1 in example 4"),
    (
        [IDS, SEGMENTS],
        at(LABELS, 1.5),
        SPARSE,
        "labels .*whole numbers.* Received: 1.5 in example 4",
    ),
    ([IDS, SEGMENTS], at(LABELS, np.nan), SPARSE, "labels .*Received: nan in example 4"),
    ([IDS, SEGMENTS], at(np.eye(3)[LABELS], 7.0), BINARY, "labels .*numbers from 0 to 1.*7.0"),
    ([IDS, SEGMENTS], np.array(["no", "yes"])[LABELS % 2], SPARSE, "numbers, not strings.*'no'"),
    ([IDS, SEGMENTS], ["a", "b"] * 3, SPARSE, "numbers, not strings.*'a'"),
]


@pytest.mark.parametrize("x, y, loss, said", WRONG)
def test_ids_and_labels_out_of_range_are_refused(x, y, loss, said, tmp_path):
    with pytest.raises((ValueError, TypeError), match=said):
        fit(build(), (x, y), stage=Stage(1), directory=tmp_path / "a", loss=loss, verbose=0)
    assert not (tmp_path / "a").exists()


def test_sample_weights_must_be_finite(tmp_path):
    for value in (-1.0, np.nan, np.inf):
        data = ([IDS, SEGMENTS], LABELS, at(np.ones(6), value))
        with pytest.raises(ValueError, match="sample weights of `train` must be finite numbers"):
            fit(build(), data, stage=Stage(1), directory=tmp_path, verbose=0)


def test_what_fits_passes():
    for model, loss, labels in (
        (build(), SPARSE, LABELS),
        (build(), SPARSE, LABELS.astype("float32")[:, None]),
        (build(), keras.losses.SparseCategoricalCrossentropy(ignore_class=-1), at(LABELS, -1)),
        (build(2, "sigmoid"), BINARY, np.eye(2)[LABELS % 2]),
        (build(1, None), "mse", LABELS * 100.5 - 7),
    ):
        batches = BatchAccess(([IDS, SEGMENTS], labels), 4)
        assert Limits(model, loss).check(batches, "train").startswith("6 examples")
    inputs = keras.Input((2, 4))
    tagger = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))
    x, tags = np.ones((6, 2, 4)), np.array([[-1, 2]] * 6)
    limits = Limits(tagger, MaskedCrossentropy())
    limits.check(BatchAccess((x, tags), 4), "train")
    limits.check(BatchAccess((x, np.eye(3)[tags] * (tags >= 0)[..., None]), 4), "train")
    with pytest.raises(ValueError, match=r"from 0 to 2, or -1. Received: 3 in example 5"):
        limits.check(BatchAccess((x, at(tags, 3, 5)), 4), "train")


def test_examples_without_a_label_are_read_once():
    class Counted(list):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    inputs = keras.Input((2, 4))
    tagger = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))
    data = Counted([(np.ones((6, 2, 4)), np.array([[-1, 2]] * 6))] * 3)
    Limits(tagger, MaskedCrossentropy()).check(BatchAccess(data, 4), "train")
    assert data.reads == 3


class Stream:
    """A length and an iterator, and no access to a batch."""

    def __init__(self, *batches, length=None):
        self.batches, self.length = batches, length or len(batches)

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self.batches)


def options(folder, **changed):
    return {"stage": Stage(1, 0.01), "directory": folder, "verbose": 0, **changed}


def test_each_batch_of_an_iterator_is_checked(tmp_path):
    good, bad = ((IDS, SEGMENTS), LABELS), ((IDS, SEGMENTS), at(LABELS, 7))
    said = r"labels of `train` must be .* Received: 7 in example 4 of a batch"
    with pytest.raises(ValueError, match=said):
        fit(build(), Stream(good, bad), **options(tmp_path))


def test_an_iterator_shorter_than_its_length(tmp_path):
    good = (IDS, SEGMENTS), LABELS
    with pytest.raises(ValueError, match=r"as their length says, 3. Received: 2 batches from Str"):
        fit(build(), Stream(good, good, length=3), **options(tmp_path))


def test_an_empty_batch(tmp_path):
    good, empty = ((IDS, SEGMENTS), LABELS), ((IDS[:0], SEGMENTS[:0]), LABELS[:0])
    with pytest.raises(ValueError, match="Batch 1 must hold at least one example"):
        fit(build(), Stream(good, empty), **options(tmp_path))
    with pytest.raises(ValueError, match="Batch 1 must hold at least one example"):
        fit(build(), [good, empty], **options(tmp_path))


class Told(list):
    """Batches that are not read before: they say what tells them from others."""

    fingerprint = "release 7"


def small_stack():
    dense = [keras.layers.Dense(4) for _ in range(3)]
    embedding = keras.layers.Embedding(5, 4)
    inputs = keras.Input((2,), dtype="int32")
    head = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
    return StackEncoder(dense[:2], inputs=inputs, embedding=embedding), dense[2:], head


def test_compress_checks_all_its_data(tmp_path):
    stack, successor, head = small_stack()
    good = IDS, LABELS
    for part, data in {"validation": (IDS, LABELS + 1), "test": (IDS + 1, LABELS)}.items():
        given = {"validation": good, "test": good, part: data}
        with pytest.raises(ValueError, match=f"of `{part}` must be whole numbers"):
            compress(
                stack, successor, head, good, directory=tmp_path / "a", initialize="first", **given
            )
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("metrics", [("accuracy",), ()])
def test_compress_checks_data_that_are_not_read_before(metrics, tmp_path):
    wrong = {
        "train": (IDS + 1, LABELS),  # the nearest layers are found with them
        "validation": (IDS, LABELS + 1),
        "test": (IDS, LABELS + 1),
    }
    for part, batch in wrong.items():
        data = {"train": (IDS, LABELS), "validation": (IDS, LABELS), part: Told([batch])}
        given = {"directory": tmp_path / part, "metrics": metrics, "predecessor_stage": None}
        with pytest.raises(ValueError, match=f"of `{part}` must be whole numbers"):
            compress(*small_stack(), data.pop("train"), **data, **given, verbose=0)


# Weights.

X = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
WEIGHTS = np.where(Y == 1, 10.0, 0.5).astype("float32")


def dense(units=2, activation="softmax"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation)(inputs))


def keras_loss(y, loss, weights):
    """That of plain Keras, with the weights as they are."""
    units = 1 if np.ndim(y) == 1 and loss == BINARY else 2
    model = dense(units, "sigmoid" if loss == BINARY else "softmax")
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model, model.evaluate(X, np.asarray(y), sample_weight=weights, verbose=0)


@pytest.mark.parametrize(
    "y, loss",
    [(Y, SPARSE), (np.eye(2)[Y], "categorical_crossentropy"), (Y, BINARY)],
    ids=["integers", "one-hot", "one output"],
)
def test_weights_count_as_in_keras(y, loss, tmp_path):
    parts = [slice(0, 4), slice(4, 8), slice(8, 10)]  # the last batch is smaller
    stage = Stage(1, 1e-9)
    runs = {
        "arrays": ((X, y, WEIGHTS), None),
        "batches": ([(X[i], y[i], WEIGHTS[i]) for i in parts], None),
        "classes": ((X, y), {0: 0.5, 1: 10.0}),
        "both": ((X, y, np.where(Y == 1, 10.0, 1.0)), {0: 0.5}),
    }
    for name, (train, classes) in runs.items():
        model, expected = keras_loss(y, loss, WEIGHTS)
        folder = tmp_path / name
        given = options(folder, stage=stage, loss=loss, metrics=(), class_weight=classes)
        validation = (X, y, WEIGHTS)
        result = fit(model, train, validation, batch_size=4, **given)
        np.testing.assert_allclose(result.history["loss"], expected, rtol=1e-5)
        np.testing.assert_allclose(result.history["val_loss"], expected, rtol=1e-5)
        if name == "classes":
            break_even = evaluate(model, (X, y, WEIGHTS), loss=loss, metrics=())
            np.testing.assert_allclose(break_even, expected, rtol=1e-5)


def test_labels_may_be_lists(tmp_path):
    rows = np.eye(2)[Y].astype(int)
    losses = [
        fit(dense(2, "sigmoid"), (X, y), **options(tmp_path / name, loss=BINARY, metrics=()))
        for name, y in {"list": rows.tolist(), "array": rows}.items()
    ]
    assert losses[0].history["loss"] == losses[1].history["loss"]


@pytest.mark.parametrize(
    "given, error, said",
    [
        ([1.0, 2.0], TypeError, "`class_weight` must be a dict"),
        ({2: 1.0}, ValueError, "integers from 0 to 1. Received: 2"),
        ({"yes": 1.0}, ValueError, "integers from 0 to 1. Received: 'yes'"),
        ({1: -1.0}, ValueError, r"`class_weight\[1\]` must be a finite number"),
    ],
)
def test_class_weights_that_are_refused(given, error, said, tmp_path):
    with pytest.raises(error, match=said):
        fit(dense(), (X, Y), **options(tmp_path, class_weight=given))


def test_several_classes_have_no_class_weight(tmp_path):
    given = options(tmp_path, class_weight={1: 2.0}, loss=BINARY)
    with pytest.raises(ValueError, match="classes or one-hot"):
        fit(dense(2, "sigmoid"), (X, np.ones((10, 2))), **given)


# Numbers that are not finite.


@package
class Root(keras.layers.Layer):
    """Adds zero. For inputs that are all zero, the gradient of its weight is 0 times infinity."""

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(1,), initializer="ones")

    def call(self, x):
        return x + 0.0 * (self.scale * x[:, :1] ** 2) ** 0.5


class ZerosAtLast(list):
    """Batches, of which the last one of an epoch is all zeros."""

    def __init__(self, epoch):
        super().__init__([(X[:5], Y[:5]), (X[5:], Y[5:])])
        self.last = epoch

    def set_epoch(self, epoch):
        self[1] = (X[5:] * (epoch != self.last), Y[5:])


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_gradient_that_is_no_number_is_not_kept(epochs, tmp_path):
    """With a finite loss, at the last step, without validation data."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(Root()(inputs)))
    last = "there is no checkpoint yet" if epochs == 1 else r"last good checkpoint is .*npz"
    said = rf"weight '.*' became NaN or infinite at step {2 * epochs} of .*; (the )?{last}"
    with pytest.raises(NonFiniteLossError, match=said):
        fit(model, ZerosAtLast(epochs - 1), **options(tmp_path, stage=Stage(epochs, 0.01)))
    names = [] if epochs == 1 else ["best-2.weights.h5", "checkpoint.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    if epochs == 2:
        with np.load(tmp_path / "checkpoint.npz") as file:
            assert all(np.isfinite(file[name]).all() for name in file.files)


def test_a_model_must_begin_with_finite_weights(tmp_path):
    model = dense()
    kernel, bias = model.get_weights()
    model.set_weights([np.full_like(kernel, np.nan), bias])
    with pytest.raises(ValueError, match=r"The weight '.*kernel.*' must be finite"):
        fit(model, (X, Y), **options(tmp_path))
