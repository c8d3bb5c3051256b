"""A whole pretrained model, encoder and head, in the host that the Keras in use has."""

from __future__ import annotations

import os

from ..files import check_files
from ..validation import integer
from .base import Checkpoint
from .bert4keras import bert4keras_models, load_encoder, require_bert
from .families import POOLER, encoder_shapes
from .heads import load_head
from .keras_hub import build_backbone, fill
from .load import check_vocab, find_checkpoint


def load_pretrained(
    directory: str | os.PathLike,
    *,
    num_hidden_layers: int | None = None,
    prefix: str = "",
    **kwargs,
):
    """Loads an encoder with its head.

    Reads what `save_pretrained` and `save_checkpoint` write, what `transformers` writes of a BERT,
    RoBERTa, XLM-RoBERTa, DistilBERT, ELECTRA, ALBERT or DeBERTa-v3 for the classification of texts
    or tokens, and the output of Google's `run_classifier.py`. Under Keras 3 the encoder is a
    KerasHub backbone; under Keras 2 a bert4keras BERT, and other families are refused.

    Files that the folder's checksums.json lists must match it. No code from the folder is run: a
    head.keras may name Keras' own classes and those registered in this process.

    Args:
        directory: A folder with a Hugging Face directory or a Google checkpoint.
        num_hidden_layers: Number of layers to load, from the first. Defaults to all.
        prefix: Put before the name of the encoder, in bert4keras of each of its layers.
        **kwargs: For bert4keras, as for `load_bert`.

    Returns:
        `(encoder, classifier, labels)`: a bert4keras `Transformer` or a KerasHub backbone; a Keras
        model on its hidden states, or `None`; the class names in the order of its outputs, or
        `None`.

    Raises:
        FileNotFoundError: if the folder or one of the files is missing; says what is there.
        ImportError: if a package that the files or the host need is missing.
        ValueError: if the checkpoint, its head or its vocabulary cannot be read, do not match their
            checksums, or do not fit together; if the head is of another task.

    Example:

        encoder, classifier, labels = load_pretrained("my-model")
        predecessor = as_encoder(encoder)
    """
    from ..backend import host_is_bert4keras

    checkpoint = find_checkpoint(directory)
    depth = integer(
        "num_hidden_layers",
        num_hidden_layers,
        1,
        checkpoint.config["num_hidden_layers"],
        optional=True,
    )
    if host_is_bert4keras():
        bert4keras_models()  # its patches come before Keras' classes are used
        return _load_transformer(checkpoint, depth, prefix, kwargs)
    return _load_backbone(checkpoint, depth, prefix, kwargs)


def _load_transformer(checkpoint: Checkpoint, depth: int | None, prefix: str, options: dict):
    require_bert(checkpoint)
    classifier, labels = load_head(checkpoint)
    if classifier is not None:
        options["with_pool"] = len(classifier.input_shape) == 2
    if (checkpoint.directory / "vocab.txt").is_file():
        check_vocab(checkpoint.vocab_path, checkpoint.config, stacklevel=3)
    else:
        check_files(checkpoint.directory, ["vocab.txt"])
    return load_encoder(checkpoint, depth, prefix, **options), classifier, labels


def _load_backbone(checkpoint: Checkpoint, depth: int | None, prefix: str, options: dict):
    if options:
        raise TypeError(
            f"KerasHub's backbones do not take {', '.join(sorted(options))}, which are options of "
            "bert4keras."
        )
    try:
        import keras_hub  # noqa: F401  before anything is read
    except ImportError as error:
        raise ImportError(
            f"Under Keras 3 pretrained models are KerasHub's, which cannot be imported ({error}). "
            "Try `pip install 'bert-of-theseus[keras-hub]'`; for a BERT under Keras 2, put "
            "`import bert_of_theseus.bert4keras` before every other import."
        ) from error
    classifier, labels = load_head(checkpoint)
    if classifier is not None and len(classifier.input_shape) != 3:
        raise ValueError(
            f"{str(checkpoint.directory)!r} has a head on the pooled output of bert4keras, which "
            "needs Keras 2."
        )
    config = {**checkpoint.config}
    config["num_hidden_layers"] = depth or config["num_hidden_layers"]
    backbone = build_backbone(checkpoint.config, depth)
    fill(backbone, checkpoint.tensors(name for name, _ in encoder_shapes(config)))
    backbone.name = prefix + backbone.name
    # `save_pretrained` warns about these. Only a head of texts has the pooler.
    unused, pooler = set(checkpoint.left_out), [n for n in POOLER if n in checkpoint.names]
    if classifier is None and checkpoint.family.encoder_pooler:
        # It is no part of the backbone, whose outputs would then be two, but is saved with it.
        backbone.unused_pooler = tuple(checkpoint.tensors(pooler).items())
    elif classifier is None or len(classifier.output_shape) == 3:
        unused.update(pooler)
    backbone.left_out = tuple(name for name in checkpoint.names if name in unused)
    return backbone, classifier, labels
