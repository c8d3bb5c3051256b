"""Damaged files of a stage: an error that names the file and what to do, or the same weights."""

import json
import zipfile

import numpy as np
import pytest
from damage import FEW_OR_MANY, contents, damage_property, damaged, damages
from helpers import values
from hypothesis import given
from hypothesis import strategies as st
from stages import linear

from bert_of_theseus import Stage
from bert_of_theseus.backend import keras
from bert_of_theseus.files import sha256
from bert_of_theseus.training import fit

X = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
Y = X[:, ::-1].copy()


def run(folder, callbacks=(), model=None):
    options = {"stage": Stage(3, 0.01), "loss": "mse", "metrics": (), "batch_size": 4, "verbose": 0}
    model = model or linear()
    result = fit(model, (X, Y), directory=folder, callbacks=callbacks, **options)
    return result, [value.tobytes() for value in values(model.weights)]


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished stage and an unfinished one: what their files hold, and how the stage ends."""
    folder = tmp_path_factory.mktemp("damage")
    end = run(folder / "finished")
    with pytest.raises(KeyboardInterrupt):
        run(folder / "unfinished", [Stop()])
    files = {kind: contents(folder / kind) for kind in ("finished", "unfinished")}
    assert sorted(files["finished"]) == ["checksums.json", "model.weights.h5", "stage.json"]
    assert sorted(files["unfinished"]) == ["best-4.weights.h5", "checkpoint.npz"]
    return files, end


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def check(folder, files, name, end):
    """The stage is refused, or ends as the undamaged one; whether it is refused."""
    write(folder, files)
    try:
        result, weights = run(folder)
    except ValueError as error:
        assert str(folder) in str(error) and "elete" in str(error), error
        assert name in str(error) or "checksums.json" in str(error), error
        return True
    assert weights == end[1] and result.history["loss"] == end[0].history["loss"]
    return False


@pytest.mark.only("torch")
@pytest.mark.parametrize("examples", FEW_OR_MANY)
def test_no_damage_is_silent(examples, folders, tmp_path):
    files, end = folders
    places = [(kind, name) for kind in files for name in files[kind]]
    refused = []

    @damage_property(examples)
    @given(st.data())
    def law(data):
        kind, name = data.draw(st.sampled_from(places))
        _, content = data.draw(damages(files[kind][name]))
        refused.append(check(tmp_path / kind, {**files[kind], name: content}, name, end))

    law()
    print(f"{len(refused)} damaged files of a stage: {sum(refused)} refused, 0 silent")
    assert sum(refused) > 0.7 * len(refused)


def npz(folder, **members):
    path = folder / "made.npz"
    np.savez(path, **members)
    return path.read_bytes()


def huge(folder):
    """A member that says that it holds 2**60 numbers."""
    path = folder / "made.npz"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,)}"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.npy", content)
    return path.read_bytes()


def unknown_compression(content):
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = content.index(mark) + offset
        content = content[:place] + b"\x63\x00" + content[place + 2 :]
    return content


def odd_checkpoints(folder, content):
    text = np.frombuffer(b"[]", "uint8")
    return {
        "empty": b"",
        "half": content[: len(content) // 2],
        "no archive": b"PK\x03\x04 and no more",
        "no settings": npz(folder, a=np.zeros(2)),
        "other settings": npz(folder, meta=text),
        "too large": huge(folder),
        "another compression": unknown_compression(content),
        "pickled": npz(folder, meta=np.array([object()], dtype=object)),
    }


def test_odd_checkpoints(folders, tmp_path):
    files, _ = folders
    odd = odd_checkpoints(tmp_path, files["unfinished"]["checkpoint.npz"])
    for content in odd.values():
        write(tmp_path / "a", {**files["unfinished"], "checkpoint.npz": content})
        said = r"checkpoint\.npz cannot be used .*Delete .*a to train this stage again"
        with pytest.raises(ValueError, match=said):
            run(tmp_path / "a")


@pytest.mark.parametrize(
    "name", ["stage.json", "model.weights.h5", "checksums.json", "best-4.weights.h5"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"settings": 1}', "half", None])
def test_odd_files(name, content, folders, tmp_path):
    files, _ = folders
    kind = "unfinished" if name.startswith("best") else "finished"
    if content == "half":
        content = damaged(files[kind][name], "cut", len(files[kind][name]) // 2)
    if name == "stage.json" and content is None:
        return  # a stage that has not ended
    write(tmp_path / "a", {k: v for k, v in files[kind].items() if k != name})
    if content is not None:
        (tmp_path / "a" / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"a to train this stage again") as caught:
        run(tmp_path / "a")
    names = {name, "model.weights.h5"} if kind == "unfinished" else {name, "checksums.json"}
    assert any(one in str(caught.value) for one in names)


def test_weights_that_are_no_numbers_are_not_loaded(folders, tmp_path):
    """Even if someone lists them: they are finite when they are written."""
    files, _ = folders
    write(tmp_path / "a", files["finished"])
    model = linear()
    model.set_weights([np.full_like(value, np.nan) for value in model.get_weights()])
    model.save_weights(tmp_path / "a" / "model.weights.h5")
    listed = json.loads(files["finished"]["checksums.json"])
    listed["model.weights.h5"] = sha256(tmp_path / "a" / "model.weights.h5")
    (tmp_path / "a" / "checksums.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"model\.weights\.h5 cannot be used .*must be finite"):
        run(tmp_path / "a")


def test_the_folder_of_a_run_in_progress_is_refused(tmp_path):
    class Again(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                run(tmp_path)

    with pytest.raises(OSError, match=r"is in use by this process itself"):
        run(tmp_path, [Again()])
    (tmp_path / "part-1-00ff-checkpoint.npz").write_bytes(b"left by a killed process")
    run(tmp_path)
    names = ["checksums.json", "model.weights.h5", "stage.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
