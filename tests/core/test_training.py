"""One stage of training: head, learning rate, batches into `fit`, and the best weights."""

import contextlib
import shutil

import numpy as np
import pytest
from helpers import assert_same, values

from bert_of_theseus import build_theseus_model
from bert_of_theseus.backend import BACKEND, keras
from bert_of_theseus.data import Batches, Encoded
from bert_of_theseus.files import check_room, replace_file
from bert_of_theseus.heads import FirstToken, classification_head
from bert_of_theseus.rounds import Rounds, as_sequence
from bert_of_theseus.training import (
    NonFiniteLossError,
    Stage,
    WarmupDecay,
    evaluate,
    fit,
    plain,
    predict,
)


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


@pytest.mark.parametrize("total, warmup", [(4, 4), (4, -1), (0, 0)])
def test_learning_rate_refuses(total, warmup):
    with pytest.raises(ValueError, match=rf"Received: {warmup}, {total}\."):
        WarmupDecay(0.1, total, warmup)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"warmup_fraction": 1.0},
        {"decay": "exponential"},
        {"weight_decay": -1},
        {"clip_norm": 0},
        {"evaluations_per_epoch": 0},
        {"patience": 0},
    ],
)
def test_a_stage_refuses(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"`{name}` must be .* Received: {value!r}"):
        Stage(**{"epochs": 1, **options})


@pytest.fixture
def task():
    """Texts of several lengths whose first token is the class."""
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


def test_fit_learns_and_keeps_the_best_weights(task, tmp_path):
    model = build()
    batches = Batches(task, 16, seed=3)
    valid = Batches(task, 32, shuffle=False)
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
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.weights.h5", "stage.json"]
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
    with pytest.raises(ValueError, match=r"holds a training with other settings .*epochs': 4"):
        other_stage = Stage(epochs=3, learning_rate=0.05)
        fit(build(), batches, valid, other_stage, directory=tmp_path, verbose=0)


