"""The README's blocks run as they stand."""

import pathlib
import re

import numpy as np
import pytest

from bert_of_theseus.backend import KERAS_2

ROOT = pathlib.Path(__file__).resolve().parents[2]


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_keras_layers(name):
    if KERAS_2:
        pytest.skip("the block imports Keras 3")
    scope = {}
    exec(blocks(name)[1], scope)
    theseus, small = scope["theseus"], scope["small"]
    x = np.random.default_rng(0).normal(size=(4, 5, 32)).astype("float32")
    np.testing.assert_array_equal(theseus.predict(x, verbose=0), small.predict(x, verbose=0))
    assert len(theseus.trainable_weights) == len(small.trainable_weights) - 2  # the head


def test_bert4keras(tmp_path, monkeypatch):
    if not KERAS_2:
        pytest.skip("the block imports bert4keras")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=6,
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
    (code,) = {blocks(name)[0] for name in ("README.md", "README.zh.md")}
    assert len(code.split("\n\n", 1)[1].splitlines()) <= 16
    exec(code, scope)
    reloaded = scope["keras"].models.load_model("small.keras")
    x = [scope["token_ids"], scope["segment_ids"]]
    np.testing.assert_allclose(
        reloaded.predict(x, verbose=0), scope["small"].predict(x, verbose=0), atol=1e-6
    )
