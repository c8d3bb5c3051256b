"""A head beside an encoder's weights: BERT's own as tensors, any other as a Keras file.

Two kinds of head are BERT's own and known to other programs: pooler and dense on `[CLS]`
(`BertForSequenceClassification`), and dense at every position (`BertForTokenClassification`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import check_files, read_json
from ..validation import is_number
from .base import Checkpoint

SEQUENCE = "BertForSequenceClassification"
TOKEN = "BertForTokenClassification"
HEAD_FILE = "head.keras"

POOLER = ("bert/pooler/dense/kernel", "bert/pooler/dense/bias")
CLASSIFIER = ("classifier/kernel", "classifier/bias")
# The names in Google's `run_classifier.py`, whose kernel is transposed: (num_classes, hidden_size).
GOOGLE_CLASSIFIER = ("output_weights", "output_bias")

# Activations that a head may end in, with the `problem_type` of `transformers`.
_PROBLEMS = {
    "softmax": "single_label_classification",
    "sigmoid": "multi_label_classification",
    "linear": "regression",
}


class Dense(NamedTuple):
    """The numbers of a dense layer."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str


class Head(NamedTuple):
    """A head that consists of dense layers, on `[CLS]` or at every position.

    Attributes:
        architecture: `SEQUENCE` or `TOKEN`, or `None` for a dense layer on `[CLS]` without pooler
            (`heads.classification_head`), which is not one of BERT's own.
        layers: List of `Dense`: the output layer, and before it the pooler if the head has one.
    """

    architecture: str | None
    layers: list[Dense]

    @property
    def num_classes(self) -> int:
        return self.layers[-1].bias.shape[0]

    @property
    def activation(self) -> str:
        """The output's activation: `"softmax"`, `"sigmoid"` or `"linear"`."""
        return self.layers[-1].activation

    @property
    def tensors(self) -> dict:
        """By canonical name, if the head is one of BERT's own."""
        if self.architecture is None:
            return {}
        values = [value for layer in self.layers for value in layer[:2]]
        return dict(zip((POOLER + CLASSIFIER)[-len(values) :], values))

    @property
    def config(self) -> dict:
        """The entries of config.json."""
        config = {"classifier_activation": self.activation}
        if self.architecture == SEQUENCE:
            problem = _PROBLEMS[self.activation]
            if problem == "regression" and self.num_classes > 1:  # logits
                problem = "single_label_classification"
            config["problem_type"] = problem
        return config

    def as_keras(self):
        """A Keras model of a dense layer on `[CLS]`, with the head's weights."""
        from ..heads import classification_head

        (kernel, bias, activation), = self.layers  # fmt: skip
        model = classification_head(*kernel.shape, activation=activation)
        model.set_weights([kernel, bias])
        return model


def read_head(classifier, shape: tuple) -> Head | None:
    """Recognizes a head on encoder outputs of `shape` by its layers; `None` for any other model.

    These are dense layers, dropout, activations, and at most one layer that takes the first
    token: `heads.FirstToken`, or any layer without weights that computes the same.
    """
    from ..backend import keras

    if not classifier.built:
        classifier(keras.Input(shape[1:]))
    layers, first_token = [], False
    for step in _chain(classifier) or ():
        layer = step.layer
        if type(layer) is keras.layers.Dense:
            layers.append(_as_dense(layer))
        elif isinstance(layer, (keras.layers.Activation, keras.layers.Softmax)):
            is_softmax = isinstance(layer, keras.layers.Softmax)
            if not layers or layers[-1].activation != "linear" or (is_softmax and layer.axis != -1):
                return None
            activation = "softmax" if is_softmax else _name(layer.activation)
            layers[-1] = layers[-1]._replace(activation=activation)
        elif not first_token and _takes_first_token(step):
            first_token = True
        elif not isinstance(layer, _dropouts()):
            return None
    if not layers or layers[-1].activation not in _PROBLEMS:
        return None
    return _head(layers, first_token, shape)


def _head(layers: list[Dense], first_token: bool, shape: tuple) -> Head | None:
    """The head of these layers, if it is one that is known."""
    hidden_size, pooled = shape[-1], len(shape) == 2
    *before, out = layers
    if out.kernel.shape[0] != hidden_size or (pooled and first_token):
        return None
    if not before:
        return Head(SEQUENCE if pooled else None if first_token else TOKEN, layers)
    is_pooler = (
        len(before) == 1
        and before[0].activation == "tanh"
        and before[0].kernel.shape == (hidden_size, hidden_size)
    )
    return Head(SEQUENCE, layers) if first_token and is_pooler else None


class _Step(NamedTuple):
    """A layer of a chain, and what it is called with and returns, where that is known."""

    layer: object
    inputs: object = None
    outputs: object = None


