#!/usr/bin/env python
"""Measures how much of a BERT's score each way of compressing it keeps.

A pretrained BERT is fine-tuned until its validation score stops rising, and saved as a Hugging Face
folder, which is what users bring. From this folder it is compressed in several ways, each with the
same number of training steps on the same batches, with several seeds. The best weights are chosen
on a part of the training data; dev is only reported.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quality_table import OUTCOMES, RECORD, report

from scripts import common
from scripts.common import MINILM, Parser, find_packaged_bert, positive, rate

EXAMPLES = """\
examples:
  # SST-2 with MiniLM, with 3 and 2 layers. If stopped, the same command resumes.
  python benchmarks/quality.py --data-dir SST-2 --output-dir runs/sst2

  # A task without any download: from which package of the standard library is a docstring?
  python benchmarks/quality.py --task docstrings --layers 3

  # Two processes share the work: each skips what the other has begun. The last one prints the
  # whole table.
  python benchmarks/quality.py --data-dir SST-2 --seeds 0 1 2 &
  python benchmarks/quality.py --data-dir SST-2 --seeds 2 1 0

  # One option of `compress` alone: each is a row beside the default.
  python benchmarks/quality.py --task docstrings --variants direct ours \\
      ours:initialize=first ours:warm_start_stage=None long:theseus_stage.epochs=30
"""

MAX_LENGTH = 64  # tokens


class Task(NamedTuple):
    """A task's loader in `bert_of_theseus.data`, what it reads, and what is taken of it."""

    loader: str
    files: str | None
    rows: int | None
    validation_fraction: float


TASKS = {
    "sst2": Task("load_sst2", "train.tsv and dev.tsv of GLUE's SST-2", 16000, 0.2),
    "docstrings": Task("load_stdlib_docstrings", None, 3200, 0.1),
    "iflytek": Task("load_iflytek", "train.json, dev.json and labels.json of CLUE", None, 0.1),
    "cluener": Task("load_cluener", "train.json and dev.json of CLUENER2020", None, 0.1),
}

# By name: what it changes in another variant, and its description. "direct" takes the options of
# `Stage` and the weight and temperature of a distillation; all others are options of `compress`.
VARIANTS = {
    "direct": (None, "first k layers, fine-tuned directly"),
    "distillation": ("direct:distillation_weight=1.0", "the same with logits distillation"),
    # The original Keras script: both branches run, embeddings replaced too, a pretrained successor.
    "article": (
        "ours:execution=dense,embeddings=replace,schedule=0.5,initialize=None,warm_start_stage=None",
        "the article's: coin flip at 0.5",
    ),
    "ours": (None, "the default"),
    "same_depth": ("article", "the article's, as deep as the predecessor"),
    "linear": (
        "article:schedule.start=0.3,schedule.fraction=0.75",
        "the article's, the rate rising from 0.3 to 1",
    ),
    "uniform": ("article:gate=uniform", "the article's, e uniform in [0, 1]"),
    "at_least_one": ("article:at_least_one=True", "the article's, never the predecessor alone"),
}
DEFAULT_VARIANTS = ("direct", "distillation", "article", "ours")


class Variant(NamedTuple):
    """A way to train a small model.

    Attributes:
        name: As it was given.
        base: `"direct"` or `"ours"`.
        is_deep: Boolean. Whether the small model is as deep as the predecessor.
        options: Dict of what differs from the base. A name with a dot is a setting of a stage or
            of a schedule.
        what: String, a description.
    """

    name: str
    base: str
    is_deep: bool
    options: dict
    what: str

    @property
    def kind(self) -> str:
        """`"direct"` if the predecessor has no part in it, else `"compressed"`."""
        is_taught = self.base != "direct" or self.options.get("distillation_weight")
        return "compressed" if is_taught else "direct"


def parse_variant(text: str) -> Variant:
    """Reads NAME or NAME:OPTION=VALUE,OPTION=VALUE. A name that is not known is one of "ours"."""
    name, colon, changes = text.partition(":")
    if name in VARIANTS:
        spec, what = VARIANTS[name]
        base = parse_variant(spec) if spec else Variant(name, name, False, {}, "")
    elif colon:
        base, what = parse_variant("ours"), ""
    else:
        raise ValueError(f"--variants must be some of {', '.join(VARIANTS)}. Received: {text}")
    options = dict(base.options)
    for change in filter(None, re.split(r",(?=[\w.]+=)", changes)):
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"--variants {text}: must be NAME:OPTION=VALUE,... Received: {change}")
        with contextlib.suppress(ValueError, SyntaxError):  # a word stands for itself
            value = ast.literal_eval(value)
        options[key] = value
    is_deep = base.is_deep or name == "same_depth"
    return Variant(text, base.base, is_deep, options, "" if changes else what)


