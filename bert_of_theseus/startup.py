"""TensorFlow's import without the lines that it prints, which no setting of its turns off."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from importlib.machinery import PathFinder


def hide_startup_lines() -> None:
    """Hides what TensorFlow prints on stderr while it is imported, whoever imports it, and when.

    KerasHub does on any backend. If the import fails, the lines are printed.
    """
    if "tensorflow" not in sys.modules and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target) if name == "tensorflow" else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(_execute, spec.loader.exec_module)
        return spec


def _execute(execute, module):
    with contextlib.suppress(ValueError):
        sys.meta_path.remove(_Finder)
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # it is closed
            sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        try:
            terminal = os.dup(2)
            stack.callback(os.close, terminal)
            log = stack.enter_context(tempfile.TemporaryFile())
        except OSError:  # stderr is closed, or there is no room for a file
            return execute(module)
        os.dup2(log.fileno(), 2)
        stack.callback(os.dup2, terminal, 2)
        try:
            return execute(module)
        except BaseException:
            log.seek(0)
            os.write(terminal, log.read())
            raise
