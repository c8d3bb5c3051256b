"""Adam, in PyTorch's fused kernel where that is the backend."""

from __future__ import annotations

import math

from .backend import BACKEND, keras, register

_IS_FUSED = False
if BACKEND == "torch":
    import torch
    from torch.optim.adam import adam

    # PyTorch 2.6. The kernel for CPUs came two releases earlier.
    _IS_FUSED = hasattr(torch.nn.utils, "get_total_norm")


@register
class FusedAdam(keras.optimizers.Adam):
    """Keras' `Adam`, with the same arguments and variables, and the same results up to rounding.

    On PyTorch, Keras computes it in a dozen passes over all weights and moments. Of a model of few
    layers with short texts, most of whose weights are embeddings, this is up to half of a step.
    PyTorch's fused kernel needs one pass. On other backends, and before PyTorch 2.6, it is Keras'
    own.
    """

    if _IS_FUSED:

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
