"""Texts and their labels: files in, batches of token ids out.

Five sources: CLUE's IFLYTEK folder (`load_iflytek`), CLUENER's (`load_cluener`), GLUE's SST-2
folder (`load_sst2`), a folder of one's own for any task (`load_folder`), and, for a real task
without any download, the docstrings of Python's own standard library (`load_stdlib_docstrings`).
`Tokenizer` and `Batches` turn each into what `fit` takes; `bert_of_theseus.tasks` does so for
labels that are not classes. Nothing here imports Keras.

Example:

    task = load_iflytek("iflytek_public", seed=42)
    tokenizer = Tokenizer("chinese_L-12_H-768_A-12/vocab.txt")
    batches = Batches(tokenizer.encode(task.train, max_length=128), batch_size=32, seed=42)
    for (token_ids, segment_ids), labels in batches:
        ...
"""

from __future__ import annotations

import ast
import collections
import json
import math
import os
import random
import re
import sysconfig
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = [
    "NO_LABEL",
    "Batches",
    "Encoded",
    "Entity",
    "Example",
    "Pair",
    "Task",
    "Tokenizer",
    "load_cluener",
    "load_folder",
    "load_iflytek",
    "load_sst2",
    "load_stdlib_docstrings",
    "read_json_lines",
    "split_off",
]


# The label of what neither loss nor metric counts: padding, for one. See `losses`.
NO_LABEL = -1


class Entity(NamedTuple):
    """A named entity: `text[start:end]`, and its type."""

    start: int
    end: int
    type: str


class Example(NamedTuple):
    """One text and its label: the number of a class, or what the task at hand takes.

    See `bert_of_theseus.tasks`.
    """

    text: str
    label: object
    second_text = None


class Pair(NamedTuple):
    """Two texts that belong together, and their label; used wherever an `Example` is."""

    text: str
    second_text: str
    label: object


class Task(NamedTuple):
    """A task's data: three disjoint lists of `Example`, and names of classes or types of entities.

    `validation` is for choosing a checkpoint, `dev` for the one number that is reported.
    """

    train: list[Example]
    validation: list[Example]
    dev: list[Example]
    labels: list[str]

    @property
    def majority_share(self) -> float:
        """Accuracy on `dev` of always answering the most frequent class of `dev`."""
        counts = collections.Counter(example.label for example in self.dev)
        return max(counts.values()) / len(self.dev)


def read_json_lines(path: str | os.PathLike, keys: tuple[str, ...]) -> list[dict]:
    """Reads a file with one JSON object a line.

    Lines end at a newline only: texts may hold U+2028 and other characters that
    `str.splitlines` would break at. Blank lines are skipped.

    Args:
        path: the file, UTF-8.
        keys: what each row must have.

    Returns:
        One dict a row, with its 1-based line number under `"line"`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is not a JSON object or lacks a key (names file and line), the file is
            not UTF-8, or it holds no row at all.
    """
    path = Path(path)
    rows = []
    for number, line in _numbered_lines(path, "one JSON object a line"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: expected a JSON object, received {type(row).__name__}."
            )
        missing = [key for key in keys if key not in row]
        if missing:
            raise ValueError(f"{path}, line {number}: lacks {', '.join(map(repr, missing))}.")
        rows.append({**row, "line": number})
    if not rows:
        raise ValueError(f"{path} is empty; expected one JSON object a line.")
    return rows


def _numbered_lines(path: Path, expected: str) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, each with its number from 1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} should be a file with {expected}; not found.")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} should be UTF-8 text: {error}.") from error
    return [pair for pair in enumerate(content.split("\n"), start=1) if pair[1].strip()]


def _folder(directory, files):
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} should be a folder with {files}; not found.")
    return directory


