"""The tokenizer that a folder describes, built as `transformers` builds it.

`transformers` 5 takes the vocabulary of a tokenizer.json alone and builds the rest by the class
that tokenizer_config.json names, from that file's settings. Only for `PreTrainedTokenizerFast` and
its like is a tokenizer.json used as it is.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..files import check_files, read_json

# What a tokenizer of `transformers` is stored in.
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
    *("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
_CONFIGS = ("tokenizer_config.json", "config.json")
SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_BERT = dict(zip(SPECIAL[2:], ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")))
_ROBERTA = dict(zip(SPECIAL, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>")))
_DEBERTA = {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]"}
_ALBERT = {**_DEBERTA, "unk_token": "<unk>", "pad_token": "<pad>"}

_BOOLEANS = (
    *("do_lower_case", "tokenize_chinese_chars", "keep_accents", "split_by_punct"),
    *("add_prefix_space", "trim_offsets", "split_special_tokens"),
)
# Settings that are supported with these values only. `transformers` 5 knows most of them no more,
# and has another meaning than the folder's author had.
_ONLY = {
    **dict.fromkeys(("do_basic_tokenize", "clean_text", "remove_space"), (True,)),
    **dict.fromkeys(("never_split", "init_inputs", "fast_tokenizer_files", "auto_map"), (None, [])),
    "wordpieces_prefix": ("##",),
    "sp_model_kwargs": (None, {}),
    "word_tokenizer_type": (None, "basic"),
    "subword_tokenizer_type": (None, "wordpiece"),
    "padding_side": ("right",),
    "truncation_side": ("right", "left"),
}
_CONVERT = (
    "With the model's own class, AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of "
    "`transformers` writes tokenizer.json."
)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns what goes wrong in the `tokenizers` library into a `ValueError` that names the file."""
    try:
        yield
    except BaseException as error:
        # The library raises no more specific type, and for some damage it panics.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ValueError(f"{path} cannot be used: {error}.") from error
        raise


class Source(NamedTuple):
    """A folder's files: `files` by name, and what is in the JSON among them."""

    directory: Path
    files: Mapping[str, bytes]
    settings: dict  # tokenizer_config.json
    config: dict  # config.json: which model it is
    content: dict  # tokenizer.json
    vocab_file: Path

    def path(self, name: str) -> str:
        return repr(str(self.vocab_file if name == self.kind else self.directory / name))

    @property
    def kind(self) -> str:
        """The name of the file that holds the vocabulary."""
        return next(name for name in _VOCABULARIES if name in self.files)


class Vocabulary(NamedTuple):
    tokens: object  # a dict of ids, or a list of tuples of token and score
    merges: list | None = None
    charsmap: bytes | None = None  # how SentencePiece normalizes


class Kind(NamedTuple):
    """A class of tokenizers.

    Attributes:
        model: Name of the `tokenizers` library's model; `None` for a tokenizer.json as it is.
        build: Function of vocabulary, settings and special tokens that returns a tokenizer.
        special: The names of special tokens, by default.
        lowercase: `do_lower_case` by default; `None` if there is no such setting.
        segments: Whether the tokenizer tells a pair's texts apart for the model, by default.
    """

    model: str | None
    build: Callable | None
    special: Mapping[str, str]
    lowercase: bool | None
    segments: bool


