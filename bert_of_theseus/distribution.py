"""Several devices and several workers: what differs where a batch is divided among them.

`tf.distribute` runs a program per replica. Keras' own distribution, on JAX, runs one program on all
devices. With either, several workers, which are processes on one machine or on several, may share a
training. Elsewhere there is one device.
"""

import contextlib
import random
import threading
import weakref

import numpy as np

from .backend import BACKEND, KERAS_2, SEED_DTYPE, add_state, keras, ops

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


def needs_equal_parts() -> bool:
    """Whether a batch must be divisible by the number of devices: one program spans them all."""
    return BACKEND == "jax" and num_devices() > 1


def needs_one_type() -> bool:
    """Whether all batches get the types of the first one's arrays."""
    return BACKEND == "tensorflow"


# Draws.


def add_draw_state(layer, seed):
    """The weight of `layer` that `uniform` draws from: `[seed, draws so far]`.

    Without a seed it is one of Python's generator, which `keras.utils.set_random_seed` seeds.
    """
    entropy = random.getrandbits(31) if seed is None else abs(seed) * 2 + (seed < 0)
    # Hashed, so that layers with seeds 0, 1, 2, ... do not draw shifts of one sequence.
    start = np.random.SeedSequence(entropy).generate_state(1)[0] & 0x3FFFFFFF
    return add_state(layer, "draw_state", np.asarray([start, 0]), SEED_DTYPE)


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


# Workers.


def has_workers() -> bool:
    """Whether a training is shared by several processes."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().cluster_resolver is not None
    return len(_processes()) > 1


def workers_have_parts() -> bool:
    """Whether each process gives a model its part of a batch, and gets the answers to that.

    On JAX. TensorFlow divides batches and gathers answers itself.
    """
    return BACKEND == "jax" and has_workers()


def is_chief() -> bool:
    """Whether this process writes the files. Of several workers only one does."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().extended.should_checkpoint
    processes = _processes()
    return not processes or jax.process_index() == processes[0]


def same_on_all_workers(number: int) -> bool:
    """Waits for all workers and returns whether they all have this `number`, of at most 24 bits."""
    if not has_workers():
        return True
    if BACKEND == "jax":
        from jax.experimental import multihost_utils  # which a training alone does not need

        return len(set(multihost_utils.process_allgather(np.int32(number)).tolist())) == 1
    strategy = tf.distribute.get_strategy()

    @tf.function
    def reduce():
        mine = tf.constant(number, "int64")
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.stack([mine, mine**2]))

    total, squares = strategy.experimental_local_results(strategy.run(reduce))[0].numpy().tolist()
    return total**2 == squares * strategy.num_replicas_in_sync


def part_of_worker(batch):
    """The examples of a batch that the devices of this process are to get.

    All of them where there is one process, and on TensorFlow.
    """
    if not workers_have_parts():
        return batch
    distribution = keras.distribution.distribution()

    def part(array):
        array = np.asarray(array)
        layout = distribution.get_data_layout(array.shape).backend_layout
        places = layout.addressable_devices_indices_map(array.shape).values()
        starts, stops, _ = zip(*(rows.indices(len(array)) for rows, *_ in places))
        return array[min(starts) : max(stops)]

    return jax.tree.map(part, batch)


def _processes():
    """The numbers of the processes whose devices Keras' own distribution, on JAX, spans."""
    distribution = keras.distribution.distribution() if BACKEND == "jax" else None
    if distribution is None:
        return []
    devices = distribution.device_mesh.backend_mesh.devices.flat
    return sorted({device.process_index for device in devices})


def strategy_scope(model):
    """A context in which `model` trains, and makes variables, as it was built to do."""
    if workers_have_parts():
        return _of_several_processes(keras.distribution.distribution())
    strategy = getattr(model, "distribute_strategy", None)  # only with Keras on TensorFlow
    if strategy is None:
        return contextlib.nullcontext()
    if not KERAS_2 and isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            f"Keras {keras.__version__} trains no model of a MultiWorkerMirroredStrategy (see "
            "https://github.com/keras-team/keras/issues/20585). For several workers use Keras' own "
            "distribution on JAX, or Keras 2: TF_KERAS=1 and TF_USE_LEGACY_KERAS=1. On one machine "
            "MirroredStrategy does."
        )
    return strategy.scope()


@contextlib.contextmanager
def _of_several_processes(distribution):
    if not isinstance(distribution, keras.distribution.DataParallel):
        raise ValueError(
            "Several processes train with `keras.distribution.DataParallel`, under which each of "
            f"them has all weights. Received: {type(distribution).__name__}"
        )
    if len(_processes()) != jax.process_count():
        raise ValueError(
            f"The distribution must have devices of all {jax.process_count()} processes, or of "
            f"one. Received: devices of the processes {_processes()}"
        )
    # Keras would divide the data itself, and takes nothing but a `tf.data.Dataset` for that.
    before, distribution.auto_shard_dataset = distribution.auto_shard_dataset, False
    try:
        yield
    finally:
        distribution.auto_shard_dataset = before


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
