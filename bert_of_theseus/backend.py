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
    from keras.src.models.functional import Functional

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

# Keras 2's safe mode refuses Lambda layers, but imports any module that a file names.
SAFE_MODE_IMPORTS = KERAS_2


def safe_mode():
    """A context in which Keras loads no function's code.

    Keras 2's `load_model` has a safe mode, and leaves it out for HDF5 files and SavedModels.
    """
    if not KERAS_2:
        return contextlib.nullcontext()
    return sys.modules[keras.layers.Lambda.__module__].serialization_lib.SafeModeScope(True)


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


def uniform(state, shape=(), sampling="batch"):
    """Numbers in [0, 1), and a step of `state`, an integer weight `[seed, draws so far]`.

    With `sampling="batch"` they are the same on all replicas of a distributed model.
    """
    replica = 0 if sampling == "batch" else _replica(sampling)
    if KERAS_2:
        seed = state.read_value() + tf.stack([replica, 0])
        value = tf.random.stateless_uniform(shape, seed=seed)
        state.assign_add(tf.constant([0, 1], state.dtype))
        return value
    return keras.random.uniform(shape, dtype="float32", seed=_WeightSeed(state, replica))


def _replica(sampling):
    """The number of the replica that asks: every one has examples of its own."""
    if BACKEND == "tensorflow":
        context = tf.distribute.get_replica_context()  # none while a model is being built
        return 0 if context is None else context.replica_id_in_sync_group
    if sampling == "replica" and num_devices() > 1:
        raise ValueError(
            'sampling="replica" needs replicas that run a program each, as those of '
            "`tf.distribute` do. In Keras' own distribution one program spans all "
            f"{num_devices()} devices, and a draw is the same on them. Use "
            'sampling="batch", or sampling="example" for a draw per example.'
        )
    return 0


def num_devices():
    """Among how many devices a batch is divided."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if distribution else 1


if not KERAS_2:

    class _WeightSeed(keras.random.SeedGenerator):
        """A seed generator over a weight of a layer: Keras' own state is not saved with models."""

        def __init__(self, state, replica=0):
            self.state, self.replica = state, replica

        def next(self, ordered=True):
            seed = ops.convert_to_tensor(self.state)
            self.state.assign(seed + ops.convert_to_tensor([0, 1], dtype=self.state.dtype))
            return seed + ops.cast(ops.stack([self.replica, 0]), seed.dtype)


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


def strategy_scope(model):
    """Within it, variables are made for the `tf.distribute` strategy that `model` was built in."""
    strategy = getattr(model, "distribute_strategy", None)  # only with Keras on TensorFlow
    if strategy is None:
        return contextlib.nullcontext()
    if not KERAS_2 and isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            f"Keras {keras.__version__} trains no model of a MultiWorkerMirroredStrategy (see "
            "https://github.com/keras-team/keras/issues/20585). Use Keras 2 for several workers, "
            "TF_KERAS=1 and TF_USE_LEGACY_KERAS=1, or MirroredStrategy on one."
        )
    return strategy.scope()


def is_chief():
    """Whether this process writes the files: all do but the workers of one that does."""
    return BACKEND != "tensorflow" or tf.distribute.get_strategy().extended.should_checkpoint


def same_on_all_workers(number):
    """Waits for the other workers, where there are any; whether all of them have this `number`."""
    strategy = tf.distribute.get_strategy() if BACKEND == "tensorflow" else None
    if strategy is None or strategy.cluster_resolver is None:
        return True

    @tf.function
    def reduce():
        mine = tf.constant(number, "int32")
        total = tf.distribute.get_replica_context().all_reduce("SUM", tf.stack([mine, mine**2]))
        return total

    total, squares = strategy.experimental_local_results(strategy.run(reduce))[0].numpy()
    return total**2 == squares * strategy.num_replicas_in_sync


def repeatable(batches):
    """What `fit` takes, of `batches`, a function that makes a generator of them.

    A strategy of `tf.distribute` wants a dataset: of a generator, Keras 3 would throw away the
    batches that it looks at to build the model.
    """
    if BACKEND != "tensorflow" or not tf.distribute.has_strategy():
        return batches()

    def spec(array):
        array = np.asarray(array)
        # Texts differ in length from batch to batch, what comes after it does not.
        return tf.TensorSpec([None, None, *array.shape[2:]][: array.ndim], array.dtype)

    signature = tf.nest.map_structure(spec, next(batches()))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


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


def quiet_about_masks(layer):
    """`layer`; Keras 3 no longer says of the functional models in it that they destroy masks.

    In a functional or sequential model each layer passes the mask on, or ends it, and is warned
    about if it loses it. The model as a whole loses nothing, yet Keras 3 says so of every one.
    """
    for model in [] if KERAS_2 else layer._flatten_layers():
        if isinstance(model, (Functional, keras.Sequential)) and not model.supports_masking:
            model.supports_masking = True
            # Keras' own would put the input's mask on outputs whose layers have ended it.
            model.compute_mask = _no_other_mask
    return layer


def _no_other_mask(inputs, previous_mask=None):
    return None


def output_shape(layer, shape):
    """The shape of what `layer` makes of an input of `shape`."""
    try:
        return tuple(layer.compute_output_shape(shape))
    # Keras 3 asks layers of one's own for no such method, and Keras 2 cannot call that of its
    # attention in a model.
    except (NotImplementedError, TypeError):
        made = (lambda s: keras.Input(batch_shape=s)) if KERAS_2 else keras.KerasTensor
        inputs = [made(s) for s in shape] if isinstance(shape, list) else made(shape)
        output = layer(inputs) if KERAS_2 else layer.compute_output_spec(inputs)
        return tuple(output.shape)


def apply_layers_of(model, tensors):
    """What the layers of the functional `model` make of symbolic `tensors`, one or a list.

    The model itself does not become a layer of what is built on the result.
    """
    if KERAS_2:
        # Not `clone_model`, which never ends where a layer that stays was called elsewhere too.
        listed = tensors if isinstance(tensors, list) else [tensors]
        outputs = tf.nest.flatten(model.call(tensors, mask=[get_mask(x) for x in listed]))
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

    # A conditional returns what the backward pass of any branch needs, zeros for those that did
    # not run. So of the predecessor's layers, which are many, only matrix products are kept.
    predecessor_branch = jax.checkpoint(
        branch(predecessor), prevent_cse=False, policy=jax.checkpoint_policies.dots_saveable
    )
    # Twice the predecessor: only a branch of its own can do without the gradient of `x`.
    branches = [predecessor_branch, branch(successor)]
    index = chosen.astype("int32")
    if not isinstance(wants_gradient, bool):
        branches.append(branch(lambda x: predecessor(jax.lax.stop_gradient(x))))
        index = jax.numpy.where(chosen | wants_gradient, index, 2)
    y, after = jax.lax.switch(index, branches, x)
    for variable, value in zip(updated, after):
        variable.assign(value)
    return y
