"""Texts as token ids: the tokenizers of `transformers`."""

from __future__ import annotations

import math
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import read_json, replace_file
from ..validation import integer, is_number
from .batches import Encoded
from .decoding import trimmed
from .examples import Example
from .tokenizer_build import build, without_ends
from .tokenizer_cut import Cutter, check_length, grown, kept, part_of, window
from .tokenizer_files import FILES, read_folder


class Tokenizer:
    """The tokenizer of a model: BERT's WordPiece, or any that `transformers` keeps in a folder.

    Args:
        vocab_file: Path of BERT's vocabulary, one token per line, `[PAD]` first; the settings in
            the files beside it (tokenizer_config.json, added_tokens.json) are used. Or path of a
            tokenizer.json. See `from_folder` for a folder.
        lowercase: Boolean, whether to lower-case texts and, if the settings do not say, strip
            accents. It must agree with how the checkpoint was trained. Defaults to `None`:
            `do_lower_case` of the `tokenizer_config.json` beside `vocab_file`, or `True` without.

    Attributes:
        directory: Path of the folder.
        vocab_file: Path of its vocabulary.
        vocab_size: Integer, how many embeddings the tokens need: one more than the highest id.
        pad_token_id: Integer.
        lowercase: Boolean.
        num_segments: Integer, 2 if the second text of a pair has segment 1, else 1.
        model_max_length: Integer, the limit in tokens that tokenizer_config.json names, or `None`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a special token is missing or `[PAD]` is not first, or as `from_folder`.

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
        source = read_folder(path.parent, path)
        self._load(source, lowercase, stacklevel=2)
        if source.kind == "vocab.txt" and self.pad_token_id != 0:
            raise ValueError(
                f"{path} must have {self._pad_token!r} first. It is token {self.pad_token_id}."
            )

    @classmethod
    def from_folder(
        cls, directory: str | os.PathLike, lowercase: bool | None = None, stacklevel: int = 1
    ) -> Tokenizer:
        """Loads the tokenizer of a model's folder, as `transformers` loads it.

        From tokenizer.json if it is there, else from vocab.txt, or vocab.json and merges.txt. The
        settings of tokenizer_config.json, special_tokens_map.json and added_tokens.json are used.

        Args:
            directory: The folder.
            lowercase: Boolean, instead of the folder's own `do_lower_case`. Defaults to `None`.
            stacklevel: As in `warnings.warn`, for a warning at the caller's line. Defaults to 1.

        Returns:
            A `Tokenizer`.

        Raises:
            FileNotFoundError: if there is no tokenizer.
            ValueError: if a file cannot be read, does not match the folder's checksums.json, or
                holds what is not supported; names it.

        Warns:
            UserWarning: if the folder does not say whether texts are lower-cased and it matters,
                or its files contradict each other.
        """
        tokenizer = cls.__new__(cls)
        tokenizer._load(read_folder(directory), lowercase, stacklevel + 1)
        return tokenizer

    def _load(self, source, lowercase, stacklevel):
        built = build(source, lowercase, stacklevel + 1)
        self._tokenizer, self._pad_token, self._note = built.tokenizer, built.pad_token, built.note
        self._direction = built.direction
        self._files, self._written = source.files, built.written
        self._plain, self._cutter = without_ends(built.tokenizer), Cutter(built.tokenizer)
        self._specials = [built.tokenizer.num_special_tokens_to_add(pair) for pair in (False, True)]
        self.directory, self.vocab_file = source.directory, source.vocab_file
        self.lowercase = built.lowercase
        self.num_segments = 2 if built.segments else 1
        self.pad_token_id = built.tokenizer.token_to_id(built.pad_token)
        self.vocab_size = 1 + max(built.tokenizer.get_vocab(with_added_tokens=True).values())
        limit = source.settings.get("model_max_length")
        # Without a limit `transformers` writes a huge one.
        self.model_max_length = int(limit) if is_number(limit) and 0 < limit < 1e9 else None

    def encode(self, examples: list[Example], max_length: int) -> Encoded:
        """Token ids with the special tokens, `[CLS] text [SEP]` or `[CLS] text [SEP] second_text
        [SEP]` for BERT, and labels.

        Longer texts are truncated to `max_length` tokens with the special tokens kept; of a pair,
        the longer text is truncated.

        Args:
            examples: List of `Example` or `Pair` whose labels are integers.
            max_length: Integer, in tokens.

        Returns:
            An `Encoded` without offsets.

        Raises:
            ValueError: if `max_length` leaves no room, or a text cannot be encoded.
        """
        encodings = self._encode(examples, max_length, "longest_first")
        labels = np.array([example.label for example in examples], dtype="int32")
        return self._encoded(examples, encodings, labels)

    def encode_with_offsets(self, examples: list[Example], max_length: int) -> Encoded:
        """Token ids with the offsets of each token, without labels.

        Of a pair, the second text is truncated, and offsets refer to it.

        Some characters have no token, such as stripped accents and joiners of emoji. Within a
        word they belong to the token before them, or else to the one after them. So a span of
        whole tokens is also one of whole characters. White space belongs to no token. Several
        tokens that make up one character, as bytes do, all have its offsets.

        Args:
            examples: List of `Example` or `Pair`.
            max_length: Integer, in tokens.

        Returns:
            An `Encoded` with `offsets` and `examples`; its `labels` are `None`.

        Raises:
            ValueError: as `encode`.
        """
        self._check_direction()
        encodings = self._encode(examples, max_length, "only_second")
        encoded, offsets = self._encoded(examples, encodings, None), []
        for example, encoding, is_cut in zip(examples, encodings, encoded.cut):
            second = example.second_text is not None
            text = example.second_text if second else example.text
            within = np.array([part == second for part in encoding.sequence_ids], dtype=bool)
            spans = np.array(encoding.offsets, dtype="int32").reshape(-1, 2) * within[:, None]
            spans = _without_spaces(spans, text)
            tokens = np.flatnonzero(spans[:, 0] < spans[:, 1])
            offsets.append(_cover_characters(spans, tokens, text, is_cut))
        return encoded._replace(offsets=offsets, examples=examples)

    def encode_words(self, texts: Sequence[Sequence[str]], max_length: int) -> Encoded:
        """Token ids of texts that are split into words.

        Args:
            texts: List of lists of words.
            max_length: Integer, in tokens.

        Returns:
            An `Encoded` without labels. Its `offsets` are those of words: `(i, i + 1)` for the
            first token of word `i`, `(i, i)` for its other tokens, and `(0, 0)` for special tokens.

        Raises:
            ValueError: as `encode`.
        """
        self._check_direction()
        self._check_room(max_length, False)
        room = max_length - self._specials[0]
        numbers = range(len(texts))
        plain = self._growing(texts, [room] * len(texts), numbers, is_pretokenized=True)
        encodings = [self._finished([encoding], room) for encoding in plain]
        offsets = []
        for encoding in encodings:
            words = np.array([-1 if i is None else i for i in encoding.word_ids], dtype="int32")
            is_first = (words >= 0) & (words != np.concatenate([[-1], words[:-1]]))
            offsets.append(np.stack([words, words + is_first], axis=1) * (words >= 0)[:, None])
        return self._encoded((), encodings, None)._replace(offsets=offsets)

    def encode_batch(self, texts: list, max_length: int, strategy: str = "longest_first") -> list:
        """Encodings of the `tokenizers` library, truncated with the special tokens kept.

        Of a long text only the beginning is encoded, as much as `max_length` needs. Threads may
        share a tokenizer.

        Args:
            texts: List of strings, or of pairs of strings (tuples).
            max_length: Integer, in tokens.
            strategy: `"longest_first"` or `"only_second"`, which text of a pair is truncated.
                Defaults to `"longest_first"`.

        Returns:
            List of `tokenizers.Encoding`: `ids`, `type_ids`, `offsets` in characters, and
            `overflowing`, which is empty if nothing was cut off.

        Raises:
            ValueError: if `max_length` leaves no room, or the first text of a pair none for the
                second; if a text is not valid Unicode, or has a million characters and no place
                where it can be cut. Names its number.
        """
        pairs = any(not isinstance(text, str) for text in texts)
        self._check_room(max_length, pairs)
        if pairs and self._note:
            warnings.warn(self._note, stacklevel=_levels_up())
            self._note = None
        strategy = strategy if pairs else "longest_first"
        rooms = [max_length - special for special in self._specials]
        for number, text in enumerate(texts):
            if not isinstance(text, (str, tuple, list)):
                raise TypeError(
                    f"Example {number}: a text must be a string. Received: {text!r:.80}"
                )
        parts = [[text] if isinstance(text, str) else list(text) for text in texts]
        numbers = [number for number, part in enumerate(parts) for _ in part]
        needs = [rooms[len(part) - 1] for part in parts for _ in part]
        plain = iter(self._growing([text for part in parts for text in part], needs, numbers))
        encodings = []
        for number, part in enumerate(parts):
            found, room = [next(plain) for _ in part], rooms[len(part) - 1]
            if len(part) == 2 and strategy == "longest_first" and room % 2:
                found = self._with_order(part, found, room, number)
            encodings.append(self._finished(found, room, strategy))
        return encodings

    def save(self, directory: str | os.PathLike) -> list[str]:
        """Writes the tokenizer's files into a folder: as they came in, byte for byte.

        A missing tokenizer.json or tokenizer_config.json is written. If `lowercase` was given and
        the folder says otherwise, both are written anew. Files of another tokenizer are removed.

        Args:
            directory: The folder. It is made if it does not exist.

        Returns:
            List of strings, the names of the files.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        files = {**self._files, **self._written}
        for name in FILES:
            if name not in files:
                (directory / name).unlink(missing_ok=True)
        for name, content in files.items():
            replace_file(directory / name, lambda scratch, c=content: scratch.write_bytes(c))
        return sorted(files)

    def files(self) -> list[Path]:
        """Paths of the files that the tokenizer was loaded from."""
        return [self.directory / name for name in self._files]

    def _check_room(self, max_length, pairs):
        special = self._specials[pairs]
        if integer("max_length", max_length) < special + 1 + pairs:
            raise ValueError(
                f"`max_length` must be at least {special + 1 + pairs}: {special} special tokens "
                f"and {'two' if pairs else 'one'} of the text{'s' * pairs}. Received: {max_length}"
            )

    def _check_direction(self):
        if self._direction != "right":
            raise ValueError(
                f"truncation_side in {str(self.directory)!r} must be 'right' for labels per token. "
                f"Received: {self._direction!r}"
            )

    def _encode(self, examples, max_length, strategy):
        texts = [e.text if e.second_text is None else (e.text, e.second_text) for e in examples]
        return self.encode_batch(texts, max_length, strategy)

    def _growing(self, texts, needs, numbers, **options):
        """Encodings without special tokens: of more than so many tokens, or of the whole text."""
        found, waiting = [None] * len(texts), range(len(texts))
        sizes = [window(need if self._direction == "right" else math.inf) for need in needs]
        while waiting:
            parts = [self._beginning(texts[i], sizes[i], numbers[i]) for i in waiting]
            encodings = self._run(parts, [numbers[i] for i in waiting], **options)
            again = []
            for i, encoding in zip(waiting, encodings):
                found[i] = encoding
                if len(encoding) <= needs[i] and sizes[i] < len(texts[i]):
                    check_length(len(texts[i]), numbers[i], sizes[i])
                    sizes[i] = grown(sizes[i])
                    again.append(i)
            waiting = again
        return found

    def _beginning(self, text, size, number):
        if isinstance(text, str):
            part = self._cutter.beginning(text, size)
            check_length(len(part), number)
        else:
            part = list(text) if size >= len(text) else list(text[: int(size)])
            check_length(sum(map(len, part)), number)
        return part

    def _with_order(self, pair, encodings, room, number):
        """Encodings of two texts that tell which one is longer, where both are truncated.

        That one keeps one token more.
        """
        if min(map(len, encodings)) <= room:
            return encodings
        short = int(len(pair[1]) < len(pair[0]))
        encodings[short] = self._growing([pair[short]], [math.inf], [number])[0]
        need = len(encodings[short])
        encodings[1 - short] = self._growing([pair[1 - short]], [need], [number])[0]
        return encodings

    def _finished(self, encodings, room, strategy="longest_first"):
        """Truncates the encodings of a text, or of two, and puts the special tokens around."""
        counts = kept([len(encoding) for encoding in encodings], room, strategy)
        from_right = self._direction == "right"
        parts = [part_of(e, count, from_right) for e, count in zip(encodings, counts)]
        return self._tokenizer.post_process(*parts)

    def _run(self, texts, numbers, **options):
        try:
            return self._plain.encode_batch(texts, add_special_tokens=False, **options)
        except Exception:  # the library raises no more specific type
            for number, text in zip(numbers, texts):
                _check_text(text, number)
            raise

    def _encoded(self, examples, encodings, labels):
        ids = [np.array(e.ids, dtype="int32") for e in encodings]
        segments = None
        if self.num_segments > 1 and any(e.second_text is not None for e in examples):
            segments = [np.array(e.type_ids, dtype="int32") for e in encodings]
        cut = np.array([bool(e.overflowing) for e in encodings], dtype=bool)
        return Encoded(ids, labels, segments, cut=cut)


