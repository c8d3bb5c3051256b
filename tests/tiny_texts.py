"""A small classifier of texts that takes token and segment ids, as BERT does."""

import numpy as np

from bert_of_theseus.backend import keras


def make_model(length=None):
    """Masks, attention and pooling, as a small classifier of texts has them."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    tokens, segments = (keras.Input((length,), dtype="int32") for _ in range(2))
    x = layers.Embedding(30, 8, mask_zero=True)(tokens)
    x = layers.Add()([x, layers.Embedding(2, 8)(segments)])
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    x = layers.LayerNormalization()(layers.Dropout(0.5)(x))
    x = layers.GlobalAveragePooling1D()(layers.Dense(8, activation="gelu")(x))
    model = keras.Model([tokens, segments], layers.Dense(3, activation="softmax")(x))
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.normal(0, 0.3, w.shape) for w in model.get_weights()])
    return model


def texts(*lengths, width=None):
    mask = np.arange(width or max(lengths)) < np.array(lengths)[:, None]
    token_ids = np.random.default_rng(1).integers(1, 30, mask.shape) * mask
    return token_ids, 1 * (mask & (np.arange(mask.shape[1]) > 2))