def arguments_of(variant: Variant) -> dict:
    """The options as arguments: of `compress`, or of `Stage` and `distil`.

    Raises:
        ValueError: if there is no such argument.
    """
    from bert_of_theseus.method import DEFAULTS
    from bert_of_theseus.recipe import compress
    from bert_of_theseus.training import Stage

    if variant.base == "direct":
        known = {field.name for field in dataclasses.fields(Stage)}
        known |= {"distillation_weight", "temperature"}
        defaults = {}
    else:
        parameters = inspect.signature(compress).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        known = {*defaults, *DEFAULTS}
    arguments = {}
    for key, value in variant.options.items():
        name, _, setting = key.partition(".")
        has_settings = name in defaults and name.endswith(("_stage", "schedule"))
        if name not in known or (setting and not has_settings):
            raise ValueError(
                f"--variants {variant.name}: {key} must be one of {', '.join(sorted(known))}"
            )
        if setting:
            value = _changed(arguments.get(name), defaults[name], setting, value)
        arguments[name] = value
    return arguments


def _changed(current, default, setting, value):
    """A stage or schedule with another setting; the default one if it is not given yet."""
    current = current if isinstance(current, type(default)) else default
    if dataclasses.is_dataclass(current):
        return dataclasses.replace(current, **{setting: value})
    return type(current).from_config({**current.get_config(), setting: value})


def build_parser(task: str | None = None, variants=DEFAULT_VARIANTS, **texts) -> Parser:
    """Args: the task, if there is but one; the default variants; texts for the parser."""
    parser = Parser(**{"description": __doc__, "epilog": EXAMPLES, **texts})
    parser.set_defaults(default_variants=list(variants), task=task)
    add = parser.add_argument_group("data and models").add_argument
    if task is None:
        add("--task", choices=TASKS, default="sst2", help="default %(default)s")
    add("--data-dir", type=Path, metavar="DIR", help="the task's files")
    what = "Hugging Face folder of a pretrained BERT; default for English: MiniLM"
    add("--bert-dir", type=Path, metavar="DIR", help=what)
    what = "fine-tuned models, Hugging Face folders seed-0, seed-1, ... (default: trained here)"
    add("--predecessors", type=Path, metavar="DIR", help=what)
    what = "random rows of each set, at most (default: 16,000 of SST-2, 3,200 docstrings, else all)"
    add("--rows", type=positive, metavar="N", help=what)

    add = parser.add_argument_group("what is trained").add_argument
    add(
        "--layers",
        type=positive,
        nargs="+",
        default=[3, 2],
        metavar="N",
        help="default %(default)s",
    )
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default %(default)s")
    what = f"some of {', '.join(VARIANTS)}, each with :OPTION=VALUE,... or NAME:OPTION=VALUE,... "
    what += f"for a default with other options (default: {' '.join(variants)})"
    add("--variants", nargs="+", action="extend", metavar="V", help=what)
    what = "of the Theseus stage; the warm start has twice as many and 2,000 steps at most, the "
    what += "successor's own stage as many, direct fine-tuning the sum (default: the package's)"
    add("--epochs", type=positive, metavar="N", help=what)
    add("--predecessor-epochs", type=positive, metavar="N", help="at most; default: the package's")
    what = "default: the package's"
    add("--predecessor-learning-rate", type=rate, metavar="X", help=what)
    what = "evaluations without a better score that end the predecessor's training (default 3)"
    add("--patience", type=positive, default=3, metavar="N", help=what)
    add("--batch-size", type=positive, default=32, metavar="N", help="default %(default)s")

    add = parser.add_argument_group("how").add_argument
    hosts = ("bert4keras", "torch", "tensorflow", "jax")
    what = "bert4keras (Keras 2), or Keras 3 on one of the others; default: as the environment says"
    add("--backend", choices=hosts, help=what)
    what = "as mixed_bfloat16; Keras 3 only (default float32)"
    add("--precision", metavar="POLICY", default="float32", help=what)
    add("--output-dir", type=Path, metavar="DIR", help="default runs/quality-TASK")
    add("--report", action="store_true", help="print the table so far, without training")
    return parser


