"""From a folder's files to a tokenizer: special and added tokens, and what does not fit."""

from __future__ import annotations

import json
from typing import NamedTuple

from ..files import read_json
from .tokenizer_checks import as_token, check_content, compare, layout, parts_of, warn_of_capitals
from .tokenizer_files import (
    SPECIAL,
    Kind,
    Source,
    check_settings,
    kind_of,
    read_vocabulary,
    reading,
)

# Up to `transformers` 4 these had segments without saying so in their files.
_HAD_SEGMENTS = ("AlbertTokenizer", "PreTrainedTokenizer", "TokenizersBackend")


class Built(NamedTuple):
    """A tokenizer, and what the model needs to know about it.

    Attributes:
        tokenizer: A `tokenizers.Tokenizer`, without truncation and padding.
        pad_token: String.
        lowercase: Boolean, whether it lower-cases.
        direction: `"right"` or `"left"`, the end at which texts are truncated.
        segments: Boolean, whether a pair's second text has segment 1.
        note: String, a warning for whoever encodes pairs, or `None`.
        written: Content by name of the files that the folder lacks, or that say something else.
    """

    tokenizer: object
    pad_token: str
    lowercase: bool
    direction: str
    segments: bool
    note: str | None
    written: dict[str, bytes]


def build(source: Source, lowercase: bool | None = None, stacklevel: int = 1) -> Built:
    """Builds the tokenizer that `transformers` loads from a folder.

    Args:
        source: The folder's files.
        lowercase: Boolean, instead of the folder's `do_lower_case`. Defaults to `None`.
        stacklevel: As in `warnings.warn`.

    Raises:
        ValueError: if the files do not fit each other, or are not supported; names the file.

    Warns:
        UserWarning: if tokenizer.json says something else, or the folder does not say whether
            texts are lower-cased and it matters.
    """
    name, kind = kind_of(source)
    check_settings(source)
    check_content(source)
    settings = dict(source.settings)
    if lowercase is not None and kind.lowercase is not None:
        settings["do_lower_case"] = lowercase
    declared = _declared(source, settings)
    tokenizer, special = _start(source, kind, settings)
    _add_tokens(source, tokenizer, kind, declared, special, settings)
    with reading(source.path(source.kind)):
        tokenizer.post_processor = _post_processor(name, source, tokenizer, special, settings)
    tokenizer.encode_special_tokens = settings.get("split_special_tokens", False)
    lowers = tokenizer.normalizer is not None and "a" in tokenizer.normalizer.normalize_str("A")
    if lowercase not in (None, lowers):
        raise ValueError(
            f"`lowercase` can only be {lowers} for a {name}, which has no such setting. "
            f"Received: {lowercase}"
        )
    written = _missing_files(name, kind, source, settings, tokenizer, special, lowercase)
    if source.content and "tokenizer.json" not in written:
        compare(source, tokenizer, kind, stacklevel + 1)
    if kind.lowercase and lowercase is None and "do_lower_case" not in settings:
        warn_of_capitals(source, tokenizer, stacklevel + 1)
    segments, note = _segments(name, kind, settings, tokenizer)
    truncation = source.content.get("truncation") or {}
    direction = settings.get("truncation_side", str(truncation.get("direction", "right")).lower())
    return Built(tokenizer, special["pad_token"], lowers, direction, segments, note, written)


def without_ends(tokenizer):
    """A tokenizer with the same parts that adds no special tokens. It shares the vocabulary."""
    from tokenizers import Tokenizer

    plain = Tokenizer(tokenizer.model)
    plain.normalizer, plain.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    plain.encode_special_tokens = tokenizer.encode_special_tokens
    plain.add_tokens([token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())])
    return plain


def _missing_files(name, kind, source, settings, tokenizer, special, lowercase):
    before = source.settings.get("do_lower_case", kind.lowercase)
    changed = lowercase is not None and kind.lowercase is not None and lowercase != before
    written = {}
    if changed or not source.content:
        written["tokenizer.json"] = tokenizer.to_str(pretty=True)
    if changed or "tokenizer_config.json" not in source.files:
        said = {} if kind.lowercase is None else {"do_lower_case": kind.lowercase}
        if kind.build is None:
            name = "PreTrainedTokenizerFast"
        content = source.settings or {"tokenizer_class": name, **said, **special}
        content |= {"do_lower_case": lowercase} if said and lowercase is not None else {}
        written["tokenizer_config.json"] = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return {file: content.encode() for file, content in written.items()}


def _token_list(value, name, path):
    """The tokens of a list; nothing where it is null or empty."""
    if value and not isinstance(value, list):
        raise ValueError(f"{path}: {name} must be a list of tokens, not {value!r:.80}.")
    return [as_token(token, path, special=True) for token in value or ()]


