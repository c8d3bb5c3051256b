"""Several devices and several workers: what differs where a batch is divided among them.

`tf.distribute` runs a program per replica, and several workers may share a training. Keras' own
distribution, on JAX, runs one program on all devices. Elsewhere there is one device.
"""

import contextlib
import threading
import weakref

import numpy as np

from .backend import BACKEND, KERAS_2, keras, ops

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax


def num_devices() -> int:
    """The number of devices that a batch is divided among."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if distribution else 1


def is_only_process() -> bool:
    """Whether no other process trains the same model. With others, a model answers them all."""
    if BACKEND == "jax":
        return jax.process_count() == 1
    return BACKEND != "tensorflow" or tf.distribute.get_strategy().cluster_resolver is None


def needs_equal_parts() -> bool:
    """Whether a batch must be divisible by the number of devices: one program spans them all."""
    return BACKEND == "jax" and num_devices() > 1


def needs_one_type() -> bool:
    """Whether all batches get the types of the first one's arrays."""
    return BACKEND == "tensorflow"


# Draws.


def uniform(state, shape=(), sampling="batch"):
    """Draws numbers in [0, 1) and moves `state`, an integer weight `[seed, draws so far]`, on.

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
    """The number of the replica that calls this: each has its own part of the batch."""
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


if not KERAS_2:

    class _WeightSeed(keras.random.SeedGenerator):
        """A seed generator on a layer's weight: Keras does not save its own with models."""

        def __init__(self, state, replica=0):
            self.state, self.replica = state, replica

        def next(self, ordered=True):
            seed = ops.convert_to_tensor(self.state)
            self.state.assign(seed + ops.convert_to_tensor([0, 1], dtype=self.state.dtype))
            return seed + ops.cast(ops.stack([self.replica, 0]), seed.dtype)


# Losses.


class LossesPerReplica:
    """Keeps the losses that a layer adds apart for each replica; to be named before `Layer`.

    `MirroredStrategy` has a thread per replica, and changes threads where a shared weight is
    updated, as a draw does. Keras 3 keeps a layer's losses in one list: a replica would add those
    of another to its own, and lose its own when another starts. Keras 2 has a list per thread.
    """

    if BACKEND == "tensorflow" and not KERAS_2:

        @property
        def _losses(self):
            lists = self.__dict__.setdefault("_losses_by_thread", weakref.WeakKeyDictionary())
            return lists.setdefault(threading.current_thread(), [])

        @_losses.setter
        def _losses(self, losses):
            self._losses[:] = losses


# Strategies and workers of `tf.distribute`.


def strategy_scope(model):
    """A context that makes variables for the strategy that `model` was built in."""
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


def is_chief() -> bool:
    """Whether this process writes the files. Of several workers only one does."""
    return BACKEND != "tensorflow" or tf.distribute.get_strategy().extended.should_checkpoint


def same_on_all_workers(number: int) -> bool:
    """Waits for all workers and returns whether they all have this `number`."""
    strategy = tf.distribute.get_strategy() if BACKEND == "tensorflow" else None
    if strategy is None or strategy.cluster_resolver is None:
        return True

    @tf.function
    def reduce():
        mine = tf.constant(number, "int32")
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.stack([mine, mine**2]))

    total, squares = strategy.experimental_local_results(strategy.run(reduce))[0].numpy()
    return total**2 == squares * strategy.num_replicas_in_sync


def as_dataset(batches, first, model, length=None):
    """A `tf.data.Dataset` of what `batches()` yields, for `model`; `None` on other backends.

    `first` is the first of them. With `length`, their number, they are to evaluate the model, else
    to train it.

    Of a generator or a `Sequence`, Keras 3 takes the shapes from the first two batches, and refuses
    longer texts in later ones. To train under a strategy of `tf.distribute`, it throws away the
    batches that it looks at. Keras 2 takes no shapes: its accuracy then mistakes labels of shape
    `(batch_size, 1)` for one-hot vectors.
    """
    if BACKEND != "tensorflow":
        return None
    inputs, *rest = first
    structure = (_specs(inputs, model.inputs), *(_specs(part, model.outputs) for part in rest))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=structure)
    if length is not None:  # or Keras would warn when it comes to the end
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)


def _specs(part, tensors):
    """Of a part of a batch: axes are open where one of the symbolic `tensors` leaves them open."""
    is_open = {0, *(axis for t in tensors for axis, size in enumerate(t.shape) if size is None)}

    def spec(array):
        array = np.asarray(array)
        shape = [None if axis in is_open else size for axis, size in enumerate(array.shape)]
        return tf.TensorSpec(shape, array.dtype)

    return tf.nest.map_structure(spec, part)
