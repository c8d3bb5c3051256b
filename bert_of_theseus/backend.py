"""Which Keras this process uses, and the few operations whose spelling differs.

Nothing else in the package asks which Keras it is. Keras 3 is the default; Keras 2 (`tf_keras`)
is used when `TF_KERAS=1`, bert4keras' own switch, or when bert4keras is already imported.
"""

import contextlib
import inspect
import os
import random
import sys

import numpy as np


def _wants_keras_2() -> bool:
    flag = os.environ.get("TF_KERAS", "0").strip().lower()
    return flag not in ("", "0", "false", "no", "off") or "bert4keras" in sys.modules


KERAS_2 = _wants_keras_2()

if KERAS_2:
    import tensorflow as tf
    import tf_keras as keras

    BACKEND = "tensorflow"
    ops = tf
    log, log_softmax, reduce_sum = tf.math.log, tf.nn.log_softmax, tf.reduce_sum
else:
    import keras
    from keras import ops

    # Not the attribute itself: JAX's tracers take none.
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

    log, log_softmax, reduce_sum = ops.log, ops.log_softmax, ops.sum
    BACKEND = keras.backend.backend()
    if BACKEND == "tensorflow":
        import tensorflow as tf
    elif BACKEND == "jax":
        import jax
        from keras.src.backend.common.variables import AutocastScope
    elif BACKEND == "torch":
        import torch

# JAX takes the two numbers of the state as a raw key, which must be unsigned.
SEED_DTYPE = "uint32" if BACKEND == "jax" else "int32"


