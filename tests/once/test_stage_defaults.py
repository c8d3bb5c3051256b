"""A stage finds what it is not told, and a report says how its stages went."""

import itertools
import json

import numpy as np
import pytest
from recipes import OPTIONS, TRAIN, VALIDATION, parts
from stages import build, linear, texts
from tiny import Host

from bert_of_theseus import Stage, compress
from bert_of_theseus.backend import keras
from bert_of_theseus.data import Batches
from bert_of_theseus.defaults import default_learning_rate, find_hidden_size
from bert_of_theseus.training import StageResult, fit, stage_notes
from bert_of_theseus.training.feed import BatchAccess

pytestmark = pytest.mark.slow_unless("torch")


def chain(*layers):
    return keras.Sequential([keras.Input((6,)), *layers])


def test_the_hidden_size_is_what_most_weights_end_in():
    dense, norm = keras.layers.Dense, keras.layers.LayerNormalization
    assert find_hidden_size(chain(dense(24), dense(6), norm(), dense(3))) == 6
    frozen = chain(dense(24), dense(6), norm(), dense(3))
    frozen.trainable = False
    assert find_hidden_size(frozen) == 6
    assert find_hidden_size(chain(dense(8), dense(3))) == 8  # the head is not meant
    assert find_hidden_size(chain(dense(8, use_bias=False))) == 8
    assert find_hidden_size(chain(keras.layers.Dropout(0.1))) is None
    # Neither frozen modules nor the draws of a Theseus model count as another size.
    assert find_hidden_size(Host().theseus(seed=0)) == 4


def told(folder):
    return json.loads((folder / "stage.json").read_text())["settings"]["stage"]


def test_a_stage_finds_what_it_is_not_told(tmp_path, capsys):
    data = Batches(texts(), 60)
    result = fit(build(), data, data, directory=tmp_path, verbose=2)
    stage = told(tmp_path)
    assert stage["epochs"] == 20 == len(result.history["step"])
    rate = default_learning_rate("predecessor", 8, 60, 20 * len(data))
    assert stage["learning_rate"] == rate and stage["evaluations_per_epoch"] == 1
    assert f": {Stage(**stage)}\n" in capsys.readouterr().out
    # The same call again, and one that gives the values that were printed, are the same training.
    for same in (Stage(), Stage(20, rate), Stage(**stage)):
        assert fit(build(), data, data, same, directory=tmp_path, verbose=0) == result
    with pytest.raises(ValueError, match=r"other settings .*stage\.epochs: 20, now 2"):
        fit(build(), data, data, Stage(2), directory=tmp_path, verbose=0)


def test_what_is_given_wins():
    data = BatchAccess(Batches(texts(), 16), 32)
    stage = Stage(3, 0.25, evaluations_per_epoch=2)
    assert stage.resolved("theseus", build(), data) == stage
    few = Stage(epochs=1).resolved("theseus", build(), data)
    assert few.epochs == 1
    assert few.learning_rate == default_learning_rate("theseus", 8, 16, data.length)
    silent = chain(keras.layers.Dropout(0.1))
    with pytest.raises(ValueError, match=r"`learning_rate` must be given to `Stage`"):
        Stage().resolved("theseus", silent, data)
    assert Stage(learning_rate=0.1).resolved("theseus", silent, data).learning_rate == 0.1


@pytest.mark.parametrize("kind, size", [("arrays", 32), ("batches", 4), ("list", 8)])
def test_the_batch_size_is_that_of_the_data(kind, size):
    x = np.zeros((40, 2), "float32")
    data = {
        "arrays": (x, x),
        "batches": Batches(texts(), 4),
        "list": [(x[i : i + 8], x[i : i + 8]) for i in range(0, 40, 8)],
    }[kind]
    assert BatchAccess(data, 32).batch_size == size


def test_data_of_unknown_length_say_what_to_pass(tmp_path):
    x = np.zeros((4, 2), "float32")
    with pytest.raises(TypeError, match=r"must have a length: .*known cardinality"):
        fit(linear(), iter([(x, x)]), directory=tmp_path)


