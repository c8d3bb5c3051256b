"""A model and the texts for it, read and checked without Keras."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checkpoints import find_checkpoint
from ..checkpoints.base import Checkpoint
from ..checkpoints.heads import HeadFacts, read_task
from ..data import Encoded, TextTask, Tokenizer, load_texts, task_for
from ..data.labels import are_unnamed
from ..data.tokenizer import check_tokenizer
from ..files import sha256
from ..validation import integer
from .answers import unlabelled
from .saved import SavedTexts, is_saved_dataset, read_sets

SETS = ("train", "validation", "test", "unlabeled")


class Inputs(NamedTuple):
    """What is compressed, and on what.

    Attributes:
        checkpoint: The model's `Checkpoint`.
        head: Its `HeadFacts`.
        tokenizer: Its `Tokenizer`.
        task: The `TextTask` that its head solves.
        texts: Dict of `Encoded` by the names in `SETS`, without those that there are none of, and
            without `"train"` if these texts are read as they are needed.
        has_labels: Boolean. Whether the texts have labels, those of `"unlabeled"` aside.
        max_length: Integer, the number of tokens that a text is truncated to.
        saved: The `SavedTexts` to train on, or `None` if they are in `texts`.
    """

    checkpoint: Checkpoint
    head: HeadFacts
    tokenizer: Tokenizer
    task: TextTask
    texts: dict[str, Encoded]
    has_labels: bool
    max_length: int
    saved: SavedTexts | None = None

    @property
    def kind(self) -> str:
        """What the head does, by the name that `data.load_texts` has for it."""
        return _kind(self.checkpoint.directory, self.head)

    @property
    def without_labels(self) -> list[str]:
        """The names of the sets of texts that have none."""
        return [name for name in self.texts if name == "unlabeled" or not self.has_labels]

    @property
    def num_texts(self) -> int:
        """The number of texts to train on."""
        return self.count("train") + self.count("unlabeled")

    def count(self, name: str) -> int:
        """The number of texts in a set."""
        if name == "train" and self.saved is not None:
            return self.saved.count
        return len(self.texts[name].token_ids) if name in self.texts else 0

    def checksums(self) -> dict[str, str]:
        """Of all that was read: the same model and the same texts have the same ones.

        In words for messages: "another model".
        """
        files = [self.checkpoint.config_file, *self.checkpoint.tensor_files]
        saved = {} if self.saved is None else {"set of train texts": self.saved.fingerprint}
        return {
            "model": _checksum(sha256(path) for path in files),
            "tokenizer": _checksum(sha256(path) for path in self.tokenizer.files()),
            "metric": self.task.metric,
            "list of labels": _checksum(self.task.labels),
            **{f"set of {name} texts": _checksum(_parts(self.texts.get(name))) for name in SETS},
            **saved,
        }

    def describe(self) -> str:
        """A few lines on the model and the texts."""
        config, head = self.checkpoint.config, self.head
        labels = self.task.labels
        shown = ", ".join(labels[:8]) + ", ..." * (len(labels) > 8)
        lines = [
            f"{config['model_type']}, {config['num_hidden_layers']} layers of "
            f"{config['hidden_size']} units; {head.num_outputs} outputs: {shown}"
        ]
        if self.saved is not None:
            lines.append(f"train: {self.saved.count:,} texts, which are read as they are needed")
        for name, encoded in self.texts.items():
            lengths = [len(ids) for ids in encoded.token_ids]
            cut = int(encoded.cut.sum())
            noun = "text" if len(lengths) == 1 else "texts"
            lines.append(
                f"{name}: {len(lengths):,} {noun}, the longest of {max(lengths)} tokens"
                + f"; {cut:,} are cut to {self.max_length}" * bool(cut)
            )
        return "\n".join(lines)


def read_inputs(
    model: str | os.PathLike,
    train: str | os.PathLike,
    *,
    unlabeled: str | os.PathLike | None = None,
    num_hidden_layers: int | None = None,
    max_length: int | None = None,
    lowercase: bool | None = None,
    metric: str | None = None,
    labels: Sequence[str] | None = None,
    **data,
) -> Inputs:
    """Reads a model's folder and files of texts, and checks that they fit each other.

    Args:
        model, train, unlabeled, num_hidden_layers, max_length, lowercase, metric, labels: As in
            `compress_pretrained`.
        **data: Other arguments of `data.load_texts`.

    Raises:
        FileNotFoundError, ValueError: what is wrong, with the file and the row or column.
    """
    model = Path(model)
    if not model.is_dir():
        what = "a file" if model.exists() else "missing"
        raise FileNotFoundError(
            f"{str(model)!r} must be the folder of a model; it is {what}. Of a model on the Hub, "
            "download the folder first: hf download NAME --local-dir FOLDER"
        )
    checkpoint = find_checkpoint(model)
    head = read_task(checkpoint)
    if head.kind not in ("sequence", "token"):
        what = "no head" if head.kind is None else "a head that other programs do not know"
        raise ValueError(
            f"{str(model)!r} must be a fine-tuned model for the classification of texts or of "
            f"tokens. It has {what}."
        )
    _check_depth(num_hidden_layers, checkpoint)
    tokenizer = Tokenizer.from_folder(model, lowercase=lowercase)
    check_tokenizer(tokenizer, checkpoint.config)
    limit = checkpoint.config["max_position_embeddings"]
    max_length = integer("max_length", max_length, 3, limit, optional=True)
    if max_length is None:  # as transformers does
        max_length = min(limit, tokenizer.model_max_length or limit)
    kind = _kind(model, head)
    if labels is not None:
        head = head._replace(labels=_named(model, head, labels))
    labels = head.labels or [f"LABEL_{number}" for number in range(head.num_outputs)]
    task = task_for(kind, labels, metric)
    task.check()
    saved = None
    if is_saved_dataset(train):
        if unlabeled is not None:
            raise ValueError(
                f"`unlabeled` must be left out where {str(train)!r} is a saved dataset, whose "
                f"texts are read as they are needed. Received: {str(unlabeled)!r}"
            )
        saved, sets = _read_saved(train, task, tokenizer, max_length, kind, data)
        has_labels = True
    else:
        corpus = load_texts(train, kind=kind, labels=labels, **data)
        has_labels = corpus.train[0].label is not None
        sets = {"train": corpus.train, "validation": corpus.validation, "test": corpus.dev}
    if unlabeled is not None:
        sets["unlabeled"] = _read_unlabeled(unlabeled, kind, labels, data)
    texts = {}
    for name, given in sets.items():
        is_encoded = isinstance(given, Encoded)
        examples = given.examples if is_encoded else given
        if examples and not (has_labels and name in SETS[:3]):
            examples = unlabelled(task, examples)
        if examples:
            pairs = any(example.second_text is not None for example in examples)
            check_tokenizer(tokenizer, checkpoint.config, pairs)
            texts[name] = given if is_encoded else task.encode(examples, tokenizer, max_length)
    return Inputs(checkpoint, head, tokenizer, task, texts, has_labels, max_length, saved)


def _read_saved(path, task, tokenizer, max_length, kind, data) -> tuple[SavedTexts, dict]:
    """The texts to train on, where they are; and the other sets, encoded or as examples."""
    data = {name: value for name, value in data.items() if value is not None}
    files = {name: data.pop(name) for name in ("validation", "test") if name in data}
    names = ("text_columns", "label_column")
    columns = {name: data.pop(name) for name in names if name in data}
    rows = read_sets(path, files, **data)
    saved = SavedTexts(rows.pop("train"), task, tokenizer, max_length, columns)
    try:
        saved.batches()  # whose columns are looked for
        sets = {name: saved.encoded(part) for name, part in rows.items()}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    options = {**columns, **data, "kind": kind, "labels": task.labels, "validation_fraction": 0}
    for name, file in files.items():
        sets[name] = load_texts(file, **options).train
    return saved, {name: sets[name] for name in SETS if name in sets}


def _read_unlabeled(path, kind, labels, data) -> list:
    options = {name: data[name] for name in ("text_columns", "limit", "seed") if name in data}
    if str(path).endswith((".txt", ".txt.gz")):  # has no columns
        options.pop("text_columns", None)
    options |= {"label_column": "", "validation_fraction": 0}
    corpus = load_texts(path, kind=kind, labels=labels, **options)
    return [*corpus.train, *corpus.validation, *corpus.dev]


def _named(model, head, labels) -> list[str]:
    """The labels that are given to a model that has none of its own, checked."""
    labels, own = list(labels), head.labels
    if not all(isinstance(name, str) and name.strip() for name in labels):
        raise TypeError(f"`labels` must be names. Received: {labels}")
    if len(labels) != head.num_outputs or len(set(labels)) < len(labels):
        raise ValueError(
            f"`labels` must be {head.num_outputs} different names, one for each output of "
            f"{str(model)!r} in their order. Received {len(labels)}: {', '.join(labels)}"
        )
    if own and own != labels and not are_unnamed(own):
        raise ValueError(
            f"`labels` must be left out: {str(model)!r} has names of its own, {', '.join(own)}. "
            f"Received: {', '.join(labels)}"
        )
    return labels


def _check_depth(num_hidden_layers, checkpoint):
    where, depth = repr(str(checkpoint.directory)), checkpoint.config["num_hidden_layers"]
    if depth < 2:
        raise ValueError(f"{where} has one layer. It must have several, of which some are left.")
    given = integer("num_hidden_layers", num_hidden_layers, optional=True)
    if given is not None and not 1 <= given < depth:
        raise ValueError(
            f"{where} has {depth} layers. The number of those that are left (`num_hidden_layers`, "
            f"--layers) must be from 1 to {depth - 1}. Received: {given}"
        )


def _kind(model, head: HeadFacts) -> str:
    """What the head does, by the name that `data.load_texts` has for it."""
    if head.kind == "token":
        return "tagging"
    if head.activation == "linear":
        if head.num_outputs > 1:
            raise ValueError(
                f"The head in {str(model)!r} predicts {head.num_outputs} numbers. It must predict "
                "one number, or classes."
            )
        return "regression"
    return "multi-label" if head.activation == "sigmoid" else "classification"


def _parts(encoded: Encoded | None):
    """The arrays that training reads."""
    if encoded is None:
        return
    for arrays in (encoded.token_ids, encoded.segment_ids, encoded.labels):
        for array in () if arrays is None else arrays:
            yield np.ascontiguousarray(array).tobytes()


def _checksum(parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]
