"""The whole recipe: its stages, and what each leaves."""

import numpy as np
import pytest
from helpers import assert_same, eager, values, weights_of
from recipes import TEST, VALIDATION, whole_run

from bert_of_theseus.backend import keras


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("runs") / "run", latency=False)


def test_what_comes_out(whole):
    result, (predecessor, successor, head), start = whole
    names = ["predecessor", "warm_start", "theseus", "successor"]
    assert [stage.name for stage in result.stages] == [row["model"] for row in result.rows] == names
    fitted, warm, theseus, last = result.stages
    # The warm start knows no score: the rest keep their best.
    assert warm.score is None and "val_accuracy" not in warm.history
    rates = warm.history["replacement_rate"]
    assert 0 < rates[0] < 1 and rates[-1] == 1
    assert fitted.score == max(fitted.history["val_accuracy"])
    # The report's scores are those that chose. A stage may give back what it began with.
    scores = {row["model"]: row["score"] for row in result.rows}
    begun = scores.pop("warm_start")
    assert theseus.score == max(begun, *theseus.history["val_accuracy"])
    assert last.score == max(theseus.score, *last.history["val_accuracy"])
    assert list(scores.values()) == [stage.score for stage in (fitted, theseus, last)]
    assert (start.answers == VALIDATION[1]).mean() == pytest.approx(theseus.score)
    # The successor holds its own layers and head, and none of the predecessor's weights.
    own = {id(weight) for weight in weights_of(successor)}
    theirs = {id(weight) for weight in weights_of([*predecessor[1:], head])}
    weights = {id(weight) for weight in result.successor.weights}
    assert own <= weights and not weights & theirs
    # The predecessor is as its stage left it, though the successor's head may have gone on.
    for layer, values_before in zip([*predecessor[1:], head], start.weights, strict=True):
        assert_same(values(layer.weights), values_before)
    moved = zip(values(result.classifier.weights), values(head.weights), strict=True)
    changed = any(not np.array_equal(one, other) for one, other in moved)
    assert changed == (last.best_step > 0)


def test_the_models_are_not_compiled(whole, tmp_path):
    """Their files need no class of ours, and hold no optimizer of a stage."""
    result, _, _ = whole
    for model in (result.predecessor, result.successor):
        assert not getattr(model, "compiled", getattr(model, "_is_compiled", None))
    result.successor.save(tmp_path / "successor.keras")
    loaded = keras.models.load_model(tmp_path / "successor.keras")
    np.testing.assert_array_equal(eager(loaded, TEST[0]), eager(result.successor, TEST[0]))
