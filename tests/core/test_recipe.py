"""The whole recipe: three stages, and what each leaves."""

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
    assert [stage.name for stage in result.stages] == ["predecessor", "theseus", "successor"]
    first, second, third = (stage.history["val_accuracy"] for stage in result.stages)
    assert result.stages[0].score == max(first)
    assert result.stages[1].score == max(second)
    assert result.stages[2].score == max(max(second), *third)  # or what it began with
    # The report's scores are those that chose; stage 3 starts as what stage 2 kept.
    assert [row["score"] for row in result.rows] == [stage.score for stage in result.stages]
    assert (start.answers == VALIDATION[1]).mean() == pytest.approx(result.stages[1].score)
    # The successor holds its own layers and head, and none of the predecessor's weights.
    own = {id(weight) for weight in weights_of(successor)}
    theirs = {id(weight) for weight in weights_of([*predecessor[1:], head])}
    weights = {id(weight) for weight in result.successor.weights}
    assert own <= weights and not weights & theirs
    # The predecessor is as stage 1 left it, though the successor's head went on.
    for layer, values_before in zip([*predecessor[1:], head], start.weights, strict=True):
        assert_same(values(layer.weights), values_before)
    moved = zip(values(result.classifier.weights), values(head.weights), strict=True)
    assert any(not np.array_equal(one, other) for one, other in moved)


def test_the_models_are_not_compiled(whole, tmp_path):
    """Their files need no class of ours, and hold no optimizer of a stage."""
    result, _, _ = whole
    for model in (result.predecessor, result.successor):
        assert not getattr(model, "compiled", getattr(model, "_is_compiled", None))
    result.successor.save(tmp_path / "successor.keras")
    loaded = keras.models.load_model(tmp_path / "successor.keras")
    np.testing.assert_array_equal(eager(loaded, TEST[0]), eager(result.successor, TEST[0]))
