#!/usr/bin/env python
"""Peak memory of a training on many rows, and the time to resume in the middle of them.

Rows are made up. Each figure is that of a process of its own, which opens the data, trains a small
model for some steps, and goes to the middle of the epoch. `benchmarks/README.md` says how it is
measured. Linux only; the storage `arrow` needs `datasets`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

EXAMPLES = """\
examples:
  python benchmarks/memory.py                              # 50,000 and 5 million rows
  python benchmarks/memory.py --storages memory --rows 50000 500000
  python benchmarks/memory.py --tiny                       # to try it out, not for the figures
"""

WORDS = [f"w{number}" for number in range(2000)]
CHUNK = 100_000  # rows that are written at a time
MAX_LENGTH, BATCH_SIZE = 32, 32
STORAGES = {
    "arrow": "texts in a `datasets.Dataset`, `StoredBatches`",
    "memmap": "token ids in a NumPy memmap, `StoredBatches`",
    "arrays": "token ids in a NumPy memmap, `(x, y)`",
    "memory": "texts in memory, `Batches`",
}


# Data.


def make(storage, count, folder):
    """Writes the rows, some at a time."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
    if storage in ("arrow", "memory"):
        import datasets

        parts = [datasets.Dataset.from_dict(texts(size, seed)) for seed, size in chunks(count)]
        datasets.disable_progress_bars()
        datasets.concatenate_datasets(parts).save_to_disk(folder / "rows")
        return
    shape = (count, MAX_LENGTH)
    ids = np.lib.format.open_memmap(folder / "ids.npy", "w+", "int32", shape)
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", "int32", (count,))
    for seed, size in chunks(count):
        rows, rng = slice(seed * CHUNK, seed * CHUNK + size), np.random.default_rng(seed)
        ids[rows] = rng.integers(4, len(WORDS) + 4, (size, MAX_LENGTH))
        labels[rows] = rng.integers(2, size=size)


