"""Compresses a small stack with two workers, one of which is killed; see test_workers.py.

Arguments: a folder, and "whole" or "killed". Forks, so that TensorFlow is imported once. Prints
how each process ended.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path

import numpy as np
import tensorflow as tf

from bert_of_theseus import ConstantReplacement, Stage, compress
from bert_of_theseus.backend import keras


class Killer(keras.callbacks.Callback):
    """Kills its process after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder, role, kill_after):
    workers = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if workers else None
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(1)

        def block():
            return keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, activation="tanh")])

        predecessor = [keras.Input((8,)), *(block() for _ in range(4))]
        head = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
        x = np.random.default_rng(0).normal(size=(80, 8)).astype("float32")
        y = x[:, :3].argmax(-1).astype("int32")
        result = compress(
            predecessor,
            [block(), block()],
            head,
            (x[:64], y[:64]),
            (x[64:], y[64:]),
            directory=folder / "run",
            predecessor_stage=None,
            warm_start_stage=Stage(1, 0.01),
            theseus_stage=Stage(3, 0.01),
            successor_stage=None,
            schedule=ConstantReplacement(0.7),
            batch_size=32,
            callbacks=[Killer(kill_after)] if kill_after else [],
            verbose=0,
            seed=3,
        )
    end = {
        "hidden_loss": result.stages[0].history["loss"],
        "loss": result.stages[1].history["loss"],
        "val_loss": result.stages[1].history["val_loss"],
        "weights": [w.tolist() for w in result.successor.get_weights()],
        "predecessor": [w.tolist() for w in result.predecessor.get_weights()],
        "written": sorted(p.name for p in folder.rglob("*") if p.is_file()),
    }
    (folder / f"{role}.json").write_text(json.dumps(end))


def forked(folder, role, config=None, kill_after=0):
    """Starts a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            if config is not None:
                os.environ["TF_CONFIG"] = json.dumps(config)
            run(folder, role, kill_after)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # not by way of what TensorFlow does at the end, with peers that are gone
    return child


def pair(folder, kill=None):
    """Two workers; `kill` is one of them, and after how many batches. How both ended."""
    with socket.socket() as a, socket.socket() as b:
        for server in (a, b):
            server.bind(("127.0.0.1", 0))
        cluster = {"worker": [f"127.0.0.1:{server.getsockname()[1]}" for server in (a, b)]}
    (folder / "run").mkdir(parents=True, exist_ok=True)
    children = [
        forked(
            folder,
            index,
            {"cluster": cluster, "task": {"type": "worker", "index": index}},
            kill[1] if kill and kill[0] == index else 0,
        )
        for index in (0, 1)
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def patient(wanted, folder, anew=True, kill=None):
    """`pair`, again if TensorFlow gives up, as it does on a machine that is busy."""
    for _ in range(3):
        if anew:
            shutil.rmtree(folder, ignore_errors=True)
        ends = pair(folder, kill)
        if ends[: len(wanted)] == wanted:
            break
    return ends


def main(folder, what):
    folder = Path(folder)
    print("two", *patient([0, 0], folder / "two"), flush=True)
    if what == "whole":
        (folder / "one").mkdir()
        alone = forked(folder / "one", "alone")
        print("one", os.waitstatus_to_exitcode(os.waitpid(alone, 0)[1]), flush=True)
        return
    killed = folder / "killed"
    print("killed", *patient([-signal.SIGKILL], killed, kill=(0, 5)), flush=True)
    print("again", *patient([0, 0], killed, anew=False), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
