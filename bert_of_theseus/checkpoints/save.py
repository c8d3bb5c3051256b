"""From a model to a folder that other programs load: the writers of both kinds of checkpoint.

A folder is written whole or not at all: everything is first written to a scratch folder beside
it, read back and compared, and moved into place last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .base import VOCAB_DIGEST, Checkpoint, read_json
from .google import GoogleCheckpoint
from .head import (
    BESIDE,
    CLASSIFIER,
    GOOGLE_CLASSIFIER,
    POOLER,
    Head,
    apparent_activation,
    describe_head,
    save_beside,
)
from .huggingface import (
    DIGESTS,
    SHARD_INDEX,
    SINGLE_FILE,
    HuggingFaceCheckpoint,
    from_canonical,
)
from .load import (
    bert4keras_models,
    check_bert,
    check_vocab,
    weights_by_name,
)

_GOOGLE_CONFIG = "bert_config.json"
_GOOGLE_PREFIX = "bert_model.ckpt"
_TOKENIZER = ("vocab.txt", "tokenizer_config.json")
# What `transformers` would prefer to a new vocab.txt.
_STALE = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")

# Exported from the weights that were there before.
_EXPORTED = ("model.onnx", "model.*.onnx", "model.tflite", "model.*.tflite")

# The functions in bert4keras' layers, and the name that each kind of config calls them by.
KERAS_ACTIVATIONS = {
    "gelu_erf": ("gelu", "gelu"),
    "gelu": ("gelu", "gelu"),
    "gelu_tanh": ("gelu_tanh", "gelu_new"),
    "swish": ("swish", "silu"),
    "silu": ("swish", "silu"),
    "relu": ("relu", "relu"),
    "tanh": ("tanh", "tanh"),
    "linear": ("linear", "linear"),
}


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

    `transformers` loads it, without bert4keras, TensorFlow or this package: config.json,
    model.safetensors, vocab.txt, tokenizer_config.json. With a head that is BERT's own
    (`heads.pooler_classification_head`, `heads.tagging_head`, a dense layer on `with_pool=True`,
    or whatever computes the same) it is a `BertForSequenceClassification` or
    `BertForTokenClassification`, with logits in place of probabilities. Any other head, such as
    the article's `[CLS]` and dense, is saved beside a `BertModel`, as head.keras.

    `load_pretrained` reads both back. Files of the folder that are not the model's stay; what was
    exported from the old model (model.onnx and its kind) goes with it.

    Args:
        directory: the folder, new or old. Its old model is replaced when all of the new one is
            written, and left as it is when that fails.
        transformer: what `load_bert` or `build_transformer_model(..., return_keras_model=False)`
            returns.
        classifier: Keras model or layer on the transformer's output.
        vocab: `vocab.txt`'s path, a tokenizer (bert4keras' or `data.Tokenizer`), or the tokens as
            list or dict. Default: no file, or the one that is there.
        lowercase: whether the tokenizer lower-cases; default: what the tokenizer does or the
            tokenizer_config.json beside `vocab` says, else `True`.
        labels: the classes' names.
        overwrite: whether a model that is there may be replaced.

    Raises:
        TypeError: an argument is no such thing.
        ValueError: the model computes something that a Hugging Face BERT does not, or holds NaN;
            the vocabulary or the labels do not fit; the head cannot be saved.
        OSError: a file could not be written, or is there and `overwrite=False`.

    Warns:
        UserWarning: with a head beside; where `transformers` expects a pooler and the model has
            none, so that a neutral one is written; and of what the checkpoint that the model was
            loaded from held besides.
    """
    config, tensors, head = _describe(transformer, classifier, labels)
    if "embedding_size" in config:
        raise ValueError(
            f"A Hugging Face BERT has embeddings of hidden_size {config['hidden_size']}. Received: "
            f"{config['embedding_size']}."
        )
    notes = _notes(transformer, head)
    architecture = head.architecture if head else None
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
    config["hidden_act"] = KERAS_ACTIVATIONS[config["hidden_act"]][1]
    config.update(architectures=[architecture], dtype="float32", pad_token_id=0)
    prefix = "" if architecture == "BertModel" else "bert."

    owned = ["config.json", SINGLE_FILE, SHARD_INDEX, "model-*-of-*.safetensors", BESIDE]
    owned += _EXPORTED
    with _staged(directory, HuggingFaceCheckpoint, owned, vocab, lowercase, overwrite) as scratch:
        _write_safetensors(scratch / SINGLE_FILE, tensors, prefix)
        _finish(scratch, "config.json", config, tensors, head, HuggingFaceCheckpoint)
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

    bert_config.json with the model's own depth, bert_model.ckpt.* and vocab.txt: what
    `build_transformer_model(config_path, checkpoint_path)` of plain bert4keras and Google's code
    load. A head that is BERT's own is written as Google's `run_classifier.py` does
    (`output_weights`, `output_bias`, and the pooler), any other beside it, as head.keras.

    Args:
        directory: see `save_pretrained`, as for the rest.
        transformer: likewise.
        classifier: likewise.
        vocab: likewise.
        lowercase: likewise.
        labels: likewise.
        overwrite: likewise.

    Raises:
        TypeError: see `save_pretrained`.
        ValueError: likewise.
        OSError: likewise.

    Warns:
        UserWarning: with a head beside; where LayerNorm's epsilon is not the 1e-12 that
            bert4keras and Google's code compute with; and of what the checkpoint that the model
            was loaded from held besides.
    """
    config, tensors, head = _describe(transformer, classifier, labels)
    notes = _notes(transformer, head)
    if config["layer_norm_eps"] != 1e-12:
        notes.append(
            f"its LayerNorm epsilon is {config['layer_norm_eps']}; load it with "
            "bert_of_theseus.checkpoints, as bert4keras' own loader and Google's code take 1e-12"
        )
    if head and head.architecture:
        config["architectures"] = [head.architecture]
        # Written turned, as the other names of the same.
        tensors[GOOGLE_CLASSIFIER[0]] = tensors.pop(CLASSIFIER[0]).T
        tensors[GOOGLE_CLASSIFIER[1]] = tensors.pop(CLASSIFIER[1])
    config["hidden_act"] = KERAS_ACTIVATIONS[config["hidden_act"]][0]

    owned = [_GOOGLE_CONFIG, f"{_GOOGLE_PREFIX}.index", f"{_GOOGLE_PREFIX}.data-*", BESIDE]
    owned += _EXPORTED
    with _staged(directory, GoogleCheckpoint, owned, vocab, lowercase, overwrite) as scratch:
        _write_tensorflow(scratch / _GOOGLE_PREFIX, tensors)
        _finish(scratch, _GOOGLE_CONFIG, config, tensors, head, GoogleCheckpoint)
    _warn(directory, notes)


def _describe(transformer, classifier, labels) -> tuple[dict, dict, Head | None]:
    """Config, tensors by canonical name, and head of what is to be written."""
    check_bert(transformer, bert4keras_models(), "saved")
    config, tensors = read_bert(transformer)

    head = None if classifier is None else describe_head(classifier, transformer)
    if head:
        tensors.update(head.tensors)
        config.update(head.config)
        if "classifier_activation" not in config:  # for those who run the model
            config["classifier_activation"] = apparent_activation(head.probe[1])
    if labels is not None:
        labels = list(labels)
        if not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
            raise ValueError(f"`labels` should be distinct strings. Received: {labels}.")
        if head and len(labels) != head.num_classes:
            raise ValueError(
                f"`labels` should name the {head.num_classes} classes of the classifier. Received: "
                f"{len(labels)}."
            )
    elif head:
        labels = [f"LABEL_{number}" for number in range(head.num_classes)]
    if labels is not None:
        config["id2label"] = {str(number): label for number, label in enumerate(labels)}
        config["label2id"] = {label: number for number, label in enumerate(labels)}
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"The model holds NaN or infinity: {', '.join(broken)}.")
    return config, tensors, head


def read_bert(transformer) -> tuple[dict, dict]:
    """Config and tensors by canonical name of a bert4keras BERT.

    Raises:
        ValueError: it has an option that a config cannot say.
    """
    models = bert4keras_models()
    config = _config(transformer, models)
    weights = weights_by_name(transformer)
    values = models.K.batch_get_value(list(weights.values()))
    tensors = {name: value.astype("float32", copy=False) for name, value in zip(weights, values)}
    turned = "cls/seq_relationship/output_weights"
    if turned in tensors:
        tensors[turned] = tensors[turned].T
    return config, tensors


def _config(transformer, models) -> dict:
    """BERT's hyperparameters, from the layers; refuses what a config cannot say."""
    t = transformer
    sizes = {t.attention_head_size * t.num_attention_heads,
             t.attention_key_size * t.num_attention_heads}  # fmt: skip
    mask = type(t).compute_attention_bias is not models.Transformer.compute_attention_bias
    problems = {
        "attention heads of another size": sizes != {t.hidden_size},
        "an attention mask of its own (application='lm' or 'unilm')": mask,
        "no segments": not t.segment_vocab_size,
        "a pooler without tanh": t.with_pool not in (False, True),
        "layer_norm_cond": t.layer_norm_conds[0] is not None,
        "attention_caches": bool(t.attention_caches),
        "additional inputs": len(t.inputs) > 2,
    }
    for option in ("hierarchical_position", "shared_segment_embeddings",
                   "residual_attention_scores"):  # fmt: skip
        problems[option] = bool(getattr(t, option))

    layers = t.layers.values()
    epsilons = {layer.epsilon for layer in layers if isinstance(layer, models.LayerNormalization)}
    activations = {
        function.__name__ if len(layer.activation) == 1 else "gated"
        for layer in layers
        if isinstance(layer, models.FeedForward)
        for function in layer.activation
    }
    problems[f"LayerNorm epsilons {sorted(epsilons)}"] = len(epsilons) != 1
    problems[f"activation {', '.join(sorted(activations))}"] = len(
        activations
    ) != 1 or not activations <= set(KERAS_ACTIVATIONS)
    found = [problem for problem, is_there in problems.items() if is_there]
    if found:
        raise ValueError(
            f"`transformer` cannot be saved as a BERT: no config can say {', '.join(found)}."
        )
    config = {
        "model_type": "bert",
        "vocab_size": t.vocab_size,
        "hidden_size": t.hidden_size,
        "num_hidden_layers": t.num_hidden_layers,
        "num_attention_heads": t.num_attention_heads,
        "intermediate_size": t.intermediate_size,
        "hidden_act": activations.pop(),
        "hidden_dropout_prob": t.dropout_rate,
        "attention_probs_dropout_prob": t.attention_dropout_rate,
        "max_position_embeddings": t.max_position,
        "type_vocab_size": t.segment_vocab_size,
        "layer_norm_eps": epsilons.pop(),
        "initializer_range": 0.02,
    }
    if t.embedding_size != t.hidden_size:
        config["embedding_size"] = t.embedding_size
    return config


