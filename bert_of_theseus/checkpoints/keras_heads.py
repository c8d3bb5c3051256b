"""Recognizes a Keras model as a head that other programs know, or makes a Keras file of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .configs import ACTIVATIONS
from .families import CLASSIFIER, POOLER, SEQUENCE, TOKEN
from .heads import PROBLEMS


class Dense(NamedTuple):
    """The numbers of a dense layer."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str


class Head(NamedTuple):
    """A head that consists of dense layers, on the first token or at every position.

    Attributes:
        kind: `"sequence"` or `"token"`, or `None` for a dense layer on the first token without
            pooler (`heads.classification_head`), which is no family's own.
        layers: List of `Dense`: the output layer, and before it the pooler if the head has one.
    """

    kind: str | None
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
        """By canonical name, if the head is a family's own."""
        if self.kind is None:
            return {}
        values = [value for layer in self.layers for value in layer[:2]]
        return dict(zip((POOLER + CLASSIFIER)[-len(values) :], values))

    @property
    def config(self) -> dict:
        """The entries of config.json."""
        config = {"classifier_activation": self.activation}
        if self.kind == SEQUENCE:
            problem = PROBLEMS[self.activation]
            if problem == "regression" and self.num_classes > 1:  # logits
                problem = "single_label_classification"
            if self.num_classes > 1 or self.activation != "softmax":  # which transformers refuses
                config["problem_type"] = problem
        return config

    def as_keras(self):
        """A Keras model of a dense layer on `[CLS]`, with the head's weights."""
        from ..heads import classification_head

        (kernel, bias, activation), = self.layers  # fmt: skip
        model = classification_head(*kernel.shape, activation=activation)
        model.set_weights([kernel, bias])
        return model


def read_head(classifier, shape: tuple, poolers=("tanh",)) -> Head | None:
    """Recognizes a head on encoder outputs of `shape` by its layers; `None` for any other model.

    `poolers` are the activations, by bert4keras' names, that its pooler may have. The layers are
    dense layers, dropout, activations, and at most one layer that takes the first
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
    if not layers or layers[-1].activation not in PROBLEMS:
        return None
    return _head(layers, first_token, shape, poolers)


def _head(layers: list[Dense], first_token: bool, shape: tuple, poolers) -> Head | None:
    """The head of these layers, if it is one that is known."""
    hidden_size, pooled = shape[-1], len(shape) == 2
    *before, out = layers
    if out.kernel.shape[0] != hidden_size or (pooled and first_token):
        return None
    if not before:
        return Head(SEQUENCE if pooled else None if first_token else TOKEN, layers)
    is_pooler = (
        len(before) == 1
        and before[0].activation in poolers
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
    from ..backend import call_of, keras

    if not isinstance(model, keras.Model):
        return [_Step(model)]
    if len(getattr(model, "inputs", None) or ()) != 1 or len(model.outputs) != 1:
        return None
    chain, tensor = [], model.outputs[0]
    while True:
        layer, tensors, options = call_of(tensor)
        if not tensors:
            return chain
        if len(tensors) > 1 or options.get("training"):
            return None
        (inputs,) = tensors
        is_model = isinstance(layer, keras.Model)
        steps = _chain(layer) if is_model else [_Step(layer, inputs, tensor)]
        if steps is None:
            return None
        chain, tensor = steps + chain, inputs


def _as_dense(layer) -> Dense:
    kernel, *bias = (value.astype("float32", copy=False) for value in layer.get_weights())
    bias = bias[0] if bias else np.zeros(kernel.shape[-1], "float32")
    return Dense(kernel, bias, _name(layer.activation))


def _name(activation) -> str | None:
    name = getattr(activation, "__name__", None)
    return ACTIVATIONS.get(name, name)


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
    from ..backend import keras, to_numpy
    from ..heads import FirstToken

    if isinstance(step.layer, FirstToken):
        return True
    if step.inputs is None or getattr(step.layer, "weights", None):
        return False
    if (len(step.inputs.shape), len(step.outputs.shape)) != (3, 2):
        return False
    _, length, size = step.inputs.shape
    # Integers that half precision holds too.
    x = np.random.default_rng(0).integers(-128, 128, (2, length or 3, size)).astype("float32")
    found = keras.Model(step.inputs, step.outputs)(x, training=False)
    return np.array_equal(to_numpy(found).astype("float32"), x[:, 0])


def dropout_rates(classifier) -> tuple[float, float]:
    """The rates of a head's dropouts: before its dense layer, if it has two, and the last one."""
    from ..backend import keras

    layers = classifier._flatten_layers()
    rates = [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)]
    return (rates[0] if len(rates) > 1 else 0.0), (rates[-1] if rates else 0.0)


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
    def num_classes(self) -> int | None:
        """`None` of outputs that are as many as the tokens."""
        return self.model.output_shape[-1]

    @property
    def activation(self) -> str:
        """The activation that the outputs look as if they came from."""
        y = self.outputs
        if y.shape[-1] > 1 and np.allclose(y.sum(-1), 1, atol=0.01):  # in half precision too
            return "softmax" if (y >= 0).all() else "linear"
        return "sigmoid" if ((y >= 0) & (y <= 1)).all() else "linear"

    def save(self, path: Path) -> None:
        """Writes the Keras file, and checks that it can be read again."""
        from ..saving import load_model

        self.model.save(str(path))
        try:
            found = _outputs(load_model(path), self.inputs)
        except ValueError as error:
            raise ValueError(
                f"`classifier` cannot be loaded from a Keras file ({error}). Register its classes "
                "with `keras.saving.register_keras_serializable`."
            ) from error
        if not np.allclose(found, self.outputs, rtol=1e-4, atol=1e-5):
            raise ValueError("`classifier` computes something else once it is saved and loaded.")


