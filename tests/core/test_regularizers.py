"""Models of unlike regularizers are compared by the task's loss alone."""

import numpy as np
import pytest
from helpers import assert_same, eager
from recipes import OPTIONS, TRAIN, VALIDATION, WARM_START, Start

from bert_of_theseus import Stage, compress
from bert_of_theseus.backend import keras


def dense(units, penalty, **options):
    return keras.layers.Dense(units, kernel_regularizer=keras.regularizers.L2(penalty), **options)


def parts():
    """Each part has a penalty of its own; that of the head is the largest."""
    keras.utils.set_random_seed(1)

    def block(penalty):
        x = keras.Input((8,))
        return keras.Model(x, keras.layers.Add()([x, dense(8, penalty, activation="relu")(x)]))

    predecessor = [keras.Input((8,)), *(block(0.1) for _ in range(4))]
    successor = [block(0.01) for _ in range(2)]
    head = [keras.Input((8,)), dense(8, 1.0), dense(2, 1.0, activation="softmax")]
    return predecessor, successor, keras.Sequential(head)


def task_loss(model):
    answers = eager(model, VALIDATION[0])
    return -np.log(answers[np.arange(len(answers)), VALIDATION[1]]).mean()


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize("learning_rate", [0.01, 5.0], ids=["does good", "does harm"])
def test_the_loss_that_chooses_is_the_tasks_alone(learning_rate, tmp_path):
    predecessor, successor, head = parts()
    begun = {stage: Start(successor) for stage in ("theseus", "successor")}
    result = compress(
        predecessor,
        successor,
        head,
        TRAIN,
        VALIDATION,
        directory=tmp_path,
        monitor="val_loss",
        train_embeddings_and_head=False,
        callbacks={stage: [start] for stage, start in begun.items()},
        latency=False,
        **{**OPTIONS, **WARM_START, "theseus_stage": Stage(2, learning_rate, decay="constant")},
    )
    scores = {row["model"]: row["score"] for row in result.rows}
    # What a stage says of its best weights is what the report says of them.
    for stage in result.stages:
        if stage.score is not None:
            assert stage.score == pytest.approx(scores[stage.name], rel=1e-5), stage.name
    for name, model in (("predecessor", result.predecessor), ("successor", result.successor)):
        assert scores[name] == pytest.approx(task_loss(model), rel=1e-5)
    theseus = result.stages[2]
    found = theseus.history["val_loss"]
    if learning_rate == 0.01:
        assert theseus.score == min(found) < scores["warm_start"] and theseus.best_step > 0
    else:
        assert min(found) > scores["warm_start"] and theseus.best_step == 0
        for before, after in zip(begun["theseus"].weights, begun["successor"].weights):
            assert_same(before, after)
