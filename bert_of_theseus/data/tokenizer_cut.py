"""Where a long text can be cut so that its first tokens stay what they are.

A tokenizer normalizes a text, splits it and divides the parts into tokens. After a place where it
surely splits, whatever follows, the tokens before depend on the text before alone. Such places are
known for the parts that the tokenizers of `transformers` are made of:

- between a letter and a space;
- for BERT around Chinese characters and punctuation, which are words of their own;
- for bytes (RoBERTa) between letters, digits and punctuation.

No place is sure next to characters that combine with others, nor in an added token.
"""

from __future__ import annotations

import json
import re

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
    """Finds where a tokenizer's texts can be cut.

    Args:
        tokenizer: A `tokenizers.Tokenizer`.
    """

    def __init__(self, tokenizer):
        self._pattern, self._inside = _pattern(tokenizer)

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


def _pattern(tokenizer):
    normalizers, splitters = _steps(tokenizer.normalizer), _steps(tokenizer.pre_tokenizer)
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
        return None, frozenset()
    places = [_SPACE]
    if not any(token.single_word for token in added):
        if names == ["BertPreTokenizer"]:
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
    inside = {
        content[place : place + 2].casefold()
        for content in contents
        for place in range(len(content) - 1)
    }
    return re.compile(rf"(?s:.*)(?:{'|'.join(places)})"), frozenset(inside)


def _steps(part):
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return state.get("normalizers", state.get("pretokenizers", [state]))


def encode_growing(lengths: list[int], window: int, encode) -> list:
    """Encodes the beginnings of texts: longer and longer ones, until something is cut off.

    Args:
        lengths: Length of each text.
        window: Length of the first beginnings.
        encode: Function of the numbers of texts and the lengths of their beginnings that returns
            `tokenizers.Encoding`s, truncated.

    Returns:
        List of the encodings, each that of the whole text.

    Raises:
        ValueError: if a beginning of `MOST_CHARACTERS` is not enough; names the number of the text.
    """
    encodings, waiting = [None] * len(lengths), list(range(len(lengths)))
    while waiting:
        sizes = [min(lengths[number], window) for number in waiting]
        found = list(zip(waiting, sizes, encode(waiting, sizes)))
        waiting = []
        for number, size, encoding in found:
            encodings[number] = encoding
            if size < lengths[number] and not encoding.overflowing:
                check_length(lengths[number], number, window)
                waiting.append(number)
        window = grown(window)
    return encodings


def grown(window: int) -> int:
    """The length of the next beginning."""
    return min(4 * window, max(window, MOST_CHARACTERS))


def check_length(length: int, number: int, window: int = MOST_CHARACTERS) -> None:
    """Raises a `ValueError` for a text too long to be encoded, of which `window` was not enough."""
    if length > MOST_CHARACTERS <= window:
        raise ValueError(
            f"Example {number}: a text must have {MOST_CHARACTERS:,} characters at most, or places "
            f"where it can be cut, such as spaces between words. Received: {length:,} characters"
        )
