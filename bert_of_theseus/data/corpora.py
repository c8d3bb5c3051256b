"""Corpora from folders: IFLYTEK, CLUENER, SST-2, and folders of one's own."""

from __future__ import annotations

import os

from .examples import Corpus, Entity, Example, Pair, at_most, normalized, split_off
from .readers import existing_folder, json_objects, numbered_lines, read_json_lines

__all__ = ["load_cluener", "load_folder", "load_iflytek", "load_sst2"]


def load_iflytek(
    directory: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Corpus:
    """Reads CLUE's IFLYTEK folder: `train.json`, `dev.json` and `labels.json`.

    Args:
        directory: the folder.
        validation_fraction: the share of `train.json` that is cut off for validation.
        limit: at most so many rows of `train.json`, and of `dev.json`, drawn at random.
        seed: of the draw and of the cut.

    Returns:
        A `Corpus`.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a bad row (names file and line), an unknown label, or an empty set.
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
                raise ValueError(f"{where}: 'sentence' should be a string.")
            number = numbers.get(str(row["label"]))
            if number is None:
                raise ValueError(
                    f"{where}: unknown label {row['label']!r}; {label_file} has {len(numbers)} "
                    "others."
                )
            examples.append(Example(row["sentence"], number))
        return at_most(examples, limit, seed)

    train, dev = read("train.json"), read("dev.json")
    train, validation = split_off(train, validation_fraction, seed)
    return Corpus(train, validation, dev, [str(row["label_des"]) for row in rows])


def load_sst2(
    directory: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Corpus:
    """Reads GLUE's SST-2 folder, sentiment of film reviews: `train.tsv` and `dev.tsv`.

    Nine in ten rows of `train.tsv` are phrases of its other rows, each with a label of its own:
    of 66,978 different texts 6,885 are in no other. Of a random cut's validation rows 88 % would
    be inside a row that is trained on; of the 872 of `dev.tsv`, which are whole sentences, two
    are. So whole sentences alone are cut off for validation, and the phrases that no other
    sentence has are left out: by default 61,060 rows train and 688 validate.

    Args:
        directory: the folder.
        validation_fraction: the share of the whole sentences that is cut off for validation.
        limit: at most so many rows of each set, drawn at random.
        seed: of the draw and of the cut.

    Returns:
        A `Corpus`.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a bad row (names file and line), or an empty set.
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
    # No quoting: GLUE's quotation marks are characters of the text.
    (number, header), *lines = numbered_lines(path, "`sentence<tab>label` rows") or [(1, "")]
    if header.rstrip("\r") != "sentence\tlabel":
        raise ValueError(
            f"{path}, line {number}: expected the header 'sentence\\tlabel'. Received: {header!r}."
        )
    if not lines:
        raise ValueError(f"{path} is empty; expected rows below the header.")
    examples = []
    for number, line in lines:
        text, *labels = line.rstrip("\r").split("\t")
        if len(labels) != 1 or labels[0] not in ("0", "1") or not text.strip():
            raise ValueError(
                f"{path}, line {number}: expected a sentence, a tab, and 0 or 1. "
                f"Received: {line!r}."
            )
        examples.append(Example(text.strip(), int(labels[0])))
    return examples


def load_cluener(
    directory: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Corpus:
    """Reads CLUENER2020's folder, named entities in Chinese news: `train.json` and `dev.json`.

    The files hold JSON objects one after another, on a line each or over many.

    Args:
        directory: the folder.
        validation_fraction: the share of `train.json` that is cut off for validation.
        limit: at most so many rows of `train.json`, and of `dev.json`, drawn at random.
        seed: of the draw and of the cut.

    Returns:
        A `Corpus`. Each example's label is a tuple of `Entity`, and `labels` are the types.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a bad row (names file and row), or an empty set.
    """
    directory = existing_folder(directory, "train.json and dev.json")
    train, dev = (_read_cluener(directory / name) for name in ("train.json", "dev.json"))
    types = sorted({entity.type for example in train + dev for entity in example.label})
    train, dev = (at_most(examples, limit, seed) for examples in (train, dev))
    train, validation = split_off(train, validation_fraction, seed)
    return Corpus(train, validation, dev, types)


def _read_cluener(path):
    examples = []
    for number, row in enumerate(json_objects(path), start=1):
        where = f"{path}, row {number}"
        text, label = map(row.get, ("text", "label")) if isinstance(row, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(label, dict):
            raise ValueError(f"{where}: expected an object with 'text' and 'label'.")
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
# What a label is in a file, by kind of task, and whether a value is one.
_LABELS = {
    "classification": ("the name of a class", lambda label: type(label) in _CLASS),
    "multi-label": (
        "a list of names of classes",
        lambda label: isinstance(label, list) and all(type(name) in _CLASS for name in label),
    ),
    "regression": ("a number", lambda label: type(label) in (int, float)),
    "tagging": (
        "a list of [start, end, type]",
        lambda label: isinstance(label, list) and all(_are(e, int, int, str) for e in label),
    ),
    "spans": ("[start, end] or null", lambda label: label is None or _are(label, int, int)),
}


def _are(values, *types):
    return isinstance(values, list) and [type(value) for value in values] == list(types)


def load_folder(
    directory: str | os.PathLike,
    kind: str,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Corpus:
    """Reads a folder of one's own, `train.json` and `dev.json`, for any kind of task.

    The files hold JSON objects one after another, on a line each or over many, with `text`,
    `label` and, for two texts, `second_text`.

    Args:
        directory: the folder.
        kind: what labels are. `"classification"`: the name of a class; `"multi-label"`: a list of
            them; `"regression"`: a number; `"tagging"`: a list of `[start, end, type]`, characters
            from `start` up to and without `end`; `"spans"`: `[start, end]` in `second_text`, the
            answer to the question `text`, or null.
        validation_fraction: the share of `train.json` that is cut off for validation.
        limit: at most so many rows of `train.json`, and of `dev.json`, drawn at random.
        seed: of the draw and of the cut.

    Returns:
        A `Corpus`, whose examples have the labels that `bert_of_theseus.tasks` takes.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a bad row (names file and row), another kind, or an empty set.
    """
    if kind not in _LABELS:
        raise ValueError(f"`kind` must be one of {', '.join(_LABELS)}. Received: {kind!r}.")
    directory = existing_folder(directory, "train.json and dev.json")
    train, dev = (_read_folder(directory / name, kind) for name in ("train.json", "dev.json"))
    names = sorted({name for row in train + dev for name in _names(kind, row.label)})

    def as_task_takes_it(label):
        if kind == "classification":
            return names.index(str(label))
        if kind == "multi-label":
            return [names.index(str(name)) for name in label]
        if kind == "tagging":
            return tuple(Entity(*entity) for entity in label)
        return label

    train, dev = (
        at_most([row._replace(label=as_task_takes_it(row.label)) for row in rows], limit, seed)
        for rows in (train, dev)
    )
    train, validation = split_off(train, validation_fraction, seed)
    return Corpus(train, validation, dev, names)


def _names(kind, label):
    """The classes, or types of entities, that a row's label names."""
    if kind == "tagging":
        return [type for *_, type in label]
    named = {"classification": [label], "multi-label": label}
    return [str(name) for name in named.get(kind, ())]


def _read_folder(path, kind):
    expected, fits = _LABELS[kind]
    examples = []
    for number, row in enumerate(json_objects(path), start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or "label" not in row:
            raise ValueError(f"{where}: expected an object with 'text' and 'label'.")
        text, second, label = row["text"], row.get("second_text"), row["label"]
        if not (second is None or isinstance(second, str)) or (
            (kind == "spans" and second is None) or (kind == "tagging" and second is not None)
        ):
            wanted = {"spans": "a text", "tagging": "left out"}.get(kind, "a text, if it is there")
            raise ValueError(f"{where}: 'second_text' should be {wanted}.")
        if not fits(label):
            raise ValueError(f"{where}: 'label' should be {expected}. Received: {label!r}.")
        examples.append(Example(text, label) if second is None else Pair(text, second, label))
    return examples


def _phrases_by_sentence(texts: set[str]) -> dict[str, set[str]]:
    """Of texts, those that are no phrase of another, each with what `texts` holds of it."""
    found, phrases = set(), {}
    for text in sorted(texts, key=lambda text: (-len(text), text)):
        if text not in found:
            words = text.split()
            ends = range(1, len(words) + 1)
            spans = {" ".join(words[start:end]) for end in ends for start in range(end)}
            phrases[text] = spans & texts
            found |= phrases[text]
    return phrases
