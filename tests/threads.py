"""Eight threads that share a predictor, or a process that is forked from the one that has it."""

import os
import random
import threading
import time
import traceback
import warnings

import numpy as np

NUM_THREADS = 8


def count_wrong(predictor, texts, expected, calls, atol=1e-5):
    """Results that are not as expected, and the number of calls; an error in a thread is raised.

    `expected` has the probabilities of each text, in the order of the predictor's labels.
    """
    wrong, done, errors = [0], [0], []

    def work(seed):
        draw = random.Random(seed)
        try:
            for _ in range(calls):
                some = draw.choices(texts, k=draw.randrange(1, 10))
                for text, row in zip(some, predictor.predict(some), strict=True):
                    found = [row["probabilities"][label] for label in predictor.labels]
                    wrong[0] += not np.allclose(found, expected[text], atol=atol, rtol=0)
                done[0] += 1
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return wrong[0], done[0]


def exit_status(child, seconds=60):
    """0 if `child` returns in a forked process, 1 if it raises, and `None` if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python and JAX warn of what is tried here
        process = os.fork()
    if process == 0:
        try:
            child()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(process, 9)
    os.waitpid(process, 0)
    return None
