"""The losses and heads of tasks with a label per token: padding counts for nothing."""

import numpy as np
import pytest
from helpers import eager, to_numpy, to_tensor

from bert_of_theseus.backend import keras
from bert_of_theseus.data.losses import MaskedAccuracy, MaskedCrossentropy
from bert_of_theseus.heads import PositionSoftmax, span_head, tagging_head
from bert_of_theseus.training import fresh


def probabilities(*shape):
    scores = np.exp(np.random.default_rng(1).normal(size=shape))
    return (scores / scores.sum(-1, keepdims=True)).astype("float32")


LABELS = np.array([[-1, 2, 0, -1], [1, -1, -1, -1]])
PICKED = [(0, 1, 2), (0, 2, 0), (1, 0, 1)]


@pytest.mark.parametrize("weights, expected", [
    (None, [1, 1, 1]),
    ([1.0, 3.0], [1, 1, 3]),
    ([[7.0, 0.5, 2.0, 7.0], [1.0, 7.0, 7.0, 7.0]], [0.5, 2, 1]),
])  # fmt: skip
def test_only_labels_count(weights, expected):
    y = probabilities(2, 4, 3)
    losses = [-np.log(y[place]) for place in PICKED]
    if weights is not None:
        weights = to_tensor(np.array(weights, "float32"))
    loss = MaskedCrossentropy()(to_tensor(LABELS), to_tensor(y), sample_weight=weights)
    assert float(to_numpy(loss)) == pytest.approx(np.average(losses, weights=expected), rel=1e-5)
    nothing = MaskedCrossentropy()(to_tensor(0 * LABELS - 1), to_tensor(y))
    assert float(to_numpy(nothing)) == 0
    metric = MaskedAccuracy()
    metric.update_state(to_tensor(LABELS), to_tensor(y), sample_weight=weights)
    hits = [y[place[:2]].argmax() == place[2] for place in PICKED]
    assert float(to_numpy(metric.result())) == pytest.approx(np.mean(hits))


def test_labels_that_are_distributions():
    y, answers = probabilities(2, 4, 3), probabilities(2, 4, 3)[:, :, ::-1]
    is_there = LABELS >= 0
    one_hot = np.eye(3)[LABELS] * is_there[..., None]
    mixed = (0.25 * one_hot + 0.75 * answers) * is_there[..., None]
    weights = to_tensor(np.array([1, 3], "float32"))
    losses, rates = [], []
    for labels in (LABELS, one_hot, answers * is_there[..., None], mixed):
        labels = to_tensor(labels if labels is LABELS else labels.astype("float32"))
        losses.append(float(to_numpy(MaskedCrossentropy()(labels, to_tensor(y), weights))))
        metric = MaskedAccuracy()
        metric.update_state(labels, to_tensor(y))
        rates.append(float(to_numpy(metric.result())))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and rates[1] == rates[0]
    each = -(answers * np.log(y)).sum(-1)
    wanted = np.average(each[is_there], weights=[1, 1, 3])
    assert losses[2:] == pytest.approx([wanted, 0.25 * losses[0] + 0.75 * wanted], rel=1e-5)
    assert rates[2] == pytest.approx((answers.argmax(-1) == y.argmax(-1))[is_there].mean())


def test_padding_adds_nothing_to_loss_and_metric():
    """With a mask that travels, and without one; in `fit` and in `evaluate`."""
    found = []
    for mask_zero, length in ((True, 4), (True, 9), (False, 9)):
        keras.utils.set_random_seed(0)
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(9, 8, mask_zero=mask_zero)(ids)
        model = keras.Model(ids, tagging_head(8, 3, dropout_rate=0.0)(x))
        model.compile(
            keras.optimizers.SGD(0.5),
            MaskedCrossentropy(),
            metrics=[MaskedAccuracy()],
            run_eagerly=not mask_zero,  # compiled with the mask that travels
        )
        padding = [(0, 0), (0, length - 4)]
        x = np.pad(np.array([[2, 3, 4, 2], [2, 5, 2, 0]]), padding)
        y = np.pad(np.array([[-1, 2, 0, -1], [-1, 1, -1, -1]]), padding, constant_values=-1)
        losses = model.fit(x, y, epochs=2, verbose=0).history["loss"]
        found.append([*losses, *model.evaluate(x, y, verbose=0)])
    np.testing.assert_allclose(found, found[:1] * 3, rtol=1e-5)
    assert found[0][0] > found[0][1] > found[0][2] > 0


def test_positions_that_the_mask_leaves_out():
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 8, mask_zero=True)(ids)
    model = keras.Model(ids, span_head(8)(x))
    short, long = np.array([[2, 3, 4]]), np.array([[2, 3, 4, 0, 0]])
    one, other = (eager(model, x) for x in (short, long))
    assert one.shape == (1, 2, 3)
    np.testing.assert_allclose(other, np.pad(one, [(0, 0), (0, 0), (0, 2)]), atol=1e-6)
    np.testing.assert_allclose(one.sum(-1), 1, atol=1e-6)


def test_files(tmp_path):
    head = span_head(8)
    model = keras.Sequential([keras.Input((None, 8)), head])
    model.compile("sgd", MaskedCrossentropy(), metrics=[MaskedAccuracy()])
    model.save(tmp_path / "head.keras")
    copy = keras.models.load_model(tmp_path / "head.keras")
    assert isinstance(copy.loss, MaskedCrossentropy)
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    np.testing.assert_allclose(eager(copy, x), eager(head, x), atol=1e-6)
    assert isinstance(fresh(MaskedAccuracy()), MaskedAccuracy)
    assert PositionSoftmax().compute_output_shape((None, 7, 2)) == (None, 2, 7)
