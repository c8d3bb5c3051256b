"""Where a long text can be cut so that its first tokens stay what they are.

A tokenizer normalizes a text, splits it and divides the parts into tokens. After a place where it
surely splits, whatever follows, the tokens before depend on the text before alone. Such places are
known for the parts that the tokenizers of `transformers` are made of:

- between a letter and a space;
- for BERT around Chinese characters and punctuation, which are words of their own;
- for bytes (RoBERTa) between letters, digits and punctuation;
- for SentencePiece after Chinese punctuation that no token of the vocabulary goes on behind.

No place is sure next to characters that combine with others, nor in an added token.
"""

from __future__ import annotations

import json
import math
import re

from .tokenizer_checks import steps_of

# Characters of more than this are not given to a tokenizer at once: it takes about 250 bytes for
# each.
MOST_CHARACTERS = 1_000_000

# In front of a space no letter of those that combine with what follows them, and behind it no
# character that combines with it.
_BEFORE = (
    r"(?<=[\w!-~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])(?<![\u0d4e\U00011000-\U0010ffff])"
)
_SPACE = rf"{_BEFORE}(?=[ \n\t][\w!-~])"
_HAN, _LETTER, _DIGIT = r"\u4e00-\u9fff", "A-Za-z", "0-9"
_MARK = r"!-/:-@\[-`{-~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"
_CLAUSES = "\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"
_MARK_AFTER = _MARK.replace("!-/", "!-&(-/")  # RoBERTa splits 's from a word

_NORMALIZERS = (
    *("BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase", "Strip"),
    *("Precompiled", "Nmt", "Replace"),
)
_PATTERNS = ({"String": "``"}, {"String": "''"}, {"Regex": " {2,}"})
_PATTERNS += ({"Regex": r"\s{2,}|[\n\r\t]"},)
_SPLITTERS = (
    *("BertPreTokenizer", "ByteLevel", "WhitespaceSplit", "Whitespace", "Metaspace"),
    "Punctuation",
)


class Cutter:
    """Finds beginnings of texts whose tokens are those of the whole text.

    Args:
        tokenizer: A `tokenizers.Tokenizer`.
    """

    def __init__(self, tokenizer):
        self._pattern, self._inside = _places(tokenizer)

    def beginning(self, text: str, size: int) -> str:
        """`text`, or the longest sure beginning of at most `size` characters, or `""`."""
        if size >= len(text):
            return text
        end = size
        while self._pattern and (match := self._pattern.match(text, 0, end + 2)):
            place = match.end()
            if place <= size and text[place - 1 : place + 1].casefold() not in self._inside:
                return text[:place]
            end = place - 3
        return ""


def _places(tokenizer):
    normalizers, splitters = steps_of(tokenizer.normalizer), steps_of(tokenizer.pre_tokenizer)
    known = all(step["type"] in _NORMALIZERS for step in normalizers) and all(
        step["pattern"] in _PATTERNS and step["content"] in (" ", '"')
        for step in normalizers
        if step["type"] == "Replace"
    )
    names = [step["type"] for step in splitters]
    added = tokenizer.get_added_tokens_decoder().values()
    contents = [token.content for token in added]
    if tokenizer.normalizer is not None:
        contents += [tokenizer.normalizer.normalize_str(content) for content in contents]
    if (
        not known
        or not names
        or not set(names) <= set(_SPLITTERS)
        or names == ["Punctuation"]
        or not all(step.get("split", True) and step.get("use_regex", True) for step in splitters)
        or any(any(map(str.isspace, content)) for content in contents)
    ):
        return None, frozenset()  # no place is sure
    places = [_SPACE]
    inside = {
        content[place : place + 2].casefold()
        for content in contents
        for place in range(len(content) - 1)
    }
    if any(token.single_word for token in added):
        pass  # whether it is a token depends on what follows
    elif names == ["BertPreTokenizer"]:
        own = _MARK
        if normalizers and normalizers[0].get("handle_chinese_chars"):
            own += _HAN
        every = rf"{own}{_LETTER}{_DIGIT}"
        places += [rf"(?<=[{own}])(?=[{every}])", rf"(?<=[{every}])(?=[{own}])"]
    elif names == ["ByteLevel"] and not normalizers:
        letter = _LETTER + _HAN
        places += [
            rf"(?<=[{letter}])(?=[{_DIGIT}{_MARK}])",
            rf"(?<=[{_DIGIT}])(?=[{letter}{_MARK}])",
            rf"(?<=[{_MARK_AFTER}])(?=[{letter}{_DIGIT}])",
        ]
    elif type(tokenizer.model).__name__ == "Unigram":
        marks, within = _ends_of_clauses(tokenizer)
        inside |= within
        places += [rf"(?<=[{marks}])(?=[{_HAN}])"] if marks else []
    return re.compile(rf"(?s:.*)(?:{'|'.join(places)})"), frozenset(inside)


def _ends_of_clauses(tokenizer):
    """Punctuation that is a token, and with what it is together in others."""
    vocabulary, marks, within = tokenizer.get_vocab(with_added_tokens=False), "", set()
    for mark in _CLAUSES:
        form = tokenizer.normalizer.normalize_str(mark) if tokenizer.normalizer else mark
        if len(form) == 1 and form in vocabulary:
            marks += mark
            within |= {
                mark + token[place + 1]
                for token in vocabulary
                for place, character in enumerate(token[:-1])
                if character == form
            }
    return marks, within


def window(count: float) -> float:
    """How many characters probably make more than `count` tokens."""
    return 6 * count + 64


def grown(size: float) -> float:
    """How many to try next."""
    return min(4 * size, max(size, MOST_CHARACTERS))


def check_length(length: int, number: int, size: float = math.inf) -> None:
    """Raises a `ValueError` for a text that is too long, of which `size` were not enough."""
    if length > MOST_CHARACTERS <= size:
        raise ValueError(
            f"Example {number}: a text must have {MOST_CHARACTERS:,} characters at most, or places "
            f"where it can be cut, such as spaces between words. Received: {length:,} characters"
        )


def kept(counts: list[int], room: int, strategy: str) -> list[int]:
    """How many tokens are left of a text, or of two.

    Args:
        counts: Number of tokens of each.
        room: How many there may be together.
        strategy: `"longest_first"` or `"only_second"`.

    Raises:
        ValueError: if the first leaves no room, and only the second may be truncated.
    """
    if sum(counts) <= room:
        return counts
    if len(counts) == 1:
        return [room]
    if strategy == "only_second":
        if counts[0] >= room:
            raise ValueError(
                "`max_length` must leave room for the second text. Received: "
                f"{room} tokens beside the special ones, and the first text has {counts[0]} or more"
            )
        return [counts[0], room - counts[0]]
    shorter = min(*counts, room // 2)
    return [room - shorter, shorter] if counts[0] > counts[1] else [shorter, room - shorter]


def part_of(encoding, count: int, from_right: bool):
    """The `tokenizers.Encoding` of the first `count` tokens, or the last.

    `Encoding.truncate` keeps what it cuts off, and of two texts the library then combines each
    piece with each: of long texts that takes gigabytes. Here `overflowing` has one that is empty.
    """
    from tokenizers import Encoding

    if count >= len(encoding):
        return encoding
    start = 0 if from_right else len(encoding) - count
    state = json.loads(encoding.__getstate__())
    for name, values in state.items():
        if isinstance(values, list):
            state[name] = values[start : start + count]
    state["overflowing"] = [json.loads(Encoding().__getstate__())]
    part = Encoding()
    part.__setstate__(json.dumps(state).encode())
    return part
