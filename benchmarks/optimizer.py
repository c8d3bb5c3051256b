#!/usr/bin/env python
"""What Adam costs in a training step: Keras' own, and the fused one that `Stage` uses.

Models of MiniLM's sizes and random weights learn random texts; the two optimizers take turns.
`README.md` says how it is measured.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speed import machine, markdown, number, percentile

from scripts.common import Parser, positive, run_script

EXAMPLES = """\
examples:
  python benchmarks/optimizer.py                         # some minutes on 2 CPU cores
  python benchmarks/optimizer.py --backend tensorflow --layers 12 --tokens 128 --threads 2
"""
MINILM = {
    "vocabulary_size": 30522,
    "num_heads": 12,
    "hidden_dim": 384,
    "intermediate_dim": 1536,
}
TINY = {"vocabulary_size": 100, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
NAMES = "Keras'", "fused"


def build_parser() -> Parser:
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    sizes = {"type": positive, "nargs": "+", "metavar": "N"}
    backends = ("torch", "tensorflow")
    add("--backend", choices=backends, default="torch", help="of Keras 3; default: %(default)s")
    add("--layers", default=[6, 3], **sizes, help="default: 6 3")
    add("--tokens", default=[24, 64], **sizes, help="of each text; default: 24 64")
    add("--rounds", type=positive, default=20, metavar="N", help="default: %(default)s")
    add("--threads", type=positive, default=1, metavar="N", help="default: %(default)s")
    add("--tiny", action="store_true", help="to try it, not for the figures")
    return parser


def build_model(num_layers: int, optimizer: str, sizes: dict):
    """A classifier of texts that is compiled with one of the two optimizers."""
    import keras
    import keras_hub

    from bert_of_theseus.training import Stage
    from bert_of_theseus.training.stage import build_optimizer

    keras.utils.set_random_seed(0)
    bert = keras_hub.models.BertBackbone(num_layers=num_layers, max_sequence_length=512, **sizes)
    output = keras.layers.Dense(2)(bert.output["sequence_output"][:, 0])
    model = keras.Model(bert.input, output)
    stage = Stage(1, 1e-4)
    if optimizer == "fused":
        chosen = build_optimizer(stage, model, 1000)
    else:
        chosen = keras.optimizers.AdamW(
            1e-4, weight_decay=stage.weight_decay or 0.0, global_clipnorm=stage.clip_norm
        )
    model.compile(chosen, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def measure(num_layers, num_tokens, rounds, sizes) -> dict:
    """CPU and wall milliseconds of each step, by optimizer."""
    import numpy as np

    rng = np.random.default_rng(0)
    models = {name: build_model(num_layers, name, sizes) for name in NAMES}
    shape = 32, num_tokens
    inputs = {
        "token_ids": rng.integers(sizes["vocabulary_size"], size=shape),
        "segment_ids": np.zeros(shape, "int32"),
        "padding_mask": np.ones(shape, "int32"),
    }
    labels = rng.integers(2, size=32)
    times = {name: [] for name in NAMES}
    for number_of_round in range(rounds + 2):
        for name, model in models.items():
            cpu, wall = time.process_time(), time.perf_counter()
            model.train_on_batch(inputs, labels)
            took = time.process_time() - cpu, time.perf_counter() - wall
            if number_of_round > 1:  # the first ones make the moments
                times[name].append([1000 * seconds for seconds in took])
    return {name: list(zip(*found)) for name, found in times.items()}


def row(num_layers, num_tokens, name, found) -> list[str]:
    cpu, wall = found[name]
    ratio = statistics.median(cpu) / statistics.median(found[NAMES[0]][0])
    quartiles = f"{percentile(cpu, 0.25):.0f}–{percentile(cpu, 0.75):.0f}"
    return [
        str(num_layers),
        str(num_tokens),
        name,
        f"{statistics.median(cpu):.0f} ({quartiles})",
        f"{statistics.median(wall):.0f}",
        number(ratio),
    ]


def work(args) -> None:
    os.environ["KERAS_BACKEND"] = args.backend
    if args.backend == "torch":
        import torch

        torch.set_num_threads(args.threads)
    else:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    rows = []
    for num_layers in args.layers:
        for num_tokens in args.tokens:
            found = measure(num_layers, num_tokens, args.rounds, TINY if args.tiny else MINILM)
            rows += [row(num_layers, num_tokens, name, found) for name in NAMES]
    print(f"{machine([args.backend])}; threads: {args.threads}\n")
    header = ["layers", "tokens", "Adam", "CPU ms a step (quartiles)", "wall ms", "/ Keras'"]
    print(markdown(header, rows))


def main(argv=None) -> int:
    return run_script(build_parser(), argv, work)


if __name__ == "__main__":
    sys.exit(main())
