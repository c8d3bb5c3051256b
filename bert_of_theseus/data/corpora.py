"""Corpora in folders: IFLYTEK, CLUENER and SST-2 as published, and your own for any task."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..validation import one_of
from .examples import Corpus, Entity, Example, Pair, at_most, normalized, split_off
from .readers import (
    check_unicode,
    existing_folder,
    json_values,
    numbered_lines,
    read_json_lines,
)


def _corpus(train, dev, labels, validation_fraction, limit, seed):
    train, dev = (at_most(examples, limit, seed) for examples in (train, dev))
    train, validation = split_off(train, validation_fraction, seed)
    return Corpus(train, validation, dev, labels)


def load_iflytek(
    directory: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Corpus:
    """Reads CLUE's IFLYTEK: `train.json`, `dev.json` and `labels.json`.

    Args:
        directory: Path of the folder.
        validation_fraction: Share of `train.json` that is split off for validation. Defaults to
            `0.1`.
        limit: Integer. Uses at most this many random rows of `train.json`, and of `dev.json`.
            Defaults to `None`, all.
        seed: Integer, of the choice and the split. Defaults to `42`.

    Returns:
        A `Corpus`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a row is invalid, names an unknown label, or a set is empty.
    """
    directory = existing_folder(directory, "train.json, dev.json and labels.json")
    label_file = directory / "labels.json"
    rows = read_json_lines(label_file, ("label", "label_des"))
    numbers = {}
    for row in rows:
        if str(row["label"]) in numbers:
            raise ValueError(f"{label_file}, line {row['line']}: label {row['label']!r} again.")
        numbers[str(row["label"])] = len(numbers)

    def read(name):
        examples = []
        for row in read_json_lines(directory / name, ("label", "sentence")):
            where = f"{directory / name}, line {row['line']}"
            if not isinstance(row["sentence"], str):
                raise ValueError(f"{where}: 'sentence' must be a string.")
            number = numbers.get(str(row["label"]))
            if number is None:
                raise ValueError(
                    f"{where}: unknown label {row['label']!r}; {label_file} has {len(numbers)} "
                    "others."
                )
            check_unicode(row["sentence"], f"{where}: 'sentence'")
            examples.append(Example(row["sentence"], number))
        return examples

    labels = [str(row["label_des"]) for row in rows]
    train, dev = read("train.json"), read("dev.json")
    return _corpus(train, dev, labels, validation_fraction, limit, seed)


def load_sst2(
    directory: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Corpus:
    """Reads GLUE's SST-2, the sentiment of film reviews: `train.tsv` and `dev.tsv`.

    Most rows of `train.tsv` are phrases of its other rows: of 66,978 different texts only 6,885
    are whole sentences. If the validation set were a random part of it, 88 % of its texts would
    occur within a training text; for `dev.tsv` that is 2 of 872. So the validation set is a part
    of the whole sentences, and phrases that occur in no other sentence are left out of training.
    By default 61,060 rows train and 688 validate.

    Args:
        directory: Path of the folder.
        validation_fraction, limit, seed: As in `load_iflytek`; `limit` is of each set.

    Returns:
        A `Corpus`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a row is invalid or a set is empty.
    """
    directory = existing_folder(directory, "train.tsv and dev.tsv")
    train, dev = (_read_sst2(directory / name) for name in ("train.tsv", "dev.tsv"))
    phrases = _phrases_by_sentence({normalized(example.text) for example in train})
    sentences = [example for example in train if normalized(example.text) in phrases]
    rest, validation = split_off(sentences, validation_fraction, seed)
    kept = set().union(*(phrases[normalized(example.text)] for example in rest))
    train = [example for example in train if normalized(example.text) in kept]
    sets = [at_most(examples, limit, seed) for examples in (train, validation, dev)]
    return Corpus(*sets, ["negative", "positive"])


def _read_sst2(path):
    # GLUE's files have no quoting: quotation marks are characters of the text.
    (number, header), *lines = numbered_lines(path, "`sentence<tab>label` rows") or [(1, "")]
    if header.rstrip("\r") != "sentence\tlabel":
        raise ValueError(
            f"{path}, line {number}: the header must be 'sentence\\tlabel'. Received: {header!r}"
        )
    if not lines:
        raise ValueError(f"{path} is empty. It must hold rows below the header.")
    examples = []
    for number, line in lines:
        text, *labels = line.rstrip("\r").split("\t")
        if len(labels) != 1 or labels[0] not in ("0", "1") or not text.strip():
            raise ValueError(
                f"{path}, line {number}: must be a sentence, a tab, and 0 or 1. Received: {line!r}"
            )
        examples.append(Example(text.strip(), int(labels[0])))
    return examples


def _phrases_by_sentence(texts):
    """The texts that are no phrase of another text, each with its phrases in `texts`."""
    found, phrases = set(), {}
    for text in sorted(texts, key=lambda text: (-len(text), text)):
        if text not in found:
            words = text.split()
            ends = range(1, len(words) + 1)
            spans = {" ".join(words[start:end]) for end in ends for start in range(end)}
            phrases[text] = spans & texts
            found |= phrases[text]
    return phrases


def load_cluener(
    directory: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Corpus:
    """Reads CLUENER2020, named entities in Chinese news: `train.json` and `dev.json`.

    The files hold JSON objects, on one line each or over several.

    Args:
        directory: Path of the folder.
        validation_fraction, limit, seed: As in `load_iflytek`.

    Returns:
        A `Corpus`. Each label is a tuple of `Entity`, and `labels` are the entity types.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a row is invalid or a set is empty.
    """
    directory = existing_folder(directory, "train.json and dev.json")
    train, dev = (_read_cluener(directory / name) for name in ("train.json", "dev.json"))
    types = sorted({entity.type for example in train + dev for entity in example.label})
    return _corpus(train, dev, types, validation_fraction, limit, seed)


def _read_cluener(path):
    examples = []
    for number, row in enumerate(json_values(path), start=1):
        where = f"{path}, row {number}"
        text, label = map(row.get, ("text", "label")) if isinstance(row, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(label, dict):
            raise ValueError(f"{where}: must be an object with 'text' and 'label'.")
        check_unicode(text, f"{where}: 'text'")
        entities = []
        for type, names in label.items():
            try:
                spans = [(name, *span) for name, spans in names.items() for span in spans]
                for name, start, last in spans:
                    entities.append(Entity(start, last + 1, type))
                    if text[start : last + 1] != name:
                        raise ValueError(f"{name!r} is not at {start} to {last} of {text!r}")
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(f"{where}: bad entities of type {type!r}: {error}.") from error
        examples.append(Example(text, tuple(sorted(entities))))
    return examples


_CLASS = (str, int)
# For each kind of task: what a label is in a file, and whether a value is one.
_LABELS = {
    "classification": ("the name of a class", lambda label: type(label) in _CLASS),
    "multi-label": (
        "a list of names of classes",
        lambda label: isinstance(label, list) and all(type(name) in _CLASS for name in label),
    ),
    "regression": ("a number", lambda label: type(label) in (int, float)),
    "tagging": (
        "a list of [start, end, type]",
        lambda label: isinstance(label, list) and all(_is_list_of(e, int, int, str) for e in label),
    ),
    "spans": ("[start, end] or null", lambda label: label is None or _is_list_of(label, int, int)),
}


def _is_list_of(values, *types):
    return isinstance(values, list) and [type(value) for value in values] == list(types)


def load_folder(
    directory: str | os.PathLike,
    kind: str,
    *,
    labels: Sequence[str] | None = None,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Corpus:
    """Reads a folder of your own, `train.json` and `dev.json`, for any kind of task.

    The files hold JSON objects, on one line each or over several, with `text`, `label` and, for
    pairs of texts, `second_text`.

    Args:
        directory: Path of the folder.
        kind: String, what the labels are. `"classification"`: the name of a class.
            `"multi-label"`: a list of such names. `"regression"`: a number. `"tagging"`: a list
            of `[start, end, type]`, where `text[start:end]` is an entity. `"spans"`:
            `[start, end]`, where `second_text[start:end]` answers the question `text`; null if
            there is no answer.
        labels: List of strings, the classes or entity types in the order that they shall have, as
            that of a model's head. Defaults to `None`: those of the files, sorted.
        validation_fraction, limit, seed: As in `load_iflytek`.

    Returns:
        A `Corpus` with the labels that the task of this kind takes.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if `kind` is unknown, a row is invalid, a set is empty, or the files have a
            class that is not in `labels`.
    """
    one_of("kind", kind, list(_LABELS))
    directory = existing_folder(directory, "train.json and dev.json")
    train, dev = (_read_folder(directory / name, kind) for name in ("train.json", "dev.json"))
    found = sorted({name for row in train + dev for name in _names(kind, row.label)})
    names = found if labels is None else list(labels)
    if not set(found) <= set(names):
        raise ValueError(
            f"{directory}: `labels` must hold all labels of the files, {', '.join(found)}. "
            f"Received: {', '.join(names)}"
        )

    def convert(label):
        if kind == "classification":
            return names.index(str(label))
        if kind == "multi-label":
            return [names.index(str(name)) for name in label]
        if kind == "tagging":
            return tuple(Entity(*entity) for entity in label)
        return label

    train, dev = ([row._replace(label=convert(row.label)) for row in rows] for rows in (train, dev))
    return _corpus(train, dev, names, validation_fraction, limit, seed)


def _names(kind, label):
    """The classes or entity types in a label."""
    if kind == "tagging":
        return [type for *_, type in label]
    named = {"classification": [label], "multi-label": label}
    return [str(name) for name in named.get(kind, ())]


def _read_folder(path, kind):
    expected, fits = _LABELS[kind]
    examples = []
    for number, row in enumerate(json_values(path), start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or "label" not in row:
            raise ValueError(f"{where}: must be an object with 'text' and 'label'.")
        text, second, label = row["text"], row.get("second_text"), row["label"]
        if not (second is None or isinstance(second, str)) or (
            (kind == "spans" and second is None) or (kind == "tagging" and second is not None)
        ):
            wanted = {"spans": "a string", "tagging": "absent"}.get(kind, "a string or absent")
            raise ValueError(f"{where}: 'second_text' must be {wanted}.")
        if not fits(label):
            raise ValueError(f"{where}: 'label' must be {expected}. Received: {label!r}")
        for column in ("text", "second_text"):
            check_unicode(row.get(column) or "", f"{where}: {column!r}")
        examples.append(Example(text, label) if second is None else Pair(text, second, label))
    return examples
