"""A bert4keras BERT as a classifier of texts: built, described on disk, loaded again.

Nothing here imports Keras before a function is called.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .checkpoints.base import read_config, read_json
from .files import write_json

__all__ = [
    "build_bert",
    "build_classifier",
    "load_classifier",
    "save_description",
]

WEIGHTS = "model.weights.h5"
_CONFIG = "bert_config.json"
LABELS = "labels.json"


def build_bert(config: dict, *, num_hidden_layers: int | None = None, prefix: str = ""):
    """Builds a bert4keras BERT with random weights.

    Args:
        config: BERT's hyperparameters, as `Checkpoint.config` or `read_config` gives them.
        num_hidden_layers: number of layers; default `config`'s.
        prefix: put before the name of each layer, so that two models can live in one.

    Returns:
        A bert4keras `Transformer`.
    """
    # Sets bert4keras up first, and registers the activations that a config may name.
    from bert_of_theseus.checkpoints import (
        bert4keras_models,
        set_layer_norm_epsilon,
        shared_initializers_allowed,
    )

    build_transformer_model = bert4keras_models().build_transformer_model
    options = {**config, "num_hidden_layers": num_hidden_layers or config["num_hidden_layers"]}
    with shared_initializers_allowed():
        transformer = build_transformer_model(prefix=prefix, return_keras_model=False, **options)
    # All weights that share an initializer start the same in Keras 2: queries as keys as values.
    for layer in transformer.layers.values():
        for weight in getattr(layer, "weights", ()):
            if len(weight.shape) > 1:
                weight.assign(transformer.initializer(weight.shape))
    set_layer_norm_epsilon(transformer, config["layer_norm_eps"])
    return transformer


def build_classifier(transformer, classifier):
    """The Keras model of an encoder and a head, from token and segment ids to probabilities."""
    from bert_of_theseus.backend import keras

    return keras.Model(transformer.inputs, classifier(transformer.output))


def save_description(
    directory: str | os.PathLike, transformer, config: dict, tokenizer, labels: list[str]
) -> None:
    """Writes what `load_classifier` needs beside the weights: config, vocabulary, class names."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = {**config, "num_hidden_layers": transformer.num_hidden_layers}
    write_json(directory / _CONFIG, config)
    write_json(directory / LABELS, labels)
    write_json(directory / "tokenizer_config.json", {"do_lower_case": tokenizer.lowercase})
    shutil.copyfile(tokenizer.vocab_file, directory / "vocab.txt")


def load_classifier(directory: str | os.PathLike):
    """Loads a model that `scripts/iflytek.py` saved, predecessor or successor.

    Args:
        directory: the model's folder.

    Returns:
        `(model, tokenizer, labels)`: a Keras model from token and segment ids to probabilities, a
        `data.Tokenizer`, and the classes' names.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is truncated or corrupt, or they do not fit together.

    Example:

        model, tokenizer, labels = load_classifier("runs/demo/successor")
        token_ids = tokenizer.encode([Example("Parse an XML document.", 0)], 64).token_ids[0][None]
        print(labels[model.predict([token_ids, 0 * token_ids]).argmax()])
    """
    from bert_of_theseus.data import Tokenizer

    directory = Path(directory)
    config = read_config(directory / _CONFIG)
    labels = read_label_file(directory / LABELS)
    transformer = build_bert(config)
    from bert_of_theseus.heads import classification_head

    model = build_classifier(transformer, classification_head(config["hidden_size"], len(labels)))
    try:
        model.load_weights(str(directory / WEIGHTS))
    except FileNotFoundError:
        raise
    except Exception as error:  # Keras and h5py have each their own errors for damage
        raise ValueError(
            f"{str(directory / WEIGHTS)!r} cannot be loaded into the model that {_CONFIG} and "
            f"{LABELS} describe: {error}"
        ) from error
    return model, Tokenizer(directory / "vocab.txt"), labels


def read_label_file(path: Path) -> list[str]:
    """The classes' names from labels.json."""
    labels = read_json(path, list)
    if not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{str(path)!r} should hold a list of strings.")
    return labels
