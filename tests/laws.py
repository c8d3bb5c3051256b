"""What holds for every layer of the package, whatever it does."""

import json
import warnings

import numpy as np
from helpers import assert_same, eager, package, values

from bert_of_theseus.backend import KERAS_2, keras
from bert_of_theseus.models import TheseusModel


@package
class ShowMask(keras.layers.Layer):
    """The mask of its input as numbers; -1 where there is none."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x, mask=None):
        zeros = x[..., 0] * 0
        if mask is None:
            return zeros - 1
        cast = keras.backend.cast if KERAS_2 else keras.ops.cast
        return zeros + cast(mask, zeros.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape[:-1]

    def compute_mask(self, inputs, mask=None):
        return None


def check_layer(make, arrays, *, passes_mask, trained, folder):
    """Checks a layer's config, shape, files, precision, mask and training.

    Args:
        make: Function of Keras' own arguments (`name`, `dtype`) that returns a new layer.
        arrays: What the layer is called on: an array or a list of them, `(batch_size,
            sequence_length, 3)`. Positions of zeros only are what a mask leaves out.
        passes_mask: Boolean. Whether the first input's mask is the output's; if not, there is
            none behind the layer.
        trained: Function of the layer that returns the weights that a step of training moves, at
            rate 1 if it has a rate, in a Theseus model. No other weight of it moves.
        folder: Where to write.
    """
    layer = make(name="checked")
    _check_config(layer)
    model = _model(layer, arrays)
    expected = eager(model, arrays)
    shapes = [array.shape for array in arrays] if isinstance(arrays, list) else arrays.shape
    assert tuple(layer.compute_output_shape(shapes)) == expected.shape
    _check_config(layer)  # of a layer that is built, too
    _check_file(model, arrays, expected, folder)
    for policy in ("mixed_float16", "mixed_bfloat16"):
        _check_precision(make, policy, layer, arrays, expected)
    _check_mask(make(), arrays, passes_mask)
    _check_fit(make(), arrays, trained)


def _inputs(arrays):
    if isinstance(arrays, list):
        return [keras.Input(array.shape[1:]) for array in arrays]
    return keras.Input(arrays.shape[1:])


def _each(function, inputs):
    return [function()(x) for x in inputs] if isinstance(inputs, list) else function()(inputs)


def _model(layer, arrays):
    inputs = _inputs(arrays)
    return keras.Model(inputs, layer(inputs))


def _check_config(layer):
    serialized = keras.saving.serialize_keras_object(layer)
    text = json.dumps(serialized)
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(copy) is type(layer) and copy.name == layer.name
    # Whether it is built, and for which shape, is no part of it.
    again = keras.saving.serialize_keras_object(copy)["config"]
    assert json.loads(json.dumps(again)) == json.loads(text)["config"]
    assert keras.saving.serialize_keras_object(layer) == serialized


def _check_file(model, arrays, expected, folder):
    path = folder / "layer.keras"
    model.save(path)
    copy = keras.models.load_model(path)
    np.testing.assert_array_equal(eager(copy, arrays), expected)
    assert_same(values(copy.weights), values(model.weights))
    assert len(copy.trainable_weights) == len(model.trainable_weights)


def _check_precision(make, policy, layer, arrays, expected):
    mixed = make(dtype=policy)
    model = _model(mixed, arrays)
    mixed.set_weights(layer.get_weights())
    assert str(mixed.compute_dtype) == policy.removeprefix("mixed_")
    assert all("16" not in str(weight.dtype) for weight in mixed.weights)
    assert policy.removeprefix("mixed_") in str(model.output.dtype)
    np.testing.assert_allclose(eager(model, arrays).astype("float32"), expected, atol=0.02)


def _check_mask(layer, arrays, passes):
    inputs = _inputs(arrays)
    output = layer(_each(lambda: keras.layers.Masking(0.0), inputs))
    first = arrays[0] if isinstance(arrays, list) else arrays
    mask = (first != 0).any(-1)
    assert mask.any() and not mask.all()
    model = keras.Model(inputs, ShowMask()(output))
    for training in (False, True):
        shown = eager(model, arrays, training)
        np.testing.assert_array_equal(shown, mask if passes else np.full_like(shown, -1))


def _check_fit(layer, arrays, trained):
    inputs = _inputs(arrays)
    below = _each(lambda: keras.layers.Dense(3), inputs)
    model = TheseusModel(inputs, layer(below))  # which knows what of a layer is frozen
    model.compile(keras.optimizers.SGD(0.1), "mse")
    if hasattr(layer, "replacement_rate"):
        layer.replacement_rate.assign(1.0)
    moving = {id(weight) for weight in trained(layer)}
    moves = [w for w in layer.weights if id(w) in moving]
    stays = [w for w in layer.weights if id(w) not in moving and "draw" not in w.name]
    assert len(moves) == len(moving)
    before, still = values(moves), values(stays)
    target = np.ones_like(eager(model, arrays))
    with warnings.catch_warnings():  # of what has no gradient, which is a law here
        warnings.filterwarnings("ignore", message="Gradients do not exist")
        loss = model.fit(arrays, target, batch_size=len(target), verbose=0).history["loss"][0]
    assert np.isfinite(loss)
    assert all((a != b).any() for a, b in zip(before, values(moves)))
    assert_same(still, values(stays))
