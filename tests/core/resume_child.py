"""Compresses a small stack in processes that are killed one after the other; see test_resume.py.

Arguments: a folder, and where in `KILLS`; everywhere if it is not said. Forks, so that Keras is
imported once. Prints how each process ended, and what was left.
"""

import hashlib
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np

from bert_of_theseus.backend import keras
from bert_of_theseus.recipe import compress
from bert_of_theseus.training import Stage

STAGES = ("predecessor", "warm_start", "theseus", "successor")
# Where the processes are killed, in order: (stage, what happens, how often it may happen before).
KILLS = [
    ("predecessor", "batch", 2),  # before there is a checkpoint
    ("predecessor", "batch", 6),
    ("predecessor", "write part-checkpoint.npz", 1),
    ("warm_start", "batch", 5),
    ("warm_start", "rename new-stage.json", 0),
    ("theseus", "rename part-checkpoint.npz", 1),
    ("theseus", "batch", 3),
    ("theseus", "remove checkpoint.npz", 0),
    ("successor", "batch", 5),
    ("successor", "rename new-stage.json", 0),
]


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(keras.callbacks.Callback):
    """Kills its process at a point of `KILLS`."""

    def __init__(self, stage, event, times):
        super().__init__()
        self.stage, self.event, self.left = stage, event, times
        sys.addaudithook(self.audit)

    def happens(self, stage, event):
        if (stage, event) == (self.stage, self.event):
            self.left -= 1
            if self.left < 0:
                self.now()

    def now(self):
        kill()

    def audit(self, event, arguments):
        verb = {"os.rename": "rename", "os.remove": "remove", "open": "write"}.get(event)
        if verb is None or not isinstance(arguments[0], (str, os.PathLike)):
            return
        if verb == "write" and "w" not in (arguments[1] or ""):
            return
        path = Path(arguments[0])
        name = re.sub(r"^part-\d+-[0-9a-f]+-", "part-", path.name)
        self.happens(path.parent.name, f"{verb} {name}")


class InStage(keras.callbacks.Callback):
    """Tells the killer of the batches of one stage."""

    def __init__(self, killer, stage):
        super().__init__()
        self.killer, self.stage = killer, stage

    def on_train_batch_end(self, batch, logs=None):
        self.killer.happens(self.stage, "batch")


class HalfWritten(Killer):
    """Lets the kernel end the process in the middle of the file, when it has 2000 bytes."""

    def now(self):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))


def block():
    x = keras.Input((4, 8))
    y = keras.layers.Dropout(0.2)(keras.layers.Dense(8, activation="relu")(x))
    y = keras.layers.Add()([x, y])
    return keras.Model(x, keras.layers.LayerNormalization()(y))


def run(directory, killer=None):
    keras.utils.set_random_seed(1)
    predecessor = [keras.Input((4, 8)), *(block() for _ in range(4))]
    successor = [block() for _ in range(2)]
    head = keras.Sequential(
        [
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(48, 4, 8)).astype("float32")
    y = x[:, 0, :3].argmax(-1).astype("int32")
    result = compress(
        predecessor,
        successor,
        head,
        (x[:32], y[:32]),
        (x[32:], y[32:]),
        directory=directory,
        predecessor_stage=Stage(3, 0.01),
        warm_start_stage=Stage(2, 0.01),
        theseus_stage=Stage(2, 0.01, evaluations_per_epoch=2),
        successor_stage=Stage(2, 0.01),
        callbacks={stage: [InStage(killer, stage)] if killer else [] for stage in STAGES},
        batch_size=8,
        latency=False,
        verbose=0,
        seed=5,
    )
    weights = [*result.successor.get_weights(), *result.predecessor.get_weights()]
    digest = hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest()
    Path(directory, "digest").write_text(digest)


def forked(directory, kind=None, *point):
    """Starts a process of its own that compresses, and is killed at `point`."""
    child = os.fork()
    if child == 0:
        try:
            run(directory, kind(*point) if kind else None)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def main(folder, *points):
    whole = forked(f"{folder}/whole")
    for stage, event, times in [KILLS[int(point)] for point in points] or KILLS:
        kind = HalfWritten if event.startswith("write") else Killer
        child = forked(f"{folder}/killed", kind, stage, event, times)
        print("killed by", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), stage, event)
        print("left:", *sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*.*")))
    child = forked(f"{folder}/killed")
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print("whole ended with", os.waitstatus_to_exitcode(os.waitpid(whole, 0)[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
