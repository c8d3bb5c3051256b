"""A corpus without any download: the docstrings of Python's own standard library."""

from __future__ import annotations

import ast
import collections
import os
import re
import sysconfig
import warnings
from pathlib import Path

from .examples import Corpus, Example, at_most, normalized, split_off

__all__ = ["load_stdlib_docstrings"]

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
) -> Corpus:
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
        A `Corpus`, classes in the order of their size.

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
    train, validation = split_off(at_most(train, limit, seed), validation_fraction, seed)
    return Corpus(train, validation, at_most(dev, limit, seed), labels)


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
