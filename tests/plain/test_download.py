"""Downloads against a local HTTP server that misbehaves in the ways real ones do."""

import base64
import functools
import hashlib
import http.server
import io
import json
import random
import re
import threading
import zipfile

import pytest

from bert_of_theseus import download
from bert_of_theseus.download import DownloadError, Source, fetch, get, unpack

BODY = random.Random(0).randbytes(300_000)
PIECE = 5 * download._CHUNK
SHA256 = hashlib.sha256(BODY).hexdigest()
GOOGLE_MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()


def make_zip(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; the other attributes say how."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.headers = BODY, '"one"', {}
        self.ranges = True  # Whether Range is honoured.
        self.announce = True  # Whether Content-Length is sent.
        self.drops = []  # How many bytes to send in each of the next answers.
        self.statuses = []  # Codes to answer next, before anything else.
        self.requests = []  # The Range header of each request.

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start, size = 0, len(server.body)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(asked[1])
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            self.send_response(200)
        if server.announce:
            self.send_header("Content-Length", str(size - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        count = server.drops.pop(0) if server.drops else None
        self.wfile.write(server.body[start:][:count])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with Server() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_whole_file(server, tmp_path):
    path = fetch(server.url, tmp_path / "file", size=len(BODY), sha256=SHA256, progress=False)
    assert path.read_bytes() == BODY
    assert names(tmp_path) == ["file"]


def test_existing_file_is_not_fetched_again_unless_it_is_another(server, tmp_path):
    (tmp_path / "file").write_bytes(BODY)
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert server.requests == []
    (tmp_path / "file").write_bytes(b"something else")
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert (tmp_path / "file").read_bytes() == BODY


def test_broken_transfer_is_resumed(server, tmp_path):
    server.drops = [PIECE, 2 * PIECE]
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests == [None, f"bytes={PIECE}-", f"bytes={3 * PIECE}-"]
    assert names(tmp_path) == ["file"]


def test_broken_transfer_is_resumed_by_a_later_call(server, tmp_path):
    server.drops = [PIECE, 0]
    with pytest.raises(DownloadError, match=f"after {PIECE} bytes"):
        fetch(server.url, tmp_path / "file", attempts=1, progress=False)
    assert names(tmp_path) == ["file.part", "file.part.json"]
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests[-1] == f"bytes={PIECE}-"
    assert names(tmp_path) == ["file"]


def test_server_without_ranges_is_asked_from_the_start(server, tmp_path):
    server.ranges, server.drops = False, [PIECE]
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_validator_nothing_is_resumed(server, tmp_path, etag):
    server.etag, server.drops = etag, [PIECE]
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests == [None, None]


def test_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    server.drops = [PIECE, 0]
    with pytest.raises(DownloadError):
        fetch(server.url, tmp_path / "file", attempts=1, progress=False)
    server.body, server.etag = BODY[::-1] + b"more", '"two"'
    fetch(server.url, tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_bytes() == server.body


def test_all_bytes_but_the_final_name(server, tmp_path):
    # A process that died between the last byte and the renaming.
    server.drops = [PIECE, 0]
    with pytest.raises(DownloadError):
        fetch(server.url, tmp_path / "file", attempts=1, progress=False)
    (tmp_path / "file.part").write_bytes(BODY)
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert (tmp_path / "file").read_bytes() == BODY


def test_unfinished_file_of_unknown_origin_is_dropped(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"from somewhere else")
    fetch(server.url, tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_bytes() == BODY


def test_damaged_half_is_not_kept(server, tmp_path):
    server.drops = [PIECE, 0]
    with pytest.raises(DownloadError):
        fetch(server.url, tmp_path / "file", attempts=1, progress=False)
    (tmp_path / "file.part").write_bytes(bytes(PIECE))
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests[-2:] == [f"bytes={PIECE}-", None]


def test_wrong_checksum(server, tmp_path):
    with pytest.raises(DownloadError, match=r"its sha256 is .*, published is 000"):
        fetch(server.url, tmp_path / "file", sha256="0" * 64, progress=False)
    assert names(tmp_path) == []


def test_google_checksum(server, tmp_path):
    server.headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={GOOGLE_MD5}"}
    fetch(server.url, tmp_path / "file", progress=False)
    server.body = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(DownloadError, match="its md5 is"):
        fetch(server.url, tmp_path / "other", progress=False)
    assert names(tmp_path) == ["file"]


def test_wrong_size_is_refused_before_the_transfer(server, tmp_path):
    with pytest.raises(DownloadError, match=r"should have 7 bytes.*has 300000"):
        fetch(server.url, tmp_path / "file", size=7, progress=False)
    assert names(tmp_path) == []


def test_wrong_size_without_an_announcement(server, tmp_path):
    server.announce, server.etag = False, None
    server.drops = [200_000] * 9
    with pytest.raises(DownloadError, match="bytes"):
        fetch(server.url, tmp_path / "file", size=len(BODY), attempts=2, progress=False)
    assert "file" not in names(tmp_path)


def test_address_that_does_not_exist(server, tmp_path):
    server.statuses = [404] * 9
    with pytest.raises(DownloadError, match="404"):
        fetch(server.url, tmp_path / "file", progress=False)
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_server_that_is_busy_for_a_while(server, tmp_path):
    server.statuses = [503, 500, 429]
    fetch(server.url, tmp_path / "file", sha256=SHA256, progress=False)
    assert len(server.requests) == 4
    server.statuses = [503] * 99
    with pytest.raises(DownloadError, match="503"):
        fetch(server.url, tmp_path / "other", progress=False)


def test_no_server(tmp_path, server):
    with pytest.raises(DownloadError, match="ConnectionError"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file", attempts=2, progress=False)
    with pytest.raises(DownloadError, match=r"No connection adapters|scheme"):
        fetch("file-without-address", tmp_path / "file", progress=False)
    assert names(tmp_path) == []


def test_progress_bar_starts_where_the_transfer_does(server, tmp_path, capsys):
    server.drops = [PIECE]
    fetch(server.url, tmp_path / "file")
    bars = capsys.readouterr().err
    assert f"file:  {100 * PIECE // len(BODY)}%" in bars
    assert "file: 100%" in bars


FILES = {"data/a.json": b"a", "data/b.json": b"b", "__MACOSX/data/._a.json": b"x"}
ZIP = make_zip(FILES)


def source(server, **changes):
    return Source(url=server.url, holds=("a.json", "b.json"), **changes)


def test_get_unpacks_once(server, tmp_path, monkeypatch):
    server.body = ZIP
    members = {"a.json": hashlib.sha256(b"a").hexdigest()}
    monkeypatch.setitem(download.SOURCES, "it", source(server, members=members))
    folder = get("it", tmp_path / "cache", progress=False)
    assert (folder / "b.json").read_bytes() == b"b"
    assert names(tmp_path / "cache") == ["file.zip", "it"]
    assert get("it", tmp_path / "cache", progress=False) == folder
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body, members, problem",
    [
        (ZIP[: len(ZIP) // 2], {}, "cannot be unpacked"),
        (ZIP.replace(b"data/b.json", b"../../b.jsn"), {}, "unsafe name"),
        (make_zip({"/etc/a.json": b"a"}), {}, "unsafe name"),
        (make_zip({"C:\\a.json": b"a"}), {}, "unsafe name"),
        (ZIP, {"a.json": "0" * 64}, "sha256 of 'a.json'"),
        (ZIP, {"c.json": "0" * 64}, "should hold 'c.json'"),
    ],
)
def test_get_refuses_a_bad_archive(server, tmp_path, monkeypatch, body, members, problem):
    server.body = body
    monkeypatch.setitem(download.SOURCES, "it", source(server, members=members))
    with pytest.raises(DownloadError, match=problem):
        get("it", tmp_path / "cache", progress=False)
    # Not even the archive stays, so that the next call fetches it anew.
    assert names(tmp_path / "cache") == []
    assert names(tmp_path) == ["cache"]


def test_unpack_checks_each_files_crc(tmp_path):
    content = make_zip({"a": b"0123456789" * 10})
    damaged = bytearray(content)
    damaged[content.index(b"PK\x01\x02") - 5] ^= 1  # The end of the compressed bytes.
    (tmp_path / "file.zip").write_bytes(damaged)
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack(tmp_path / "file.zip", tmp_path / "folder")
    assert names(tmp_path) == ["file.zip"]


def test_unpack_refuses_a_link(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadError, match="unsafe name: 'link'"):
        unpack(tmp_path / "file.zip", tmp_path / "folder")


def test_get_refuses_an_archive_without_the_files(server, tmp_path, monkeypatch):
    server.body = make_zip({"other.json": b""})
    monkeypatch.setitem(download.SOURCES, "it", source(server))
    with pytest.raises(DownloadError, match=r"should hold a\.json, b\.json"):
        get("it", tmp_path, progress=False)


def test_sources_are_the_official_homes():
    for known in download.SOURCES.values():
        assert known.url.startswith("https://storage.googleapis.com/")
        for digest in [known.sha256, *(known.members or {}).values()]:
            assert digest is None or re.fullmatch("[0-9a-f]{64}", digest)
    json.dumps(download.SOURCES)
