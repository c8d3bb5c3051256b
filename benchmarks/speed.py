#!/usr/bin/env python
"""What a training step costs: time, memory and time to the first step, beside what it should cost.

Prints one Markdown table of all runs and a second one of the project's bars. `benchmarks/README.md`
says how everything is measured and counted.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path

# The package of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

EXAMPLES = """\
examples:
  python benchmarks/speed.py                                   # all, 15 to 20 minutes on 2 cores
  python benchmarks/speed.py --backends bert4keras --sizes 12-3 --steps 2
  python benchmarks/speed.py --distilled                       # what distillation adds to a stage
  python benchmarks/speed.py --tiny --json speed.json          # to try it, not for the figures
"""

BACKENDS = {  # name: (what must be installed, environment)
    "bert4keras": (
        ("tensorflow", "tf_keras", "bert4keras"),
        {"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"},
    ),
    "tensorflow": (("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
    "jax": (("keras", "jax"), {"KERAS_BACKEND": "jax"}),
    "torch": (("keras", "torch"), {"KERAS_BACKEND": "torch"}),
    "plain PyTorch": (("torch",), {}),
}
SIZES = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "batch_size": 16,
    "sequence_length": 128,
    "vocab_size": 1000,
}
TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "batch_size": 2,
    "sequence_length": 8,
    "vocab_size": 50,
}
DROPOUT = 0.1
NUM_CLASSES = 3
STAGE_BATCHES = 6  # in each of the 3 epochs of a stage, of which the first is not timed
DISTILLED = 1.05  # the aim: a stage that reads its teacher's answers, relative to the plain stage
DRAWS = 3  # steps of each round whose modules are drawn at rate 0.5, as in real training
RATES = (0, 0.5, 1)
LAZY = ("lazy", "original", "without frozen gradients")  # run one path of the 2**m

BARS = (  # aims, for 12 to 3 layers
    ("lazy at 0.5 / dense, CPU time", 0.45),
    ("lazy at 1 / plain fine-tuning, CPU time", 1.05),
    ("lazy at 0.5 / its ideal by counting, CPU time", 1.15),
    ("lazy at 0.5 / plain PyTorch without gradients for frozen weights, CPU time", 0.7),
    ("time to the first step, lazy / dense", 1.0),
    ("peak memory of a step, lazy at 0.5 / dense", 0.75),
)


# Counting: forward, input-gradient and weight-gradient are one unit per layer each.


UNITS = (1, 2, 3)  # of a layer: forward alone, with its input's gradient, with its weights' too


def count_path(kind: str, path, layers_per_module: int, finer: bool = False, costs=UNITS) -> float:
    """Units of one step, or what they cost.

    Args:
        kind: `"lazy"`, `"without frozen gradients"`, `"original"` or `"dense"`.
        path: for each module 1 if the successor runs and 0 if the predecessor does; `"dense"`
            runs both and only reads the length.
        layers_per_module: predecessor layers of a module, `r`.
        finer: whether to leave out the input-gradients of modules below which nothing is trained.
        costs: of a layer: forward alone, with its input's gradient, with its weights' too.

    Returns:
        A successor's layer counts 3. A predecessor's counts 2, as its weights get no gradients; 3
        in `"original"`, where they do; and 1 if `finer` and nothing below it is trained.
    """
    units, trained = 0, False
    for picked in path:
        frozen = costs[0] if finer and not trained else costs[1]
        if kind == "original":
            frozen = costs[2]
        if kind == "dense" or not picked:
            units += frozen * layers_per_module
        if kind == "dense" or picked:
            units += costs[2]
            trained = True
    return units


def count(kind: str, depths, rate: float = 1.0, finer: bool = False) -> float:
    """Expected units of one step at a replacement rate; `kind` may be `"plain"`, too."""
    n, m = depths
    if kind == "plain":
        return 3 * m
    if kind == "dense":
        return count_path(kind, [1] * m, n // m, finer)
    return sum(
        rate ** sum(path) * (1 - rate) ** (m - sum(path)) * count_path(kind, path, n // m, finer)
        for path in itertools.product((0, 1), repeat=m)
    )


def balanced_paths(num_modules: int, part: int = 0) -> list[tuple[int, ...]]:
    """Paths that stand for all `2**num_modules` at rate 0.5.

    All of them up to 3 modules. Up to 7, 8 of them: all combinations of the lowest 3 modules, and
    above them parities of these, so that any two modules take all 4 combinations equally often.
    Each `part` has its own 8, and the first `2**(num_modules - 3)` parts are all paths, once each.
    Beyond 7 modules the same with 16 paths, of the lowest 4 modules.

    Raises:
        ValueError: for more than 15 modules.
    """
    base = min(num_modules, 3 if num_modules <= 7 else 4)
    subsets = [s for size in (2, 3, 4) for s in itertools.combinations(range(base), size)]
    if num_modules - base > len(subsets):
        raise ValueError(f"At most {base + len(subsets)} modules. Received: {num_modules}")
    return [
        low
        + tuple(
            (sum(low[i] for i in subset) + (part >> bit)) % 2
            for bit, subset in enumerate(subsets[: num_modules - base])
        )
        for low in itertools.product((0, 1), repeat=base)
    ]


# The worker: one process, one Keras, several models side by side.


class KerasBench:
    """Models of one Keras, by `(kind, depths)`, each with one fixed batch.

    Args:
        backend: `"bert4keras"`, or a backend of Keras 3.
        sizes: dict like `SIZES`.
    """

    def __init__(self, backend, sizes):
        if backend == "bert4keras":
            import bert_of_theseus.bert4keras  # noqa: F401  before any Keras
        import numpy as np

        from bert_of_theseus.backend import keras

        self.keras, self.sizes = keras, sizes
        self.new_encoder = self.bert4keras if backend == "bert4keras" else self.stack
        keras.utils.set_random_seed(0)
        shape = (sizes["batch_size"], sizes["sequence_length"])
        generator = np.random.default_rng(0)
        tokens = generator.integers(1, sizes["vocab_size"], shape).astype("int32")
        self.x = [tokens, np.zeros_like(tokens)]
        self.y = generator.integers(0, NUM_CLASSES, shape[0]).astype("int32")
        self.models, self.teachers, self.answers = {}, {}, tempfile.TemporaryDirectory()

    def bert4keras(self, depth, prefix):
        from bert4keras.models import build_transformer_model

        return build_transformer_model(
            model="bert",
            num_hidden_layers=depth,
            hidden_act="gelu",
            max_position=self.sizes["sequence_length"],
            dropout_rate=DROPOUT,
            attention_dropout_rate=DROPOUT,
            return_keras_model=False,
            prefix=prefix,
            **{
                name: self.sizes[name]
                for name in (
                    "vocab_size",
                    "hidden_size",
                    "num_attention_heads",
                    "intermediate_size",
                )
            },
        )

    def stack(self, depth, prefix):
        from bert_of_theseus.encoders import StackEncoder

        keras, width = self.keras, self.sizes["hidden_size"]
        layers = keras.layers
        inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
        x = layers.Embedding(self.sizes["vocab_size"], width)(inputs[0])
        x = layers.LayerNormalization()(x + layers.Embedding(2, width)(inputs[1]))
        embedding = keras.Model(inputs, layers.Dropout(DROPOUT)(x), name=f"{prefix}embedding")
        blocks = [transformer_block(self.sizes, f"{prefix}block_{i}") for i in range(depth)]
        return StackEncoder(blocks, inputs=inputs, embedding=embedding)

    def build(self, kind, depths):
        from bert_of_theseus import as_encoder, build_successor_model, build_theseus_model

        keras = self.keras
        n, m = depths
        inputs = keras.Input((None, self.sizes["hidden_size"]))
        # The mean of all tokens: from the first one alone, a compiler could leave out most of the
        # last layer.
        x = keras.layers.GlobalAveragePooling1D()(inputs)
        head = keras.Model(inputs, keras.layers.Dense(NUM_CLASSES, activation="softmax")(x))
        prefix = f"{kind}-{n}-{m}-"
        successor = self.new_encoder(m, f"{prefix}successor-")
        if kind == "plain":
            model = build_successor_model(successor, head)
            head.trainable = False
            as_encoder(successor).embedding_model("embeddings").trainable = False
        else:
            predecessor = self.new_encoder(n, f"{prefix}predecessor-")
            model = build_theseus_model(predecessor, successor, head, execution=kind, seed=0)
            self.teachers[kind, depths] = as_encoder(predecessor).model(
                head, name=f"{prefix}teacher"
            )
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        self.models[kind, depths] = model

    def choose(self, kind, depths, rates):
        if rates is not None:
            for index, rate in enumerate(rates):
                choice = self.models[kind, depths].get_layer(f"module_{index}")
                choice.replacement_rate.assign(float(rate))

    def fit(self, kind, depths):
        """One step of `fit`; returns the clocks when it began and when its result was there."""
        clocks = []

        class Clocks(self.keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                clocks.append(clock())

            def on_train_batch_end(self, batch, logs=None):
                float(logs["loss"])  # JAX would still be at it
                clocks.append(clock())

        self.models[kind, depths].fit(self.x, self.y, len(self.y), verbose=0, callbacks=[Clocks()])
        return clocks

    def stage(self, kind, depths, how):
        """CPU and wall seconds a step of a stage of `training.fit`, the feed of batches included.

        `how` is `"plain"`; `"answers"`, distilled, on answers that are read; or `"teacher"`,
        distilled, with the teacher in each step.
        """
        import numpy as np

        from bert_of_theseus.layers import choice_layers
        from bert_of_theseus.models import distil
        from bert_of_theseus.training import Stage, fit

        model = self.models[kind, depths]
        if kind == "lazy":  # all stages draw alike
            for number, choice in enumerate(choice_layers(model)):
                choice.draw_state.assign(np.asarray([number, 0], "int32"))
        x = [np.concatenate([part] * STAGE_BATCHES) for part in self.x]
        x[0] = np.random.default_rng(1).permuted(x[0], axis=1)
        data = x, np.concatenate([self.y] * STAGE_BATCHES)
        size = len(self.y)
        if how == "teacher":  # which a list of batches does not tell
            starts = range(0, len(data[1]), size)
            data = [([p[i : i + size] for p in x], data[1][i : i + size]) for i in starts]
        if how != "plain":
            model = distil(model, self.teachers["lazy", (self.depth, depths[1])])
        spent, ends = [], []

        class Clocks(self.keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                float(logs["loss"])  # JAX would still be at it
                ends.append(clock())
                if batch:
                    spent.append([now - then for now, then in zip(ends[-1], ends[-2])])

        with tempfile.TemporaryDirectory() as directory:
            fit(
                model,
                data,
                stage=Stage(3, 1e-5),
                directory=directory,
                answers=self.answers.name,
                metrics=(),
                batch_size=size,
                callbacks=[Clocks()],
                verbose=0,
            )
        spent = spent[STAGE_BATCHES - 1 :]  # without the first epoch
        return [statistics.fmean(times) for times in zip(*spent)]


def transformer_block(sizes, name):
    """A layer of BERT in Keras 3."""
    import keras
    from keras import layers

    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    epsilon = sizes.get("layer_norm_eps", 1e-3)
    inputs = keras.Input((None, width))
    x = layers.MultiHeadAttention(heads, width // heads, dropout=DROPOUT)(inputs, inputs)
    x = layers.LayerNormalization(epsilon=epsilon)(
        layers.Add()([inputs, layers.Dropout(DROPOUT)(x)])
    )
    y = layers.Dense(sizes["intermediate_size"], activation="gelu")(x)
    y = layers.Dropout(DROPOUT)(layers.Dense(width)(y))
    x = layers.LayerNormalization(epsilon=epsilon)(layers.Add()([x, y]))  # `+` would drop the mask
    block = keras.Model(inputs, x, name=name)
    block.supports_masking = True  # Keras' own layers inside do
    return block


class TorchBench:
    """The original PyTorch algorithm, on PyTorch's own transformer layers.

    Each module draws in `forward`, and its successor or its predecessor runs. Adam updates the
    successor. As `"original"`, the backward pass also computes the gradients of all frozen
    weights; as `"without frozen gradients"` they have `requires_grad_(False)`. The original also
    clips gradients, which no other run here does.
    """

    def __init__(self, backend, sizes):
        import torch

        self.torch, self.sizes = torch, sizes
        torch.manual_seed(0)
        shape = (sizes["batch_size"], sizes["sequence_length"])
        self.tokens = torch.randint(1, sizes["vocab_size"], shape)
        self.labels = torch.randint(0, NUM_CLASSES, shape[:1])
        self.models = {}

    def build(self, kind, depths):
        nn, width = self.torch.nn, self.sizes["hidden_size"]
        n, m = depths

        def block():
            return nn.TransformerEncoderLayer(
                width,
                self.sizes["num_attention_heads"],
                self.sizes["intermediate_size"],
                DROPOUT,
                "gelu",
                batch_first=True,
            )

        parts = {
            "tokens": nn.Embedding(self.sizes["vocab_size"], width),
            "segments": nn.Embedding(2, width),
            "embedding": nn.Sequential(nn.LayerNorm(width), nn.Dropout(DROPOUT)),
            "predecessor": nn.ModuleList(
                nn.Sequential(*(block() for _ in range(n // m))) for _ in range(m)
            ),
            "successor": nn.ModuleList(block() for _ in range(m)),
            "head": nn.Linear(width, NUM_CLASSES),
        }
        model = nn.ModuleDict(parts).train()
        if kind != "original":
            model.requires_grad_(False)
            model["successor"].requires_grad_(True)
        optimizer = self.torch.optim.Adam(model["successor"].parameters(), 1e-4)
        self.models[kind, depths] = [model, optimizer, [0.5] * m]

    def choose(self, kind, depths, rates):
        self.models[kind, depths][2] = rates

    def fit(self, kind, depths):
        torch = self.torch
        begin = clock()
        model, optimizer, rates = self.models[kind, depths]
        x = model["tokens"](self.tokens) + model["segments"](torch.zeros_like(self.tokens))
        x = model["embedding"](x)
        for rate, theirs, ours in zip(rates, model["predecessor"], model["successor"]):
            x = (ours if torch.rand(()) < rate else theirs)(x)
        loss = torch.nn.functional.cross_entropy(model["head"](x.mean(1)), self.labels)
        if loss.requires_grad:  # not if all modules are the predecessor's, without gradients
            loss.backward()
        optimizer.step()
        model.zero_grad()
        loss.item()
        return begin, clock()


def clock():
    return time.process_time(), time.perf_counter()


def work(backend, sizes):
    """Answers the parent's commands, a line of JSON each, until it closes the pipe."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    bench = (TorchBench if backend == "plain PyTorch" else KerasBench)(backend, sizes)
    for line in sys.stdin:
        command, kind, depths, rates = json.loads(line)
        key = (kind, tuple(depths))
        if command == "build":
            reply = bench.build(*key)
        elif command == "stage":
            bench.depth = rates[1]
            reply = bench.stage(*key, rates[0])
        else:
            bench.choose(*key, rates)
            reply = {"step": _time_step, "first": _time_first, "peak": _peak_memory}[command](
                bench, key
            )
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _time_step(bench, key):
    begin, end = bench.fit(*key)
    return end[0] - begin[0], end[1] - begin[1]


