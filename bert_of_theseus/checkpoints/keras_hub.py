"""KerasHub's backbones from canonical configs and tensors, and back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

import numpy as np

from ..files import read_json
from ..validation import integer
from .configs import SPELLINGS
from .load import find_checkpoint

# KerasHub's name of each family.
CLASSES = {
    "albert": "AlbertBackbone",
    "bert": "BertBackbone",
    "deberta-v2": "DebertaV3Backbone",
    "distilbert": "DistilBertBackbone",
    "electra": "ElectraBackbone",
    "roberta": "RobertaBackbone",
    "xlm-roberta": "XLMRobertaBackbone",
}
# Options of the backbones, with the canonical keys.
_OPTIONS = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "padding_id": "pad_token_id",
    "embedding_dim": "embedding_size",
    "num_groups": "num_hidden_groups",
    "num_inner_repetitions": "inner_group_num",
    "bucket_size": "position_buckets",
}
# The parts of a layer, by canonical name.
_PARTS = {
    "attention/self/query": "_self_attention_layer._query_dense",
    "attention/self/key": "_self_attention_layer._key_dense",
    "attention/self/value": "_self_attention_layer._value_dense",
    "attention/output/dense": "_self_attention_layer._output_dense",
    "attention/output/LayerNorm": "_self_attention_layer_norm",
    "intermediate/dense": "_feedforward_intermediate_dense",
    "output/dense": "_feedforward_output_dense",
    "output/LayerNorm": "_feedforward_layer_norm",
}
# The names of functions that KerasHub's own backbones use.
_ACTIVATION_NAMES = {"gelu_approximate": "gelu_tanh", "silu": "swish"}
_POOLER = "bert/pooler/dense"
_POSITIONS = "bert/embeddings/position_embeddings"
_TYPES = "bert/embeddings/token_type_embeddings"


def load_backbone(directory: str | os.PathLike, num_hidden_layers: int | None = None):
    """Builds a KerasHub backbone with the weights of a checkpoint.

    ALBERT, BERT, DeBERTa-v3, DistilBERT, ELECTRA, RoBERTa and XLM-RoBERTa, saved with any head or
    without one; the head is not loaded, see `load_pretrained`. The pooler of an ALBERT or a BERT,
    the backbone's second output, starts at random if the folder lacks it. A preset, which KerasHub
    saved, is read by `keras_hub.models.Backbone.from_preset`.

    The backbone computes what `transformers` computes, where KerasHub's own approximate gelu or fix
    an epsilon. It is of a subclass of KerasHub's class, so KerasHub's text classifiers take it;
    save them as `.keras` files, or with `save_pretrained`, for KerasHub finds no text classifier
    for such a backbone in a preset.

    Args:
        directory: A folder that `find_checkpoint` opens, or a preset.
        num_hidden_layers: Number of layers to load, from the first. Defaults to all. In ALBERT,
            whose layers are shared, how often they are applied. Not for presets.

    Returns:
        A `keras_hub.models.Backbone`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is corrupt, or describes a model that is not supported.

    Warns:
        UserWarning: if a pooler starts at random.

    Example:

        backbone = load_backbone("electra-small-discriminator")
    """
    import keras_hub

    path = Path(directory) / "config.json"
    if path.is_file() and "registered_name" in read_json(path):
        if num_hidden_layers is not None:
            raise ValueError(
                "`num_hidden_layers` is not for KerasHub's presets. Received: "
                f"{str(directory)!r}. Use build_successor_backbone."
            )
        return keras_hub.models.Backbone.from_preset(str(directory))
    checkpoint = find_checkpoint(directory)
    checkpoint.check()
    config = checkpoint.config
    pooler = config["model_type"] in ("albert", "bert")
    backbone = build_backbone(config, num_hidden_layers, pooler=pooler)
    names = [name for name in _weights(backbone) if name in checkpoint.names]
    if pooler and f"{_POOLER}/kernel" not in names:
        warnings.warn(
            f"{str(directory)!r} has no pooler: that of the backbone starts at random.",
            stacklevel=2,
        )
    fill(backbone, checkpoint.tensors(names))
    return backbone


def build_backbone(config: dict, num_hidden_layers: int | None = None, *, pooler: bool = False):
    """Builds a KerasHub backbone with random weights, which computes what the config says.

    Args:
        config: Canonical config, as `Checkpoint.config`.
        num_hidden_layers: Number of layers. Defaults to the config's.
        pooler: Whether the pooler is part of the backbone, whose outputs are then a dict of
            `"sequence_output"` and `"pooled_output"`. Defaults to `False`: a head brings its own.

    Returns:
        A `keras_hub.models.Backbone`.

    Raises:
        ValueError: if there are more layers than in the config, the family is unknown, or a BERT's
            embeddings have another size than its layers.
    """
    kind = config.get("model_type", "bert")
    if kind not in CLASSES:
        raise ValueError(
            f"`config` must be of a KerasHub backbone: {', '.join(CLASSES)}. Received: {kind!r}."
        )
    from ..encoders import keras_hub_backbones

    depth = integer(
        "num_hidden_layers", num_hidden_layers, 1, config["num_hidden_layers"], optional=True
    )
    options = {option: config[key] for option, key in _OPTIONS.items() if key in config}
    hidden_size = config["hidden_size"]
    if kind == "bert" and options.pop("embedding_dim", hidden_size) != hidden_size:
        raise ValueError(
            f"KerasHub's BERT has embeddings of hidden_size {hidden_size}. Received: "
            f"embedding_size {config['embedding_size']}."
        )
    if depth:
        options["num_layers"] = depth
        if "num_groups" in options:
            options["num_groups"] = min(depth, options["num_groups"])
    return getattr(keras_hub_backbones, CLASSES[kind])(**options, pooler=pooler)


def fill(backbone, tensors: Mapping) -> None:
    """Sets the weights of a backbone to canonical tensors, all of them or none.

    Tensors that the backbone has no place for, such as deeper layers and heads, are not read. A
    pooler that is not there stays as it is.

    Args:
        backbone: From `build_backbone`.
        tensors: Arrays by canonical name.

    Raises:
        ValueError: if tensors are missing or have another shape. It names all of them.
    """
    weights = _weights(backbone)
    if f"{_POOLER}/kernel" not in tensors:
        weights = {name: w for name, w in weights.items() if not name.startswith(_POOLER)}
    problems = [f"{name} is missing" for name in weights if name not in tensors]
    values = {}
    for name, weight in weights.items():
        if name in tensors:
            value, shape = tensors[name], _canonical_shape(name, weight)
            if value.shape != shape:
                problems.append(f"{name} must have the shape {shape}, not {value.shape}")
            values[name] = value
    if problems:
        raise ValueError(
            f"The tensors do not fit the {type(backbone).__name__} (nothing was loaded):\n- "
            + "\n- ".join(problems)
        )
    for name, weight in weights.items():
        weight.assign(np.reshape(values[name], tuple(weight.shape)))


def describe_backbone(backbone) -> tuple[dict, dict]:
    """A backbone as canonical config and tensors.

    Args:
        backbone: From `build_backbone`, or one of KerasHub's own of the same families. KerasHub's
            RoBERTa has no token types, and no rows of positions that are not used: the tensors
            have zeros in their place.

    Returns:
        `(config, tensors)`: see `Checkpoint.config`; float32 arrays by canonical name, the pooler
        among them if the backbone has one that `transformers` knows.

    Raises:
        ValueError: if the backbone is of another family, is quantized, or has options that no
            config can express.
    """
    kind = _model_type(backbone)
    if any(layer.quantization_mode for layer in backbone._flatten_layers()):
        raise ValueError(f"The {type(backbone).__name__} is quantized; save it before.")
    given = backbone.get_config()
    given.update(_read_options(backbone, kind, given))
    config = {"model_type": kind}
    config.update({key: given[option] for option, key in _OPTIONS.items() if option in given})
    tensors = {
        name: _float32(weight).reshape(_canonical_shape(name, weight))
        for name, weight in _weights(backbone).items()
        if kind != "electra" or not name.startswith(_POOLER)  # transformers' has none
    }
    if kind in ("roberta", "xlm-roberta"):
        config["position_offset"] = config["pad_token_id"] + 1
        if _TYPES not in tensors and not hasattr(backbone, "padding_id"):
            config["type_vocab_size"] = 1
            rows = np.zeros((config["position_offset"], config["hidden_size"]), "float32")
            tensors[_POSITIONS] = np.concatenate([rows, tensors[_POSITIONS]])
            tensors[_TYPES] = rows[:1]
    return config, tensors


def _model_type(backbone) -> str:
    import keras_hub

    from ..encoders import keras_hub_backbones

    for kind, name in CLASSES.items():
        if type(backbone) in (getattr(keras_hub.models, name), getattr(keras_hub_backbones, name)):
            return kind
    raise ValueError(
        f"KerasHub's {type(backbone).__name__} cannot be written for other programs. Supported are "
        f"{', '.join(CLASSES.values())}."
    )


def _read_options(backbone, kind: str, config: dict) -> dict:
    """What KerasHub's own backbones do not have in their config, and what may have been changed."""
    layers = _layers(backbone).values()
    dense = [layer._feedforward_intermediate_dense for layer in layers]
    norms = [part for name, part in _modules(backbone).items() if name.endswith("LayerNorm")]
    found = {
        "activation": {getattr(layer.activation, "__name__", "another") for layer in dense},
        "layer_norm_epsilon": {norm.epsilon for norm in norms},
    }
    problems = [f"{name} {sorted(values)}" for name, values in found.items() if len(values) > 1]
    activation = found["activation"].pop()
    activation = _ACTIVATION_NAMES.get(activation, activation)
    if activation not in SPELLINGS:
        problems.append(f"activation {activation!r}")
    if problems:
        raise ValueError(
            f"The {type(backbone).__name__} cannot be written for other programs: no config can "
            f"express {', '.join(problems)}."
        )
    options = {"activation": activation, "layer_norm_epsilon": found["layer_norm_epsilon"].pop()}
    if not hasattr(backbone, "padding_id"):  # KerasHub's own
        options["attention_dropout"] = config["dropout"]
        options["padding_id"] = int(kind in ("roberta", "xlm-roberta"))
        options["num_segments"] = config.get("num_segments", 0)
        options["vocabulary_size"] = config.get("vocabulary_size", config.get("vocab_size"))
    return options