def _chain(model) -> list[_Step] | None:
    """The layers of a model in which each takes the output of the one before; else `None`."""
    from ..backend import keras

    if not isinstance(model, keras.Model):
        return [_Step(model)]
    if len(getattr(model, "inputs", None) or ()) != 1 or len(model.outputs) != 1:
        return None
    chain, tensor = [], model.outputs[0]
    while True:
        layer, index, _ = tensor._keras_history
        node = layer._inbound_nodes[index]
        if not node.keras_inputs:
            return chain
        if len(node.keras_inputs) > 1 or node.call_kwargs.get("training"):
            return None
        (inputs,) = node.keras_inputs
        is_model = isinstance(layer, keras.Model)
        steps = _chain(layer) if is_model else [_Step(layer, inputs, tensor)]
        if steps is None:
            return None
        chain, tensor = steps + chain, inputs


def _as_dense(layer) -> Dense:
    kernel, *bias = layer.get_weights()
    bias = bias[0] if bias else np.zeros(kernel.shape[-1], "float32")
    return Dense(kernel, bias, _name(layer.activation))


def _name(activation) -> str | None:
    return getattr(activation, "__name__", None)


def _dropouts() -> tuple[type, ...]:
    """Layers that return their input at inference."""
    from ..backend import keras

    names = ("Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise")
    return tuple(getattr(keras.layers, name) for name in names)


def _takes_first_token(step: _Step) -> bool:
    """Whether a layer returns `x[:, 0]`.

    A Lambda, or a slice in a functional model, does not say what it computes: its output on an
    example does.
    """
    from ..backend import keras
    from ..heads import FirstToken

    if isinstance(step.layer, FirstToken):
        return True
    if step.inputs is None or step.layer.weights:
        return False
    if (len(step.inputs.shape), len(step.outputs.shape)) != (3, 2):
        return False
    _, length, size = step.inputs.shape
    x = np.arange(2 * (length or 3) * size, dtype="float32").reshape(2, -1, size)
    found = keras.Model(step.inputs, step.outputs)(x, training=False)
    return np.array_equal(found, x[:, 0])


def dropout_rate(classifier) -> float:
    """The rate of the last dropout in a head."""
    from ..backend import keras

    layers = classifier._flatten_layers()
    rates = [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)]
    return rates[-1] if rates else 0.0


class KerasHead(NamedTuple):
    """A head that is saved as a Keras file.

    Attributes:
        model: The Keras model.
        inputs: Random hidden states, to compare the saved model with this one.
        outputs: Of the model, for `inputs`.
    """

    model: object
    inputs: np.ndarray
    outputs: np.ndarray

    @property
    def num_classes(self) -> int:
        return self.outputs.shape[-1]

    @property
    def activation(self) -> str:
        """The activation that the outputs look as if they came from."""
        y = self.outputs
        if y.shape[-1] > 1 and np.allclose(y.sum(-1), 1, atol=1e-5):
            return "softmax" if (y >= 0).all() else "linear"
        return "sigmoid" if ((y >= 0) & (y <= 1)).all() else "linear"

    def save(self, path: Path) -> None:
        """Writes the Keras file, and checks that it can be read again."""
        from ..backend import keras
        from ..saving import load_keras_file

        self.model.save(str(path))
        try:
            found = load_keras_file(path)(keras.backend.constant(self.inputs))
        except ValueError as error:
            raise ValueError(
                f"`classifier` cannot be loaded from a Keras file ({error}). Register its classes "
                "with `keras.saving.register_keras_serializable`."
            ) from error
        if not np.allclose(keras.backend.get_value(found), self.outputs, rtol=1e-4, atol=1e-5):
            raise ValueError("`classifier` computes something else once it is saved and loaded.")


def as_keras_head(classifier, shape: tuple) -> KerasHead:
    """Makes a Keras model of a head on encoder outputs of `shape`, to be saved as a file.

    Raises:
        ValueError: if the head holds a Lambda layer.
    """
    from ..backend import call_layer, keras

    if any(isinstance(layer, keras.layers.Lambda) for layer in classifier._flatten_layers()):
        raise ValueError(
            "`classifier` holds a Lambda layer, whose code would have to be run to load it again. "
            "Use a layer of your own, or one of bert_of_theseus.heads."
        )
    if not isinstance(classifier, keras.Model):
        inputs = keras.Input(shape[1:])
        classifier = keras.Model(inputs, classifier(inputs), name="classifier")
    length = (shape[1] or 5,) if len(shape) == 3 else ()
    x = np.random.default_rng(0).normal(size=(4, *length, shape[-1])).astype("float32")
    y = keras.backend.get_value(call_layer(classifier, keras.backend.constant(x), False))
    return KerasHead(classifier, x, y)


