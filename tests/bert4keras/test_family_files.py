"""Whole models of bert4keras in Keras' files: safe loading, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import bert_of_theseus.bert4keras  # noqa: F401  must come before bert4keras

# isort: split
import numpy as np
from bert4keras.backend import keras
from bert4keras.models import build_transformer_model

from bert_of_theseus import build_successor_model, build_theseus_model
from bert_of_theseus.heads import classification_head

TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position": 12,
}
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

for name in sys.argv[2:]:
    *inputs, expected = np.load(f"{sys.argv[1]}/{name}.npz").values()
    model = load_model(f"{sys.argv[1]}/{name}.keras")
    found = model(inputs if len(inputs) > 1 else inputs[0])
    np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
"""


def build(depth, options):
    return build_transformer_model(
        **{**TINY, **options}, num_hidden_layers=depth, return_keras_model=False
    )


def test_successors_of_all_families(tmp_path):
    rng = np.random.default_rng(0)
    for name, options in FAMILIES.items():
        keras.backend.clear_session()
        hosts = build(2, options), build(1, options)
        width = hosts[0].output.shape[-1]
        head = classification_head(width, 3)
        if name == "pooled":
            head = keras.Sequential([keras.Input((width,)), keras.layers.Dense(3)])
        small = build_successor_model(build_theseus_model(*hosts, head))
        small.set_weights([w + rng.normal(0, 0.2, w.shape) for w in small.get_weights()])
        token_ids = rng.integers(1, 40, (3, 8)) * (np.arange(8) < np.array([[8], [5], [1]]))
        inputs = [token_ids, 1 * (token_ids % 2 > 0)][: len(small.inputs)]
        inputs = [ids.astype("float32") for ids in inputs]
        expected = np.array(small(inputs if len(inputs) > 1 else inputs[0]))
        np.savez(tmp_path / f"{name}.npz", *inputs, expected)
        small.save(tmp_path / f"{name}.keras")
    command = [sys.executable, "-c", CODE, str(tmp_path), *FAMILIES]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