def start_keras(args) -> None:
    if args.backend == "bert4keras":
        common.choose_keras_2()
    elif args.backend:
        os.environ["KERAS_BACKEND"] = args.backend
        for name in ("TF_KERAS", "TF_USE_LEGACY_KERAS"):
            os.environ.pop(name, None)
    from bert_of_theseus.commands import prepare_keras

    prepare_keras()
    from bert_of_theseus.backend import host_is_bert4keras, keras

    if args.precision != "float32":
        if host_is_bert4keras():
            raise ValueError(f"--precision {args.precision} needs Keras 3: give a --backend")
        keras.mixed_precision.set_global_policy(args.precision)


class Study:
    """The data, models and folders of one run of this script."""

    def __init__(self, args):
        from bert_of_theseus import data
        from bert_of_theseus.checkpoints import find_checkpoint

        self.args, self.variants = args, [parse_variant(text) for text in args.variants]
        for variant in self.variants:
            arguments_of(variant)
        task = TASKS[args.task]
        options = {
            "limit": args.rows or task.rows,
            "validation_fraction": task.validation_fraction,
        }
        folder = [] if task.files is None else [args.data_dir]
        corpus = getattr(data, task.loader)(*folder, **options)
        kind = data.Tagging if args.task == "cluener" else data.Classification
        self.task = kind(corpus.labels)
        self.config = find_checkpoint(args.bert_dir).config
        self.tokenizer = data.Tokenizer.from_folder(args.bert_dir)
        self.data = {
            name: self.task.encode(getattr(corpus, name), self.tokenizer, MAX_LENGTH)
            for name in ("train", "validation", "dev")
        }
        self.steps = self._equal_steps()
        self.predecessor = functools.cache(self._predecessor)

    def _equal_steps(self) -> dict:
        """The steps of each stage of the default; "direct" has as many as all of them together."""
        from bert_of_theseus.defaults import default_epochs, default_steps, num_steps
        from bert_of_theseus.recipe import STAGES

        count = -(-len(self.data["train"].token_ids) // self.args.batch_size)
        steps = {}
        for name in STAGES[1:]:
            epochs = default_epochs(name, count, self.args.epochs)
            steps[name] = num_steps(epochs, count, default_steps(name))
        return {**steps, "direct": sum(steps.values())}

    def describe(self) -> dict:
        """What all models of a study share. A folder of another study is refused."""
        from bert_of_theseus.backend import KERAS_ON_BACKEND, host_is_bert4keras

        args = self.args
        return {
            "task": args.task,
            "examples": {name: len(part.token_ids) for name, part in self.data.items()},
            "score": self.task.metric,
            "max_length": MAX_LENGTH,
            "bert": args.bert_dir.resolve().name,
            "num_hidden_layers": self.config["num_hidden_layers"],
            "hidden_size": self.config["hidden_size"],
            "batch_size": args.batch_size,
            "steps": self.steps,
            "host": f"{KERAS_ON_BACKEND}{', bert4keras' if host_is_bert4keras() else ''}",
            "precision": args.precision,
        }

    def claim(self):
        """Writes what all models share into the folder, or compares."""
        from bert_of_theseus.files import read_json, write_json

        path, description = self.args.output_dir / "study.json", self.describe()
        if not path.exists():
            self.args.output_dir.mkdir(parents=True, exist_ok=True)
            write_json(path, description)
        before = read_json(path)
        changed = [key for key, value in description.items() if before.get(key) != value]
        if changed:
            raise ValueError(
                f"{self.args.output_dir} holds a study with other settings; choose another "
                "--output-dir. "
                + "; ".join(f"{key}: {before.get(key)}, now {description[key]}" for key in changed)
            )

    def batches(self, encoder, seed) -> list:
        from bert_of_theseus.backend import BACKEND
        from bert_of_theseus.data import Batches

        names = encoder.input_structure
        options = {
            "pad_token_id": self.tokenizer.pad_token_id,
            "input_names": list(names) if isinstance(names, dict) else None,
            "multiple": MAX_LENGTH if BACKEND == "jax" else 8,  # XLA compiles for each length
        }
        train, *rest = (
            Batches(part, self.args.batch_size, seed=seed, **options, shuffle=is_first)
            for part, is_first in zip(self.data.values(), (True, False, False))
        )
        return [train, *rest]

    def load(self, folder, prefix, layers=None):
        """The encoder in `folder`, as its host has it, and the head or `None`."""
        from bert_of_theseus.checkpoints import load_pretrained

        encoder, head, labels = load_pretrained(folder, num_hidden_layers=layers, prefix=prefix)
        named = labels and not all(label.startswith("LABEL_") for label in labels)
        if named and list(labels) != self.task.labels:
            raise ValueError(
                f"{folder} must be a model of this task, with the labels "
                f"{', '.join(self.task.labels)}. Received: {', '.join(labels)}"
            )
        return encoder, head

    def _predecessor(self, seed):
        """The fine-tuned predecessor of a seed, from its folder: folder, encoder, head, model."""
        from bert_of_theseus.encoders import as_encoder
        from bert_of_theseus.locks import exclusive

        args, spent = self.args, {}
        directory = args.output_dir / f"seed-{seed}" / "predecessor"
        folder = (args.predecessors or args.output_dir / "predecessors") / f"seed-{seed}"
        directory.mkdir(parents=True, exist_ok=True)
        with exclusive(directory.with_suffix(".lock"), str(directory), wait=float("inf")):
            is_new = not (directory / RECORD).exists()
            if is_new and args.predecessors is None:
                spent = self._train_predecessor(seed, directory, folder)
            encoder, head = self.load(folder, "Predecessor-")
            if head is None:
                raise ValueError(
                    f"{folder} must hold a fine-tuned model. Received: one without head"
                )
            model = as_encoder(encoder).model(head, name="predecessor")
            if is_new:
                depth = as_encoder(encoder).num_hidden_layers
                validation, dev = self.batches(as_encoder(encoder), seed)[1:]
                scores = self._evaluate(model, validation), self._evaluate(model, dev)
                names = {"variant": "predecessor", "kind": "predecessor", "what": "fine-tuned"}
                self._write(directory, {**names, "layers": depth, "seed": seed}, *scores, **spent)
        return folder, encoder, head, model

    def _train_predecessor(self, seed, directory, folder):
        from bert_of_theseus.backend import keras
        from bert_of_theseus.checkpoints import save_pretrained
        from bert_of_theseus.encoders import as_encoder
        from bert_of_theseus.training import Stage, fit, stage_notes

        args = self.args
        keras.utils.set_random_seed(seed)
        encoder, _ = self.load(args.bert_dir, "Predecessor-")
        head = self.task.head(self.config["hidden_size"])
        model = as_encoder(encoder).model(head, name="predecessor")
        train, validation, _ = self.batches(as_encoder(encoder), seed)
        stage = Stage(
            args.predecessor_epochs, args.predecessor_learning_rate, patience=args.patience
        )
        options = {"directory": directory, "seed": seed, "verbose": 0, **self.task.options}
        result = fit(model, train, validation, stage, **options)
        save_pretrained(folder, encoder, head, tokenizer=args.bert_dir, labels=self.task.labels)
        return {**_spent([result]), "notes": stage_notes(result)}

    def train(self, variant, layers, seed):
        """Trains one small model, and writes its record."""
        from bert_of_theseus.backend import keras
        from bert_of_theseus.encoders import as_encoder

        predecessor = self.predecessor(seed)
        keras.utils.set_random_seed(1000 + seed)
        small, _ = self.load(self.args.bert_dir, "Successor-", layers)
        directory = self.directory(variant, layers, seed)
        train, validation, dev = self.batches(as_encoder(small), seed)
        options = {"directory": directory, "seed": seed, "verbose": 0, **self.task.options}
        work = self._fine_tune if variant.base == "direct" else self._compress
        arguments = arguments_of(variant)
        model, results = work(arguments, predecessor, small, train, validation, options)
        score = self._evaluate(model, dev)
        names = {"variant": variant.name, "kind": variant.kind, "what": variant.what}
        entry = {**names, "layers": layers, "seed": seed}
        entry = self._write(directory, entry, results[-1].score, score, **_spent(results))
        for file in directory.rglob("*.h5"):  # dozens of models would fill the disk
            file.unlink()
        return entry

    def _fine_tune(self, arguments, predecessor, small, train, validation, options):
        from bert_of_theseus.encoders import as_encoder
        from bert_of_theseus.models import distil
        from bert_of_theseus.training import Stage, fit

        weight = arguments.pop("distillation_weight", 0.0)
        temperature = arguments.pop("temperature", 2.0)
        model = as_encoder(small).model(self.task.head(self.config["hidden_size"]), "successor")
        trained = distil(model, predecessor[-1], temperature, weight) if weight else model
        stage = Stage(**{"steps": self.steps["direct"], **arguments})
        return model, [fit(trained, train, validation, stage, kept=model, **options)]

    def _compress(self, arguments, predecessor, small, train, validation, options):
        from bert_of_theseus.recipe import compress
        from bert_of_theseus.training import Stage

        _, encoder, head, _ = predecessor
        steps = {name: count for name, count in self.steps.items() if name != "direct"}
        for name in ("warm_start", "successor"):
            # A stage that is left out gives its steps to the Theseus stage.
            if f"{name}_stage" in arguments and arguments[f"{name}_stage"] is None:
                steps["theseus"] += steps.pop(name)
        for name, count in steps.items():
            stage = arguments.get(f"{name}_stage", Stage())
            if stage.epochs is None and stage.steps is None:
                stage = dataclasses.replace(stage, steps=count)
            arguments[f"{name}_stage"] = stage
        arguments = {"predecessor_stage": None, "latency": False, **arguments, **options}
        found = compress(encoder, small, head, train, validation, **arguments)
        return found.successor, found.stages

    def _evaluate(self, model, batches):
        from bert_of_theseus.training import evaluate

        return evaluate(model, batches, **self.task.options)

    def _write(self, directory, entry, validation, dev, **more):
        """Writes how a model did on each example of dev, then its record."""
        import numpy as np

        from bert_of_theseus.files import write_json

        np.save(directory / OUTCOMES, dev.rows.astype("float32"))
        entry = {**entry, "validation": float(validation), "dev": float(dev), **more}
        write_json(directory / RECORD, entry)
        return entry

    def directory(self, variant, layers, seed) -> Path:
        name = quote(f"{variant.name}-{layers}", safe="=,+.")
        return self.args.output_dir / f"seed-{seed}" / name

    def jobs(self) -> list[tuple]:
        """Variant, number of layers and seed of each small model, in the order of the work."""
        depth = self.config["num_hidden_layers"]
        jobs = [
            (variant, depth if variant.is_deep else layers, seed)
            for layers in self.args.layers
            for seed in self.args.seeds
            for variant in self.variants
        ]
        # A dict of options has no hash.
        return list({(variant.name, *rest): (variant, *rest) for variant, *rest in jobs}.values())


def _spent(results) -> dict:
    return {
        "cpu_seconds": sum(result.cpu_seconds for result in results),
        "steps": sum(result.history["step"][-1] for result in results),
    }


def minilm() -> Path:
    try:
        return find_packaged_bert(MINILM)
    except ValueError as error:
        sys.exit(f"error: {error}")


def check(args) -> None:
    """Sets the defaults that depend on the task, and checks what can be checked at once."""
    args.variants = args.variants or args.default_variants
    args.output_dir = args.output_dir or Path("runs") / f"quality-{args.task}"
    files = TASKS[args.task].files
    if args.report:
        return
    if files and args.data_dir is None:
        raise ValueError(f"--data-dir is needed: a folder with {files}")
    if args.bert_dir is None and args.task not in ("sst2", "docstrings"):
        raise ValueError("--bert-dir is needed: a Hugging Face folder of a BERT that knows Chinese")
    args.bert_dir = args.bert_dir or minilm()


def work(args, published: dict | None = None, remark=None) -> None:
    """Trains the models that are missing, and prints the table of all."""
    check(args)
    if not args.report:
        start_keras(args)
        study = Study(args)
        study.claim()
        run(study)
    report(args.output_dir, list(VARIANTS), published, remark)


def run(study) -> None:
    from bert_of_theseus.locks import InUseError, exclusive

    for variant, layers, seed in study.jobs():
        directory = study.directory(variant, layers, seed)
        directory.mkdir(parents=True, exist_ok=True)
        lock = directory.with_name(f"{directory.name}.lock")
        # Another process has begun it.
        with contextlib.suppress(InUseError), exclusive(lock, str(directory)):
            if not (directory / RECORD).exists():
                print(json.dumps(study.train(variant, layers, seed)), flush=True)


def main(argv=None) -> int:
    return common.run_script(build_parser(), argv, work)


if __name__ == "__main__":
    sys.exit(main())
