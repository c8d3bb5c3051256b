"""Compresses a small stack with two workers, one of which is killed; see test_workers.py.

On TensorFlow with `tf.distribute`, under Keras 2; on JAX with Keras' own distribution. Arguments: a
folder, and "whole", "quick", "killed" or "refused". Forks, so that the backend is imported once.
Prints how each process ended.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np

from bert_of_theseus import ConstantReplacement, Stage, compress
from bert_of_theseus.backend import BACKEND, keras

if BACKEND == "tensorflow":
    import tensorflow as tf
else:  # as where it is not installed: Keras would import it to seed it
    sys.modules["tensorflow"] = None


class Killer(keras.callbacks.Callback):
    """Kills its process after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def shared_by(addresses, index):
    """A context in which the models of worker `index` are built."""
    if not addresses:
        return contextlib.nullcontext()
    if BACKEND == "jax":
        keras.distribution.initialize(",".join(addresses), len(addresses), index)
        return keras.distribution.DataParallel().scope()
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(config)
    return tf.distribute.MultiWorkerMirroredStrategy().scope()


def run(folder, role, addresses=(), kill_after=0, data_seed=0, quick=False):
    with shared_by(addresses, role):
        keras.utils.set_random_seed(1)

        def block():
            return keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, activation="tanh")])

        predecessor = [keras.Input((8,)), *(block() for _ in range(4))]
        head = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
        x = np.random.default_rng(data_seed).normal(size=(80, 8)).astype("float32")
        y = x[:, :3].argmax(-1).astype("int32")
        result = compress(
            predecessor,
            [block(), block()],
            head,
            (x[:64], y[:64]),
            (x[64:], y[64:]),
            directory=folder / "run",
            predecessor_stage=None,
            warm_start_stage=None if quick else Stage(1, 0.01),
            theseus_stage=Stage(3, 0.01),
            successor_stage=None,
            schedule=ConstantReplacement(0.7),
            initialize="first" if quick else "nearest",
            latency=not quick,
            batch_size=32,
            callbacks=[Killer(kill_after)] if kill_after else [],
            verbose=0,
            seed=3,
        )
    end = {
        "hidden_loss": [loss for stage in result.stages[:-1] for loss in stage.history["loss"]],
        "loss": result.stages[-1].history["loss"],
        "val_loss": result.stages[-1].history["val_loss"],
        "weights": [w.tolist() for w in result.successor.get_weights()],
        "predecessor": [w.tolist() for w in result.predecessor.get_weights()],
        "written": sorted(p.name for p in folder.rglob("*") if p.is_file()),
    }
    (folder / f"{role}.json").write_text(json.dumps(end))


def forked(folder, role, **options):
    """Starts a process of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX, which has no threads yet
        child = os.fork()
    if child == 0:
        try:
            run(folder, role, **options)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # not by way of what TensorFlow does at the end, with peers that are gone
    return child


def pair(folder, kill=None, data_seeds=(0, 0), quick=False):
    """Two workers; `kill` is one of them, and after how many batches. How both ended."""
    with socket.socket() as a, socket.socket() as b:
        for server in (a, b):
            server.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (a, b)]
    (folder / "run").mkdir(parents=True, exist_ok=True)
    children = [
        forked(
            folder,
            index,
            addresses=addresses,
            kill_after=kill[1] if kill and kill[0] == index else 0,
            data_seed=data_seeds[index],
            quick=quick,
        )
        for index in (0, 1)
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def patient(wanted, folder, anew=True, **options):
    """`pair`, again if the backend gives up, as it does on a machine that is busy."""
    for _ in range(3):
        if anew:
            shutil.rmtree(folder, ignore_errors=True)
        ends = pair(folder, **options)
        if ends[: len(wanted)] == wanted:
            break
    return ends


def main(folder, what):
    folder = Path(folder)
    if what == "refused":
        print("refused", *patient([1, 1], folder / "refused", data_seeds=(0, 1)), flush=True)
        return
    quick = what == "quick"
    print("two", *patient([0, 0], folder / "two", quick=quick), flush=True)
    if what != "killed":
        (folder / "one").mkdir()
        alone = forked(folder / "one", "alone", quick=quick)
        print("one", os.waitstatus_to_exitcode(os.waitpid(alone, 0)[1]), flush=True)
        return
    killed = folder / "killed"
    print("killed", *patient([-signal.SIGKILL], killed, kill=(0, 5)), flush=True)
    print("again", *patient([0, 0], killed, anew=False), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
