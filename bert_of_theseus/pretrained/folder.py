"""The output folder: what it was made from, and how far it is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import check_files, read_checksums, read_json, remove_scratch, write_json
from ..locks import exclusive

REPORT = "report.json"
_LOCK = ".lock"


class Request(NamedTuple):
    """What is asked for, in JSON's types.

    Attributes:
        given: Dict of what trainings depend on: checksums of model and texts, and settings.
        wanted: Dict of which of them are needed: a depth or a budget.
    """

    given: dict
    wanted: dict


class OutputFolder:
    """A folder in which a request is worked on, and its result stands at the end.

    Meanwhile `unfinished/` holds the checkpoints, and in request.json what they are made from. At
    the end the folder holds the model and report.json, which repeats the request, and `unfinished/`
    is deleted.

    Args:
        directory: The folder.
        overwrite: Boolean. Whether to replace what stands there by another request, or by anyone.
    """

    def __init__(self, directory: str | os.PathLike, overwrite: bool = False):
        self.directory = Path(directory)
        self.unfinished = self.directory / "unfinished"
        self.overwrite = overwrite

    def run(self, num_hidden_layers: int) -> Path:
        """The folder for the training of a successor."""
        return self.unfinished / f"{num_hidden_layers}-layers"

    def check(self, model: Path) -> None:
        """Raises an `OSError` if nothing can be written there, or if the model itself is there."""
        folders = (self.directory, *self.directory.absolute().parents)
        existing = next(path for path in folders if path.exists())
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} must be a folder; it is a file.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(f"{existing} cannot be written to.")
        if existing is self.directory and model.is_dir() and existing.samefile(model):
            raise FileExistsError(f"{existing} holds the model itself. Choose another folder.")

    def is_finished(self, request: Request) -> bool:
        """Whether the result of this very request stands there.

        Raises:
            FileExistsError: if something else stands there that must not be overwritten.
            ValueError: if one of the result's files is missing or has changed.
        """
        finished, started = self._finished(), self._started()
        if finished == request:
            check_files(self.directory, read_checksums(self.directory))
            return True
        goes_on = finished is None and started == request.given
        if goes_on or self.overwrite or self._is_empty():
            return False
        what = "is not empty"
        if finished or started:
            before = {**finished.given, **finished.wanted} if finished else started
            now = {**request.given, **(request.wanted if finished else {})}
            what = f"holds the work of another request ({', '.join(_changes(before, now))})"
        raise FileExistsError(
            f"{self.directory} {what}. Choose another folder, or allow to overwrite this one "
            "(--overwrite, or overwrite=True in Python)."
        )

    @contextlib.contextmanager
    def work(self, request: Request) -> Iterator[None]:
        """A context for the work: `unfinished/` is there, for this process alone.

        Checkpoints of another request are deleted first, and all of them at the end, if there is no
        error.
        """
        self.unfinished.mkdir(parents=True, exist_ok=True)
        with exclusive(self.unfinished / _LOCK, str(self.directory)):
            if request.given != self._started():
                for path in self.unfinished.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != _LOCK:
                        path.unlink()
            # What killed processes left of what they were writing.
            remove_scratch(self.directory)
            for path in self.directory.glob(f".{self.directory.resolve().name}-*.part"):
                shutil.rmtree(path)
            write_json(self.unfinished / "request.json", request.given)
            yield
        self._delete_checkpoints()

    def finish(self, request: Request, report: dict) -> None:
        """Writes the report, which ends the work."""
        write_json(self.directory / REPORT, {"request": request._asdict(), **report})

    def report(self) -> dict:
        """The report of a finished request."""
        started, finished = self._started(), self._finished()
        if started in (None, finished.given):
            self._delete_checkpoints()  # a process that was killed at the very end leaves them
        return read_json(self.directory / REPORT)

    def _is_empty(self):
        # But for what a process left that was killed before it had begun.
        return all(
            path.parent == self.unfinished and path.name.startswith(("part-", _LOCK))
            for path in self.directory.rglob("*")
            if not path.is_dir()
        )

    def _started(self) -> dict | None:
        path = self.unfinished / "request.json"
        return read_json(path) if path.is_file() else None

    def _finished(self) -> Request | None:
        path = self.directory / REPORT
        request = read_json(path).get("request") if path.is_file() else None
        return request and Request(**request)

    def _delete_checkpoints(self):
        if self.unfinished.exists():
            shutil.rmtree(self.unfinished)


def _changes(before: dict, now: dict) -> list[str]:
    """In words, what is asked for now and was not before. Checksums say nothing to a reader."""
    found = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{key}, {change}" for change in _changes(old, new)]
        elif old != new:
            is_text = isinstance(old or new, str)
            found.append(f"another {key}" if is_text else f"{key}: {old}, now {new}")
    return found