def _time_first(bench, key):
    begin = clock()
    _, end = bench.fit(*key)
    return end[0] - begin[0], end[1] - begin[1]


def _peak_memory(bench, key):
    """MiB that a step of `fit` needs on top of what is resident before it; `None` if unknown."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None

    def read(field):
        (line,) = (s for s in status.read_text().splitlines() if s.startswith(field + ":"))
        return int(line.split()[1]) / 1024

    bench.fit(*key)
    gc.collect()
    if platform.libc_ver()[0] == "glibc":  # keeps freed memory, which would then look resident
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    except OSError:
        return None
    before = read("VmRSS")
    bench.fit(*key)
    return read("VmHWM") - before


# The parent: starts the workers, has them step in turn, and tabulates.


class Worker:
    """A process of its own that holds models of one backend; `close` ends it."""

    def __init__(self, backend, sizes, **environment):
        self.backend = backend
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
        inherited.pop("KERAS_BACKEND", None)
        environment = {**inherited, **BACKENDS[backend][1], **environment}
        # A benchmark of CPUs; TensorFlow's start-up notices are left out.
        environment.update(CUDA_VISIBLE_DEVICES="", JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3")
        command = [sys.executable, __file__, "--worker", backend, json.dumps(sizes)]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  shown if it fails
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )

    def send(self, *command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `receive` says why

    def receive(self):
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.log.seek(0)
            raise SystemExit(
                f"{self.log.read()}\nerror: the worker for {self.backend} ended with status "
                f"{status}, its output is above. Leave it out of --backends to go on without it."
            )
        return json.loads(line)

    def ask(self, *command):
        self.send(*command)
        return self.receive()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.log.close()


def models_of(backend, pair):
    """`(kind, depths)` of the models that are compared for one pair of depths."""
    n, m = pair
    if backend == "plain PyTorch":
        return [(kind, pair) for kind in LAZY[1:]]
    return [("dense", pair), ("lazy", pair), ("plain", (m, m)), ("plain", (n, n))]


def all_models(backend, pairs):
    return list(dict.fromkeys(model for pair in pairs for model in models_of(backend, pair)))


def paths_of(kind, depths, rate, part=0):
    """The settings whose mean is the cost of a row of the table."""
    m = depths[1]
    if rate is None:
        return [None]
    if rate == "drawn":
        return [(0.5,) * m]
    return balanced_paths(m, part) if rate == 0.5 else [(rate,) * m]


def rates_of(kind):
    if kind not in LAZY:
        return [None]
    return [*RATES, "drawn"] if kind == "lazy" else RATES


def steps_of(kind, depths, part):
    """The settings in which a model takes a step in one round."""
    paths = [path for rate in rates_of(kind) for path in paths_of(kind, depths, rate, part)]
    # All dropped out or all picked may be among the paths of rate 0.5; one step is enough.
    paths = list(dict.fromkeys(paths))
    return paths + paths[-1:] * (DRAWS - 1) if kind == "lazy" else paths


def time_steps(backends, pairs, sizes, rounds, progress):
    """Times steps of all models in turn.

    Returns:
        A list of rounds, each a dict from `(backend, pair, kind, depths, path)` to the list of its
        `(cpu seconds, wall seconds)`; and a dict from `(backend, kind, depths)` to that of the
        first step.
    """
    workers = {backend: Worker(backend, sizes) for backend in backends}
    first, rounds_of_times = {}, []
    try:
        for backend, worker in workers.items():
            # From the smallest up: the first of all pays for what a process does but once.
            for kind, depths in reversed(all_models(backend, pairs)):
                worker.ask("build", kind, depths, None)
                seconds = worker.ask("first", kind, depths, rates_at(kind, depths, 0.5))
                first[backend, kind, depths] = [seconds]
                # What is allocated in a first step of either side is not timed below.
                for rate in (0, 1):
                    worker.ask("step", kind, depths, rates_at(kind, depths, rate))
                progress.update()
        for part in range(rounds):
            times = {}
            for pair, (backend, worker) in itertools.product(pairs, workers.items()):
                steps = [
                    (kind, depths, path)
                    for kind, depths in models_of(backend, pair)
                    for path in steps_of(kind, depths, part)
                ]
                # What the others are compared with goes first and last, as it has but one path.
                last = [step for step in steps if step[0] == "dense" or step[1] == (pair[1],) * 2]
                for step in [*steps, *last]:
                    times.setdefault((backend, pair, *step), []).append(worker.ask("step", *step))
                progress.update()
            rounds_of_times.append(times)
        return rounds_of_times, first
    finally:
        for worker in workers.values():
            worker.close()


def rates_at(kind, depths, rate):
    return (rate,) * depths[1] if kind in LAZY else None


def time_first_steps(pair, sizes, repeats, progress):
    """Times bert4keras' first steps in processes of their own, for the bar.

    Returns:
        A dict from `(backend, kind, depths)` to the list of `(cpu seconds, wall seconds)`.
    """
    first = {}
    for _, kind in itertools.product(range(repeats), ("dense", "lazy")):
        with closing(Worker("bert4keras", sizes)) as worker:
            worker.ask("build", kind, pair, None)
            seconds = worker.ask("first", kind, pair, rates_at(kind, pair, 0.5))
        first.setdefault(("bert4keras", kind, pair), []).append(seconds)
        progress.update()
    return first


def time_stages(backend, pair, sizes, rounds, progress):
    """Times a plain stage and both ways to distil it, in turn.

    Returns:
        For the Theseus stage (`"lazy"`) and the successor's own (`"plain"`), a list of rounds: a
        dict from `"plain"`, `"answers"` and `"teacher"` to `(cpu seconds, wall seconds)` a step.
    """
    n, m = pair
    found = {}
    with closing(Worker(backend, sizes)) as worker:
        for kind, depths in (("lazy", pair), ("plain", (m, m))):
            worker.ask("build", kind, depths, None)
            if kind == "lazy":
                for choice in range(2):  # what a process does but once
                    worker.ask("stage", kind, depths, (("plain", "answers")[choice], n))
            found[kind] = []
            for _ in range(rounds):
                order = ("plain", "answers", "teacher", "plain")
                times = [worker.ask("stage", kind, depths, (how, n)) for how in order]
                first, answers, teacher, last = times
                plain = [(a + b) / 2 for a, b in zip(first, last)]
                found[kind].append({"plain": plain, "answers": answers, "teacher": teacher})
                progress.update()
    return found


def stage_table(found):
    """Of what `time_stages` returns, by backend."""
    header = ["backend", "stage", "plain, CPU ms a step", "distilled", "/ plain", "at most"]
    header += ["teacher in each step", "/ plain"]
    rows = []
    for backend, stages in found.items():
        for kind, rounds in stages.items():
            cells = [backend, "Theseus" if kind == "lazy" else "successor"]
            cells.append(f"{1e3 * statistics.median(each['plain'][0] for each in rounds):.1f}")
            for how in ("answers", "teacher"):
                times = statistics.median(each[how][0] for each in rounds)
                ratio = statistics.median(each[how][0] / each["plain"][0] for each in rounds)
                cells += [f"{1e3 * times:.1f}", f"{ratio:.2f}"]
                if how == "answers":
                    cells[-1] += " PASS" if ratio <= DISTILLED else " FAIL"
                    cells.append(f"{DISTILLED:.2f}")
            rows.append(cells)
    return markdown(header, rows)


def measure_memory(backends, pairs, sizes, progress):
    """Peak memory of a step: a dict from `(backend, kind, depths, path)` to MiB or `None`."""
    # With oneDNN, TensorFlow never gives memory back, so a step's own use could not be told.
    only = {"TF_ENABLE_ONEDNN_OPTS": "0", "OMP_WAIT_POLICY": "passive"}  # the second for the speed
    workers = {b: Worker(b, sizes, **only) for b in backends}
    peak = {}
    try:
        for models in itertools.zip_longest(*(all_models(b, pairs) for b in backends)):
            # Side by side, since memory does not depend on the load.
            asked = []
            for (backend, worker), model in zip(workers.items(), models):
                if model is not None:
                    paths = dict.fromkeys(steps_of(*model, 0))
                    paths = [path for path in paths if path is None or 0.5 not in path]
                    worker.send("build", *model, None)
                    for path in paths:
                        worker.send("peak", *model, path)
                    asked.append((backend, model, paths))
            for backend, model, paths in asked:
                workers[backend].receive()
                for path in paths:
                    peak[(backend, *model, path)] = workers[backend].receive()
                progress.update()
        return peak
    finally:
        for worker in workers.values():
            worker.close()


def bar_pair(pairs):
    return (12, 3) if (12, 3) in pairs else pairs[-1]


class Results:
    """What was measured, by row of the table: `(backend, pair, kind, depths, rate)`."""

    def __init__(self, rounds, first, peak):
        self.rounds, self.first, self.peak = rounds, first, peak

    def times(self, row, clock=0):
        """Milliseconds, one number per round; `clock` 0 is CPU time, 1 wall time."""
        *run, rate = row
        return [
            # Every path counts the same, however many steps it took.
            1e3
            * statistics.mean(
                statistics.mean(time[clock] for time in times[(*run, path)])
                for path in paths_of(*run[2:], rate, part)
            )
            for part, times in enumerate(self.rounds)
        ]

    def ratio(self, row, other):
        """Median over the rounds of the ratios of CPU times; `None` if `other` was not run."""
        try:
            return statistics.median(a / b for a, b in zip(self.times(row), self.times(other)))
        except KeyError:
            return None

    def to_ideal(self, row, finer=False):
        _, pair, kind, depths, rate = row
        units = count(kind, depths, 0.5 if rate == "drawn" else rate, finer)
        return self.ratio(row, plain_row(row)) * 3 * pair[1] / units

    def peaks(self, row):
        """MiB for each path of a row; `None` if not known."""
        backend, _, kind, depths, rate = row
        paths = paths_of(kind, depths, 0.5 if rate == "drawn" else rate)
        peaks = [self.peak[backend, kind, depths, path] for path in paths]
        return None if None in peaks else peaks

    def first_step(self, row, clock=1):
        backend, _, kind, depths, _ = row
        return statistics.median(time[clock] for time in self.first[backend, kind, depths])


def plain_row(row):
    """The row of plain fine-tuning at the successor's depth, by which a unit is measured."""
    backend, pair, *_ = row
    if backend == "plain PyTorch":
        return backend, pair, "without frozen gradients", pair, 1
    return backend, pair, "plain", (pair[1],) * 2, None


