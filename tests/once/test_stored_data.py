"""Training on rows that are read by position: what is read, when, and what a folder knows of it."""

import json
import sys
import types

import numpy as np
import pytest
from helpers import assert_same, values
from stages import build, texts

from bert_of_theseus import Stage, compress
from bert_of_theseus.backend import keras
from bert_of_theseus.data import Batches, MultiLabel, StoredBatches
from bert_of_theseus.training import feed as feed_module
from bert_of_theseus.training import fit
from bert_of_theseus.training.feed import BatchAccess, Rounds

MANY = 10**8
POOL = 20 * 4  # rows that are read together
# Rounds of three steps, at the start of a long epoch.
STAGE = Stage(epochs=1, learning_rate=0.01, steps=9, evaluations_per_epoch=MANY // 4 // 3)


class Rows:
    """Rows that are made up when they are read, and remember which were."""

    def __init__(self, count=MANY, shift=0):
        self.count, self.shift, self.read = count, shift, []

    def __len__(self):
        return self.count

    def __getitem__(self, position):
        self.read.append(position)
        rng = np.random.default_rng(position)
        ids = rng.integers(3, 9, size=rng.integers(1, 20))
        label = (position + self.shift) % 2
        return {"token_ids": [1 + label, *ids], "label": label}


class StoppedError(Exception):
    pass


def train(rows, directory, stop_at=None, stage=STAGE, **options):
    model = build()

    def on_epoch_begin(epoch, logs):
        if epoch == stop_at:
            raise StoppedError

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin)]
    options = {"stage": stage, "directory": directory, "verbose": 0, "metrics": (), **options}
    data = rows if isinstance(rows, StoredBatches) else StoredBatches(rows, batch_size=4)
    return fit(model, data, callbacks=callbacks, **options), values(model.weights)


