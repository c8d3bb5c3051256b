"""Keras' own files in a process where nothing but the package is imported."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from bert_of_theseus import build_successor_model, build_theseus_model
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
    layers = [keras.layers.GRU(4, return_sequences=True) for _ in range(depth)]
    return [keras.Input((None,), dtype="int32"), keras.layers.Embedding(9, 4), *layers]


def test_a_fresh_process(tmp_path):
    theseus = build_theseus_model(stack(2), stack(1), classification_head(4, 3))
    small = build_successor_model(theseus)
    x = np.arange(6).reshape(2, 3)
    np.savez(tmp_path / "batch.npz", x, small.predict(x, verbose=0))
    files = ["small.keras", "theseus.keras", "small.h5", *(["saved_model"] if KERAS_2 else [])]
    for file in files:
        (theseus if file.startswith("theseus") else small).save(str(tmp_path / file))
    command = [sys.executable, "-c", CODE, str(tmp_path), *files]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