def dense_row(row):
    backend, pair, *_ = row
    return backend, pair, "dense", pair, None


def describe(kind, depths, rate):
    name = {
        "plain": f"plain fine-tuning, {depths[1]} layer{'s' * (depths[1] > 1)}",
        "original": "original algorithm",
        "without frozen gradients": "the same without gradients for frozen weights",
    }.get(kind, kind)
    if rate is None:
        return name
    return f"{name}, rate 0.5 as drawn" if rate == "drawn" else f"{name}, rate {rate}"


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value, digits=2):
    return "–" if value is None else f"{value:.{digits}f}"


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def speed_table(results, backends, pairs):
    header = [
        "layers",
        "backend",
        "run",
        "CPU ms (quartiles)",
        "wall ms",
        "units",
        "finer",
        "ideal CPU ms",
        "/ dense",
        "/ ideal",
        "/ finer",
        "peak MiB",
        "first step s",
    ]
    rows = [
        speed_row(results, (backend, pair, kind, depths, rate))
        for pair in pairs
        for backend in backends
        for kind, depths in models_of(backend, pair)
        for rate in rates_of(kind)
    ]
    return markdown(header, rows)


def speed_row(results, row):
    backend, (n, m), kind, depths, rate = row
    cpu = results.times(row)
    low, high = (
        cpu * 2 if len(cpu) == 1 else statistics.quantiles(cpu, n=4, method="inclusive")[::2]
    )
    rate = 0.5 if rate == "drawn" else rate
    units = count(kind, depths, rate)
    unit = statistics.median(results.times(plain_row(row))) / (3 * m)
    peaks = results.peaks(row)
    memory = number(peaks and statistics.mean(peaks), 0)
    if peaks and len(peaks) > 1:
        memory += f" (max {max(peaks):.0f})"
    return [
        f"{n} to {m}",
        backend,
        describe(kind, depths, row[-1]),
        f"{statistics.median(cpu):.0f} ({low:.0f}–{high:.0f})",
        number(statistics.median(results.times(row, clock=1)), 0),
        f"{units:g}",
        f"{count(kind, depths, rate, finer=True):.4g}",
        number(units * unit, 0),
        number(results.ratio(row, dense_row(row))),
        number(results.to_ideal(row)),
        number(results.to_ideal(row, finer=True)),
        memory,
        number(results.first_step(row), 1),
    ]