def load_head(checkpoint: Checkpoint):
    """The classifier and the labels beside an encoder's weights.

    Returns:
        `(classifier, labels)`, each `None` where there is none.
    """
    path = checkpoint.config_file
    config = read_json(path)
    labels = read_labels(config.get("id2label"), path)
    beside = checkpoint.directory / HEAD_FILE
    check_files(checkpoint.directory, [HEAD_FILE])
    names = [n for n in (CLASSIFIER, GOOGLE_CLASSIFIER) if n[0] in checkpoint.names]
    architecture = (config.get("architectures") or [SEQUENCE if names else None])[0]
    if beside.is_file():
        from ..saving import load_keras_file

        classifier = load_keras_file(beside)
        found = _num_classes(classifier, checkpoint.config["hidden_size"], beside)
    elif architecture in (SEQUENCE, TOKEN):
        classifier = _load_own(checkpoint, config, architecture, (names or [CLASSIFIER])[0])
        found = classifier.output_shape[-1]
    else:
        return None, labels
    if labels is not None and len(labels) != found:
        raise ValueError(f"{str(path)!r} names {len(labels)} labels, and the head has {found}.")
    return classifier, labels


def _load_own(checkpoint: Checkpoint, config: dict, architecture: str, names: tuple):
    """A head that is one of BERT's own, from the checkpoint's tensors."""
    from ..heads import pooler_classification_head, tagging_head

    where = f"The {checkpoint.format} {str(checkpoint.directory)!r}"
    wanted = (POOLER if architecture == SEQUENCE else ()) + names
    missing = [checkpoint.stored_name(n) for n in wanted if n not in checkpoint.names]
    if missing:
        raise ValueError(f"{where} lacks the head's {', '.join(missing)}.")
    values = [checkpoint.tensor(name) for name in wanted]
    if names == GOOGLE_CLASSIFIER:
        values[-2] = values[-2].T
    build = pooler_classification_head if architecture == SEQUENCE else tagging_head
    num_classes = values[-1].shape[-1]
    classifier = build(
        checkpoint.config["hidden_size"],
        num_classes,
        activation=stored_activation(config, num_classes, checkpoint.config_file),
        dropout_rate=_stored_dropout(config, checkpoint.config_file),
    )
    shapes = [tuple(weight.shape) for weight in classifier.weights]
    for name, value, shape in zip(wanted, values, shapes):
        if value.shape != shape or not np.isfinite(value).all():
            raise ValueError(
                f"{where} does not fit a {architecture}: {checkpoint.stored_name(name)} must be "
                f"{shape} finite numbers, as (input_size, output_size), not {value.shape}."
            )
    classifier.set_weights(values)
    return classifier


def _num_classes(classifier, hidden_size: int, path: Path) -> int:
    """The width of a head's output, after checking that the head fits the encoder."""
    inputs, outputs = classifier.input_shape, classifier.output_shape
    fits = isinstance(inputs, tuple) and len(inputs) in (2, 3) and inputs[-1] == hidden_size
    if not fits or not isinstance(outputs, tuple) or len(outputs) not in (2, len(inputs)):
        raise ValueError(
            f"{str(path)!r} must be a head on hidden states of size {hidden_size}. Received: a "
            f"model from {inputs} to {outputs}."
        )
    return outputs[-1]


def read_labels(names, path: Path) -> list[str] | None:
    """The class names in a config's `id2label`; `None` for the defaults `LABEL_0`, `LABEL_1`."""
    if names is None:
        return None
    keys = [str(number) for number in range(len(names))] if isinstance(names, dict) else None
    if keys is None or set(names) != set(keys) or not all(isinstance(names[k], str) for k in keys):
        raise ValueError(f"{str(path)!r} must map 0, 1, ... to strings in id2label.")
    labels = [names[key] for key in keys]
    return None if labels == [f"LABEL_{key}" for key in keys] else labels


def stored_activation(config: dict, num_classes: int, path: Path) -> str:
    """The activation of a head's output: `classifier_activation`, or its `problem_type`'s."""
    default = "linear" if num_classes == 1 else "softmax"
    for activation in ("sigmoid", "linear"):
        if config.get("problem_type") == _PROBLEMS[activation]:
            default = activation
    activation = config.get("classifier_activation", default)
    if activation not in list(_PROBLEMS):
        raise ValueError(
            f"{str(path)!r}: classifier_activation must be one of {', '.join(_PROBLEMS)}, not "
            f"{activation!r}."
        )
    return activation


def _stored_dropout(config: dict, path: Path) -> float:
    rate = config.get("classifier_dropout")
    rate = config.get("hidden_dropout_prob", 0.1) if rate is None else rate
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"{str(path)!r}: classifier_dropout must be in [0, 1), not {rate!r}.")
    return rate