def _notes(transformer, head: Head | None) -> list[str]:
    notes = []
    if head and head.architecture is None:
        notes.append(
            f"its head is none of BERT's own, so it is saved beside the encoder, in {BESIDE}: "
            "bert_of_theseus.checkpoints.load_pretrained reads it, other programs do not"
        )
    written = set(head.tensors) if head else set()
    left_out = sorted(set(getattr(transformer, "left_out", ())) - written)
    if left_out:
        notes.append(
            "the checkpoint that it was loaded from held more, which the model does not and which "
            f"is not written: {', '.join(left_out)}"
        )
    return notes


def _warn(directory, notes: list[str]) -> None:
    if notes:
        warnings.warn(f"Saved to {str(directory)!r}; {'; '.join(notes)}.", stacklevel=3)


# Files.


@contextlib.contextmanager
def _staged(directory, kind, owned, vocab, lowercase, overwrite) -> Iterator[Path]:
    """A scratch folder; what the block writes there replaces the `owned` files in `directory`."""
    directory = Path(directory).resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{str(directory)!r} should be a folder; it is a file.")
    exists = directory.is_dir()
    if exists:
        _check_place(directory, kind, owned, overwrite)
    else:
        directory.parent.mkdir(parents=True, exist_ok=True)
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
            owned = [*owned, *_TOKENIZER, *_STALE]
        elif exists and (directory / "vocab.txt").is_file():
            for file in _TOKENIZER:  # to be checked
                if (directory / file).is_file():
                    shutil.copyfile(directory / file, new / file)
            owned = [*owned, *_TOKENIZER]
        yield new
        if exists:
            _replace(directory, new, old, owned)
        else:
            os.rename(new, directory)


