"""33 answers of a server, and 430 archives: the files that were published, or one line."""

import hashlib
import itertools
import random
import socket
import threading
import zipfile

import pytest
from damage import KINDS, damaged
from limits import memory_limit
from test_download import make_zip

from scripts import download
from scripts.download import DownloadError, Source, get

FILES = {"data/a.json": bytes(range(256)) * 4, "data/b.json": b"b" * 500}
MB = 1 << 20
ZIP = make_zip(FILES)


class RawServer:
    """Answers each request with the bytes that it is given, whatever they are."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/file.zip"
        self.answer, self.sent = b"", 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                try:
                    connection.recv(MB)
                    for part in [self.answer] if isinstance(self.answer, bytes) else self.answer():
                        connection.sendall(part)
                        self.sent += len(part)
                except OSError:
                    pass  # the client has had enough


@pytest.fixture(scope="module")
def server():
    server = RawServer()
    yield server
    server.socket.close()


@pytest.fixture
def fetched(server, tmp_path, monkeypatch):
    """Whether the published files came; if not, it is one line, and the cache is empty."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    numbers = itertools.count()

    def fetched(answer, **fields):
        server.answer, server.sent = answer, 0
        cache = tmp_path / str(next(numbers))
        source = Source(server.url, ("a.json", "b.json"), limit=4 * MB)._replace(**fields)
        monkeypatch.setitem(download.SOURCES, "it", source)
        try:
            with memory_limit(1):
                folder = get("it", cache, progress=False, retries=0)
        except DownloadError as error:
            assert "\n" not in str(error) and ("file.zip" in str(error) or "it" in str(error))
            left = [path.name for path in cache.rglob("*") if not path.name.startswith(".")]
            assert left == []
            return False
        finally:
            assert server.sent < 64 * MB
            assert [path.name for path in tmp_path.iterdir() if not path.name.isdecimal()] == []
        for name, content in FILES.items():
            assert (folder / name.split("/")[1]).read_bytes() == content
        return True

    return fetched


def http(status="200 OK", body=ZIP, length=None, **headers):
    length = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", *([] if length == "" else [f"Content-Length: {length}"])]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def endless(head, part=bytes(MB)):
    def parts():
        yield head
        for _ in range(64):
            yield part

    return parts


CHUNKED = {"length": "", "Transfer_Encoding": "chunked"}
# 33 answers, and whether the files can come of them.
ANSWERS = {
    "plain": (http(), True),
    "bytes beyond": (http(body=ZIP + b"x" * 99, length=len(ZIP)), True),
    "endless beyond": (endless(http()), True),
    "identity": (http(Content_Encoding="identity"), True),
    "a type that is wrong": (http(Content_Type="text/html"), True),
    "206": (http("206 Partial Content", ZIP[:99]), False),
    **{
        status: (http(status, b"no"), False)
        for status in (
            *("204 No Content", "304 Not Modified", "400 Bad Request"),
            *("403 Forbidden", "404 Not Found", "408 Request Timeout", "410 Gone"),
            *("429 Too Many Requests", "500 Internal Server Error", "503 Unavailable"),
        )
    },
    "redirect to itself": (http("302 Found", b"", Location="/file.zip"), False),
    "redirect to nowhere": (http("302 Found", b"", Location="http://127.0.0.1:9/"), False),
    "redirect to a file": (http("302 Found", b"", Location="file:///etc/passwd"), False),
    "no length": (http(length=""), False),
    "endless without length": (endless(http(length="")), False),
    "endless header": (endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * MB), False),
    "shorter": (http(length=len(ZIP) + 1), False),
    "negative": (http(length=-1), False),
    "no number": (http(length="many"), False),
    "huge": (http(length=10**18), False),
    "gzip": (http(Content_Encoding="gzip"), False),
    "deflate": (http(Content_Encoding="deflate"), False),
    "chunked": (http(body=b"5\r\nabcde\r\n0\r\n\r\n", **CHUNKED), False),
    "chunks without end": (endless(http(body=b"", **CHUNKED), b"100000\r\n" + bytes(MB)), False),
    "chunked and a length": (http(Transfer_Encoding="chunked"), False),
    "nothing": (b"", False),
    "no HTTP": (b"\xff" * 999, False),
}


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_answers(step, fetched, capsys):
    assert len(ANSWERS) == 33
    counts = [0, 0]
    for name, (answer, comes) in list(ANSWERS.items())[::step]:
        assert fetched(answer) == comes, name
        counts[comes] += 1
    with capsys.disabled():
        print(
            f"\n{sum(counts)} answers: {counts[1]} files that were published, {counts[0]} refused"
        )


def stated(content, size):
    """The archive with another size of its first file in the table of contents."""
    place = content.index(b"PK\x01\x02") + 24
    return content[:place] + size.to_bytes(4, "little") + content[place + 4 :]


def archives():
    """430 archives that are not the published one."""
    rng = random.Random(5)
    for number in range(400):
        place, bit = rng.randrange(len(ZIP)), rng.randrange(8)
        yield damaged(ZIP, KINDS[number % 5], place, bit)
    for name in ("../c", "../../c", "/c", "C:\\c", "data/../../c", "c\0d", "c" * 5000, "..", "."):
        yield make_zip({**FILES, name: b"c"})
    for size in (0, 1, 2**31, 2**32 - 1):
        yield stated(ZIP, size)
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED):
        yield make_zip(FILES, compression)
    yield make_zip({**FILES, "bomb": bytes(100 * MB)})
    yield make_zip({**FILES, "bomb": make_zip({"bomb": bytes(100 * MB)})})
    yield make_zip({**FILES, **{f"bomb{n}": bytes(MB) for n in range(8)}})
    yield stated(make_zip({"bomb": bytes(100 * MB), **FILES}), 9)
    yield make_zip({**FILES, **{str(number): b"" for number in range(10_001)}})
    yield make_zip({"data/a.json": FILES["data/a.json"]})
    yield make_zip({"a/a.json": b"", "b/b.json": b""})
    yield make_zip({})
    yield from (b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x1f\x8b" + bytes(99), ZIP + ZIP[:50])
    yield b"x" * 1000 + ZIP


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_archives(step, fetched, capsys):
    """Damage is refused, or in bytes that say nothing, such as times."""
    every = list(archives())
    assert len(every) == 430
    members = {
        name.split("/")[1]: hashlib.sha256(content).hexdigest() for name, content in FILES.items()
    }
    counts = [0, 0]
    for number, content in list(enumerate(every))[::step]:
        checked = {"members": members} if number % 2 else {}
        counts[fetched(http(body=content), **checked)] += 1
    with capsys.disabled():
        print(f"\n{sum(counts)} archives: {counts[0]} refused, {counts[1]} with the right files")
    assert counts[0] > counts[1]
