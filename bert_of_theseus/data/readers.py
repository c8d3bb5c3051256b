"""Readers of text files, whose errors name the file and the line or row."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path


def read_json_lines(path: str | os.PathLike, keys: tuple[str, ...]) -> list[dict]:
    """Reads a file with one JSON object per line.

    Only a newline ends a line: texts may hold U+2028 and other characters at which
    `str.splitlines` would split. Blank lines are skipped.

    Args:
        path: Path of the file, in UTF-8.
        keys: Tuple of strings, the keys that each object must have.

    Returns:
        List of dicts, each with its line number, from 1, under `"line"`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not a JSON object or lacks a key, or if the file is not UTF-8 or
            has no lines.
    """
    path = Path(path)
    rows = []
    for number, line in numbered_lines(path, "one JSON object per line"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: must be a JSON object. Received: {type(row).__name__}"
            )
        missing = [key for key in keys if key not in row]
        if missing:
            raise ValueError(f"{path}, line {number}: lacks {', '.join(map(repr, missing))}.")
        rows.append({**row, "line": number})
    if not rows:
        raise ValueError(f"{path} is empty. It must hold one JSON object per line.")
    return rows


def numbered_lines(path: Path, expected: str) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, each with its number, from 1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file with {expected}. It was not found.")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}.") from error
    return [pair for pair in enumerate(content.split("\n"), start=1) if pair[1].strip()]


def json_values(path: Path) -> list:
    """The JSON values of a file, which may stand on one line each or over several."""
    content = "\n".join(line for _, line in numbered_lines(path, "JSON objects"))
    decoder, space, values = json.JSONDecoder(), re.compile(r"\s*"), []
    position = space.match(content).end()
    while position < len(content):
        try:
            value, position = decoder.raw_decode(content, position)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, row {len(values) + 1}: not JSON: {error}.") from error
        values.append(value)
        position = space.match(content, position).end()
    if not values:
        raise ValueError(f"{path} is empty. It must hold JSON objects.")
    return values


def check_unicode(text: str, what: str) -> None:
    """Raises a `ValueError` if `text` cannot be encoded: JSON may hold half of an emoji."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} is not valid Unicode: {error.reason} at character {error.start + 1}, such as "
            "half of an emoji"
        ) from error


def existing_folder(directory: str | os.PathLike, files: str) -> Path:
    """`directory` as a path, if there is such a folder."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} must be a folder with {files}. It was not found.")
    return directory
