"""Layers around a layer.

`Frozen` never trains it, `WithoutDropout` trains it as it is at inference, and `Masked` keeps
padding out of it.
"""

import re
import warnings

from .backend import (
    build_layer,
    call_layer,
    frozen,
    get_mask,
    keras,
    ops,
    output_shape,
    register,
    set_mask,
)
from .layers import as_layers


class _Wrapper(keras.layers.Layer):
    # Not `keras.layers.Wrapper`: that of tf_keras applies the layer's activity regularizer a
    # second time, and reads configs in the format of HDF5 files even from a `.keras` file.

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        (self.layer,) = as_layers(layer, "layer")

    @property
    def metrics(self):
        # A model inside may be compiled, and Keras 3 would report its loss for the outer model's.
        return []

    def build(self, input_shape):
        build_layer(self.layer, input_shape)
        self.built = True

    def compute_output_shape(self, input_shape):
        return output_shape(self.layer, input_shape)

    def compute_mask(self, inputs, mask=None):
        # Only asked for outputs that have none yet; a model attaches its own when called.
        is_model = isinstance(self.layer, keras.Model)
        return None if is_model else self.layer.compute_mask(inputs, mask)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        layer = keras.layers.deserialize(config.pop("layer"), custom_objects=custom_objects)
        return cls(layer, **config)


@register
class Frozen(_Wrapper):
    """Runs a layer that a `TheseusModel` does not train, whatever its `trainable` flag says.

    Args:
        layer: Layer or model.
        dropout: Boolean. Whether `layer` runs in training mode when the model does. Defaults to
            `True`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: What `layer` takes.
        training: Boolean, for `layer`.

    Returns:
        The output of `layer`.
    """

    def __init__(self, layer, dropout=True, **kwargs):
        super().__init__(layer, **kwargs)
        self.dropout = dropout

    def call(self, inputs, training=None):
        first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        mask = get_mask(first)
        with frozen([self.layer]):
            outputs = call_layer(self.layer, inputs, bool(training) and self.dropout)
        # Attention of Keras 3 removes the mask from its input, which the successor is given too.
        set_mask(first, mask)
        return outputs

    def get_config(self):
        return {**super().get_config(), "dropout": self.dropout}


@register
class WithoutDropout(_Wrapper):
    """Runs a layer as at inference, in training too, and trains it so.

    Batch normalization normalizes with its moving statistics, which stay as they are.

    Args:
        layer: Layer or model.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: What `layer` takes.

    Returns:
        The output of `layer`.
    """

    def call(self, inputs):
        return call_layer(self.layer, inputs, False)


@register
class Masked(_Wrapper):
    """Runs a layer that does not support masks, a convolution say, as if there were no padding.

    Positions that the mask leaves out are set to zero in the layer's input, as beyond the ends of
    a text, and the mask goes on to the next layer, where Keras would drop it. Without a mask it is
    the layer itself. A stack of layers that takes the predecessor's embeddings does this by
    itself, see `StackEncoder`; within a block of several convolutions wrap each of them.

    Args:
        layer: Layer or model that keeps the length of `(batch_size, sequence_length, ...)`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: Tensor, `(batch_size, sequence_length, ...)`.
        mask: Boolean tensor, `(batch_size, sequence_length)`; Keras passes it.
        training: Boolean, for `layer`.

    Returns:
        The output of `layer`, with the mask of the input.

    Raises:
        ValueError: if `layer` changes the length, as the mask would no longer fit.

    Example:

    >>> x = Masked(keras.layers.Conv1D(64, 3, padding="same"))(x)
    """

    @staticmethod
    def needed_by(layer) -> bool:
        """Whether `layer`, or for a model a layer within it, does not support masks."""
        if isinstance(layer, keras.Model) and layer.layers:
            return any(map(Masked.needed_by, layer.layers))
        return not (layer.supports_masking or isinstance(layer, keras.layers.InputLayer))

    def build(self, input_shape):
        super().build(input_shape)
        before, after = tuple(input_shape), tuple(output_shape(self.layer, input_shape))
        if len(after) < 2 or (None not in (before[1], after[1]) and before[1] != after[1]):
            raise ValueError(
                f"Masked ('{self.name}') needs a layer that keeps the length, which the mask has "
                f"too. Received: {self.layer.name!r}, which makes {after} of {before}"
            )

    def call(self, inputs, mask=None, training=None):
        if mask is None:
            return call_layer(self.layer, inputs, training)
        seen = mask[(..., *[None] * (len(inputs.shape) - 2))]
        inputs = ops.where(seen, inputs, ops.zeros_like(inputs))
        if isinstance(self.layer, keras.Model):  # layers in it may support masks
            set_mask(inputs, mask)
        lost = f"Layer '{re.escape(self.layer.name)}'.*destroy the mask information"
        with warnings.catch_warnings():  # Keras 3 warns that the mask is lost; here it is not
            warnings.filterwarnings("ignore", message=lost)
            return call_layer(self.layer, inputs, training)

    def compute_mask(self, inputs, mask=None):
        return mask
