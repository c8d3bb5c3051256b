"""Runs that are killed, and runs in pairs; see test_attacks.py.

Arguments: a folder; "kills", how many at random moments, how many at file events; or "pairs", how
many. Forks, so that Keras is imported once. Prints counts.
"""

import collections
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from bert_of_theseus.backend import keras
from bert_of_theseus.locks import InUseError
from bert_of_theseus.recipe import compress
from bert_of_theseus.training import Stage

# Once, and not in each process: Keras imports it when a model is copied.
with contextlib.suppress(ImportError):
    import tensorflow  # noqa: F401

RANDOM = random.Random(4)
EVENTS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir")


def block():
    x = keras.Input((8,))
    y = keras.layers.Dropout(0.2)(keras.layers.Dense(8, activation="relu")(x))
    return keras.Model(x, keras.layers.Add()([x, y]))


def run(directory, seed=5):
    keras.utils.set_random_seed(1)
    predecessor = [keras.Input((8,)), *(block() for _ in range(2))]
    head = keras.Sequential([keras.layers.Dense(3, activation="softmax")])
    x = np.random.default_rng(0).normal(size=(48, 8)).astype("float32")
    y = x[:, :3].argmax(-1).astype("int32")
    result = compress(
        predecessor,
        [block()],
        head,
        (x[:32], y[:32]),
        (x[32:], y[32:]),
        directory=directory,
        predecessor_stage=Stage(2, 0.01, evaluations_per_epoch=2),
        warm_start_stage=Stage(1, 0.01, evaluations_per_epoch=2),
        theseus_stage=Stage(2, 0.01, evaluations_per_epoch=2),
        successor_stage=Stage(1, 0.01, evaluations_per_epoch=2),
        monitor="val_loss",
        batch_size=8,
        latency=False,
        verbose=0,
        seed=seed,
    )
    weights = [*result.successor.get_weights(), *result.predecessor.get_weights()]
    return hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest()


def forked(directory, answer, *, seed=5, after=None, event=None):
    """Starts a run in a process of its own, killed after so many seconds or file events.

    `answer` will hold the digest of its weights, or its error.
    """
    child = os.fork()
    if child:
        return child
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        left = event

        def count(name, arguments):
            nonlocal left
            if name in EVENTS and str(directory) in str(arguments[0]):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        if event is not None:
            sys.addaudithook(count)
        if after is not None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process as SIGKILL does
            signal.setitimer(signal.ITIMER_REAL, after)
        answer.write_text(run(directory, seed))
    except InUseError:
        answer.write_text("refused: in use")
    except ValueError as error:
        answer.write_text("refused" if "other settings" in str(error) else traceback.format_exc())
    except BaseException:
        answer.write_text(traceback.format_exc())
    os._exit(0)


def ended(child, answer):
    """What a process answered; `None` if it was killed."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return answer.read_text() if status == 0 else None


def whole(folder, seed=5):
    start = time.monotonic()
    digest = ended(
        forked(folder / f"whole {seed}", folder / "answer", seed=seed), folder / "answer"
    )
    assert len(digest) == 64, digest
    return digest, time.monotonic() - start


def kills(folder, moments, events):
    """Each run is killed up to five times, then ends; its weights are those of a whole run."""
    expected, seconds = whole(folder)
    left, done, runs = {"after": moments, "event": events}, collections.Counter(), 0
    while sum(left.values()):
        directory, answer = folder / f"killed {runs}", folder / "answer"
        for _ in range(5):
            how = RANDOM.choice([name for name, count in left.items() if count] or [None])
            if how is None:
                break
            chance = RANDOM.uniform(0, seconds) if how == "after" else RANDOM.randrange(110)
            got = ended(forked(directory, answer, **{how: chance}), answer)
            if got is not None:
                assert got == expected, got
                break
            left[how] -= 1
            done[how] += 1
        got = ended(forked(directory, answer), answer)
        assert got == expected, got
        files = sorted(path.name for path in directory.rglob("*") if path.is_file())
        clean = sorted(path.name for path in (folder / "whole 5").rglob("*") if path.is_file())
        assert files == clean, files
        shutil.rmtree(directory)
        runs += 1
        count = f"{done['after']} kills at random moments, {done['event']} at file events"
        print(f"{count}, {runs} runs", flush=True)
    print("all ended with the same weights")


def pairs(folder, count):
    """Two runs at once, with the same and with another seed: each is right, or refused by name."""
    expected = {seed: whole(folder, seed)[0] for seed in (5, 6)}
    seconds, found = whole(folder / "again")[1], collections.Counter()
    for number in range(count):
        directory, seeds = folder / f"pair {number}", (5, 5 + number % 2)
        answers = [folder / name for name in "ab"]
        children = []
        for seed, answer in zip(seeds, answers):
            children.append(forked(directory, answer, seed=seed))
            time.sleep(RANDOM.uniform(0, seconds) * (seed == seeds[0]) * (len(children) == 1))
        for seed, child, answer in zip(seeds, children, answers):
            got = ended(child, answer)
            found["right" if got == expected[seed] else got] += 1
    assert set(found) <= {"right", "refused", "refused: in use"}, found
    assert found["right"] >= count
    print(f"{count} pairs of runs:", *(f"{n} {what}," for what, n in sorted(found.items())))
    print("none wrong")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "again").mkdir(parents=True)
    {"kills": kills, "pairs": pairs}[sys.argv[2]](place, *map(int, sys.argv[3:]))