def _check_place(directory: Path, kind, owned, overwrite: bool) -> None:
    """Refuses to make a folder ambiguous, or to replace what may not be replaced."""
    found = [path for k in (GoogleCheckpoint, HuggingFaceCheckpoint)
             for path in k.find_tensors(directory)]  # fmt: skip
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
    """Moves files into place; where one cannot be moved, all are as before.

    The config goes first and comes last: a folder in which this was cut short by force does not
    load, rather than load as a mixture.
    """
    moves = [(path, old / path.name) for pattern in owned for path in directory.glob(pattern)]
    arriving = sorted(new.iterdir(), key=lambda path: (path.name.endswith("config.json"), path))
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


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: Path, content) -> None:
    _write(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _write_safetensors(path: Path, tensors: dict, prefix: str) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    stored = {}
    for name, value in tensors.items():
        value = value.T if name.endswith("/kernel") else value
        stored[from_canonical(name, prefix)] = np.ascontiguousarray(value)
    digests = {name: hashlib.sha256(value).hexdigest() for name, value in stored.items()}
    try:
        save_file(stored, path, metadata={"format": "pt", DIGESTS: json.dumps(digests)})
        # It would be its owner's alone. The folder has what this process gives.
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


def _finish(scratch: Path, config_name: str, config, tensors, head, kind) -> None:
    """Writes config and head, and reads all of it back."""
    _write_json(scratch / config_name, config)
    if head and head.model is not None:
        save_beside(head, scratch / BESIDE)
    checkpoint: Checkpoint = kind(scratch)
    changed = [
        n
        for n, value in tensors.items()
        if n not in checkpoint.names or checkpoint.tensor(n).tobytes() != value.tobytes()
    ]
    if changed:
        raise OSError(f"{str(scratch)!r} was not written as it should be: {', '.join(changed)}.")
    if (scratch / "vocab.txt").is_file():
        check_vocab(scratch / "vocab.txt", checkpoint.config)


def _write_vocab(scratch: Path, vocab, lowercase: bool | None) -> None:
    """Writes vocab.txt and tokenizer_config.json."""
    content, own_lowercase = _vocab_text(vocab)
    lowercase = own_lowercase if lowercase is None else lowercase
    _write(scratch / "vocab.txt", content)
    _write_json(
        scratch / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": lowercase,
            VOCAB_DIGEST: hashlib.sha256(content).hexdigest(),
            **{f"{n}_token": f"[{n.upper()}]" for n in ("unk", "sep", "pad", "cls", "mask")},
        },
    )


def _vocab_text(vocab) -> tuple[bytes, bool]:
    """The lines of vocab.txt, and whether texts are lower-cased."""
    if hasattr(vocab, "vocab_file"):  # data.Tokenizer
        return Path(vocab.vocab_file).read_bytes(), vocab.lowercase
    if isinstance(vocab, (str, os.PathLike)):
        path = Path(vocab)
        beside = path.with_name("tokenizer_config.json")
        settings = read_json(beside) if beside.is_file() else {}
        return path.read_bytes(), bool(settings.get("do_lower_case", True))
    lowercase = getattr(vocab, "_do_lower_case", True)  # bert4keras' Tokenizer
    vocab = getattr(vocab, "_token_dict", vocab)
    if isinstance(vocab, dict):
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError("`vocab` should give its tokens the ids 0, 1, 2, ...")
        vocab = sorted(vocab, key=vocab.get)
    if not isinstance(vocab, (list, tuple)) or not all(isinstance(t, str) for t in vocab):
        raise TypeError(
            "`vocab` should be the path of vocab.txt, a tokenizer, or the tokens as list or dict. "
            f"Received: {type(vocab).__name__}."
        )
    return "".join(token + "\n" for token in vocab).encode(), lowercase
