"""Folders that are written completely or not at all.

Everything is first written to a scratch folder beside the old one, and then moved into place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..data.tokenizer_files import FILES as TOKENIZER_FILES
from ..files import CHECKSUMS, check_files, read_checksums, sha256, write_json, writing
from .base import Checkpoint
from .google import GoogleCheckpoint
from .heads import HEAD_FILE
from .load import KINDS

_VOCABULARY = ("vocab.txt", "tokenizer_config.json")
# Exported from the old weights.
_EXPORTED = (
    *("model.onnx", "model.*.onnx", "model.tflite", "model.*.tflite"),
    *("onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/checksums.json"),
)


@contextlib.contextmanager
def staged(
    directory: str | os.PathLike,
    kind: type[Checkpoint],
    owned: list[str],
    write_tokenizer: Callable[[Path], None] | None,
    overwrite: bool,
) -> Iterator[Path]:
    """A scratch folder whose content replaces the `owned` files in `directory` after the block.

    Of two that write one folder, the second waits for the first.

    Args:
        directory: The folder.
        kind: The checkpoint that it is to hold.
        owned: Names and patterns of the files that are replaced, the config first.
        write_tokenizer: Function that writes a tokenizer's files into a folder. `None` leaves those
            that are there.
        overwrite: Whether a model in the folder may be replaced.
    """
    directory = Path(directory).resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{str(directory)!r} must be a folder; it is a file.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with writing(directory):
        exists = directory.is_dir()
        if exists:
            _check_place(directory, kind, owned, overwrite)
        with _scratch(directory) as name:
            new, old = Path(name, "new"), Path(name, "old")
            new.mkdir()
            old.mkdir()
            owned = [*owned, HEAD_FILE, CHECKSUMS, *_EXPORTED]
            owned += _write_tokenizer(new, directory, write_tokenizer)
            yield new
            _write_checksums(new, directory, owned)
            if exists:
                _replace(directory, new, old, owned)
            else:
                os.rename(new, directory)


def _scratch(directory: Path) -> tempfile.TemporaryDirectory:
    # On the same file system in any case, so that moving a file can hardly fail.
    place = directory if directory.is_dir() else directory.parent
    return tempfile.TemporaryDirectory(prefix=f".{directory.name}-", suffix=".part", dir=place)


def _write_tokenizer(new: Path, directory: Path, write) -> tuple[str, ...]:
    """Writes the tokenizer's files, or takes those that are there; returns which it replaces."""
    if write is not None:
        write(new)
        return TOKENIZER_FILES
    if not (directory / "vocab.txt").is_file():
        return ()
    check_files(directory, _VOCABULARY)
    for file in _VOCABULARY:  # it is checked there whether they fit
        if (directory / file).is_file():
            shutil.copyfile(directory / file, new / file)
    return _VOCABULARY


def _write_checksums(new: Path, directory: Path, owned) -> None:
    """Writes checksums.json for the new files, and for those in the folder that stay."""
    digests = {path.name: sha256(path) for path in new.iterdir()}
    listed = {}
    with contextlib.suppress(ValueError):  # one that cannot be read is replaced all the same
        listed = read_checksums(directory)
    for name, digest in listed.items():
        path = directory / name
        if path.is_file() and not any(path.match(pattern) for pattern in owned):
            digests.setdefault(name, digest)
    write_json(new / CHECKSUMS, dict(sorted(digests.items())))


def _check_place(directory: Path, kind, owned, overwrite: bool) -> None:
    """Refuses a folder with another checkpoint, or one that must not be overwritten."""
    found = [path for k in KINDS for path in k.find_tensors(directory)]
    if kind is GoogleCheckpoint:
        found += directory.glob("bert_config*.json")
    others = [p.name for p in found if not any(p.match(pattern) for pattern in owned)]
    if others:
        raise FileExistsError(
            f"{str(directory)!r} holds another checkpoint ({', '.join(others)}), and would hold "
            "two. Choose another folder."
        )
    if found and not overwrite:
        names = ", ".join(path.name for path in found)
        raise FileExistsError(f"{str(directory)!r} holds a checkpoint ({names}): overwrite=False.")


def _replace(directory: Path, new: Path, old: Path, owned) -> None:
    """Moves files into place; if one cannot be moved, restores all of them.

    The model's config is the first to leave and the last to arrive. If the process is killed in
    between, the folder has no config and does not load.
    """
    leaving = [path for pattern in owned for path in directory.glob(pattern)]
    moves = [(path, old / "-".join(path.relative_to(directory).parts)) for path in leaving]
    arriving = sorted(new.iterdir(), key=lambda path: (path.name == Path(owned[0]).name, path))
    moves += [(path, directory / path.name) for path in arriving]
    done = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise
