"""Which Keras this process uses, and the few operations whose spelling differs.

Keras 3 is the default. Keras 2 (`tf_keras`) is used when `TF_KERAS=1`, bert4keras' own switch, or
when bert4keras is already imported. Beside this module only `conditional`, `distribution` and
`optimizer` ask which Keras it is; others ask for what they need by its name.
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
    if BACKEND == "torch":
        import torch

# For messages and reports.
KERAS_NAME = f"{keras.__name__} {keras.__version__}"
KERAS_ON_BACKEND = f"{KERAS_NAME} on {BACKEND}"

# Of several answers to an example, a metric of Keras 3 takes the mean first.
AVERAGES_EXAMPLES = not KERAS_2

# JAX takes the two numbers of the state as a raw key, which must be unsigned.
SEED_DTYPE = "uint32" if BACKEND == "jax" else "int32"


def require_tensorflow(message: str) -> None:
    """Raises a `ValueError` with `message` if Keras does not run on TensorFlow."""
    if BACKEND != "tensorflow":
        raise ValueError(f"{message} Received: {BACKEND}.")


def host_is_bert4keras() -> bool:
    """Whether pretrained encoders are bert4keras' models; in Keras 3 they are KerasHub's."""
    return KERAS_2


# Files.

# Keras 2's safe mode refuses Lambda layers, but imports any module that a file names.
SAFE_MODE_IMPORTS = KERAS_2


def safe_mode():
    """A context in which Keras loads no function's code.

    Keras 2's `load_model` has a safe mode, but not for HDF5 files and SavedModels.
    """
    if not KERAS_2:
        return contextlib.nullcontext()
    return sys.modules[keras.layers.Lambda.__module__].serialization_lib.SafeModeScope(True)


def register(cls):
    """Registers a class for Keras' files."""
    if KERAS_2:  # its HDF5 files name a model's class without the package
        keras.utils.get_custom_objects()[cls.__name__] = cls
    return keras.saving.register_keras_serializable(package="bert_of_theseus")(cls)


# Weights and tensors.


def add_state(layer, name, value, dtype):
    """Adds a weight to `layer` that no optimizer trains and no autocast rounds.

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
    """A copy of the value of `weight`."""
    return np.array(weight.numpy() if KERAS_2 else ops.convert_to_numpy(weight))


def is_finite(value: np.ndarray) -> bool:
    """Whether no number in `value` is NaN or infinite."""
    return value.dtype.kind in "biuSUO" or bool(np.isfinite(value).all())


def identity(tensor):
    """`tensor`; in Keras 2, which tells layers apart by their outputs, a new object."""
    return tf.identity(tensor) if KERAS_2 else tensor


def get_mask(tensor):
    """The Keras mask of `tensor`, or `None`."""
    return getattr(tensor, "_keras_mask", None) if KERAS_2 else get_keras_mask(tensor)


def set_mask(tensor, mask):
    """Attaches `mask` to `tensor`, for the layers that are called on it."""
    if mask is not None and KERAS_2:
        tensor._keras_mask = mask
    elif mask is not None:
        set_keras_mask(tensor, mask)
    return tensor


def quiet_about_masks(layer):
    """Returns `layer`, after silencing Keras 3's warnings that models within it destroy masks.

    In a functional or sequential model each layer passes the mask on or ends it, and is warned
    about if it loses it. The model as a whole loses nothing, yet Keras 3 warns about each one.
    """
    for model in [] if KERAS_2 else layer._flatten_layers():
        if isinstance(model, (Functional, keras.Sequential)) and not model.supports_masking:
            model.supports_masking = True
            # Keras' own would put the input's mask on outputs whose layers have ended it.
            model.compute_mask = _no_other_mask
    return layer


def _no_other_mask(inputs, previous_mask=None):
    return None


# Layers and models.


def build_layer(layer, input_shape):
    """Builds `layer` as a call would, if it is not built."""
    if layer.built:
        return
    # Keras 2 names weights by the scope, and an HDF5 file takes each name once.
    scope = keras.backend.name_scope(layer.name) if KERAS_2 else contextlib.nullcontext()
    with scope:
        layer.build(input_shape)
    layer.built = True


def call_layer(layer, inputs, training):
    """Calls `layer`, with `training` if its `call` takes it."""
    if "training" in inspect.signature(layer.call).parameters:
        return layer(inputs, training=training)
    return layer(inputs)


def output_shape(layer, shape):
    """The shape of the output of `layer` for an input of `shape`."""
    try:
        return tuple(layer.compute_output_shape(shape))
    # Custom Keras 3 layers may lack `compute_output_shape`, and that of tf_keras' attention raises
    # inside a model: fall back to a symbolic call.
    except (NotImplementedError, TypeError):
        made = (lambda s: keras.Input(batch_shape=s)) if KERAS_2 else keras.KerasTensor
        inputs = [made(s) for s in shape] if isinstance(shape, list) else made(shape)
        output = layer(inputs) if KERAS_2 else layer.compute_output_spec(inputs)
        return tuple(output.shape)


def input_structure(model):
    """The inputs of `model` in the form that it takes: a tensor, a list or a dict."""
    # A Keras 3 sequential model within another model has the other model's tensor as `input`.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def node_of(tensor):
    """Keras' node of the call that made a symbolic `tensor`."""
    layer, index, _ = tensor._keras_history
    return layer._inbound_nodes[index]


