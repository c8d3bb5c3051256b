"""Atomic writes, checksums of a folder's files, and JSON."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .locks import exclusive

CHECKSUMS = "checksums.json"
_LONGEST_WAIT = 600  # seconds, for another process that writes a file of the same folder
_WEIGHTS = ("*.weights.h5", "checkpoint.npz")  # what a training keeps


def check_room(
    directory: str | os.PathLike,
    size: int,
    take: bool = True,
    names: Iterable[str] = _WEIGHTS,
    what: str = "Checkpoints and weights",
) -> None:
    """Creates `directory` and checks that some files in it can grow to `size` bytes in all.

    Those that are already there count towards `size`, so a resumed run asks for the rest only.

    Args:
        directory: The folder.
        size: Bytes that the files need in all.
        take: Whether to allocate the missing bytes for a moment, which quotas and limits on file
            sizes refuse. Otherwise the file system's free space is read, which is quick everywhere.
        names: Patterns of the files' names, in the folder and those below it. Whatever else is
            there, a teacher's answers say, makes no room. Defaults to those of weights.
        what: The files, for the error.

    Raises:
        OSError: if there is no room; names the folder and the size.
    """
    directory = Path(directory)
    probe = directory / "room.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.unlink(missing_ok=True)  # left by a killed process
        files = [path for name in names for path in directory.rglob(name) if path.is_file()]
        missing = max(1, size - sum(path.stat().st_size for path in files))
        if shutil.disk_usage(directory).free < missing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with open(probe, "wb") as file:
                if take and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, missing)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return  # not supported by this file system
        raise OSError(
            error.errno,
            f"{what} need about {size / 1e6:,.1f} MB in {directory}, which cannot be written: "
            f"{error.strerror}",
        ) from error


def replace_file(path: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """Writes a file completely or not at all.

    Args:
        path: The file. It is replaced by the new content, or left as it was if `write` fails.
        write: Function that writes the content to the path that it is called with, in the same
            folder.

    Raises:
        OSError: if the file could not be written.
    """
    path = Path(path)
    # Of its own, so that two processes never write one file.
    scratch = path.with_name(f"part-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        write(scratch)
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        scratch.unlink(missing_ok=True)
        # h5py raises either class, and at times gives the number in the text only.
        said = re.search(r"errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or (said and int(said[1]))
        if not number:
            raise
        why = os.strerror(number)
        raise OSError(
            number, f"{path} could not be written and is as it was before: {why}"
        ) from error
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    os.replace(scratch, path)


def remove_scratch(directory: str | os.PathLike, name: str | None = None) -> None:
    """Removes what killed processes left of a file, or of all files, that they were writing.

    To be called while no other process can be writing there: with the folder's lock.
    """
    for path in Path(directory).glob(f"part-*-*-{glob.escape(name) if name else '*'}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(directory: str | os.PathLike) -> Iterator[None]:
    """A context for one writer of a folder at a time: the second waits for the first.

    The folder itself may not be there yet. Its parent must be.
    """
    directory, options = Path(directory).resolve(), {"wait": _LONGEST_WAIT}
    with contextlib.ExitStack() as stack:
        if not directory.is_dir():
            beside = directory.with_name(f".{directory.name}.writing.lock")
            stack.enter_context(exclusive(beside, str(directory), **options))
        if directory.is_dir():  # by now
            inside = directory / ".writing.lock"
            stack.enter_context(exclusive(inside, str(directory), **options))
        yield


def replace_listed_file(path: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """As `replace_file`, and lists the file in its folder's checksums.json.

    The file's old line is removed before the file is replaced, and its new line is added last. So
    wherever this is cut short, a reader finds the old file or the new one, complete. Of two
    processes that write files of one folder, the second waits for the first.
    """
    path = Path(path)
    with writing(path.parent):
        remove_scratch(path.parent, path.name)
        _replace_listed_file(path, write)


def _replace_listed_file(path, write):
    digest = None

    def write_and_unlist(scratch):
        nonlocal digest
        write(scratch)
        digest = sha256(scratch)
        _unlist(path)

    replace_file(path, write_and_unlist)
    listed = {**read_checksums(path.parent), path.name: digest}
    write_json(path.parent / CHECKSUMS, dict(sorted(listed.items())))


def remove_listed_file(path: str | os.PathLike) -> None:
    """Removes a file, and its line in its folder's checksums.json.

    With its last line that goes too, and so does one that cannot be read: it tells nothing of the
    other files.
    """
    path = Path(path)
    with writing(path.parent):
        path.unlink(missing_ok=True)
        try:
            is_last = not _unlist(path)
        except ValueError:
            is_last = True
        if is_last:
            (path.parent / CHECKSUMS).unlink(missing_ok=True)


def _unlist(path):
    """Removes a file's line from its folder's checksums.json; returns the other lines."""
    listed = read_checksums(path.parent)
    if listed.pop(path.name, None):
        write_json(path.parent / CHECKSUMS, listed)
    return listed


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_checksums(directory: str | os.PathLike) -> dict[str, str]:
    """SHA-256 by file name from a folder's checksums.json; empty where there is no such file.

    Raises:
        ValueError: if the file cannot be read.
    """
    path = Path(directory) / CHECKSUMS
    if not path.is_file():
        return {}
    listed = read_json(path, last_comma=True)
    broken = [name for name, digest in listed.items() if not _is_sha256(digest)]
    if broken:
        raise ValueError(f"{str(path)!r} must map file names to SHA-256 checksums: {broken[0]!r}.")
    return listed


def _is_sha256(value) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def check_files(directory: str | os.PathLike, names: Iterable[str]) -> None:
    """Compares files with the checksums.json of their folder.

    Files that it does not list, and folders without one, pass.

    Raises:
        ValueError: if a file differs or is missing; names it.
    """
    directory = Path(directory)
    listed = read_checksums(directory)
    for name in names:
        path = directory / name
        if name not in listed or (path.is_file() and sha256(path) == listed[name]):
            continue
        what = "does not match its checksum" if path.is_file() else "is missing, but listed"
        raise ValueError(
            f"{str(path)!r} {what} in {CHECKSUMS}: it is truncated, corrupt or another model's. "
            f"If you changed or removed it on purpose, delete its line in {CHECKSUMS}."
        )


def read_json(path: Path, kind: type = dict, last_comma: bool = False):
    """Reads a JSON object, or a list, from a file.

    Args:
        path: The file.
        kind: `dict` or `list`.
        last_comma: Whether to accept a comma before the closing brace, which remains when the
            last line of an object is deleted.

    Raises:
        ValueError: if it is not JSON, or of another kind; names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if last_comma:
            text = re.sub(r",(\s*\})", r"\1", text)
        content = json.loads(text)
    # A ValueError is also raised for a number of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}.") from error
    if not isinstance(content, kind):
        expected = {dict: "object", list: "list"}[kind]
        received = type(content).__name__
        raise ValueError(f"{str(path)!r} must hold a JSON {expected}. Received: {received}.")
    return content


def write_json(path: str | os.PathLike, content) -> None:
    """Writes indented JSON with `replace_file`."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    replace_file(path, lambda scratch: scratch.write_text(text + "\n", encoding="utf-8"))
