"""The choice between predecessor and successor: after the work is done, or before it.

- `BinaryRandomChoice` picks one of two tensors that are both there.
- `ModuleChoice` picks one of two modules and runs that one alone.
- `Frozen` runs a layer of the predecessor without ever training it.
- `Masked` keeps padding from a layer that knows no masks.
"""

import numbers
import random
import re
import warnings

import numpy as np

from .backend import (
    SEED_DTYPE,
    add_state,
    build_layer,
    call_layer,
    choose_call,
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
    uniform,
)


def _valid_rate(rate):
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise TypeError(
            "`replacement_rate` must be a number in [0, 1], the probability that the successor "
            f"is used. Received: {rate!r} (of type {type(rate).__name__})"
        )
    if not 0 <= rate <= 1:  # NaN fails it too
        raise ValueError(
            "`replacement_rate` must be in [0, 1], the probability that the successor is used. "
            f"Received: {rate!r}"
        )
    return float(rate)


def one_of(argument, value, valid):
    if value not in valid:
        raise ValueError(f"`{argument}` must be one of {valid}. Received: {value!r}")
    return value


class _Choice(keras.layers.Layer):
    """What both choices share: the live rate, the seeded draw, and word of what was drawn below."""

    def __init__(
        self,
        replacement_rate=0.5,
        seed=None,
        sampling="batch",
        modules_left=None,
        return_replaced=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sampling = one_of("sampling", sampling, self._samplings)
        initial_rate = _valid_rate(replacement_rate)
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, numbers.Integral)):
            raise TypeError(f"`seed` must be an integer or None. Received: {seed!r}")
        if modules_left is not None and not (
            isinstance(modules_left, numbers.Integral) and modules_left >= 1
        ):
            raise ValueError(
                "`modules_left` must be None or a positive integer, the number of modules still "
                f"to be drawn, this one included. Received: {modules_left!r}"
            )
        self.supports_masking = True
        self.seed = None if seed is None else int(seed)
        self.modules_left = modules_left
        self.return_replaced = return_replaced
        # Hashed, so that layers with seeds 0, 1, 2, ... do not draw shifts of one sequence; from
        # Python's generator if not given, so `keras.utils.set_random_seed` governs it.
        entropy = random.getrandbits(31) if seed is None else abs(self.seed) * 2 + (self.seed < 0)
        start = np.random.SeedSequence(entropy).generate_state(1)[0] & 0x3FFFFFFF
        self.replacement_rate = add_state(
            self, "replacement_rate", np.asarray(initial_rate, "float32"), "float32"
        )
        self.draw_state = add_state(self, "draw_state", np.asarray([start, 0]), SEED_DTYPE)
        self._initial_rate = initial_rate

    def _draw(self, replaced_below, shape=()):
        """Boolean: is the successor used in this batch? Or several of them, of `shape`."""
        rate = ops.convert_to_tensor(self.replacement_rate)
        if self.modules_left is not None:
            # Given that nothing below was replaced, the chance of this module among those that
            # are left, at equal rates, once the draws that replace nothing are drawn again:
            # rate / (1 - (1 - rate)**modules_left), by its geometric series, which is finite
            # at rate 0 and does not cancel near it.
            series = 1.0
            for _ in range(self.modules_left - 1):
                series = 1.0 + (1.0 - rate) * series
            redrawn = ops.cast(1.0 / series, "float32")
            rate = ops.where(_as_bool(replaced_below), rate, redrawn)
        return uniform(self.draw_state, shape, self.sampling) < rate

    def _result(self, output, chosen, replaced_below):
        if not self.return_replaced:
            return output
        return output, ops.logical_or(chosen, _as_bool(replaced_below))

    def _merge_shapes(self, predecessor, successor):
        """The shape that two outputs share, as far as either knows it."""
        predecessor, successor = tuple(predecessor), tuple(successor)
        pairs = list(zip(predecessor, successor))
        if len(predecessor) != len(successor) or any(
            a is not None and b is not None and a != b for a, b in pairs
        ):
            raise ValueError(
                f"{type(self).__name__} ('{self.name}') needs two {self._chosen_of} of one shape. "
                f"Received: predecessor {predecessor}, successor {successor}"
            )
        return tuple(b if a is None else a for a, b in pairs)

    def _output_structure(self, first, replaced):
        return (first, replaced) if self.return_replaced else first

    def get_config(self):
        config = super().get_config()
        config.update(
            # The rate of now, not of then: a schedule may have moved it.
            replacement_rate=_read_scalar(self.replacement_rate, self._initial_rate),
            seed=self.seed,
            sampling=self.sampling,
            modules_left=self.modules_left,
            return_replaced=self.return_replaced,
        )
        return config


