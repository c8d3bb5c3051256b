"""One stage of training: head, learning rate, batches into `fit`, and the best weights."""

import numpy as np
import pytest
from helpers import eager, values
from stages import build, linear, texts

from bert_of_theseus import Stage, build_theseus_model
from bert_of_theseus.backend import BACKEND, KERAS_2, keras
from bert_of_theseus.data import Batches
from bert_of_theseus.heads import FirstToken, classification_head
from bert_of_theseus.training import NonFiniteLossError, WarmupDecay, evaluate, fit, predict


def test_first_token():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, FirstToken()(inputs))
    assert model.output_shape == (None, 4)
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)
    np.testing.assert_array_equal(eager(model, x), x[:, 0])


def test_head_ends_the_mask_and_returns_probabilities():
    inputs = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    head = classification_head(4, 3)
    model = keras.Model(inputs, head(hidden))
    token_ids = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    before = eager(model, token_ids)
    assert before.shape == (2, 3)
    np.testing.assert_allclose(before.sum(-1), 1, rtol=1e-5)
    # Only the first token counts.
    np.testing.assert_array_equal(before, eager(model, token_ids[:, :2]))
    again = type(head).from_config(head.get_config())
    again.set_weights(head.get_weights())
    x = np.ones((2, 5, 4), "float32")
    np.testing.assert_array_equal(eager(again, x), eager(head, x))


@pytest.mark.parametrize("per_token", [False, True])
def test_later_batches_may_hold_longer_texts(per_token, tmp_path):
    """Of a `Sequence`, Keras 3 on TensorFlow takes the shapes of the first two, Keras 2 none."""
    inputs = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(9, 4)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    if not per_token:
        model = keras.Model(inputs, classification_head(4, 3)(hidden))
    x = [np.arange(2 * length).reshape(2, length) % 9 for length in (4, 4, 7, 2)]
    y = [ids % 3 if per_token else ids[:, :1] % 3 for ids in x]
    batches = [(ids, labels, None) for ids, labels in zip(x, y)]  # no weights
    fit(model, batches, batches, Stage(epochs=2), directory=tmp_path, verbose=0)
    answers = [eager(model, ids).argmax(-1).reshape(labels.shape) for ids, labels in zip(x, y)]
    right = [a == b for a, b in zip(answers, y)]
    if not KERAS_2:  # the mean of each text is taken first
        right = [part.mean(-1) for part in right]
    assert evaluate(model, batches) == pytest.approx(np.concatenate(right, None).mean())
    if not per_token:
        np.testing.assert_array_equal(predict(model, batches).argmax(-1), np.ravel(answers))