def _text(token):
    return token if isinstance(token, str) else token.content


def _declared(source, settings):
    """Added tokens by id. Special tokens of special_tokens_map.json go into `settings`."""
    from tokenizers import AddedToken

    path = source.path("tokenizer_config.json")
    for name, value in settings.items():
        is_token = isinstance(value, dict) and "content" in value
        is_token |= isinstance(value, str) and name.endswith("_token")
        if is_token or (name in SPECIAL and value is not None):
            settings[name] = as_token(value, f"{path}, {name}")
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if name in settings:
            settings[name] = _token_list(settings[name], name, path)
    if settings.get("additional_special_tokens") and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    if "added_tokens_decoder" in settings:
        declared = settings["added_tokens_decoder"]
        if not isinstance(declared, dict) or not all(str(index).isdecimal() for index in declared):
            raise ValueError(f"{path}: added_tokens_decoder must map ids to tokens.")
        return {int(index): as_token(value, path) for index, value in declared.items()}

    if "special_tokens_map.json" in source.files:
        path = source.path("special_tokens_map.json")
        for name, value in read_json(source.directory / "special_tokens_map.json").items():
            if name.endswith("_special_tokens"):
                value = _token_list(value, name, path)
                if name == "extra_special_tokens":
                    value = [*(settings.get(name) or []), *value]
            elif value is not None:
                value = as_token(value, path, special=True)
            settings[name] = value
    declared = {}
    if "added_tokens.json" in source.files:
        named = {_text(settings[name]) for name in SPECIAL if settings.get(name)}
        named |= {_text(token) for token in settings.get("extra_special_tokens") or ()}
        for token, index in read_json(source.directory / "added_tokens.json").items():
            if not isinstance(index, int):
                path = source.path("added_tokens.json")
                raise ValueError(f"{path}: {token!r} must have an id. Received: {index!r}.")
            special = token in named
            declared[index] = AddedToken(token, normalized=not special, special=special)
    for value in source.content.get("added_tokens") or ():
        declared[value.get("id")] = as_token(value, source.path("tokenizer.json"))
    if settings.get("additional_special_tokens") and "extra_special_tokens" not in settings:
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    return declared


