"""Writes an encoder and its head as a folder that other programs load, in both formats.

A folder is written completely or not at all: everything is first written to a scratch folder
beside it, read back and compared, and then moved into place.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ..data import Tokenizer
from ..data.tokenizer import stored_lowercase
from ..files import read_json, replace_file, write_json
from .base import Checkpoint
from .configs import SPELLINGS, write_config
from .describe import describe, parts_of
from .families import CLASSIFIER, FAMILIES, POOLER, SEQUENCE, Family
from .google import GoogleCheckpoint
from .heads import GOOGLE_CLASSIFIER, HEAD_FILE, read_task
from .huggingface import SINGLE_FILE, WEIGHT_FILES, HuggingFaceCheckpoint
from .keras_heads import as_keras_head, dropout_rates
from .load import check_vocab
from .staging import staged

_GOOGLE_CONFIG = "bert_config.json"
_GOOGLE_PREFIX = "bert_model.ckpt"
_SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
_MLM, _NSP = "predictions/output_bias", "seq_relationship/output_weights"

# Files with a tokenizer's settings, beside a vocab.txt.
_BESIDE_VOCAB = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")


def save_pretrained(
    directory: str | os.PathLike,
    encoder,
    classifier=None,
    *,
    tokenizer=None,
    vocab=None,
    lowercase: bool | None = None,
    labels: Iterable[str] | None = None,
    overwrite: bool = True,
) -> None:
    """Writes an encoder and its head as a Hugging Face directory.

    `transformers` loads it without Keras or this package: config.json, model.safetensors and the
    tokenizer's files. `load_pretrained` reads it back. The model is of the family that the encoder
    is of (BERT, RoBERTa, XLM-RoBERTa, DistilBERT, ELECTRA, ALBERT or DeBERTa-v3), in float32
    whatever it was trained in. A head that the family has for texts or for tokens
    (`heads.pooler_classification_head` with the family's activation, `heads.tagging_head`, what
    `load_pretrained` returns, or your own model of the same layers) makes it a
    `...ForSequenceClassification` or `...ForTokenClassification`, which returns logits instead of
    probabilities. Any other head, such as a dense layer on `[CLS]` without a pooler, is saved
    beside the encoder alone, as head.keras.

    checksums.json holds the SHA-256 of each file that is written; `load_pretrained` and
    `Predictor.load` check it. Other files in the folder stay. Files that were exported from the
    old model (model.onnx and the like) are removed.

    Args:
        directory: The folder. A model that it holds is replaced once the new one is written, and
            left as it is if that fails.
        encoder: A KerasHub backbone or `TextClassifier`, or a bert4keras `Transformer`, from
            `load_pretrained`, `load_backbone`, `load_bert` or
            `build_transformer_model(..., return_keras_model=False)`.
        classifier: Keras model or layer on the encoder's output. A `TextClassifier` brings its own.
        tokenizer: A `data.Tokenizer`, or the folder of one. Its files are copied byte for byte.
        vocab: For a BERT, in place of `tokenizer`: path of `vocab.txt`, a bert4keras tokenizer, or
            the tokens as list or dict. Defaults to the vocabulary in the folder, if there is one.
        lowercase: Whether the tokenizer lower-cases. Defaults to the tokenizer's own setting or to
            the tokenizer_config.json beside `vocab`, else to `True`.
        labels: The class names.
        overwrite: Whether a model in the folder may be replaced.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the model computes something that no Hugging Face model of its family does,
            or holds NaN; if the tokenizer or the labels do not fit, or the head cannot be saved.
        OSError: if a file could not be written, or the folder holds a model and `overwrite=False`.

    Warns:
        UserWarning: if the head is saved as head.keras; if `transformers` expects a pooler and the
            model has none, so a neutral one is written; if the checkpoint that the model was
            loaded from held tensors that are not written.
    """
    parts = _Parts(encoder, classifier, labels)
    family, tensors, hidden = parts.family, parts.tensors, parts.config["hidden_size"]
    if family.model_type == "bert" and parts.config.get("embedding_size", hidden) != hidden:
        raise ValueError(
            f"A Hugging Face BERT has embeddings of hidden_size {hidden}. Received: "
            f"{parts.config['embedding_size']}."
        )
    architecture = family.architecture(parts.kind)
    if parts.kind is None:
        heads = {
            (True, True): "ForPreTraining",
            (True, False): "ForMaskedLM",
            (False, True): "ForNextSentencePrediction",
        }
        found = (f"cls/{n}" in tensors for n in (_MLM, _NSP))
        architecture = family.classes + heads.get(tuple(found), "Model")
    if architecture.endswith("Model") and family.encoder_pooler and POOLER[0] not in tensors:
        tensors.update(zip(POOLER, (np.eye(hidden, dtype="float32"), np.zeros(hidden, "float32"))))
        parts.notes.append(
            f"the model has no pooler, which {architecture} must have, so an identity is "
            "written: pooler_output is tanh of [CLS]"
        )
    config = {
        "architectures": [architecture],
        "dtype": "float32",
        **write_config(parts.config),
        **parts.head_config,
    }
    # Any kind puts the model's name before the encoder's tensors.
    kind = None if architecture.endswith("Model") else parts.kind or SEQUENCE
    owned = ["config.json", *WEIGHT_FILES, *_SHARDS]
    write_tokenizer = _tokenizer_writer(tokenizer, vocab, lowercase, parts.config)
    with staged(directory, HuggingFaceCheckpoint, owned, write_tokenizer, overwrite) as scratch:
        _write_safetensors(scratch / SINGLE_FILE, tensors, family, kind)
        own_vocab = tokenizer is None
        _finish(scratch, "config.json", config, parts, HuggingFaceCheckpoint, own_vocab)
    _warn(directory, parts.notes)


def save_checkpoint(
    directory: str | os.PathLike,
    encoder,
    classifier=None,
    *,
    vocab=None,
    lowercase: bool | None = None,
    labels: Iterable[str] | None = None,
    overwrite: bool = True,
) -> None:
    """Writes a BERT and its head as a TensorFlow checkpoint with Google's names.

    Plain bert4keras (`build_transformer_model(config_path, checkpoint_path)`) and Google's code
    load it: bert_config.json with the model's depth, bert_model.ckpt.* and vocab.txt. A head of
    BERT's own is written as in Google's `run_classifier.py` (`output_weights`, `output_bias` and
    the pooler), any other as head.keras. Checksums and replacement are those of `save_pretrained`.

    Args:
        directory, encoder, classifier, vocab, lowercase, labels, overwrite: As in
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
    parts = _Parts(encoder, classifier, labels)
    tensors = parts.tensors
    if parts.family.model_type != "bert":
        raise ValueError(
            f"Google's checkpoints are of BERT. Received: a model of type "
            f"{parts.family.model_type!r}. Use save_pretrained."
        )
    if parts.config["layer_norm_eps"] != 1e-12:
        parts.notes.append(
            f"its LayerNorm epsilon is {parts.config['layer_norm_eps']}; load it with "
            "bert_of_theseus.checkpoints, as bert4keras' own loader and Google's code use 1e-12"
        )
    config = {**parts.config, "initializer_range": 0.02, **parts.head_config}
    if parts.kind:
        config["architectures"] = [parts.family.architecture(parts.kind)]
        # Google's names, the kernel transposed.
        tensors[GOOGLE_CLASSIFIER[0]] = tensors.pop(CLASSIFIER[0]).T
        tensors[GOOGLE_CLASSIFIER[1]] = tensors.pop(CLASSIFIER[1])

    owned = [_GOOGLE_CONFIG, f"{_GOOGLE_PREFIX}.index", f"{_GOOGLE_PREFIX}.data-*"]
    write_tokenizer = _tokenizer_writer(None, vocab, lowercase, parts.config)
    with staged(directory, GoogleCheckpoint, owned, write_tokenizer, overwrite) as scratch:
        _write_tensorflow(scratch / _GOOGLE_PREFIX, tensors)
        _finish(scratch, _GOOGLE_CONFIG, config, parts, GoogleCheckpoint)
    _warn(directory, parts.notes)


