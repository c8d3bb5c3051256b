"""The interface between the builders and the models that can be compressed."""

from collections.abc import Sequence

from ..backend import keras, quiet_about_masks


class Encoder:
    """A stack of `num_hidden_layers` layers between an embedding and an end, of some host.

    A host says how its parts are applied to symbolic tensors: `embed`, `apply_layer` and
    `finalize`. This class makes Keras models of them, which can be run apart from one another, on
    other inputs than the host's own, and inside a conditional.

    The state that goes from layer to layer is a list: the hidden states, `(batch_size,
    sequence_length, hidden_size)`, and the context, what all layers take besides (an attention
    bias, say), often nothing.

    Attributes:
        inputs: List of symbolic input tensors.
        outputs: Symbolic output of the whole encoder on `inputs`.
        num_hidden_layers: Integer.
        classifier: The head that came with the encoder, or `None`.
        name: String, for error messages.
    """

    inputs: list
    num_hidden_layers: int
    classifier = None
    name = "encoder"

    def embed(self, inputs: list) -> list:
        """`[hidden_states, *context]` of symbolic `inputs`."""
        raise NotImplementedError

    def apply_layer(self, state: list, index: int):
        """The hidden states after layer `index`, of `[hidden_states, *context]`."""
        raise NotImplementedError

    def apply_layers(self, state: list, indices: Sequence[int]):
        """The hidden states after the layers `indices`, of `[hidden_states, *context]`."""
        for index in indices:
            state = [self.apply_layer(state, index), *state[1:]]
        return state[0]

    def finalize(self, hidden_states):
        """What the head is given, of the last hidden states."""
        return hidden_states

    @property
    def output(self):
        state = self.embed(self.inputs)
        return self.finalize(self.apply_layers(state, range(self.num_hidden_layers)))

    @property
    def input_structure(self):
        """`inputs` as a model on them takes them: a tensor, a list or a dict."""
        return one_or_all(self.inputs)

    def model(self, classifier: keras.layers.Layer, name: str) -> keras.Model:
        """Model: the inputs -> what `classifier` makes of the output."""
        outputs = quiet_about_masks(classifier)(self.output)
        return keras.Model(self.input_structure, outputs, name=name)

    def finished(self, model: keras.Model, classifier: keras.layers.Layer) -> keras.Model:
        """`model`, made by `self.model(classifier)`, or what the host has in its place."""
        return model

    def own_head(self, classifier: keras.layers.Layer) -> keras.layers.Layer:
        """The same head once more, for this encoder, without the weights."""
        if isinstance(classifier, keras.Model):
            return keras.models.clone_model(classifier)
        return type(classifier).from_config(classifier.get_config())

    def shallower(self, num_hidden_layers: int):
        """A host's model like this one's, of so many layers, with random weights."""
        raise TypeError(
            f"How a {type(self).__name__} gets fewer layers is not known. Build the successor "
            "yourself, and call `initialize_successor`."
        )

    def embedding_model(self, name: str) -> keras.Model | None:
        """Model: `inputs` -> `[hidden_states, *context]`; `None` if the inputs are just that."""
        state = self._state_before(0)
        if all(a is b for a, b in zip(state, self.inputs)):
            return None
        return keras.Model(one_or_all(self.inputs), one_or_all(state), name=name)

    def module(self, indices: Sequence[int], name: str) -> keras.Model:
        """Model: `[hidden_states, *context]` -> hidden states, through the layers `indices`."""
        state = [
            keras.Input(tuple(x.shape)[1:], dtype=x.dtype) for x in self._state_before(indices[0])
        ]
        model = keras.Model(one_or_all(state), self.apply_layers(state, indices), name=name)
        return quiet_about_masks(model)

    def final_model(self, name: str) -> keras.Model | None:
        """Model: hidden states -> what the head is given; `None` if that is the same."""
        last = self._state_before(self.num_hidden_layers)[0]
        hidden_states = keras.Input(tuple(last.shape)[1:], dtype=last.dtype)
        end = self.finalize(hidden_states)
        return None if end is hidden_states else keras.Model(hidden_states, end, name=name)

    def end_model(self, name: str) -> keras.Model | None:
        """Model of all that the host makes of the last hidden states; `None` if there is none."""
        return self.final_model(name)

    def _state_before(self, index: int) -> list:
        # Hosts whose layers keep the shape need no more than this.
        if not hasattr(self, "_embedded"):
            self._embedded = self.embed(self.inputs)
        return self._embedded


def one_or_all(tensors: list):
    return tensors[0] if len(tensors) == 1 else tensors