def _start(source, kind, settings):
    """The tokenizer without its added tokens, and the names of special tokens."""
    from tokenizers import Tokenizer

    special = {name: settings.get(name, kind.special.get(name)) for name in SPECIAL}
    if kind.build is None:
        padding = source.content.get("padding") or {}
        special["pad_token"] = special["pad_token"] or padding.get("pad_token")
    special = {name: _text(token) for name, token in special.items() if token is not None}
    needed = ["pad_token"] if kind.build is None else ["unk_token", "pad_token", "cls_token"]
    needed += ["sep_token"] if kind.build else []
    missing = [name for name in needed if not special.get(name)]
    if missing:
        raise ValueError(
            f"{source.path('tokenizer_config.json')} must name the {missing[0]}, which the model's "
            "inputs need."
        )
    if kind.build:
        vocabulary = read_vocabulary(source, kind)
        with reading(source.path(source.kind)):
            return kind.build(vocabulary, settings, special), special
    if not source.content:
        read_vocabulary(source, kind)  # says what to do
    with reading(source.path("tokenizer.json")):
        tokenizer = Tokenizer.from_str(source.files["tokenizer.json"].decode())
    if source.content["model"].get("dropout"):
        raise ValueError(
            f"{source.path('tokenizer.json')}: dropout of the model must be null. Received: "
            f"{source.content['model']['dropout']}, by which each text gets random tokens."
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, special


def _add_tokens(source, tokenizer, kind, declared, special, settings):
    from tokenizers import AddedToken

    by_text = {_text(token): token for token in declared.values()}
    tokens = [declared[index] for index in sorted(declared)]
    extra = settings.get("extra_special_tokens") or []
    other = [
        token
        for name, token in settings.items()
        if name.endswith("_token") and name not in SPECIAL and isinstance(token, (str, AddedToken))
    ]
    if isinstance(extra, dict):
        path = source.path("tokenizer_config.json")
        other += [as_token(token, path) for token in extra.values()]
    known = tokenizer.get_vocab(with_added_tokens=True)
    needed = ("unk_token", "pad_token", "cls_token", "sep_token")
    missing = [
        text
        for name, text in special.items()
        if name in needed and text not in known and text not in by_text
    ]
    if missing and (kind.build or special["pad_token"] in missing):
        raise ValueError(
            f"{source.path(source.kind)} lacks {', '.join(missing)}, which the model's inputs need."
        )
    # Names of special tokens that are in no vocabulary are left out: they have no embedding.
    named = [settings.get(name) or text for name, text in special.items() if text in known]
    tokens += [token for token in [*named, *other] if token and _text(token) not in by_text]
    if isinstance(extra, list):
        tokens += [token for token in extra if _text(token) not in by_text]
    names = set(special.values()) | {_text(token) for token in other if token}
    for place, token in enumerate(tokens):
        if isinstance(token, str):
            tokens[place] = AddedToken(token, special=True)
        elif not token.special and token.content in names:
            token.special = True
    tokenizer.add_tokens(tokens)
    _check_added(source, tokenizer, declared)


def _check_added(source, tokenizer, declared):
    """Raises a `ValueError` if added tokens have other ids than the files say, or are ambiguous."""
    said = [(index, _text(token)) for index, token in declared.items()]
    said += [(v.get("id"), v.get("content")) for v in source.content.get("added_tokens") or ()]
    if "added_tokens.json" in source.files:
        added = read_json(source.directory / "added_tokens.json")
        said += [(index, token) for token, index in added.items()]
    for index, text in said:
        found = tokenizer.token_to_id(text)
        if found != index:
            raise ValueError(
                f"{str(source.directory)!r}: the added token {text!r} must have the id {index}, as "
                f"its files say. With the other files it gets {found}."
            )
    if tokenizer.normalizer is None:
        return
    seen = {}
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.normalized:
            key = tokenizer.normalizer.normalize_str(token.content)
            if seen.setdefault(key, token.content) != token.content:
                raise ValueError(
                    f"{str(source.directory)!r}: the added tokens {seen[key]!r} and "
                    f"{token.content!r} are both {key!r} once normalized, so which one a text gets "
                    "is left to chance."
                )


def _post_processor(name, source, tokenizer, special, settings):
    """What puts the special tokens around texts."""
    from tokenizers import processors

    def ids(*names):
        return [(special[name], tokenizer.token_to_id(special[name])) for name in names]

    if name == "RobertaTokenizer":
        prefix = settings.get("add_prefix_space", False)
        return processors.RobertaProcessing(
            *ids("sep_token", "cls_token"), settings.get("trim_offsets", True), prefix
        )
    if name == "XLMRobertaTokenizer":
        start, end = special["bos_token"], special["eos_token"]
        return processors.TemplateProcessing(
            single=[start, "$A", end],
            pair=[start, "$A", end, end, "$B", end],
            special_tokens=ids("bos_token", "eos_token"),
        )
    own = source.content.get("post_processor")
    if own and name in ("AlbertTokenizer", "PreTrainedTokenizer", "TokenizersBackend"):
        return parts_of({"post_processor": own}).post_processor
    if name in ("PreTrainedTokenizer", "TokenizersBackend"):
        return processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    start, end = special["cls_token"], special["sep_token"]
    return processors.TemplateProcessing(
        single=[f"{start}:0", "$A:0", f"{end}:0"],
        pair=[f"{start}:0", "$A:0", f"{end}:0", "$B:1", f"{end}:1"],
        special_tokens=ids("cls_token", "sep_token"),
    )


def _segments(name, kind: Kind, settings, tokenizer):
    """Whether pairs have segments 0 and 1; if not, `tokenizer` gives 0 to both."""
    inputs = settings.get("model_input_names")
    has_two = any(layout(tokenizer.post_processor)[1][1])
    if "token_type_ids" in inputs if inputs else kind.segments:
        return has_two, None
    note = None
    if has_two:
        state = json.loads(tokenizer.post_processor.__getstate__())
        tokenizer.post_processor = parts_of({"post_processor": _one_segment(state)}).post_processor
        if name in _HAD_SEGMENTS and not inputs and "backend" not in settings:
            note = (
                "The texts of a pair both get segment 0, as `transformers` 5 gives them. Up to "
                "version 4 the second got segment 1: if the model was fine-tuned so, add "
                '"model_input_names": ["input_ids", "token_type_ids", "attention_mask"] to '
                "tokenizer_config.json."
            )
    return False, note


def _one_segment(state):
    if state["type"] == "Sequence":
        return {**state, "processors": [_one_segment(part) for part in state["processors"]]}
    if state["type"] == "BertProcessing":
        (end, end_id), (start, start_id) = state["sep"], state["cls"]
        first, last = ({"SpecialToken": {"id": text, "type_id": 0}} for text in (start, end))
        a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        ids = {start: start_id, end: end_id}
        return {
            "type": "TemplateProcessing",
            "single": [first, a, last],
            "pair": [first, a, last, b, last],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in ids.items()},
        }
    for name in {"single", "pair"} & set(state):
        for (piece,) in map(dict.values, state[name]):
            piece["type_id"] = 0
    return state
