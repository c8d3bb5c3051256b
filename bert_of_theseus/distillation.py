"""Losses beside the task's, which the method does without: what a teacher would have said.

- `LogitsDistillation` compares the outputs of a model with those of a frozen teacher.
- `HiddenDistillation` compares what two modules make of the same input.

Both pass their tensor on unchanged, and compare in training alone. `distil` and the argument
`hidden_loss_weight` of `build_theseus_model` wire them.
"""

from .backend import (
    get_mask,
    identity,
    keras,
    log,
    log_softmax,
    ops,
    output_shape,
    reduce_sum,
    register,
)
from .validation import number
from .wrappers import Frozen

# Below it a probability counts as this one: its logarithm and the gradient of it stay finite.
_SMALLEST = 1e-7


def _mean(values, mask):
    """The mean of `values`, of those that `mask` keeps if there is one."""
    weights = ops.ones_like(values) if mask is None else ops.cast(mask, values.dtype)
    return reduce_sum(values * weights) / ops.maximum(reduce_sum(weights), 1.0)


class _Term(keras.layers.Layer):
    """What both have in common: a list of tensors goes in, one of them comes out, as it is."""

    _passed = 0  # which

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else mask[self._passed]

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[self._passed])


@register
class LogitsDistillation(_Term, Frozen):
    """Adds the loss of distillation from a frozen teacher to a classifier's outputs.

    The outputs pass unchanged. In training the teacher is run on the model's inputs, without
    dropout and without a gradient, and the layer adds, after Hinton et al.,

        weight * temperature**2 * mean(KL(teacher || student)),

    both distributions at the temperature: `softmax(logits / temperature)`. Probabilities will do
    as well as logits, since `softmax(log(probabilities) / temperature)` is the same. The mean is
    over the batch and, where outputs have more dimensions, the positions that their mask keeps.
    At inference the teacher is not run.

    Args:
        teacher: Keras model or layer, from the model's inputs to outputs like the model's.
        temperature: Number above 0. Defaults to `2.0`.
        weight: Number of at least 0; with 0 there is no term, and the teacher is not run.
            Defaults to `1.0`.
        from_logits: Boolean. Whether outputs are logits, of model and teacher; if not, they are
            probabilities. Defaults to `False`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: List: the model's outputs, `(batch_size, ..., classes)`, then its inputs.
        training: Boolean, whether to add the loss.

    Returns:
        The model's outputs.

    Raises:
        ValueError: if there are less than two classes, or the teacher's outputs have another
            shape.

    Example:

    >>> outputs = LogitsDistillation(teacher, temperature=4.0)([outputs, *inputs])

    References:
        - [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531)
          (Hinton et al., 2015), section 2
    """

    def __init__(self, teacher, temperature=2.0, weight=1.0, from_logits=False, **kwargs):
        super().__init__(teacher, dropout=False, **kwargs)
        self.temperature = number("temperature", temperature, "(0, inf)")
        self.weight = number("weight", weight)
        self.from_logits = from_logits

    @property
    def teacher(self):
        return self.layer

    def build(self, input_shape):
        outputs, *inputs = input_shape
        inputs = inputs[0] if len(inputs) == 1 else inputs
        super().build(inputs)
        taught = output_shape(self.teacher, inputs)
        if outputs[-1] == 1 or tuple(taught)[1:] != tuple(outputs)[1:]:
            raise ValueError(
                "Distillation compares distributions over two classes or more: outputs of the "
                "model and of the teacher of one shape, (batch_size, ..., classes). Received: "
                f"{tuple(outputs)} of the model, {tuple(taught)} of the teacher"
            )

    def call(self, inputs, training=None):
        outputs, *inputs = inputs
        if training and self.weight:
            taught = super().call(inputs[0] if len(inputs) == 1 else inputs, training)
            taught = self._log_probabilities(ops.stop_gradient(taught))
            student = self._log_probabilities(outputs)
            divergence = reduce_sum(ops.exp(taught) * (taught - student), -1)
            self.add_loss(self.weight * self.temperature**2 * _mean(divergence, get_mask(outputs)))
        return identity(outputs)

    def _log_probabilities(self, outputs):
        outputs = ops.cast(outputs, "float32")
        logits = outputs if self.from_logits else log(ops.maximum(outputs, _SMALLEST))
        return log_softmax(logits / self.temperature)

    def get_config(self):
        config = super().get_config()
        del config["dropout"]
        config.update(
            temperature=self.temperature, weight=self.weight, from_logits=self.from_logits
        )
        return config


@register
class HiddenDistillation(_Term):
    """Adds the distance of a successor module's output from the predecessor module's.

    The successor's tensor passes unchanged. In training the layer adds `weight` times the mean
    squared difference of the two, over the positions that the mask keeps; no gradient goes to
    the predecessor's.

    Args:
        weight: Number of at least 0. Defaults to `1.0`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: List of two tensors of one shape, `(batch_size, ..., hidden_size)`: the
            predecessor's and the successor's, of the same input.
        training: Boolean, whether to add the loss.

    Returns:
        The successor's tensor.
    """

    _passed = 1

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.weight = number("weight", weight)

    def call(self, inputs, training=None):
        predecessor, successor = inputs
        if training and self.weight:
            target = ops.cast(ops.stop_gradient(predecessor), "float32")
            squares = ops.square(ops.cast(successor, "float32") - target)
            count = successor.shape[-1]
            self.add_loss(self.weight * _mean(reduce_sum(squares, -1) / count, get_mask(successor)))
        return identity(successor)

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}
