"""The folder of a stage: what is written, what cannot be, and settings that are refused."""

import contextlib
import shutil

import numpy as np
import pytest
from stages import build, linear, texts

from bert_of_theseus import Stage
from bert_of_theseus.backend import keras
from bert_of_theseus.data import Batches
from bert_of_theseus.files import check_room, replace_file
from bert_of_theseus.training import WarmupDecay, fit, plain


@pytest.mark.parametrize("total, warmup", [(4, 4), (4, -1), (0, 0)])
def test_learning_rate_refuses(total, warmup):
    with pytest.raises(ValueError, match=rf"Received: {warmup}, {total}\."):
        WarmupDecay(0.1, total, warmup)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
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


def test_a_stage_needs_whole_epochs():
    with pytest.raises(TypeError, match=r"`epochs` must be an integer .* Received: 1\.5"):
        Stage(epochs=1.5)


def test_settings_read_alike_in_every_process():
    def metric(true, predicted):
        return true

    wrapped = keras.metrics.MeanMetricWrapper(metric, name="m")
    settings = {"metric": wrapped, "of": range(2), "x": np.float32(0.5), "y": np.arange(2)}
    told = plain(settings)
    assert (told["of"], told["x"], told["y"]) == ([0, 1], 0.5, [0, 1])
    assert told["metric"][0] == "MeanMetricWrapper" and " at 0x" not in str(told)


@pytest.mark.parametrize("how", ["file in the way", "no room"])
def test_what_cannot_be_written_is_said_before_training(tmp_path, how):
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
            batches = Batches(texts(), 64)
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
    names = ["best-1.weights.h5", "checkpoint.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_broken_checkpoint_is_refused(tmp_path):
    x = np.ones((4, 2), "float32")
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"npz cannot be used .*Delete .* to train this"):
        fit(linear(), [(x, x)], directory=tmp_path, loss="mse", metrics=(), verbose=0)
