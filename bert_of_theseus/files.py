"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

__all__ = ["check_room", "replace_file", "write_json"]


def check_room(directory: str | os.PathLike, size: int, take: bool = True) -> None:
    """Makes `directory`, and makes sure that it can hold `size` bytes.

    What it holds already counts: a run that goes on needs no room for what it has written. Unless
    `take`, the file system is only asked, which is quick anywhere, and knows no quotas and limits.

    Raises:
        OSError: if not, naming the folder and the size.
    """
    directory = Path(directory)
    probe = directory / "room.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.unlink(missing_ok=True)  # of a process that was killed
        files = [path for path in directory.rglob("*") if path.is_file()]
        missing = max(1, size - sum(path.stat().st_size for path in files))
        if shutil.disk_usage(directory).free < missing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with open(probe, "wb") as file:
                if take and hasattr(os, "posix_fallocate"):
                    # Takes the space for a moment: quotas and limits count too.
                    os.posix_fallocate(file.fileno(), 0, missing)
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
    except (OSError, RuntimeError) as error:
        scratch.unlink(missing_ok=True)
        # h5py raises either, at times with the number in its text alone.
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


def write_json(path, content):
    text = json.dumps(content, indent=2, ensure_ascii=False)
    replace_file(path, lambda scratch: scratch.write_text(text + "\n", encoding="utf-8"))
