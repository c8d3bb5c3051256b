"""One stage of training: head, learning rate, batches into `fit`, and the best epoch's weights."""

import numpy as np
import pytest

from bert_of_theseus.backend import keras
from bert_of_theseus.data import Batches, Encoded
from bert_of_theseus.heads import FirstToken, classification_head
from bert_of_theseus.training import KeepBest, WarmupLinearDecay, fit, predict


def test_first_token():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, FirstToken()(inputs))
    assert model.output_shape == (None, 4)
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)
    np.testing.assert_array_equal(model.predict(x, verbose=0), x[:, 0])


def test_head_ends_the_mask_and_returns_probabilities():
    inputs = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    head = classification_head(4, 3)
    model = keras.Model(inputs, head(hidden))
    token_ids = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    before = model.predict(token_ids, verbose=0)
    assert before.shape == (2, 3)
    np.testing.assert_allclose(before.sum(-1), 1, rtol=1e-5)
    # Only the first token counts.
    np.testing.assert_array_equal(before, model.predict(token_ids[:, :2], verbose=0))
    again = type(head).from_config(head.get_config())
    again.set_weights(head.get_weights())
    x = np.ones((2, 5, 4), "float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), head.predict(x, verbose=0))


def test_learning_rate_rises_and_falls():
    schedule = WarmupLinearDecay(0.1, total_steps=20, warmup_steps=4)
    rates = [float(schedule(step)) for step in range(22)]
    assert rates[0] > 0
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 4
    assert np.all(np.diff(rates[:5]) > 0)
    np.testing.assert_allclose(np.diff(rates[4:21]), -0.1 / 16, rtol=1e-4)
    assert rates[20:] == [0, 0]
    assert float(WarmupLinearDecay(0.1, 5)(0)) == pytest.approx(0.1)
    again = WarmupLinearDecay.from_config(schedule.get_config())
    assert [float(again(step)) for step in range(22)] == rates
    optimizer = keras.optimizers.Adam(schedule)
    optimizer = type(optimizer).from_config(optimizer.get_config())
    assert float(optimizer.learning_rate) == pytest.approx(rates[0])


@pytest.mark.parametrize("total, warmup", [(4, 4), (4, -1), (0, 0)])
def test_learning_rate_refuses(total, warmup):
    with pytest.raises(ValueError, match=rf"Received: {warmup}, {total}\."):
        WarmupLinearDecay(0.1, total, warmup)


@pytest.fixture
def task():
    """Texts of several lengths whose first token, after [CLS], is the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=120).astype("int32")
    texts = [
        np.array([1 + label, *rng.integers(3, 9, size=rng.integers(1, 20))], dtype="int32")
        for label in labels
    ]
    return Encoded(texts, labels)


def build():
    keras.utils.set_random_seed(1)
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    embed = keras.layers.Embedding(9, 8, mask_zero=True)
    hidden = keras.layers.Add()([embed(inputs[0]), keras.layers.Embedding(2, 8)(inputs[1])])
    return keras.Model(inputs, classification_head(8, 2)(hidden))


def test_fit_learns_and_keeps_the_best_epoch(task, tmp_path):
    model = build()
    batches = Batches(task, 16, seed=3)
    valid = Batches(task, 32, shuffle=False)
    path = tmp_path / "model.weights.h5"
    kwargs = {"learning_rate": 0.05, "path": path}
    history = fit(model, batches, valid, epochs=4, **kwargs)
    assert len(history["loss"]) == len(history["val_accuracy"]) == 4
    assert history["val_accuracy"][-1] > 0.95
    assert history["loss"][-1] < history["loss"][0]
    probabilities = predict(model, valid)
    assert (probabilities.argmax(-1) == valid.labels).mean() == max(history["val_accuracy"])
    assert [file.name for file in tmp_path.iterdir()] == ["model.weights.h5"]
    # The file loads into a new model, and holds no optimizer's state.
    other = build()
    other.load_weights(str(path))
    np.testing.assert_array_equal(predict(other, valid), probabilities)
    other.save_weights(str(tmp_path / "plain.weights.h5"))
    assert (tmp_path / "plain.weights.h5").stat().st_size == path.stat().st_size


def test_keep_best_goes_back_to_the_best_epoch(tmp_path):
    model = build()
    keep = KeepBest(tmp_path / "model.weights.h5")
    keep.set_model(model)
    keep.on_train_begin()
    saved = []
    for epoch, accuracy in enumerate([0.5, 0.7, 0.6, 0.7]):
        model.set_weights([weight + 1.0 for weight in model.get_weights()])
        saved.append(model.get_weights())
        keep.on_epoch_end(epoch, {"val_accuracy": accuracy})
    keep.on_train_end()
    assert keep.best == 0.7
    # The first of two equal ones.
    for weight, expected in zip(model.get_weights(), saved[1], strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_every_epoch_draws_its_batches(task, tmp_path):
    seen = []

    class Recorded(Batches):
        def on_epoch_end(self):
            super().on_epoch_end()
            seen.append(self.labels.tolist())

    batches = Recorded(task, 16, seed=3)
    fit(
        build(),
        batches,
        Batches(task, 32, shuffle=False),
        epochs=3,
        learning_rate=0.01,
        path=tmp_path / "model.weights.h5",
    )
    assert len(seen) >= 3
    assert len({tuple(order) for order in seen}) == len(seen)
