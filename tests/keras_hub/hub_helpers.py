"""Tiny models of KerasHub's families, with tokenizers of a dozen words."""

import gc
import io
import json

import keras
import keras_hub
import numpy as np
import pytest

from bert_of_theseus.heads import pooler_classification_head

models = keras_hub.models
WORDS = ["good", "fine", "nice", "bad", "poor", "sad", "the", "film", "is"]
TEXTS = ["the film is good", "sad"]
LENGTH = 7
SIZES = {
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": LENGTH,
    "dropout": 0.0,
}
# Not those of any pretrained model: large enough for the layers to matter.
SPREAD = 0.4


def _word_piece(family):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return getattr(models, f"{family}Tokenizer")(vocabulary=vocabulary, lowercase=True)


def _byte_pair(family):
    letters = sorted(set("".join(WORDS)))
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *(f"Ġ{x}" for x in letters)]
    merges = [f"Ġ {x}" for x in letters]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "Ġ"])}
    return getattr(models, f"{family}Tokenizer")(vocabulary=vocabulary, merges=merges)


def _sentence_piece(family):
    import sentencepiece

    special = {
        "Albert": {"pad_piece": "<pad>", "user_defined_symbols": "[MASK]"},
        "DebertaV3": {"pad_piece": "[PAD]", "user_defined_symbols": "[MASK]"},
        "FNet": {"pad_piece": "<pad>", "user_defined_symbols": "[MASK]"},
    }.get(family)
    names = {"unk_piece": "<unk>", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    numbers = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    if special is None:  # XLM-RoBERTa's has numbers of its own for them
        special, names, numbers = {}, {}, {"unk_id": 0, "bos_id": 1, "eos_id": 2}
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 3),
        model_writer=file,
        model_type="WORD",
        vocab_size=len(WORDS) + (5 if "pad_id" in numbers else 3),
        minloglevel=2,
        **special,
        **names,
        **numbers,
    )
    return getattr(models, f"{family}Tokenizer")(proto=file.getvalue())


# Its tokenizer, and what its backbone takes beside `SIZES`.
FAMILIES = {
    "Albert": (_sentence_piece, {"embedding_dim": 4}),
    "Bert": (_word_piece, {}),
    "DebertaV3": (_sentence_piece, {"bucket_size": 4}),
    "DistilBert": (_word_piece, {}),
    "Electra": (_word_piece, {"embedding_dim": 4}),
    "FNet": (_sentence_piece, {}),
    "Roberta": (_byte_pair, {}),
    "XLMRoberta": (_sentence_piece, {}),
}


def make_backbone(family, num_layers=2, vocabulary_size=20, **more):
    config = {**SIZES, **FAMILIES[family][1], **more}
    if family == "FNet":
        del config["num_heads"]
    vocabulary = "vocab_size" if family == "Electra" else "vocabulary_size"
    config[vocabulary] = vocabulary_size
    backbone = getattr(models, f"{family}Backbone")(num_layers=num_layers, **config)
    scatter(backbone)
    return backbone


def scatter(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + SPREAD * rng.normal(size=weight.shape))


def save_tiny_bert(folder, num_hidden_layers):
    """A Hugging Face folder: a BERT for 12 tokens, with its vocabulary."""
    transformers = pytest.importorskip("transformers")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        hidden_size=8,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab))
    tokenizer = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


class Host:
    """A predecessor of a family: a text classifier, or a backbone and a head where it has none."""

    def __init__(self, family, num_layers=2, task_dropout=0.0, **more):
        keras.utils.set_random_seed(0)
        self.task = self.head = None
        tokenizer = FAMILIES[family][0](family)
        size = tokenizer.vocabulary_size()
        self.backbone = make_backbone(family, num_layers, size, **more)
        task = getattr(models, f"{family}TextClassifier", None)
        if task is None:
            self.head = pooler_classification_head(8, 2, activation="linear", dropout_rate=0.0)
            scatter(self.head)
            self.predecessor = self.backbone
        else:
            preprocessor = getattr(models, f"{family}TextClassifierPreprocessor")
            preprocessor = preprocessor(tokenizer, sequence_length=LENGTH)
            self.task = task(self.backbone, 2, preprocessor=preprocessor, dropout=task_dropout)
            for layer in self.task.layers:
                if layer is not self.backbone:
                    scatter(layer)
            self.predecessor = self.task
        rng = np.random.default_rng(1)
        self.x = self.inputs(rng.integers(5, size, (4, LENGTH)), [LENGTH, 5, 4, 2])
        self.y = np.array([0, 1, 1, 0])

    def inputs(self, token_ids, lengths):
        lengths = np.reshape(lengths, (-1, 1))
        parts = {
            "token_ids": token_ids.astype("int32"),
            "padding_mask": (np.arange(token_ids.shape[1]) < lengths).astype("int32"),
            "segment_ids": np.zeros(token_ids.shape, "int32"),
        }
        return {name: parts[name] for name in self.backbone.input}


def outputs(model, x, training=False):
    return keras.ops.convert_to_numpy(model(x, training=training))


def quantize(model):
    """In 8 bits. Keras looks for garbage after each layer: not among all that is imported here."""
    gc.freeze()
    try:
        model.quantize("int8")
    finally:
        gc.unfreeze()
