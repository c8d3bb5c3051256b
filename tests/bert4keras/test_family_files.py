"""Whole models of bert4keras in Keras' files: safe loading, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bert4keras.backend import keras
from bert_helpers import make_batch, make_bert, run, scatter, whole

from bert_of_theseus import build_successor_model
from bert_of_theseus.checkpoints import load_pretrained, save_pretrained
from bert_of_theseus.heads import classification_head, pooler_classification_head

FAMILIES = {
    "albert": {"model": "albert", "embedding_size": 8},
    "electra": {"model": "electra", "embedding_size": 8},
    "nezha": {"model": "nezha"},
    "roformer": {"model": "roformer"},
    "roformer_v2": {"model": "roformer_v2", "embedding_size": 8},
    "t5": {"model": "t5_encoder"},
    "gpt2": {"model": "gpt2", "final_activation": "linear"},
    "unilm": {"application": "unilm", "with_mlm": "linear"},
    "pooled": {"with_pool": True},
}

CODE = """
import sys
import bert_of_theseus.bert4keras
import numpy as np
from bert_of_theseus import load_model
from bert_of_theseus.backend import keras
from bert_of_theseus.checkpoints import load_pretrained

folder, *names = sys.argv[1:]

def check(name, model):
    *inputs, expected = np.load(f"{folder}/{name}.npz").values()
    found = model(inputs if len(inputs) > 1 else inputs[0])
    np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)

for name in names:
    check(name, load_model(f"{folder}/{name}.keras"))

# What `load_pretrained` gives back, in Keras' own hands.
check("bert", keras.models.load_model(f"{folder}/bert.keras", safe_mode=True))
transformer, classifier, _ = load_pretrained(f"{folder}/saved")
model = keras.Model(transformer.inputs, classifier(transformer.output))
check("bert", model)
model.set_weights([0 * weight for weight in model.get_weights()])
model.load_weights(f"{folder}/bert.weights.h5")
check("bert", model)
"""


FEW = ["nezha", "roformer_v2", "t5", "gpt2", "pooled"]


@pytest.mark.parametrize("names", [
    pytest.param(FEW, id="some"),
    pytest.param([name for name in FAMILIES if name not in FEW], id="others",
                 marks=pytest.mark.slow),
])  # fmt: skip
def test_files_load_in_a_fresh_process(names, tmp_path):
    """Successors of families, and a BERT that was loaded; nothing but the package there."""
    batch = [x.astype("float32") for x in make_batch(8, 5, 1)[:2]]

    def save(name, model):
        inputs = batch[: len(model.inputs)]
        np.savez(tmp_path / f"{name}.npz", *inputs, run(model, inputs))
        model.save(tmp_path / f"{name}.keras")

    for name in names:
        options = FAMILIES[name]
        keras.backend.clear_session()
        host = make_bert(1, **options)
        width = host.output.shape[-1]
        head = classification_head(width, 3)
        if name == "pooled":
            head = keras.Sequential([keras.Input((width,)), keras.layers.Dense(3)])
        save(name, scatter(build_successor_model(host, head)))
    save_pretrained(tmp_path / "saved", make_bert(), scatter(pooler_classification_head(16, 3)))
    model = whole(*load_pretrained(tmp_path / "saved")[:2])
    save("bert", model)
    model.save_weights(tmp_path / "bert.weights.h5")
    command = [sys.executable, "-c", CODE, str(tmp_path), *names]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