def read_folder(directory: str | os.PathLike, vocab_file: Path | None = None) -> Source:
    """Reads a folder's files; with `vocab_file`, of several vocabularies that one alone.

    Raises:
        FileNotFoundError: if there is no tokenizer.
        ValueError: if a file is not JSON or does not match its checksum.
    """
    directory = Path(directory)
    paths = {name: directory / name for name in FILES}
    if vocab_file is not None:
        kind = vocab_file.name if vocab_file.name in _VOCABULARIES else "vocab.txt"
        for name in _VOCABULARIES:
            del paths[name]
        paths[kind] = vocab_file
    paths = {name: path for name, path in paths.items() if path.is_file()}
    vocabularies = [name for name in _VOCABULARIES if name in paths]
    models = [name for name in paths if name.endswith(".model")]
    if not vocabularies and models:
        raise ValueError(
            f"{str(paths[models[0]])!r} is a vocabulary of SentencePiece, and there is no "
            f"tokenizer.json beside it. {_CONVERT}"
        )
    if not vocabularies:
        there = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        raise FileNotFoundError(
            f"{str(directory)!r} must hold tokenizer.json, vocab.txt, or vocab.json with "
            f"merges.txt. It holds: {', '.join(there) or 'nothing'}."
        )
    check_files(directory, [path.name for path in paths.values()])
    return Source(
        directory,
        {name: path.read_bytes() for name, path in paths.items()},
        *(read_json(p) if (p := directory / n).is_file() else {} for n in _CONFIGS),
        read_json(paths["tokenizer.json"]) if "tokenizer.json" in paths else {},
        paths[vocabularies[0]],
    )


def kind_of(source: Source) -> tuple[str, Kind]:
    """Name and `Kind` of the folder's tokenizer.

    Raises:
        ValueError: if it is not supported.
    """
    name = source.settings.get("tokenizer_class") or source.config.get("tokenizer_class")
    model_type = source.config.get("model_type")
    if name is None:
        name = _BY_MODEL.get(str(model_type))
        if name is None and model_type is None:  # a tokenizer alone, or Google's checkpoint
            name = _BY_VOCABULARY[source.kind]
    kind = KINDS.get(str(name).removesuffix("Fast"))
    if kind is None:
        where = "tokenizer_config.json" if "tokenizer_class" in source.settings else "config.json"
        raise ValueError(
            f"{source.path(where)}: the tokenizer must be of a class that is supported: "
            f"{', '.join(KINDS)}. Received: {name or model_type!r}."
        )
    return str(name).removesuffix("Fast"), kind


def check_settings(source: Source) -> None:
    """Raises a `ValueError` for a setting that is not supported; names it."""
    path, settings = source.path("tokenizer_config.json"), source.settings
    for name in _BOOLEANS:
        if name in settings and not isinstance(settings[name], bool):
            raise ValueError(f"{path}: {name} must be true or false. Received: {settings[name]!r}.")
    if settings.get("strip_accents") not in (None, True, False):
        raise ValueError(
            f"{path}: strip_accents must be true, false or null. Received: "
            f"{settings['strip_accents']!r}."
        )
    shapes = {"model_input_names": list, "extra_special_tokens": (list, dict), "unk_id": int}
    for name, shape in {**shapes, "additional_special_tokens": list}.items():
        if not (settings.get(name) is None or isinstance(settings[name], shape)):
            raise ValueError(
                f"{path}: {name} is of a wrong type. Received: {settings[name]!r:.80}."
            )
    for name, valid in _ONLY.items():
        if name in settings and settings[name] not in valid:
            raise ValueError(
                f"{path}: {name} must be {' or '.join(map(json.dumps, valid))}, as others are not "
                f"supported. Received: {settings[name]!r}."
            )


