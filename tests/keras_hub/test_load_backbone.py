"""Hugging Face directories into KerasHub backbones: what `transformers` computes of them."""

import json
import os

import keras
import keras_hub
import numpy as np
import pytest

from bert_of_theseus import as_encoder
from bert_of_theseus.checkpoints import load_backbone

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
DEBERTA = {
    "relative_attention": True,
    "position_biased_input": False,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
    "type_vocab_size": 0,
}
# With the largest difference: KerasHub's gelu is approximate where those of the files are exact.
CASES = {
    "AlbertModel": (1e-4, {"embedding_size": 4}),
    "AlbertForMaskedLM": (1e-4, {"embedding_size": 4, "num_hidden_groups": 2}),  # has no pooler
    "BertForMaskedLM": (5e-3, {}),  # has no pooler
    "BertForSequenceClassification": (5e-3, {}),
    "DebertaV2Model": (1e-4, DEBERTA),
    "DebertaV2ForSequenceClassification": (1e-4, DEBERTA),
    "DistilBertModel": (1e-4, {}),
    "DistilBertForMaskedLM": (1e-4, {}),
    "ElectraModel": (5e-3, {"embedding_size": 4}),
    "ElectraForPreTraining": (5e-3, {"embedding_size": 8}),
    "RobertaModel": (1e-4, {"type_vocab_size": 1}),
    "RobertaForMaskedLM": (1e-4, {"type_vocab_size": 1}),
    "XLMRobertaModel": (1e-4, {"type_vocab_size": 1}),  # KerasHub's own converter
}


def save(name, folder, **changes):
    config_class = getattr(transformers, name).config_class
    if name.startswith("DistilBert"):
        changes.update(dim=8, hidden_dim=16, n_heads=2, n_layers=2)
    model = getattr(transformers, name)(config_class(**{**SIZES, **changes})).eval()
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return model.base_model


# The same code on each backend: on PyTorch all of them.
ELSEWHERE = ("BertForSequenceClassification", "DebertaV2Model")
NAMES = [
    pytest.param(name, marks=[] if name in ELSEWHERE else pytest.mark.slow_unless("torch"))
    for name in CASES
]


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states(name, tmp_path):
    bound, changes = CASES[name]
    theirs = save(name, tmp_path, **changes)
    backbone = load_backbone(tmp_path)
    rng = np.random.default_rng(0)
    token_ids, mask = rng.integers(5, 40, (3, 7)), np.arange(7) < np.array([[7], [4], [2]])
    parts = {"token_ids": token_ids, "padding_mask": mask, "segment_ids": token_ids % 2}
    given = {"input_ids": token_ids, "attention_mask": mask.astype("int64")}
    if "segment_ids" in backbone.input:
        given["token_type_ids"] = parts["segment_ids"]
    with torch.no_grad():
        expected = theirs(**{key: torch.tensor(value) for key, value in given.items()})
    x = {key: keras.ops.convert_to_tensor(parts[key]) for key in backbone.input}
    found = backbone(x)
    sequence = found["sequence_output"] if isinstance(found, dict) else found
    difference = keras.ops.convert_to_numpy(sequence) - expected.last_hidden_state.numpy()
    assert np.abs(difference[mask]).max() < bound
    if name == "BertForSequenceClassification":
        pooled = keras.ops.convert_to_numpy(found["pooled_output"])
        np.testing.assert_allclose(pooled, expected.pooler_output.numpy(), atol=5e-3)


def test_the_first_layers_and_other_folders(tmp_path):
    save("BertModel", tmp_path / "bert")
    small, whole = load_backbone(tmp_path / "bert", num_hidden_layers=1), load_backbone(
        tmp_path / "bert"
    )  # fmt: skip
    layers = [as_encoder(backbone).module([0], "layer") for backbone in (small, whole)]
    assert all(map(np.array_equal, *(layer.get_weights() for layer in layers)))
    assert len(small.transformer_layers) == 1
    # KerasHub's own converter reads this one, to the same weights.
    own = keras_hub.models.BertBackbone.from_preset(str(tmp_path / "bert"))
    assert all(map(np.array_equal, own.get_weights(), whole.get_weights()))
    # And what it makes itself is left to it.
    small.save_to_preset(str(tmp_path / "preset"))
    again = load_backbone(tmp_path / "preset")
    assert all(map(np.array_equal, again.get_weights(), small.get_weights()))
    with pytest.raises(ValueError, match="num_hidden_layers` is for Hugging Face directories"):
        load_backbone(tmp_path / "preset", num_hidden_layers=1)


def test_what_is_refused(tmp_path):
    save("BertModel", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changes, problem in [
        ({"hidden_act": "relu"}, "hidden_act must be a gelu.*not 'relu'"),
        ({"position_embedding_type": "relative_key"}, "must be 'absolute'"),
        ({"num_hidden_layers": 3}, r"lacks encoder\.layer\.2\.attention\.self\.query\.weight"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=problem):
            load_backbone(tmp_path)
    for changes, problem in [
        ({"position_buckets": -1}, "of DeBERTas KerasHub has v3.*position_buckets -1"),
        ({"pos_att_type": None}, "of DeBERTas KerasHub has v3.*pos_att_type None"),
        ({"norm_rel_ebd": "none"}, "norm_rel_ebd must be 'layer_norm', not 'none'"),
    ]:
        deberta = {"model_type": "deberta-v2", **DEBERTA, **changes}
        (tmp_path / "config.json").write_text(json.dumps(deberta))
        with pytest.raises(ValueError, match=problem):
            load_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "albert"}))
    with pytest.raises(ValueError, match="num_hidden_layers` is for Hugging Face directories"):
        load_backbone(tmp_path, num_hidden_layers=1)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"`num_hidden_layers` is 3, but .* holds 2 layers"):
        load_backbone(tmp_path, num_hidden_layers=3)
    os.remove(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_backbone(tmp_path)
