"""Files from their official homes, whole or not at all.

`fetch` gets one file: it resumes or restarts a broken transfer, checks size and checksum, and
gives the file its final name only then. `get` fetches one of the `SOURCES` and unpacks it.

Example:

    folder = get("iflytek", "~/.cache/bert_of_theseus")  # holds train.json, dev.json, ...
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["SOURCES", "DownloadError", "Source", "fetch", "get", "unpack"]

_CHUNK = 1 << 14  # What a break costs at most: a chunk that is not whole is lost.


class DownloadError(OSError):
    """A file could not be had, or is not the one that was published."""


class Source(NamedTuple):
    """A zip archive on the Internet.

    Args:
        url: its address.
        holds: names of files that it must hold, all in one folder.
        size: its size in bytes, where published.
        sha256: its checksum, where published.
        members: checksums (SHA-256) of files in it by name without folder, where published.
    """

    url: str
    holds: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    members: dict[str, str] | None = None


# Google's storage sends an MD5 with each file, which `fetch` checks too.
SOURCES = {
    # Size and checksum as published with the `clue` data set of the Hugging Face `datasets`
    # library (dataset_infos.json).
    "iflytek": Source(
        url="https://storage.googleapis.com/cluebenchmark/tasks/iflytek_public.zip",
        holds=("train.json", "dev.json", "labels.json"),
        size=6505938,
        sha256="c59b961b29f1d0bad0c5e01aa62e4a61a80e9cfb980ce89b06c000851fbb3b06",
    ),
    # Checksums of the files inside as published in NVIDIA's DeepLearningExamples
    # (GooglePretrainedWeightDownloader.py); there is none of the archive itself.
    "chinese_bert": Source(
        url="https://storage.googleapis.com/bert_models/2018_11_03/chinese_L-12_H-768_A-12.zip",
        holds=("bert_config.json", "vocab.txt", "bert_model.ckpt.index"),
        members={
            "bert_config.json": "7aaad0335058e2640bcb2c2e9a932b1cd9da200c46ea7b8957d54431f201c015",
            "bert_model.ckpt.data-00000-of-00001": (
                "756699356b78ad0ef1ca9ba6528297bcb3dd1aef5feadd31f4775d7c7fc989ba"
            ),
            "bert_model.ckpt.index": (
                "46315546e05ce62327b3e2cd1bed22836adcb2ff29735ec87721396edb21b82e"
            ),
            "vocab.txt": "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c",
        },
    ),
}


def get(name: str, cache_dir: str | os.PathLike, *, progress: bool = True) -> Path:
    """Fetches and unpacks one of the `SOURCES`, unless that was done before.

    Args:
        name: a key of `SOURCES`.
        cache_dir: where the archive and a folder with its files are kept.
        progress: whether to show a bar.

    Returns:
        The folder that holds the files.

    Raises:
        DownloadError: it could not be had, or is not what was published.
    """
    source = SOURCES[name]
    cache = Path(cache_dir).expanduser()
    target = cache / name
    if not target.is_dir():
        archive = cache / PurePosixPath(source.url).name
        cache.mkdir(parents=True, exist_ok=True)
        fetch(source.url, archive, size=source.size, sha256=source.sha256, progress=progress)
        try:
            unpack(archive, target, members=source.members)
        except DownloadError:
            archive.unlink(missing_ok=True)  # So that the next attempt fetches it anew.
            raise
    for file in sorted(target.rglob(source.holds[0]), key=lambda path: len(path.parts)):
        if all((file.parent / other).is_file() for other in source.holds):
            return file.parent
    raise DownloadError(f"{target} should hold {', '.join(source.holds)}, and does not.")


def fetch(
    url: str,
    destination: str | os.PathLike,
    *,
    size: int | None = None,
    sha256: str | None = None,
    attempts: int = 5,
    timeout: float = 30.0,
    progress: bool = True,
) -> Path:
    """Downloads one file.

    The bytes go to `<destination>.part`, with what the server said about them beside it. A broken
    transfer is resumed from there, now or by a later call, if the server still has the same file,
    and restarted if not. `destination` comes to be only when all is there and checked.

    Args:
        url: the address.
        destination: path of the file. If it exists (and has the checksum), nothing is done.
        size: expected size in bytes; default what the server announces.
        sha256: expected checksum. The MD5 that Google's storage announces is checked as well.
        attempts: how often to try without receiving anything new, before giving up.
        timeout: seconds without an answer after which an attempt has failed.
        progress: whether to show a bar.

    Returns:
        `destination`.

    Raises:
        DownloadError: the address is wrong, the server does not answer, or what it sends does not
            have the size or checksum.
    """
    destination = Path(destination)
    if destination.is_file() and (sha256 is None or _digest(destination, "sha256") == sha256):
        return destination
    part = _Part(destination, url)
    left, mismatches, problem = attempts, 0, "no answer"
    while left > 0:
        before = part.offset
        try:
            complete = _receive(url, part, size, timeout, progress)
            problem = f"the transfer broke off after {part.offset} bytes"
        except _TransientError as error:
            complete, problem = False, str(error)
        if complete:
            problem = _mismatch(part, size, sha256)
            if problem is None:
                part.finish()
                return destination
            # Once is no proof: a resumed file may be two halves of different ones.
            part.drop()
            mismatches += 1
            if mismatches == 2:
                break
            continue
        left = attempts if part.offset > before else left - 1
        if left:
            time.sleep(min(0.25 * 2 ** (attempts - left), 8))
    raise DownloadError(f"{url} could not be fetched: {problem}.")


class _TransientError(Exception):
    """An attempt failed in a way that another may not."""


class _Part:
    """The unfinished file, and what the server said about it."""

    def __init__(self, destination: Path, url: str):
        self.destination, self.url = destination, url
        self.path = destination.with_name(destination.name + ".part")
        self._notes = destination.with_name(destination.name + ".part.json")
        self.facts = {}
        with contextlib.suppress(OSError, ValueError):
            self.facts = json.loads(self._notes.read_text())
        if not isinstance(self.facts, dict) or self.facts.get("url") != url:
            self.drop()

    @property
    def offset(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def start(self, **facts):
        self.drop()
        self.path.touch()
        self.facts = {"url": self.url, **facts}
        self._notes.write_text(json.dumps(self.facts))

    def drop(self):
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self.facts = {}

    def finish(self):
        os.replace(self.path, self.destination)
        self._notes.unlink(missing_ok=True)


def _receive(url, part: _Part, size, timeout, progress) -> bool:
    """One request; whether all bytes are there afterwards."""
    import requests  # Has its own certificates; takes a while to import.

    # What is stored, not what a proxy may make of it: sizes and ranges count those bytes.
    headers = {"Accept-Encoding": "identity"}
    if part.offset and part.facts.get("validator"):
        headers |= {"Range": f"bytes={part.offset}-", "If-Range": part.facts["validator"]}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            if answer.status_code == 416:  # Nothing after our last byte: done, or another file.
                if part.offset and part.offset == part.facts.get("size"):
                    return True
                part.drop()
                raise _TransientError("the server has no such range")
            if answer.status_code in (408, 429) or answer.status_code >= 500:
                raise _TransientError(f"the server answered {answer.status_code} {answer.reason}")
            if answer.status_code not in (200, 206):
                raise DownloadError(
                    f"{url} could not be fetched: the server answered {answer.status_code} "
                    f"{answer.reason}."
                )
            if not _continues(answer, part):
                if answer.status_code == 206:
                    part.drop()
                    raise _TransientError("the server sent another range than asked for")
                length = answer.headers.get("Content-Length", "")
                announced = int(length) if length.isdigit() else None
                if None not in (size, announced) and size != announced:
                    raise DownloadError(
                        f"{url} should have {size} bytes, as published; the server's file has "
                        f"{announced}."
                    )
                part.start(
                    validator=_validator(answer.headers),
                    size=announced or size,
                    md5=_google_md5(answer.headers),
                )
            _write(answer, part, progress)
    except requests.exceptions.RequestException as error:
        permanent = (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
            requests.exceptions.TooManyRedirects,
        )
        if isinstance(error, permanent):
            raise DownloadError(f"{url} could not be fetched: {error}") from error
        raise _TransientError(f"{type(error).__name__} after {part.offset} bytes") from error
    # Without an announced size the end of the stream is all there is to go by.
    return part.facts["size"] is None or part.offset >= part.facts["size"]


def _continues(answer, part: _Part) -> bool:
    if answer.status_code != 206 or not part.facts:
        return False
    found = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    return (
        bool(found)
        and int(found[1]) == part.offset
        and found[2]
        in (
            "*",
            str(part.facts.get("size")),
        )
    )


def _write(answer, part: _Part, progress):
    from tqdm import tqdm

    bar = tqdm(
        desc=part.destination.name,
        total=part.facts["size"],
        initial=part.offset,
        unit="B",
        unit_scale=True,
        disable=not progress,
    )
    with bar, open(part.path, "ab") as file:
        for chunk in answer.iter_content(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _validator(headers) -> str | None:
    """What `If-Range` may name: a strong ETag or a date."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _google_md5(headers) -> str | None:
    found = re.search(r"\bmd5=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", ""))
    try:
        return base64.b64decode(found[1], validate=True).hex() if found else None
    except binascii.Error:
        return None


