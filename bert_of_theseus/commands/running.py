"""Runs a command: whatever ends it is one line and an exit status, and no traceback."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable

CANNOT, _INTERRUPTED, _NO_READER = 2, 130, 141
_LONGEST = 1500  # characters of a line; a value in it may be as long as its file
# What is raised for what a user gave, in words of its own.
_EXPECTED = (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError)


def run_command(name: str, work: Callable[[], int | None], interrupted: str = "") -> int:
    """Calls `work`, and says in one line on stderr what went wrong.

    Args:
        name: String, what the line begins with.
        work: Function without arguments that returns the exit status, or `None` for 0. It may
            raise `SystemExit`.
        interrupted: String, what to add after Ctrl-C.

    Returns:
        The exit status: that of `work`, 2 after an error, 130 after Ctrl-C, 141 where the reader of
        stdout is gone.
    """
    try:
        try:
            return work() or 0
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # at the exit of Python, an error would be a traceback
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        _drop_stdout()
        return _NO_READER
    except Exception as error:
        _say(f"{name}: error: {_in_a_line(error)}")
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except (OSError, ValueError):  # as it would again at the exit
            _drop_stdout()
        return CANNOT
    except KeyboardInterrupt:
        _say(f"\n{name}: interrupted{interrupted}.")
        return _INTERRUPTED


def open_standard_streams() -> None:
    """Keeps files that are opened later from taking the place of a closed stdin, stdout or stderr.

    What libraries print there would go into them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  until the end


@contextlib.contextmanager
def warnings_in_a_line():
    """Prints this package's warnings on stderr, in one line each, and no others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from libraries
        warnings.filterwarnings("default", module=r"(__main__|bert_of_theseus\..*)$")
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        yield


def _in_a_line(error: Exception) -> str:
    said = " ".join(str(error).split())
    if len(said) > _LONGEST:
        said = f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"
    if isinstance(error, MemoryError):
        return f"out of memory. {said}".rstrip()
    is_expected = isinstance(error, _EXPECTED)
    if said and is_expected and not isinstance(error, (RecursionError, UnicodeError)):
        return said
    # Nobody has put it in words: where it happened helps whoever is asked.
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "bert_of_theseus" in frame.filename] or frames
    where = f"{os.path.basename(own[-1].filename)}, line {own[-1].lineno}"
    return f"{type(error).__name__}: {said} ({where})"


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed terminal, a full disk
        # Names of files may hold what no encoding can write.
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def _drop_stdout() -> None:
    """Sends what is still to be written to stdout nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout is closed, or no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
