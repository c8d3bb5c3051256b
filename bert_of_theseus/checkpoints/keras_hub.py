"""Hugging Face directories into KerasHub backbones, where KerasHub's own converters do not."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .base import ACTIVATIONS, read_json
from .huggingface import HuggingFaceCheckpoint

# transformers' name of a family -> KerasHub's.
_FAMILIES = {
    "albert": "Albert",
    "bert": "Bert",
    "deberta-v2": "DebertaV3",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "roberta": "Roberta",
}
# Rows of RoBERTa's table of positions that no position uses.
_OFFSET = 2
_LAYER = {
    "_self_attention_layer._query_dense": "attention/self/query",
    "_self_attention_layer._key_dense": "attention/self/key",
    "_self_attention_layer._value_dense": "attention/self/value",
    "_self_attention_layer._output_dense": "attention/output/dense",
    "_self_attention_layer_norm": "attention/output/LayerNorm",
    "_feedforward_intermediate_dense": "intermediate/dense",
    "_feedforward_output_dense": "output/dense",
    "_feedforward_layer_norm": "output/LayerNorm",
}
# From the families' names of tensors to BERT's, one after the other. The first is the name of the
# model, which is there if it was saved with a head.
_SPELLINGS = {
    r"^(albert|bert|deberta|distilbert|electra|roberta)/": "",
    r"^transformer/": "encoder/",
    r"^encoder/layer_": "encoder/layer/",
    r"^encoder/embedding_hidden_mapping_in/": "embeddings_project/",
    r"^pooler/(kernel|bias)$": r"pooler/dense/\1",
    r"/attention/(self/)?(q_lin|query|query_proj)/": "/attention/self/query/",
    r"/attention/(self/)?(k_lin|key|key_proj)/": "/attention/self/key/",
    r"/attention/(self/)?(v_lin|value|value_proj)/": "/attention/self/value/",
    r"/attention/(dense|out_lin)/": "/attention/output/dense/",
    r"/(attention/LayerNorm|sa_layer_norm)/": "/attention/output/LayerNorm/",
    r"/(output|full_layer)_layer_norm/": "/output/LayerNorm/",
    r"/(ffn/lin2|ffn_output)/": "/output/dense/",
    r"/ffn/(lin1/)?": "/intermediate/dense/",
    r"/LayerNorm/kernel$": "/LayerNorm/gamma",
    r"/LayerNorm/bias$": "/LayerNorm/beta",
}
# What KerasHub's DeBERTa computes, and what `transformers` takes if the config does not say.
_DEBERTA = {
    "relative_attention": (True, False),
    "position_biased_input": (False, True),
    "share_att_key": (True, False),
    "norm_rel_ebd": ("layer_norm", "none"),
    "max_relative_positions": (-1, -1),
    "type_vocab_size": (0, 0),
    "conv_kernel_size": (0, 0),
}


def load_backbone(directory: str | os.PathLike, num_hidden_layers: int | None = None):
    """Builds a KerasHub backbone with the weights of a Hugging Face directory.

    ALBERT, BERT, DeBERTa-v3, DistilBERT, ELECTRA and RoBERTa, saved with any head or with none.
    KerasHub's own converters read no DeBERTa and no ELECTRA; no ALBERT, DistilBERT or RoBERTa
    without a head; no ALBERT or BERT without its pooler; and no token types of RoBERTa. A pooler
    that the directory lacks starts at random. Any other directory, of XLM-RoBERTa say, is left to
    `keras_hub.models.Backbone.from_preset`.

    KerasHub approximates BERT's and ELECTRA's gelu by tanh, so hidden states differ from those of
    `transformers` in the fourth digit.

    Args:
        directory: the folder with `config.json` and `model.safetensors`, whole or in shards.
        num_hidden_layers: build only the first so many layers, of one of the families above but
            ALBERT, whose layers are shared; default all.

    Returns:
        A `keras_hub.models.Backbone`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is corrupt, or describes what KerasHub's backbone does not compute.

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
            f"ELECTRA and RoBERTa. {str(directory)!r} is another: use build_successor_backbone."
        )
    if kind not in _FAMILIES:
        return keras_hub.models.Backbone.from_preset(str(directory))
    if kind == "distilbert":
        names = {"n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
        names.update(dim="hidden_size", hidden_dim="intermediate_size", activation="hidden_act")
        names.update(dropout="hidden_dropout_prob")
        config = {names.get(name, name): value for name, value in config.items()}
    _check(config, path)
    options = {
        "num_layers": num_hidden_layers or config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "hidden_dim": config["hidden_size"],
        "intermediate_dim": config["intermediate_size"],
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "max_sequence_length": config["max_position_embeddings"],
    }
    if options["num_layers"] > config["num_hidden_layers"]:
        raise ValueError(
            f"`num_hidden_layers` is {num_hidden_layers}, but {str(directory)!r} holds "
            f"{config['num_hidden_layers']} layers."
        )
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
    backbone = getattr(keras_hub.models, f"{_FAMILIES[kind]}Backbone")(**options)
    tensors = _Tensors(directory, options.get("num_inner_repetitions", 1))

    def fill(layer, name):
        for part in ("kernel", "bias") if hasattr(layer, "kernel") else ("gamma", "beta"):
            weight = getattr(layer, part)
            # [in, out] here, and several heads of an axis in Keras.
            weight.assign(tensors.by_part(f"{name}/{part}").reshape(tuple(weight.shape)))

    def table(name):
        return tensors.by_part(f"embeddings/{name}_embeddings")

    backbone.token_embedding.embeddings.assign(table("word"))
    if kind == "roberta":
        # Of types it has one, added to each position.
        positions = table("position")[_OFFSET:] + table("token_type")[0]
        backbone.embeddings.position_embedding.position_embeddings.assign(positions)
    elif kind == "distilbert":
        backbone.embeddings.position_embedding.position_embeddings.assign(table("position"))
    elif kind == "deberta-v2":
        backbone.relative_embeddings.rel_embeddings.assign(
            tensors.by_part("encoder/rel_embeddings")
        )
        fill(backbone.relative_embeddings.layer_norm, "encoder/LayerNorm")
    else:
        backbone.position_embedding.position_embeddings.assign(table("position"))
        backbone.segment_embedding.embeddings.assign(table("token_type"))
    fill(backbone.embeddings_layer_norm, "embeddings/LayerNorm")
    if kind == "albert" or (
        kind == "electra" and options["embedding_dim"] != options["hidden_dim"]
    ):
        fill(backbone.embeddings_projection, "embeddings_project")
    layers = backbone.transformer_layers
    for index, block in enumerate(sum(layers, []) if kind == "albert" else layers):
        for attributes, name in _LAYER.items():
            layer = block
            for attribute in attributes.split("."):
                layer = getattr(layer, attribute)
            fill(layer, f"encoder/layer/{index}/{name}")
    if kind in ("albert", "bert") and "pooler/dense/kernel" in tensors.parts:
        fill(backbone.pooled_dense, "pooler/dense")
    return backbone


def _check(config, path):
    """Refuses what KerasHub's backbones do not compute."""
    kind = config["model_type"]
    activation = ACTIVATIONS.get(config.get("hidden_act", "gelu"), "another")
    if not activation.startswith("gelu"):
        raise ValueError(
            f"{str(path)!r}: hidden_act should be a gelu, as in KerasHub's {kind}, not "
            f"{config['hidden_act']!r}."
        )
    wanted = {"position_embedding_type": ("absolute", "absolute")}
    if kind == "deberta-v2":
        wanted = _DEBERTA
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
                f"{str(path)!r}: {name} should be {value!r}, not {config.get(name, default)!r}."
            )


class _Tensors(HuggingFaceCheckpoint):
    """The tensors of a folder alone, whatever the model is, by BERT's names."""

    def __init__(self, directory, layers_in_group):
        self.directory = directory
        self._contents = self._dtypes_and_shapes()

        def layer(found):
            group, index = map(int, found.groups())
            return f"encoder/layer/{group * layers_in_group + index}/"

        self.parts = {}
        for name in self._contents:
            part = re.sub(r"\w+/albert_layer_groups/(\d+)/albert_layers/(\d+)/", layer, name)
            for pattern, spelling in _SPELLINGS.items():
                part = re.sub(pattern, spelling, part)
            self.parts[part] = name

    def by_part(self, part):
        if part not in self.parts:
            raise ValueError(f"{str(self.directory)!r} lacks {part} (in Google's spelling).")
        return self.tensor(self.parts[part])