def bar_values(results, backend, pairs):
    """What is measured for each of `BARS`, in order; `None` if not."""
    pair = bar_pair(pairs)
    half = (backend, pair, "lazy", pair, 0.5)
    dense, plain = dense_row(half), plain_row(half)
    peaks = results.peaks(half), results.peaks(dense)
    return [
        results.ratio(half, dense),
        results.ratio((*half[:4], 1), plain),
        results.to_ideal(half),
        results.ratio(half, ("plain PyTorch", pair, "without frozen gradients", pair, 0.5)),
        results.first_step(half) / results.first_step(dense),
        # The path that needs most decides whether training fits.
        None if None in peaks or not max(peaks[1]) else max(peaks[0]) / max(peaks[1]),
    ]


def bar_table(results, backends, pairs):
    backends = [backend for backend in backends if backend != "plain PyTorch"]
    columns = [bar_values(results, backend, pairs) for backend in backends]
    rows = [
        [name, f"{limit:.2f}"]
        + [
            "not measured" if v[i] is None else f"{v[i]:.2f} {'PASS' if v[i] <= limit else 'FAIL'}"
            for v in columns
        ]
        for i, (name, limit) in enumerate(BARS)
    ]
    n, m = bar_pair(pairs)
    return markdown([f"{n} to {m} layers", "at most", *backends], rows)


