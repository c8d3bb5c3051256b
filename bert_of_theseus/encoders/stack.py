"""Any list of Keras layers as an encoder: LSTM, convolutions, blocks of your own."""

from ..backend import keras
from .base import Encoder


class StackEncoder(Encoder):
    """Layers applied in order, each of them one layer of the encoder.

    Args:
        layers: List of Keras layers or models, each a function of one tensor. An `InputLayer`
            or `keras.Input` in front gives the input.
        inputs: Symbolic tensor or list of them. Defaults to what the first layer was called on.
        embedding: Layer or model that makes hidden states of the inputs. Defaults to `None`: the
            inputs are the hidden states.
        final: Layer or model between the last hidden states and the head. Defaults to `None`.
        like: `Encoder` to take the inputs from where nothing else says them.

    Raises:
        TypeError: if one of `layers` is not a layer of the Keras in use.
        ValueError: if nothing says the shape of the inputs.

    Example:

    >>> predecessor = StackEncoder([block() for _ in range(6)], inputs=keras.Input((None, 64)))
    """

    name = "stack"

    def __init__(self, layers, inputs=None, embedding=None, final=None, like=None):
        layers = list(layers)
        if layers and isinstance(layers[0], keras.layers.InputLayer):
            first = layers.pop(0)
            inputs = first.output if inputs is None else inputs
        elif layers and _is_symbolic(layers[0]):
            first = layers.pop(0)
            inputs = first if inputs is None else inputs
        for part in [*layers, *filter(None, (embedding, final))]:
            if not isinstance(part, keras.layers.Layer):
                raise TypeError(
                    f"A stack is made of layers of the Keras in use ({keras.__name__} "
                    f"{keras.__version__}). Received: {part!r} (of type {type(part).__name__})"
                )
        if not layers:
            raise ValueError("A stack needs at least one layer. Received an empty list.")
        if inputs is None:
            inputs = _input_of(embedding or layers[0])
        if inputs is None and like is not None:
            inputs = like.inputs if embedding is not None else _copy(like._state_before(0)[0])
        if inputs is None:
            raise ValueError(
                f"The first layer, {(embedding or layers[0]).name!r}, was never called, so the "
                "shape of the stack's input is not known. Put `keras.Input(shape)` in front of "
                "the list, or use StackEncoder(layers, inputs=keras.Input(shape))."
            )
        self.inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        self.layers = layers
        self.num_hidden_layers = len(layers)
        self._embedding, self._final = embedding, final
        self._states = None

    def embed(self, inputs):
        if self._embedding is None:
            return [inputs[0]]
        return [self._embedding(inputs[0] if len(inputs) == 1 else inputs)]

    def apply_layer(self, state, index):
        return self.layers[index](state[0])

    def finalize(self, hidden_states):
        return hidden_states if self._final is None else self._final(hidden_states)

    def _state_before(self, index):
        # A layer of a stack may change the shape, so each has its own.
        if self._states is None:
            self._states = [self.embed(self.inputs)]
            for i in range(self.num_hidden_layers):
                self._states.append([self.apply_layer(self._states[-1], i)])
        return self._states[index]


def _copy(tensor):
    return keras.Input(tuple(tensor.shape)[1:], dtype=tensor.dtype)


def _is_symbolic(value):
    try:
        return keras.backend.is_keras_tensor(value)
    except ValueError:  # Keras 2, of what is no tensor at all
        return False


def _input_of(layer):
    try:
        tensor = layer.input
    except (AttributeError, RuntimeError, ValueError):
        return None
    # The layer may stand in the middle of a model: the stack begins with a tensor of its own.
    return [_copy(t) for t in tensor] if isinstance(tensor, (list, tuple)) else _copy(tensor)
