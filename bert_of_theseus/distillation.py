"""Losses from the predecessor: beside the task's, and that of the warm start.

- `LogitsDistillation` compares the outputs of a model with those of a frozen teacher.
- `HiddenDistillation` compares the outputs of two modules.

Both return one of their inputs unchanged and add a loss in training. `distil`, the argument
`hidden_loss_weight` of `build_theseus_model` and `build_warm_start_model` wire them.
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
from .distribution import LossesPerReplica
from .validation import number
from .wrappers import Frozen

# Smaller probabilities are raised to this: their logarithm and its gradient stay finite.
_SMALLEST = 1e-7


def squared_difference(target, output, mask):
    """The mean squared difference of two tensors at the positions that `mask` keeps."""
    target, output = (ops.cast(x, "float32") for x in (target, output))
    return _mean(reduce_sum(ops.square(output - target), -1) / target.shape[-1], mask)


def _mean(values, mask):
    """The mean of `values` at the positions that `mask` keeps, at all if it is `None`."""
    weights = ops.ones_like(values) if mask is None else ops.cast(mask, values.dtype)
    return reduce_sum(values * weights) / ops.maximum(reduce_sum(weights), 1.0)


class _Term(LossesPerReplica, keras.layers.Layer):
    """Base of both: takes a list of tensors and returns one of them unchanged."""

    returned = 0  # its index

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else mask[self.returned]

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[self.returned])


@register
class LogitsDistillation(_Term, Frozen):
    """Adds a distillation loss between a classifier's outputs and those of a frozen teacher.

    In training the teacher runs on the model's inputs, without dropout and without gradients, and
    the layer adds

        weight * temperature**2 * mean(KL(teacher || student)),

    both distributions at the temperature, `softmax(logits / temperature)`; for probabilities
    `softmax(log(probabilities) / temperature)`, which is the same. The mean is over the batch and
    the positions that are not padding. At inference the teacher does not run.

    Args:
        teacher: Keras model or layer, from the model's inputs to outputs of the same shape.
        temperature: Number above 0. Defaults to `2.0`.
        weight: Number of at least 0. With 0 there is no loss, and the teacher does not run.
            Defaults to `1.0`.
        from_logits: Boolean. Whether the outputs of both are logits rather than probabilities.
            Defaults to `False`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: List: the model's outputs, `(batch_size, ..., classes)`, then its inputs.
        padding_mask: Tensor, `(batch_size, ...)`, 1 for what counts and 0 for padding. Defaults to
            `None`, the Keras mask of the model's outputs, if they have one.
        training: Boolean, whether to add the loss.

    Returns:
        The model's outputs.

    Raises:
        ValueError: if there are fewer than two classes, or the teacher's outputs have another
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

    def call(self, inputs, padding_mask=None, training=None):
        outputs, *inputs = inputs
        if training and self.weight:
            taught = super().call(inputs[0] if len(inputs) == 1 else inputs, training)
            taught = self._log_probabilities(ops.stop_gradient(taught))
            student = self._log_probabilities(outputs)
            divergence = reduce_sum(ops.exp(taught) * (taught - student), -1)
            mask = get_mask(outputs) if padding_mask is None else padding_mask
            self.add_loss(self.weight * self.temperature**2 * _mean(divergence, mask))
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
    """Adds the mean squared difference between the outputs of two modules.

    The mean is over the positions that are not padding. No gradient reaches the predecessor's
    output.

    Args:
        weight: Number of at least 0, a factor of the loss. Defaults to `1.0`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: List of two tensors, `(batch_size, ..., hidden_size)`: the predecessor's output
            and the successor's.
        padding_mask: Tensor, `(batch_size, ...)`, 1 for what counts and 0 for padding. Defaults to
            `None`, the Keras mask of the successor's output, if it has one.
        training: Boolean, whether to add the loss.

    Returns:
        The successor's output.
    """

    returned = 1

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.weight = number("weight", weight)

    def call(self, inputs, padding_mask=None, training=None):
        predecessor, successor = inputs
        if training and self.weight:
            target = ops.stop_gradient(predecessor)
            mask = get_mask(successor) if padding_mask is None else padding_mask
            loss = squared_difference(target, successor, mask)
            self.add_loss(self.weight * loss)
        return identity(successor)

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}
