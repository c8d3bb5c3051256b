"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

__all__ = ["check_room", "replace_file", "write_json"]


def check_room(directory: str | os.PathLike, size: int) -> None:
    """Makes `directory`, and makes sure that `size` bytes can be written there.

    Raises:
        OSError: if not, naming the folder and the size.
    """
    directory = Path(directory)
    probe = directory / "room.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with open(probe, "wb") as file:
                if hasattr(os, "posix_fallocate"):
                    # Takes the space for a moment: quotas and limits count too.
                    os.posix_fallocate(file.fileno(), 0, size)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return  # this file system cannot tell
        raise OSError(
            error.errno,
            f"Checkpoints and weights need about {size / 1e6:,.1f} MB in {directory}, which cannot "
            f"be written: {error.strerror}",
        ) from error


def replace_file(path, write):
    """Writes a file as a whole or not at all."""
    scratch = path.with_name(f"part-{path.name}")
    try:
        write(scratch)
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"{path} could not be written, what was there before is: {error.strerror}"
        ) from error
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    os.replace(scratch, path)


def write_json(path, content):
    text = json.dumps(content, indent=2, ensure_ascii=False)
    replace_file(path, lambda scratch: scratch.write_text(text + "\n", encoding="utf-8"))
