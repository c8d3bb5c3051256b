"""Export of plain Keras models, under each Keras: the same outputs, or a clear refusal."""

import numpy as np
import pytest

from bert_of_theseus.backend import BACKEND, keras
from bert_of_theseus.deploy import export_litert, export_onnx, open_runtime

EXPORTS = {"a.tflite": export_litert, "a.onnx": export_onnx}


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


needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="export needs TensorFlow")


@needs_tensorflow
@pytest.mark.parametrize("name", EXPORTS)
def test_a_keras_model(name, tmp_path):
    model = make_model()
    EXPORTS[name](tmp_path / name, model)
    runtime = open_runtime(tmp_path / name)
    for lengths in ((1,), (7,), (9, 4, 1), (3,) * 5):
        batch = texts(*lengths)
        expected = np.asarray(model.predict_on_batch([ids.astype("int32") for ids in batch]))
        np.testing.assert_allclose(runtime(*batch), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"`token_ids` must be from 0 to 29.*5 to 30"):
        runtime(np.array([[5, 30]]))


@needs_tensorflow
def test_a_model_of_one_length(tmp_path):
    """The runtime pads shorter texts, and says what is too long."""
    model = make_model(length=12)
    export_litert(tmp_path / "a.tflite", model)
    runtime = open_runtime(tmp_path / "a.tflite")
    assert runtime.max_length == 12
    padded = [ids.astype("int32") for ids in texts(5, 2, width=12)]
    expected = np.asarray(model.predict_on_batch(padded))
    np.testing.assert_allclose(runtime(*(ids[:, :5] for ids in padded)), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"takes at most 12 tokens. Received: 13"):
        runtime(np.ones((1, 13), int))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="of the other backends")
@pytest.mark.parametrize("name", EXPORTS)
def test_another_backend_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"exported from Keras on TensorFlow. Received: {BACKEND}"):
        EXPORTS[name](tmp_path / name, make_model())


def test_a_keras_file_runs(tmp_path):
    model = make_model()
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy", ["accuracy"])
    model.save(tmp_path / "a.keras")
    runtime = open_runtime(tmp_path / "a.keras")
    batch = [ids.astype("int32") for ids in texts(9, 4)]
    expected = np.asarray(model.predict_on_batch(batch))
    np.testing.assert_allclose(runtime(*batch), expected, atol=1e-6)
    assert runtime.kind == "keras" and runtime.max_length is None
    content = (tmp_path / "a.keras").read_bytes()
    for place in range(0, len(content), len(content) // 20):
        (tmp_path / "a.keras").write_bytes(content[:place])
        with pytest.raises(ValueError, match=r"a\.keras' cannot be loaded"):
            open_runtime(tmp_path / "a.keras")
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        (tmp_path / "a.keras").write_bytes(flipped)
        try:
            found = open_runtime(tmp_path / "a.keras")(*batch)
        except ValueError as error:
            assert "a.keras' cannot be loaded" in str(error)
        else:  # a zip file has bytes that say nothing, such as times
            np.testing.assert_array_equal(found, runtime(*batch))
