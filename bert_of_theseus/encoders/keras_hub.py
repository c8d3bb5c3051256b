"""A KerasHub backbone, or the text classifier that it is in, as an `Encoder`."""

import keras_hub
import numpy as np

from ..backend import keras, node_of, register, to_numpy
from .base import Encoder, one_or_all, symbolic_like

# Those that the tests compress. Others that are built in the same way work too.
FAMILIES = ("Albert", "Bert", "DebertaV3", "DistilBert", "Electra", "FNet", "Roberta", "XLMRoberta")


class KerasHubEncoder(Encoder):
    """A KerasHub backbone with a list of transformer layers, as an `Encoder`.

    Supported: `BertBackbone`, `RobertaBackbone`, `DistilBertBackbone`, `XLMRobertaBackbone`,
    `AlbertBackbone`, `DebertaV3Backbone`, `ElectraBackbone`, `FNetBackbone`, and every backbone
    that applies the layers in its `transformer_layers` directly one after the other. Their other
    inputs (the padding mask, DeBERTa's relative embeddings) are read from the backbone's graph and
    passed to each module.

    The head's input is the sequence of hidden states, without a Keras mask, as everywhere in
    KerasHub. A `TextClassifier` brings its own head, pooler included, and the extracted successor
    is a `TextClassifier` of the same class.

    ALBERT shares layers: a successor applies them less often, which saves time, and parameters only
    where it has fewer layers than the predecessor has groups.

    Args:
        model: `keras_hub.models.Backbone`, or a `keras_hub.models.TextClassifier`.

    Raises:
        ValueError: for other tasks, for other backbones (an encoder with a decoder, say), and
            for one that is quantized.
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
            raise _not_supported(family, "it has no list `transformer_layers`")
        if any(layer.quantization_mode for layer in model._flatten_layers()):
            raise ValueError(
                f"The {family} is quantized, so it cannot be trained. Compress it before it is "
                "quantized, and quantize the successor."
            )
        self.backbone = model
        self.name = model.name
        # Sorted by name, the same order for all families.
        inputs = model.input
        self._structure = dict(sorted(inputs.items())) if isinstance(inputs, dict) else inputs
        self.inputs = keras.tree.flatten(self._structure)
        outputs = model.output
        self._sequence = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
        self._calls = _calls(self._sequence, layers, family)
        self.num_hidden_layers = len(self._calls)
        self._start = _hidden(self._calls[0])
        self._context = list(
            {id(t): t for call in self._calls for t in call.input_tensors if t is not _hidden(call)}
            .values()
        )  # fmt: skip
        self.classifier = None if task is None else TaskHead.of(task, self)

    @property
    def input_structure(self):
        return self._structure

    def padding_mask(self, inputs):
        names = list(self._structure) if isinstance(self._structure, dict) else []
        return inputs[names.index("padding_mask")] if "padding_mask" in names else None

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
        hidden_states = symbolic_like(last)
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
        # The predecessor's flag may have been changed; the successor is to be trained.
        config.update(num_layers=num_hidden_layers // each, trainable=True)
        if "num_groups" in config:
            config["num_groups"] = min(config["num_groups"], config["num_layers"])
        return type(self.backbone).from_config(config)

    def new_head(self, classifier):
        if not isinstance(classifier, TaskHead):
            return super().new_head(classifier)
        task = classifier.task
        config = {**task.get_config(), "backbone": self.backbone, "preprocessor": task.preprocessor}
        return TaskHead.of(type(task).from_config(config), self)

    def host_model(self, model, classifier):
        if not isinstance(classifier, TaskHead):
            return model
        if classifier.task.backbone is self.backbone:
            return classifier.task
        is_in_use = bool(self.backbone._inbound_nodes)
        head = self.new_head(classifier)
        weights = classifier.get_weights()
        if is_in_use and _change_any(head, weights, self.backbone):
            # Some backbones hold the pooler, which another classifier has trained in the meantime.
            backbone = type(self.backbone).from_config(self.backbone.get_config())
            backbone.set_weights(self.backbone.get_weights())
            return KerasHubEncoder(backbone).host_model(model, classifier)
        head.set_weights(weights)
        return head.task


def _change_any(head, weights, backbone):
    """Whether weights of the backbone would change, were these weights set in the head."""
    shared = {id(weight) for weight in backbone.weights}
    return any(
        id(weight) in shared and not np.array_equal(to_numpy(weight), value)
        for weight, value in zip(head.weights, weights)
    )


@register
class TaskHead(keras.Model):
    """The head of a `TextClassifier`: what follows the hidden states, such as pooler and dropout.

    Attributes:
        task: The `TextClassifier`.
    """

    @classmethod
    def of(cls, task, encoder):
        """The head of `task`, whose backbone is that of `encoder`."""
        sequence = encoder.output
        hidden_states = symbolic_like(sequence)
        # The backbone is called as a layer of the task: its outputs there are those inside it.
        known, inner = {}, {id(sequence): hidden_states}
        for node in task.backbone._inbound_nodes:
            for outer, output in zip(node.output_tensors, keras.tree.flatten(task.backbone.output)):
                known[id(outer)] = _replay(output, inner)
        head = cls(hidden_states, _replay(task.output, known), name=f"{task.name}_head")
        # Hidden from Keras, which would track the task and its backbone as parts of the head.
        object.__setattr__(head, "task", task)
        return head

    @property
    def is_new(self):
        """Whether its output was never trained: the bias is as it was made, zeros."""
        output = getattr(self.task, "output_dense", None)
        return output is not None and not to_numpy(output.bias).any()

    @property
    def from_logits(self):
        return keras.activations.get(self.task.activation) is keras.activations.linear


def _replay(tensor, known):
    """Computes the symbolic `tensor` again from other tensors: `known`, a dict by id."""
    if id(tensor) not in known:
        node = node_of(tensor)
        if node.is_input:
            raise ValueError(
                f"The tensor {tensor.name!r} is not available there: the layers of a backbone may "
                "take only the hidden states and tensors made before the first layer, and a head "
                "only the hidden states."
            )
        for needed in node.input_tensors:
            _replay(needed, known)
        arguments, options = node.arguments.fill_in(known)
        made = keras.tree.flatten(node.operation(*arguments, **options))
        known.update(zip(map(id, node.output_tensors), made))
    return known[id(tensor)]


def _calls(end, layers, family):
    """The calls of `layers` that lead to the tensor `end`, in order."""
    ids = set(map(id, layers))
    calls, node = [], node_of(end)
    while not node.is_input and id(node.operation) not in ids:
        node = node_of(node.input_tensors[0])
    while id(node.operation) in ids:
        calls.insert(0, node)
        node = node_of(_hidden(node))
    single = all(len(call.output_tensors) == 1 for call in calls)
    if {id(call.operation) for call in calls} != ids or not single:
        what = f"its {len(layers)} layers are not applied directly one after the other"
        raise _not_supported(family, what)
    return calls


def _not_supported(family, why):
    supported = ", ".join(f"{name}Backbone" for name in FAMILIES)
    return ValueError(
        f"KerasHub's {family} is not supported: {why}. Supported are, among others: {supported}."
    )


def _hidden(call):
    """The hidden states among the inputs of a call: they have the shape of its output."""
    shape = tuple(call.output_tensors[0].shape)
    alike = [tensor for tensor in call.input_tensors if tuple(tensor.shape) == shape]
    return (alike or call.input_tensors)[0]