def test_compress_says_what_its_stages_found(tmp_path, capsys):
    options = {**OPTIONS, "predecessor_stage": Stage(1), "latency": False}
    options |= {"theseus_stage": Stage(2), "successor_stage": Stage(), "verbose": 2}
    falling = itertools.count(-1, -1)
    options |= {"batch_size": 64, "score": lambda model, data: next(falling)}
    result = compress(*parts(), TRAIN, VALIDATION, directory=tmp_path, **options)
    stages = {name: stage for name, stage in result.settings["stages"].items() if stage}
    assert [stages[name]["epochs"] for name in stages] == [1, 2, 10]
    for name, stage in stages.items():
        assert stage["learning_rate"] == default_learning_rate(name, 8, 64, stage["epochs"])
        assert told(tmp_path / name) == stage
    out = capsys.readouterr().out
    assert all(f"\n{name}: {Stage(**stage)}\n" in out for name, stage in stages.items())
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["stages"] == result.settings["stages"]
    # Its scores only fall, so the last stage never beat its start.
    (note,) = result.notes
    assert "successor stage never beat its start" in note and note in out
    assert json.loads((tmp_path / "report.json").read_text())["notes"] == [note]
    assert (tmp_path / "report.md").read_text().endswith(f"\n\n{note}\n")
    # What was found may be given: it is the same run.
    options |= {f"{name}_stage": Stage(**stage) for name, stage in stages.items()}
    again = compress(*parts(), TRAIN, VALIDATION, directory=tmp_path, **options)
    assert again.stages == result.stages


def went(scores, best=None, monitor="val_accuracy", **more):
    """A stage with an evaluation every 10 steps."""
    steps = [10 * number for number in range(1, len(scores) + 1)]
    better = min if "loss" in monitor else max
    best = steps[scores.index(better(scores))] if best is None else best
    history = {"step": steps, monitor: scores}
    return StageResult("predecessor", history, monitor, best, better(scores), 1.0, 1.0, **more)


@pytest.mark.parametrize("scores, more, improves", [
    ([0.6, 0.7, 0.75], {}, True),
    ([0.6, 0.75, 0.7, 0.77], {}, True),
    ([0.6, 0.7, 0.705], {}, False),  # by less than noise
    ([0.6, 0.75, 0.7], {}, False),
    ([0.6, 0.75, 0.7, 0.752], {}, False),
    ([0.7], {}, False),  # beside nothing
    ([0.6, 0.7, 0.75], {"stopped_early": True}, False),
    ([0.9, 0.6, 0.5], {"monitor": "val_loss"}, True),
    ([0.5, 0.6, 0.9], {"monitor": "val_loss"}, False),
    ([float("nan"), float("nan")], {}, False),
])  # fmt: skip
def test_a_stage_that_was_still_improving(scores, more, improves):
    notes = stage_notes(went(scores, **more))
    assert len(notes) == improves
    if improves:
        assert "predecessor stage was still improving when it ended" in notes[0]
        assert f"{scores[-1]:.4f} at its last evaluation" in notes[0]


def test_a_stage_that_never_beat_its_start():
    result = went([0.6, 0.7], best=0)
    result.score = 0.8
    (note,) = stage_notes(result)
    assert "never beat its start" in note and "0.8000" in note
    assert not stage_notes(StageResult("theseus", {"step": [5], "loss": [1]}, None, 5, None, 1, 1))


@pytest.mark.parametrize(
    "steps, ends_at", [(2, [2]), (15, [15]), (20, [10, 20]), (31, [10, 20, 30]), (99, [15, 30, 45])]
)
def test_steps_end_a_stage(tmp_path, steps, ends_at):
    data = Batches(texts(), 8)
    stage = Stage(3, 0.01, steps=steps)
    result = fit(build(), data, data, stage, directory=tmp_path, verbose=0)
    assert result.history["step"] == ends_at


def test_epochs_that_are_not_given_hold_the_steps():
    data = BatchAccess(Batches(texts(), 8), 32)
    model = build()
    stage = Stage(steps=20).resolved("theseus", model, data)
    assert (stage.epochs, stage.steps) == (2, 20)
    assert stage.learning_rate == default_learning_rate("theseus", 8, 8, 20)
    assert Stage().resolved("warm_start", model, data).steps == 2000
    assert Stage(4).resolved("warm_start", model, data).steps is None