def chunks(count):
    """The number and the size of each part of the rows."""
    return [(n, min(CHUNK, count - n * CHUNK)) for n in range(-(-count // CHUNK))]


def texts(count, seed):
    """Texts of 4 to 28 words, with labels."""
    rng = np.random.default_rng(seed)
    halves = [" ".join(rng.choice(WORDS, size=rng.integers(2, 15))) for _ in range(1000)]
    pairs = rng.integers(1000, size=(count, 2)).tolist()
    labels = rng.integers(2, size=count).tolist()
    return {"text": [f"{halves[i]} {halves[j]}" for i, j in pairs], "label": labels}


def load(storage, folder):
    """The data as `fit` takes them."""
    from bert_of_theseus.data import Classification, Example, StoredBatches, Tokenizer

    if storage in ("memmap", "arrays"):
        ids, labels = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "labels"))
        if storage == "arrays":
            return ids, labels
        rows = {"token_ids": ids, "label": labels}
        names = ["token_ids"]
        return StoredBatches(rows, batch_size=BATCH_SIZE, max_length=MAX_LENGTH, input_names=names)
    import datasets

    rows = datasets.load_from_disk(folder / "rows")
    tokenizer, task = Tokenizer(folder / "vocab.txt"), Classification(["a", "b"])
    options = {"batch_size": BATCH_SIZE, "input_names": ["token_ids"]}
    if storage == "arrow":
        return task.stored_batches(rows, tokenizer, MAX_LENGTH, **options)
    examples = [Example(row["text"], row["label"]) for row in rows]
    return task.batches(examples, tokenizer, MAX_LENGTH, **options)


# What is measured.


class Peak:
    """The most memory that the process cannot give back: that of no file, sampled in a thread."""

    def __init__(self):
        self.bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while not self._ended.wait(0.01):
            self.sample()

    def sample(self):
        with open("/proc/self/status", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        self.bytes = max(self.bytes, 1024 * int(fields["RssAnon"].split()[0]))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join()
        self.sample()


def measure(storage, folder, steps):
    """Prints the figures of this process."""
    from bert_of_theseus import Stage
    from bert_of_theseus.training import BatchAccess, Limits, fit
    from bert_of_theseus.training.examples import first_batch
    from bert_of_theseus.training.feed import Rounds

    model = small_model(named=storage != "arrays")
    found = {}
    with Peak() as peak:
        # What `fit` does before its first step, where a checkpoint says that half is done.
        start = time.perf_counter()
        access = BatchAccess(load(storage, folder), BATCH_SIZE, seed=0)
        Limits(model, "sparse_categorical_crossentropy").check(access, "train")
        first_batch(access)
        rounds = Rounds(access, Stage(epochs=1, evaluations_per_epoch=min(1000, access.length)))
        stream = rounds.stream(rounds.count // 2)
        next(stream)
        found["resume_s"] = time.perf_counter() - start
        start, count = time.perf_counter(), min(steps, 200)
        for _ in range(count):
            next(stream, None)
        found["batch_ms"] = 1000 * (time.perf_counter() - start) / count
        del access, rounds, stream
        stage = Stage(epochs=1, learning_rate=1e-3, steps=steps)
        options = {"stage": stage, "batch_size": BATCH_SIZE, "verbose": 0}
        fit(model, load(storage, folder), directory=folder / "run", **options)
    found["peak"] = peak.bytes
    import resource  # not on Windows

    found["resident"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(found))


def small_model(named):
    import keras

    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(len(WORDS) + 4, 64)(ids)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(64, activation="gelu")(x))
    outputs = keras.layers.Dense(2, activation="softmax")(x)
    return keras.Model({"token_ids": ids} if named else ids, outputs)


def child(*arguments):
    """Runs this script in a process of its own; returns the last line that it prints, parsed."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, __file__, "child", json.dumps(arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, arguments))} ended with {done.returncode}")
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


def run(storages, counts, steps):
    """The rows of the table."""
    rows = []
    for storage in storages:
        for count in counts:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "data"
                child("make", storage, count, str(folder))
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                found = child("measure", storage, str(folder), steps)
            row = {"data": STORAGES[storage], "count": count, "size": size, **found}
            first = next((r for r in rows if r["data"] == row["data"]), row)
            rows.append({**row, "ratio": row["peak"] / first["peak"]})
            print(f"{storage}, {count:,} rows: {found}", file=sys.stderr, flush=True)
    return rows


def table(rows):
    from bert_of_theseus.table import markdown_table

    def mib(count):
        return f"{count / 2**20:,.0f} MiB"

    columns = {
        "data": ("data", str),
        "count": ("rows", ",d"),
        "size": ("on disk", mib),
        "peak": ("peak memory", mib),
        "ratio": ("beside the first", ".2f"),
        "resident": ("with mapped pages", mib),
        "resume_s": ("s to resume in the middle", ".2f"),
        "batch_ms": ("ms per batch of 32", ".2f"),
    }
    return markdown_table(rows, columns)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["child"]:
        kind, storage, *rest = json.loads(argv[1])
        if kind == "make":
            return make(storage, rest[0], Path(rest[1]))
        return measure(storage, Path(rest[0]), rest[1])
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = ["arrow", "memmap"]
    what = f"{', '.join(STORAGES)} (default: {' '.join(default)})"
    add("--storages", nargs="+", choices=STORAGES, default=default, metavar="NAME", help=what)
    what = "default: 50000 5000000; with --tiny 500 2000"
    add("--rows", nargs="+", type=int, metavar="N", help=what)
    add("--steps", type=int, metavar="N", help="steps of training (default: 500; with --tiny 3)")
    add("--tiny", action="store_true", help="few rows and steps, to try it out")
    add("--json", type=Path, metavar="FILE", help="write all figures there, too")
    args = parser.parse_args(argv)
    counts = args.rows or ([500, 2000] if args.tiny else [50_000, 5_000_000])
    steps = args.steps or (3 if args.tiny else 500)
    if min(*counts, steps) < 1:
        parser.error("--rows and --steps: expected at least 1")
    rows = run(args.storages, counts, steps)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
