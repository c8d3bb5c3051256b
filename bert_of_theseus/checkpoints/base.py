"""The interface of both checkpoint formats: one config, one set of tensor names."""

from __future__ import annotations

import os
from pathlib import Path

from ..files import check_files, read_json
from ..validation import is_integer, is_number

# The name of each activation in bert4keras: its spellings in config files, the one that
# `transformers` writes first. "gelu" is the exact one (erf): BERT was published with it, and both
# Hugging Face and bert4keras read the name that way. Google's later code approximates it with tanh
# under the same name; the two differ by less than 5e-4 per unit.
SPELLINGS = {
    "gelu": ("gelu", "gelu_python", "gelu_erf"),
    "gelu_tanh": ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_tanh"),
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
}

# Options of Hugging Face's BertConfig that change the computation, with the only value that
# bert4keras' BERT supports.
_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


class Checkpoint:
    """A pretrained BERT on disk, read tensor by tensor.

    Opening one reads the config and the table of contents; `tensor` reads a tensor's values. All
    formats use the names and the orientation of Google's TensorFlow checkpoints
    (`bert/encoder/layer_0/output/dense/kernel`, kernels stored as `(input_size, output_size)`),
    which are also those of bert4keras' `variable_mapping()`.

    A format is a subclass with `config_file`, `tensor_files`, `_dtypes_and_shapes` and `_read`.

    Args:
        directory: The folder that holds the checkpoint.

    Attributes:
        directory: The folder, a `Path`.
        config: Dict of BERT's hyperparameters, checked and complete, as
            `build_transformer_model` takes them.
        names: The tensors' names, sorted.
    """

    format = "checkpoint"
    _verified = False

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        path = self.config_file
        check_files(self.directory, [path.name])
        self.config = read_config(path)
        self._contents = self._dtypes_and_shapes()
        self.names = sorted(self._contents)

    @property
    def config_file(self) -> Path:
        """Path of the config."""
        raise NotImplementedError

    @property
    def tensor_files(self) -> list[Path]:
        """Paths of all files that the tensors are read from."""
        raise NotImplementedError

    @property
    def vocab_path(self) -> Path:
        """Path of `vocab.txt`; raises a `FileNotFoundError` if there is none."""
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
            ValueError: if the file is truncated or corrupt.
        """
        if not self._verified:
            check_files(self.directory, [path.name for path in self.tensor_files])
            self._verified = True
        return self._read(name).astype("float32", copy=False)

    def stored_name(self, name: str) -> str:
        """The name that the file gives to the tensor `name`, whether it holds it or not."""
        return name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"


def missing_file(directory: str | os.PathLike, looked_for: str) -> FileNotFoundError:
    """An error that names what was looked for in `directory`, and what is there instead."""
    directory = Path(directory)
    if not directory.is_dir():
        what = "a file" if directory.exists() else "missing"
        return FileNotFoundError(f"{str(directory)!r} must be a checkpoint folder; it is {what}.")
    found = sorted(path.name + "/" * path.is_dir() for path in directory.iterdir())
    shown = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
    return FileNotFoundError(
        f"{str(directory)!r} lacks what was looked for: {looked_for}. Found: {shown or 'nothing'}."
    )


def read_config(path: Path) -> dict:
    """BERT's hyperparameters from `bert_config.json` or `config.json`, checked and complete.

    Only the keys that define the model are kept: bert4keras' constructor would take the others as
    keyword arguments.

    Raises:
        ValueError: if the file does not describe a BERT encoder, or not completely.
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
    for key, default in DEFAULTS.items():
        config[key] = default if raw.get(key) is None else raw[key]

    problems = [
        f"{key} must be {expected}, not {value!r}"
        for key, value in config.items()
        for expected in [_problem(key, value)]
        if expected
    ]
    for key, value in _FIXED.items():
        if raw.get(key) not in (None, value):
            problems.append(f"{key} must be {value!r}, not {raw[key]!r}")
    if not problems and config["hidden_size"] % config["num_attention_heads"]:
        problems.append(
            f"hidden_size {config['hidden_size']} is not a multiple of num_attention_heads "
            f"{config['num_attention_heads']}"
        )
    if problems:
        raise ValueError(f"{str(path)!r} cannot be used: {'; '.join(problems)}.")
    config["hidden_act"] = ACTIVATIONS[config["hidden_act"]]
    return config


def _problem(key: str, value) -> str | None:
    """What the value of `key` must be, if it is anything else."""
    if key == "hidden_act":
        valid = isinstance(value, str) and value in ACTIVATIONS
        return None if valid else f"one of {', '.join(ACTIVATIONS)}"
    if key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        return None if is_number(value) and 0 <= value < 1 else "in [0, 1)"
    if key == "layer_norm_eps":
        return None if is_number(value) and 0 < value < 1 else "in (0, 1)"
    return None if is_integer(value) and value >= 1 else "a positive integer"