def check_tokenizer(
    tokenizer: Tokenizer, config: dict, pairs: bool = False, stacklevel: int = 1
) -> None:
    """Checks that a tokenizer fits a model.

    Args:
        tokenizer: A `Tokenizer`.
        config: A dict, as `Checkpoint.config`.
        pairs: Boolean, whether there are pairs of texts. Defaults to `False`.
        stacklevel: As in `warnings.warn`, for a warning at the caller's line. Defaults to 1.

    Raises:
        ValueError: if there are more tokens than embeddings, padding has another id where
            positions depend on it, or the model lacks the second text's segment.

    Warns:
        UserWarning: if many embeddings have no token.
    """
    where, rows = str(tokenizer.directory), config["vocab_size"]
    if tokenizer.vocab_size > rows:
        raise ValueError(
            f"The tokenizer in {where!r} has {tokenizer.vocab_size} tokens and the model has "
            f"{rows} embeddings (vocab_size): they do not belong together."
        )
    if tokenizer.vocab_size <= rows - 128:  # many models pad their embeddings to a round number
        warnings.warn(
            f"The tokenizer in {where!r} has {tokenizer.vocab_size} tokens and the model has "
            f"{rows} embeddings (vocab_size); the others are not used.",
            stacklevel=stacklevel + 1,
        )
    padding = config.get("pad_token_id")
    if config.get("position_offset") and padding != tokenizer.pad_token_id:
        raise ValueError(
            f"Padding is token {tokenizer.pad_token_id} in {where!r} and {padding} for the model "
            "(pad_token_id), whose positions depend on it."
        )
    if pairs and tokenizer.num_segments > 1 and config.get("type_vocab_size") == 1:
        raise ValueError(
            "The model has one segment (type_vocab_size), and the second text of a pair needs "
            "another."
        )


def _levels_up():
    """`stacklevel` of a warning in the caller, for the line outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(__name__.split(".")[0]):
        level, frame = level + 1, frame.f_back
    return level


def _check_text(text, number):
    for part in [text] if isinstance(text, str) else text:
        if not isinstance(part, str):
            raise TypeError(f"Example {number}: a text must be a string. Received: {part!r:.80}")
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Example {number}: a text must be valid Unicode, without half of an emoji. "
                f"Received: {part[error.start]!r} at character {error.start}"
            ) from error


def _without_spaces(offsets, text):
    """Offsets without the white space at their ends, which some tokens include."""
    for row, (start, end) in enumerate(offsets):
        part = text[start:end]
        if part[:1].isspace() or part[-1:].isspace():
            offsets[row] = trimmed(text, start, end)
    return offsets


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
    """`do_lower_case` of the tokenizer_config.json beside a vocabulary; `True` without one."""
    path = Path(vocab_file).with_name("tokenizer_config.json")
    lowercase = read_json(path).get("do_lower_case", True) if path.is_file() else True
    if not isinstance(lowercase, bool):
        raise ValueError(
            f"{str(path)!r}: do_lower_case must be true or false. Received: {lowercase!r}."
        )
    return lowercase
