"""Hugging Face directories into KerasHub backbones, where KerasHub's own converters do not."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bert_of_theseus.checkpoints.base import ACTIVATIONS, read_json
from bert_of_theseus.checkpoints.huggingface import HuggingFaceCheckpoint

# Rows of RoBERTa's table of positions that no position uses.
_OFFSET = 2
_LAYER = {
    "_self_attention_layer.query_dense": "attention/self/query",
    "_self_attention_layer.key_dense": "attention/self/key",
    "_self_attention_layer.value_dense": "attention/self/value",
    "_self_attention_layer.output_dense": "attention/output/dense",
    "_self_attention_layer_norm": "attention/output/LayerNorm",
    "_feedforward_intermediate_dense": "intermediate/dense",
    "_feedforward_output_dense": "output/dense",
    "_feedforward_layer_norm": "output/LayerNorm",
}


def load_backbone(directory: str | os.PathLike, num_hidden_layers: int | None = None):
    """Builds a KerasHub backbone with the weights of a Hugging Face directory.

    BERT, RoBERTa and ELECTRA, saved with any head or with none. Unlike KerasHub's own converters
    it reads a RoBERTa or an ELECTRA without its head, a BERT without its pooler, ELECTRA at all,
    and RoBERTa's token types. A pooler that the directory lacks starts at random. Any other
    directory is left to `keras_hub.models.Backbone.from_preset`.

    KerasHub approximates BERT's and ELECTRA's gelu by tanh, so hidden states differ from those of
    `transformers` in the fourth digit.

    Args:
        directory: the folder with `config.json` and `model.safetensors`, whole or in shards.
        num_hidden_layers: build only the first so many layers, of BERT, RoBERTa or ELECTRA;
            default all.

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
    if kind not in ("bert", "electra", "roberta"):
        if num_hidden_layers is not None:
            raise ValueError(
                "`num_hidden_layers` is for Hugging Face directories of BERT, RoBERTa and "
                f"ELECTRA. {str(directory)!r} is another: use build_successor_backbone."
            )
        return keras_hub.models.Backbone.from_preset(str(directory))
    activation = ACTIVATIONS.get(config.get("hidden_act", "gelu"), "another")
    if not activation.startswith("gelu"):
        raise ValueError(
            f"{str(path)!r}: hidden_act should be a gelu, as in KerasHub's {kind}, not "
            f"{config['hidden_act']!r}."
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(
            f"{str(path)!r}: position_embedding_type should be 'absolute', not "
            f"{config['position_embedding_type']!r}."
        )
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
    size, models = config["vocab_size"], keras_hub.models
    if kind == "roberta":
        options["max_sequence_length"] -= _OFFSET
        backbone = models.RobertaBackbone(vocabulary_size=size, **options)
    elif kind == "electra":
        options["num_segments"] = config.get("type_vocab_size", 2)
        options["embedding_dim"] = config["embedding_size"]
        backbone = models.ElectraBackbone(vocab_size=size, **options)
    else:
        options["num_segments"] = config.get("type_vocab_size", 2)
        backbone = models.BertBackbone(vocabulary_size=size, **options)
    tensors = _Tensors(directory)

    def fill(layer, name):
        for part in ("kernel", "bias") if hasattr(layer, "kernel") else ("gamma", "beta"):
            weight = getattr(layer, part)
            # [in, out] here, and several heads of an axis in Keras.
            weight.assign(tensors.by_part(f"{name}/{part}").reshape(tuple(weight.shape)))

    words, positions, types = (
        tensors.by_part(f"embeddings/{name}_embeddings")
        for name in ("word", "position", "token_type")
    )
    if kind == "roberta":
        backbone.embeddings.token_embedding.embeddings.assign(words)
        # Of types it has one, added to each position.
        backbone.embeddings.position_embedding.position_embeddings.assign(
            positions[_OFFSET:] + types[0]
        )
    else:
        backbone.token_embedding.embeddings.assign(words)
        backbone.position_embedding.position_embeddings.assign(positions)
        backbone.segment_embedding.embeddings.assign(types)
    fill(backbone.embeddings_layer_norm, "embeddings/LayerNorm")
    if kind == "electra" and config["embedding_size"] != config["hidden_size"]:
        fill(backbone.embeddings_projection, "embeddings_project")
    for index, block in enumerate(backbone.transformer_layers):
        for attributes, name in _LAYER.items():
            layer = block
            for attribute in attributes.split("."):
                layer = getattr(layer, attribute)
            fill(layer, f"encoder/layer/{index}/{name}")
    if kind == "bert" and "pooler/dense/kernel" in tensors.parts:
        fill(backbone.pooled_dense, "pooler/dense")
    return backbone


class _Tensors(HuggingFaceCheckpoint):
    """The tensors of a folder alone, whatever the model is."""

    def __init__(self, directory):
        self.directory = directory
        self._contents = self._dtypes_and_shapes()
        # Without the name of the model, which is there if it was saved with a head.
        self.parts = {
            re.sub(r"^(bert|electra|roberta)/", "", name).replace("layer_", "layer/"): name
            for name in self._contents
        }

    def by_part(self, part):
        if part not in self.parts:
            raise ValueError(f"{str(self.directory)!r} lacks {part} (in Google's spelling).")
        return self.tensor(self.parts[part])
