"""The method from end to end: predecessor, Theseus, successor, for a bert4keras BERT.

Nothing here imports Keras before a function is called.

Example:

    config = find_checkpoint(directory).config
    predecessor = load_bert(directory)
    successor = build_bert(config, num_hidden_layers=3, prefix="Successor-")
    copy_layers(predecessor, successor)
    classifier = classification_head(config["hidden_size"], num_classes)
    model = build_classifier(predecessor, classifier)
    fit(model, train, validation, epochs=3, learning_rate=2e-5, path=...)
    theseus = build_theseus_model(predecessor, successor, classifier)
    compressed = build_successor_model(theseus)
    fit(theseus, train, validation, kept=compressed, epochs=3, learning_rate=1e-4, path=...)
    fit(compressed, train, validation, epochs=2, learning_rate=2e-5, path=...)
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from pathlib import Path

__all__ = [
    "WEIGHTS",
    "build_bert",
    "build_classifier",
    "copy_layers",
    "load_classifier",
    "measure_latency",
    "save_description",
    "write_json",
]

WEIGHTS = "model.weights.h5"
_CONFIG = "bert_config.json"
_LABELS = "labels.json"


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


def copy_layers(source, target) -> None:
    """Copies weights between two bert4keras BERTs, by layer: embeddings and the first k layers.

    Args:
        source: the Transformer to copy from.
        target: the Transformer to copy to, with as many layers or fewer.

    Raises:
        ValueError: `target` has a layer that `source` lacks.
    """
    pairs = []
    for name, layer in target.layers.items():
        if not getattr(layer, "weights", None):
            continue  # bert4keras lists the inputs too, as tensors.
        name = source.prefixed(name.removeprefix(target.prefix))
        if name not in source.layers:
            raise ValueError(f"There is no layer {name!r} to copy; found {list(source.layers)}.")
        pairs.append((source.layers[name], layer))
    for origin, layer in pairs:
        layer.set_weights(origin.get_weights())


def build_classifier(transformer, classifier):
    """The Keras model of an encoder and a head, from token and segment ids to probabilities."""
    from bert_of_theseus.backend import keras

    return keras.Model(transformer.inputs, classifier(transformer.output))


def measure_latency(models: dict, token_ids, *, rounds: int = 3, progress=None) -> dict[str, float]:
    """Median seconds that each model takes for one text.

    One text a call, at its own length, in a compiled function. The models take turns, so that
    whatever else the machine does meets all of them.

    Args:
        models: Keras models by name.
        token_ids: arrays of shape `(sequence_length,)`.
        rounds: how often to go through all texts.
        progress: wraps the texts, as `tqdm` does.

    Returns:
        Seconds by name.
    """
    import tensorflow as tf

    spec = tf.TensorSpec((1, None), tf.int32)

    def compiled(model):
        def call(tokens, segments):
            return model([tokens, segments], training=False)

        # Keras needs no help of AutoGraph, which would warn about what it cannot read.
        return tf.function(call, input_signature=(spec, spec), autograph=False)

    functions = {name: compiled(model) for name, model in models.items()}
    texts = [tf.constant(ids[None], tf.int32) for ids in token_ids]
    for function in functions.values():
        for tokens in texts[:3]:
            function(tokens, tf.zeros_like(tokens))  # Traces, and warms the caches up.
    seconds = {name: [] for name in functions}
    turns = texts * rounds
    for tokens in progress(turns) if progress else turns:
        segments = tf.zeros_like(tokens)
        for name, function in functions.items():
            start = time.perf_counter()
            function(tokens, segments).numpy()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def save_description(
    directory: str | os.PathLike, transformer, config: dict, tokenizer, labels: list[str]
) -> None:
    """Writes what `load_classifier` needs beside the weights: config, vocabulary, class names."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = {**config, "num_hidden_layers": transformer.num_hidden_layers}
    write_json(directory / _CONFIG, config)
    write_json(directory / _LABELS, labels)
    write_json(directory / "tokenizer_config.json", {"do_lower_case": tokenizer.lowercase})
    shutil.copyfile(tokenizer.vocab_file, directory / "vocab.txt")


def load_classifier(directory: str | os.PathLike):
    """Loads a model that `scripts/iflytek.py` saved, predecessor or successor.

    Args:
        directory: the model's folder.

    Returns:
        `(model, tokenizer, labels)`: a Keras model from token and segment ids to probabilities, a
        `data.Tokenizer`, and the classes' names.

    Example:

        model, tokenizer, labels = load_classifier("runs/demo/successor")
        token_ids = tokenizer.encode([Example("Parse an XML document.", 0)], 64).token_ids[0][None]
        print(labels[model.predict([token_ids, 0 * token_ids]).argmax()])
    """
    from bert_of_theseus.data import Tokenizer

    directory = Path(directory)
    config = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    labels = json.loads((directory / _LABELS).read_text(encoding="utf-8"))
    transformer = build_bert(config)
    from bert_of_theseus.heads import classification_head

    model = build_classifier(transformer, classification_head(config["hidden_size"], len(labels)))
    model.load_weights(str(directory / WEIGHTS))
    return model, Tokenizer(directory / "vocab.txt"), labels


def write_json(path: Path, content) -> None:
    """Writes `content` as JSON; the file is there whole, or not at all."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(scratch, path)
