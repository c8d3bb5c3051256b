"""Which weights of a stage are kept, by any score."""

import numpy as np
import pytest
from helpers import assert_same
from stages import build, linear, texts

from bert_of_theseus import Stage
from bert_of_theseus.backend import keras
from bert_of_theseus.data import Batches
from bert_of_theseus.training import fit


class Weights(keras.callbacks.Callback):
    """The model's weights after each evaluation, and the score that it is told."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.seen = scores, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([np.array(weight) for weight in self.model.get_weights()])
        logs["val_scripted"] = self.scores[epoch]


@pytest.mark.parametrize("monitor, best", [("val_scripted", 1), ("val_scripted_error", 0)])
def test_best_weights_by_any_score(tmp_path, monitor, best):
    class Scripted(Weights):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            logs["val_scripted_error"] = self.scores[epoch]

    scripted = Scripted([0.5, 0.7, 0.6, 0.7, 0.6, 0.6])
    model = build()
    result = fit(
        model,
        Batches(texts(), 64, seed=3),
        Batches(texts(), 64),
        Stage(epochs=6, learning_rate=0.01, patience=3),
        directory=tmp_path,
        monitor=monitor,
        callbacks=[scripted],
        verbose=0,
    )
    # The first of two equal ones; then patience is over.
    assert result.best_step == 2 * (best + 1) and result.score == scripted.scores[best]
    assert len(scripted.seen) == best + 4
    assert result.stopped_early
    assert_same(model.get_weights(), scripted.seen[best])


@pytest.mark.parametrize(
    "initial, best, epochs",
    [(0.8, None, 2), (0.7, 1, 4), (0.65, 1, 4), (None, 1, 4)],
    ids=["better", "equal", "worse", "unknown"],
)
def test_what_a_stage_begins_with_may_be_the_best(tmp_path, initial, best, epochs):
    scripted = Weights([0.5, 0.7, 0.6, 0.7])
    model = build()
    before = [np.array(weight) for weight in model.get_weights()]
    options = {
        "train": Batches(texts(), 64, seed=3),
        "validation": Batches(texts(), 64),
        "stage": Stage(epochs=4, learning_rate=0.01, patience=2),
        "directory": tmp_path,
        "monitor": "val_scripted",
        "initial_score": initial,
        "verbose": 0,
    }
    result = fit(model, callbacks=[scripted], **options)
    assert result.best_step == (0 if best is None else 2 * (best + 1))
    assert result.score == (initial if best is None else scripted.scores[best])
    assert len(scripted.seen) == epochs and len(result.history["step"]) == epochs
    expected = before if best is None else scripted.seen[best]
    again = build()
    assert fit(again, **options) == result  # the folder holds the same
    for trained in (model, again):
        assert_same(trained.get_weights(), expected)


def test_a_score_of_ones_own(tmp_path):
    model = build()

    def score(model, data):
        return -float(np.abs(model.get_weights()[0]).sum())

    batches = Batches(texts(), 64)
    stage = Stage(epochs=2, learning_rate=0.01)
    result = fit(model, batches, batches, stage, directory=tmp_path, score=score, verbose=0)
    assert result.monitor == "val_score"
    assert result.score == max(result.history["val_score"]) == score(model, batches)


def test_a_score_that_is_no_number_is_the_worst(tmp_path):
    x = np.ones((4, 2), "float32")
    options = {"loss": "mse", "metrics": (), "verbose": 0}
    for scores, best in (([np.nan, 0.2, np.nan], 2), ([np.nan] * 3, 1)):
        left = list(scores)
        result = fit(
            linear(),
            [(x, x)],
            [(x, x)],
            Stage(3, 0.01),
            directory=tmp_path / str(best),
            score=lambda model, data, left=left: left.pop(0),
            **options,
        )
        assert result.best_step == best
        np.testing.assert_equal(result.score, scores[best - 1])
        np.testing.assert_equal(result.history["val_score"], scores)


def test_evaluations_within_an_epoch(tmp_path):
    batches = Batches(texts(), 16, seed=3)  # 8 of them
    stage = Stage(epochs=2, learning_rate=0.01, evaluations_per_epoch=3)
    result = fit(build(), batches, batches, stage, directory=tmp_path, verbose=0)
    assert result.history["step"] == [2, 4, 6, 8, 10, 12]
