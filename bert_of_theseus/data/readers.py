"""Files of rows, read with errors that name the file and the line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

__all__ = ["read_json_lines"]


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
    for number, line in numbered_lines(path, "one JSON object a line"):
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


def numbered_lines(path: Path, expected: str) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, each with its number from 1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} should be a file with {expected}; not found.")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} should be UTF-8 text: {error}.") from error
    return [pair for pair in enumerate(content.split("\n"), start=1) if pair[1].strip()]


def existing_folder(directory, files):
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} should be a folder with {files}; not found.")
    return directory


def json_objects(path: Path) -> list:
    """The JSON values of a file, which stand one after another, white space between them."""
    content = "\n".join(line for _, line in numbered_lines(path, "JSON objects"))
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