def _as_bool(value):
    return ops.convert_to_tensor(bool(value) if value is None else value, dtype="bool")


def _read_scalar(weight, otherwise):
    try:
        # float32 holds no 0.1: the shortest decimal that rounds to it is what was meant.
        return float(str(np.float32(to_numpy(weight))))
    except (AttributeError, TypeError, ValueError):  # while being traced
        return otherwise


GATES = ("bernoulli", "uniform", "blend")
SAMPLINGS = ("batch", "replica", "example")


def whole_modules(gate, sampling):
    """Whether a replica that runs one of two modules runs it on all of its examples."""
    return gate == "bernoulli" and sampling != "example"


@register
class BinaryRandomChoice(_Choice):
    """Picks one of two tensors at random in training; passes the second through at inference.

    The two tensors are what a predecessor module and the successor module in its place make of
    the same input. In training one draw per batch decides for the whole batch: with probability
    `replacement_rate` the successor's tensor is the output, otherwise the predecessor's. At
    inference the output is the successor's tensor itself, whatever the rate.

    The output is one of the two exactly, not a sum weighted by 0 and 1, so NaN or infinity in
    the tensor that is not picked reaches neither the output nor the gradients of the one that is.

    With e for the predecessor's part, that is `e * predecessor + (1 - e) * successor` where e is
    0 or 1. The article that the original code came with asks whether e may be any number in
    [0, 1], and whether it may simply go from 1 to 0. The other gates do that; for a rate r,

    - `"bernoulli"`: e is 0 with probability r, otherwise 1.
    - `"uniform"`: 1 - e is `u ** ((1 - r) / r)`, u uniform in [0, 1). Its mean is r, since that
      of `u ** k` is `1 / (k + 1)`; at r = 0.5 e is uniform in (0, 1], at r = 0 it is 1, at r = 1
      it is 0.
    - `"blend"`: 1 - e is r, and nothing is drawn. With a schedule from 0 to 1, e goes from 1 to 0.

    Where e is 0 or 1 the output is one of the two exactly with any gate.

    The rate lives in `layer.replacement_rate`, a scalar weight that no optimizer trains. Assign
    to it, or use `set_replacement_rate`, at any time: a step that is already compiled follows,
    and a saved model keeps it. The draws are seeded, and their count is a weight too: a restored
    model goes on where it was.

    Args:
        replacement_rate: Float in [0, 1]. Probability that the successor's tensor is used in
            training. Defaults to `0.5`.
        seed: Integer. Layers of different seeds draw independently. Defaults to `None`, a seed
            from Python's generator, which `keras.utils.set_random_seed` governs.
        gate: `"bernoulli"`, `"uniform"` or `"blend"`, the law of e. Defaults to `"bernoulli"`.
        sampling: `"batch"`, one draw for the whole batch, on however many devices it is;
            `"replica"`, one for each part of it that a replica of `tf.distribute` computes, the
            same as `"batch"` on one device and refused where one program spans several (Keras'
            own distribution on JAX); or `"example"`, one for each index of the first dimension.
            Defaults to `"batch"`.
        modules_left: Integer, or `None`. If given, a batch in which none of the modules below
            was replaced is drawn as one of those that replace something among the
            `modules_left` modules from this one up (see `at_least_one` of
            `build_theseus_model`). Defaults to `None`, independent draws.
        return_replaced: Boolean. Whether to return, after the output, a scalar boolean tensor:
            whether this module or one below it was replaced. Like `modules_left` it needs a
            whole module, so `gate="bernoulli"` and no `sampling="example"`. Defaults to `False`.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: List of two tensors of equal shape, the predecessor's first.
        replaced_below: Scalar boolean tensor: whether a module below was replaced in this batch.
            Only read with `modules_left` or `return_replaced`. Defaults to `None`, no.
        training: Boolean, whether to draw.

    Returns:
        A tensor of the shape of either input. Its mask is the mask that the inputs share; where
        both carry one, a position counts if it counts in both.

    Raises:
        TypeError, ValueError: if the rate is not a number in [0, 1], the options do not exist or
            go together, the inputs are not two, or their shapes cannot agree.

    Example:

    >>> choice = BinaryRandomChoice(replacement_rate=0.5, seed=0)
    >>> x = choice([predecessor_output, successor_output])

    References:
        - [BERT-of-Theseus: Compressing BERT by Progressive Module Replacing](
          https://arxiv.org/abs/2002.02925) (Xu et al., 2020), section 3.1
    """

    _chosen_of = "tensors"
    _samplings = SAMPLINGS

    def __init__(
        self, replacement_rate=0.5, seed=None, gate="bernoulli", sampling="batch", **kwargs
    ):
        super().__init__(replacement_rate=replacement_rate, seed=seed, sampling=sampling, **kwargs)
        self.gate = one_of("gate", gate, GATES)
        if not whole_modules(gate, sampling) and (
            self.modules_left is not None or self.return_replaced
        ):
            raise ValueError(
                "`modules_left` and `return_replaced` are about modules that are replaced as a "
                'whole, with gate="bernoulli" and sampling="batch" or "replica". Received: '
                f"gate={gate!r}, sampling={sampling!r}"
            )

    def _check(self, inputs):
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            received = f"{len(inputs)} of them" if isinstance(inputs, (list, tuple)) else inputs
            raise ValueError(
                f"{type(self).__name__} ('{self.name}') takes a list of two tensors, "
                f"[predecessor_output, successor_output]. Received: {received}"
            )
        return inputs

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self._check(inputs), *args, **kwargs)

    def build(self, input_shape):
        self._merge_shapes(*self._check(input_shape))
        self.built = True

    def call(self, inputs, replaced_below=None, training=None):
        predecessor, successor = inputs
        self._merge_shapes(predecessor.shape, successor.shape)
        if not training:
            return self._result(identity(successor), True, replaced_below)
        shape = ()
        if self.sampling == "example":
            shape = (ops.shape(successor)[0], *[1] * (len(successor.shape) - 1))
        if self.gate == "bernoulli":
            chosen = self._draw(replaced_below, shape)
            output = ops.where(chosen, successor, predecessor)
            return self._result(output, chosen, replaced_below)
        share = ops.convert_to_tensor(self.replacement_rate)  # 1 - e
        if self.gate == "uniform":
            share = uniform(self.draw_state, shape, self.sampling) ** ((1.0 - share) / share)
        own, theirs = ops.cast(share, successor.dtype), ops.cast(1.0 - share, predecessor.dtype)
        # Not the sum where one of them is 0: 0 times infinity is not 0.
        output = ops.where(share == 0.0, predecessor, theirs * predecessor + own * successor)
        return ops.where(share == 1.0, successor, output)

    def compute_mask(self, inputs, mask=None):
        masks = [m for m in (mask or []) if m is not None]
        first = masks[0] if masks else None
        if len(masks) == 2 and masks[0] is not masks[1]:
            first = ops.logical_and(*masks)
        return self._output_structure(first, None)

    def compute_output_shape(self, input_shape):
        return self._output_structure(self._merge_shapes(*self._check(input_shape)), ())

    def get_config(self):
        return {**super().get_config(), "gate": self.gate}


