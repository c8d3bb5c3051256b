"""What both formats have in common: what is exported, and how a file gets into its place."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import replace_file
from .runtimes import open_runtime, seal

# How far outputs may be from Keras' own, as a share of the largest (at least 1). Rounding alone
# stays far below in float32 and float16; in int8 it depends on the weights, so the bound there
# tells a file that works from one that does not, and a score on your own texts tells the rest.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "int8": 0.25}


class Dense(NamedTuple):
    """A dense layer of a head."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str


class Bert(NamedTuple):
    """A BERT and its head as numbers, for a graph made for inference.

    Attributes:
        config: see `Checkpoint.config`.
        tensors: by canonical name, kernels as `(input_size, output_size)`.
        first_token: whether the head looks at `[CLS]` alone. Then the last layer need not compute
            what becomes of the others.
        head: list of `Dense`.
    """

    config: dict
    tensors: dict
    first_token: bool
    head: list[Dense]


class Source(NamedTuple):
    """What is exported.

    Attributes:
        model: the Keras model, from token and segment ids.
        bert: the same as numbers, or `None` where it is anything but BERT with a plain head; then
            the model is traced.
        length: the sequence length, where the model was built for one alone.
        max_length: number of positions, where it is known.
        vocab_size: number of tokens, likewise.
        segments: number of segments, likewise.
    """

    model: object
    bert: Bert | None
    length: int | None
    max_length: int | None
    vocab_size: int | None
    segments: int | None


def read_source(transformer, classifier) -> Source:
    """Finds out what is to be exported.

    Raises:
        TypeError: neither a bert4keras Transformer nor a Keras model, or no such head.
        ValueError: the model does not take token and segment ids, or Keras is not on TensorFlow.
    """
    from ..backend import BACKEND, keras

    if BACKEND != "tensorflow":
        raise ValueError(f"Models are exported from Keras on TensorFlow. Received: {BACKEND}.")
    if classifier is not None and not isinstance(classifier, keras.layers.Layer):
        raise TypeError(f"`classifier` should be a Keras model or layer. Received: {classifier!r}.")
    is_transformer = "bert4keras.models" in sys.modules and isinstance(
        transformer, sys.modules["bert4keras.models"].Transformer
    )
    model = transformer.model if is_transformer else transformer
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            "`transformer` should be a bert4keras Transformer or a Keras model that is built. "
            f"Received: {transformer!r}."
        )
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise ValueError(
            "The model should have two inputs, token_ids and segment_ids, each (batch_size, "
            f"sequence_length). Received: {shapes}."
        )
    bert = None
    if is_transformer:
        bert = _as_numbers(transformer, classifier)
    if classifier is not None:
        model = keras.Model(model.inputs, classifier(model.outputs[0]))
    if len(model.outputs) != 1:
        raise ValueError(f"The model should have one output. Received: {len(model.outputs)}.")
    if is_transformer:
        sizes = transformer.max_position, transformer.vocab_size, transformer.segment_vocab_size
    else:
        sizes = None, *(_embedding_rows(model, tensor) for tensor in model.inputs)
    return Source(model, bert, shapes[0][1] if bert is None else None, *sizes)


def _embedding_rows(model, tensor) -> int | None:
    """How many ids an input may hold, by the embedding that looks them up."""
    from ..backend import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.Embedding):
            # Of a layer that is called more than once, Keras does not say.
            with contextlib.suppress(AttributeError, ValueError):
                if layer.input is tensor:
                    return layer.input_dim
    return None


def _as_numbers(transformer, classifier) -> Bert | None:
    """Weights and head of a plain BERT; `None` of anything else."""
    from ..checkpoints.head import CLASSIFIER, POOLER, TOKEN, describe_head
    from ..checkpoints.load import bert4keras_models, check_bert
    from ..checkpoints.save import KERAS_ACTIVATIONS, read_bert

    try:
        check_bert(transformer, bert4keras_models(), "exported")
        config, tensors = read_bert(transformer)
        head = None if classifier is None else describe_head(classifier, transformer)
    except ValueError:
        return None
    if transformer.with_mlm or transformer.with_nsp or "embedding_size" in config:
        return None
    config["hidden_act"] = KERAS_ACTIVATIONS[config["hidden_act"]][0]
    pooler = [Dense(*(tensors[name] for name in POOLER), "tanh")] if POOLER[0] in tensors else []
    if head is None:
        return Bert(config, tensors, bool(pooler), pooler)
    activation = head.config.get("classifier_activation")
    if head.architecture is not None:
        tensors = {**tensors, **head.tensors}
        layers = [Dense(*(tensors[name] for name in CLASSIFIER), activation)]
        if head.architecture == TOKEN:
            return Bert(config, tensors, False, layers)
        pooler = Dense(*(tensors[name] for name in POOLER), "tanh")
        return Bert(config, tensors, True, [pooler, *layers])
    if activation is not None:  # the article's head
        return Bert(config, tensors, True, [Dense(*head.model.get_weights(), activation)])
    return None


def traced(function: Callable, length: int | None):
    """`function(token_ids, segment_ids)` with the names and shapes that the files have."""
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
    """A Keras model at inference, as `traced` takes it."""
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
    """Writes a file with `make(path)`, compares it with Keras, and puts it into its place."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"`path` should end with {suffix}. Received: {str(path)!r}.")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} should be a file; it is a folder.")
    batches = _random_batches(source) if sample is None else [tuple(map(np.asarray, sample))]
    note = {
        "suffix": suffix,
        "max_length": source.max_length,
        "vocab_size": source.vocab_size,
        "segments": source.segments,
        "length": source.length,
    }
    if tolerance is None:
        tolerance = TOLERANCES[quantize]

    def write(scratch):
        make(scratch)
        seal(scratch, note)
        _compare(open_runtime(scratch), source.model, batches, tolerance, path)

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)


def _random_batches(source: Source) -> list:
    """Texts of all sorts of lengths, padded, in batches of two shapes."""
    rng = np.random.default_rng(0)
    longest = source.length or min(source.max_length or 24, 24)
    batches = []
    for lengths in ([longest, max(1, longest // 2), 1], [max(1, longest // 3)]):
        width = source.length or max(lengths)
        mask = np.arange(width) < np.array(lengths)[:, None]
        token_ids = rng.integers(1, source.vocab_size or 2, mask.shape) * mask
        segment_ids = rng.integers(0, source.segments or 2, mask.shape) * mask
        batches.append((token_ids.astype("int32"), segment_ids.astype("int32")))
    return batches


def _compare(runtime, model, batches, tolerance, path):
    for token_ids, segment_ids in batches:
        expected = np.asarray(model([token_ids, segment_ids], training=False))
        if not np.isfinite(expected).all():
            raise ValueError("The model's own output is NaN or infinite. Nothing was exported.")
        try:
            found = runtime(token_ids, segment_ids)
        except RuntimeError as error:
            raise ValueError(f"{str(path)!r} was not written, since it fails: {error}") from error
        scale = max(1.0, float(np.abs(expected).max()))
        error = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
        if not error <= tolerance * scale:
            raise ValueError(
                f"{str(path)!r} was not written, since it would not do what the model does: their "
                f"outputs differ by {error:.3g} on a batch of {token_ids.shape}, and may by "
                f"{tolerance * scale:.3g}."
            )


def check_quantize(quantize, known) -> None:
    if quantize not in known:
        choices = ", ".join(map(repr, known))
        raise ValueError(f"`quantize` should be one of {choices}. Received: {quantize!r}.")
