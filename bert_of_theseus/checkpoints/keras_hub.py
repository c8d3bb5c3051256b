"""Loads Hugging Face directories into KerasHub backbones where KerasHub's own converters cannot."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ..files import check_files, read_json
from ..validation import positive_integer
from .base import ACTIVATIONS
from .huggingface import HuggingFaceCheckpoint


class _Family(NamedTuple):
    """Where the files of a family keep what KerasHub's backbone has.

    Attributes:
        backbone: KerasHub's name of the family.
        layer: The name of a layer, with its number.
        parts: The names of a layer's parts, in the order of `_PARTS`.
        projection: Of the embeddings to the hidden size, if there is one.
        pooler: Of BERT's pooler, if the backbone has it.
    """

    backbone: str
    layer: str
    parts: tuple[str, ...]
    projection: str | None = None
    pooler: str | None = None


# The parts of a layer in KerasHub.
_PARTS = (
    *(f"_self_attention_layer._{part}_dense" for part in ("query", "key", "value", "output")),
    "_self_attention_layer_norm",
    *("_feedforward_intermediate_dense", "_feedforward_output_dense", "_feedforward_layer_norm"),
)
_BERT = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "attention.output.LayerNorm"),
    *("intermediate.dense", "output.dense", "output.LayerNorm"),
)
_DEBERTA = tuple(f"attention.self.{part}_proj" for part in ("query", "key", "value")) + _BERT[3:]
_DISTILBERT = (
    *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
)
_ALBERT = (
    *("attention.query", "attention.key", "attention.value", "attention.dense"),
    *("attention.LayerNorm", "ffn", "ffn_output", "full_layer_layer_norm"),
)
_FAMILIES = {
    "albert": _Family(
        "Albert", "encoder.albert_layer_groups.{}.albert_layers.{}", _ALBERT,
        "encoder.embedding_hidden_mapping_in", "pooler",
    ),
    "bert": _Family("Bert", "encoder.layer.{}", _BERT, pooler="pooler.dense"),
    "deberta-v2": _Family("DebertaV3", "encoder.layer.{}", _DEBERTA),
    "distilbert": _Family("DistilBert", "transformer.layer.{}", _DISTILBERT),
    "electra": _Family("Electra", "encoder.layer.{}", _BERT, "embeddings_project"),
    "roberta": _Family("Roberta", "encoder.layer.{}", _BERT),
}  # fmt: skip
# DistilBERT's names in its config -> BERT's.
_DISTILBERT_CONFIG = {
    "activation": "hidden_act",
    "dim": "hidden_size",
    "dropout": "hidden_dropout_prob",
    "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
}
# What KerasHub's DeBERTa computes, and the default of `transformers`.
_DEBERTA_OPTIONS = {
    "relative_attention": (True, False),
    "position_biased_input": (False, True),
    "share_att_key": (True, False),
    "norm_rel_ebd": ("layer_norm", "none"),
    "max_relative_positions": (-1, -1),
    "type_vocab_size": (0, 0),
    "conv_kernel_size": (0, 0),
}
# The first rows of RoBERTa's table of positions, which no position uses.
_OFFSET = 2


def load_backbone(directory: str | os.PathLike, num_hidden_layers: int | None = None):
    """Builds a KerasHub backbone with the weights of a Hugging Face directory.

    ALBERT, BERT, DeBERTa-v3, DistilBERT, ELECTRA and RoBERTa, saved with any head or without one.
    KerasHub's own converters do not read DeBERTa or ELECTRA; ALBERT, DistilBERT or RoBERTa without
    a head; ALBERT or BERT without a pooler; or RoBERTa's token types. A pooler that the directory
    lacks starts at random. Directories of other families, such as XLM-RoBERTa, are passed to
    `keras_hub.models.Backbone.from_preset`.

    KerasHub approximates BERT's and ELECTRA's gelu by tanh, so hidden states differ from those of
    `transformers` in the fourth digit.

    Args:
        directory: The folder with `config.json` and `model.safetensors`, whole or in shards.
        num_hidden_layers: Number of layers to load, from the first. Defaults to all. Only for the
            families above, except for ALBERT, whose layers are shared.

    Returns:
        A `keras_hub.models.Backbone`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is corrupt, or describes a model that KerasHub's backbone does not
            compute.

    Example:

        backbone = load_backbone("electra-small-discriminator")
    """
    import keras_hub

    directory = Path(directory)
    path = directory / "config.json"
    config = read_json(path) if path.is_file() else {}
    kind = config.get("model_type")
    if num_hidden_layers is not None and (kind not in _FAMILIES or kind == "albert"):
        raise ValueError(
            "`num_hidden_layers` is for Hugging Face directories of BERT, DeBERTa-v3, DistilBERT, "
            f"ELECTRA and RoBERTa. Received: {str(directory)!r}. Use build_successor_backbone."
        )
    if kind not in _FAMILIES:
        return keras_hub.models.Backbone.from_preset(str(directory))
    check_files(directory, [path.name])
    if kind == "distilbert":
        config = {_DISTILBERT_CONFIG.get(name, name): value for name, value in config.items()}
    _check(config, path)
    depth = positive_integer("num_hidden_layers", num_hidden_layers, optional=True)
    depth = depth or config["num_hidden_layers"]
    if depth > config["num_hidden_layers"]:
        raise ValueError(
            f"`num_hidden_layers` is {num_hidden_layers}, but {str(directory)!r} holds "
            f"{config['num_hidden_layers']} layers."
        )
    family = _FAMILIES[kind]
    backbone_class = getattr(keras_hub.models, f"{family.backbone}Backbone")
    backbone = backbone_class(num_layers=depth, **_options(config))
    tensors = _Tensors(directory)
    _fill_embeddings(backbone, tensors, kind)
    layers = backbone.transformer_layers
    if kind == "albert":  # a list of groups
        layers = {(g, i): x for g, group in enumerate(layers) for i, x in enumerate(group)}
    else:
        layers = {(index,): layer for index, layer in enumerate(layers)}
    for numbers, layer in layers.items():
        for attributes, name in zip(_PARTS, family.parts):
            part = layer
            for attribute in attributes.split("."):
                part = getattr(part, attribute)
            tensors.fill(part, f"{family.layer.format(*numbers)}.{name}")
    if family.pooler and f"{family.pooler}.weight" in tensors:
        tensors.fill(backbone.pooled_dense, family.pooler)
    return backbone


def _options(config: dict) -> dict:
    """The arguments of KerasHub's backbone, but for the number of layers."""
    kind = config["model_type"]
    options = {
        "num_heads": config["num_attention_heads"],
        "hidden_dim": config["hidden_size"],
        "intermediate_dim": config["intermediate_size"],
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "max_sequence_length": config["max_position_embeddings"],
    }
    options["vocab_size" if kind == "electra" else "vocabulary_size"] = config["vocab_size"]
    if kind == "roberta":
        options["max_sequence_length"] -= _OFFSET
    if kind in ("albert", "bert", "electra"):
        options["num_segments"] = config.get("type_vocab_size", 2)
    if kind in ("albert", "electra"):
        options["embedding_dim"] = config.get("embedding_size", 128)
    if kind == "albert":
        options["num_groups"] = config.get("num_hidden_groups", 1)
        options["num_inner_repetitions"] = config.get("inner_group_num", 1)
    if kind == "deberta-v2":
        options["bucket_size"] = config["position_buckets"]
    return options