def _as_layers(layers, name):
    layers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    if not layers or not all(isinstance(layer, keras.layers.Layer) for layer in layers):
        raise TypeError(
            f"`{name}` must be a layer, a model, or a non-empty list of them, of the Keras in use "
            f"({keras.__name__} {keras.__version__}). Received: {layers!r}"
        )
    return [quiet_about_masks(layer) for layer in layers]


def _run(layers, inputs, mask, training):
    """Applies `layers` in order to `inputs`, a tensor or a list whose first tensor has `mask`."""
    set_mask(inputs[0] if isinstance(inputs, list) else inputs, mask)
    for layer in layers:
        inputs = call_layer(layer, inputs, training)
    return inputs


@register
class ModuleChoice(_Choice):
    """Picks one of two modules at random in training and runs that one alone.

    The same choice as `BinaryRandomChoice` on both outputs, made before the work is done: the
    module that is not picked costs neither a forward nor a backward pass. At inference the
    successor runs.

    The predecessor is frozen here, whatever its `trainable` flags say to other models: it is
    never updated (batch normalisation keeps its statistics too), and no gradient of its weights
    is computed. A gradient passes through it to what lies below only in batches that train
    something there, see `replaced_below`.

    The layers inside may not add losses of their own (`add_loss`, `activity_regularizer`), since
    they run inside a conditional; `BinaryRandomChoice` on both outputs has no such limit. In
    Keras 2, layers of both sides need different names for whole-model HDF5 files (bert4keras'
    `prefix`); `.keras` files do not care.

    Args:
        predecessor_layers: Layer, model, or list of layers applied in order.
        successor_layers: Likewise; must make a tensor of the same shape of the same input.
        replacement_rate: Float in [0, 1]. Probability that the successor runs in training.
            Defaults to `0.5`.
        seed: As in `BinaryRandomChoice`.
        predecessor_dropout: Boolean. Whether the predecessor's dropout is on in training, as in
            the original code. Off makes it deterministic and a little cheaper. Defaults to
            `True`.
        sampling: `"batch"` or `"replica"`, as in `BinaryRandomChoice`.
        modules_left: As in `BinaryRandomChoice`.
        return_replaced: As in `BinaryRandomChoice`.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: Tensor, `(batch_size, sequence_length, hidden_size)` for an encoder; or a list of
            it and what else both modules take, such as an attention bias.
        replaced_below: Boolean or scalar boolean tensor: whether a module below was replaced in
            this batch. Where not, no gradient is passed below the predecessor. Defaults to
            `None`: not known, so gradients pass.
        training: Boolean, whether to draw.

    Returns:
        A tensor of the shape and the mask of the (first) input's module.

    Example:

    >>> choice = ModuleChoice(predecessor_layers[0:4], successor_layers[0], seed=0)
    >>> x = choice(x)

    References:
        - [BERT-of-Theseus](https://arxiv.org/abs/2002.02925) (Xu et al., 2020), section 3.1
    """

    _chosen_of = "modules with outputs"
    _samplings = SAMPLINGS[:2]

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
        self.predecessor_layers = _as_layers(predecessor_layers, "predecessor_layers")
        self.successor_layers = _as_layers(successor_layers, "successor_layers")
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
                if not layer.built:
                    build_layer(layer, shape)
                shape = output_shape(layer, shape)
            outputs.append(shape)
        self._merge_shapes(*outputs)
        self.built = True

    def call(self, inputs, replaced_below=None, training=None):
        several = isinstance(inputs, (list, tuple))
        x, rest = (inputs[0], list(inputs[1:])) if several else (inputs, [])
        mask = get_mask(x)

        def successor(x):
            y = _run(self.successor_layers, [x, *rest] if several else x, mask, training)
            return ops.cast(y, self.compute_dtype)

        def predecessor(x):
            dropout = bool(training) and self.predecessor_dropout
            with frozen(self.predecessor_layers):
                y = _run(self.predecessor_layers, [x, *rest] if several else x, mask, dropout)
            return ops.cast(y, self.compute_dtype)

        if not training:
            return self._result(successor(x), True, replaced_below)
        chosen = self._draw(replaced_below)
        wants_gradient = True if replaced_below is None else replaced_below
        layers = (self.successor_layers, self.predecessor_layers)
        y = choose_call(chosen, successor, predecessor, x, wants_gradient, layers)
        return self._result(y, chosen, replaced_below)

    def compute_mask(self, inputs, mask=None):
        first = mask[0] if isinstance(mask, (list, tuple)) else mask
        return self._output_structure(first, None)

    def compute_output_shape(self, input_shape):
        shape = input_shape
        for layer in self.successor_layers:
            shape = output_shape(layer, shape)
        return self._output_structure(tuple(shape), ())

    def get_config(self):
        config = super().get_config()
        config.update(
            predecessor_layers=[
                keras.saving.serialize_keras_object(layer) for layer in self.predecessor_layers
            ],
            successor_layers=[
                keras.saving.serialize_keras_object(layer) for layer in self.successor_layers
            ],
            predecessor_dropout=self.predecessor_dropout,
        )
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


