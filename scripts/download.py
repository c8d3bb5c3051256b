"""Download the corpus and the model that the scripts name, each from its official address.

`pooch` does the transfer: it repeats a failed one, checks the checksum, and gives the file its name
only then. Here are the addresses, the bounds on what a server may send, and the unpacking.

Example:

    folder = get("iflytek", "~/.cache/bert_of_theseus")  # holds train.json, dev.json, ...
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bert_of_theseus.locks import exclusive

_MOST_FILES = 10_000  # in an archive
_LONGEST_WAIT = 3600  # seconds, for another process that downloads the same


class DownloadError(OSError):
    """A file could not be downloaded, or is not the one that was published."""


class Source(NamedTuple):
    """A zip archive to download.

    Args:
        url: String, its address.
        holds: Tuple of strings, names of files that it must hold together in one folder.
        size: Integer, its size in bytes, where published. Defaults to `None`.
        sha256: String, its checksum, where published. Defaults to `None`.
        members: Dict of checksums (SHA-256) of the files in that folder by name, where published.
            Defaults to `None`.
        limit: Integer, the bytes that the archive, and its files together, may have at most.
            Defaults to 1 GiB.
    """

    url: str
    holds: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    members: dict[str, str] | None = None
    limit: int = 2**30


SOURCES = {
    # Size and checksum as published with the `clue` data set of the Hugging Face `datasets`
    # library (dataset_infos.json).
    "iflytek": Source(
        url="https://storage.googleapis.com/cluebenchmark/tasks/iflytek_public.zip",
        holds=("train.json", "dev.json", "labels.json"),
        size=6505938,
        sha256="c59b961b29f1d0bad0c5e01aa62e4a61a80e9cfb980ce89b06c000851fbb3b06",
    ),
    # Checksums of the files as published in NVIDIA's DeepLearningExamples
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


def get(
    name: str, cache_dir: str | os.PathLike, *, progress: bool = True, retries: int = 4
) -> Path:
    """Downloads and unpacks one of the `SOURCES`, unless that was done before.

    Args:
        name: String, a key of `SOURCES`.
        cache_dir: Path of the folder in which the archive and a folder with its files are kept.
        progress: Boolean, whether to show a progress bar. Defaults to `True`.
        retries: Integer, how often to repeat a failed transfer. Defaults to `4`.

    Returns:
        Path of the folder that holds the files.

    Raises:
        DownloadError: If the file cannot be downloaded or is not the one that was published.
    """
    source, cache = SOURCES[name], Path(cache_dir).expanduser()
    folder = cache / name
    if not folder.is_dir():
        with contextlib.suppress(OSError):  # `pooch` says what is wrong
            cache.mkdir(parents=True, exist_ok=True)
        lock = cache / f".{name}.lock"
        with exclusive(lock, f"the download of {name!r} into {cache}", wait=_LONGEST_WAIT):
            if not folder.is_dir():  # else the process that was waited for has done it
                _get(source, folder, progress, retries)
    return _find(folder, source)


def _get(source, folder, progress, retries) -> None:
    archive = _download(source, folder.parent, progress, retries)
    try:
        _unpack(archive, folder, source)
    except DownloadError:
        archive.unlink(missing_ok=True)  # so that the next call downloads it again
        raise


def _download(source, cache, progress, retries) -> Path:
    import pooch  # takes a while

    def check(answer, **_):
        """Called when the header is there, and nothing of the body has been read."""
        status = answer.status_code
        if 400 <= status < 500 and status not in (408, 429):  # which no retry would change
            raise DownloadError(f"{source.url}: the server answered {status} {answer.reason}.")
        if answer.ok and not answer.is_redirect:
            length = answer.headers.get("Content-Length", "")
            # urllib3 reads so many bytes and no more, except from an answer in chunks.
            if "Transfer-Encoding" in answer.headers or not length.isdigit():
                raise DownloadError(f"{source.url}: the server must announce the file's size.")
            if source.size not in (None, int(length)):
                raise DownloadError(
                    f"{source.url} must have {source.size} bytes, as published. "
                    f"Received: {length} bytes."
                )
            if int(length) > source.limit:
                raise DownloadError(
                    f"{source.url} must have at most {source.limit} bytes. "
                    f"Received: {length} bytes."
                )
            # `requests` would decode the body, and so undo the bound.
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(f"{source.url}: the server sent an encoding not asked for.")

    pooch.get_logger().setLevel("WARNING")
    file = PurePosixPath(source.url).name
    files = pooch.create(
        path=cache,
        base_url="",
        registry={file: source.sha256},
        urls={file: source.url},
        retry_if_failed=retries,
    )
    downloader = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=2**16,
        headers={"Accept-Encoding": "identity"},
        hooks={"response": check},
    )
    try:
        return Path(files.fetch(file, downloader=downloader))
    except DownloadError:
        raise
    except (OSError, ValueError) as error:
        raise DownloadError(f"{source.url} could not be downloaded: {error}") from error


# What `zipfile` raises for archives that are broken, or not what they say.
_UNZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError),
    *(struct.error, LookupError, TypeError, MemoryError),
)


def _unpack(archive, folder, source) -> None:
    """Unpacks a zip archive into a new folder, which appears when all of it is there."""
    import pooch

    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as scratch:
        scratch = Path(scratch) / folder.name
        try:
            with zipfile.ZipFile(archive) as file:
                members = file.infolist()
                if len(members) > _MOST_FILES:
                    raise DownloadError(
                        f"{archive} must hold at most {_MOST_FILES} files. Received: "
                        f"{len(members)} files."
                    )
                size = sum(member.file_size for member in members)
                if size > source.limit:
                    raise DownloadError(
                        f"{archive}: its files must have at most {source.limit} bytes. "
                        f"Received: {size} bytes."
                    )
                # The others decompress as much as they hold, whatever the size that is stated.
                known = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
                if {member.compress_type for member in members} - known:
                    raise DownloadError(f"{archive}: its files must be deflated or stored.")
                file.extractall(scratch)  # never outside of `scratch`, whatever the names
        except _UNZIP_ERRORS as error:
            no_space = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if no_space or isinstance(error, DownloadError):
                raise
            raise DownloadError(f"{archive} could not be unpacked: {error}") from error
        found = _find(scratch, source)
        for name, published in (source.members or {}).items():
            received = pooch.file_hash(found / name)
            if received != published:
                raise DownloadError(
                    f"{archive}: the SHA-256 of {name!r} must be {published}, as published. "
                    f"Received: {received}."
                )
        try:
            os.replace(scratch, folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise


def _find(folder, source) -> Path:
    """The folder nearest to `folder` that holds the files of `source`."""
    names = [*source.holds, *(source.members or ())]
    for file in sorted(folder.rglob(names[0]), key=lambda path: len(path.parts)):
        if all((file.parent / name).is_file() for name in names):
            return file.parent
    raise DownloadError(f"{folder} must hold {', '.join(names)} in one folder.")