def test_a_run_on_many_rows_goes_on_where_it_was(tmp_path):
    _, expected = train(Rows(), tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(Rows(), tmp_path / "stopped", stop_at=2)
    rows = Rows()
    result, found = train(rows, tmp_path / "stopped")
    assert result.history["step"] == [3, 6, 9]
    assert_same(expected, found)
    # 256 rows for the folder, and the pool of these steps, which holds the first batch too.
    assert len(rows.read) <= 256 + POOL


@pytest.mark.parametrize("place", [0.5, 0.999])
def test_the_middle_of_an_epoch_is_as_near_as_its_start(place):
    rows = Rows()
    access = BatchAccess(StoredBatches(rows, batch_size=4), 32)
    rounds = Rounds(access, Stage(epochs=2, evaluations_per_epoch=1000))
    assert not rows.read
    stream = rounds.stream(int(place * rounds.count))
    batch = next(stream)
    assert len(rows.read) == POOL
    step = int(place * rounds.count) * rounds.length
    same = StoredBatches(Rows(), batch_size=4)
    same.set_epoch(step // len(same))
    np.testing.assert_array_equal(batch[0][0], same[step % len(same)][0][0])


def test_a_folder_refuses_other_rows(tmp_path):
    train(Rows(), tmp_path)
    known = json.loads((tmp_path / "stage.json").read_text())["settings"]["training data"]
    assert known.startswith("25000000 batches of data with fingerprint '100000000 rows, of which")
    for rows in (Rows(shift=1), Rows(MANY - 4)):
        with pytest.raises(ValueError, match="holds a training with other settings"):
            train(rows, tmp_path)


def test_ids_and_labels_are_checked_as_they_come(tmp_path):
    class Wrong(Rows):
        def __getitem__(self, position):
            return {**super().__getitem__(position), "label": 2}

    with pytest.raises(ValueError, match=r"The labels of `train` must be .* from 0 to 1"):
        train(Wrong(1000), tmp_path / "labels", stage=Stage(1, 0.01))
    with pytest.raises(ValueError, match="Row 7 must have at least one token and at most 3"):
        rows = [{"token_ids": [1] * (4 if i == 7 else 3), "label": i % 2} for i in range(8)]
        train(StoredBatches(rows, batch_size=4, max_length=3), tmp_path / "long")


def test_data_that_a_task_cannot_score_are_refused_before_the_training(tmp_path):
    task, stored = MultiLabel(["a", "b"]), StoredBatches(Rows(40), batch_size=4)
    given = {"stage": STAGE, "directory": tmp_path / "a", "score": task.score}
    for validation in (stored, None):
        with pytest.raises(TypeError, match=r"`validation` must be a `Batches`, as MultiLabel"):
            fit(build(), stored, validation, **given)
    given = {"directory": tmp_path / "a", **task.options}
    dense, batches = [keras.layers.Dense(4) for _ in range(4)], Batches(texts(), 4)
    parts = [keras.Input((4,)), *dense[:2]], dense[2:3], dense[3]
    for name, data in [("validation", None), ("validation", stored), ("test", stored)]:
        with pytest.raises(TypeError, match=f"`{name}` must be a `Batches`"):
            compress(*parts, batches, **{"validation": batches, name: data}, **given)
    assert not (tmp_path / "a").exists()


def test_data_with_a_fingerprint_are_not_read_before(tmp_path):
    read = []

    class Told(list):
        fingerprint = "release 7"

        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    batches = StoredBatches(Rows(40), batch_size=4, shuffle=False)
    data = Told(batches)
    fit(build(), data, stage=Stage(1, 0.01), directory=tmp_path, metrics=(), verbose=0)
    assert read == [0, *range(10)]  # the first one, for its order
    data.fingerprint = "release 8"
    with pytest.raises(ValueError, match="fingerprint 'release 7'"):
        fit(build(), data, stage=Stage(1, 0.01), directory=tmp_path, metrics=(), verbose=0)


def test_rows_are_no_batches(tmp_path):
    for data, kind in [([{"token_ids": [1], "label": 0}], "dict"), (["a text"], "str")]:
        with pytest.raises(TypeError, match=f"Received: {kind}. Of rows, `data.StoredBatches`"):
            fit(build(), data, stage=Stage(1, 0.01), directory=tmp_path, verbose=0)


def test_long_arrays_are_ordered_without_memory(monkeypatch):
    x = np.arange(300)[:, None]
    at_once = BatchAccess((x, x), 32, seed=5)
    before = np.random.default_rng([5, 1]).permutation(np.arange(300))
    found = [at_once.get(1, index)[1] for index in range(at_once.length)]
    np.testing.assert_array_equal(np.concatenate(found)[:, 0], before)  # as ever
    monkeypatch.setattr(feed_module, "_MOST_ROWS", 100)
    computed = BatchAccess((x, x), 32, seed=5)
    orders = [
        np.concatenate([computed.get(epoch, index)[1] for index in range(computed.length)])
        for epoch in (0, 1)
    ]
    assert not isinstance(computed.data.order, np.ndarray)
    for order in orders:
        assert sorted(order[:, 0]) == list(range(300))
    assert (orders[0] != orders[1]).any()


def test_a_map_dataset_has_an_order_for_each_epoch(monkeypatch):
    grain = sys.modules.get("grain") or _grain()
    monkeypatch.setitem(sys.modules, "grain", grain)
    x = [np.array([number]) for number in range(10)]
    data = grain.MapDataset.source(x).shuffle(seed=3).batch(4).map(lambda batch: (batch, batch))
    access = BatchAccess(data, 32)
    epochs = [
        np.concatenate([access.get(epoch, index)[0] for index in range(3)])[:, 0].tolist()
        for epoch in (0, 2, 1, 0)
    ]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] == epochs[3]
    assert len({*map(tuple, epochs)}) == 3


def _grain():
    """grain itself; where it is not installed, what `MapDataset` promises of its positions."""
    try:
        import grain

        return grain
    except ImportError:
        pass
    return types.SimpleNamespace(MapDataset=_MapDataset)


class _MapDataset:
    def __init__(self, length, read):
        self.length, self.read = length, read

    @classmethod
    def source(cls, rows):
        return cls(len(rows), lambda place: rows[place % len(rows)])

    def __len__(self):
        return self.length

    def __getitem__(self, place):
        return self.read(place)

    def shuffle(self, seed):
        def read(place):
            epoch, place = divmod(place, self.length)
            order = np.random.default_rng([seed, epoch]).permutation(self.length)
            return self[epoch * self.length + order[place]]

        return _MapDataset(self.length, read)

    def batch(self, size):
        length = -(-self.length // size)

        def read(place):
            epoch, place = divmod(place, length)
            rows = range(place * size, min((place + 1) * size, self.length))
            return np.stack([self[epoch * self.length + row] for row in rows])

        return _MapDataset(length, read)

    def map(self, function):
        return _MapDataset(self.length, lambda place: function(self[place]))
