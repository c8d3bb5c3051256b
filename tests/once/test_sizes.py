"""Sizes that a file states are compared with what it holds, before there is memory for them."""

import io
import json
import threading
import zipfile

import h5py
import numpy as np
import pytest
from limits import memory_limit

from bert_of_theseus import load_model
from bert_of_theseus.backend import KERAS_2, keras
from bert_of_theseus.heads import classification_head

HUGE = 10**9


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    path = tmp_path_factory.mktemp("sizes") / "head.keras"
    head = classification_head(16, 3)
    head.save(path)
    load_model(path)  # what it imports takes memory
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_config(members, old, new):
    config = members["config.json"].decode()
    assert old in config
    return {**members, "config.json": config.replace(old, new).encode()}


def with_weights(members, change):
    file = io.BytesIO(members["model.weights.h5"])
    with h5py.File(file, "r+") as weights:
        names = []
        weights.visititems(lambda name, x: names.append(name) if hasattr(x, "shape") else None)
        kernel = next(name for name in names if weights[name].shape == (16, 3))
        change(weights, kernel)
    return {**members, "model.weights.h5": file.getvalue()}


def unwritten(weights, name):
    del weights[name]
    weights.create_dataset(name, (HUGE, 4), "float32")  # takes no room until it is written


def packed(weights, name):
    del weights[name]
    data = np.broadcast_to(np.float32(0), (4000, 40_000))
    weights.create_dataset(name, data=data, chunks=(4000, 40), compression="gzip")


def external(weights, name):
    del weights[name]
    weights.create_dataset(name, (16, 3), "float32", external=[("/etc/passwd", 0, 192)])


def linked(weights, name):
    del weights[name]
    weights[name] = h5py.ExternalLink("/etc/passwd", "/x")


def cases(members):
    yield "units", with_config(members, '"units": 3', f'"units": {HUGE}')
    yield "inputs", with_config(members, "16]", f"{HUGE}]")
    yield "product", with_config(with_config(members, '"units": 3', '"units": 65536'),
                                 "16]", "65536]")  # fmt: skip
    for change in (unwritten, packed, external, linked):
        yield change.__name__, with_weights(members, change)
    yield "config", {**members, "config.json": members["config.json"] + b" " * 2 * 10**8}
    yield "unknown", {**members, "other": bytes(2 * 10**8)}


def write(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_small_file_that_states_gigabytes(members, tmp_path):
    count = 0
    for name, changed in cases(members):
        path = write(tmp_path / f"{name}.keras", changed)
        assert path.stat().st_size < 10**6
        # Where memory ran out instead, Keras or NumPy would say so.
        words = "it holds|said to hold|in another file"
        with memory_limit(1.5), pytest.raises(ValueError, match=rf"{name}\.keras'.*({words})"):
            load_model(path)
        count += 1
    assert count == 9
    load_model(write(tmp_path / "whole.keras", members))


@pytest.mark.skipif(KERAS_2, reason="Keras 2 writes other JSON")
def test_many_weights(members, tmp_path):
    config = json.loads(members["config.json"])
    dense = next(x for x in config["config"]["layers"] if x["class_name"] == "Dense")
    layers = [
        {**dense, "build_config": None, "config": {**dense["config"], "name": f"d{n}", "units": 16}}
        for n in range(4000)
    ]
    inputs = [x for x in config["config"]["layers"] if x["class_name"] == "InputLayer"]
    sequential = {
        "module": "keras", "class_name": "Sequential", "registered_name": None,
        "config": {"name": "s", "layers": [*inputs, *layers]},
    }  # fmt: skip
    changed = {**members, "config.json": json.dumps(sequential).encode()}
    with pytest.raises(ValueError, match="asks for more than"):
        load_model(write(tmp_path / "many.keras", changed))


def test_other_threads_may_build_while_a_file_is_loaded(members, tmp_path):
    path = write(tmp_path / "a.keras", members)
    stop, errors = threading.Event(), []

    def build():
        while not stop.is_set():
            try:
                keras.layers.Dense(2000).build((None, 2000))
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    try:
        for _ in range(5):
            load_model(path)
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert keras.layers.Layer.add_weight.__qualname__.endswith("Layer.add_weight")
