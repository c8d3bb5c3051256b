"""Nothing is said on stderr where nothing is wrong; a mask that is really lost is told of."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import package, to_tensor

from bert_of_theseus import ModuleChoice
from bert_of_theseus.backend import KERAS_2, get_mask, keras, quiet_about_masks
from bert_of_theseus.heads import pooler_classification_head, span_head, tagging_head
from bert_of_theseus.wrappers import Frozen

ROOT = Path(__file__).resolve().parents[2]
BERT4KERAS = """
import bert_of_theseus.bert4keras
from bert4keras.models import build_transformer_model

def transformer(layers, prefix):
    return build_transformer_model(
        vocab_size=9, hidden_size=H, num_attention_heads=2, intermediate_size=8, hidden_act="gelu",
        max_position_embeddings=L, num_hidden_layers=layers, prefix=prefix,
        return_keras_model=False,
    )

predecessor, successor = transformer(2, "P-"), transformer(1, "S-")
x = [ids, 0 * ids]
"""
LAYERS = """
import keras
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.wrappers import Masked

def block():
    x = keras.Input((None, H))
    y = keras.layers.Add()([x, keras.layers.MultiHeadAttention(1, 2)(x, x)])
    return keras.Model(x, keras.layers.Dense(H)(y))

predecessor = StackEncoder(
    [block(), block()],
    inputs=keras.Input((L,), dtype="int32"),
    embedding=keras.layers.Embedding(9, H, mask_zero=True),
    final=keras.Sequential([keras.layers.Dense(H)]),
)
successor = [keras.Sequential([Masked(keras.layers.Conv1D(H, 3, padding="same")), block()])]
x = ids
"""
# What others say when they start comes before the line, and is theirs.
COMPRESS = """
import sys
from pathlib import Path
import numpy as np
import bert_of_theseus as b
H, L = 4, 6
lengths = np.resize([6, 3], (8, 1))
ids = np.random.default_rng(0).integers(1, 9, (8, L)) * (np.arange(L) < lengths)
{models}
import tensorflow
from bert_of_theseus.heads import pooler_classification_head
print("started", file=sys.stderr, flush=True)
result = b.compress(
    predecessor, successor, pooler_classification_head(H, 3), (x, ids[:, 0] % 3),
    directory=Path(sys.argv[1]) / "run", initialize=None, batch_size=4, latency=False, verbose=0,
    predecessor_stage=None, warm_start_stage=b.Stage(1, 0.01), theseus_stage=b.Stage(1, 0.01),
    successor_stage=None,
)
result.successor.save(Path(sys.argv[1]) / "small.keras")
b.load_model(Path(sys.argv[1]) / "small.keras").predict(x, verbose=0)
print(result.rows[-1]["layers"])
"""
only_keras_3 = pytest.mark.skipif(KERAS_2, reason="Keras 2 says nothing about masks")


@pytest.mark.slow_unless("torch", "tf_keras")
def test_a_script_that_compresses_prints_nothing_on_stderr(tmp_path):
    code = COMPRESS.format(models=BERT4KERAS if KERAS_2 else LAYERS)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"]
    assert done.stderr.split("started\n")[-1] == ""


@package
class Loses(keras.layers.Layer):
    """A layer that knows no masks."""

    def call(self, x):
        return 1.0 * x


def masked(width=4):
    """Hidden states of two texts of lengths 3 and 1, with their mask."""
    ids = to_tensor(np.array([[1, 2, 3], [4, 0, 0]]))
    return keras.layers.Embedding(5, width, mask_zero=True)(ids)


def around(*layers):
    """A functional model of `layers`, in another one."""
    x = inputs = keras.Input((None, 4))
    for layer in layers:
        x = layer(x)
    return keras.Sequential([keras.Input((None, 4)), keras.Model(inputs, x)])


def dense(name=None):
    return keras.layers.Dense(4, name=name)


WRAPS = {
    "successor": lambda layer: ModuleChoice(dense(), layer),
    "predecessor": lambda layer: ModuleChoice(layer, dense()),
    "frozen": Frozen,
}


@only_keras_3
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_layer_that_loses_the_mask_is_named_and_it_alone(wrap):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for training in (False, True):
            wrap(around(dense(), dense()))(masked(), training=training)
    layer = wrap(around(dense(), Loses(name="mine"), dense()))
    with pytest.warns(UserWarning, match="Layer 'mine' .*destroy the mask") as caught:
        for _ in range(9):  # of which a choice at random picks each module once, but for 1 in 250
            layer(masked(), training=True)
    assert all("Layer 'mine'" in str(warning.message) for warning in caught)


def test_masks_go_where_the_layers_of_a_model_let_them():
    x = masked()
    for model, kept in (
        (tagging_head(4, 2), True),
        (pooler_classification_head(4, 2), False),
        (span_head(4), False),
        (around(dense()), True),
    ):
        assert (get_mask(quiet_about_masks(model)(x)) is not None) == kept
    assert get_mask(ModuleChoice(around(dense()), dense())(x)) is not None


@only_keras_3
def test_a_model_with_a_call_of_its_own_answers_for_itself():
    class Model(keras.Model):
        def call(self, x):
            return 1.0 * x

    with pytest.warns(UserWarning, match="Layer 'own'.*destroy the mask"):
        quiet_about_masks(Model(name="own"))(masked())
