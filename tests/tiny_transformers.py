"""Tiny models of seven families with their tokenizers, in folders as `transformers` writes them."""

import string

import numpy as np
import torch
import transformers

LABELS = ["no", "so-so", "yes"]
TAGS = ["O", "B-X", "I-X"]
LETTERS = string.ascii_lowercase
LENGTH = 24
_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": LENGTH,
}
_SPECIAL = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
    "deberta-v2": ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
}
_DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_ROBERTA = {"max_position_embeddings": LENGTH + 2, "type_vocab_size": 1, "pad_token_id": 1}
# Each family's classes, and what its config needs beside the sizes.
FAMILIES = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", _ROBERTA),
    "xlm-roberta": ("XLMRoberta", _ROBERTA),
    "distilbert": ("DistilBert", {}),
    "electra": ("Electra", {"embedding_size": 8}),
    "albert": (
        "Albert",
        {"embedding_size": 8, "num_hidden_groups": 2, "inner_group_num": 2, "pad_token_id": 0},
    ),
    "deberta-v2": ("DebertaV2", _DEBERTA),
}
_DISTILBERT = {
    "hidden_act": "activation",
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def make_tokenizer(family):
    """Of single letters, in the family's own class."""
    if family in ("bert", "distilbert", "electra"):
        tokens = [*_SPECIAL["bert"], *LETTERS, *(f"##{letter}" for letter in LETTERS)]
        return transformers.BertTokenizerFast(vocab=_numbered(tokens))
    if family == "roberta":
        tokens = [*_SPECIAL["roberta"], *LETTERS, *(f"Ġ{letter}" for letter in LETTERS), "Ġ"]
        merges = [("Ġ", letter) for letter in LETTERS]
        return transformers.RobertaTokenizerFast(vocab=_numbered(tokens), merges=merges)
    special = _SPECIAL.get(family, _SPECIAL["roberta"])
    pieces = [*LETTERS, *(f"▁{letter}" for letter in LETTERS), "▁"]
    scores = [(piece, 0.0) for piece in special] + [(piece, -3.0) for piece in pieces]
    name = {"xlm-roberta": "XLMRoberta", "albert": "Albert", "deberta-v2": "DebertaV2"}[family]
    return getattr(transformers, f"{name}TokenizerFast")(vocab=scores)


def _numbered(tokens):
    return {token: number for number, token in enumerate(tokens)}


def make_model(family, kind, labels=(), **config):
    """As `transformers` makes it, `kind` being the end of its class; `config` by BERT's names."""
    classes, own = FAMILIES[family]
    options = {**_SIZES, **own, **config}
    if labels:
        options["id2label"], options["label2id"] = dict(enumerate(labels)), _numbered(labels)
    if family == "distilbert":
        options = {_DISTILBERT.get(name, name): value for name, value in options.items()}
    model_class = getattr(transformers, f"{classes}{kind}")
    return model_class(model_class.config_class(**options)).eval()


def write(folder, family, task="Sequence", labels=None, scale=0.3, **config):
    """Writes a model of random weights, of which none is like another.

    Returns:
        `(model, tokenizer)`, those of `transformers`.
    """
    tokenizer = make_tokenizer(family)
    labels = labels or (LABELS if task == "Sequence" else TAGS)
    config = {"vocab_size": len(tokenizer), **config}
    transformers.set_seed(0)
    model = make_model(family, f"For{task}Classification", labels, **config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(scale * torch.randn(weight.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def texts(count, seed=0, longest=12):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice([*LETTERS], n)) for n in rng.integers(1, longest + 1, count)]


def logits(model, tokenizer, text, *second):
    """What `transformers` computes of a text or a pair of texts."""
    inputs = tokenizer(text, *second, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[0].numpy()
