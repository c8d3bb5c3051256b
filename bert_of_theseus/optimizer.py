"""Adam, in the fused kernel of PyTorch or TensorFlow where one of them is the backend."""

from __future__ import annotations

import math

from .backend import BACKEND, KERAS_2, keras, register

_IS_FUSED = BACKEND == "tensorflow"
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch
    from torch.optim.adam import adam

    # PyTorch 2.6. The kernel for CPUs came two releases earlier.
    _IS_FUSED = hasattr(torch.nn.utils, "get_total_norm")


@register
class FusedAdam(keras.optimizers.Adam):
    """Keras' `Adam`, with the same arguments and variables, and the same results up to rounding.

    Keras computes it in several passes over all weights and moments, on PyTorch in a dozen. Of a
    model of few layers with short texts, most of whose weights are embeddings, this is up to half
    of a step on PyTorch, and a tenth on TensorFlow. The fused kernel needs one pass, and TensorFlow
    has fewer operations to trace. On JAX, and before PyTorch 2.6, it is Keras' own.

    Of sparse gradients, of a row that occurs twice, Keras 3 squares the parts if they are not
    clipped; here it is their sum, as on the other backends.
    """

    if BACKEND == "tensorflow":

        def update_step(self, gradient, variable, *learning_rate):
            # Keras 3 gives the learning rate. `adaptive_epsilon` is Keras 2's.
            if self.amsgrad or getattr(self, "adaptive_epsilon", False):
                super().update_step(gradient, variable, *learning_rate)
                return
            dtype = variable.dtype
            (rate,) = learning_rate or (self.learning_rate,)
            if isinstance(gradient, tf.IndexedSlices):
                # Not `tf.convert_to_tensor`, which warns of large ones: the moments are as large.
                rows = tf.shape(variable)[0]
                gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, rows)
            step = tf.cast(self.iterations + 1, dtype)
            momentum, velocity = self._moments(variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=momentum.handle,
                v=velocity.handle,
                beta1_power=tf.cast(self.beta_1, dtype) ** step,
                beta2_power=tf.cast(self.beta_2, dtype) ** step,
                lr=tf.cast(rate, dtype),
                # `tf.cast` takes a number in single precision first, as Keras does above.
                beta1=tf.constant(self.beta_1, dtype),
                beta2=tf.constant(self.beta_2, dtype),
                epsilon=tf.constant(self.epsilon, dtype),
                grad=tf.cast(gradient, dtype),
            )

        def _moments(self, variable):
            if KERAS_2:
                place = self._index_dict[self._var_key(variable)]
                return self._momentums[place], self._velocities[place]
            place = self._get_variable_index(variable)
            return self._momentums[place].value, self._velocities[place].value

    elif _IS_FUSED:

        def _backend_update_step(self, grads, trainable_variables, learning_rate):
            weights = [variable.value for variable in trainable_variables]
            if self.amsgrad or not all(weight.is_contiguous() for weight in weights):
                super()._backend_update_step(grads, trainable_variables, learning_rate)
                return
            places = [self._get_variable_index(variable) for variable in trainable_variables]
            step = int(self.iterations)
            device = weights[0].device
            with torch.no_grad():
                adam(
                    weights,
                    [
                        gradient.to(weight.dtype).contiguous()
                        for gradient, weight in zip(grads, weights)
                    ],
                    [self._momentums[place].value for place in places],
                    [self._velocities[place].value for place in places],
                    [],
                    # The kernel counts each of them up.
                    list(torch.full((len(weights),), float(step), device=device).unbind()),
                    fused=True,
                    amsgrad=False,
                    beta1=self.beta_1,
                    beta2=self.beta_2,
                    # A number would have to be waited for where a device computes it.
                    lr=float(learning_rate) if device.type == "cpu" else learning_rate,
                    weight_decay=0.0,
                    # PyTorch corrects the second moment's bias before it adds epsilon, Keras after.
                    eps=self.epsilon / math.sqrt(1 - self.beta_2 ** (step + 1)),
                    maximize=False,
                )

        def _clip_gradients(self, grads):
            # A pass to find the norm, and one more only if it is too large.
            if self.clipnorm or not self.global_clipnorm:
                return super()._clip_gradients(grads)
            given = [gradient for gradient in grads if gradient is not None]
            with torch.no_grad():
                norm = torch.nn.utils.get_total_norm(given)
                if norm <= self.global_clipnorm:
                    return grads
                # All of them NaN if the norm is infinite or NaN, as in Keras.
                scale = self.global_clipnorm / norm + (norm - norm)
                return [None if gradient is None else gradient * scale for gradient in grads]


# Keras' two differ in whether a weight decay must be given.
Adam, AdamW = keras.optimizers.Adam, keras.optimizers.AdamW
if _IS_FUSED:
    Adam = AdamW = FusedAdam
