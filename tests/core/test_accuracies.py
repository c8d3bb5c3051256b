"""Keras' accuracies, example by example: the numbers are Keras' own."""

import numpy as np
import pytest

from bert_of_theseus.backend import AVERAGES_EXAMPLES, keras
from bert_of_theseus.statistics import Score, compare
from bert_of_theseus.training import evaluate

RNG = np.random.default_rng(0)
metrics = keras.metrics


def model_of(width, activation, seed=1):
    """One that is right now and then, the same under each Keras."""
    inputs = keras.Input((None, 4))
    dense = keras.layers.Dense(width, activation=activation, use_bias=False)
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.eye(4, width) + np.random.default_rng(seed).normal(size=(4, width))])
    return model


def first_of(model):
    first = keras.layers.Lambda(lambda x: x[:, 0], output_shape=(model.output_shape[-1],))
    return keras.Model(model.inputs[0], first(model.outputs[0]))


def batches_of(label):
    """Texts of two lengths, and the last batch smaller."""
    shapes = (6, 5, 4), (6, 3, 4), (2, 5, 4)
    inputs = [RNG.normal(size=shape).astype("float32") for shape in shapes]
    return [(x, label(x)) for x in inputs]


def classes(x):
    return x[:, 0, :3].argmax(-1)


CASES = {
    "classes": (3, "softmax", "accuracy", classes),
    "a column": (3, "softmax", metrics.SparseCategoricalAccuracy(), lambda x: classes(x)[:, None]),
    "one-hot": (3, "softmax", metrics.categorical_accuracy, lambda x: np.eye(3)[classes(x)]),
    "yes or no": (1, "sigmoid", metrics.BinaryAccuracy(threshold=0.3), lambda x: classes(x) > 1),
    "many": (3, "sigmoid", "binary_accuracy", lambda x: (x[:, 0, :3] > 0.5).astype("float32")),
    "tokens": (3, "softmax", "acc", lambda x: x[..., :3].argmax(-1)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_score_is_that_of_keras(name):
    width, activation, metric, label = CASES[name]
    model = model_of(width, activation)
    model = model if name == "tokens" else first_of(model)
    data = batches_of(label)
    loss = "sparse_categorical_crossentropy" if name in ("classes", "tokens") else "mse"
    score = evaluate(model, data, loss=loss, metrics=[metric])
    assert isinstance(score, Score) and len(score.rows) == 14
    # Keras' own, batch by batch. Keras 2 counts tokens, where Keras 3 counts texts.
    model.compile(loss=loss, metrics=[metric])
    found, counts = [], []
    for x, y in data:
        found.append(model.test_on_batch(x, y, return_dict=True)[name_of(metric)])
        counts.append(y.size if name == "tokens" and not AVERAGES_EXAMPLES else len(x))
        model.reset_metrics()
    assert score == pytest.approx(np.average(found, weights=counts), abs=1e-6) and 0 < score < 1
    assert score.function(score.rows, np.ones((1, 14)))[0] == pytest.approx(score, abs=1e-6)


def name_of(metric):
    return metric if isinstance(metric, str) else getattr(metric, "name", None) or metric.__name__


def test_examples_are_told_by_what_they_are():
    one, other = (first_of(model_of(3, "softmax", seed)) for seed in (1, 2))
    data = batches_of(classes)
    before = evaluate(one, data)
    assert type(before) is Score and before.is_paired(evaluate(one, data[::-1]))
    found = compare(before, evaluate(other, data))
    assert found == compare(before, evaluate(other, data[::-1]))
    assert found.num_examples == 14
    # Weights do not count in Keras' accuracy.
    weighted = [(x, y, np.arange(len(x), dtype="float32")) for x, y in data]
    assert evaluate(one, weighted) == before
    assert not before.is_paired(evaluate(one, [(x + 1, y) for x, y in data]))


def test_of_other_metrics_nothing_is_known():
    def accuracy(y_true, y_pred):
        return 0 * y_pred[:, 0] + 0.5

    model, data = first_of(model_of(3, "softmax")), batches_of(classes)
    for options in (
        {"metrics": [accuracy]},
        {"metrics": [metrics.SparseTopKCategoricalAccuracy(2)]},
        {"metrics": ["accuracy"], "monitor": "val_loss"},
        {"score": lambda model, data: 1},
    ):
        assert type(evaluate(model, data, **options)) is float