def add_state(layer, name, value, dtype):
    """Adds a weight of `layer` that no optimizer touches and no autocast rounds.

    It is saved with the model, and has one value on all replicas of a distributed model.
    """
    kwargs = {"shape": getattr(value, "shape", ()), "dtype": dtype, "trainable": False}
    if KERAS_2:
        kwargs["experimental_autocast"] = False
        kwargs["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
        kwargs["initializer"] = keras.initializers.Constant(value)
    else:
        kwargs["autocast"] = False
        kwargs["aggregation"] = "only_first_replica"
        kwargs["initializer"] = lambda shape, dtype: ops.convert_to_tensor(value, dtype=dtype)
    return layer.add_weight(name=name, **kwargs)


def to_numpy(weight):
    """The value of `weight`, a copy."""
    return np.array(weight.numpy() if KERAS_2 else ops.convert_to_numpy(weight))


def identity(tensor):
    """`tensor`; in Keras 2, which tells layers apart by their outputs, not the same object."""
    return tf.identity(tensor) if KERAS_2 else tensor


def register(cls):
    """Registers a class for Keras' files."""
    if KERAS_2:  # its HDF5 files name a model's class without the package
        keras.utils.get_custom_objects()[cls.__name__] = cls
    return keras.saving.register_keras_serializable(package="bert_of_theseus")(cls)


def uniform(state, shape=()):
    """Numbers in [0, 1), and a step of `state`, an integer weight `[seed, draws so far]`."""
    if KERAS_2:
        value = tf.random.stateless_uniform(shape, seed=state.read_value())
        state.assign_add([0, 1])
        return value
    return keras.random.uniform(shape, dtype="float32", seed=_WeightSeed(state))


if not KERAS_2:

    class _WeightSeed(keras.random.SeedGenerator):
        """A seed generator over a weight of a layer: Keras' own state is not saved with models."""

        def __init__(self, state):
            self.state = state

        def next(self, ordered=True):
            seed = ops.convert_to_tensor(self.state)
            self.state.assign(seed + ops.convert_to_tensor([0, 1], dtype=self.state.dtype))
            return seed


def reseed(model, entropy):
    """Starts Python's, NumPy's and the generators of `model` (dropout, say) anew.

    Args:
        model: Keras model.
        entropy: list of integers of at least 0. Equal ones give equal numbers from now on.
    """
    layers = list({id(layer): layer for layer in model._flatten_layers()}.values())
    if KERAS_2:
        found = [layer._random_generator for layer in layers if hasattr(layer, "_random_generator")]
        found += shared_generators
    else:
        found = [generator for layer in layers for generator in layer._seed_generators]
    # A process of its own may count other layers, or the same ones twice.
    generators = list({id(generator): generator for generator in found}.values())
    seeds = np.random.SeedSequence(entropy).generate_state(len(generators) + 2) >> 1
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    if BACKEND == "torch":  # whose dropout Keras gives no seed
        torch.manual_seed(int(seeds[1]))
    for generator, seed in zip(generators, seeds[2:]):
        if KERAS_2:
            _with_state(generator).reset_from_seed(int(seed))
        else:
            generator.state.assign(np.asarray([seed, 0], generator.state.dtype))


# Keras 2: `RandomGenerator`s that no layer of a model holds.
shared_generators = []


def _with_state(generator):
    """The TensorFlow generator of a Keras 2 `RandomGenerator`, which by default has none.

    Its operations count by themselves then, where nothing can set them back.
    """
    if getattr(generator, "_generator", None) is None:
        generator._rng_type = generator.RNG_STATEFUL
        generator._built = False
        generator._maybe_init()
    return generator._generator


def get_mask(tensor):
    """The Keras mask that travels with `tensor`, or `None`."""
    return getattr(tensor, "_keras_mask", None) if KERAS_2 else get_keras_mask(tensor)


def set_mask(tensor, mask):
    """Lets `mask` travel with `tensor` into the layers that it is given to."""
    if mask is not None and KERAS_2:
        tensor._keras_mask = mask
    elif mask is not None:
        set_keras_mask(tensor, mask)
    return tensor


def output_shape(layer, shape):
    """The shape of what `layer` makes of an input of `shape`."""
    try:
        try:
            return tuple(layer.compute_output_shape(shape))
        except TypeError:  # Keras 2's models do not know that its attention takes two shapes
            if not KERAS_2:
                raise
            return tuple(keras.layers.Layer.compute_output_shape(layer, shape))
    except NotImplementedError:  # Keras 3 asks layers of one's own for no such method
        several = isinstance(shape, list)
        inputs = [keras.KerasTensor(s) for s in shape] if several else keras.KerasTensor(shape)
        return tuple(layer.compute_output_spec(inputs).shape)


def apply_layers_of(model, tensors):
    """What the layers of the functional `model` make of symbolic `tensors`, one or a list.

    The model itself does not become a layer of what is built on the result.
    """
    if KERAS_2:
        outputs = keras.models.clone_model(model, tensors, lambda layer: layer).outputs
    else:
        tensors = tensors if isinstance(tensors, list) else [tensors]
        outputs = keras.Function(model.inputs, model.outputs).call(tensors)
    return outputs[0] if len(outputs) == 1 else outputs


def call_layer(layer, inputs, training):
    """Calls `layer`, with `training` where its `call` takes it."""
    if "training" in inspect.signature(layer.call).parameters:
        return layer(inputs, training=training)
    return layer(inputs)


def build_layer(layer, input_shape):
    """Builds `layer` as calling it would."""
    # Keras 2 names weights by the scope, and an HDF5 file takes each name once.
    scope = keras.backend.name_scope(layer.name) if KERAS_2 else contextlib.nullcontext()
    with scope:
        layer.build(input_shape)
    layer.built = True


@contextlib.contextmanager
def frozen(layers):
    """Within it `layers` are not trainable, whatever the caller set; afterwards all is as before.

    Keras reads the flags when a layer is called: batch normalisation then keeps its statistics,
    and PyTorch records no gradient for the weights.
    """
    flags = [(inner, inner.trainable) for layer in layers for inner in layer._flatten_layers()]
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        # From the outside in, since setting a layer's flag sets those of the layers in it.
        for inner, flag in flags:
            inner.trainable = flag


def choose_call(chosen, successor, predecessor, x, wants_gradient, layers):
    """`successor(x)` if `chosen` else `predecessor(x)`; only that one runs, forward and backward.

    Args:
        chosen: scalar boolean tensor.
        successor: function of `x`; gradients reach its weights and `x`.
        predecessor: function of `x`; gradients reach `x` alone, and only if `wants_gradient`.
        x: the tensor that both are functions of.
        wants_gradient: bool or scalar boolean tensor. Whether anything below `x` is trained in
            this batch. If not, no gradient of `x` is worth computing.
        layers: `(successor_layers, predecessor_layers)`, what the two functions call.
    """
    if wants_gradient is False:
        x = ops.stop_gradient(x) if BACKEND != "torch" else x.detach()
    if BACKEND == "tensorflow":
        return _tf_choose(chosen, successor, predecessor, x, wants_gradient, layers)
    if BACKEND == "torch":
        return _torch_choose(chosen, successor, predecessor, x, wants_gradient, layers)
    return _jax_choose(chosen, successor, predecessor, x, wants_gradient, layers)


def _tf_choose(chosen, successor, predecessor, x, wants_gradient, layers):
    if tf.executing_eagerly() and not bool(chosen):
        y = _tf_frozen(predecessor, x, wants_gradient)
        return _tf_zero_gradient(y, [w for layer in layers[0] for w in layer.trainable_weights])

    return tf.cond(chosen, lambda: successor(x), lambda: _tf_frozen(predecessor, x, wants_gradient))


def _tf_frozen(function, x, wants_gradient):
    """`function(x)` whose backward pass reaches `x` alone, and runs only if `wants_gradient`.

    TensorFlow would otherwise build the gradients of the frozen weights too, to prune them later,
    and could not skip the rest at run time.
    """
    if wants_gradient is False or not x.dtype.is_floating:  # token ids have no gradient
        return tf.stop_gradient(function(x))
    mask = get_mask(x)
    # Persistent, since the tape outside may be.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        start = set_mask(tf.stop_gradient(x), mask)
        tape.watch(start)
        end = function(start)

    @tf.custom_gradient
    def connect(x, y):
        def gradient(upstream):
            def backward():
                gradient = tape.gradient(end, start, upstream, unconnected_gradients="zero")
                return tf.convert_to_tensor(gradient)

            if wants_gradient is True:
                return backward(), None
            return tf.cond(wants_gradient, backward, lambda: tf.zeros_like(x)), None

        return tf.identity(y), gradient

    return connect(x, tf.stop_gradient(end))


def _tf_zero_gradient(y, untouched):
    """Passes `y` on and gives the `untouched` weights gradients of zero.

    As a traced conditional does: a batch that picks no successor module at all is no error.
    """

    @tf.custom_gradient
    def connect(y, *untouched):
        return tf.identity(y), lambda upstream: (upstream, *map(tf.zeros_like, untouched))

    return connect(y, *map(tf.convert_to_tensor, untouched))


def _torch_choose(chosen, successor, predecessor, x, wants_gradient, layers):
    if bool(chosen):
        return successor(x)
    with torch.set_grad_enabled(torch.is_grad_enabled() and bool(wants_gradient)):
        y = predecessor(x)
    if not torch.is_grad_enabled() or y.device.type == "meta":
        return y
    untouched = [w.value for layer in layers[0] for w in layer.trainable_weights]
    if not bool(wants_gradient):
        untouched.append(x)
    return _ZeroGradient.apply(y, *untouched) if untouched else y


if BACKEND == "torch":

    class _ZeroGradient(torch.autograd.Function):
        """Passes `y` on and gives the `untouched` tensors gradients of zero.

        So a batch that picks no successor module at all can be differentiated, and the optimizer
        sees what it sees on the other backends.
        """

        @staticmethod
        def forward(ctx, y, *untouched):
            ctx.save_for_backward(*untouched)
            return y.view_as(y)

        @staticmethod
        def backward(ctx, upstream):
            zeros = (
                torch.zeros_like(tensor) if needed else None
                for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:])
            )
            return (upstream, *zeros)


def _jax_choose(chosen, successor, predecessor, x, wants_gradient, layers):
    # A branch of `lax.cond` may not leave anything behind: what the layers update (the states of
    # their dropout seeds, say) goes in and comes out.
    variables = {id(v): v for side in layers for layer in side for v in layer.variables}
    variables = list(variables.values())
    with AutocastScope(None):
        before = [(v, v.value) for v in variables]
    updated = [v for side in layers for layer in side for v in layer.non_trainable_variables]
    updated = list({id(v): v for v in updated}.values())

    def branch(function):
        def run(x):
            with keras.StatelessScope(state_mapping=before) as scope:
                y = function(x)
            return y, [scope.get_current_value(v) for v in updated]

        return run

    # Twice the predecessor: only a branch of its own can do without the gradient of `x`.
    branches = [branch(predecessor), branch(successor)]
    index = chosen.astype("int32")
    if not isinstance(wants_gradient, bool):
        branches.append(branch(lambda x: predecessor(jax.lax.stop_gradient(x))))
        index = jax.numpy.where(chosen | wants_gradient, index, 2)
    y, after = jax.lax.switch(index, branches, x)
    for variable, value in zip(updated, after):
        variable.assign(value)
    return y