def test_labels_are_not_rounded_to_the_type_of_the_first_ones():
    """TensorFlow would make zeros of the later ones."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    x = np.ones((2, 1), "float32")
    batches = [(x, np.array([[1], [2]])), (x, np.array([[0.5], [0.5]]))]
    if BACKEND == "tensorflow":
        with pytest.raises(Exception, match="labels must be of one type in all batches, int64"):
            evaluate(model, batches, loss="mse", metrics=("mse",))
    else:
        assert evaluate(model, batches, loss="mse", metrics=("mse",)) == pytest.approx(1.375)


def test_learning_rate_rises_and_falls():
    schedule = WarmupDecay(0.1, total_steps=20, warmup_steps=4)
    rates = [float(schedule(step)) for step in range(22)]
    assert rates[0] > 0
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 4
    assert np.all(np.diff(rates[:5]) > 0)
    np.testing.assert_allclose(np.diff(rates[4:21]), -0.1 / 16, rtol=1e-4)
    assert rates[20:] == [0, 0]
    assert float(WarmupDecay(0.1, 5)(0)) == pytest.approx(0.1)
    again = WarmupDecay.from_config(schedule.get_config())
    assert [float(again(step)) for step in range(22)] == rates
    optimizer = keras.optimizers.Adam(schedule)
    optimizer = type(optimizer).from_config(optimizer.get_config())
    assert float(optimizer.learning_rate) == pytest.approx(rates[0])


def test_other_decays():
    rates = {
        decay: np.array([float(WarmupDecay(1.0, 10, decay=decay)(step)) for step in range(11)])
        for decay in ("cosine", "constant")
    }
    np.testing.assert_allclose(rates["constant"], 1)
    np.testing.assert_allclose(
        rates["cosine"], (1 + np.cos(np.pi * np.arange(11) / 10)) / 2, atol=1e-6
    )


def test_fit_learns_and_keeps_the_best_weights(tmp_path):
    model = build()
    batches = Batches(texts(), 16, seed=3)
    valid = Batches(texts(), 32, shuffle=False)
    # A rate that is far too high from the second epoch on: the best are not the last.
    stage = Stage(epochs=4, learning_rate=0.05, decay="constant", weight_decay=0.0)
    result = fit(model, batches, valid, stage, directory=tmp_path, verbose=0)
    history = result.history
    assert len(history["loss"]) == len(history["val_accuracy"]) == 4
    assert history["step"] == [8, 16, 24, 32]
    assert result.monitor == "val_accuracy"
    assert result.score == max(history["val_accuracy"]) > 0.95
    assert result.best_step == history["step"][int(np.argmax(history["val_accuracy"]))]
    assert evaluate(model, valid) == pytest.approx(result.score)
    assert result.seconds > 0 and result.cpu_seconds > 0
    names = ["checksums.json", "model.weights.h5", "stage.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    # The file loads into a new model, and holds no optimizer's state.
    other = build()
    other.load_weights(str(tmp_path / "model.weights.h5"))
    np.testing.assert_array_equal(predict(other, valid), predict(model, valid))
    other.save_weights(str(tmp_path / "plain.weights.h5"))
    sizes = [(tmp_path / f"{name}.weights.h5").stat().st_size for name in ("plain", "model")]
    assert sizes[0] == sizes[1]
    # Again: nothing is trained, the result is the same.
    again = build()
    assert fit(again, batches, valid, stage, directory=tmp_path, verbose=0) == result
    np.testing.assert_array_equal(predict(again, valid), predict(model, valid))
    with pytest.raises(
        ValueError, match=r"holds a training with other settings .*epochs: 4, now 3"
    ):
        other_stage = Stage(epochs=3, learning_rate=0.05)
        fit(build(), batches, valid, other_stage, directory=tmp_path, verbose=0)


def test_only_matrices_decay(tmp_path):
    model = linear()
    before = values(model.weights)
    data = [(np.zeros((2, 2), "float32"), np.zeros((2, 2), "float32"))]

    def zero(true, predicted):
        return 0.0 * predicted

    stage = Stage(1, 0.1, warmup_fraction=0, decay="constant", weight_decay=0.5)
    fit(model, data, stage=stage, directory=tmp_path, loss=zero, metrics=(), verbose=0)
    for weight, was in zip(values(model.weights), before, strict=True):
        np.testing.assert_allclose(weight, was * (0.95 if was.ndim == 2 else 1.0), rtol=1e-5)


def test_gradients_are_clipped_by_the_norm_of_what_is_trained(tmp_path):
    def dense():
        return keras.layers.Dense(2, kernel_initializer="ones")

    predecessor, successor = [dense(), dense()], [dense()]
    predecessor, successor = ([keras.Input((2,)), *layers] for layers in (predecessor, successor))
    theseus = build_theseus_model(predecessor, successor, dense(), 1.0, execution="dense")
    data = [(np.ones((4, 2), "float32"), np.full((4, 2), 100, "float32"))]
    stage = Stage(1, 0.01, weight_decay=0, clip_norm=0.5)
    fit(theseus, data, stage=stage, directory=tmp_path, loss="mse", metrics=(), verbose=0)
    moments = values(theseus.optimizer._momentums)
    # After one step a first moment of Adam is a tenth of the gradient.
    assert len(moments) == 2
    assert sum((moment**2).sum() for moment in moments) ** 0.5 == pytest.approx(0.05, rel=1e-4)


def test_a_loss_that_is_not_finite_stops(tmp_path):
    x = np.ones((4, 2), "float32")
    bad = np.full((4, 2), np.inf, "float32")
    model = linear()
    stage = Stage(2, 0.01)
    options = {"directory": tmp_path, "loss": "mse", "metrics": (), "verbose": 0}
    with pytest.raises(
        NonFiniteLossError, match=r"became (nan|inf) at step 1 of stage .*no checkpoint yet.*lower"
    ):
        fit(model, [(bad, x)], stage=stage, **options)

    class Later(list):
        """Good in the first epoch."""

        def set_epoch(self, epoch):
            self[1] = (x if epoch == 0 else bad, x)

    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(NonFiniteLossError, match=r"at step 4 of .*last good checkpoint is (.*npz)"):
        fit(linear(), Later([(x, x), (x, x)]), stage=stage, **options)
    assert checkpoint.is_file()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras 3 writes these logs with TensorFlow")
def test_tensorboard(tmp_path):
    batches = Batches(texts(), 64)
    stage = Stage(1, 0.01)
    fit(build(), batches, batches, stage, directory=tmp_path, tensorboard=True, verbose=0)
    assert list((tmp_path / "logs").rglob("events*"))