def _layers(backbone) -> dict:
    """The layers by the start of their canonical names."""
    layers = list(backbone.transformer_layers)
    if not isinstance(layers[0], (list, tuple)):
        return {f"bert/encoder/layer_{index}": layer for index, layer in enumerate(layers)}
    return {
        f"bert/encoder/group_{number}/inner_{index}": layer
        for number, group in enumerate(layers)
        for index, layer in enumerate(group)
    }


def _modules(backbone) -> dict:
    """Dense layers and normalizations by canonical name."""
    modules = {"bert/embeddings/LayerNorm": backbone.embeddings_layer_norm}
    if hasattr(backbone, "embeddings_projection"):
        modules["bert/embeddings/projection"] = backbone.embeddings_projection
    if hasattr(backbone, "relative_embeddings"):
        modules["bert/encoder/LayerNorm"] = backbone.relative_embeddings.layer_norm
    for start, layer in _layers(backbone).items():
        for name, path in _PARTS.items():
            modules[f"{start}/{name}"] = attrgetter(path)(layer)
    if hasattr(backbone, "pooled_dense"):
        modules[_POOLER] = backbone.pooled_dense
    return modules


def _weights(backbone) -> dict:
    """All weights of a backbone by canonical name."""
    weights = {"bert/embeddings/word_embeddings": backbone.token_embedding.embeddings}
    # KerasHub's own DistilBERT and RoBERTa have both tables in one layer.
    positions = getattr(getattr(backbone, "embeddings", backbone), "position_embedding", None)
    if positions is not None:
        table = "embeddings" if hasattr(positions, "embeddings") else "position_embeddings"
        weights[_POSITIONS] = getattr(positions, table)
    if hasattr(backbone, "segment_embedding"):
        weights[_TYPES] = backbone.segment_embedding.embeddings
    if hasattr(backbone, "relative_embeddings"):
        weights["bert/encoder/rel_embeddings"] = backbone.relative_embeddings.rel_embeddings
    for name, module in _modules(backbone).items():
        parts = ("gamma", "beta") if name.endswith("LayerNorm") else ("kernel", "bias")
        weights.update({f"{name}/{part}": getattr(module, part) for part in parts})
    return weights


def _canonical_shape(name: str, weight) -> tuple:
    """The shape without the axis for the heads, which Keras' attention has."""
    shape = tuple(weight.shape)
    if "/attention/output/dense/kernel" in name:
        return (int(np.prod(shape[:-1])), shape[-1])
    if name.endswith("/kernel"):
        return (shape[0], int(np.prod(shape[1:])))
    return (int(np.prod(shape)),) if name.endswith("/bias") else shape


def _float32(weight) -> np.ndarray:
    from ..backend import to_numpy

    return to_numpy(weight).astype("float32", copy=False)
