"""The method's layers: a random choice between predecessor and successor.

- `BinaryRandomChoice` chooses one of two tensors, both computed.
- `ModuleChoice` chooses one of two modules and runs that one alone.
"""

import numpy as np

from .backend import (
    KERAS_NAME,
    add_state,
    build_layer,
    call_layer,
    frozen,
    get_mask,
    identity,
    keras,
    ops,
    output_shape,
    quiet_about_masks,
    register,
    set_mask,
    to_numpy,
)
from .conditional import choose_call
from .distribution import add_draw_state, uniform
from .validation import integer, number, one_of

GATES = ("bernoulli", "uniform", "blend")
SAMPLINGS = ("batch", "replica", "example")


class _Choice(keras.layers.Layer):
    """Base of both choice layers: the live rate and the seeded draws."""

    samplings = SAMPLINGS
    needs_equal_rates = False

    def __init__(self, replacement_rate=0.5, seed=None, sampling="batch", **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.sampling = one_of("sampling", sampling, self.samplings)
        self.seed = integer("seed", seed, optional=True)
        self._initial_rate = valid_rate(replacement_rate)
        self.replacement_rate = add_state(
            self, "replacement_rate", np.asarray(self._initial_rate, "float32"), "float32"
        )
        self.draw_state = add_draw_state(self, self.seed)

    def call(self, inputs, training=None):
        return self._choose(inputs, training)[0]

    def _choose(self, inputs, training, replaced_below=None):
        """The output, and whether it is the successor's (`None` for a mixture of both).

        `replaced_below` says whether a module below was replaced in this batch; `None`: unknown.
        """
        raise NotImplementedError

    def _draw(self, replaced_below, shape=()):
        """Boolean tensor of `shape`: whether the successor is chosen."""
        return uniform(self.draw_state, shape, self.sampling) < self._chance(replaced_below)

    def _chance(self, replaced_below):
        return ops.convert_to_tensor(self.replacement_rate)

    def _common_shape(self, predecessor, successor):
        return common_shape(f"{type(self).__name__} ('{self.name}')", predecessor, successor)

    def get_config(self):
        config = super().get_config()
        config.update(
            # The current rate: a schedule may have changed it.
            replacement_rate=_read_scalar(self.replacement_rate, self._initial_rate),
            seed=self.seed,
            sampling=self.sampling,
        )
        return config


@register
class BinaryRandomChoice(_Choice):
    """Chooses one of two tensors at random in training; returns the second at inference.

    The tensors are the outputs of a predecessor module and of its successor, as a rule for the same
    input.
    The output is `e * predecessor + (1 - e) * successor`, with e drawn once per batch: 0, the
    successor, with probability `replacement_rate`, otherwise 1. Where e is 0 or 1 it is exactly
    one of the two: NaN in the other reaches neither the output nor its gradients.

    The rate is the scalar weight `layer.replacement_rate`. `set_replacement_rate` changes it at
    any time: compiled training steps follow, and a saved model keeps it. The number of draws is a
    weight too, so a restored model continues the same sequence of draws.

    Args:
        replacement_rate: Float in [0, 1]. Probability that the successor's tensor is chosen in
            training. Defaults to `0.5`.
        seed: Integer. Layers with different seeds draw independently. Defaults to `None`, a seed
            from Python's generator, which `keras.utils.set_random_seed` seeds.
        gate: The law of e for a rate r. `"bernoulli"`: as above. `"uniform"`: 1 - e is
            `u ** ((1 - r) / r)`, of mean r, with u uniform in [0, 1). `"blend"`: 1 - e is r, and
            nothing is drawn. Defaults to `"bernoulli"`.
        sampling: `"batch"`, one draw for the whole batch, on all devices; `"replica"`, one for
            each replica of `tf.distribute`; or `"example"`, one for each example. Defaults to
            `"batch"`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: List of two tensors of equal shape, the predecessor's first.
        training: Boolean, whether to draw.

    Returns:
        A tensor of the same shape. If both inputs have masks, a position counts if it counts in
        both.

    Example:

    >>> x = BinaryRandomChoice(replacement_rate=0.5)([predecessor_output, successor_output])

    References:
        - [BERT-of-Theseus: Compressing BERT by Progressive Module Replacing](
          https://arxiv.org/abs/2002.02925) (Xu et al., 2020), section 3.1
    """

    def __init__(
        self, replacement_rate=0.5, seed=None, gate="bernoulli", sampling="batch", **kwargs
    ):
        super().__init__(replacement_rate=replacement_rate, seed=seed, sampling=sampling, **kwargs)
        self.gate = one_of("gate", gate, GATES)

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self._checked(inputs), *args, **kwargs)

    def build(self, input_shape):
        self._common_shape(*self._checked(input_shape))
        self.built = True

    def _choose(self, inputs, training, replaced_below=None):
        predecessor, successor = inputs
        self._common_shape(predecessor.shape, successor.shape)
        if not training:
            return identity(successor), True
        shape = ()
        if self.sampling == "example":
            shape = (ops.shape(successor)[0], *[1] * (len(successor.shape) - 1))
        if self.gate == "bernoulli":
            chosen = self._draw(replaced_below, shape)
            return ops.where(chosen, successor, predecessor), chosen
        share = ops.convert_to_tensor(self.replacement_rate)  # 1 - e
        if self.gate == "uniform":
            share = uniform(self.draw_state, shape, self.sampling) ** ((1.0 - share) / share)
        mixed = (
            ops.cast(1.0 - share, predecessor.dtype) * predecessor
            + ops.cast(share, successor.dtype) * successor
        )
        # Not the sum where a share is 0: 0 times infinity is not 0.
        output = ops.where(share == 0.0, predecessor, mixed)
        return ops.where(share == 1.0, successor, output), None

    def compute_mask(self, inputs, mask=None):
        masks = [m for m in (mask or []) if m is not None]
        if len(masks) == 2 and masks[0] is not masks[1]:
            return ops.logical_and(*masks)
        return masks[0] if masks else None

    def compute_output_shape(self, input_shape):
        return self._common_shape(*self._checked(input_shape))

    def get_config(self):
        return {**super().get_config(), "gate": self.gate}

    def _checked(self, pair):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            received = f"{len(pair)} of them" if isinstance(pair, (list, tuple)) else pair
            raise ValueError(
                f"{type(self).__name__} ('{self.name}') takes a list of two tensors, "
                f"[predecessor_output, successor_output]. Received: {received}"
            )
        return pair