def load_iflytek(
    directory: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Task:
    """Reads CLUE's IFLYTEK folder: `train.json`, `dev.json` and `labels.json`.

    Args:
        directory: the folder.
        validation_fraction: the share of `train.json` that is cut off for validation.
        limit: at most so many rows of `train.json`, and of `dev.json`, drawn at random.
        seed: of the draw and of the cut.

    Returns:
        A `Task`.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a bad row (names file and line), an unknown label, or an empty set.
    """
    directory = _folder(directory, "train.json, dev.json and labels.json")
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
        return _at_most(examples, limit, seed)

    train, dev = read("train.json"), read("dev.json")
    train, validation = split_off(train, validation_fraction, seed)
    return Task(train, validation, dev, [str(row["label_des"]) for row in rows])


def load_sst2(
    directory: str | os.PathLike,
    *,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
) -> Task:
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
        A `Task`.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a bad row (names file and line), or an empty set.
    """
    directory = _folder(directory, "train.tsv and dev.tsv")
    train, dev = (_read_sst2(directory / name) for name in ("train.tsv", "dev.tsv"))
    phrases = _phrases_by_sentence({_normalized(example.text) for example in train})
    sentences = [example for example in train if _normalized(example.text) in phrases]
    rest, validation = split_off(sentences, validation_fraction, seed)
    kept = set().union(*(phrases[_normalized(example.text)] for example in rest))
    train = [example for example in train if _normalized(example.text) in kept]
    sets = [_at_most(examples, limit, seed) for examples in (train, validation, dev)]
    return Task(*sets, ["negative", "positive"])


def _read_sst2(path):
    # No quoting: GLUE's quotation marks are characters of the text.
    (number, header), *lines = _numbered_lines(path, "`sentence<tab>label` rows") or [(1, "")]
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
) -> Task:
    """Reads CLUENER2020's folder, named entities in Chinese news: `train.json` and `dev.json`.

    The files hold JSON objects one after another, on a line each or over many.

    Args:
        directory: the folder.
        validation_fraction: the share of `train.json` that is cut off for validation.
        limit: at most so many rows of `train.json`, and of `dev.json`, drawn at random.
        seed: of the draw and of the cut.

    Returns:
        A `Task`. Each example's label is a tuple of `Entity`, and `labels` are the types.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a bad row (names file and row), or an empty set.
    """
    directory = _folder(directory, "train.json and dev.json")
    train, dev = (_read_cluener(directory / name) for name in ("train.json", "dev.json"))
    types = sorted({entity.type for example in train + dev for entity in example.label})
    train, dev = (_at_most(examples, limit, seed) for examples in (train, dev))
    train, validation = split_off(train, validation_fraction, seed)
    return Task(train, validation, dev, types)


def _read_cluener(path):
    examples = []
    for number, row in enumerate(_json_objects(path), start=1):
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
) -> Task:
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
        A `Task`, whose examples have the labels that `bert_of_theseus.tasks` takes.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a bad row (names file and row), another kind, or an empty set.
    """
    if kind not in _LABELS:
        raise ValueError(f"`kind` must be one of {', '.join(_LABELS)}. Received: {kind!r}.")
    directory = _folder(directory, "train.json and dev.json")
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
        _at_most([row._replace(label=as_task_takes_it(row.label)) for row in rows], limit, seed)
        for rows in (train, dev)
    )
    train, validation = split_off(train, validation_fraction, seed)
    return Task(train, validation, dev, names)


def _names(kind, label):
    """The classes, or types of entities, that a row's label names."""
    if kind == "tagging":
        return [type for *_, type in label]
    named = {"classification": [label], "multi-label": label}
    return [str(name) for name in named.get(kind, ())]


def _read_folder(path, kind):
    expected, fits = _LABELS[kind]
    examples = []
    for number, row in enumerate(_json_objects(path), start=1):
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