def read_vocabulary(source: Source, kind: Kind) -> Vocabulary:
    """The vocabulary for a tokenizer of this kind.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    from tokenizers import models

    names = {"WordPiece": ["vocab.txt"], "BPE": ["vocab.json", "merges.txt"]}.get(kind.model, [])
    if source.content:
        return _from_json(source, kind)
    missing = [name for name in names if name not in source.files]
    if missing or not names:
        what = missing[0] if missing else "tokenizer.json"
        raise ValueError(
            f"{source.path(what)} was not found, which the folder's tokenizer needs. {_CONVERT}"
        )
    for name in names:
        with reading(source.path(name)):
            source.files[name].decode()
    with reading(source.path(names[-1])):
        if kind.model == "WordPiece":
            return Vocabulary(models.WordPiece.read_file(str(source.vocab_file)))
        merges = str(source.directory / names[1])
        return Vocabulary(*models.BPE.read_file(str(source.vocab_file), merges))


def _from_json(source, kind):
    model = source.content.get("model")
    model = model if isinstance(model, dict) else {}
    tokens, merges = model.get("vocab"), model.get("merges")
    shape = {"WordPiece": dict, "BPE": dict, "Unigram": list}[kind.model]
    name = model.get("type") or ("WordPiece" if "max_input_chars_per_word" in model else None)
    if name != kind.model or not isinstance(tokens, shape) or not tokens:
        raise ValueError(
            f"{source.path('tokenizer.json')} must hold a {kind.model} vocabulary, which "
            f"tokenizer_class in tokenizer_config.json asks for. Received: {name}."
        )
    with reading(source.path("tokenizer.json")):
        if kind.model == "Unigram":
            return Vocabulary([(token, score) for token, score in tokens], None, _charsmap(source))
        if kind.model == "BPE":
            merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    return Vocabulary(tokens, merges)


def _charsmap(source):
    steps = source.content.get("normalizer") or {}
    steps = steps.get("normalizers", []) if steps.get("type") == "Sequence" else [steps]
    for step in steps:
        if step.get("type") == "Precompiled" and step.get("precompiled_charsmap"):
            return base64.b64decode(step["precompiled_charsmap"])
    return None


# One function for each class of `transformers`. None sets what follows from the added tokens.


def _bert(vocabulary, settings, special):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocabulary.tokens, unk_token=special["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _roberta(vocabulary, settings, special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(
            vocabulary.tokens,
            vocabulary.merges,
            continuing_subword_prefix="",
            end_of_word_suffix="",
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(settings.get("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _metaspace(tokenizer, scheme, *before):
    from tokenizers import decoders, pre_tokenizers

    options = {"replacement": "▁", "prepend_scheme": scheme}
    last = pre_tokenizers.Metaspace(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, last])
    tokenizer.decoder = decoders.Metaspace(**options)
    return tokenizer


def _xlm_roberta(vocabulary, settings, special):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram(vocabulary.tokens, 3))
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    return _metaspace(tokenizer, scheme, pre_tokenizers.WhitespaceSplit())


def _albert(vocabulary, settings, special):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram(vocabulary.tokens, 1))
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if vocabulary.charsmap:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    return _metaspace(tokenizer, scheme, pre_tokenizers.WhitespaceSplit())


def _deberta(vocabulary, settings, special):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    unknown = (special["unk_token"], 0.0)
    known = unknown in vocabulary.tokens
    number = vocabulary.tokens.index(unknown) if known else settings.get("unk_id", 1)
    tokenizer = Tokenizer(models.Unigram(vocabulary.tokens, number))
    steps = [normalizers.Lowercase()] if settings.get("do_lower_case", False) else []
    steps += [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    by_punctuation = settings.get("split_by_punct", False)
    before = [pre_tokenizers.Punctuation("isolated")] if by_punctuation else []
    scheme = "always" if settings.get("add_prefix_space", True) else "first"
    return _metaspace(tokenizer, scheme, *before)


KINDS = {
    "BertTokenizer": Kind("WordPiece", _bert, _BERT, True, True),
    "DistilBertTokenizer": Kind("WordPiece", _bert, _BERT, True, False),
    "ElectraTokenizer": Kind("WordPiece", _bert, _BERT, True, True),
    "RobertaTokenizer": Kind("BPE", _roberta, _ROBERTA, None, False),
    "XLMRobertaTokenizer": Kind("Unigram", _xlm_roberta, _ROBERTA, None, False),
    "AlbertTokenizer": Kind("Unigram", _albert, _ALBERT, True, False),
    "DebertaV2Tokenizer": Kind("Unigram", _deberta, _DEBERTA, False, True),
    "PreTrainedTokenizer": Kind(None, None, {}, None, False),
    "TokenizersBackend": Kind(None, None, {}, None, False),
}
_BY_VOCABULARY = {
    "vocab.txt": "BertTokenizer",
    "vocab.json": "RobertaTokenizer",
    "tokenizer.json": "TokenizersBackend",
}
_BY_MODEL = {
    **dict.fromkeys(("bert", "distilbert", "electra"), "BertTokenizer"),
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "albert": "AlbertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
}
