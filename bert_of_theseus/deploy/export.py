"""What both export formats share: reading the model, checking the file, and writing it safely."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checkpoints.describe import Description, describe, is_transformer
from ..checkpoints.families import POOLER
from ..files import replace_listed_file
from .base import Limits
from .runtimes import input_names, open_runtime, whole_model

# Largest difference from Keras' outputs, relative to the largest output (at least 1). Rounding
# stays far below in float32 and float16. In int8 it depends on the weights, so the bound only
# finds files that do not work; evaluate them on your own texts.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "int8": 0.25}
# The same for a model that computes in 16 bits, while its file computes in float32.
_ROUNDING = {"float16": 2e-2, "bfloat16": 1e-1}


class Source(NamedTuple):
    """A model to export.

    Attributes:
        model: The Keras model, encoder and head.
        description: Its numbers, or `None` if the encoder is of no family that is known, or the
            head is not a plain one; then the model is traced.
        length: The sequence length, if the model was built for a single one.
        limits: What the model accepts, as far as that is known.
        rounding: What computing in the model's type may change, relative to the largest output.
    """

    model: object
    description: Description | None
    length: int | None
    limits: Limits
    rounding: float = 0.0


def read_source(encoder, classifier) -> Source:
    """Reads what is to be exported.

    Raises:
        TypeError: if `encoder` is neither a host's encoder nor a Keras model, or `classifier` is
            not a Keras model or layer.
        ValueError: if the encoder or its head cannot be described, and the model does not take
            token and segment ids or Keras does not run on TensorFlow, so that it cannot be traced
            either.
    """
    from ..backend import keras

    if classifier is not None and not isinstance(classifier, keras.layers.Layer):
        raise TypeError(f"`classifier` must be a Keras model or layer. Received: {classifier!r}.")
    model = encoder.model if is_transformer(encoder) else encoder
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            "`encoder` must be a bert4keras Transformer, a KerasHub backbone or a Keras model that "
            f"is built. Received: {encoder!r}."
        )
    description = _describe(encoder, classifier)
    if description is None:
        _check_traceable(model)
    model = whole_model(encoder, classifier)
    if description is None:
        return _read_traced(encoder, model)
    inner = encoder.output if not isinstance(encoder.output, dict) else model.output
    dtypes = {getattr(tensor.dtype, "name", tensor.dtype) for tensor in (inner, model.output)}
    rounding = max(_ROUNDING.get(dtype, 0.0) for dtype in dtypes)
    return Source(model, description, None, Limits.of(description.config), rounding)


def can_be_described(encoder, classifier) -> bool:
    """Whether a model is written as a graph for inference, rather than traced."""
    return _describe(encoder, classifier) is not None


def _describe(encoder, classifier) -> Description | None:
    """The numbers of an encoder and a plain head; `None` if the model is to be traced."""
    from_bert4keras = is_transformer(encoder)
    if not (from_bert4keras or input_names(encoder)):
        return None
    try:
        description = describe(encoder, classifier, "exported")
    except ValueError:
        if from_bert4keras:
            return None
        raise
    if classifier is None and isinstance(encoder.output, dict):  # the hidden states are exported
        tensors = {name: x for name, x in description.tensors.items() if name not in POOLER}
        description = description._replace(tensors=tensors)
    if classifier is not None and description.head is None:
        if from_bert4keras:
            return None
        raise ValueError(
            "`classifier` must be a head of bert_of_theseus.heads, span_head excepted, to be "
            f"exported with this encoder. Received: {classifier!r}."
        )
    if from_bert4keras and (encoder.with_mlm or encoder.with_nsp):
        return None
    return description


def _check_traceable(model) -> None:
    from ..backend import require_tensorflow

    require_tensorflow(
        "Models other than encoders of known families with a plain head are exported from Keras on "
        "TensorFlow."
    )
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise ValueError(
            "The model must have two inputs, token_ids and segment_ids, each (batch_size, "
            f"sequence_length). Received: {shapes}."
        )


def _read_traced(encoder, model) -> Source:
    if len(model.outputs) != 1:
        raise ValueError(f"The model must have one output. Received: {len(model.outputs)}.")
    length = model.inputs[0].shape[1]
    if is_transformer(encoder):
        e = encoder
        limits = Limits(length or e.max_position, e.vocab_size, e.segment_vocab_size)
    else:
        limits = Limits(length, *(_embedding_rows(model, tensor) for tensor in model.inputs))
    return Source(model, None, length, limits)


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
    batches = _random_batches(source) if sample is None else [_batch(*sample)]
    if tolerance is None:
        tolerance = max(TOLERANCES[quantize], source.rounding)

    def write(scratch):
        make(scratch)
        _compare(open_runtime(scratch), source, batches, tolerance, path)

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_listed_file(path, write)


def _batch(token_ids, segment_ids, attention_mask=None) -> tuple:
    mask = None if attention_mask is None else np.asarray(attention_mask)
    return np.asarray(token_ids), np.asarray(segment_ids), mask


def _random_batches(source: Source) -> list:
    """Random texts of several lengths, padded, in batches of two shapes."""
    rng = np.random.default_rng(0)
    limits = source.limits
    longest = source.length or min(limits.max_length or 24, 24)
    pad, vocab_size = limits.pad_token_id or 0, limits.vocab_size or 2
    batches = []
    for lengths in ([longest, max(1, longest // 2), 1], [max(1, longest // 3)]):
        width = source.length or max(lengths)
        mask = np.arange(width) < np.array(lengths)[:, None]
        # Any token but the padding.
        token_ids = (pad + rng.integers(1, max(2, vocab_size), mask.shape) * mask) % vocab_size
        segment_ids = rng.integers(0, 2 if limits.segments is None else max(1, limits.segments),
                                   mask.shape) * mask  # fmt: skip
        batches.append((token_ids.astype("int32"), segment_ids.astype("int32"), mask))
    return batches


def _compare(runtime, source, batches, tolerance, path):
    for token_ids, segment_ids, mask in batches:
        expected = _run_keras(source, token_ids, segment_ids, mask)
        if not np.isfinite(expected).all():
            raise ValueError("The model's output is NaN or infinite. Nothing was exported.")
        given = (mask,) if runtime.takes_mask else ()
        try:
            found = runtime(token_ids, segment_ids, *given)
        except RuntimeError as error:
            raise ValueError(f"{str(path)!r} was not written, since it fails: {error}") from error
        scale = max(1.0, float(np.abs(expected).max()))
        error = np.inf
        if found.shape == expected.shape:
            difference = np.abs(found - expected)
            if difference.ndim == 3 and mask is not None:
                difference = difference[mask.astype(bool)]  # where there is a token
            error = difference.max()
        if not error <= tolerance * scale:
            raise ValueError(
                f"{str(path)!r} was not written: its outputs differ by {error:.3g} from the "
                f"model's on a batch of {token_ids.shape}. They must not differ by more than "
                f"{tolerance * scale:.3g}."
            )


def _run_keras(source, token_ids, segment_ids, mask) -> np.ndarray:
    from ..backend import to_numpy

    inputs = [token_ids, segment_ids]
    names = input_names(source.model)
    if names is not None:
        if mask is None:
            mask = token_ids != source.limits.pad_token_id
        known = {"token_ids": token_ids, "segment_ids": segment_ids, "padding_mask": mask}
        inputs = {name: known[name].astype("int32") for name in names}
    try:
        return to_numpy(source.model(inputs, training=False)).astype("float32")
    except Exception as error:  # its layers and their framework have errors of many classes
        raise ValueError(
            f"The model fails on a batch of {token_ids.shape} (pass a `sample` that it accepts): "
            f"{error}"
        ) from error
