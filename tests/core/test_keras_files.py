"""Keras' own files in a process where nothing but the package is imported."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import eager

from bert_of_theseus import build_successor_model, build_theseus_model, load_model
from bert_of_theseus.backend import KERAS_2, keras
from bert_of_theseus.heads import classification_head

CODE = """
import sys
import bert_of_theseus
import numpy as np

x, expected = np.load(f"{sys.argv[1]}/batch.npz").values()
for file in sys.argv[2:]:
    model = bert_of_theseus.load_model(f"{sys.argv[1]}/{file}")
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6)
"""


def stack(depth):
    layers = [keras.layers.Dense(4) for _ in range(depth)]
    return [keras.Input((None,), dtype="int32"), keras.layers.Embedding(9, 4), *layers]


@pytest.mark.slow_unless("torch")
def test_a_fresh_process(tmp_path):
    theseus = build_theseus_model(stack(2), stack(1), classification_head(4, 3))
    small = build_successor_model(theseus)
    x = np.arange(6).reshape(2, 3)
    np.savez(tmp_path / "batch.npz", x, eager(small, x))
    files = ["small.keras", "theseus.keras", "small.h5", *(["saved_model"] if KERAS_2 else [])]
    for file in files:
        (theseus if file.startswith("theseus") else small).save(str(tmp_path / file))
    command = [sys.executable, "-c", CODE, str(tmp_path), *files]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])


RAN = []


@pytest.mark.parametrize("form", ["a.keras", "a.h5", *(["saved_model"] if KERAS_2 else [])])
def test_no_code_of_a_file_is_run(form, tmp_path):
    """A Lambda's function is code in the file, in the old formats too."""
    inputs = keras.Input((4,))
    code = f"lambda x: (__import__({__name__!r}).RAN.append(1), x)[1]"
    model = keras.Model(inputs, keras.layers.Lambda(eval(code), output_shape=(4,))(inputs))
    model.save(str(tmp_path / form))
    RAN.clear()
    try:
        load_model(tmp_path / form)
    except ValueError as error:
        assert form in str(error) and "Lambda" in str(error)
    else:  # TensorFlow's graph of it, where there is one
        assert form == "saved_model"
    assert not RAN


NAMES = {
    "a function": {"class_name": "function", "config": "s", "registered_name": "s"},
    "named like an activation": {
        "class_name": "function", "config": "relu", "registered_name": "function",
    },
    "a class": {"class_name": "Thing", "config": {}, "registered_name": "Thing"},
    "named like a registered class": {
        "class_name": "bert_of_theseus>FirstToken", "config": {}, "registered_name": None,
    },
    "named like a layer": {"class_name": "Dense", "config": {"units": 3}, "registered_name": None},
    "a Lambda": {"class_name": "Lambda", "config": {"function": "s"}, "registered_name": None},
}  # fmt: skip


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize("module", ["this", "layers", "keras.layers.this", None])
def test_a_file_names_nothing_outside_keras(what, module, tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"][1]["config"]["activation"] = {"module": module, **NAMES[what]}
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"a\.keras"):
        load_model(tmp_path / "a.keras")
    assert "this" not in sys.modules  # or it would have said its piece
