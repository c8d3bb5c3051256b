"""What tests share: the few things that each backend spells its way, and comparisons to the bit."""

import contextlib

import numpy as np

from bert_of_theseus.backend import BACKEND, KERAS_2, keras

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch

package = keras.saving.register_keras_serializable(package="core_tests")


def to_numpy(tensor):
    if BACKEND == "torch" and isinstance(tensor, torch.Tensor):
        return keras.ops.convert_to_numpy(tensor)  # bfloat16 too
    return np.asarray(tensor)


def to_tensor(array):
    return tf.convert_to_tensor(array) if KERAS_2 else keras.ops.convert_to_tensor(array)


def values(weights):
    """Copies of the values of `weights`."""
    return [np.array(to_numpy(w if KERAS_2 else w.value)) for w in weights]


@contextlib.contextmanager
def dtype_policy(name):
    """Keras' policy of precision, for a while."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def weights_of(layers):
    return [weight for layer in layers for weight in layer.weights]


def assert_same(before, after):
    """Bit for bit."""
    assert len(before) == len(after)
    for a, b in zip(before, after):
        np.testing.assert_array_equal(a, b)


def any_changed(before, after):
    return any((a != b).any() for a, b in zip(before, after))


def all_changed(before, after):
    return all((a != b).any() for a, b in zip(before, after))


def eager(model, x, training=False):
    """What `model`, or a layer, makes of an array or a list of them, layer by layer.

    Nothing is compiled, which `predict` does anew for every model.
    """
    x = [to_tensor(part) for part in x] if isinstance(x, list) else to_tensor(x)
    return to_numpy(model(x, training=training))


def many_calls(model, number):
    """A function of arrays: `model` in training so many times, `(number, ...)`.

    Compiled as one, where the backend compiles. It updates states, so the draws of each call
    follow those of the one before.
    """
    if BACKEND == "tensorflow":

        @tf.function
        def calls(x):
            outputs = tf.TensorArray(model.output.dtype, number)
            for index in tf.range(number):
                outputs = outputs.write(index, model(x, training=True))
            return outputs.stack()

        return lambda x: to_numpy(calls(x))
    if BACKEND == "torch":

        def call(x):
            tensors = [to_tensor(part) for part in x] if isinstance(x, list) else to_tensor(x)
            with torch.no_grad():
                return np.stack([to_numpy(model(tensors, training=True)) for _ in range(number)])

        return call

    @jax.jit
    def pure(weights, states, x):
        def step(states, _):
            y, states = model.stateless_call(weights, states, x, training=True)
            return states, y

        return jax.lax.scan(step, states, length=number)

    def call(x):
        states = model.non_trainable_variables
        weights = [w.value for w in model.trainable_variables]
        after, outputs = pure(weights, [s.value for s in states], x)
        for state, value in zip(states, after):
            state.assign(value)
        return np.asarray(outputs)

    return call


def compiled_call(model, training=True):
    """`model` as a compiled function of arrays, where the backend compiles; it updates states."""
    if BACKEND == "tensorflow":
        call = tf.function(lambda x: model(x, training=training))
        return lambda x: to_numpy(call(x))
    if BACKEND == "torch":

        def call(x):
            with torch.no_grad():
                return to_numpy(model(x, training=training))

        return call

    pure = jax.jit(
        lambda weights, states, x: model.stateless_call(weights, states, x, training=training)
    )

    def call(x):
        states = model.non_trainable_variables
        y, after = pure([w.value for w in model.trainable_variables], [s.value for s in states], x)
        for state, value in zip(states, after):
            state.assign(value)
        return np.asarray(y)

    return call


def gradient_function(model):
    """A function of `(x, y)`: output and loss in training mode, gradients of trainable weights.

    The loss is the mean squared error. The gradients are a list of arrays or None.
    """
    if BACKEND == "tensorflow":

        @tf.function
        def run(x, y):
            weights = model.trainable_weights
            with tf.GradientTape() as tape:
                output = model(x, training=True)
                loss = tf.reduce_mean((tf.cast(output, tf.float32) - y) ** 2)
            return (
                output,
                loss,
                tape.gradient(loss, weights if KERAS_2 else [w.value for w in weights]),
            )

    elif BACKEND == "jax":

        def loss_of(weights, states, x, y):
            output, _ = model.stateless_call(weights, states, x, training=True)
            return ((output - y) ** 2).mean(), output

        pure = jax.jit(jax.value_and_grad(loss_of, has_aux=True))

        def run(x, y):
            weights = [w.value for w in model.trainable_variables]
            states = [s.value for s in model.non_trainable_variables]
            (loss, output), gradients = pure(weights, states, x, y)
            jax.effects_barrier()
            return output, loss, gradients

    else:

        def run(x, y):
            for weight in model.weights:
                weight.value.grad = None
            output = model(x, training=True)
            loss = ((output - to_tensor(y)) ** 2).mean()
            loss.backward()
            return output, loss, [w.value.grad for w in model.trainable_weights]

    def call(x, y):
        output, loss, gradients = run(x, y)
        gradients = [g if g is None else np.array(to_numpy(g)) for g in gradients]
        return to_numpy(output), float(to_numpy(loss)), gradients

    return call


@package
class Probe(keras.layers.Layer):
    """Passes its input on and counts, at run time, its forward and its backward passes."""

    counts: dict = {}  # noqa: RUF012  by name of the layer: it must survive copies and tracing

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.reset()

    def reset(self):
        self.counts[self.name] = [0, 0]

    @property
    def forwards(self):
        if BACKEND == "jax":
            jax.effects_barrier()
        return self.counts[self.name][0]

    @property
    def backwards(self):
        if BACKEND == "jax":
            jax.effects_barrier()
        return self.counts[self.name][1]

    def _count(self, direction):
        def count(array=None):
            self.counts[self.name][direction] += 1
            return array

        return count

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        forward, backward = self._count(0), self._count(1)
        if BACKEND == "tensorflow":

            def passed(tensor, count):
                result = tf.numpy_function(count, [tensor], tensor.dtype)
                result.set_shape(tensor.shape)
                return result

            @tf.custom_gradient
            def probe(x):
                return passed(x, forward), lambda upstream: passed(upstream, backward)

            return probe(x)
        if BACKEND == "torch":
            if x.device.type == "meta":
                return x
            return _TorchProbe.apply(x, forward, backward)

        @jax.custom_vjp
        def probe(x):
            jax.debug.callback(forward)
            return x

        def reverse(_, upstream):
            jax.debug.callback(backward)
            return (upstream,)

        probe.defvjp(lambda x: (probe(x), None), reverse)
        return probe(x)


if BACKEND == "torch":

    class _TorchProbe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, forward, backward):
            ctx.count = backward
            forward()
            return x.view_as(x)

        @staticmethod
        def backward(ctx, upstream):
            ctx.count()
            return upstream, None, None
