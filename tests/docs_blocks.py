"""The Python blocks of the READMEs and of docs/, by name, and which test runs them.

A block's name stands above it in an HTML comment that no reader sees, `<!-- name: recipe -->`, or
`<!-- not run: the reason -->`. Blocks of one name are one text, wherever they stand.
"""

import json
import re
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

# By test, in the order in which the blocks run: later ones use what earlier ones made.
CHAINS = {
    "tests/once/test_docs_layers.py": [
        "keras-layers",
        "initialize",
        "lstm",
        "choices",
        "schedules",
    ],
    "tests/bert4keras/test_docs_bert4keras.py": [
        "bert4keras",
        "load-model",
        "recipe",
        "fit",
        "save-pretrained",
        "export",
        "predict",
        "tagging",
        "mirrored",
    ],
    "tests/keras_hub/test_docs_keras_hub.py": [
        "keras-hub",
        "keras-hub-steps",
        "load-backbone",
        "fine-tune",
    ],
    "tests/keras_hub/test_compress_pretrained.py": ["compress-pretrained"],
    "tests/plain/test_statistics.py": ["compare"],
    "tests/plain/test_clusters.py": ["label-rows", "dask"],
    "tests/plain/test_stored.py": ["stored"],
}

BLOCK = re.compile(r"(?:<!-- (name|not run): (.+?) -->\n)?^```python\n(.*?)^```", re.M | re.S)


def read_blocks(page):
    """`(kind, name or reason, code)` of each Python block of a page; the kind is None if unsaid."""
    return [match.groups() for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def named_blocks():
    """The code of each named block."""
    return {
        name: code for page in PAGES for kind, name, code in read_blocks(page) if kind == "name"
    }


def run_block(name, scope):
    code = compile(named_blocks()[name], f"<block {name}>", "exec")
    exec(code, scope)


WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a ada in joy life london lovelace my of to two watch hours"


def write_bert(folder, num_hidden_layers=3, hidden_size=8, labels=(), **more):
    """A Hugging Face folder with a BERT of random weights, a vocabulary and its tokenizer.

    Of as many layers as the blocks' successors have, so that it takes no more time than it must.
    With `labels`, a classifier of texts; `more` are entries of its config.
    """
    vocabulary = WORDS.split()
    config = {
        "architectures": ["BertForSequenceClassification" if labels else "BertModel"],
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden_size,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "pad_token_id": 0,
        **({"id2label": dict(enumerate(labels))} if labels else {}),
        **more,
    }
    rng = np.random.default_rng(0)
    tensors = {}

    def table(name, rows, columns=hidden_size):
        tensors[f"{name}.weight"] = rng.normal(0, 0.02, (rows, columns)).astype("float32")

    def dense(name, outputs=hidden_size, inputs=hidden_size):
        table(name, outputs, inputs)
        tensors[f"{name}.bias"] = np.zeros(outputs, "float32")

    def norm(name):
        tensors[f"{name}.LayerNorm.weight"] = np.ones(hidden_size, "float32")
        tensors[f"{name}.LayerNorm.bias"] = np.zeros(hidden_size, "float32")

    types = config["type_vocab_size"]
    for name, rows in [("word", len(vocabulary)), ("position", 512), ("token_type", types)]:
        table(f"embeddings.{name}_embeddings", rows)
    norm("embeddings")
    for layer in (f"encoder.layer.{index}" for index in range(num_hidden_layers)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{layer}.attention.{part}")
        norm(f"{layer}.attention.output")
        dense(f"{layer}.intermediate.dense", 2 * hidden_size)
        dense(f"{layer}.output.dense", inputs=2 * hidden_size)
        norm(f"{layer}.output")
    dense("pooler.dense")
    if labels:
        tensors = {f"bert.{name}": value for name, value in tensors.items()}
        dense("classifier", len(labels))
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
