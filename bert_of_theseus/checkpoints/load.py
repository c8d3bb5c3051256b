"""Opens the checkpoint in a folder, of either format, and checks its vocabulary."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from ..files import check_files, read_json
from .base import Checkpoint, missing_file
from .google import GoogleCheckpoint
from .huggingface import HuggingFaceCheckpoint

KINDS = (GoogleCheckpoint, HuggingFaceCheckpoint)


def find_checkpoint(directory: str | os.PathLike) -> Checkpoint:
    """Opens the BERT checkpoint in a folder, of either format.

    Reads the config and the table of contents, but no values.

    Args:
        directory: A folder with `bert_config.json` and one `*.ckpt*` (Google), or with
            `config.json` and `model.safetensors`, whole or in shards (Hugging Face).

    Returns:
        A `Checkpoint`: `config`, `vocab_path`, `names`, `shape(name)`, `dtype(name)` and
        `tensor(name)`.

    Raises:
        FileNotFoundError: if the folder or one of the files is missing; says what is there.
        ValueError: if a file cannot be read, does not match the folder's checksums.json, or does
            not describe a BERT encoder.
    """
    path = Path(directory)
    kinds = [kind for kind in KINDS if path.is_dir() and kind.find_tensors(path)]
    if len(kinds) > 1:
        raise ValueError(
            f"{str(path)!r} holds a {' and a '.join(kind.format for kind in kinds)}; keep one."
        )
    if not kinds:
        raise missing_file(
            path,
            "config.json with model.safetensors (Hugging Face), or bert_config.json with a "
            "*.ckpt*.index and its .data files (Google)",
        )
    return kinds[0](path)


def check_vocab(vocab_path: str | os.PathLike, config: dict, stacklevel: int = 1) -> int:
    """Checks that a vocabulary fits a model's embeddings.

    Every token needs a row, so more tokens than rows is an error. Fewer tokens are a warning: some
    models pad their embeddings to a round number. Where the folder has a checksums.json that lists
    vocab.txt and tokenizer_config.json, they must match it.

    Args:
        vocab_path: `vocab.txt`, one token a line.
        config: A dict with `vocab_size`, as `Checkpoint.config`.
        stacklevel: As in `warnings.warn`, for a warning at the caller's line. Defaults to 1.

    Returns:
        The number of tokens.

    Raises:
        ValueError: if there are too many tokens or none, a token stands twice (bert4keras would
            then shift the ids of all later ones), `[PAD]` is not the first (the model masks id 0),
            or a file does not match its checksum.
    """
    path, rows = str(vocab_path), config["vocab_size"]
    settings = Path(vocab_path).with_name("tokenizer_config.json")
    check_files(settings.parent, [Path(vocab_path).name, settings.name])
    if settings.is_file():
        read_json(settings)  # of use to tokenizers; damage is reported here too
    try:
        with open(vocab_path, encoding="utf-8") as lines:
            # As bert4keras reads it: the first word of a line. No two lines may share it.
            tokens = [(line.split() or [""])[0] for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not UTF-8 text: {error}.") from error
    while tokens and not tokens[-1]:
        tokens.pop()
    if not tokens:
        raise ValueError(f"{path!r} is empty.")

    seen = {}
    for number, token in enumerate(tokens, start=1):
        if seen.setdefault(token, number) != number:
            raise ValueError(
                f"{path!r} holds {token!r} twice, in lines {seen[token]} and {number}."
            )
    if seen.get("[PAD]", 1) != 1:
        raise ValueError(f"{path!r} must have '[PAD]' in line 1, not in line {seen['[PAD]']}.")
    if len(tokens) > rows:
        raise ValueError(
            f"{path!r} holds {len(tokens)} tokens, but the model's embeddings have {rows} rows "
            "(vocab_size); they do not belong together."
        )
    if len(tokens) < rows:
        warnings.warn(
            f"{path!r} holds {len(tokens)} tokens and the model's embeddings have {rows} rows; "
            "the other rows are not used.",
            stacklevel=stacklevel + 1,
        )
    return len(tokens)