def machine(backends):
    names = [package for backend in backends for package in BACKENDS[backend][0]]
    versions = [f"{name} {metadata.version(name)}" for name in dict.fromkeys(names)]
    system = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{system}, {', '.join(versions)}"


def pair_of_depths(text):
    try:
        n, m = map(int, text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected two depths like 12-3, received {text!r}"
        ) from None
    if not 1 <= m < n or n % m or m > 15:
        raise argparse.ArgumentTypeError(
            f"the second depth must divide the first and be at most 15, received {text!r}"
        )
    return n, m


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=pair_of_depths,
        metavar="N-M",
        help="layers of predecessor and successor (default: 12-6 12-3; with --tiny 4-2)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="ROUNDS",
        help="rounds; in each, every model takes a step in each setting (default: 3; --tiny 2)",
    )
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, help="default: all that are installed"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        help="fresh processes for the bar on the time to the first step (default: 3; --tiny 1)",
    )
    parser.add_argument(
        "--distilled",
        action="store_true",
        help="time plain and distilled stages of `training.fit` instead",
    )
    parser.add_argument("--tiny", action="store_true", help="very small models, to try it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return work(args.worker[0], json.loads(args.worker[1]))
    for name in ("steps", "repeats"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"argument --{name}: expected at least 1, received {getattr(args, name)}")

    from tqdm import tqdm

    installed = [
        backend
        for backend, (packages, _) in BACKENDS.items()
        if all(importlib.util.find_spec(package) for package in packages)
    ]
    backends = [b for b in BACKENDS if b in (args.backends or installed)]
    for backend in backends:
        if backend not in installed:
            parser.error(f"argument --backends: {backend} needs {', '.join(BACKENDS[backend][0])}")
    sizes = TINY if args.tiny else SIZES
    pairs = list(dict.fromkeys(args.sizes or ([(4, 2)] if args.tiny else [(12, 6), (12, 3)])))
    rounds = args.steps or (2 if args.tiny else 3)
    repeats = args.repeats or (1 if args.tiny else 3)

    if args.distilled:
        backends = [backend for backend in backends if backend != "plain PyTorch"]
        with tqdm(total=2 * rounds * len(backends), file=sys.stderr) as progress:
            found = {
                backend: time_stages(backend, bar_pair(pairs), sizes, rounds, progress)
                for backend in backends
            }
        print(f"{machine(backends)}. {', '.join(f'{k} {v}' for k, v in sizes.items())}.\n")
        print(stage_table(found))
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return

    num_models = sum(len(all_models(backend, pairs)) for backend in backends)
    num_fresh = 2 * repeats * ("bert4keras" in backends)
    total = 2 * num_models + num_fresh + rounds * len(pairs) * len(backends)
    with tqdm(total=total, file=sys.stderr) as progress:
        progress.set_description("memory")
        peak = measure_memory(backends, pairs, sizes, progress)
        fresh = {}
        if "bert4keras" in backends:
            progress.set_description("first steps")
            fresh = time_first_steps(bar_pair(pairs), sizes, repeats, progress)
        progress.set_description("steps")
        times, first = time_steps(backends, pairs, sizes, rounds, progress)
    first.update(fresh)
    results = Results(times, first, peak)
    print(f"{machine(backends)}. {', '.join(f'{k} {v}' for k, v in sizes.items())}.\n")
    print(speed_table(results, backends, pairs), bar_table(results, backends, pairs), sep="\n\n")
    if args.json:
        record = {
            "machine": machine(backends),
            "sizes": sizes,
            "rounds": [[[*key, value] for key, value in t.items()] for t in times],
            "first_step": [[*key, value] for key, value in first.items()],
            "peak_mib": [[*key, value] for key, value in peak.items()],
            "bars": [
                [backend, name, limit, value]
                for backend in backends
                if backend != "plain PyTorch"
                for (name, limit), value in zip(BARS, bar_values(results, backend, pairs))
            ],
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