def _fill_embeddings(backbone, tensors: _Tensors, kind: str) -> None:
    def table(name):
        return tensors[f"embeddings.{name}_embeddings.weight"]

    backbone.token_embedding.embeddings.assign(table("word"))
    if kind == "roberta":
        # It has one token type, which is added to each position.
        positions = table("position")[_OFFSET:] + table("token_type")[0]
        backbone.embeddings.position_embedding.position_embeddings.assign(positions)
    elif kind == "distilbert":
        backbone.embeddings.position_embedding.position_embeddings.assign(table("position"))
    elif kind == "deberta-v2":
        relative = backbone.relative_embeddings
        relative.rel_embeddings.assign(tensors["encoder.rel_embeddings.weight"])
        tensors.fill(relative.layer_norm, "encoder.LayerNorm")
    else:
        backbone.position_embedding.position_embeddings.assign(table("position"))
        backbone.segment_embedding.embeddings.assign(table("token_type"))
    tensors.fill(backbone.embeddings_layer_norm, "embeddings.LayerNorm")
    projection = _FAMILIES[kind].projection
    if projection and (kind == "albert" or backbone.embedding_dim != backbone.hidden_dim):
        tensors.fill(backbone.embeddings_projection, projection)


def _check(config, path):
    """Refuses configs of models that KerasHub's backbones do not compute."""
    kind = config["model_type"]
    activation = ACTIVATIONS.get(config.get("hidden_act", "gelu"), "another")
    if not activation.startswith("gelu"):
        raise ValueError(
            f"{str(path)!r}: hidden_act must be a gelu, as in KerasHub's {kind}, not "
            f"{config['hidden_act']!r}."
        )
    wanted = {"position_embedding_type": ("absolute", "absolute")}
    if kind == "deberta-v2":
        wanted = _DEBERTA_OPTIONS
        kinds = config.get("pos_att_type") or []
        kinds = kinds.split("|") if isinstance(kinds, str) else kinds
        if set(kinds) != {"c2p", "p2c"} or config.get("position_buckets", -1) < 1:
            raise ValueError(
                f"{str(path)!r}: of DeBERTas KerasHub has v3, with pos_att_type 'p2c|c2p' and "
                f"position_buckets. Received: pos_att_type {config.get('pos_att_type')!r}, "
                f"position_buckets {config.get('position_buckets')!r}."
            )
    for name, (value, default) in wanted.items():
        if config.get(name, default) != value:
            raise ValueError(
                f"{str(path)!r}: {name} must be {value!r}, not {config.get(name, default)!r}."
            )


class _Tensors(HuggingFaceCheckpoint):
    """The tensors of a folder by their stored names, without the model's name in front."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._contents = self._dtypes_and_shapes()
        models = "|".join(["albert", "bert", "deberta", "distilbert", "electra", "roberta"])
        # Files older than 2019 call LayerNorm's weights gamma and beta.
        old = {".gamma": ".weight", ".beta": ".bias"}
        self._by_name = {}
        for name, stored in self._stored.items():
            stored = re.sub(rf"^({models})\.", "", stored)
            stored = re.sub(r"\.(gamma|beta)$", lambda end: old[end[0]], stored)
            self._by_name[stored] = name

    def __contains__(self, stored: str) -> bool:
        return stored in self._by_name

    def __getitem__(self, stored: str):
        if stored not in self:
            raise ValueError(f"{str(self.directory)!r} lacks {stored}.")
        return self.tensor(self._by_name[stored])

    def fill(self, layer, name: str) -> None:
        """Sets the weights of a dense layer or of a normalization."""
        parts = ("kernel", "bias") if hasattr(layer, "kernel") else ("gamma", "beta")
        for part, stored in zip(parts, ("weight", "bias")):
            weight = getattr(layer, part)
            # In attention, Keras' kernels have an axis for the heads.
            weight.assign(self[f"{name}.{stored}"].reshape(tuple(weight.shape)))
