"""The head beside an encoder's weights: BERT's own as tensors, any other as a Keras file.

Two kinds of head are BERT's own, and other programs know them: pooler and dense on `[CLS]`
(`BertForSequenceClassification`), and dense at every position (`BertForTokenClassification`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .base import Checkpoint, read_json

SEQUENCE = "BertForSequenceClassification"
TOKEN = "BertForTokenClassification"
BESIDE = "head.keras"

POOLER = ("bert/pooler/dense/kernel", "bert/pooler/dense/bias")
CLASSIFIER = ("classifier/kernel", "classifier/bias")
# Google's `run_classifier.py` keeps the same kernel turned: (num_classes, hidden_size).
GOOGLE_CLASSIFIER = ("output_weights", "output_bias")

_ACTIVATIONS = {
    "softmax": lambda x: (
        np.exp(x - x.max(-1, keepdims=True))
        / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "linear": lambda x: x,
}
_PROBLEMS = {"softmax": "single_label_classification", "sigmoid": "multi_label_classification"}


class Head(NamedTuple):
    """What is to be written of a head."""

    architecture: str | None  # of `transformers`; `None` for a head that is saved beside
    tensors: dict  # by canonical name
    config: dict  # what `config.json` says of it
    num_classes: int
    model: object | None = None  # the Keras model to save beside
    probe: tuple = ()  # an input, and what the head makes of it


def describe_head(classifier, transformer) -> Head:
    """Finds out which head a Keras model or layer is, and takes its tensors.

    The candidates come from its dense layers; what decides is whether they compute, on random
    hidden states, what the classifier does.
    """
    from ..backend import call_layer, keras
    from ..heads import classification_head

    if not isinstance(classifier, keras.layers.Layer):
        raise TypeError(f"`classifier` should be a Keras model or layer. Received: {classifier!r}.")
    shape = tuple(transformer.output.shape)
    hidden_size, pooled = shape[-1], len(shape) == 2
    length = () if pooled else (shape[1] or 5,)
    x = np.random.default_rng(0).normal(size=(4, *length, hidden_size)).astype("float32")
    y = keras.backend.get_value(call_layer(classifier, keras.backend.constant(x), False))

    layers = [layer for layer in classifier._flatten_layers() if layer.weights]
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    weights = [pair for layer in dense for pair in _kernel_and_bias(layer)]
    rates = [
        layer.rate
        for layer in classifier._flatten_layers()
        if isinstance(layer, keras.layers.Dropout)
    ]
    config = {"classifier_dropout": rates[-1] if rates else 0.0}
    whole = {id(w) for layer in dense for w in layer.weights} == {id(w) for w in classifier.weights}
    own = whole and not (transformer.with_mlm or transformer.with_nsp) and len(dense) in (1, 2)
    if own:
        first = x if pooled else x[:, 0]
        if len(dense) == 2:
            pooler, out = weights[:2], weights[2:]
            inside = [] if pooled else [(SEQUENCE, np.tanh(first @ pooler[0] + pooler[1]))]
        else:
            pooler, out = [], weights
            inside = [(SEQUENCE if pooled else None, first)] + [(TOKEN, x)] * (not pooled)
        for architecture, states in inside:
            if states.shape[-1] != out[0].shape[0]:
                continue
            activation = _activation(states @ out[0] + out[1], y)
            if activation is None:
                continue
            config["classifier_activation"] = activation
            if architecture is None:  # the article's head: our own, so that no Lambda is saved
                classifier = classification_head(
                    hidden_size, out[0].shape[1], activation=activation
                )
                classifier.set_weights(out)
                return Head(None, {}, config, y.shape[-1], classifier, (x, y))
            tensors = {**dict(zip(POOLER, pooler)), **dict(zip(CLASSIFIER, out))}
            if architecture == SEQUENCE:
                config["problem_type"] = _PROBLEMS.get(
                    activation,
                    "regression" if y.shape[-1] == 1 else "single_label_classification",
                )
            return Head(architecture, tensors, config, y.shape[-1])

    if any(isinstance(layer, keras.layers.Lambda) for layer in classifier._flatten_layers()):
        raise ValueError(
            "`classifier` holds a Lambda layer, whose code would have to be run to load it again. "
            "Use a layer of your own, or one of bert_of_theseus.heads."
        )
    if not isinstance(classifier, keras.Model):
        inputs = keras.Input(shape[1:])
        classifier = keras.Model(inputs, classifier(inputs), name="classifier")
    return Head(None, {}, config, y.shape[-1], classifier, (x, y))


def _kernel_and_bias(layer):
    kernel, *bias = layer.get_weights()
    return [kernel, *(bias or [np.zeros(kernel.shape[-1], "float32")])]


def _activation(logits, outputs) -> str | None:
    """The activation that makes `outputs` of `logits`, if one does."""
    for name, function in _ACTIVATIONS.items():
        if logits.shape == outputs.shape and np.allclose(
            function(logits), outputs, rtol=1e-4, atol=1e-5
        ):
            return name
    return None


def apparent_activation(outputs) -> str:
    """What outputs look as if they came from, where the head does not say."""
    if outputs.shape[-1] > 1 and np.allclose(outputs.sum(-1), 1, atol=1e-5):
        return "softmax" if (outputs >= 0).all() else "linear"
    return "sigmoid" if ((outputs >= 0) & (outputs <= 1)).all() else "linear"


def save_beside(head: Head, path: Path) -> None:
    """Writes a head as a Keras file, and makes sure that it can be read again."""
    from ..backend import keras

    head.model.save(str(path))
    x, y = head.probe
    try:
        found = load_beside(path)(keras.backend.constant(x))
    except ValueError as error:
        raise ValueError(
            f"`classifier` cannot be loaded from a Keras file ({error}). Register its classes "
            "with `keras.saving.register_keras_serializable`."
        ) from error
    if not np.allclose(keras.backend.get_value(found), y, rtol=1e-4, atol=1e-5):
        raise ValueError("`classifier` computes something else once it is saved and loaded.")


def load_beside(path: Path):
    """Loads a head from a Keras file. Runs no code but Keras' own and this process'."""
    from ..saving import load_keras_file

    return load_keras_file(path)


def load_head(checkpoint: Checkpoint):
    """The classifier and the labels that stand beside an encoder's weights.

    Returns:
        `(classifier, labels)`, each `None` where there is none.
    """
    from ..heads import pooler_classification_head, tagging_head

    path = checkpoint.config_file
    config = read_json(path)
    labels = read_labels(config.get("id2label"), path)
    beside = checkpoint.directory / BESIDE
    names = [n for n in (CLASSIFIER, GOOGLE_CLASSIFIER) if n[0] in checkpoint.names]
    architecture = (config.get("architectures") or [SEQUENCE if names else None])[0]
    if beside.is_file():
        classifier = load_beside(beside)
        found = _num_classes(classifier, checkpoint.config["hidden_size"], beside)
    elif architecture in (SEQUENCE, TOKEN):
        names = (names or [CLASSIFIER])[0]
        wanted = (POOLER if architecture == SEQUENCE else ()) + names
        missing = [checkpoint.stored_name(n) for n in wanted if n not in checkpoint.names]
        if missing:
            raise ValueError(
                f"The {checkpoint.format} {str(checkpoint.directory)!r} lacks the head's "
                f"{', '.join(missing)}."
            )
        values = [checkpoint.tensor(name) for name in wanted]
        if names == GOOGLE_CLASSIFIER:
            values[-2] = values[-2].T
        hidden_size, found = checkpoint.config["hidden_size"], values[-1].shape[-1]
        build = pooler_classification_head if architecture == SEQUENCE else tagging_head
        classifier = build(
            hidden_size,
            found,
            activation=stored_activation(config, found, path),
            dropout_rate=_stored_dropout(config, path),
        )
        shapes = [tuple(weight.shape) for weight in classifier.weights]
        for name, value, shape in zip(wanted, values, shapes):
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(
                    f"The {checkpoint.format} {str(checkpoint.directory)!r} does not fit a "
                    f"{architecture}: {checkpoint.stored_name(name)} should be {shape} finite "
                    f"numbers, as (input_size, output_size), not {value.shape}."
                )
        classifier.set_weights(values)
    else:
        return None, labels
    if labels is not None and len(labels) != found:
        raise ValueError(f"{str(path)!r} names {len(labels)} labels, and the head has {found}.")
    return classifier, labels


def _num_classes(classifier, hidden_size: int, path: Path) -> int:
    """The width of a head's output, once it is made sure that it stands on such an encoder."""
    inputs, outputs = classifier.input_shape, classifier.output_shape
    fits = isinstance(inputs, tuple) and len(inputs) in (2, 3) and inputs[-1] == hidden_size
    if not fits or not isinstance(outputs, tuple) or len(outputs) not in (2, len(inputs)):
        raise ValueError(
            f"{str(path)!r} should be a head on hidden states of size {hidden_size}. It takes "
            f"{inputs} and gives {outputs}."
        )
    return outputs[-1]


