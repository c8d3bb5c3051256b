"""Exclusive locks on folders: two processes never write one folder at the same time.

The lock belongs to a process and the operating system releases it, however the process ends. On a
network file system it holds between machines where the file system supports POSIX record locks, as
NFS does from version 4 on. Where there are none, the folder is used without a lock, and a warning
says so.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

# What this process holds: the system's locks do not tell its threads from one another.
_held: dict[Path, int] = {}
_guard = threading.Lock()

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class InUseError(OSError):
    """Another run uses the folder."""


@contextlib.contextmanager
def exclusive(path: str | os.PathLike, what: str, wait: float = 0.0) -> Iterator[None]:
    """A context in which no other one with the same `path` is open, here or in another process.

    Args:
        path: The lock's file. It is there as long as the lock is held, and after a killed process
            until the next one has it. Its folder must exist.
        what: What is locked, for the error: `"runs/1"`.
        wait: Seconds to wait for another process. Defaults to `0.0`.

    Raises:
        InUseError: if it is held. Names process, machine and since when.
    """
    path = Path(path).resolve()
    end = time.monotonic() + wait
    while (file := _take(path, what)) is None:
        if time.monotonic() >= end:
            raise InUseError(f"{what} is in use by {_holder(path)}. Wait until it has ended.")
        time.sleep(0.05)
    try:
        yield
    finally:
        _release(path, file)


def _take(path, what):
    """The locked file; `None` if another one has the lock; -1 if nothing can be written anyway."""
    with _guard:
        if _held.get(path) == os.getpid():  # and not that of the process that this was forked from
            return None
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if path.exists() and error.errno != errno.EROFS:
                raise
            return -1  # what writes in the folder will say why it cannot
        try:
            taken = _try_lock(file, what)
            # Whoever had it before may have removed the file since it was opened here.
            if not taken or not _is_file(path, file):
                os.close(file)
                return None
            _held[path] = os.getpid()
            _describe(file)
        except BaseException:
            os.close(file)
            raise
        return file


def _try_lock(file, what):
    try:
        if fcntl:
            # Not `flock`, which processes forked from this one would go on holding.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(file, 1 << 30, os.SEEK_SET)  # beyond the text, which others read
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"The file system of {what} has no locks ({error.strerror}): see to it that nothing "
            "else uses it at the same time.",
            stacklevel=5,
        )
    return True


def _is_file(path, file):
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _describe(file):
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    text = json.dumps({"process": os.getpid(), "machine": socket.gethostname(), "since": now})
    with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
        os.lseek(file, 0, os.SEEK_SET)
        os.truncate(file, 0)
        os.write(file, text.encode())


def _holder(path):
    if _held.get(path) == os.getpid():
        return "this process itself"
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        return f"process {text['process']} on {text['machine']}, since {text['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"


def _release(path, file):
    if file == -1:
        return
    with _guard:
        _held.pop(path, None)
        if fcntl:  # before another one can have the lock
            path.unlink(missing_ok=True)
            os.close(file)
        else:  # Windows removes no file that is open
            os.close(file)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
