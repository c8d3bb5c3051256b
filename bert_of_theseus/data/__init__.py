"""From files to batches of token ids: corpora, tokenizers, tasks, and their losses.

Only heads and losses import Keras, when they are requested.

Example:

    corpus = load_iflytek("iflytek_public", seed=42)
    task = Classification(corpus.labels)
    tokenizer = Tokenizer("chinese_L-12_H-768_A-12/vocab.txt")
    batches = task.batches(corpus.train, tokenizer, max_length=128, batch_size=32)
    for (token_ids, segment_ids), labels in batches:
        ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .batches import Batches, Encoded
from .corpora import load_cluener, load_folder, load_iflytek, load_sst2
from .decoding import decode_answer, decode_entities, decode_labels
from .docstrings import load_stdlib_docstrings
from .examples import NO_LABEL, Corpus, Entity, Example, Pair, Words, split_off
from .readers import read_json_lines
from .rows import encode_token_ids
from .span_tasks import SpanExtraction, Tagging
from .stored import StoredBatches
from .tables import Table, read_table
from .tagging import TokenClassification
from .tasks import Classification, MultiLabel, Regression, TextTask
from .texts import load_texts, task_for
from .tokenizer import Tokenizer, check_tokenizer

if TYPE_CHECKING:
    from .losses import MaskedAccuracy, MaskedCrossentropy

__all__ = [
    "NO_LABEL",
    "Batches",
    "Classification",
    "Corpus",
    "Encoded",
    "Entity",
    "Example",
    "MaskedAccuracy",
    "MaskedCrossentropy",
    "MultiLabel",
    "Pair",
    "Regression",
    "SpanExtraction",
    "StoredBatches",
    "Table",
    "Tagging",
    "TextTask",
    "TokenClassification",
    "Tokenizer",
    "Words",
    "check_tokenizer",
    "decode_answer",
    "decode_entities",
    "decode_labels",
    "encode_token_ids",
    "load_cluener",
    "load_folder",
    "load_iflytek",
    "load_sst2",
    "load_stdlib_docstrings",
    "load_texts",
    "read_json_lines",
    "read_table",
    "split_off",
    "task_for",
]


def __getattr__(name):
    if name in ("MaskedAccuracy", "MaskedCrossentropy"):  # they import Keras
        from . import losses

        return getattr(losses, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
