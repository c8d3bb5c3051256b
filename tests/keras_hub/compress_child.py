"""Compresses a folder in processes that are killed one after the other: test_compress_killed.py.

Forks, so that Keras is imported once. Prints how each process ended.
"""

import os
import signal
import sys
from pathlib import Path

from bert_of_theseus.pretrained import compress_pretrained, trainer  # noqa: F401  imports Keras

# Before what each process is killed: an event of Python's, and the end of its last path. Each of
# the processes goes on where the one before it was killed.
KILLS = [
    ("os.rename", "small/unfinished/request.json"),
    ("os.rename", "unlabeled/answers.npy"),
    ("os.rename", "warm_start/checkpoint.npz"),
    ("os.rename", "theseus/checkpoint.npz"),
    ("os.rename", "theseus/stage.json"),
    ("os.rename", "successor/checkpoint.npz"),
    ("os.rename", "2-layers/report.json"),
    ("os.rename", "small/config.json"),
    ("os.rename", "small/report.json"),
    ("shutil.rmtree", "small/unfinished"),
]


def kill_before(name, end):
    def audit(event, arguments):
        paths = [path for path in arguments if isinstance(path, (str, os.PathLike))]
        if event == name and paths and Path(paths[-1]).as_posix().endswith(end):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def forked(folder, output, kill=None):
    """How a process of its own ends, that compresses and is killed."""
    child = os.fork()
    if child == 0:
        try:
            if kill:
                kill_before(*kill)
            compress_pretrained(
                folder / "model",
                train=folder / "train.csv",
                test=folder / "test.csv",
                unlabeled=folder / "more.txt",
                directory=folder / output,
                num_hidden_layers=2,
                batch_size=16,
                epochs=2,
                verbose=0,
            )
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder):
    for kill in KILLS:
        print("killed by", forked(folder, "small", kill), *kill, flush=True)
    print("ended with", forked(folder, "small"))
    print("whole ended with", forked(folder, "whole"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