@register
class Frozen(keras.layers.Layer):
    """Runs `layer` without ever training it, whatever its `trainable` flag says to other models.

    Args:
        layer: Layer or model.
        dropout: Boolean. Whether `layer` is told that it is in training when it is. Defaults to
            `True`.
        **kwargs: Base layer arguments.
    """

    def __init__(self, layer, dropout=True, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        (self.layer,) = _as_layers(layer, "layer")
        self.dropout = dropout

    @property
    def metrics(self):
        # A model inside may be compiled, and Keras 3 would report its loss for the outer model's.
        return []

    def build(self, input_shape):
        if not self.layer.built:
            build_layer(self.layer, input_shape)
        self.built = True

    def call(self, inputs, training=None):
        first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        mask = get_mask(first)
        with frozen([self.layer]):
            outputs = call_layer(self.layer, inputs, bool(training) and self.dropout)
        # Attention of Keras 3 takes the mask off its input, which the successor is given too.
        set_mask(first, mask)
        return outputs

    def compute_mask(self, inputs, mask=None):
        # Only asked for outputs that came without one; a model attaches its own when called.
        is_model = isinstance(self.layer, keras.Model)
        return None if is_model else self.layer.compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape):
        return output_shape(self.layer, input_shape)

    def get_config(self):
        config = super().get_config()
        config.update(layer=keras.saving.serialize_keras_object(self.layer), dropout=self.dropout)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["layer"] = keras.layers.deserialize(config["layer"], custom_objects=custom_objects)
        return cls(**config)


