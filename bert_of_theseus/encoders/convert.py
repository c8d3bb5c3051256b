"""What users have at hand, as an `Encoder` and its head."""

import sys

from ..backend import KERAS_NAME, keras
from .base import Encoder
from .stack import StackEncoder


def as_encoder(model, like=None) -> Encoder:
    """Converts what users have at hand to an `Encoder`; the builders call it.

    Args:
        model: A bert4keras `Transformer` (`build_transformer_model(...,
            return_keras_model=False)`), a KerasHub backbone or `TextClassifier`, a
            `keras.Sequential`, a list of Keras layers, or an `Encoder`, which is returned as it
            is.
        like: The predecessor, in any of these forms, if `model` is its successor. A list of
            layers gets the predecessor's inputs, and copies of its embedding and of what follows
            its last layer, see `StackEncoder`. Defaults to `None`.

    Returns:
        An `Encoder`.

    Raises:
        TypeError: if `model` is none of those.
        ValueError: if its family is not supported, or its input shape is not known.
    """
    if isinstance(model, Encoder):
        return model
    like = None if like is None else as_encoder(like)
    if "bert4keras.models" in sys.modules:
        from .bert4keras import Bert4kerasEncoder, Transformer

        if isinstance(model, Transformer):
            return Bert4kerasEncoder(model)
    if isinstance(model, keras.Model) and "keras_hub" in sys.modules:
        import keras_hub

        if isinstance(model, (keras_hub.models.Backbone, keras_hub.models.Task)):
            from .keras_hub import KerasHubEncoder

            return KerasHubEncoder(model)
    if isinstance(model, keras.Sequential):
        return StackEncoder(model.layers, inputs=model.inputs if model.built else None, like=like)
    if isinstance(model, (list, tuple)):
        return StackEncoder(list(model), like=like)
    hint = ""
    if isinstance(model, keras.Model):
        hint = (
            " A finished model does not say which of its layers are the encoder's: build it with "
            "`return_keras_model=False`, or pass a list of its layers."
        )
    elif type(model).__module__.startswith("bert4keras"):
        hint = " `import bert_of_theseus.bert4keras` goes before bert4keras."
    elif type(model).__module__.startswith("keras_hub"):
        hint = f" KerasHub's models are of Keras 3, and this process uses {KERAS_NAME}."
    raise TypeError(
        "An encoder must be a bert4keras Transformer, a KerasHub backbone or TextClassifier, a "
        "keras.Sequential, a list of Keras layers, or an Encoder. "
        f"Received: {model!r} (of type {type(model).__name__}).{hint}"
    )


def as_head(classifier, encoder: Encoder) -> keras.layers.Layer:
    """Converts `classifier` to a head for `encoder`.

    Args:
        classifier: Keras model or layer; a KerasHub `TextClassifier`, whose head is taken; or
            `None`, for the head that came with `encoder`.
        encoder: `Encoder`.

    Returns:
        A Keras model or layer.

    Raises:
        TypeError: if there is none.
    """
    if classifier is None:
        classifier = encoder.classifier
    elif isinstance(classifier, keras.Model) and "keras_hub" in sys.modules:
        import keras_hub

        if isinstance(classifier, keras_hub.models.Task):
            return as_encoder(classifier).classifier
    if not isinstance(classifier, keras.layers.Layer):
        raise TypeError(
            f"`classifier` must be a model or layer of the Keras in use ({KERAS_NAME}). "
            f"Received: {classifier!r}"
        )
    return classifier
