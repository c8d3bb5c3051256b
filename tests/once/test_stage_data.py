"""What `fit` takes as data, and in which order it asks for it."""

import numpy as np
import pytest
from stages import linear, texts

from bert_of_theseus import Stage
from bert_of_theseus.data import Batches
from bert_of_theseus.training import fit
from bert_of_theseus.training.feed import BatchAccess, Rounds


def test_rounds_go_through_the_epochs_batch_by_batch():
    class Told(Batches):
        def set_epoch(self, epoch):
            super().set_epoch(epoch)
            self.told = epoch

    data = Told(texts(), 16, seed=3)
    expected = []
    for epoch in range(2):
        data.set_epoch(epoch)
        expected += [data[index][0][0] for index in range(len(data))]

    rounds = Rounds(BatchAccess(data, 32, 0), Stage(epochs=2, evaluations_per_epoch=3))

    for start in (0, 4, 2):
        got = [batch[0][0] for batch in rounds.stream(start)]
        assert len(got) == 12 - 2 * start
        for one, other in zip(got, expected[2 * start :]):
            np.testing.assert_array_equal(one, other)


def test_fit_asks_for_each_batch_once_and_in_order(tmp_path):
    x = np.ones((4, 2), "float32")
    asked = []

    class Recorded(list):
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __getitem__(self, index):
            asked.append((self.epoch, index))
            return super().__getitem__(index)

    stage = Stage(2, 0.01)
    options = {"directory": tmp_path, "loss": "mse", "metrics": (), "verbose": 0}
    fit(linear(), Recorded([(x, x)] * 3), stage=stage, **options)
    # All of them and the first one before: to tell the data and their order from others.
    before = [*((0, index) for index in range(3)), (0, 0)]
    assert asked == [*before, *((epoch, index) for epoch in range(2) for index in range(3))]


def test_arrays_lists_and_streams_are_data(tmp_path):
    x = np.arange(10, dtype="float32")[:, None]
    for number, data in enumerate(
        [(x, x), ([x, x], x), ({"a": x}, x), [(x[:4], x[:4]), (x[4:], x[4:])]]
    ):
        rounds = Rounds(BatchAccess(data, 4, seed=0), Stage(2, evaluations_per_epoch=1))
        seen = [[], []]
        for step, (inputs, labels) in enumerate(rounds.stream(0)):
            first = inputs["a"] if isinstance(inputs, dict) else inputs
            first = first[0] if isinstance(first, tuple) else first
            np.testing.assert_array_equal(first, labels)
            seen[step // rounds.length] += labels[:, 0].tolist()
        # Every epoch has each example once, arrays in an order of its own.
        assert sorted(seen[0]) == sorted(seen[1]) == list(range(10))
        assert (seen[0] == seen[1]) == (number == 3)

    class Stream:
        """A length and an iterator, as a `tf.data.Dataset` or a PyTorch `DataLoader`."""

        def __len__(self):
            return 3

        def __iter__(self):
            return iter([(x[i : i + 4], x[i : i + 4]) for i in (0, 4, 8)])

    rounds = Rounds(BatchAccess(Stream(), 4, seed=0), Stage(2, evaluations_per_epoch=1))
    assert [labels[0, 0] for _, labels in rounds.stream(1)] == [0, 4, 8]
    access = BatchAccess(Stream(), 4)
    assert [access.get(0, i)[1][0, 0] for i in (1, 2, 0)] == [4, 8, 0]


def test_data_refused():
    with pytest.raises(TypeError, match=r"must have a length.*Received: generator"):
        BatchAccess((batch for batch in ()), 4)
    with pytest.raises(ValueError, match="at least one batch"):
        BatchAccess([], 4)
    with pytest.raises(ValueError, match=r"one length.*\[3, 4\]"):
        BatchAccess((np.ones((3, 1)), np.ones(4)), 4)
