"""BERT's tokenizer: texts in, token ids out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .examples import Example

__all__ = ["Encoded", "Tokenizer"]


class Encoded(NamedTuple):
    """Texts as token ids, with their labels.

    Attributes:
        token_ids: list of arrays of shape `(length,)`.
        labels: array of a row per text; or, of labels by token, a list of arrays of shape
            `(length,)`.
        segment_ids: list of arrays like `token_ids`, or `None` where all are 0.
        offsets: `None`, or a list of arrays of shape `(length, 2)`: the characters from start to
            end that a token stands for, in the text or in the second of two. Start is end for a
            token that is not of that text.
        cut: boolean array, whether a text was longer than the limit; `None` if not asked for.
        examples: what was encoded; empty if not asked for.
        dropped: how many entities or answers have no label, since they are beyond the limit, cut
            by it, begin or end within a token, or overlap another.
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
        vocab_file: one token a line, `[PAD]` first.
        lowercase: whether texts are lower-cased and accents stripped, as the checkpoint was
            trained; default: what `tokenizer_config.json` beside the file says, else `True`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lacks `[PAD]`, `[UNK]`, `[CLS]` or `[SEP]`, or `[PAD]` is not first.
    """

    def __init__(self, vocab_file: str | os.PathLike, lowercase: bool | None = None):
        path = Path(vocab_file)
        if not path.is_file():
            raise FileNotFoundError(f"{path} should be a vocabulary, one token a line; not found.")
        if lowercase is None:
            lowercase = _lowercase(path.with_name("tokenizer_config.json"))
        tokens = path.read_bytes().decode("utf-8").rstrip("\n").split("\n")
        vocab = {token.rstrip("\r"): number for number, token in enumerate(tokens)}
        missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in vocab]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}, which BERT's inputs need.")
        if vocab["[PAD]"] != 0:
            raise ValueError(f"{path} should have '[PAD]' first; it is number {vocab['[PAD]']}.")

        from tokenizers import BertWordPieceTokenizer

        self.vocab_file = path
        self.vocab_size = len(tokens)
        self.lowercase = lowercase
        self._tokenizer = BertWordPieceTokenizer(vocab, lowercase=lowercase)

    def encode(self, examples: list[Example], max_length: int) -> Encoded:
        """Token ids of `[CLS] text [SEP]`, and the numbers of the classes.

        Texts are cut to `max_length` with the `[SEP]` kept. A second text follows the first as a
        segment of its own, and the longer of the two is cut.
        """
        encodings = self._encode(examples, max_length, "longest_first")
        labels = np.array([example.label for example in examples], dtype="int32")
        return _encoded(examples, encodings, labels)

    def encode_with_offsets(self, examples: list[Example], max_length: int) -> Encoded:
        """Token ids and the characters they stand for, without labels.

        Of two texts the second is cut, and its are the characters.

        Characters that have no token, such as accents that were stripped and joiners of emoji,
        go with the token that they follow, or else with the one that they precede, if no white
        space is between. So what is made of whole tokens is made of whole characters.
        """
        encodings = self._encode(examples, max_length, "only_second")
        offsets, cut = [], np.array([bool(e.overflowing) for e in encodings], dtype=bool)
        for example, encoding, is_cut in zip(examples, encodings, cut):
            second = example.second_text is not None
            text = example.second_text if second else example.text
            own = np.array([part == second for part in encoding.sequence_ids], dtype=bool)
            spans = np.array(encoding.offsets, dtype="int32") * own[:, None]
            offsets.append(_with_lone_characters(spans, np.flatnonzero(own), text, is_cut))
        return _encoded(examples, encodings, None)._replace(
            offsets=offsets, cut=cut, examples=examples
        )

    def encode_batch(self, texts: list, max_length: int, strategy: str = "longest_first") -> list:
        """What the tokenizers library makes of texts, cut to `max_length` with the `[SEP]` kept.

        Args:
            texts: strings, and pairs of strings, which become `[CLS] a [SEP] b [SEP]`.
            max_length: in tokens.
            strategy: which of a pair is cut, `"longest_first"` or `"only_second"`. Defaults to
                `"longest_first"`.

        Returns:
            An `Encoding` for each: `ids`, `type_ids`, `offsets` in characters, and in
            `overflowing` what was cut off.

        Raises:
            ValueError: the first of two texts leaves no room for the second.
        """
        if not any(isinstance(text, tuple) for text in texts):
            strategy = "longest_first"
        self._tokenizer.enable_truncation(max_length, strategy=strategy)
        try:
            return self._tokenizer.encode_batch(texts)
        except Exception as error:  # the library has no type of its own for it
            if strategy != "only_second":
                raise
            raise ValueError(
                f"max_length {max_length} leaves no room for the second of two texts: {error}."
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


def _with_lone_characters(offsets, own, text, is_cut):
    """`offsets`, those of the tokens `own` widened by the characters beside them without token."""
    before, end = None, 0
    for index in own:
        gap = text[end : offsets[index, 0]]
        if gap:
            head = 0
            if before is not None:
                head = re.match(r"\S*", gap).end()
                offsets[before, 1] = end + head
            offsets[index, 0] = end + head + re.search(r"\S*\Z", gap[head:]).start()
        before, end = index, max(end, offsets[index, 1])
    if before is not None and not is_cut:  # after a cut more tokens would follow
        offsets[before, 1] = end + re.match(r"\S*", text[end:]).end()
    return offsets


def _lowercase(config_file: Path) -> bool:
    if not config_file.is_file():
        return True
    try:
        return bool(json.loads(config_file.read_text(encoding="utf-8")).get("do_lower_case", True))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{config_file} should hold a JSON object: {error}.") from error
