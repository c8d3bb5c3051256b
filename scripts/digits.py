#!/usr/bin/env python
"""Compress a residual network of 6 blocks into one of 2, on scikit-learn's handwritten digits.

There is no text and no BERT here: the blocks are Keras layers. The predecessor is trained on 1,000
labelled images. Models of 2 blocks are trained on some of these (--labels), directly or in place of
the predecessor's blocks, as in the paper: from its first blocks and without a warm start.
Accuracies are those on 497 test images; the settings were chosen on 300 others.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
from pathlib import Path

# The package of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

EXAMPLES = """\
examples:
  # The table of the documentation: 5 seeds, a minute of a CPU core on TensorFlow, two or three
  # minutes on PyTorch.
  python scripts/digits.py

  # With all labels, 2 blocks trained directly do as well.
  python scripts/digits.py --labels 1000

  # The settings were chosen like this, with other seeds and on the validation images.
  python scripts/digits.py --seeds 100 101 102 --split validation --direct-rate 0.01
"""

TITLES = {
    "predecessor": "predecessor, 6 blocks",
    "direct": "2 blocks, trained directly",
    "first": "first 2 blocks, fine-tuned",
    "theseus": "successor after Theseus, 2 blocks",
    "successor": "successor, fine-tuned",
}
BLOCKS = {"predecessor": 6, "successor": 2}
WIDTH, BATCH_SIZE, STEPS_PER_CALL = 32, 32, 20


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default 0 1 2 3 4")
    add("--labels", type=int, default=300, help="images to compress with, default %(default)s")
    what = "which images to report on, default %(default)s"
    add("--split", choices=("test", "validation"), default="test", help=what)
    what = "training steps of the stages, default 600 600 200; direct training gets their sum"
    names = ("PREDECESSOR", "THESEUS", "SUCCESSOR")
    add("--steps", type=int, nargs=3, metavar=names, default=[600, 600, 200], help=what)
    # Random weights, and so few, take larger steps than the defaults of `Stage`.
    for name, default, what in [
        ("predecessor", 3e-3, "of the predecessor"),
        ("direct", 3e-3, "of 2 blocks trained directly"),
        ("theseus", 1.5e-3, "of the Theseus stage, and of the first blocks"),
        ("successor", 3e-4, "of the last stage"),
    ]:
        what = f"learning rate {what}, default %(default)s"
        add(f"--{name}-rate", type=float, default=default, metavar="RATE", help=what)
    return parser


def check(parser, args):
    if not BATCH_SIZE <= args.labels <= 1000:
        parser.error(f"--labels must be from {BATCH_SIZE} to 1000. Received: {args.labels}")
    if min(args.steps) < 1 or min(args.seeds) < 0:
        parser.error("--steps must be at least 1, and --seeds at least 0.")
    rates = [value for name, value in vars(args).items() if name.endswith("_rate")]
    if not all(0 < rate < 1 for rate in rates):
        parser.error(f"Learning rates must be between 0 and 1. Received: {rates}")


def load(seed, labels):
    """Arrays `(x, y)` by name: `train`, `some` (the labelled part of it), `validation`, `test`."""
    import numpy as np
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    order = np.random.default_rng(seed).permutation(len(x))
    train, validation, test = np.split(order, [1000, 1300])
    parts = {"train": train, "some": train[:labels], "validation": validation, "test": test}
    return {name: (x[rows], y[rows]) for name, rows in parts.items()}


def block(keras):
    x = inputs = keras.Input((WIDTH,))
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dense(2 * WIDTH, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Add()([inputs, keras.layers.Dense(WIDTH)(x)]))


def build(number):
    """An encoder of `number` blocks, and a head."""
    from bert_of_theseus.backend import keras
    from bert_of_theseus.encoders import StackEncoder

    encoder = StackEncoder(
        [block(keras) for _ in range(number)],
        inputs=keras.Input((64,)),
        embedding=keras.layers.Dense(WIDTH),
    )
    x = inputs = keras.Input((WIDTH,))
    x = keras.layers.LayerNormalization()(x)
    return encoder, keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


class Experiment:
    """The models, built and compiled once, and given new weights for each seed."""

    def __init__(self, args):
        from bert_of_theseus import build_successor_model, build_theseus_model

        self.args = args
        rest = sum(args.steps[1:])
        self.predecessor, self.head = build(BLOCKS["predecessor"])
        self.full = build_successor_model(self.predecessor, self.head)
        self.compile(self.full, args.steps[0], args.predecessor_rate)
        self.direct = build_successor_model(*build(BLOCKS["successor"]))
        self.compile(self.direct, sum(args.steps), args.direct_rate)
        self.first = build(BLOCKS["successor"])
        self.first_model = build_successor_model(*self.first)
        self.compile(self.first_model, rest, args.theseus_rate)
        self.successor = build(BLOCKS["successor"])
        self.theseus = build_theseus_model(self.predecessor, self.successor[0], self.head)
        self.compile(self.theseus, args.steps[1], args.theseus_rate)
        self.small = build_successor_model(*self.successor)
        self.compile(self.small, args.steps[2], args.successor_rate)

    @staticmethod
    def compile(model, steps, rate):
        from bert_of_theseus.backend import BACKEND, keras
        from bert_of_theseus.training import WarmupDecay

        model.steps = steps
        model.compile(
            keras.optimizers.AdamW(
                WarmupDecay(rate, steps, steps // 10), weight_decay=0.01, global_clipnorm=1.0
            ),
            "sparse_categorical_crossentropy",
            # A step takes less time than Keras' own work around it.
            steps_per_execution=STEPS_PER_CALL if BACKEND == "tensorflow" else 1,
            jit_compile=False,
        )

    def run(self, seed, say=lambda what: None):
        """Trains all models with one seed; returns their accuracies by the names of `TITLES`."""
        import numpy as np

        from bert_of_theseus import LinearReplacement, ReplacementRateScheduler
        from bert_of_theseus.layers import choice_layers

        rng = np.random.default_rng(seed)
        data = load(seed, self.args.labels)
        scores = {}

        def stage(name, model, images, scored=None, callbacks=()):
            say(TITLES[name])
            train(model, data[images], rng, callbacks)
            scores[name] = accuracy(scored or model, data[self.args.split])

        for model in (self.full, self.direct):
            draw_weights(model, rng)
        stage("predecessor", self.full, "train")
        stage("direct", self.direct, "some")
        self.start(*self.first)
        stage("first", self.first_model, "some")
        self.start(*self.successor)
        for choice in choice_layers(self.theseus):
            choice.draw_state.assign([int(rng.integers(2**30)), 0])
        scheduler = ReplacementRateScheduler(LinearReplacement(0.3, fraction=0.75))
        stage("theseus", self.theseus, "some", self.small, [scheduler])
        stage("successor", self.small, "some")
        return scores

    def start(self, encoder, head):
        """Initializes 2 blocks as the predecessor's first, with its embedding and head."""
        from bert_of_theseus import initialize_successor

        initialize_successor(self.predecessor, encoder)
        head.set_weights(self.head.get_weights())


