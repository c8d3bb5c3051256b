"""Writes a bert4keras BERT and its head as a folder that other programs load, in both formats.

A folder is written completely or not at all: everything is first written to a scratch folder
beside it, read back and compared, and then moved into place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..data.tokenizer import stored_lowercase
from ..files import CHECKSUMS, check_files, read_checksums, replace_file, sha256, write_json
from .base import Checkpoint
from .configs import SPELLINGS
from .describe import Description, describe
from .families import CLASSIFIER, FAMILIES, POOLER
from .google import GoogleCheckpoint
from .heads import GOOGLE_CLASSIFIER, HEAD_FILE
from .huggingface import SHARD_INDEX, SINGLE_FILE, HuggingFaceCheckpoint
from .keras_heads import as_keras_head, dropout_rate
from .load import KINDS, check_vocab

_GOOGLE_CONFIG = "bert_config.json"
_GOOGLE_PREFIX = "bert_model.ckpt"
_TOKENIZER = ("vocab.txt", "tokenizer_config.json")
# `transformers` would read these instead of a new vocab.txt.
_STALE = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
# Exported from the old weights.
_EXPORTED = ("model.onnx", "model.*.onnx", "model.tflite", "model.*.tflite")


def save_pretrained(
    directory: str | os.PathLike,
    transformer,
    classifier=None,
    *,
    vocab=None,
    lowercase: bool | None = None,
    labels: Iterable[str] | None = None,
    overwrite: bool = True,
) -> None:
    """Writes a bert4keras BERT and its head as a Hugging Face directory.

    `transformers` loads it without bert4keras, TensorFlow or this package: config.json,
    model.safetensors, vocab.txt, tokenizer_config.json. `load_pretrained` reads it back. A head of
    BERT's own (`heads.pooler_classification_head`, `heads.tagging_head`, a dense layer on
    `with_pool=True`, or your own model of the same layers) makes it a
    `BertForSequenceClassification` or `BertForTokenClassification`, which returns logits instead
    of probabilities. Any other head, such as a dense layer on `[CLS]` without a pooler, is saved
    beside a `BertModel`, as head.keras.

    checksums.json holds the SHA-256 of each file that is written; `load_pretrained` and
    `Predictor.load` check it. Other files in the folder stay. Files that were exported from the
    old model (model.onnx and the like) are removed.

    Args:
        directory: The folder. A model that it holds is replaced once the new one is written, and
            left as it is if that fails.
        transformer: A bert4keras `Transformer`, from `load_bert` or
            `build_transformer_model(..., return_keras_model=False)`.
        classifier: Keras model or layer on the transformer's output.
        vocab: Path of `vocab.txt`, a tokenizer (bert4keras' or `data.Tokenizer`), or the tokens as
            list or dict. Defaults to the vocabulary in the folder, if there is one.
        lowercase: Whether the tokenizer lower-cases. Defaults to the tokenizer's own setting or to
            the tokenizer_config.json beside `vocab`, else to `True`.
        labels: The class names.
        overwrite: Whether a model in the folder may be replaced.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the model computes something that a Hugging Face BERT does not, or holds NaN;
            if the vocabulary or the labels do not fit, or the head cannot be saved.
        OSError: if a file could not be written, or the folder holds a model and `overwrite=False`.

    Warns:
        UserWarning: if the head is saved as head.keras; if `transformers` expects a pooler and the
            model has none, so a neutral one is written; if the checkpoint that the model was
            loaded from held tensors that are not written.
    """
    parts = _parts(transformer, classifier, labels)
    config, tensors = parts.config, parts.tensors
    if "embedding_size" in config:
        raise ValueError(
            f"A Hugging Face BERT has embeddings of hidden_size {config['hidden_size']}. Received: "
            f"{config['embedding_size']}."
        )
    notes = parts.notes
    architecture = parts.architecture
    if architecture is None:
        architecture = {
            (True, True): "BertForPreTraining",
            (True, False): "BertForMaskedLM",
            (False, True): "BertForNextSentencePrediction",
        }.get((bool(transformer.with_mlm), bool(transformer.with_nsp)), "BertModel")
    if architecture == "BertModel" and POOLER[0] not in tensors:
        size = config["hidden_size"]
        tensors.update(zip(POOLER, (np.eye(size, dtype="float32"), np.zeros(size, "float32"))))
        notes.append(
            "the model has no pooler, which a BertModel must have, so an identity is written: "
            "pooler_output is tanh of [CLS]"
        )
    config["hidden_act"] = SPELLINGS[config["hidden_act"]][0]
    config.update(architectures=[architecture], dtype="float32", pad_token_id=0)
    prefix = "" if architecture == "BertModel" else "bert."

    owned = ["config.json", SINGLE_FILE, SHARD_INDEX, "model-*-of-*.safetensors"]
    with _staged(directory, HuggingFaceCheckpoint, owned, vocab, lowercase, overwrite) as scratch:
        _write_safetensors(scratch / SINGLE_FILE, tensors, prefix)
        _finish(scratch, "config.json", parts, HuggingFaceCheckpoint)
    _warn(directory, notes)


def save_checkpoint(
    directory: str | os.PathLike,
    transformer,
    classifier=None,
    *,
    vocab=None,
    lowercase: bool | None = None,
    labels: Iterable[str] | None = None,
    overwrite: bool = True,
) -> None:
    """Writes a bert4keras BERT and its head as a TensorFlow checkpoint with Google's names.

    Plain bert4keras (`build_transformer_model(config_path, checkpoint_path)`) and Google's code
    load it: bert_config.json with the model's depth, bert_model.ckpt.* and vocab.txt. A head of
    BERT's own is written as in Google's `run_classifier.py` (`output_weights`, `output_bias` and
    the pooler), any other as head.keras. Checksums and replacement are those of `save_pretrained`.

    Args:
        directory, transformer, classifier, vocab, lowercase, labels, overwrite: As in
            `save_pretrained`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if no config of BERT can express the model, or it holds NaN; if the vocabulary
            or the labels do not fit, or the head cannot be saved.
        OSError: if a file could not be written, or the folder holds a model and `overwrite=False`.

    Warns:
        UserWarning: if the head is saved as head.keras; if LayerNorm's epsilon is not 1e-12, which
            bert4keras' own loader and Google's code use; if the checkpoint that the model was
            loaded from held tensors that are not written.
    """
    parts = _parts(transformer, classifier, labels)
    config, tensors = parts.config, parts.tensors
    if config["layer_norm_eps"] != 1e-12:
        parts.notes.append(
            f"its LayerNorm epsilon is {config['layer_norm_eps']}; load it with "
            "bert_of_theseus.checkpoints, as bert4keras' own loader and Google's code use 1e-12"
        )
    if parts.architecture:
        config["architectures"] = [parts.architecture]
        # Google's names, the kernel transposed.
        tensors[GOOGLE_CLASSIFIER[0]] = tensors.pop(CLASSIFIER[0]).T
        tensors[GOOGLE_CLASSIFIER[1]] = tensors.pop(CLASSIFIER[1])

    owned = [_GOOGLE_CONFIG, f"{_GOOGLE_PREFIX}.index", f"{_GOOGLE_PREFIX}.data-*"]
    with _staged(directory, GoogleCheckpoint, owned, vocab, lowercase, overwrite) as scratch:
        _write_tensorflow(scratch / _GOOGLE_PREFIX, tensors)
        _finish(scratch, _GOOGLE_CONFIG, parts, GoogleCheckpoint)
    _warn(directory, parts.notes)


class _Parts:
    """What is written of a model.

    Attributes:
        config: Dict, the content of the config file.
        tensors: Dict by canonical name.
        architecture: `transformers`' name of a model with one of BERT's own heads, else `None`.
        keras_head: `KerasHead` to write as head.keras, or `None`.
        notes: List of what the user is warned about.
    """

    def __init__(self, description: Description, transformer, classifier):
        self.config, self.tensors, head = description
        self.architecture = None
        if head and head.kind:
            self.architecture = FAMILIES["bert"].architecture(head.kind)
        self.keras_head = None
        if head:
            self.tensors.update(head.tensors)
            self.config.update(head.config)
        if classifier is not None:
            self.config["classifier_dropout"] = dropout_rate(classifier)
            if self.architecture is None:
                # Of a dense layer on [CLS] a model is built anew: the original may be a Lambda.
                model = head.as_keras() if head else classifier
                self.keras_head = as_keras_head(model, tuple(transformer.output.shape))
                self.config.setdefault("classifier_activation", self.keras_head.activation)
        self.notes = _notes(transformer, head, self.keras_head)


def _parts(transformer, classifier, labels) -> _Parts:
    parts = _Parts(describe(transformer, classifier), transformer, classifier)
    num_classes = None
    if parts.architecture:
        num_classes = parts.tensors[CLASSIFIER[1]].shape[0]
    elif parts.keras_head:
        num_classes = parts.keras_head.num_classes
    if labels is not None:
        labels = list(labels)
        if not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
            raise ValueError(f"`labels` must be distinct strings. Received: {labels}.")
        if num_classes not in (None, len(labels)):
            raise ValueError(
                f"`labels` must name the {num_classes} classes of the classifier. Received: "
                f"{len(labels)}."
            )
    elif num_classes:
        labels = [f"LABEL_{number}" for number in range(num_classes)]
    if labels is not None:
        parts.config["id2label"] = {str(number): label for number, label in enumerate(labels)}
        parts.config["label2id"] = {label: number for number, label in enumerate(labels)}
    broken = [name for name, value in parts.tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"The model holds NaN or infinity: {', '.join(broken)}.")
    return parts


def _notes(transformer, head, keras_head) -> list[str]:
    notes = []
    if keras_head:
        notes.append(
            f"its head is none of BERT's own, so it is saved beside the encoder, in {HEAD_FILE}: "
            "bert_of_theseus.checkpoints.load_pretrained reads it, other programs do not"
        )
    written = set(head.tensors) if head else set()
    left_out = sorted(set(getattr(transformer, "left_out", ())) - written)
    if left_out:
        notes.append(
            "the checkpoint that it was loaded from held more tensors, which the model does not "
            f"use and which are not written: {', '.join(left_out)}"
        )
    return notes


def _warn(directory, notes: list[str]) -> None:
    if notes:
        warnings.warn(f"Saved to {str(directory)!r}; {'; '.join(notes)}.", stacklevel=3)


# Files.


@contextlib.contextmanager
def _staged(directory, kind, owned, vocab, lowercase, overwrite) -> Iterator[Path]:
    """A scratch folder whose content replaces the `owned` files in `directory` after the block."""
    directory = Path(directory).resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{str(directory)!r} must be a folder; it is a file.")
    exists = directory.is_dir()
    if exists:
        _check_place(directory, kind, owned, overwrite)
    else:
        directory.parent.mkdir(parents=True, exist_ok=True)
    owned = [*owned, HEAD_FILE, CHECKSUMS, *_EXPORTED]
    # On the same file system in any case, so that moving a file can hardly fail.
    scratch = tempfile.TemporaryDirectory(
        prefix=f".{directory.name}-", suffix=".part", dir=directory if exists else directory.parent
    )
    with scratch as name:
        new, old = Path(name, "new"), Path(name, "old")
        new.mkdir()
        old.mkdir()
        if vocab is not None:
            _write_vocab(new, vocab, lowercase)
            owned += [*_TOKENIZER, *_STALE]
        elif exists and (directory / "vocab.txt").is_file():
            check_files(directory, _TOKENIZER)
            for file in _TOKENIZER:  # `_finish` checks that they fit
                if (directory / file).is_file():
                    shutil.copyfile(directory / file, new / file)
            owned += _TOKENIZER
        yield new
        _write_checksums(new, directory, owned)
        if exists:
            _replace(directory, new, old, owned)
        else:
            os.rename(new, directory)


def _write_checksums(new: Path, directory: Path, owned) -> None:
    """Writes checksums.json for the new files, and for those in the folder that stay."""
    digests = {path.name: sha256(path) for path in new.iterdir()}
    listed = {}
    with contextlib.suppress(ValueError):  # one that cannot be read is replaced all the same
        listed = read_checksums(directory)
    for name, digest in listed.items():
        path = directory / name
        if path.is_file() and not any(path.match(pattern) for pattern in owned):
            digests.setdefault(name, digest)
    write_json(new / CHECKSUMS, dict(sorted(digests.items())))


def _check_place(directory: Path, kind, owned, overwrite: bool) -> None:
    """Refuses a folder with another checkpoint, or one that must not be overwritten."""
    found = [path for k in KINDS for path in k.find_tensors(directory)]
    if kind is GoogleCheckpoint:
        found += directory.glob("bert_config*.json")
    others = [p.name for p in found if not any(p.match(pattern) for pattern in owned)]
    if others:
        raise FileExistsError(
            f"{str(directory)!r} holds another checkpoint ({', '.join(others)}), and would hold "
            "two. Choose another folder."
        )
    if found and not overwrite:
        names = ", ".join(path.name for path in found)
        raise FileExistsError(f"{str(directory)!r} holds a checkpoint ({names}): overwrite=False.")


def _replace(directory: Path, new: Path, old: Path, owned) -> None:
    """Moves files into place; if one cannot be moved, restores all of them.

    The model's config is the first to leave and the last to arrive. If the process is killed in
    between, the folder has no config and does not load.
    """
    moves = [(path, old / path.name) for pattern in owned for path in directory.glob(pattern)]
    arriving = sorted(new.iterdir(), key=lambda path: (path.name == Path(owned[0]).name, path))
    moves += [(path, directory / path.name) for path in arriving]
    done = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def _write_safetensors(path: Path, tensors: dict, prefix: str) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    stored = {}
    for name, value in tensors.items():
        value = value.T if name.endswith("/kernel") else value
        kind = "sequence" if prefix else None
        stored[FAMILIES["bert"].stored(name, kind)] = np.ascontiguousarray(value)
    try:
        save_file(stored, path, metadata={"format": "pt"})
        # safetensors makes it readable by its owner only. Use the folder's permissions.
        path.chmod(path.parent.stat().st_mode & 0o666)
    except SafetensorError as error:
        raise OSError(f"{str(path)!r} could not be written: {error}") from error


def _write_tensorflow(prefix: Path, tensors: dict) -> None:
    import tensorflow as tf

    try:
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=[tf.constant(value) for value in tensors.values()],
        )
    except tf.errors.OpError as error:
        raise OSError(f"{str(prefix)!r} could not be written: {error.message}") from error


def _finish(scratch: Path, config_name: str, parts: _Parts, kind) -> None:
    """Writes config and head, reads everything back and compares it."""
    write_json(scratch / config_name, parts.config)
    if parts.keras_head:
        parts.keras_head.save(scratch / HEAD_FILE)
    checkpoint: Checkpoint = kind(scratch)
    changed = [
        n
        for n, value in parts.tensors.items()
        if n not in checkpoint.names or checkpoint.tensor(n).tobytes() != value.tobytes()
    ]
    if changed:
        raise OSError(f"{str(scratch)!r} was not written correctly: {', '.join(changed)}.")
    if (scratch / "vocab.txt").is_file():
        check_vocab(scratch / "vocab.txt", checkpoint.config)


def _write_vocab(scratch: Path, vocab, lowercase: bool | None) -> None:
    """Writes vocab.txt and tokenizer_config.json."""
    content, own_lowercase = _vocab_text(vocab)
    lowercase = own_lowercase if lowercase is None else lowercase
    replace_file(scratch / "vocab.txt", lambda path: path.write_bytes(content))
    write_json(
        scratch / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": lowercase,
            **{f"{n}_token": f"[{n.upper()}]" for n in ("unk", "sep", "pad", "cls", "mask")},
        },
    )


def _vocab_text(vocab) -> tuple[bytes, bool]:
    """The content of vocab.txt, and whether texts are lower-cased."""
    if hasattr(vocab, "vocab_file"):  # data.Tokenizer
        return Path(vocab.vocab_file).read_bytes(), vocab.lowercase
    if isinstance(vocab, (str, os.PathLike)):
        return Path(vocab).read_bytes(), stored_lowercase(vocab)
    lowercase = getattr(vocab, "_do_lower_case", True)  # bert4keras' Tokenizer
    vocab = getattr(vocab, "_token_dict", vocab)
    if isinstance(vocab, dict):
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError("`vocab` must give its tokens the ids 0, 1, 2, ...")
        vocab = sorted(vocab, key=vocab.get)
    if not isinstance(vocab, (list, tuple)) or not all(isinstance(t, str) for t in vocab):
        raise TypeError(
            "`vocab` must be the path of vocab.txt, a tokenizer, or the tokens as list or dict. "
            f"Received: {type(vocab).__name__}."
        )
    return "".join(token + "\n" for token in vocab).encode(), lowercase
