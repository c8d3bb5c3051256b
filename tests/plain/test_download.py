"""Downloads from a local HTTP server that misbehaves in the ways real ones do."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import re
import subprocess
import sys
import threading
import zipfile

import pytest

from scripts import download
from scripts.download import DownloadError, Source, get

MB = 1 << 20


def make_zip(files, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FILES = {"data/a.json": b"a" * 99, "data/b.json": b"b", "__MACOSX/data/._a.json": b"x"}
ZIP = make_zip(FILES)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; the other attributes say how."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.headers = ZIP, {}
        self.announce = True  # whether Content-Length is sent
        self.endless = False  # whether `body` is sent again and again
        self.drops = []  # how many bytes to send in each of the next answers
        self.statuses = []  # codes to answer next, before anything else
        self.requests = []  # the headers of each request
        self.sent = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        self.send_response(200)
        if server.announce:
            self.send_header("Content-Length", str(len(server.body)))
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(server.body[: server.drops.pop(0) if server.drops else None])
        while server.endless and server.sent < 64 * MB:  # until the client has had enough
            server.sent += self.wfile.write(bytes(MB))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        monkeypatch.setitem(download.SOURCES, "it", Source(server.url, ("a.json", "b.json")))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """`get` from the server, with other fields of the `Source`."""

    def fetch(retries=0, **fields):
        source = download.SOURCES["it"]._replace(**fields)
        monkeypatch.setitem(download.SOURCES, "it", source)
        return get("it", tmp_path / "cache", progress=False, retries=retries)

    return fetch


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_is_downloaded_and_unpacked_once(server, fetch, tmp_path):
    folder = fetch(size=len(ZIP), sha256=sha256(ZIP), members={"a.json": sha256(b"a" * 99)})
    assert (folder / "a.json").read_bytes() == b"a" * 99
    assert names(tmp_path / "cache") == ["file.zip", "it"]
    assert fetch() == folder
    assert [request["Accept-Encoding"] for request in server.requests] == ["identity"]


def test_an_archive_with_another_checksum_is_downloaded_again(server, fetch, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file.zip").write_bytes(make_zip({"a.json": b"", "b.json": b""}))
    assert (fetch(sha256=sha256(ZIP)) / "b.json").read_bytes() == b"b"


def test_a_failed_transfer_is_repeated_and_leaves_nothing(server, fetch, tmp_path):
    server.drops = [len(ZIP) // 2] * 2
    with pytest.raises(DownloadError, match=r"file\.zip could not be downloaded"):
        fetch()
    assert names(tmp_path / "cache") == []
    server.statuses = [503]
    fetch(retries=2)
    assert len(server.requests) == 1 + 3
    assert names(tmp_path / "cache") == ["file.zip", "it"]


@pytest.mark.parametrize(
    "fields, changes, problem",
    [
        ({"sha256": "0" * 64}, {}, "does not match the known hash"),
        ({"size": 7}, {}, f"must have 7 bytes, as published. Received: {len(ZIP)} bytes"),
        ({"limit": 99}, {}, r"must have at most 99 bytes"),
        ({}, {"statuses": [404]}, "the server answered 404 Not Found"),
        ({}, {"announce": False, "endless": True}, "must announce the file's size"),
        (
            {},
            {"body": gzip.compress(bytes(MB)), "headers": {"Content-Encoding": "gzip"}},
            "an encoding not asked for",
        ),
        ({"url": "file-without-address"}, {}, "file-without-address could not be downloaded"),
        ({"url": "http://127.0.0.1:9/file.zip"}, {}, "could not be downloaded"),
    ],
)
def test_refused_before_anything_is_kept(server, fetch, tmp_path, fields, changes, problem):
    vars(server).update(changes)
    with pytest.raises(DownloadError, match=problem) as error:
        fetch(**fields)
    assert "\n" not in str(error.value)
    assert names(tmp_path / "cache") == []


def test_bytes_beyond_the_announced_size_are_not_read(server, fetch):
    server.endless = True
    assert (fetch() / "b.json").read_bytes() == b"b"
    assert server.sent < 64 * MB


def broken(change):
    content = bytearray(ZIP)
    content[content.index(b"PK\x01\x02", 1) - 5] ^= change
    return bytes(content)


TWICE = make_zip({"a.json": b"right", "x/a.json": b"wrong", "x/b.json": b""})


@pytest.mark.parametrize(
    "body, fields, problem",
    [
        (ZIP[: len(ZIP) // 2], {}, "could not be unpacked"),
        (b"", {}, "could not be unpacked"),
        (ZIP.replace(b"PK\x03\x04", b"PK\x03\x05", 1), {}, "could not be unpacked"),
        (broken(1), {}, "could not be unpacked"),
        (make_zip({"a.json/b.json": b"", "a.json": b""}), {}, "could not be unpacked"),
        (make_zip({"a.json": b""}), {}, r"must hold a\.json, b\.json in one folder"),
        (ZIP, {"members": {"c.json": "0" * 64}}, r"must hold a\.json, b\.json, c\.json"),
        (ZIP, {"members": {"a.json": "0" * 64}}, r"SHA-256 of 'a\.json' must be 000"),
        # The file that is used is the one that is checked, not another of its name.
        (TWICE, {"members": {"a.json": sha256(b"right")}}, r"SHA-256 of 'a\.json' must be"),
        (make_zip({"a.json": bytes(4 * MB), "b.json": b""}), {"limit": MB}, "must have at most"),
        (make_zip(FILES, zipfile.ZIP_LZMA), {}, "must be deflated or stored"),
    ],
)
def test_an_archive_that_is_refused_is_not_kept(server, fetch, tmp_path, body, fields, problem):
    server.body = body
    with pytest.raises(DownloadError, match=problem) as error:
        fetch(**fields)
    assert "\n" not in str(error.value)
    assert names(tmp_path / "cache") == []


def test_an_archive_that_states_less_than_it_holds(server, fetch, tmp_path):
    """What is written is bounded by what is stated, and the CRC is wrong then."""
    size = (4 * MB).to_bytes(4, "little")
    server.body = make_zip({"a.json": bytes(4 * MB), "b.json": b""}).replace(size, b"\1\0\0\0")
    with pytest.raises(DownloadError, match="could not be unpacked"):
        fetch(limit=MB)
    assert names(tmp_path / "cache") == []


@pytest.mark.parametrize("name", ["../../c", "/c", "/../c", "data/../../../c"])
def test_nothing_is_written_outside_of_the_folder(server, fetch, tmp_path, name):
    server.body = make_zip({**FILES, name: b"c"})
    fetch()
    assert names(tmp_path) == ["cache"]
    assert names(tmp_path / "cache") == ["file.zip", "it"]


def test_a_link_in_an_archive_is_a_plain_file(server, fetch):
    link = zipfile.ZipInfo("data/link")
    link.external_attr = 0o120777 << 16
    server.body = make_zip({**FILES, link: b"/etc/passwd"})
    path = fetch() / "link"
    assert not path.is_symlink() and path.read_bytes() == b"/etc/passwd"


def test_two_downloads_into_one_cache(server, fetch, tmp_path):
    code = (
        "import sys; from scripts import download as d\n"
        "d.SOURCES['it'] = d.Source(sys.argv[1], ('a.json', 'b.json'))\n"
        "print((d.get('it', sys.argv[2], progress=False) / 'b.json').read_text())"
    )
    command = [sys.executable, "-c", code, server.url, str(tmp_path / "cache")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [run.communicate(timeout=60)[0] for run in runs] == ["b\n"] * 4
    assert len(server.requests) == 1  # the others waited for the first
    assert names(tmp_path / "cache") == ["file.zip", "it"]


def test_progress_bar(server, tmp_path, capsys):
    get("it", tmp_path / "cache")
    assert "100%" in capsys.readouterr().err


def test_sources_are_the_official_homes():
    for known in download.SOURCES.values():
        assert known.url.startswith("https://storage.googleapis.com/")
        for digest in [known.sha256, *(known.members or {}).values()]:
            assert digest is None or re.fullmatch("[0-9a-f]{64}", digest)
    json.dumps(download.SOURCES)