def call_of(tensor):
    """The layer that made a symbolic `tensor`, the tensors that it got, and the call's options."""
    node = node_of(tensor)
    if KERAS_2:
        return node.layer, list(node.keras_inputs), node.call_kwargs
    return node.operation, list(node.input_tensors), node.arguments.kwargs


def apply_layers_of(model, tensors):
    """Applies the layers of the functional `model` to symbolic `tensors`, one or a list.

    The model itself does not become a layer of a model built on the result.
    """
    listed = tensors if isinstance(tensors, list) else [tensors]
    if KERAS_2:
        # Not `clone_model`, which never ends if a layer that is kept was called elsewhere too.
        outputs = tf.nest.flatten(model.call(tensors, mask=[get_mask(x) for x in listed]))
    else:
        outputs = keras.Function(model.inputs, model.outputs).call(listed)
    return outputs[0] if len(outputs) == 1 else outputs


@contextlib.contextmanager
def frozen(layers):
    """A context in which `layers` are not trainable. Their flags are restored afterwards.

    Keras reads the flags when a layer is called: batch normalization then keeps its statistics,
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


# Random numbers.

# Keras 2: `RandomGenerator`s that no layer of a model holds.
shared_generators = []


def reseed(model, entropy):
    """Seeds Python's and NumPy's generators, and those of the layers of `model` (dropout, say).

    Args:
        model: Keras model.
        entropy: List of integers of at least 0. Equal lists give equal numbers from now on.
    """
    layers = list({id(layer): layer for layer in model._flatten_layers()}.values())
    if KERAS_2:
        found = [layer._random_generator for layer in layers if hasattr(layer, "_random_generator")]
        found += shared_generators
    else:
        found = [generator for layer in layers for generator in layer._seed_generators]
    # Another process may count the layers differently, or the same ones twice.
    generators = list({id(generator): generator for generator in found}.values())
    seeds = np.random.SeedSequence(entropy).generate_state(len(generators) + 2) >> 1
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    if BACKEND == "torch":  # Keras gives PyTorch's dropout no seed
        torch.manual_seed(int(seeds[1]))
    for generator, seed in zip(generators, seeds[2:]):
        if KERAS_2:
            _with_state(generator).reset_from_seed(int(seed))
        else:
            generator.state.assign(np.asarray([seed, 0], generator.state.dtype))


def _with_state(generator):
    """The TensorFlow generator of a Keras 2 `RandomGenerator`, which by default has none.

    Without it, its operations count by themselves, where nothing can reset them.
    """
    if getattr(generator, "_generator", None) is None:
        generator._rng_type = generator.RNG_STATEFUL
        generator._built = False
        generator._maybe_init()
    return generator._generator
