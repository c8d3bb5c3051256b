"""The successor alone, taken out of the Theseus model that it was trained in."""

from ..backend import keras
from ..encoders import as_encoder, as_head
from .theseus import TheseusModel

__all__ = ["build_successor_model"]


def build_successor_model(
    theseus_model_or_successor, classifier: keras.layers.Layer | None = None, name="successor"
) -> keras.Model:
    """Takes the successor out: a standalone model with none of the predecessor's weights.

    It shares its weights with the Theseus model it was trained in and predicts exactly as that
    does at inference. All of it can be trained on, embeddings and head included; the head is the
    same object as in the predecessor's model, so training it changes it there too.

    Args:
        theseus_model_or_successor: A model made by `build_theseus_model` in this process, or the
            successor that was given to it.
        classifier: The head. Defaults to the Theseus model's.
        name: String. Name of the model.

    Returns:
        A `keras.Model` on the successor's inputs, not compiled. Where the head is that of a
        KerasHub `TextClassifier`, another `TextClassifier` of the same class, with the same
        preprocessor and a head of its own that starts as that one, compiled as KerasHub does.

    Raises:
        TypeError: if there is no classifier to use.
        ValueError: for a Theseus model that was loaded from a file, which does not know the
            host's objects: pass the successor.

    Example:

    >>> small = build_successor_model(theseus)
    >>> small.compile("adam", "sparse_categorical_crossentropy")
    """
    source = theseus_model_or_successor
    if isinstance(source, TheseusModel):
        encoder, own_classifier = getattr(source, "_theseus_parts", (None, None))
        if encoder is None:
            raise ValueError(
                f"The model {source.name!r} was loaded or cloned, and does not know the successor "
                "it was built from. Pass the successor itself, with its weights, and the "
                "classifier: build_successor_model(successor, classifier)."
            )
        classifier = classifier or own_classifier
    else:
        encoder = as_encoder(source)
    classifier = as_head(classifier, encoder)
    return encoder.finished(encoder.model(classifier, name), classifier)
