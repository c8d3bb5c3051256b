"""`build_successor_model`: the successor alone, extracted from the Theseus model."""

from ..backend import keras
from ..encoders import as_encoder, as_head
from .theseus import TheseusModel


def build_successor_model(
    theseus_model_or_successor, classifier: keras.layers.Layer | None = None, name="successor"
) -> keras.Model:
    """Builds a standalone model of the successor, with none of the predecessor's weights.

    It shares its weights with the Theseus model and predicts exactly as that does at inference.
    All of it can be trained further, embeddings and head included. The head is the same object as
    in the predecessor's model, so training it changes it there too.

    Args:
        theseus_model_or_successor: A model from `build_theseus_model`, in the same process; or
            the successor that was passed to it.
        classifier: The head. Defaults to that of the Theseus model.
        name: String. Name of the model.

    Returns:
        A `keras.Model` on the successor's inputs, not compiled. With the head of a KerasHub
        `TextClassifier` it is a compiled `TextClassifier` of the same class and preprocessor,
        with a copy of the head. Of some families the backbone holds the pooler: if another
        classifier of the successor has trained it, this one has a copy of the backbone.

    Raises:
        TypeError: if there is no classifier.
        ValueError: for a Theseus model that was loaded from a file: it does not hold the host's
            objects. Pass the successor.

    Example:

    >>> small = build_successor_model(theseus)
    >>> small.compile("adam", "sparse_categorical_crossentropy")
    """
    source = theseus_model_or_successor
    if isinstance(source, TheseusModel):
        encoder, head = getattr(source, "_theseus_parts", (None, None))
        if encoder is None:
            raise ValueError(
                f"The model {source.name!r} was loaded or cloned, and does not know the successor "
                "it was built from. Pass the successor itself, with its weights, and the "
                "classifier: build_successor_model(successor, classifier)."
            )
        classifier = classifier or head
    else:
        encoder = as_encoder(source)
    classifier = as_head(classifier, encoder)
    return encoder.host_model(encoder.model(classifier, name), classifier)