class _Parts:
    """What is written of a model.

    Attributes:
        family: A `Family`.
        config: The encoder's canonical config.
        head_config: The head's entries of the config file, labels included.
        tensors: Dict by canonical name.
        kind: The head's kind, if it is one of the family's own, else `None`.
        keras_head: `KerasHead` to write as head.keras, or `None`.
        notes: List of what the user is warned about.
    """

    def __init__(self, encoder, classifier, labels):
        encoder, classifier, shape = parts_of(encoder, classifier)
        self.config, self.tensors, head = describe(encoder, classifier)
        self.family = FAMILIES[self.config["model_type"]]
        self.kind = head.kind if head else None
        self.keras_head, num_classes = None, None
        self.head_config = {}
        if head:
            self.tensors.update(head.tensors)
            self.head_config.update(head.config)
            num_classes = head.num_classes
        if self.kind:
            self.head_config.update(_rates(self.family, head, classifier))
        elif classifier is not None:
            # Of a dense layer on [CLS] a model is built anew: the original may be a Lambda.
            self.keras_head = as_keras_head(head.as_keras() if head else classifier, shape)
            self.head_config.setdefault("classifier_activation", self.keras_head.activation)
            num_classes = self.keras_head.num_classes
        self.head_config.update(_labels(labels, num_classes))
        self.notes = _notes(encoder, set(head.tensors) if head else set(), self.keras_head)
        if classifier is None and POOLER[0] not in self.tensors:
            self.tensors.update(getattr(encoder, "unused_pooler", ()))
        broken = [name for name, value in self.tensors.items() if not np.isfinite(value).all()]
        if broken:
            raise ValueError(f"The model holds NaN or infinity: {', '.join(broken)}.")


