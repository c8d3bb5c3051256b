"""`bert-of-theseus compress`: a fine-tuned model's folder in, a smaller one out."""

from __future__ import annotations

import argparse
import sys

from . import positive, prepare_keras
from .running import warnings_in_a_line

EXAMPLES = """\
examples:
  bert-of-theseus compress my-model --train train.csv --layers 6 --output small
  bert-of-theseus compress my-model --train train.csv --layers 6 --output small --dry-run
      says what would be done, how long it takes and how much room, and writes nothing
  bert-of-theseus compress my-model --train data/ --layers 6 --output small --onnx
      data/ holds train.jsonl and, if there are, validation.jsonl and test.jsonl
  bert-of-theseus compress my-model --train saved/ --layers 6 --output small
      saved/ was written by save_to_disk of datasets; texts are read as they are needed, so they may
      be more than memory holds
  bert-of-theseus compress my-model --train train.csv --keep 0.99 --max-ms 5 --output small
      the fewest layers that keep 99 % of the score, if they answer in 5 ms on this machine
  bert-of-theseus compress nli --train train.tsv --text-column premise --text-column hypothesis \\
      --label-column gold_label --test dev.tsv --layers 4 --output small
  bert-of-theseus compress ner --train train.conll --validation dev.conll --layers 3 --output small

Without labels in FILE the model's own answers are learned, and scores say how often the smaller
model decides as it does.

MODEL is a folder as `transformers` writes it, for the classification of texts or of tokens: BERT,
RoBERTa, XLM-RoBERTa, DistilBERT, ELECTRA, ALBERT, DeBERTa-v3. It is not trained again. Labels are
those of the model, by name or by number.

DIR holds at the end config.json and model.safetensors, the tokenizer's files as they were, a model
card (README.md) and the report (report.md, report.json, charts). transformers.pipeline and
`bert-of-theseus predict` read it. Killed at any moment, the same command goes on.

Exit status: 0; 2 if nothing could be done, with the reason in one line; 130 after Ctrl-C."""


def add_command(commands) -> None:
    """Adds the command's parser."""
    parser = commands.add_parser(
        "compress",
        help="make a smaller model of a fine-tuned one",
        description=(
            "Makes a model with fewer layers of a fine-tuned Hugging Face model, on your texts, "
            "and says\nhow much of its score is kept."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of the fine-tuned model")
    what = "a file of texts, or a folder with train, validation and test files, or a folder that "
    what += "save_to_disk of datasets wrote"
    add("--train", metavar="FILE", required=True, help=what)
    add("--output", metavar="DIR", required=True, help="folder for the smaller model")
    size = parser.add_argument_group("how small: a number of layers, or a budget").add_argument
    size("--layers", type=positive, metavar="N", help="layers to be left")
    what = "as few layers as keep this share of the score, such as 0.99; tries a few"
    size("--keep", type=_number, metavar="X", help=what)
    what = "as many layers as answer in so many milliseconds here, one text at a time"
    size("--max-ms", type=_number, metavar="X", help=what)
    add("--onnx", action="store_true", help="write onnx/model.onnx and a quantized one too")
    what = "replace what is in DIR; default: refuse a folder that is not empty"
    add("--overwrite", action="store_true", help=what)
    add("--dry-run", action="store_true", help="only say what would be done, and how long it takes")
    add("--quiet", action="store_true", help="print the table alone")
    _add_data(parser)
    _add_training(parser)
    parser.set_defaults(run=compress)


def _add_data(parser) -> None:
    title = "texts: CSV, TSV, JSON lines, a JSON array, Parquet (with pyarrow), CoNLL"
    add = parser.add_argument_group(title).add_argument
    what = "the column with the text; twice for pairs of texts; default: usual names"
    add("--text-column", action="append", metavar="NAME", help=what)
    what = "the column with the labels; '' for none; default: usual names"
    add("--label-column", metavar="NAME", help=what)
    what = "names of the model's outputs in their order, where it has but LABEL_0, LABEL_1, ..."
    add("--labels", nargs="+", metavar="NAME", help=what)
    what = "more texts; the model's own answers are learned in place of labels"
    add("--unlabeled", metavar="FILE", help=what)
    what = "to choose the best weights; default: a part of the training texts"
    add("--validation", metavar="FILE", help=what)
    add(
        "--test", metavar="FILE", help="for the report alone; default: a part of the training texts"
    )
    what = "share of each part that is cut off; default: %(default)s"
    add("--validation-fraction", type=_share, metavar="X", default=0.1, help=what)
    add("--limit", type=positive, metavar="N", help="use at most N random texts of each file")
    what = "cut texts to N tokens; default: the most that the model takes"
    add("--max-length", type=positive, metavar="N", help=what)
    case = parser.add_mutually_exclusive_group()
    what = "the tokenizer keeps capitals, where the folder does not say"
    case.add_argument("--cased", dest="lowercase", action="store_false", default=None, help=what)
    case.add_argument(
        "--uncased", dest="lowercase", action="store_true", default=None, help="it does not"
    )


def _add_training(parser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--batch-size", type=positive, default=32, metavar="N", help="default: %(default)s")
    what = "passes over the texts of the Theseus stage; the warm start before it has twice as "
    what += "many, up to 2,000 steps, the fine-tuning after it as many; default: 2, more for few "
    what += "texts"
    add("--epochs", type=positive, metavar="N", help=what)
    what = "of the Theseus stage; those of the others change with it; default: by the model's "
    what += "hidden size, the batch size and the number of steps"
    add("--learning-rate", type=_share, metavar="X", help=what)
    what = "the score, such as macro_f1 or matthews; default: accuracy, F1 or correlation"
    add("--metric", metavar="NAME", help=what)
    add("--seed", type=_seed, default=0, metavar="N", help="default: %(default)s")


def _share(value: str) -> float:
    try:
        if 0 < float(value) < 1:
            return float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, received {value!r}")


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, received {value!r}") from None


def _seed(value: str) -> int:
    if value.isdecimal() and int(value) < 2**31:
        return int(value)
    raise argparse.ArgumentTypeError(f"expected a whole number below 2**31, received {value!r}")


def compress(args: argparse.Namespace) -> int:
    """Compresses a model; returns the exit status."""
    if (args.layers is None) == (args.keep is None and args.max_ms is None):
        what = "how small?" if args.layers is None else "--layers and a budget do not go together."
        raise ValueError(f"{what} Give --layers, or a budget: --keep, --max-ms or both.")
    prepare_keras()
    from ..pretrained import compress_pretrained

    with warnings_in_a_line():
        try:
            result = compress_pretrained(
                args.model,
                train=args.train,
                directory=args.output,
                num_hidden_layers=args.layers,
                text_columns=args.text_column,
                label_column=args.label_column,
                verbose=0 if args.quiet else 1 if sys.stdout.isatty() else 2,
                **{name: getattr(args, name) for name in _SAME_NAMES},
            )
        except KeyboardInterrupt:
            print("\nThe same command goes on from its last checkpoint.", file=sys.stderr)
            raise
    print(f"\n{result}")
    return 0


# Of arguments here and of `compress_pretrained`.
_SAME_NAMES = (
    *("keep", "max_ms", "labels", "unlabeled", "validation", "test", "validation_fraction"),
    *("limit", "max_length", "lowercase", "metric", "batch_size", "epochs", "learning_rate"),
    *("seed", "onnx", "overwrite", "dry_run"),
)
