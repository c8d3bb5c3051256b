#!/usr/bin/env python
"""What a training step costs on an accelerator.

Needs NumPy, Keras 3 and JAX or PyTorch; no TensorFlow, no bert4keras. `speed` times steps of
BERT-base beside the FLOP/s that a matrix product reaches. `benchmarks/README.md` says how it is
measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import speed

EXAMPLES = """\
examples:
  python benchmarks/gpu.py speed                      # BERT-base, 12 to 6 and 12 to 3
  python benchmarks/gpu.py speed --backend torch --dtypes bfloat16 --sizes 12-3
  python benchmarks/gpu.py speed --tiny               # to try it anywhere, not for the figures
"""

BERT_BASE = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "batch_size": 32,
    "sequence_length": 128,
    "vocab_size": 30522,
}
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
WARM_UP = 2  # steps of a `fit` before its clock starts


class Device:
    """The accelerator, or the CPU, of the backend in use."""

    def __init__(self):
        import keras

        self.backend = keras.backend.backend()
        if self.backend not in ("jax", "torch"):
            sys.exit(f"error: JAX or PyTorch is needed. Received: KERAS_BACKEND={self.backend}")

    @property
    def name(self):
        if self.backend == "jax":
            import jax

            return jax.local_devices()[0].device_kind
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def peak_memory(self):
        """MiB at most in use so far; `None` where the backend does not tell."""
        if self.backend == "jax":
            import jax

            found = jax.local_devices()[0].memory_stats()
            return found and found["peak_bytes_in_use"] / 2**20
        import torch

        return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None

    def peak_flops(self, dtype, size, repeats=10):
        """FLOP/s of the product of two square matrices, the median of some."""
        import keras
        import numpy as np

        generator = np.random.default_rng(0)
        a, b = (
            keras.ops.cast(generator.normal(size=(size, size)).astype("float32"), dtype)
            for _ in range(2)
        )
        if self.backend == "jax":
            import jax

            product = jax.jit(jax.numpy.matmul)

            def run():
                product(a, b).block_until_ready()

        else:
            import torch

            def run():
                torch.matmul(a, b)
                if a.is_cuda:
                    torch.cuda.synchronize()

        seconds = []
        for _ in range(repeats + 2):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return 2 * size**3 / statistics.median(seconds[2:])


class Bench(speed.KerasBench):
    """The models of `speed.py`, whose steps are timed many at a time."""

    def __init__(self, backend, sizes, dtype):
        import keras

        keras.config.set_dtype_policy(POLICIES[dtype])
        super().__init__(backend, sizes)

    def step(self, kind, depths, steps):
        """Seconds of a step: the mean of `steps` of one `fit`, from result to result."""
        import numpy as np

        clocks = []

        class Clocks(self.keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch in (WARM_UP - 1, WARM_UP + steps - 1):
                    float(logs["loss"])  # waits for the device; between them nothing does
                    clocks.append(time.perf_counter())

        count = WARM_UP + steps
        x = [np.concatenate([part] * count) for part in self.x]
        y = np.concatenate([self.y] * count)
        model = self.models[kind, depths]
        model.fit(x, y, len(self.y), verbose=0, shuffle=False, callbacks=[Clocks()])
        return (clocks[1] - clocks[0]) / steps


def layer_flops(sizes):
    """FLOPs of a layer: forward, with the gradient of its input, with that of its weights too.

    Matrix products alone: in the dense layers, and in attention's, both of whose factors are
    activations.
    """
    tokens = sizes["batch_size"] * sizes["sequence_length"]
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    dense = 2 * tokens * (4 * width**2 + 2 * width * inner)
    attention = 2 * 2 * tokens * sizes["sequence_length"] * width
    return dense + attention, 2 * dense + 3 * attention, 3 * dense + 3 * attention


def step_flops(kind, depths, path, sizes):
    costs = layer_flops(sizes)
    n, m = depths
    if kind == "plain":
        return m * costs[2]
    return speed.count_path(kind, path or [1] * m, n // m, finer=True, costs=costs)


def rows_of(pair):
    """`(kind, depths, rate)` of the table's rows for one pair of depths."""
    n, m = pair
    lazy = [("lazy", pair, rate) for rate in speed.RATES]
    return [("dense", pair, None), *lazy, ("plain", (m, m), None), ("plain", (n, n), None)]


def time_all(bench, pairs, steps, rounds, progress):
    """For each row of each pair a list of seconds, a number per round: models take turns."""
    seconds = {}
    for round_index in range(-1, rounds):  # the first one compiles
        for pair in pairs:
            for kind, depths, rate in rows_of(pair):
                if (kind, depths) not in bench.models:
                    bench.build(kind, depths)
                paths = speed.paths_of(kind, depths, rate, max(round_index, 0))
                taken = []
                for path in paths:
                    bench.choose(kind, depths, path)
                    taken.append(bench.step(kind, depths, 1 if round_index < 0 else steps))
                if round_index >= 0:
                    row = (pair, kind, depths, rate)
                    seconds.setdefault(row, []).append(statistics.mean(taken))
                progress.update()
    return seconds


