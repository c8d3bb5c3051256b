"""What both export formats share: reading the model, checking the file, and writing it safely."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checkpoints.describe import Description, describe, is_transformer
from ..files import replace_listed_file
from .runtimes import Limits, open_runtime

# Largest difference from Keras' outputs, relative to the largest output (at least 1). Rounding
# stays far below in float32 and float16. In int8 it depends on the weights, so the bound only
# finds files that do not work; evaluate them on your own texts.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "int8": 0.25}


class Source(NamedTuple):
    """A model to export.

    Attributes:
        model: The Keras model, from token and segment ids.
        bert: Its numbers, or `None` for anything but BERT with a plain head; then the model is
            traced.
        length: The sequence length, if the model was built for a single one.
        limits: What the model accepts, as far as that is known.
    """

    model: object
    bert: Description | None
    length: int | None
    limits: Limits


def read_source(transformer, classifier) -> Source:
    """Reads what is to be exported.

    Raises:
        TypeError: if `transformer` is neither a bert4keras Transformer nor a Keras model, or
            `classifier` is not a Keras model or layer.
        ValueError: if the model does not take token and segment ids, or Keras does not run on
            TensorFlow.
    """
    from ..backend import keras, require_tensorflow

    require_tensorflow("Models are exported from Keras on TensorFlow.")
    if classifier is not None and not isinstance(classifier, keras.layers.Layer):
        raise TypeError(f"`classifier` must be a Keras model or layer. Received: {classifier!r}.")
    from_host = is_transformer(transformer)
    model = transformer.model if from_host else transformer
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            "`transformer` must be a bert4keras Transformer or a Keras model that is built. "
            f"Received: {transformer!r}."
        )
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise ValueError(
            "The model must have two inputs, token_ids and segment_ids, each (batch_size, "
            f"sequence_length). Received: {shapes}."
        )
    bert = _read_bert(transformer, classifier) if from_host else None
    if classifier is not None:
        model = keras.Model(model.inputs, classifier(model.outputs[0]))
    if len(model.outputs) != 1:
        raise ValueError(f"The model must have one output. Received: {len(model.outputs)}.")
    length = shapes[0][1] if bert is None else None
    if from_host:
        t = transformer
        limits = Limits(length or t.max_position, t.vocab_size, t.segment_vocab_size)
    else:
        limits = Limits(length, *(_embedding_rows(model, tensor) for tensor in model.inputs))
    return Source(model, bert, length, limits)


def _embedding_rows(model, tensor) -> int | None:
    """The number of ids that an input may hold, from the embedding that looks them up."""
    from ..backend import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.Embedding):
            # Keras does not say for a layer that is called more than once.
            with contextlib.suppress(AttributeError, ValueError):
                if layer.input is tensor:
                    return layer.input_dim
    return None


def _read_bert(transformer, classifier) -> Description | None:
    """The numbers of a plain BERT with a head that is recognized; else `None`."""
    try:
        bert = describe(transformer, classifier, "exported")
    except ValueError:
        return None
    if transformer.with_mlm or transformer.with_nsp or "embedding_size" in bert.config:
        return None
    return None if classifier is not None and bert.head is None else bert


def traced(function: Callable, length: int | None):
    """`function(token_ids, segment_ids)` with the inputs that exported files have."""
    import tensorflow as tf

    shape = [None, length]
    return tf.function(
        function,
        input_signature=[
            tf.TensorSpec(shape, tf.int32, name="token_ids"),
            tf.TensorSpec(shape, tf.int32, name="segment_ids"),
        ],
        autograph=False,
    )


def keras_function(model) -> Callable:
    """A Keras model at inference, as an argument of `traced`."""
    import tensorflow as tf

    dtypes = [tensor.dtype for tensor in model.inputs]

    def function(token_ids, segment_ids):
        inputs = [tf.cast(ids, dtype) for ids, dtype in zip((token_ids, segment_ids), dtypes)]
        return {"output": tf.cast(model(inputs, training=False), tf.float32)}

    return function


def write_export(
    path: str | os.PathLike,
    source: Source,
    make: Callable[[Path], None],
    suffix: str,
    quantize: str | None,
    sample,
    tolerance: float | None,
) -> None:
    """Writes a file with `make(path)`, compares it with Keras, and moves it into place.

    The checksums.json of its folder lists the file.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"`path` must end with {suffix}. Received: {str(path)!r}.")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} must be a file; it is a folder.")
    batches = _random_batches(source) if sample is None else [tuple(map(np.asarray, sample))]
    if tolerance is None:
        tolerance = TOLERANCES[quantize]

    def write(scratch):
        make(scratch)
        _compare(open_runtime(scratch), source.model, batches, tolerance, path)

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_listed_file(path, write)


def _random_batches(source: Source) -> list:
    """Random texts of several lengths, padded, in batches of two shapes."""
    rng = np.random.default_rng(0)
    limits = source.limits
    longest = source.length or min(limits.max_length or 24, 24)
    batches = []
    for lengths in ([longest, max(1, longest // 2), 1], [max(1, longest // 3)]):
        width = source.length or max(lengths)
        mask = np.arange(width) < np.array(lengths)[:, None]
        token_ids = rng.integers(1, limits.vocab_size or 2, mask.shape) * mask
        segment_ids = rng.integers(0, limits.segments or 2, mask.shape) * mask
        batches.append((token_ids.astype("int32"), segment_ids.astype("int32")))
    return batches


def _compare(runtime, model, batches, tolerance, path):
    for token_ids, segment_ids in batches:
        try:
            expected = np.asarray(model([token_ids, segment_ids], training=False))
        except Exception as error:  # its layers and TensorFlow have errors of many classes
            raise ValueError(
                f"The model fails on a batch of {token_ids.shape} (pass a `sample` that it "
                f"accepts): {error}"
            ) from error
        if not np.isfinite(expected).all():
            raise ValueError("The model's output is NaN or infinite. Nothing was exported.")
        try:
            found = runtime(token_ids, segment_ids)
        except RuntimeError as error:
            raise ValueError(f"{str(path)!r} was not written, since it fails: {error}") from error
        scale = max(1.0, float(np.abs(expected).max()))
        error = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
        if not error <= tolerance * scale:
            raise ValueError(
                f"{str(path)!r} was not written: its outputs differ by {error:.3g} from the "
                f"model's on a batch of {token_ids.shape}. They must not differ by more than "
                f"{tolerance * scale:.3g}."
            )
