"""Any list of Keras layers as an encoder: LSTM, convolutions, blocks of your own."""

import functools

from ..backend import apply_layers_of, get_mask, keras, ops, quiet_about_masks
from ..layers import Masked
from .base import Encoder, one_or_all


class StackEncoder(Encoder):
    """Layers applied in order, each of them one layer of the encoder.

    A stack may stand in for any predecessor that makes hidden states of the same shapes: `like`
    gives it what surrounds the layers, then. Where that predecessor's embedding makes a mask,
    padding does not reach the layers: recurrent ones skip it, and those that know no masks
    (convolutions, say) are wrapped in `Masked`, like blocks that are models. What else the
    predecessor's layers take beside the hidden states, such as the mask of a language model,
    these layers do not get: a bidirectional LSTM in the place of a GPT sees later tokens.

    Args:
        layers: List of Keras layers or models, each a function of one tensor. An `InputLayer`
            or `keras.Input` in front gives the input.
        inputs: Symbolic tensor or list of them. Defaults to what the first layer was called on.
        embedding: Layer or model that makes hidden states of the inputs. Defaults to `None`: a
            copy of that of `like`, and without it the inputs are the hidden states.
        final: Layer or model between the last hidden states and the head. Defaults to `None`, a
            copy of that of `like` where its embedding is copied.
        like: `Encoder` to take from what nothing else says: the inputs, and, where its embedding
            makes what this stack takes, copies of its embedding and of its end.

    Raises:
        TypeError: if one of `layers` is not a layer of the Keras in use.
        ValueError: if nothing says the shape of the inputs, or a layer would drop a mask.

    Example:

    >>> predecessor = StackEncoder([block() for _ in range(6)], inputs=keras.Input((None, 64)))
    >>> successor = [keras.layers.GRU(64, return_sequences=True) for _ in range(2)]
    >>> theseus = build_theseus_model(predecessor, successor, classifier)
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
            quiet_about_masks(part)
        if not layers:
            raise ValueError("A stack needs at least one layer. Received an empty list.")
        if inputs is None:
            inputs = _input_of(embedding or layers[0])
        if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
            (inputs,) = inputs
        if like is not None and embedding is None:
            hidden_states = like._state_before(0)[0]
            if inputs is None:
                inputs = _copy(hidden_states)
            if not isinstance(inputs, (list, tuple)) and _alike(inputs, hidden_states):
                embedding, end = _copies_of_ends(like)
                inputs = inputs if embedding is None else like.inputs
                final = end if final is None else final
        elif like is not None and inputs is None:
            inputs = like.inputs
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
        self._states = [self.embed(self.inputs)]
        self._applied = list(layers)
        if embedding is not None and _makes_mask(self.embedding_model("embedding")):
            self._applied = [self._with_mask(layer, like) for layer in layers]

    @staticmethod
    def _with_mask(layer, like):
        if like is None and Masked.needed_by(layer):
            # Not wrapped here: it may have been trained as it is, and padding is part of that.
            raise ValueError(
                f"The layer {layer.name!r} knows no masks, and the stack's embedding makes one: "
                "the layer would read the padding, and those behind it would not know of it. Use "
                "`bert_of_theseus.Masked(layer)`, which keeps padding out, or an embedding "
                "without a mask."
            )
        # A model may lose the mask on its way: Keras 3's attention takes it off its own input.
        if like is not None and (Masked.needed_by(layer) or isinstance(layer, keras.Model)):
            return Masked(layer, name=f"masked_{layer.name}")
        return layer

    def embed(self, inputs):
        if self._embedding is None:
            return [inputs[0]]
        state = self._embedding(one_or_all(inputs))
        return list(state) if isinstance(state, (list, tuple)) else [state]

    def apply_layer(self, state, index):
        return self._applied[index](state[0])

    def finalize(self, hidden_states):
        return hidden_states if self._final is None else self._final(hidden_states)

    def _state_before(self, index):
        # A layer of a stack may change the shape, so each has its own.
        for i in range(len(self._states) - 1, index):
            state = self._states[i]
            self._states.append([self.apply_layer(state, i), *state[1:]])
        return self._states[index]


def _copies_of_ends(encoder):
    """Copies of what `encoder` has before and after its layers, with weights of their own."""
    copies = {}

    def copy(layer):
        # What has no weights (a Lambda, say, which a config does not always hold) is shared; a
        # layer that both ends have is one layer in the copies, too.
        if not layer.weights:
            return layer
        if id(layer) not in copies:
            copies[id(layer)] = type(layer).from_config(layer.get_config())
        return copies[id(layer)]

    ends = encoder.embedding_model("embeddings"), encoder.final_model("final")
    cloned = [end and keras.models.clone_model(end, clone_function=copy) for end in ends]
    for end, clone in zip(ends, cloned):
        if end is not None:
            quiet_about_masks(clone).set_weights(end.get_weights())
    # Not the models themselves: Keras' files restore a layer that two models in a model share as
    # two.
    return [clone and functools.partial(apply_layers_of, clone) for clone in cloned]


def _makes_mask(model):
    """Whether a mask comes with the (first) output of `model`."""
    # Symbolic tensors do not tell in Keras 3, whose models lose their masks.
    shapes = [[2 if size is None else size for size in tuple(x.shape)] for x in model.inputs]
    example = [
        ops.zeros(shape, dtype=getattr(x.dtype, "name", x.dtype))
        for shape, x in zip(shapes, model.inputs)
    ]
    output = model(one_or_all(example))
    return get_mask(output[0] if isinstance(output, (list, tuple)) else output) is not None


def _alike(tensor, other):
    """Whether two symbolic tensors may be of one shape."""
    pairs = zip(tuple(tensor.shape), tuple(other.shape))
    return len(tensor.shape) == len(other.shape) and all(
        a is None or b is None or a == b for a, b in pairs
    )


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