def draw_weights(model, rng):
    """Draws new weights, as Keras' layers do by default."""
    import numpy as np

    for weight in model.weights:
        shape = tuple(weight.shape)
        if len(shape) == 2:
            limit = np.sqrt(6 / sum(shape))
            weight.assign(rng.uniform(-limit, limit, shape).astype("float32"))
        else:
            weight.assign(np.full(shape, float("gamma" in weight.name), "float32"))


def train(model, data, rng, callbacks=()):
    """Trains `model` for its steps, in a new order each epoch, with a reset optimizer."""
    import numpy as np

    from bert_of_theseus.backend import to_numpy

    x, y = data
    per_epoch = len(x) // BATCH_SIZE * BATCH_SIZE
    epochs = -(-model.steps * BATCH_SIZE // per_epoch)
    rows = np.concatenate([rng.permutation(len(x))[:per_epoch] for _ in range(epochs)])
    rows = rows[: model.steps * BATCH_SIZE]
    for variable in model.optimizer.variables:
        variable.assign(np.zeros_like(to_numpy(variable)))
    model.fit(
        x[rows], y[rows], BATCH_SIZE, epochs=1, shuffle=False, callbacks=list(callbacks), verbose=0
    )


def accuracy(model, data):
    from bert_of_theseus.backend import ops, to_numpy

    x, y = data
    return float((to_numpy(model(ops.convert_to_tensor(x))).argmax(-1) == y).mean())


def table(results):
    """Means and standard deviations over the seeds, as a Markdown table."""
    from bert_of_theseus.table import markdown_table

    means = {name: statistics.fmean(scores[name] for scores in results) for name in TITLES}
    rows = []
    for name, title in TITLES.items():
        spread = statistics.stdev(s[name] for s in results) if len(results) > 1 else None
        rows.append(
            {
                "model": title,
                "accuracy": means[name],
                "spread": spread,
                "kept": means[name] / means["predecessor"],
            }
        )
    columns = {
        "model": ("model", ""),
        "accuracy": ("accuracy", ".2%"),
        "spread": ("standard deviation", ".2%"),
        "kept": ("kept", ".1%"),
    }
    return markdown_table(rows, columns)


def show_progress(label, what):
    if sys.stderr.isatty():
        print(f"\r{label}: {what:<36}", end="", file=sys.stderr, flush=True)


def main(arguments=None):
    parser = build_parser()
    args = parser.parse_args(arguments)
    check(parser, args)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from bert_of_theseus.measure import environment

    start = time.perf_counter()
    experiment = Experiment(args)
    results = []
    for number, seed in enumerate(args.seeds, 1):
        label = f"seed {seed} ({number} of {len(args.seeds)})"
        results.append(experiment.run(seed, functools.partial(show_progress, label)))
    show_progress("all seeds", "done\n")
    print(table(results))
    seeds = ", ".join(map(str, args.seeds))
    print(
        f"\n{args.split} images, {args.labels} labels to compress with, seeds {seeds}; "
        f"{environment()['keras']}; {time.perf_counter() - start:.0f} s, of which CPU "
        f"{time.process_time():.0f} s"
    )
    return results


if __name__ == "__main__":
    from bert_of_theseus.commands.running import run_command

    sys.exit(run_command(Path(__file__).name, lambda: main() and None))
