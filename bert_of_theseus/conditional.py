"""Lazy execution: a conditional that runs one of two modules, forward and backward.

The contract, the same on every backend:

1. Only the chosen module runs. The other one costs neither a forward nor a backward pass.
2. Gradients reach the weights of the successor, and never those of the predecessor.
3. Gradients pass through the predecessor to its input only if something below is trained in this
   batch. Otherwise the predecessor has no backward pass at all.
4. Weights of a successor that did not run get gradients of zero, not `None`: the optimizer sees
   the same in every batch, and a batch that chose no successor at all is no error.
5. What the layers that run update (seeds of their dropout, statistics) is kept.

`choose_call` is the only public name. One section per framework implements it.
"""

from .backend import BACKEND, get_mask, keras, ops, set_mask


def choose_call(chosen, successor, predecessor, x, wants_gradient, layers):
    """Returns `successor(x)` if `chosen`, otherwise `predecessor(x)`.

    Args:
        chosen: Scalar boolean tensor.
        successor: Function of `x`. Gradients reach its weights and `x`.
        predecessor: Function of `x`. Gradients reach `x` alone, and only if `wants_gradient`.
        x: The tensor that both are functions of.
        wants_gradient: Boolean or scalar boolean tensor. Whether anything below `x` is trained in
            this batch.
        layers: `(successor_layers, predecessor_layers)`, the layers that the functions call.

    Returns:
        A tensor.
    """
    if wants_gradient is False:
        x = ops.stop_gradient(x) if BACKEND != "torch" else x.detach()
    return _choose(chosen, successor, predecessor, x, wants_gradient, layers)


if BACKEND == "tensorflow":
    import tensorflow as tf

    # `tf.cond` traces both branches and runs one. Its gradient covers whatever the branch touched,
    # so the predecessor's branch is differentiated by hand.

    def _choose(chosen, successor, predecessor, x, wants_gradient, layers):
        if tf.executing_eagerly() and not bool(chosen):
            y = _frozen_call(predecessor, x, wants_gradient)
            return _zero_gradients(y, [w for layer in layers[0] for w in layer.trainable_weights])
        return tf.cond(
            chosen, lambda: successor(x), lambda: _frozen_call(predecessor, x, wants_gradient)
        )

    def _frozen_call(function, x, wants_gradient):
        """`function(x)` with a backward pass to `x` alone, which runs only if `wants_gradient`.

        TensorFlow would otherwise build the gradients of the frozen weights too, to prune them
        later, and could not skip the rest at run time.
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

    def _zero_gradients(y, untouched):
        """Returns `y` and gives the `untouched` weights gradients of zero, as `tf.cond` does."""

        @tf.custom_gradient
        def connect(y, *untouched):
            return tf.identity(y), lambda upstream: (upstream, *map(tf.zeros_like, untouched))

        return connect(y, *map(tf.convert_to_tensor, untouched))


elif BACKEND == "torch":
    import torch

    # Python's own `if`: nothing is traced.

    def _choose(chosen, successor, predecessor, x, wants_gradient, layers):
        if bool(chosen):
            return successor(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(wants_gradient)):
            y = predecessor(x)
        if not torch.is_grad_enabled() or y.device.type == "meta":
            return y
        untouched = [w.value for layer in layers[0] for w in layer.trainable_weights]
        if not bool(wants_gradient):
            untouched.append(x)
        return _ZeroGradients.apply(y, *untouched) if untouched else y

    class _ZeroGradients(torch.autograd.Function):
        """Returns `y` and gives the `untouched` tensors gradients of zero."""

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


else:
    import jax
    from keras.src.backend.common.variables import AutocastScope

    # A branch of `lax.switch` may not have side effects: what the layers update goes in and comes
    # out. What a branch keeps for its backward pass is returned by the conditional, as zeros for
    # the branches that did not run.

    def _choose(chosen, successor, predecessor, x, wants_gradient, layers):
        variables = _unique(v for side in layers for layer in side for v in layer.variables)
        updated = _unique(
            v for side in layers for layer in side for v in layer.non_trainable_variables
        )
        with AutocastScope(None):
            before = [(v, v.value) for v in variables]

        def branch(function):
            def run(x):
                with keras.StatelessScope(state_mapping=before) as scope:
                    y = function(x)
                return y, [scope.get_current_value(v) for v in updated]

            return run

        # The predecessor's layers are many: of what they keep only matrix products are returned.
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

    def _unique(variables):
        return list({id(variable): variable for variable in variables}.values())
