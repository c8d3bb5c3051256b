"""What a tokenizer.json says, and whether other programs understand it in the same way."""

from __future__ import annotations

import json
import warnings

from ..validation import is_integer
from .tokenizer_files import reading

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Of a tokenizer.json's model, what `transformers` builds whatever the file says.
_MODEL = {
    "WordPiece": {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    "BPE": dict.fromkeys(("dropout", "unk_token", "fuse_unk", "byte_fallback", "ignore_merges")),
    "Unigram": {"byte_fallback": None},
}


def check_content(source) -> None:
    """Raises a `ValueError` if tokenizer.json is damaged."""
    content, path = source.content, source.path("tokenizer.json")
    for name in ("model", "truncation", "padding"):
        if not isinstance(content.get(name) or {}, dict):
            raise ValueError(f"{path}: {name} must be an object. Received: {content[name]!r:.80}.")
    added = content.get("added_tokens") or ()
    if not isinstance(added, (list, tuple)) or not all(isinstance(v, dict) for v in added):
        raise ValueError(f"{path}: added_tokens must be a list of objects.")
    for value in added:
        if not is_integer(value.get("id")):
            raise ValueError(f"{path}: an added token must have an id. Received: {value!r:.80}.")
    with reading(path):
        parts_of(content)


def as_token(value, path, **flags):
    """An `AddedToken` from what JSON says of it."""
    from tokenizers import AddedToken

    if isinstance(value, str):
        with reading(path):
            value.encode()
        return value
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise ValueError(f"{path}: a token must be a string or have a content. Received: {value!r}")
    flags = {name: value[name] for name in _FLAGS if name in value} | flags
    with reading(path):
        return AddedToken(value["content"], **flags)


def parts_of(content, vocabulary=()):
    """A tokenizer with the parts that a tokenizer.json has, and next to no vocabulary."""
    from tokenizers import Tokenizer

    names = ("normalizer", "pre_tokenizer", "post_processor")
    parts = {name: content.get(name) for name in names}
    model = {"type": "WordLevel", "vocab": dict(vocabulary), "unk_token": ""}
    other = {"version": "1.0", "added_tokens": [], "decoder": None, "model": model}
    text = json.dumps({**other, **parts, "truncation": None, "padding": None})
    return Tokenizer.from_str(text)


def layout(post_processor):
    """Ids and segments around a text, and around two."""
    tokenizer = parts_of({}, {"a": 0})
    tokenizer.post_processor = post_processor
    encodings = tokenizer.encode("a"), tokenizer.encode("a", "a")
    return [(e.ids, e.type_ids) for e in encodings]


def compare(source, tokenizer, kind, stacklevel):
    """Warns if other programs make something else of the folder's files."""
    from tokenizers import models

    content, differs = source.content, []
    parts = parts_of(content)
    for name in ("normalizer", "pre_tokenizer"):
        if _state(getattr(parts, name)) != _state(getattr(tokenizer, name)):
            differs.append(name)
    own, built = parts.post_processor, tokenizer.post_processor
    if own is None or layout(own) != layout(built):
        differs.append("post_processor")
    model = content.get("model") or {}
    for name, value in _MODEL.get(kind.model, {}).items():
        if (model.get(name, value) or None) != value:
            differs.append(name)
    added = {
        index: _described(token) for index, token in tokenizer.get_added_tokens_decoder().items()
    }
    path = source.path("tokenizer.json")
    if {v["id"]: _described(as_token(v, path)) for v in content.get("added_tokens") or ()} != added:
        differs.append("added_tokens")
    if kind.model == "WordPiece" and "vocab.txt" in source.files:
        with reading(source.path("vocab.txt")):
            tokens = models.WordPiece.read_file(str(source.directory / "vocab.txt"))
        if tokens != model.get("vocab"):
            warnings.warn(
                f"{source.path('vocab.txt')} and {path} hold different vocabularies. The latter is "
                "used, as by `transformers`.",
                stacklevel=stacklevel + 1,
            )
    if differs:
        warnings.warn(
            f"{path} is not what `transformers` 5 makes of the folder, in {', '.join(differs)}. "
            "Texts are encoded as `transformers` encodes them; programs that read this file alone, "
            "such as transformers.js, may encode some of them otherwise.",
            stacklevel=stacklevel + 1,
        )


def _described(token):
    return token.content, *(getattr(token, name) for name in _FLAGS)


def steps_of(part):
    """What a normalizer or pre-tokenizer does, step by step."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return state.get("normalizers", state.get("pretokenizers", [state]))


def _state(part):
    """The steps, the same for parts that do the same."""
    steps = steps_of(part)
    for step in steps:
        if step["type"] == "BertNormalizer" and step["strip_accents"] is None:
            step["strip_accents"] = step["lowercase"]
        step.pop("trim_offsets", None)
    return steps


def warn_of_capitals(source, tokenizer, stacklevel):
    capitals = [
        token
        for token in tokenizer.get_vocab(with_added_tokens=False)
        if token != token.lower() and not (token[0] in "[<" and token[-1] in "]>")
    ]
    if capitals:
        warnings.warn(
            f"The vocabulary in {str(source.directory)!r} has {len(capitals)} tokens with "
            f"capitals, such as {min(capitals)!r}, and no tokenizer_config.json says "
            "do_lower_case. Texts are lower-cased, so these tokens never occur. If the model tells "
            "capitals apart, load it with lowercase=False (--cased), else with "
            "lowercase=True (--uncased).",
            stacklevel=stacklevel + 1,
        )
