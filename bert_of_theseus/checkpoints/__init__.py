"""Pretrained weights in and out: Google's TensorFlow checkpoints and Hugging Face directories.

`find_checkpoint` opens either kind behind one interface (`base.Checkpoint`); `load_bert` builds a
bert4keras BERT from it, `load_pretrained` one with its head; `build_bert` builds one with random
weights, and `load_backbone` a KerasHub backbone from a Hugging Face directory. `save_pretrained`
and `save_checkpoint` write the two kinds. Importing this module imports neither TensorFlow nor
Keras.

Example:

    from bert_of_theseus.checkpoints import load_bert, load_pretrained, save_pretrained

    predecessor = load_bert("chinese_L-12_H-768_A-12", dropout_rate=0.1)
    successor = load_bert("chinese_L-12_H-768_A-12", num_hidden_layers=3, prefix="Successor-")
    ...
    save_pretrained("successor", successor, classifier, vocab="vocab.txt", labels=["good", "bad"])
    successor, classifier, labels = load_pretrained("successor")
"""

from .base import Checkpoint
from .keras_hub import load_backbone
from .load import (
    bert4keras_models,
    build_bert,
    check_vocab,
    find_checkpoint,
    load_bert,
    load_pretrained,
    load_weights,
    set_layer_norm_epsilon,
    shared_initializers_allowed,
)
from .save import save_checkpoint, save_pretrained

__all__ = [
    "Checkpoint",
    "bert4keras_models",
    "build_bert",
    "check_vocab",
    "find_checkpoint",
    "load_backbone",
    "load_bert",
    "load_pretrained",
    "load_weights",
    "save_checkpoint",
    "save_pretrained",
    "set_layer_norm_epsilon",
    "shared_initializers_allowed",
]
