"""What both kinds of checkpoint have in common: one config, one set of tensor names."""

from __future__ import annotations

import json
import os
from pathlib import Path

# Spellings of an activation in config files -> the name that bert4keras' models are built with.
# "gelu" is the exact (erf) one: BERT was published with it, and both Hugging Face and bert4keras
# read the name that way. Google's later code approximates it with tanh under the same name; the
# two differ by less than 5e-4 per unit.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "swish",
    "swish": "swish",
    "tanh": "tanh",
    "linear": "linear",
}

# Key of our tokenizer_config.json under which the SHA-256 of vocab.txt stands.
VOCAB_DIGEST = "vocab_sha256"

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
# What a config may leave out, with the values of BERT-base.
_DEFAULTS = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}

# Options of Hugging Face's BertConfig that change the computation, with the one value that the
# Keras model computes.
_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


class Checkpoint:
    """A pretrained BERT on disk, read without loading it.

    Opening one reads the config and the table of contents; a tensor's values are read when
    `tensor` is called. Every kind of checkpoint uses the names and the orientation of Google's
    TensorFlow checkpoints (`bert/encoder/layer_0/output/dense/kernel`, kernels stored as
    `(input_size, output_size)`), which are also those of bert4keras' `variable_mapping()`.

    A kind of checkpoint is a subclass with `config_file`, `_dtypes_and_shapes` and `_read`.

    Args:
        directory: the folder that holds the checkpoint.

    Attributes:
        directory: the folder, a `Path`.
        config: dict of BERT's own hyperparameters, checked and complete, as
            `build_transformer_model` takes them.
        names: the tensors' names, sorted.
    """

    format = "checkpoint"

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.config = read_config(self.config_file)
        self._contents = self._dtypes_and_shapes()
        self.names = sorted(self._contents)

    @property
    def vocab_path(self) -> Path:
        """Path of `vocab.txt`; `FileNotFoundError` where there is none."""
        path = self.directory / "vocab.txt"
        if not path.is_file():
            raise missing_file(self.directory, "vocab.txt")
        return path

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor `name`, without reading its values."""
        return self._contents[name][1]

    def dtype(self, name: str) -> str:
        """Type that the tensor `name` is stored in, in NumPy's spelling."""
        return self._contents[name][0]

    def tensor(self, name: str):
        """The values of the tensor `name`, a float32 array.

        Raises:
            ValueError: the file is truncated or corrupt.
        """
        return self._read(name).astype("float32", copy=False)

    def stored_name(self, name: str) -> str:
        """What the file itself calls the tensor `name`, whether it holds it or not."""
        return name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"


def missing_file(directory: str | os.PathLike, looked_for: str) -> FileNotFoundError:
    """The error that says what was looked for in `directory`, and what is there instead."""
    directory = Path(directory)
    if not directory.is_dir():
        what = "a file" if directory.exists() else "missing"
        return FileNotFoundError(f"{str(directory)!r} should be a checkpoint folder; it is {what}.")
    found = sorted(path.name + "/" * path.is_dir() for path in directory.iterdir())
    shown = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
    return FileNotFoundError(
        f"{str(directory)!r} lacks what was looked for: {looked_for}. Found: {shown or 'nothing'}."
    )


def read_json(path: Path, kind: type = dict):
    """A JSON object, or a list, from a file; or a `ValueError` naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}.") from error
    if not isinstance(content, kind):
        expected = {dict: "object", list: "list"}[kind]
        received = type(content).__name__
        raise ValueError(f"{str(path)!r} should hold a JSON {expected}. Received: {received}.")
    return content


def read_config(path: Path) -> dict:
    """BERT's hyperparameters from `bert_config.json` or `config.json`, checked and complete.

    Only the keys that shape the model are kept: the rest of the file would reach bert4keras'
    constructor as keyword arguments.

    Raises:
        ValueError: the file describes something else than a BERT encoder, or not all of one.
    """
    raw = read_json(path)
    model_type = raw.get("model_type", "bert")
    if model_type != "bert":
        raise ValueError(
            f"{str(path)!r} describes a model of type {model_type!r}; supported: 'bert' (which "
            "Chinese RoBERTa-wwm and MacBERT checkpoints are too)."
        )
    missing = [key for key in _SIZES if raw.get(key) is None]
    if missing:
        raise ValueError(f"{str(path)!r} lacks {', '.join(missing)}.")

    config = {key: raw[key] for key in _SIZES}
    if raw.get("embedding_size") is not None:
        config["embedding_size"] = raw["embedding_size"]
    for key, default in _DEFAULTS.items():
        config[key] = default if raw.get(key) is None else raw[key]

    problems = []
    for key, value in config.items():
        if key == "hidden_act":
            if not isinstance(value, str) or value not in ACTIVATIONS:
                problems.append(f"{key} should be one of {', '.join(ACTIVATIONS)}, not {value!r}")
        elif key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not _is_number(value) or not 0 <= value < 1:
                problems.append(f"{key} should be in [0, 1), not {value!r}")
        elif key == "layer_norm_eps":
            if not _is_number(value) or not 0 < value < 1:
                problems.append(f"{key} should be in (0, 1), not {value!r}")
        elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
            problems.append(f"{key} should be a positive integer, not {value!r}")
    for key, value in _FIXED.items():
        if raw.get(key) not in (None, value):
            problems.append(f"{key} should be {value!r}, not {raw[key]!r}")
    if not problems and config["hidden_size"] % config["num_attention_heads"]:
        problems.append(
            f"hidden_size {config['hidden_size']} is not a multiple of num_attention_heads "
            f"{config['num_attention_heads']}"
        )
    if problems:
        raise ValueError(f"{str(path)!r} cannot be used: {'; '.join(problems)}.")
    config["hidden_act"] = ACTIVATIONS[config["hidden_act"]]
    return config


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