@register
class Masked(keras.layers.Layer):
    """Runs a layer that knows no masks, a convolution say, as if there were no padding.

    What the mask leaves out is zero where `layer` reads it, like what lies beyond the ends of a
    text, and the mask goes on to the layers behind, where Keras would drop it. Without a mask it
    is `layer`. A successor that takes the predecessor's embeddings does this by itself for each of
    its layers (see `StackEncoder`); within a block of several convolutions wrap each of them.

    Args:
        layer: Layer or model from `(batch_size, sequence_length, ...)` to the same length.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: Tensor, `(batch_size, sequence_length, ...)`.
        mask: Boolean tensor, `(batch_size, sequence_length)`; Keras fills it in.
        training: Boolean, for `layer`.

    Returns:
        What `layer` returns, with the mask of the input.

    Raises:
        ValueError: if `layer` is known to change the length, which the mask has too.

    Example:

    >>> x = Masked(keras.layers.Conv1D(64, 3, padding="same"))(x)
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        (self.layer,) = _as_layers(layer, "layer")

    @staticmethod
    def needed_by(layer):
        """Whether `layer`, or one within it if it is a model, knows no masks."""
        if isinstance(layer, keras.Model) and layer.layers:
            return any(map(Masked.needed_by, layer.layers))
        return not (layer.supports_masking or isinstance(layer, keras.layers.InputLayer))

    @property
    def metrics(self):
        # A model inside may be compiled, and Keras 3 would report its loss for the outer model's.
        return []

    def build(self, input_shape):
        if not self.layer.built:
            build_layer(self.layer, input_shape)
        before, after = tuple(input_shape), tuple(output_shape(self.layer, input_shape))
        if len(after) < 2 or (None not in (before[1], after[1]) and before[1] != after[1]):
            raise ValueError(
                f"Masked ('{self.name}') needs a layer that keeps the length, which the mask has "
                f"too. Received: {self.layer.name!r}, which makes {after} of {before}"
            )
        self.built = True

    def call(self, inputs, mask=None, training=None):
        if mask is None:
            return call_layer(self.layer, inputs, training)
        seen = mask[(..., *[None] * (len(inputs.shape) - 2))]
        inputs = ops.where(seen, inputs, ops.zeros_like(inputs))
        if isinstance(self.layer, keras.Model):  # there may be layers in it that know masks
            set_mask(inputs, mask)
        lost = f"Layer '{re.escape(self.layer.name)}'.*destroy the mask information"
        with warnings.catch_warnings():  # Keras 3 says that the mask is lost, and here it is not
            warnings.filterwarnings("ignore", message=lost)
            return call_layer(self.layer, inputs, training)

    def compute_mask(self, inputs, mask=None):
        return mask

    def compute_output_shape(self, input_shape):
        return output_shape(self.layer, input_shape)

    def get_config(self):
        config = super().get_config()
        config["layer"] = keras.saving.serialize_keras_object(self.layer)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["layer"] = keras.layers.deserialize(config["layer"], custom_objects=custom_objects)
        return cls(**config)


def choice_layers(model) -> list:
    """The choices in `model`, a model, a layer or a list of layers, in the model's order."""
    layers = model._flatten_layers() if isinstance(model, keras.layers.Layer) else model
    choices = [layer for layer in layers if isinstance(layer, _Choice)]
    if not choices:
        raise ValueError(
            "There is no BinaryRandomChoice or ModuleChoice in this model, so it has no "
            f"replacement rate. Received: {model!r}"
        )
    return choices