@register
class ModuleChoice(_Choice):
    """Chooses one of two modules at random in training and runs that one alone.

    The same as `BinaryRandomChoice` on the outputs of both modules, but the module that is not
    chosen costs neither a forward nor a backward pass. At inference the successor runs.

    The predecessor is frozen in this layer, whatever its `trainable` flags say to other models:
    its weights and the statistics of batch normalization are never updated.

    The layers may not add losses (`add_loss`, `activity_regularizer`), since they run inside a
    conditional. For whole-model HDF5 files in Keras 2 the layers of both modules need different
    names (bert4keras' `prefix`).

    Args:
        predecessor_layers: Layer, model, or list of layers applied in order.
        successor_layers: Layer, model, or list of layers applied in order. Must map the same
            input to an output of the same shape.
        replacement_rate, seed: As in `BinaryRandomChoice`.
        predecessor_dropout: Boolean. Whether the predecessor's dropout is active in training, as
            in the original code. Defaults to `True`.
        sampling: `"batch"` or `"replica"`, as in `BinaryRandomChoice`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: Tensor, `(batch_size, sequence_length, hidden_size)` for an encoder; or a list of
            it and what else both modules take, such as an attention bias.
        training: Boolean, whether to draw.

    Returns:
        The output of the chosen module, with the mask of the (first) input.

    Example:

    >>> x = ModuleChoice(predecessor_layers[0:4], successor_layers[0])(x)
    """

    samplings = SAMPLINGS[:2]

    def __init__(
        self,
        predecessor_layers,
        successor_layers,
        replacement_rate=0.5,
        seed=None,
        predecessor_dropout=True,
        sampling="batch",
        **kwargs,
    ):
        super().__init__(replacement_rate=replacement_rate, seed=seed, sampling=sampling, **kwargs)
        self.predecessor_layers = as_layers(predecessor_layers, "predecessor_layers")
        self.successor_layers = as_layers(successor_layers, "successor_layers")
        self.predecessor_dropout = predecessor_dropout

    @property
    def metrics(self):
        # A model inside may be compiled, and Keras 3 would report its loss for the outer model's.
        return []

    def build(self, input_shape):
        # All weights must be there before the choice: a branch may not create any.
        outputs = []
        for layers in (self.predecessor_layers, self.successor_layers):
            shape = input_shape
            for layer in layers:
                build_layer(layer, shape)
                shape = output_shape(layer, shape)
            outputs.append(shape)
        self._common_shape(*outputs)
        self.built = True

    def _choose(self, inputs, training, replaced_below=None):
        several = isinstance(inputs, (list, tuple))
        x, context = (inputs[0], list(inputs[1:])) if several else (inputs, [])
        mask = get_mask(x)

        def run(layers, x, training):
            y = [x, *context] if several else x
            set_mask(x, mask)
            for layer in layers:
                y = call_layer(layer, y, training)
            return ops.cast(y, self.compute_dtype)

        def successor(x):
            return run(self.successor_layers, x, training)

        def predecessor(x):
            with frozen(self.predecessor_layers):
                return run(self.predecessor_layers, x, bool(training) and self.predecessor_dropout)

        if not training:
            return successor(x), True
        chosen = self._draw(replaced_below)
        # Without a successor below, nothing needs the gradient of the input.
        wants_gradient = True if replaced_below is None else replaced_below
        layers = (self.successor_layers, self.predecessor_layers)
        return choose_call(chosen, successor, predecessor, x, wants_gradient, layers), chosen

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_shape(self, input_shape):
        shape = input_shape
        for layer in self.successor_layers:
            shape = output_shape(layer, shape)
        return tuple(shape)

    def get_config(self):
        config = super().get_config()
        for side in ("predecessor_layers", "successor_layers"):
            layers = getattr(self, side)
            config[side] = [keras.saving.serialize_keras_object(layer) for layer in layers]
        config["predecessor_dropout"] = self.predecessor_dropout
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for side in ("predecessor_layers", "successor_layers"):
            config[side] = [
                keras.layers.deserialize(layer, custom_objects=custom_objects)
                for layer in config[side]
            ]
        return cls(**config)


