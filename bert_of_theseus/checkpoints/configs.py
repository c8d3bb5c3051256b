"""config.json and bert_config.json of each family, as one config with BERT's keys, and back.

An option that changes what `transformers` computes is used, or refused by name.
"""

from __future__ import annotations

from pathlib import Path

from ..files import read_json
from ..validation import is_integer, is_number
from .families import FAMILIES, Family

# The name of each activation in bert4keras: its spellings in config files, the one that
# `transformers` writes first. "gelu" is the exact one (erf): BERT was published with it, and both
# Hugging Face and bert4keras read the name that way. Google's later code approximates it with tanh
# under the same name; the two differ by less than 5e-4 per unit.
SPELLINGS = {
    "gelu": ("gelu", "gelu_python", "gelu_erf"),
    "gelu_tanh": ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_tanh"),
    "swish": ("silu", "swish"),
    "relu": ("relu",),
    "tanh": ("tanh",),
    "linear": ("linear",),
}
ACTIVATIONS = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}

_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers"),
    *("num_attention_heads", "intermediate_size"),
)
# Optional keys of a config, with the values of BERT-base.
DEFAULTS = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
# Options that change what `transformers` computes, with the only value that is computed here.
_FIXED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}
# Signs that a model is not what the rest of its config says.
_ABSENT = {
    "quantization_config": "the model is quantized",
    "auto_map": "the model has code of its own",
    "pruned_heads": "attention heads were removed",
}
# The limits of what no tensor shows: layers that are shared, and positions without a table.
_MOST_LAYERS, _MOST_POSITIONS = 1000, 10**6


def read_config(path: Path, families=tuple(FAMILIES)) -> tuple[dict, dict]:
    """Reads the config of an encoder.

    Args:
        path: `config.json` or `bert_config.json`.
        families: The `model_type`s that are accepted.

    Returns:
        `(config, raw)`: the canonical config, checked and complete, and the file's content. Of the
        file's keys the config has only those that define the encoder.

    Raises:
        ValueError: if the file does not describe such an encoder, or not completely.
    """
    raw = read_json(path)
    model_type = raw.get("model_type", "bert")
    if model_type not in list(families):
        also = " (which Chinese RoBERTa-wwm and MacBERT checkpoints are too)"
        raise ValueError(
            f"{str(path)!r} describes a model of type {model_type!r}; supported: "
            f"{', '.join(map(repr, families))}{also * (list(families) == ['bert'])}."
        )
    family = FAMILIES[model_type]
    missing = [family.key(key) for key in _SIZES if raw.get(family.key(key)) is None]
    if missing:
        raise ValueError(f"{str(path)!r} lacks {', '.join(missing)}.")
    config, problems = _read(family, raw)
    if problems:
        raise ValueError(f"{str(path)!r} cannot be used: {'; '.join(problems)}.")
    config["hidden_act"] = ACTIVATIONS[config["hidden_act"]]
    if family.pads_positions:
        config["position_offset"] = config["pad_token_id"] + 1
        config["max_position_embeddings"] -= config["position_offset"]
    return config, raw


def write_config(config: dict) -> dict:
    """The entries of config.json for a canonical config: the inverse of `read_config`."""
    family, config = FAMILIES[config["model_type"]], dict(config)
    config["max_position_embeddings"] += config.pop("position_offset", 0)
    config["hidden_act"] = SPELLINGS[config["hidden_act"]][0]
    written = {family.key(k): value for k, value in config.items() if k not in family.lacks}
    written.update({key: value for key, (value, _) in family.fixed.items()})
    return {**written, "initializer_range": 0.02}


def _read(family: Family, raw: dict) -> tuple[dict, list[str]]:
    """The config with the family's own values, and what is wrong with them."""
    defaults = {**dict.fromkeys(_SIZES), **DEFAULTS, **family.defaults}
    config = {"model_type": family.model_type}
    for key, default in defaults.items():
        value = None if key in family.lacks else raw.get(family.key(key))
        config[key] = default if value is None else value
    problems = [
        f"{family.key(key)} must be {expected}, not {config[key]!r:.60}"
        for key in defaults
        for expected in [_expected(key, config[key], zero=not defaults[key])]
        if expected
    ]
    fixed = {**{key: (value, value) for key, value in _FIXED.items()}, **family.fixed}
    if not problems:
        fixed.update(_implied(family, config))
    for key, (value, default) in fixed.items():
        found = default if raw.get(key) is None else raw[key]
        if not _same(key, found, value):
            problems.append(f"{key} must be {value!r}, not {found!r:.60}")
    problems += [
        f"{key} must not be there ({why}): {raw[key]!r:.60}"
        for key, why in _ABSENT.items()
        if raw.get(key)
    ]
    return config, problems or _relations(family, config)


def _implied(family: Family, config: dict) -> dict:
    """Options that a DeBERTa may have, and that must be what they are without a word."""
    if family.model_type != "deberta-v2":
        return {}
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    sizes = {"embedding_size": hidden, "pooler_hidden_size": hidden}
    sizes["attention_head_size"] = hidden // heads
    return {key: (size, size) for key, size in sizes.items()}


def _relations(family: Family, config: dict) -> list[str]:
    """What is wrong with values that are valid one by one."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    pad, rows = config["pad_token_id"], config["max_position_embeddings"]
    problems = []
    if hidden % heads:
        names = family.key("hidden_size"), family.key("num_attention_heads")
        problems.append(f"{names[0]} {hidden} is not a multiple of {names[1]} {heads}")
    if pad >= config["vocab_size"]:
        problems.append(f"pad_token_id must be below vocab_size {config['vocab_size']}, not {pad}")
    if family.pads_positions and rows <= pad + 1:
        problems.append(f"max_position_embeddings must be above {pad + 1}, not {rows}")
    if rows > _MOST_POSITIONS:
        problems.append(f"max_position_embeddings must be at most {_MOST_POSITIONS}, not {rows}")
    if "num_hidden_groups" in config and config["num_hidden_layers"] > _MOST_LAYERS:
        problems.append(
            f"num_hidden_layers must be at most {_MOST_LAYERS}, not {config['num_hidden_layers']}"
        )
    return problems


def _same(key: str, found, value) -> bool:
    """Whether an option has the value that is computed here."""
    if key == "pos_att_type":
        found = found.lower().replace(" ", "").split("|") if isinstance(found, str) else found
        return isinstance(found, list) and sorted(map(str, found)) == sorted(value)
    if key == "max_relative_positions":
        return is_integer(found) and found < 1
    return type(found) is type(value) and found == value


def _expected(key: str, value, zero: bool) -> str | None:
    """What the value of `key` must be, if it is anything else."""
    if key == "hidden_act":
        valid = isinstance(value, str) and value in ACTIVATIONS
        return None if valid else f"one of {', '.join(ACTIVATIONS)}"
    if key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        return None if is_number(value) and 0 <= value < 1 else "in [0, 1)"
    if key == "layer_norm_eps":
        return None if is_number(value) and 0 < value < 1 else "in (0, 1)"
    if key == "pad_token_id" or (key == "type_vocab_size" and zero):
        return None if is_integer(value) and value >= 0 else "an integer of at least 0"
    return None if is_integer(value) and value >= 1 else "a positive integer"
