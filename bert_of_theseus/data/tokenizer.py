"""BERT's WordPiece tokenizer, and texts as token ids."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import read_json
from .examples import Example


class Encoded(NamedTuple):
    """Texts as token ids, with their labels.

    Attributes:
        token_ids: List of arrays of shape `(length,)`.
        labels: Array with one row per text; for labels per token, a list of arrays of shape
            `(length,)`.
        segment_ids: List of arrays like `token_ids`; `None` if all segments are 0.
        offsets: List of arrays of shape `(length, 2)`: start and end of each token in the text
            (of a pair, in the second text), in characters. They are equal for tokens that are not
            in that text. `None` if offsets were not requested.
        cut: Boolean array, whether each text was truncated; `None` with `offsets`.
        examples: The encoded examples; empty if the task does not need them.
        dropped: Integer, number of entities or answers without a label, as they are truncated,
            do not begin and end with a token, or overlap another.
    """

    token_ids: list[np.ndarray]
    labels: np.ndarray | list[np.ndarray]
    segment_ids: list[np.ndarray] | None = None
    offsets: list[np.ndarray] | None = None
    cut: np.ndarray | None = None
    examples: Sequence[Example] = ()
    dropped: int = 0


class Tokenizer:
    """BERT's WordPiece tokenizer, from a `vocab.txt`.

    Args:
        vocab_file: Path of the vocabulary, one token per line, `[PAD]` first.
        lowercase: Boolean, whether to lower-case texts and strip accents. It must agree with how
            the checkpoint was trained. Defaults to `None`: `do_lower_case` of the
            `tokenizer_config.json` beside `vocab_file`, or `True` without such a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `[PAD]` is not first, or `[UNK]`, `[CLS]` or `[SEP]` is missing.

    Example:

    >>> tokenizer = Tokenizer("chinese_L-12_H-768_A-12/vocab.txt")
    >>> encoded = tokenizer.encode([Example("今天天气不错", 1)], max_length=128)
    >>> encoded.token_ids[0].shape
    (8,)
    """

    def __init__(self, vocab_file: str | os.PathLike, lowercase: bool | None = None):
        path = Path(vocab_file)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} must be a vocabulary, one token per line. It was not found."
            )
        if lowercase is None:
            lowercase = stored_lowercase(path)
        tokens = path.read_bytes().decode("utf-8").rstrip("\n").split("\n")
        vocab = {token.rstrip("\r"): number for number, token in enumerate(tokens)}
        missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in vocab]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}, which BERT's inputs need.")
        if vocab["[PAD]"] != 0:
            raise ValueError(f"{path} must have '[PAD]' first. It is token {vocab['[PAD]']}.")

        from tokenizers import BertWordPieceTokenizer

        self.vocab_file = path
        self.vocab_size = len(tokens)
        self.lowercase = lowercase
        self._tokenizer = BertWordPieceTokenizer(vocab, lowercase=lowercase)

    def encode(self, examples: list[Example], max_length: int) -> Encoded:
        """Token ids of `[CLS] text [SEP]`, or `[CLS] text [SEP] second_text [SEP]`, with labels.

        Longer texts are truncated to `max_length` tokens with the `[SEP]` kept; of a pair, the
        longer text is truncated.

        Args:
            examples: List of `Example` or `Pair` whose labels are integers.
            max_length: Integer, in tokens.

        Returns:
            An `Encoded` without offsets.
        """
        encodings = self._encode(examples, max_length, "longest_first")
        labels = np.array([example.label for example in examples], dtype="int32")
        return _encoded(examples, encodings, labels)

    def encode_with_offsets(self, examples: list[Example], max_length: int) -> Encoded:
        """Token ids with the offsets of each token, without labels.

        Of a pair, the second text is truncated, and offsets refer to it.

        Some characters have no token, such as stripped accents and joiners of emoji. Within a
        word they belong to the token before them, or else to the one after them. So a span of
        whole tokens is also one of whole characters.

        Args:
            examples: List of `Example` or `Pair`.
            max_length: Integer, in tokens.

        Returns:
            An `Encoded` with `offsets`, `cut` and `examples`; its `labels` are `None`.
        """
        encodings = self._encode(examples, max_length, "only_second")
        offsets, cut = [], np.array([bool(e.overflowing) for e in encodings], dtype=bool)
        for example, encoding, is_cut in zip(examples, encodings, cut):
            second = example.second_text is not None
            text = example.second_text if second else example.text
            within = np.array([part == second for part in encoding.sequence_ids], dtype=bool)
            spans = np.array(encoding.offsets, dtype="int32") * within[:, None]
            offsets.append(_cover_characters(spans, np.flatnonzero(within), text, is_cut))
        return _encoded(examples, encodings, None)._replace(
            offsets=offsets, cut=cut, examples=examples
        )

    def encode_batch(self, texts: list, max_length: int, strategy: str = "longest_first") -> list:
        """Encodings of the `tokenizers` library, truncated with the `[SEP]` kept.

        Args:
            texts: List of strings, or of pairs of strings for `[CLS] a [SEP] b [SEP]`.
            max_length: Integer, in tokens.
            strategy: `"longest_first"` or `"only_second"`, which text of a pair is truncated.
                Defaults to `"longest_first"`.

        Returns:
            List of `tokenizers.Encoding`: `ids`, `type_ids`, `offsets` in characters, and in
            `overflowing` what was cut off.

        Raises:
            ValueError: if the first text of a pair leaves no room for the second.
        """
        if not any(isinstance(text, tuple) for text in texts):
            strategy = "longest_first"
        self._tokenizer.enable_truncation(max_length, strategy=strategy)
        try:
            return self._tokenizer.encode_batch(texts)
        except Exception as error:  # the library raises no more specific type
            if strategy != "only_second":
                raise
            raise ValueError(
                f"`max_length` must leave room for the second text. Received: {max_length}, which "
                f"the first text fills ({error})"
            ) from error

    def _encode(self, examples, max_length, strategy):
        texts = [e.text if e.second_text is None else (e.text, e.second_text) for e in examples]
        return self.encode_batch(texts, max_length, strategy)


def _encoded(examples, encodings, labels):
    pairs = any(example.second_text is not None for example in examples)
    ids = [[np.array(e.ids, dtype="int32") for e in encodings]]
    if pairs:
        ids.append([np.array(e.type_ids, dtype="int32") for e in encodings])
    return Encoded(ids[0], labels, ids[1] if pairs else None)


def _cover_characters(offsets, tokens, text, is_cut):
    """Extends the offsets of `tokens` over the characters beside them that have no token."""
    before, end = None, 0
    for index in tokens:
        gap = text[end : offsets[index, 0]]
        if gap:
            head = 0
            if before is not None:
                head = re.match(r"\S*", gap).end()
                offsets[before, 1] = end + head
            offsets[index, 0] = end + head + re.search(r"\S*\Z", gap[head:]).start()
        before, end = index, max(end, offsets[index, 1])
    if before is not None and not is_cut:  # in a truncated text more tokens would follow
        offsets[before, 1] = end + re.match(r"\S*", text[end:]).end()
    return offsets


def stored_lowercase(vocab_file: str | os.PathLike) -> bool:
    """Whether the tokenizer_config.json beside a vocabulary says so; `True` without one."""
    path = Path(vocab_file).with_name("tokenizer_config.json")
    return not path.is_file() or bool(read_json(path).get("do_lower_case", True))
