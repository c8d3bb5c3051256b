"""Export of plain Keras models, under each Keras: the same outputs, or a clear refusal."""

import numpy as np
import pytest
from tiny_texts import make_model, texts

from bert_of_theseus.backend import BACKEND, keras
from bert_of_theseus.deploy import export_litert, export_onnx, open_runtime

EXPORTS = {"a.tflite": export_litert, "a.onnx": export_onnx}


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