class Weights(keras.callbacks.Callback):
    """The model's weights after each evaluation, and the score that it is told."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.seen = scores, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([np.array(weight) for weight in self.model.get_weights()])
        logs["val_scripted"] = self.scores[epoch]


@pytest.mark.parametrize("monitor, best", [("val_scripted", 1), ("val_scripted_error", 0)])
def test_best_weights_by_any_score(task, tmp_path, monitor, best):
    class Scripted(Weights):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            logs["val_scripted_error"] = self.scores[epoch]

    scripted = Scripted([0.5, 0.7, 0.6, 0.7, 0.6, 0.6])
    model = build()
    result = fit(
        model,
        Batches(task, 64, seed=3),
        Batches(task, 64),
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
def test_what_a_stage_begins_with_may_be_the_best(task, tmp_path, initial, best, epochs):
    scripted = Weights([0.5, 0.7, 0.6, 0.7])
    model = build()
    before = [np.array(weight) for weight in model.get_weights()]
    options = {
        "train": Batches(task, 64, seed=3),
        "validation": Batches(task, 64),
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


def test_a_score_of_ones_own(task, tmp_path):
    model = build()

    def score(model, data):
        return -float(np.abs(model.get_weights()[0]).sum())

    batches = Batches(task, 64)
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


def test_settings_read_alike_in_every_process():
    def metric(true, predicted):
        return true

    wrapped = keras.metrics.MeanMetricWrapper(metric, name="m")
    settings = {"metric": wrapped, "of": range(2), "x": np.float32(0.5), "y": np.arange(2)}
    told = plain(settings)
    assert (told["of"], told["x"], told["y"]) == ([0, 1], 0.5, [0, 1])
    assert told["metric"][0] == "MeanMetricWrapper" and " at 0x" not in str(told)


def test_evaluations_within_an_epoch(task, tmp_path):
    batches = Batches(task, 16, seed=3)  # 8 of them
    stage = Stage(epochs=2, learning_rate=0.01, evaluations_per_epoch=3)
    result = fit(build(), batches, batches, stage, directory=tmp_path, verbose=0)
    assert result.history["step"] == [2, 4, 6, 8, 10, 12]


def test_rounds_go_through_the_epochs_batch_by_batch(task):
    class Told(Batches):
        def set_epoch(self, epoch):
            super().set_epoch(epoch)
            self.told = epoch

    data = Told(task, 16, seed=3)
    expected = []
    for epoch in range(2):
        data.set_epoch(epoch)
        expected += [data[index][0][0] for index in range(len(data))]

    rounds = Rounds(data, Stage(epochs=2, evaluations_per_epoch=3), 32, 0)

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
    # The first one of all: to tell the data from others.
    assert asked == [(0, 0), *((epoch, index) for epoch in range(2) for index in range(3))]


def test_arrays_lists_and_streams_are_data(task, tmp_path):
    x = np.arange(10, dtype="float32")[:, None]
    for number, data in enumerate(
        [(x, x), ([x, x], x), ({"a": x}, x), [(x[:4], x[:4]), (x[4:], x[4:])]]
    ):
        rounds = Rounds(data, Stage(epochs=2), 4, seed=0)
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

    rounds = Rounds(Stream(), Stage(epochs=2), 4, seed=0)
    assert [labels[0, 0] for _, labels in rounds.stream(1)] == [0, 4, 8]
    sequence = as_sequence(Stream())
    assert [sequence[i][1][0, 0] for i in (1, 2, 0)] == [4, 8, 0]


def test_data_refused():
    with pytest.raises(TypeError, match=r"must have a length.*Received: generator"):
        Rounds((batch for batch in ()), Stage(epochs=1), 4, 0)
    with pytest.raises(ValueError, match="not one batch"):
        Rounds([], Stage(epochs=1), 4, 0)
    with pytest.raises(ValueError, match=r"one length.*\[3, 4\]"):
        Rounds((np.ones((3, 1)), np.ones(4)), Stage(epochs=1), 4, 0)


def linear():
    x = keras.Input((2,))
    dense = keras.layers.Dense(2, kernel_initializer="ones", bias_initializer="ones")
    return keras.Model(x, keras.layers.LayerNormalization()(dense(x)))


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


@pytest.mark.parametrize("how", ["file in the way", "no room"])
def test_what_cannot_be_written_is_said_before_training(task, tmp_path, how):
    trained = []
    spy = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: trained.append(1))
    directory = tmp_path / "stage"
    model = build()
    if how == "file in the way":
        (tmp_path / "file").write_text("")
        directory = tmp_path / "file" / "stage"
    else:
        resource = pytest.importorskip("resource")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"need about .* MB in .*stage, which cannot be written"):
            batches = Batches(task, 64)
            fit(model, batches, directory=directory, callbacks=[spy], verbose=0)
    finally:
        if how == "no room":
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not trained
    assert not list(tmp_path.rglob("*.part"))


@contextlib.contextmanager
def files_of_at_most(size):
    """Only within it: pytest writes too."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_run_that_goes_on_needs_no_room_for_what_is_there(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "checkpoint.npz").write_bytes(bytes(3000))
    with files_of_at_most(2000):
        check_room(tmp_path, 5000)
        with pytest.raises(OSError, match=r"need about 0.0 MB in .*, which cannot"):
            check_room(tmp_path, 5001)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["checkpoint.npz"]


@pytest.mark.parametrize("how", ["system", "h5py"])
def test_what_was_there_stays_when_a_file_cannot_be_written(tmp_path, how):
    path = tmp_path / "weights"
    path.write_bytes(b"before")

    def write(scratch):
        scratch.write_bytes(bytes(500 if how == "system" else 50))
        raise RuntimeError("Can't decrement id ref count (errno = 27, error message = ...)")

    problem = "weights could not be written and is as it was before: File"
    with files_of_at_most(100), pytest.raises(OSError, match=problem):
        replace_file(path, write)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_stops_at_the_next_evaluation(tmp_path, monkeypatch):
    """And not h5py, which may end the process when it cannot close a file."""
    x = np.ones((4, 2), "float32")
    usage = shutil.disk_usage(tmp_path)

    class Full(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            free = 0 if epoch else usage.free
            monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))

    options = {"directory": tmp_path, "loss": "mse", "metrics": (), "verbose": 0}
    with pytest.raises(OSError, match=r"need about .* MB in .*, which cannot be written: No space"):
        fit(linear(), [(x, x)], stage=Stage(2), callbacks=[Full()], **options)
    names = ["checkpoint.npz", "model.weights.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


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


def test_a_broken_checkpoint_is_refused(tmp_path):
    x = np.ones((4, 2), "float32")
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="no whole checkpoint"):
        fit(linear(), [(x, x)], directory=tmp_path, loss="mse", metrics=(), verbose=0)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras 3 writes these logs with TensorFlow")
def test_tensorboard(task, tmp_path):
    batches = Batches(task, 64)
    stage = Stage(1, 0.01)
    fit(build(), batches, batches, stage, directory=tmp_path, tensorboard=True, verbose=0)
    assert list((tmp_path / "logs").rglob("events*"))