def as_keras_head(classifier, shape: tuple) -> KerasHead:
    """Makes a Keras model of a head on encoder outputs of `shape`, to be saved as a file.

    Raises:
        ValueError: if the head holds a Lambda layer.
    """
    from ..backend import keras

    if any(isinstance(layer, keras.layers.Lambda) for layer in classifier._flatten_layers()):
        raise ValueError(
            "`classifier` holds a Lambda layer, whose code would have to be run to load it again. "
            "Use a layer of your own, or one of bert_of_theseus.heads."
        )
    if not isinstance(classifier, keras.Model):
        inputs = keras.Input(shape[1:])
        classifier = keras.Model(inputs, classifier(inputs), name="classifier")
    classifier = _in_float32(classifier)
    length = (shape[1] or 5,) if len(shape) == 3 else ()
    x = np.random.default_rng(0).normal(size=(4, *length, shape[-1])).astype("float32")
    return KerasHead(classifier, x, _outputs(classifier, x))


def _in_float32(classifier):
    """`classifier`, or a copy of it in float32 if it was made for mixed precision."""
    from ..backend import keras

    layers = classifier._flatten_layers()
    if all(layer.compute_dtype not in ("float16", "bfloat16") for layer in layers):
        return classifier
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    try:
        copy = type(classifier).from_config(_without_policies(classifier.get_config()))
    finally:
        keras.mixed_precision.set_global_policy(policy)
    copy.set_weights(classifier.get_weights())
    return copy


def _without_policies(config):
    """A config in which each `dtype` of half precision, or a mixed one, is float32."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_without_policies, config))
    if not isinstance(config, dict):
        return config
    config = {key: _without_policies(value) for key, value in config.items()}
    dtype = config.get("dtype")
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    if isinstance(name, str) and name.endswith("float16"):
        config["dtype"] = "float32"
    return config


def _outputs(classifier, x: np.ndarray) -> np.ndarray:
    from ..backend import call_layer, ops, to_numpy

    return to_numpy(call_layer(classifier, ops.convert_to_tensor(x), False)).astype("float32")
