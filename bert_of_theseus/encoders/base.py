"""The interface between the builders and the models that can be compressed."""

from collections.abc import Sequence

from ..backend import keras, quiet_about_masks


class Encoder:
    """A stack of `num_hidden_layers` layers between an embedding and an end.

    One subclass per host says how the host's parts are applied to symbolic tensors: `embed`,
    `apply_layer` and `finalize`. This class makes Keras models of them, which run apart from one
    another, on other inputs than the host's, and inside a conditional.

    The state passed from layer to layer is a list: the hidden states, `(batch_size,
    sequence_length, hidden_size)`, and the context, tensors that all layers take in addition (an
    attention bias, say), often none.

    Attributes:
        inputs: List of symbolic input tensors.
        output: Symbolic output of the whole encoder on `inputs`.
        num_hidden_layers: Integer.
        classifier: The head that came with the encoder, or `None`.
        name: String, for error messages.
    """

    inputs: list
    num_hidden_layers: int
    classifier = None
    name = "encoder"

    # What a host implements.

    def embed(self, inputs: list) -> list:
        """`[hidden_states, *context]` of symbolic `inputs`."""
        raise NotImplementedError

    def apply_layer(self, state: list, index: int):
        """The hidden states after layer `index`, of `[hidden_states, *context]`."""
        raise NotImplementedError

    def finalize(self, hidden_states):
        """The head's input, of the last hidden states."""
        return hidden_states

    # What a host may override.

    def padding_mask(self, inputs: list):
        """Of symbolic `inputs` the one that is 1 for tokens and 0 for padding.

        `None` if there is none. Then padding is what the Keras mask of the hidden states says, if
        they have one.
        """
        return None

    def apply_layers(self, state: list, indices: Sequence[int]):
        """The hidden states after the layers `indices`, of `[hidden_states, *context]`."""
        for index in indices:
            state = [self.apply_layer(state, index), *state[1:]]
        return state[0]

    @property
    def output(self):
        state = self.embed(self.inputs)
        return self.finalize(self.apply_layers(state, range(self.num_hidden_layers)))

    @property
    def input_structure(self):
        """`inputs` in the form that a model takes them: a tensor, a list or a dict."""
        return one_or_all(self.inputs)

    def end_model(self, name: str) -> keras.Model | None:
        """Model: last hidden states -> all outputs of the host; `None` if they are the same."""
        return self.final_model(name)

    def state_before(self, index: int) -> list:
        """The symbolic state before layer `index`, for its shapes."""
        # As before the first layer, unless layers change the shape.
        if not hasattr(self, "_embedded"):
            self._embedded = self.embed(self.inputs)
        return self._embedded

    def shallower(self, num_hidden_layers: int):
        """The host's model with fewer layers and random weights."""
        raise TypeError(
            f"How a {type(self).__name__} gets fewer layers is not known. Build the successor "
            "yourself, and call `initialize_successor`."
        )

    def new_head(self, classifier: keras.layers.Layer) -> keras.layers.Layer:
        """A head like `classifier` for this encoder, with new weights."""
        if isinstance(classifier, keras.Model):
            return keras.models.clone_model(classifier)
        return type(classifier).from_config(classifier.get_config())

    def host_model(self, model: keras.Model, classifier: keras.layers.Layer) -> keras.Model:
        """Converts `model`, from `self.model(classifier)`, to the type that host's users expect."""
        return model

    # What the builders call.

    def model(self, classifier: keras.layers.Layer, name: str) -> keras.Model:
        """Model: the inputs -> the output of `classifier`."""
        outputs = quiet_about_masks(classifier)(self.output)
        return keras.Model(self.input_structure, outputs, name=name)

    def embedding_model(self, name: str) -> keras.Model | None:
        """Model: `inputs` -> `[hidden_states, *context]`; `None` if they are the same."""
        state = self.state_before(0)
        if all(a is b for a, b in zip(state, self.inputs)):
            return None
        return keras.Model(one_or_all(self.inputs), one_or_all(state), name=name)

    def module(self, indices: Sequence[int], name: str) -> keras.Model:
        """Model: `[hidden_states, *context]` -> hidden states, through the layers `indices`."""
        state = [symbolic_like(x) for x in self.state_before(indices[0])]
        model = keras.Model(one_or_all(state), self.apply_layers(state, indices), name=name)
        return quiet_about_masks(model)

    def final_model(self, name: str) -> keras.Model | None:
        """Model: last hidden states -> the head's input; `None` if they are the same."""
        hidden_states = symbolic_like(self.state_before(self.num_hidden_layers)[0])
        end = self.finalize(hidden_states)
        return None if end is hidden_states else keras.Model(hidden_states, end, name=name)


def symbolic_like(tensor):
    """A new symbolic tensor with the shape and dtype of `tensor`."""
    return keras.Input(tuple(tensor.shape)[1:], dtype=tensor.dtype)


def one_or_all(tensors: list):
    return tensors[0] if len(tensors) == 1 else tensors


def as_list(tensors) -> list:
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