def has_choices(model) -> bool:
    """Whether there is a choice layer in `model`, as `choice_layers` finds them."""
    return bool(_choices(model))


def choice_layers(model) -> list:
    """The choice layers of `model`, a model, a layer or a list of layers, in the model's order."""
    choices = _choices(model)
    if not choices:
        raise ValueError(
            "There is no BinaryRandomChoice or ModuleChoice in this model, so it has no "
            f"replacement rate. Received: {model!r}"
        )
    return choices


def _choices(model):
    layers = model._flatten_layers() if isinstance(model, keras.layers.Layer) else model
    return [layer for layer in layers if isinstance(layer, _Choice)]


def set_replacement_rate(model, rate) -> None:
    """Sets the replacement rate of all choices in `model`. Compiled training steps follow.

    Args:
        model: A Theseus model, a choice layer, or a list of layers.
        rate: Float in [0, 1], the probability that the successor is used; or a list of floats,
            one per choice, in the model's order.

    Raises:
        ValueError: if the number of rates is not that of the choices, or if a model with
            `at_least_one` is given a list: it draws with equal rates only.
    """
    choices = choice_layers(model)
    rates = rate_per_choice(rate, len(choices), any(c.needs_equal_rates for c in choices))
    for choice, value in zip(choices, rates):
        choice.replacement_rate.assign(value)


def rate_per_choice(rate, count: int, equal: bool = False) -> list[float]:
    """A list of `count` rates of `rate`, one or a list; `equal` ones may not come as a list."""
    one_each = isinstance(rate, (list, tuple, np.ndarray))
    rates = list(rate) if one_each else [rate] * count
    if len(rates) != count:
        raise ValueError(
            f"The model has {count} choices, and {len(rates)} rates were given: {rates!r}"
        )
    if one_each and equal:
        raise ValueError(
            "`at_least_one` needs one rate for all modules and does not go with a rate per "
            f"module. Received: {rates!r}"
        )
    return [valid_rate(value) for value in rates]


def get_replacement_rate(model) -> float:
    """The mean replacement rate of the choices in `model`, in [0, 1]."""
    rates = [to_numpy(choice.replacement_rate) for choice in choice_layers(model)]
    return float(np.mean([float(rate) for rate in rates]))


def common_shape(name: str, predecessor, successor) -> tuple:
    """The shape of two outputs, as far as either is known. Raises if they differ."""
    predecessor, successor = tuple(predecessor), tuple(successor)
    if len(predecessor) != len(successor) or any(
        None not in sizes and sizes[0] != sizes[1] for sizes in zip(predecessor, successor)
    ):
        raise ValueError(
            f"{name} needs two outputs of one shape. Received: predecessor {predecessor}, "
            f"successor {successor}"
        )
    return tuple(b if a is None else a for a, b in zip(predecessor, successor))


def as_layers(layers, name: str) -> list:
    """`layers`, a layer or a list of them, as a list. Raises a `TypeError` for anything else."""
    layers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    if not layers or not all(isinstance(layer, keras.layers.Layer) for layer in layers):
        raise TypeError(
            f"`{name}` must be a layer, a model, or a non-empty list of them, of the Keras in use "
            f"({KERAS_NAME}). Received: {layers!r}"
        )
    return [quiet_about_masks(layer) for layer in layers]


def valid_rate(rate):
    meaning = "the probability that the successor is used"
    return number("replacement_rate", rate, "[0, 1]", meaning)


def _read_scalar(weight, otherwise):
    try:
        # float32 holds no 0.1: the shortest decimal that rounds to it is what was meant.
        return float(str(np.float32(to_numpy(weight))))
    except (AttributeError, TypeError, ValueError):  # while being traced
        return otherwise
