"""The README's block for bert4keras runs as it stands."""

import numpy as np
import pytest
from helpers import eager
from readme_blocks import READMES, readme_block

from bert_of_theseus.backend import KERAS_2

if not KERAS_2:
    pytest.skip("the block imports bert4keras", allow_module_level=True)

import tensorflow as tf


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["eager", "traced"])
def run_eagerly(request):
    """Tracing three trainings takes most of the time."""
    tf.config.run_functions_eagerly(request.param)
    yield
    tf.config.run_functions_eagerly(False)


def test_bert4keras(run_eagerly, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert-base")
    (tmp_path / "bert-base" / "vocab.txt").write_text("\n".join(map(str, range(40))))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    scope = {
        "token_ids": rng.integers(1, 40, (8, 6)),
        "segment_ids": np.zeros((8, 6)),
        "labels": rng.integers(0, 2, 8),
    }
    (code,) = {readme_block('small.save("small.keras")', name) for name in READMES}
    assert len(code.split("\n\n", 1)[1].splitlines()) <= 16
    exec(code, scope)
    reloaded = scope["keras"].models.load_model("small.keras")
    x = [scope["token_ids"], scope["segment_ids"]]
    np.testing.assert_allclose(eager(reloaded, x), eager(scope["small"], x), atol=1e-6)