def _rates(family: Family, head, classifier) -> dict:
    """The entries of config.json for a head's dropouts and its dense layer's activation."""
    input_rate, rate = dropout_rates(classifier)
    key = family.dropout.get(head.kind)
    entries = {key: rate} if key else {}
    if family.model_type == "deberta-v2" and head.kind == SEQUENCE:
        entries["pooler_dropout"] = input_rate
        entries["pooler_hidden_act"] = SPELLINGS[head.layers[0].activation][0]
    return entries


def _labels(labels, num_classes: int | None) -> dict:
    """The entries of config.json for the class names."""
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
    if labels is None:
        return {}
    return {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def _notes(encoder, written: set, keras_head) -> list[str]:
    notes = []
    if keras_head:
        notes.append(
            "its head is none of the family's own, so it is saved beside the encoder, in "
            f"{HEAD_FILE}: bert_of_theseus.checkpoints.load_pretrained reads it, other programs do "
            "not"
        )
    left_out = sorted(set(getattr(encoder, "left_out", ())) - written)
    if left_out:
        notes.append(
            "the checkpoint that it was loaded from held more tensors, which the model does not "
            f"use and which are not written: {', '.join(left_out)}"
        )
    return notes


def _warn(directory, notes: list[str]) -> None:
    if notes:
        warnings.warn(f"Saved to {str(directory)!r}; {'; '.join(notes)}.", stacklevel=3)


def _write_safetensors(path: Path, tensors: dict, family: Family, kind: str | None) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    stored = {}
    for name, value in tensors.items():
        value = value.T if name.endswith("/kernel") else value
        stored[family.stored(name, kind)] = np.ascontiguousarray(value, "float32")
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


def _finish(scratch: Path, config_name: str, config: dict, parts: _Parts, kind, check=True) -> None:
    """Writes config and head, reads everything back and compares it; and checks vocab.txt."""
    write_json(scratch / config_name, config)
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
    read_task(checkpoint)
    if check and (scratch / "vocab.txt").is_file():
        check_vocab(scratch / "vocab.txt", checkpoint.config)


# The tokenizer.


def _tokenizer_writer(tokenizer, vocab, lowercase, config: dict) -> Callable | None:
    """A function that writes the tokenizer's files into a folder, or `None` if there is none."""
    if tokenizer is None:
        return None if vocab is None else lambda scratch: _write_vocab(scratch, vocab, lowercase)
    if vocab is not None:
        raise ValueError("Only one of `tokenizer` and `vocab` can be given.")
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = Tokenizer.from_folder(tokenizer, lowercase)
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(
            "`tokenizer` must be a data.Tokenizer, or the folder of one. Received: "
            f"{type(tokenizer).__name__}."
        )
    if tokenizer.vocab_size > config["vocab_size"]:
        raise ValueError(
            f"`tokenizer` has {tokenizer.vocab_size} tokens, but the model's embeddings have "
            f"{config['vocab_size']} rows (vocab_size); they do not belong together."
        )
    return tokenizer.save


def _write_vocab(scratch: Path, vocab, lowercase: bool | None) -> None:
    """Writes vocab.txt and tokenizer_config.json, with the settings that stand beside `vocab`."""
    content, own_lowercase = _vocab_text(vocab)
    vocab = getattr(vocab, "vocab_file", vocab)  # of a data.Tokenizer
    stored = {}
    if isinstance(vocab, (str, os.PathLike)):
        settings, *others = (Path(vocab).with_name(name) for name in _BESIDE_VOCAB)
        stored = read_json(settings) if settings.is_file() else {}
        for path in filter(Path.is_file, others):
            shutil.copyfile(path, scratch / path.name)
    replace_file(scratch / "vocab.txt", lambda path: path.write_bytes(content))
    write_json(
        scratch / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            **{f"{n}_token": f"[{n.upper()}]" for n in ("unk", "sep", "pad", "cls", "mask")},
            **stored,
            "do_lower_case": own_lowercase if lowercase is None else lowercase,
        },
    )


def _vocab_text(vocab) -> tuple[bytes, bool]:
    """The content of vocab.txt, and whether texts are lower-cased."""
    if hasattr(vocab, "vocab_file"):  # data.Tokenizer
        if Path(vocab.vocab_file).suffix == ".json":
            raise ValueError(
                f"{str(vocab.vocab_file)!r} is not a vocab.txt. Give the tokenizer as `tokenizer`."
            )
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