def read_labels(names, path: Path) -> list[str] | None:
    """The classes' names in a config's `id2label`; `None` where they are none but numbers."""
    if names is None:
        return None
    keys = [str(number) for number in range(len(names))] if isinstance(names, dict) else None
    if keys is None or set(names) != set(keys) or not all(isinstance(names[k], str) for k in keys):
        raise ValueError(f"{str(path)!r} should map 0, 1, ... to strings in id2label.")
    labels = [names[key] for key in keys]
    return None if labels == [f"LABEL_{key}" for key in keys] else labels


def stored_activation(config: dict, num_classes: int, path: Path) -> str:
    """The activation that a config says its head ends in, or that its kind of head has."""
    default = {
        "regression": "linear",
        "multi_label_classification": "sigmoid",
    }.get(config.get("problem_type"), "linear" if num_classes == 1 else "softmax")
    activation = config.get("classifier_activation", default)
    if activation not in list(_ACTIVATIONS):
        raise ValueError(
            f"{str(path)!r}: classifier_activation should be one of {', '.join(_ACTIVATIONS)}, "
            f"not {activation!r}."
        )
    return activation


def _stored_dropout(config: dict, path: Path) -> float:
    rate = config.get("classifier_dropout")
    rate = config.get("hidden_dropout_prob", 0.1) if rate is None else rate
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f"{str(path)!r}: classifier_dropout should be in [0, 1), not {rate!r}.")
    return rate