def _mismatch(part: _Part, size, sha256) -> str | None:
    expected = part.facts.get("size") if size is None else size
    if expected is not None and part.offset != expected:
        return f"{part.offset} bytes arrived where {expected} were expected"
    for kind, wanted in (("sha256", sha256), ("md5", part.facts.get("md5"))):
        if wanted is not None and _digest(part.path, kind) != wanted:
            return f"its {kind} is {_digest(part.path, kind)}, published is {wanted}"
    return None


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def unpack(
    archive: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    members: dict[str, str] | None = None,
) -> Path:
    """Unpacks a zip archive into a new folder, which appears when all is there.

    Args:
        archive: the zip file.
        directory: the folder to make; must not exist.
        members: SHA-256 checksums by file name, of files that must be in the archive.

    Returns:
        `directory`.

    Raises:
        DownloadError: the archive is broken (each file's CRC is checked), lacks one of `members`
            or holds it with another checksum, or holds a name that leads out of the folder.
    """
    archive, directory = Path(archive), Path(directory)
    scratch = directory.with_name(directory.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                if _leads_out(member):
                    raise DownloadError(f"{archive} holds an unsafe name: {member.filename!r}.")
            file.extractall(scratch)
        found = {path.name: path for path in scratch.rglob("*") if "__MACOSX" not in path.parts}
        for name, wanted in (members or {}).items():
            if name not in found:
                raise DownloadError(f"{archive} should hold {name!r}, and does not.")
            digest = _digest(found[name], "sha256")
            if digest != wanted:
                raise DownloadError(
                    f"{archive}: the sha256 of {name!r} is {digest}, published is {wanted}."
                )
        os.replace(scratch, directory)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return directory


def _leads_out(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    link = stat.S_ISLNK(member.external_attr >> 16)
    return link or path.is_absolute() or ".." in path.parts or ":" in member.filename
