"""A corpus that needs no download: the docstrings of Python's standard library."""

from __future__ import annotations

import ast
import collections
import os
import re
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path

from .examples import Corpus, Example, at_most, normalized, split_off

# Folders in the standard library's folder with tests, data or packages of others.
_NOT_LIBRARY = {
    *("__pycache__", "dist-packages", "idle_test", "pydoc_data"),
    *("site-packages", "test", "tests", "turtledemo"),
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
    progress: Callable | None = None,
) -> Corpus:
    """The docstrings of Python's standard library; the class is the package of each.

    A few thousand short English texts, on any machine. They are parsed from the source files;
    nothing is executed. Each package's own name is masked (`[MASK]`) in its texts. A text that a
    package holds twice is kept once; one that two packages hold is left out. So no text is in two
    of the sets. The texts differ a little between versions of Python.

    Args:
        num_classes: Integer, keeps this many packages, those with the most texts. Defaults to
            `30`.
        min_length: Integer, leaves out shorter texts, in characters. Defaults to `20`.
        dev_fraction: Share of all texts that is `dev`. Defaults to `0.15`.
        validation_fraction: Share of the other texts that is `validation`. Defaults to `0.1`.
        limit: Integer. Uses at most this many random texts for `train` and `validation` together,
            and for `dev`. Defaults to `None`, all.
        seed: Integer, of the choice and the splits. Defaults to `42`.
        directory: Path of the library. Defaults to `None`, that of the running Python.
        progress: Function that wraps the list of files while it is read, such as `tqdm`. Defaults
            to `None`.

    Returns:
        A `Corpus`, with the classes sorted by size.

    Raises:
        ValueError: if there are too few docstrings, as when the source files of the library are
            not installed.
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
                texts[normalized(text)].add(package)
                by_package[package].setdefault(normalized(text), text)
    for key, packages in texts.items():
        if len(packages) > 1:
            for package in packages:
                del by_package[package][key]

    largest = sorted(by_package, key=lambda package: (-len(by_package[package]), package))
    labels = largest[:num_classes]
    if len(labels) < num_classes or len(by_package[labels[-1]]) < 10:
        raise ValueError(
            f"{root} must hold the source files of Python's standard library, with at least 10 "
            f"docstrings in each of {num_classes} packages. Received: {len(files)} files and "
            f"{sum(map(len, by_package.values()))} docstrings. Some systems have the source files "
            "in a package of its own."
        )
    examples = [
        Example(text, number)
        for number, package in enumerate(labels)
        for text in by_package[package].values()
    ]
    train, dev = split_off(examples, dev_fraction, seed)
    train, validation = split_off(at_most(train, limit, seed), validation_fraction, seed)
    return Corpus(train, validation, at_most(dev, limit, seed), labels)


def _package(top: str, tops: set[str]) -> str:
    # The docstrings of `decimal` are in `_pydecimal`, those of `io` in `_pyio`.
    public = top.removeprefix("_").removeprefix("py")
    return public if top.startswith("_") and public in tops else top


def _name_pattern(package: str) -> re.Pattern:
    """Matches a package's name together with the word or dotted path around it.

    "lib" at either end is optional: "SMTP" names `smtplib`, "IDLE" names `idlelib`. A name of up
    to three letters matches only at the start of a word or of a part of one: "XMLParser" and
    "xml.dom" name `xml`, "last" does not name `ast`.
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
            warnings.simplefilter("ignore")  # invalid escape sequences in string literals
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # a template, or a test file that is broken on purpose
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring
