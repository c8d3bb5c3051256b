"""What the tests of bert4keras share: tiny models, texts, and what becomes of weights."""

import contextlib

import numpy as np
import tensorflow as tf
from bert4keras.backend import keras
from bert4keras.models import build_transformer_model

from bert_of_theseus.checkpoints import (
    load_weights,
    save_checkpoint,
    save_pretrained,
    shared_initializers_allowed,
)

TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "天", *map(str, range(34))]
LABELS = ["bad", "so-so", "好"]
SAVE = {"google": save_checkpoint, "huggingface": save_pretrained}
MAIN_FILES = {
    "google": ["bert_config.json", "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index"],
    "huggingface": ["config.json", "model.safetensors"],
}


def scatter(model, seed=0, scale=0.2):
    """Gives a model weights of which none is like another."""
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.normal(0, scale, w.shape) for w in model.get_weights()])
    return model


def make_bert(num_hidden_layers=2, seed=0, **options):
    """A bert4keras Transformer; no weight is like another, and attention matters.

    BERT's initial weights are so small that it hardly does.
    """
    options = {**TINY, "num_hidden_layers": num_hidden_layers, **options}
    with shared_initializers_allowed():  # what they make is replaced below
        transformer = build_transformer_model(return_keras_model=False, **options)
    rng = np.random.default_rng(seed)
    for weight in transformer.model.trainable_weights:  # not tables of positions
        weight.assign_add(rng.normal(0, 0.2, weight.shape))
    return transformer


def make_batch(*lengths, width=None, first_segment=4, vocab_size=40, seed=7):
    """Token ids, segment ids and mask of random texts of some lengths, padded to `width`.

    The same texts, whatever the width.
    """
    longest = max(lengths)
    mask = np.arange(longest) < np.array(lengths)[:, None]
    token_ids = np.random.default_rng(seed).integers(1, vocab_size, mask.shape) * mask
    segment_ids = 1 * (mask & (np.arange(longest) >= first_segment))
    padding = [(0, 0), (0, (width or longest) - longest)]
    return [np.pad(array, padding) for array in (token_ids, segment_ids, mask)]


def run(model, batch, training=False):
    """What a Keras model makes of a list of arrays, without tracing it."""
    inputs = [tf.constant(x, tf.float32) for x in batch]
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=training)
    return [np.array(x) for x in outputs] if isinstance(outputs, list) else np.array(outputs)


@contextlib.contextmanager
def untraced():
    """Nothing is compiled: for tiny models, tracing takes most of the time of a training."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def whole(transformer, classifier):
    """One Keras model of both."""
    if classifier is None:
        return transformer.model
    return keras.Model(transformer.inputs, classifier(transformer.output))


def weights_of(*models):
    """Copies of the values of all weights."""
    return [np.array(weight) for model in models for weight in model.get_weights()]


def same(first, second):
    return len(first) == len(second) and all((a == b).all() for a, b in zip(first, second))


def load_into(target, folder, expected):
    """Loads, or fails as it should: all weights are right, or none is touched."""
    marked = weights_of(scatter(target.model, seed=5))
    try:
        load_weights(target, folder)
    except (ValueError, OSError) as error:
        assert str(folder) in str(error)
        assert same(marked, weights_of(target.model))
        return False
    for value, new in zip(expected, weights_of(target.model), strict=True):
        assert value.tobytes() == new.tobytes()
    return True