def set_replacement_rate(model, rate) -> None:
    """Sets the replacement rate of the choices in `model`; compiled steps follow.

    Args:
        model: A Theseus model, a choice layer, or a list of layers.
        rate: Float in [0, 1], the probability that the successor is used; or a list of them, one
            per choice, in the model's order.

    Raises:
        ValueError: if there is not a rate per choice, or one per choice for a model with
            `at_least_one`, whose draws are those of equal rates.
    """
    choices = choice_layers(model)
    one_each = isinstance(rate, (list, tuple, np.ndarray))
    rates = list(rate) if one_each else [rate] * len(choices)
    if len(rates) != len(choices):
        raise ValueError(
            f"The model has {len(choices)} choices, and {len(rates)} rates were given: {rates!r}"
        )
    if one_each and any((choice.modules_left or 1) > 1 for choice in choices):
        raise ValueError(
            "`at_least_one` draws again as is right where all modules have one rate, so it does "
            f"not go with a rate per module. Received: {rates!r}"
        )
    for choice, value in zip(choices, map(_valid_rate, rates)):
        choice.replacement_rate.assign(value)


def get_replacement_rate(model) -> float:
    """The mean replacement rate of the choices in `model`, in [0, 1]."""
    rates = [to_numpy(choice.replacement_rate) for choice in choice_layers(model)]
    return float(np.mean([float(rate) for rate in rates]))
