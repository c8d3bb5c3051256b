"""Tiny folders of each family, as `transformers` writes them, and what it computes of them."""

import keras
import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

# Its name in the classes of `transformers`, and what its config has beside `SIZES`.
FAMILIES = {
    "albert": ("Albert", {"embedding_size": 4}),
    "bert": ("Bert", {}),
    "deberta-v2": (
        "DebertaV2",
        {
            "relative_attention": True,
            "position_biased_input": False,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 4,
            "type_vocab_size": 0,
        },
    ),
    "distilbert": ("DistilBert", {}),
    "electra": ("Electra", {"embedding_size": 4}),
    "roberta": ("Roberta", {"type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1}),
}
SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
DISTILBERT = {
    "hidden_act": "activation",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
}
LABELS = ["bad", "fine", "good"]


def save(family, folder, kind="ForSequenceClassification", labels=LABELS, **changes):
    """Writes a model of random weights, so large that each of its parts matters; returns it."""
    name, own = FAMILIES[family]
    model_class = getattr(transformers, name + kind)
    options = {**SIZES, **own, **changes}
    if family == "distilbert":
        options = {DISTILBERT.get(key, key): value for key, value in options.items()}
    if kind.endswith("Classification"):
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {label: number for number, label in enumerate(labels)}
    model = model_class(model_class.config_class(**options)).eval()
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
