"""What an encoder and its head are, as numbers: the source of saved and exported files."""

from __future__ import annotations

import sys
from typing import NamedTuple

from .bert4keras import describe_transformer, is_transformer
from .families import FAMILIES, POOLER, TOKEN
from .heads import pooler_activations
from .keras_heads import Dense, Head, read_head
from .keras_hub import describe_backbone

__all__ = ["Description", "describe", "is_transformer", "parts_of"]


class Description(NamedTuple):
    """An encoder and its head.

    Attributes:
        config: See `Checkpoint.config`.
        tensors: The encoder's, by canonical name, kernels as `(input_size, output_size)`.
        head: A `Head`, or `None` if there is none, or one that is not recognized.
    """

    config: dict
    tensors: dict
    head: Head | None

    @property
    def dense_layers(self) -> list[Dense]:
        """The pooler, whether encoder or head holds it, and the head's output layer."""
        pooler = []
        if POOLER[0] in self.tensors:
            pooler = [Dense(*(self.tensors[name] for name in POOLER), "tanh")]
        return pooler + (self.head.layers if self.head else [])

    @property
    def first_token(self) -> bool:
        """Whether the output is of the first token alone: the last layer can skip the others."""
        return self.head.kind != TOKEN if self.head else bool(self.dense_layers)


def describe(encoder, classifier=None, verb: str = "saved") -> Description:
    """Reads the weights and options of an encoder and its head.

    Args:
        encoder: A bert4keras `Transformer`, or a KerasHub backbone or `TextClassifier`.
        classifier: Keras model or layer on its output.
        verb: What is to be done with it, for the error.

    Raises:
        TypeError: if one of them is something else.
        ValueError: if the encoder is of a family, or has an option, that no config can express.
    """
    from ..backend import keras

    encoder, classifier, shape = parts_of(encoder, classifier)
    if classifier is not None and not isinstance(classifier, keras.layers.Layer):
        raise TypeError(f"`classifier` must be a Keras model or layer. Received: {classifier!r}.")
    if is_transformer(encoder):
        config, tensors = describe_transformer(encoder, verb)
    else:
        config, tensors = describe_backbone(encoder)
    head = None
    if classifier is not None and not any(name.startswith("cls/") for name in tensors):
        head = read_head(classifier, shape, pooler_activations(FAMILIES[config["model_type"]]))
        if len(shape) == 3:  # the head is on the hidden states, and so beside the encoder's pooler
            tensors = {name: value for name, value in tensors.items() if name not in POOLER}
    return Description(config, tensors, head)


def parts_of(encoder, classifier) -> tuple:
    """The encoder, its classifier, and the shape of what a classifier takes.

    Raises:
        TypeError: if the encoder is of neither host.
    """
    if is_transformer(encoder):
        shape = None if classifier is None else tuple(encoder.output.shape)
        return encoder, classifier, shape
    hub = sys.modules.get("keras_hub")
    if hub is not None and isinstance(encoder, hub.models.TextClassifier) and classifier is None:
        from ..encoders.keras_hub import KerasHubEncoder

        encoder, classifier = encoder.backbone, KerasHubEncoder(encoder).classifier
    if hub is None or not isinstance(encoder, hub.models.Backbone):
        raise TypeError(
            "`encoder` must be a bert4keras Transformer, from build_transformer_model(..., "
            "return_keras_model=False), or a KerasHub backbone. Received: "
            f"{type(encoder).__name__}."
        )
    return encoder, classifier, (None, None, encoder.get_config().get("hidden_dim"))