def peak_of(kind, depths, sizes, dtype):
    """MiB that a process needs at most which does nothing but train this model."""
    command = [sys.executable, __file__, "memory", json.dumps([kind, depths, sizes, dtype])]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{done.stderr}\nerror: the process that measures {kind} {depths} failed")
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(kind, depths, sizes, dtype):
    depths = tuple(depths)
    device = Device()
    bench = Bench(device.backend, sizes, dtype)
    bench.build(kind, depths)
    for rate in (0, 0.5, 1) if kind == "lazy" else (None,):
        for path in speed.paths_of(kind, depths, rate):
            bench.choose(kind, depths, path)
            bench.step(kind, depths, 1)
    print(json.dumps(device.peak_memory()))


def speed_table(seconds, peaks, sizes, dtype, peak_flops):
    header = ["layers", "dtype", "run", "ms (quartiles)", "/ dense", "/ plain"]
    header += ["TFLOP", "TFLOP/s", "of peak", "peak MiB"]
    rows = []
    for (pair, kind, depths, rate), times in seconds.items():
        plain = seconds[pair, "plain", (pair[1],) * 2, None]
        dense = seconds[pair, "dense", pair, None]
        low, high = (
            times * 2
            if len(times) == 1
            else statistics.quantiles(times, n=4, method="inclusive")[::2]
        )
        median = statistics.median(times)
        flops = statistics.mean(
            step_flops(kind, depths, path, sizes) for path in speed.paths_of(kind, depths, rate)
        )
        rows.append(
            [
                f"{pair[0]} to {pair[1]}",
                dtype,
                speed.describe(kind, depths, rate),
                f"{1e3 * median:.1f} ({1e3 * low:.1f}–{1e3 * high:.1f})",
                *(
                    f"{statistics.median(a / b for a, b in zip(times, other)):.2f}"
                    for other in (dense, plain)
                ),
                f"{flops / 1e12:.3g}",
                f"{flops / median / 1e12:.3g}",
                f"{100 * flops / median / peak_flops:.0f} %",
                speed.number(peaks.get((kind, depths)), 0),
            ]
        )
    return header, rows


def run_speed(args):
    from tqdm import tqdm

    sizes = speed.TINY if args.tiny else BERT_BASE
    pairs = args.sizes or ([(4, 2)] if args.tiny else [(12, 6), (12, 3)])
    steps, rounds = args.steps or (2 if args.tiny else 20), 1 if args.tiny else args.rounds
    rows = [row for pair in pairs for row in rows_of(pair)]
    models = list(dict.fromkeys((kind, depths) for kind, depths, _ in rows))
    total = len(args.dtypes) * ((rounds + 1) * len(rows) + args.memory * len(models))
    record, tables = [], []
    with tqdm(total=total, file=sys.stderr) as progress:
        peaks = {}
        if args.memory:  # before this process takes memory of its own
            for dtype in args.dtypes:
                for kind, depths in models:
                    peaks[dtype, kind, depths] = peak_of(kind, depths, sizes, dtype)
                    progress.update()
        device = Device()
        peak_flops = {
            dtype: device.peak_flops(dtype, 256 if args.tiny else 8192) for dtype in args.dtypes
        }
        for dtype in args.dtypes:
            bench = Bench(device.backend, sizes, dtype)
            seconds = time_all(bench, pairs, steps, rounds, progress)
            of_dtype = {key[1:]: peak for key, peak in peaks.items() if key[0] == dtype}
            header, lines = speed_table(seconds, of_dtype, sizes, dtype, peak_flops[dtype])
            tables += lines
            record += [[dtype, *row, times] for row, times in seconds.items()]
            del bench
            gc.collect()
    versions = [f"{name} {metadata.version(name)}" for name in ("keras", device.backend)]
    print(
        f"{device.name}, {', '.join(versions)}. {', '.join(f'{k} {v}' for k, v in sizes.items())}."
    )
    found = ", ".join(f"{peak / 1e12:.3g} in {dtype}" for dtype, peak in peak_flops.items())
    print(f"A matrix product reaches, in TFLOP/s: {found}.\n")
    print(speed.markdown(header, tables))
    if args.json:
        content = {
            "device": device.name,
            "peak_flops": peak_flops,
            "sizes": sizes,
            "seconds": record,
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def choose_backend(name):
    if name is None:
        name = os.environ.get("KERAS_BACKEND")
    if name is None:
        name = next((n for n in ("jax", "torch") if importlib.util.find_spec(n)), "jax")
    os.environ["KERAS_BACKEND"] = name
    os.environ.pop("TF_KERAS", None)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["memory"]:
        return measure_memory(*json.loads(argv[1]))
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("speed", help="time training steps").add_argument
    add("--backend", choices=("jax", "torch"), help="default: what is installed")
    add("--tiny", action="store_true", help="very small models, to try it out")
    add("--dtypes", nargs="+", choices=POLICIES, default=list(POLICIES), help="default: both")
    add(
        "--sizes",
        nargs="+",
        type=speed.pair_of_depths,
        metavar="N-M",
        help="layers of predecessor and successor (default: 12-6 12-3; with --tiny 4-2)",
    )
    add("--steps", type=int, metavar="N", help="steps timed in a row (default: 20; --tiny 2)")
    add("--rounds", type=int, default=3, metavar="N", help="default %(default)s; --tiny 1")
    add("--json", type=Path, metavar="FILE", help="write all figures there, too")
    add("--no-memory", dest="memory", action="store_false", help="leave out the peak memory")
    args = parser.parse_args(argv)
    for name in ("steps", "rounds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"argument --{name}: expected at least 1")
    choose_backend(args.backend)
    return run_speed(args)


if __name__ == "__main__":
    sys.exit(main())
