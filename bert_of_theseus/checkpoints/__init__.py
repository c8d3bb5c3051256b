"""Pretrained weights in and out: Google's TensorFlow checkpoints and Hugging Face directories.

`find_checkpoint` opens either kind behind one interface (`base.Checkpoint`). `load_pretrained`
builds the encoder with its head, in KerasHub or, under Keras 2, in bert4keras; `load_backbone` and
`load_bert` build the encoder alone, and `build_bert` one with random weights. `save_pretrained` and
`save_checkpoint` write the two kinds. Importing this module imports neither TensorFlow nor Keras.

Example:

    from bert_of_theseus.checkpoints import load_pretrained, save_pretrained

    predecessor, classifier, labels = load_pretrained("my-model")
    successor, *_ = load_pretrained("my-model", num_hidden_layers=3, prefix="successor_")
    ...
    save_pretrained("small", successor, classifier, tokenizer="my-model", labels=labels)
"""

from .base import Checkpoint
from .bert4keras import (
    bert4keras_models,
    build_bert,
    load_bert,
    load_weights,
    set_layer_norm_epsilon,
    shared_initializers_allowed,
)
from .heads import HeadFacts, read_task
from .hosts import load_pretrained
from .keras_hub import load_backbone
from .load import check_vocab, find_checkpoint
from .save import save_checkpoint, save_pretrained

__all__ = [
    "Checkpoint",
    "HeadFacts",
    "bert4keras_models",
    "build_bert",
    "check_vocab",
    "find_checkpoint",
    "load_backbone",
    "load_bert",
    "load_pretrained",
    "load_weights",
    "read_task",
    "save_checkpoint",
    "save_pretrained",
    "set_layer_norm_epsilon",
    "shared_initializers_allowed",
]
