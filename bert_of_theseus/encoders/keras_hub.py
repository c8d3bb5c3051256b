"""A KerasHub backbone, or the text classifier that it is in, as an `Encoder`."""

import keras_hub

from ..backend import keras, register
from .base import Encoder, one_or_all

__all__ = ["KerasHubEncoder", "TaskHead"]

# Those that the tests compress. Others of the same make work alike.
FAMILIES = ("Albert", "Bert", "DebertaV3", "DistilBert", "Electra", "FNet", "Roberta", "XLMRoberta")
_SUPPORTED = ", ".join(f"{family}Backbone" for family in FAMILIES)


class KerasHubEncoder(Encoder):
    """A backbone of KerasHub with a list of transformer layers, as an `Encoder`.

    Supported: `BertBackbone`, `RobertaBackbone`, `DistilBertBackbone`, `XLMRobertaBackbone`,
    `AlbertBackbone`, `DebertaV3Backbone`, `ElectraBackbone`, `FNetBackbone`, and every backbone
    that applies the layers in its `transformer_layers` one directly after the other. What they
    take beside the hidden states (the padding mask, DeBERTa's relative embeddings) is read from
    the backbone's own graph and goes to each module.

    A head is given the sequence of hidden states, which, as everywhere in KerasHub, carries no
    Keras mask. Of a `TextClassifier` the head that it has is kept, pooler included, and what is
    taken out in the end is a `TextClassifier` of the same class again.

    ALBERT shares layers: an ALBERT successor saves time, and parameters only where it has fewer
    groups.

    Args:
        model: `keras_hub.models.Backbone`, or a `keras_hub.models.TextClassifier`.

    Raises:
        ValueError: for other tasks, for backbones of another make (an encoder and a decoder, say),
            and for one that is quantized.
    """

    def __init__(self, model):
        task = None
        if isinstance(model, keras_hub.models.Task):
            task, model = model, model.backbone
            if not isinstance(task, keras_hub.models.TextClassifier):
                raise ValueError(
                    f"KerasHub's {type(task).__name__} is not supported: of its tasks only text "
                    "classifiers are. Pass its backbone, and a head of the hidden states as "
                    "`classifier`."
                )
        family = type(model).__name__
        layers = keras.tree.flatten(getattr(model, "transformer_layers", None) or [])
        if not layers:
            raise ValueError(
                f"KerasHub's {family} is not supported: it has no list `transformer_layers`. "
                f"Supported are, among others: {_SUPPORTED}."
            )
        if any(layer.quantization_mode for layer in model._flatten_layers()):
            raise ValueError(
                f"The {family} is quantized, so it cannot be trained. Compress it before it is "
                "quantized, and quantize the successor."
            )
        self.backbone = model
        self.name = model.name
        # By name, so that all families have theirs in one order.
        inputs = model.input
        self._structure = dict(sorted(inputs.items())) if isinstance(inputs, dict) else inputs
        self.inputs = keras.tree.flatten(self._structure)
        outputs = model.output
        self._sequence = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
        self._calls = _calls(self._sequence, layers, family)
        self.num_hidden_layers = len(self._calls)
        start = _hidden(self._calls[0])
        self._context = list(
            {id(t): t for call in self._calls for t in call.input_tensors if t is not _hidden(call)}
            .values()
        )  # fmt: skip
        self._start = start
        self._layers = len(layers)
        self.classifier = None if task is None else TaskHead.of(task, self)

    @property
    def input_structure(self):
        return self._structure

    def embed(self, inputs):
        known = dict(zip(map(id, self.inputs), inputs))
        return [_replay(tensor, known) for tensor in (self._start, *self._context)]

    def apply_layer(self, state, index):
        call = self._calls[index]
        known = dict(zip(map(id, (_hidden(call), *self._context)), state))
        return _replay(call.output_tensors[0], known)

    def finalize(self, hidden_states):
        return _replay(self._sequence, {id(self._calls[-1].output_tensors[0]): hidden_states})

    @property
    def output(self):
        return self._sequence

    def end_model(self, name):
        last = self._calls[-1].output_tensors[0]
        hidden_states = keras.Input(tuple(last.shape)[1:], dtype=last.dtype)
        known = {id(last): hidden_states}
        ends = [_replay(tensor, known) for tensor in keras.tree.flatten(self.backbone.output)]
        if all(end is hidden_states for end in ends):
            return None
        return keras.Model(hidden_states, one_or_all(ends), name=name)

    def shallower(self, num_hidden_layers):
        config = self.backbone.get_config()
        each = max(1, self.num_hidden_layers // config.get("num_layers", self.num_hidden_layers))
        if "num_layers" not in config or num_hidden_layers % each:
            raise ValueError(
                f"KerasHub's {type(self.backbone).__name__} is not made of {num_hidden_layers} "
                f"layers by its config alone ({each} layers go together). Build the successor "
                "yourself."
            )
        # What was done to the predecessor's flag is not meant for the successor.
        config.update(num_layers=num_hidden_layers // each, trainable=True)
        return type(self.backbone).from_config(config)

    def own_head(self, classifier):
        if not isinstance(classifier, TaskHead):
            return super().own_head(classifier)
        task = classifier.task
        config = {**task.get_config(), "backbone": self.backbone, "preprocessor": task.preprocessor}
        return TaskHead.of(type(task).from_config(config), self)

    def finished(self, model, classifier):
        if not isinstance(classifier, TaskHead):
            return model
        if classifier.task.backbone is self.backbone:
            return classifier.task
        head = self.own_head(classifier)
        head.set_weights(classifier.get_weights())
        return head.task


@register
class TaskHead(keras.Model):
    """What a `TextClassifier` makes of the hidden states: its pooler, its dropout, its output.

    Attributes:
        task: The `TextClassifier`.
    """

    @classmethod
    def of(cls, task, encoder):
        """The head of `task`, whose backbone is that of `encoder`."""
        sequence = encoder.output
        hidden_states = keras.Input(tuple(sequence.shape)[1:], dtype=sequence.dtype)
        known, inner = {}, {id(sequence): hidden_states}
        for node in task.backbone._inbound_nodes:
            for theirs, own in zip(node.output_tensors, keras.tree.flatten(task.backbone.output)):
                known[id(theirs)] = _replay(own, inner)
        head = cls(hidden_states, _replay(task.output, known), name=f"{task.name}_head")
        # Past Keras, which would track the task and its backbone as parts of the head.
        object.__setattr__(head, "task", task)
        return head

    @property
    def from_logits(self):
        return keras.activations.get(self.task.activation) is keras.activations.linear


def _node(tensor):
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _replay(tensor, known):
    """The symbolic `tensor` made once more, of the tensors in `known`, a dict by id."""
    if id(tensor) not in known:
        node = _node(tensor)
        if node.is_input:
            raise ValueError(
                f"The tensor {tensor.name!r} is needed where it is not at hand: the layers of a "
                "backbone may take no more than the hidden states and what is made before them, "
                "and a head no more than the hidden states."
            )
        for needed in node.input_tensors:
            _replay(needed, known)
        arguments, options = node.arguments.fill_in(known)
        made = keras.tree.flatten(node.operation(*arguments, **options))
        known.update(zip(map(id, node.output_tensors), made))
    return known[id(tensor)]


def _calls(end, layers, family):
    """The calls of `layers` that make `end`, in order."""
    ids = set(map(id, layers))
    calls, node = [], _node(end)
    while not node.is_input and id(node.operation) not in ids:
        node = _node(node.input_tensors[0])
    while id(node.operation) in ids:
        calls.insert(0, node)
        node = _node(_hidden(node))
    if {id(call.operation) for call in calls} != ids or any(
        len(call.output_tensors) != 1 for call in calls
    ):
        raise ValueError(
            f"KerasHub's {family} is not supported: its {len(layers)} layers do not make the "
            "hidden states one directly of the other's. "
            f"Supported are, among others: {_SUPPORTED}."
        )
    return calls


def _hidden(call):
    """Of what a layer was called on, the hidden states: they are like what it makes of them."""
    shape = tuple(call.output_tensors[0].shape)
    alike = [tensor for tensor in call.input_tensors if tuple(tensor.shape) == shape]
    return (alike or call.input_tensors)[0]
