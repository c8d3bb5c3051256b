"""Tiny folders of each family, as `transformers` writes them, and what it computes of them."""

import keras
import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from tiny_transformers import FAMILIES, make_model  # noqa: E402, F401

SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
# What a family's config has beside them, where it is not as in `tiny_transformers`.
OWN = {
    "albert": {"embedding_size": 4, "num_hidden_groups": 1, "inner_group_num": 1},
    "deberta-v2": {"position_buckets": 4},
    "electra": {"embedding_size": 4},
}
LABELS = ["bad", "fine", "good"]


def save(family, folder, kind="ForSequenceClassification", **changes):
    """Writes a model of random weights, so large that each of its parts matters; returns it."""
    labels = LABELS if kind.endswith("Classification") else ()
    model = make_model(family, kind, labels, **{**SIZES, **OWN.get(family, {}), **changes})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.4, generator=generator)
    model.save_pretrained(folder)
    return model


def batch(backbone, lengths=(11, 5, 2), seed=0):
    """Padded texts for a backbone. A token in the middle of the first has the id of padding."""
    rng = np.random.default_rng(seed)
    mask = np.arange(max(lengths)) < np.reshape(lengths, (-1, 1))
    token_ids = rng.integers(5, 40, mask.shape)
    token_ids[0, 3] = backbone.padding_id
    parts = {
        "token_ids": np.where(mask, token_ids, backbone.padding_id),
        "padding_mask": mask,
        "segment_ids": rng.integers(0, 2, mask.shape),
    }
    return {name: parts[name].astype("int32") for name in sorted(backbone.input)}


def theirs(model, x, **more):
    """What a model of `transformers` returns for such a batch."""
    names = {"token_ids": "input_ids", "padding_mask": "attention_mask"}
    names["segment_ids"] = "token_type_ids"
    given = {names[key]: torch.tensor(value).long() for key, value in x.items()}
    with torch.no_grad():
        return model(**given, **more)


def ours(model, x):
    """The sequence of hidden states of a backbone, or the output of another model."""
    found = model({key: keras.ops.convert_to_tensor(value) for key, value in x.items()})
    found = found["sequence_output"] if isinstance(found, dict) else found
    return keras.ops.convert_to_numpy(found)