def _json_objects(path: Path) -> list:
    """The JSON values of a file, which stand one after another, white space between them."""
    content = "\n".join(line for _, line in _numbered_lines(path, "JSON objects"))
    decoder, space, values = json.JSONDecoder(), re.compile(r"\s*"), []
    position = space.match(content).end()
    while position < len(content):
        try:
            value, position = decoder.raw_decode(content, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, row {len(values) + 1}: not JSON: {error}.") from error
        values.append(value)
        position = space.match(content, position).end()
    if not values:
        raise ValueError(f"{path} is empty; expected JSON objects.")
    return values


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


def _at_most(examples, limit, seed):
    if limit is None or limit >= len(examples):
        return examples
    if limit < 1:
        raise ValueError(f"limit should be at least 1. Received: {limit}.")
    kept = random.Random(seed).sample(range(len(examples)), limit)
    return [examples[index] for index in sorted(kept)]


def _normalized(text: str) -> str:
    return " ".join(text.split()).casefold()


def split_off(
    examples: list[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Cuts a part off a list of examples, stratified by class where classes are large enough.

    Rows with the same text, up to case and white space, stay on one side, whatever their labels.
    A class's only text stays in the larger part.

    Args:
        examples: the list.
        fraction: the share of the part to cut off, in (0, 1).
        seed: the same seed makes the same cut.

    Returns:
        `(rest, part)`, both in the order of `examples`.

    Raises:
        ValueError: one of the two would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction should be in (0, 1). Received: {fraction}.")
    label_of = {}  # normalised text -> the class of its first row; other labels are no strata
    for example in examples:
        label = example.label if isinstance(example.label, int) else 0
        label_of.setdefault(_normalized(example.text), label)
    groups = collections.defaultdict(list)
    for key, label in label_of.items():
        groups[label].append(key)
    rng = random.Random(seed)
    ranked = []
    for label in sorted(groups):
        keys = groups[label]
        rng.shuffle(keys)
        # Spreads a class evenly over [0, 1) from a random start, so that the lowest share of all
        # classes together is as good as that share of each.
        start = rng.random()
        ranked += [((i + start) / len(keys), key) for i, key in enumerate(keys) if len(keys) > 1]
    size = max(1, round(fraction * len(label_of)))
    part = {key for _, key in sorted(ranked)[:size]}
    if not part or len(part) == len(label_of):
        raise ValueError(
            f"{len(label_of)} different texts in {len(groups)} classes cannot be cut in two "
            f"(fraction {fraction}); one of the sets would be empty."
        )
    sides = [], []
    for example in examples:
        sides[_normalized(example.text) in part].append(example)
    return sides


# Folders of the standard library that hold tests, data or other people's packages.
_NOT_LIBRARY = {
    "__pycache__",
    "dist-packages",
    "idle_test",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}


def load_stdlib_docstrings(
    *,
    num_classes: int = 30,
    min_length: int = 20,
    dev_fraction: float = 0.15,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 42,
    directory: str | os.PathLike | None = None,
    progress=None,
) -> Task:
    """The docstrings of Python's standard library; the class is the package each comes from.

    A few thousand short English texts on any machine. They are read from the source files, of
    which nothing is executed. The name of the package is masked (`[MASK]`) in its texts; a text
    that occurs twice in a package is kept once, and one that occurs in two packages not at all.
    What is left is cut into the three sets, so no text is in two of them. The texts are those of
    the Python that runs this, and differ a little between its versions.

    Args:
        num_classes: keep so many packages, those with the most texts.
        min_length: drop shorter texts, in characters.
        dev_fraction, validation_fraction: the share of all texts that is `dev`, and the share of
            the rest that is `validation`.
        limit: at most so many texts of `train` and `validation` together, and of `dev`.
        seed: of the cuts.
        directory: the library's folder; default this Python's own.
        progress: wraps the list of files while it is read, as `tqdm` does.

    Returns:
        A `Task`, classes in the order of their size.

    Raises:
        ValueError: the folder holds too few docstrings, as with a Python that was installed
            without its source files.
    """
    root = Path(directory or sysconfig.get_paths()["stdlib"])
    texts = collections.defaultdict(set)  # normalised text -> packages it occurs in
    by_package = collections.defaultdict(dict)  # package -> normalised text -> text
    files = [path for path in sorted(root.rglob("*.py"))]
    files = [path for path in files if not _NOT_LIBRARY & set(path.relative_to(root).parts)]
    tops = {path.relative_to(root).parts[0].removesuffix(".py") for path in files}
    for path in progress(files) if progress else files:
        package = _package(path.relative_to(root).parts[0].removesuffix(".py"), tops)
        name = _name_pattern(package)
        for docstring in _docstrings(path):
            text = " ".join(name.sub("[MASK]", docstring).split())
            if len(text) >= min_length:
                texts[_normalized(text)].add(package)
                by_package[package].setdefault(_normalized(text), text)
    for key, packages in texts.items():
        if len(packages) > 1:
            for package in packages:
                del by_package[package][key]

    largest = sorted(by_package, key=lambda package: (-len(by_package[package]), package))
    labels = largest[:num_classes]
    if len(labels) < num_classes or len(by_package[labels[-1]]) < 10:
        raise ValueError(
            f"{root} should hold the source files of Python's standard library, with at least 10 "
            f"docstrings in each of {num_classes} packages; found {len(files)} files and "
            f"{sum(map(len, by_package.values()))} docstrings. Some systems install them apart."
        )
    examples = [
        Example(text, number)
        for number, package in enumerate(labels)
        for text in by_package[package].values()
    ]
    train, dev = split_off(examples, dev_fraction, seed)
    train, validation = split_off(_at_most(train, limit, seed), validation_fraction, seed)
    return Task(train, validation, _at_most(dev, limit, seed), labels)


def _package(top: str, tops: set[str]) -> str:
    # `decimal` has its text in `_pydecimal`, `io` in `_pyio`.
    public = top.removeprefix("_").removeprefix("py")
    return public if top.startswith("_") and public in tops else top


def _name_pattern(package: str) -> re.Pattern:
    """Matches a package's name, and the whole word or dotted path around it.

    `smtplib` gives itself away as "SMTP" too, `idlelib` as "IDLE". A name of up to three letters
    counts only as a part of its own in an identifier: `XMLParser` and `xml.dom`, not "last".
    """
    stems = {package.strip("_"), package.strip("_").removesuffix("lib").removeprefix("lib")}
    patterns = []
    for stem in sorted(filter(None, stems), key=len, reverse=True):
        if len(stem) > 3:
            patterns.append(rf"[\w.]*(?i:{re.escape(stem)})\w*(?:\.\w+)*")
        else:
            patterns.append(rf"(?<![^\W_])(?i:{re.escape(stem)})(?![a-z0-9])\w*(?:\.\w+)*")
    return re.compile("|".join(patterns))


def _docstrings(path: Path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Old escapes in string literals of the library.
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # A template or a file in an odd encoding: not a module.
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


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


def _padded(arrays, rows, length, value):
    padded = np.full((len(rows), length), value, dtype="int32")
    for i, row in enumerate(rows):
        padded[i, : len(arrays[row])] = arrays[row]
    return padded


class Batches:
    """Batches of texts of like length, so that short texts cost little.

    Indexable, as `keras.utils.Sequence` is. With `shuffle`, every epoch draws new batches: the
    texts are shuffled, sorted by length within pools of some batches, and the batches shuffled
    again. All texts occur once an epoch; the last batch of an epoch may be smaller.

    The batches of an epoch depend on `seed` and its number alone, not on what was drawn before: a
    run that is taken up again in epoch 3 calls `set_epoch(3)` and sees what it would have seen.

    Args:
        encoded: what `Tokenizer.encode` returns.
        batch_size: texts in a batch.
        shuffle: whether the order is random; else texts are sorted by length.
        seed: of the order.
        multiple: batches are padded with 0 to a multiple of so many tokens, or to the longest
            text of all, so that few different lengths occur.

    Attributes:
        epoch: the number of the current epoch, from 0; `on_epoch_end` moves to the next.

    Raises:
        ValueError: there are no texts, or a number is not positive.

    Returns (of an index): `([token_ids, segment_ids], labels)`, integer arrays of shape
        `(batch_size, sequence_length)` and an array of a row per text, `(batch_size,)` for
        classes. Labels by token, `(batch_size, sequence_length)`, are padded with `NO_LABEL`.
    """

    _POOL = 20  # Batches that are sorted together: enough to match lengths, few enough to mix.

    def __init__(
        self,
        encoded: Encoded,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int = 42,
        multiple: int = 8,
    ):
        if not encoded.token_ids:
            raise ValueError("A set of texts is empty.")
        if batch_size < 1 or multiple < 1:
            raise ValueError(
                f"batch_size and multiple should be positive. Received: {batch_size}, {multiple}."
            )
        self.encoded = encoded
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.multiple = multiple
        self.seed = seed
        self._lengths = np.array([len(ids) for ids in encoded.token_ids])
        self.set_epoch(0)

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self.batch_size)

    def __getitem__(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = self._batches[index]
        length = -(-self._lengths[rows].max() // self.multiple) * self.multiple
        length = min(length, self._lengths.max())
        token_ids = _padded(self.encoded.token_ids, rows, length, 0)
        segment_ids, labels = self.encoded.segment_ids, self.encoded.labels
        return [
            token_ids,
            np.zeros_like(token_ids)
            if segment_ids is None
            else _padded(segment_ids, rows, length, 0),
        ], _padded(labels, rows, length, NO_LABEL) if isinstance(labels, list) else labels[rows]

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    @property
    def rows(self) -> np.ndarray:
        """The numbers of all texts in `encoded`, in the order of the batches."""
        return np.concatenate(self._batches)

    @property
    def labels(self) -> np.ndarray | list[np.ndarray]:
        """The labels of all texts, a row each, in the order of the batches; by token a list."""
        labels = self.encoded.labels
        return [labels[i] for i in self.rows] if isinstance(labels, list) else labels[self.rows]

    def on_epoch_end(self):
        """Moves on to the next epoch's batches."""
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int):
        """Jumps to the batches of an epoch, counted from 0."""
        if epoch < 0:
            raise ValueError(f"epoch should be at least 0. Received: {epoch}.")
        self.epoch = epoch
        rows = np.arange(len(self._lengths))
        if not self.shuffle:
            rows = rows[np.argsort(self._lengths, kind="stable")]
            self._batches = self._cut(rows)
            return
        rng = np.random.default_rng([self.seed, epoch])
        rng.shuffle(rows)
        batches = []
        pool = self._POOL * self.batch_size
        for start in range(0, len(rows), pool):
            part = rows[start : start + pool]
            batches += self._cut(part[np.argsort(self._lengths[part], kind="stable")])
        rng.shuffle(batches)
        self._batches = batches

    def _cut(self, rows):
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
