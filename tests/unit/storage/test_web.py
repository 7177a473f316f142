"""`matchmaking.storage` on local paths and over HTTP; with real S3 and GCS servers it is tested in tests/services."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from matchmaking import storage
from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.redact import redact
from matchmaking.storage import limits, operations, s3, web

FILES = ("lawyer_match_model.h5", "encoder.pkl", "scaler.pkl")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "plots").mkdir(parents=True)
    for name in (*FILES, "manifest.json", "plots/roc.png"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST_WAIT": 0.05, "TRIES": 3, "CONNECT_SECONDS": 0.5, "READ_SECONDS": 0.5}.items():
        monkeypatch.setattr(limits, name, value)


class Site(SimpleHTTPRequestHandler):
    """Serves a folder. `faults` says what goes wrong in the next requests: a status to answer, or "cut" or "stall"."""

    faults: list[int | str] = []  # noqa: RUF012
    # by path, where a request is sent on to
    moved: dict[str, str] = {}  # noqa: RUF012
    seen: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        fault = self.faults.pop(0) if self.faults else None
        if self.path in self.moved:
            self.send_response(302)
            self.send_header("Location", self.moved[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif isinstance(fault, int):
            self.send_error(fault)
        elif fault:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.wfile.flush()
            time.sleep(1 if fault == "stall" else 0)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an HTTP server for the folder `site`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "site").mkdir()
    Site.faults, Site.seen, Site.moved = [], [], {}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(tmp_path / "site"))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_import_is_cheap() -> None:
    code = "import sys, matchmaking.storage; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"boto3", "botocore", "google.cloud.storage", "requests", "tenacity", "pandas"} & set(loaded)


@pytest.mark.parametrize("prefix", ["", "file://", "file://localhost"])
def test_download_local(tmp_path: Path, prefix: str) -> None:
    source = tmp_path / "some pairs.csv"
    source.write_bytes(b"a,b\n")
    source.chmod(0o400)
    name = str(source).replace(" ", "%20") if prefix else str(source)
    storage.download(prefix + name, tmp_path / "new" / "raw.csv")
    assert names(tmp_path / "new") == ["raw.csv"]
    with (tmp_path / "new" / "raw.csv").open("ab") as copy:
        copy.write(b"1,2\n")
    assert source.read_bytes() == b"a,b\n"


def test_download_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv doesn't exist"):
        storage.download(str(tmp_path / "none.csv"), tmp_path / "raw.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder is a folder"):
        storage.download(str(tmp_path / "folder"), tmp_path / "raw.csv")
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("uri", ["ftp://host/pairs.csv", "file://host/pairs.csv", "S4://bucket/key"])
def test_unknown_uris(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=uri):
        storage.download(uri, tmp_path / "raw.csv")


def test_bundle_local(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    assert storage.download_bundle(str(package), FILES, target) is True
    assert sorted(names(target)) == sorted(FILES)
    assert storage.hash_bundle(f"{package}/", FILES) == {
        name: hashlib.sha256(name.encode()).hexdigest() for name in FILES
    }
    (package / FILES[0]).unlink()
    assert set(storage.hash_bundle(str(package), FILES)) == set(FILES[1:])
    with pytest.raises(InputError, match=f"{FILES[0]} is missing"):
        storage.download_bundle(str(package), FILES, target)
    (tmp_path / "empty").mkdir()
    assert storage.download_bundle(str(tmp_path / "empty"), FILES, target) is False
    with pytest.raises(InputError, match="no such folder"):
        storage.download_bundle(str(tmp_path / "none"), FILES, target)
    assert storage.hash_bundle(str(tmp_path / "none"), FILES) == {}


def test_publish_local(package: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "candidates" / "v1")
    assert storage.publish(package, uri) == uri
    expected = sorted((*FILES, "manifest.json", "plots/roc.png"))
    assert storage.list_names(uri) == expected
    assert storage.list_names(str(tmp_path / "candidates")) == [f"v1/{name}" for name in expected]
    (package / FILES[0]).write_bytes(b"other")
    with pytest.raises(InputError, match="exists already"):
        storage.publish(package, uri)
    assert (Path(uri) / FILES[0]).read_bytes() == FILES[0].encode()
    assert names(tmp_path / "candidates") == ["v1"]


def test_publish_local_fails_whole(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str) -> None:
        if source.endswith(".pkl"):
            raise OSError(28, "No space left on device")
        Path(target).write_bytes(b"")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(MlopsError, match=r"v1 can't be written: .*No space left") as told:
        storage.publish(package, str(tmp_path / "candidates" / "v1"))
    assert told.value.exit_code == 1
    assert names(tmp_path / "candidates") == []


def test_publish_is_on_the_disk_before_it_has_its_name(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    fsync, rename = os.fsync, Path.rename

    def noted(what: str, inode: int) -> None:
        done.append((what, inode))

    monkeypatch.setattr(os, "fsync", lambda file: (noted("fsync", os.fstat(file).st_ino), fsync(file)))
    monkeypatch.setattr(Path, "rename", lambda path, to: (noted("rename", path.stat().st_ino), rename(path, to)))
    storage.publish(package, str(tmp_path / "candidates" / "v1"))
    target = tmp_path / "candidates" / "v1"
    renamed = done.index(("rename", target.stat().st_ino))
    inodes = {path.stat().st_ino for path in (*target.rglob("*"), target)}
    assert {("fsync", inode) for inode in inodes} <= set(done[:renamed])
    assert ("fsync", target.parent.stat().st_ino) in done[renamed:]


class Slow:
    """An S3 server that takes a body byte by byte, or answers with errors first."""

    def __init__(self, *answers: bytes, byte_seconds: float = 0.0) -> None:
        self.answers, self.byte_seconds = list(answers), byte_seconds
        self.taken = self.requests = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.endpoint = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            with client:
                self.requests += 1
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(65536)
                head, _, body = head.partition(b"\r\n\r\n")
                length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
                if b"100-continue" in head:
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                got = len(body)
                while got < length:
                    if self.byte_seconds:
                        time.sleep(self.byte_seconds)
                    data = client.recv(4096 if self.byte_seconds else 65536)
                    if not data:
                        break
                    got += len(data)
                    self.taken = got
                if self.answers:
                    client.sendall(self.answers.pop(0))


def s3_answer(status: str, code: str = "", etag: str = "") -> bytes:
    body = f"<Error><Code>{code}</Code><Message>why</Message></Error>".encode() if code else b""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"{head}{f'ETag: {etag}' if etag else 'X: y'}\r\n\r\n".encode() + body


@pytest.fixture
def s3_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    pytest.importorskip("boto3")

    def use(endpoint: str) -> None:
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret-0123456789",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize("code", ["RequestTimeout", "BadDigest"])
def test_what_s3_means_as_again_is_tried_again(impatient: None, s3_at: Callable[[str], None], code: str) -> None:
    etag = f'"{hashlib.md5(b"1").hexdigest()}"'
    slow = Slow(s3_answer("400 Bad Request", code), s3_answer("200 OK", etag=etag))
    s3_at(slow.endpoint)
    assert storage.replace_bytes("s3://bucket/name", b"1", None) == etag
    assert slow.requests == 2
    slow.server.close()


def test_what_s3_means_as_final_is_final(impatient: None, s3_at: Callable[[str], None]) -> None:
    slow = Slow(s3_answer("400 Bad Request", "InvalidArgument"))
    s3_at(slow.endpoint)
    with pytest.raises(storage.StorageError, match="InvalidArgument"):
        storage.replace_bytes("s3://bucket/name", b"1", None)
    assert slow.requests == 1
    slow.server.close()


def test_past_its_deadline_an_upload_stops(s3_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was told that it failed must not find it done later."""
    monkeypatch.setattr(limits, "TOTAL_SECONDS", 1.5)
    slow = Slow(byte_seconds=0.02)
    s3_at(slow.endpoint)
    # making a client takes its time, too, and is kept
    s3.S3("s3://bucket/name")
    with pytest.raises(storage.StorageError, match="it is too slow; gave up after"):
        storage.replace_bytes("s3://bucket/name", b"x" * 20_000_000, None)
    # what has left this process by then, some buffers full, arrives; nothing follows
    slow.byte_seconds = 0
    taken = -1
    while slow.taken > taken:
        taken = slow.taken
        time.sleep(1)
    assert 0 < taken < 20_000_000
    assert slow.requests == 1
    slow.server.close()


def test_list_names_passes_over_unfinished_copies(tmp_path: Path) -> None:
    (tmp_path / ".v1.0123abcd").mkdir()
    (tmp_path / ".v1.0123abcd" / "model").touch()
    (tmp_path / "v0").touch()
    assert storage.list_names(str(tmp_path)) == ["v0"]
    assert storage.list_names(str(tmp_path / "none")) == []


def test_replace_local(tmp_path: Path) -> None:
    uri = str(tmp_path / "state" / "current.json")
    assert storage.read_bytes(uri) is None
    first = storage.replace_bytes(uri, b"1", None)
    assert storage.read_bytes(uri) == (b"1", first)
    with pytest.raises(storage.ConflictError, match="exists already; nothing was written"):
        storage.replace_bytes(uri, b"2", None)
    second = storage.replace_bytes(uri, b"2", first)
    with pytest.raises(storage.ConflictError, match="has changed since it was read; nothing was written"):
        storage.replace_bytes(uri, b"3", first)
    assert storage.read_bytes(uri) == (b"2", second)
    Path(uri).unlink()
    with pytest.raises(storage.ConflictError):
        storage.replace_bytes(uri, b"3", second)
    assert names(tmp_path / "state") == []


@pytest.mark.parametrize("exists", [True, False])
def test_of_local_writers_with_one_token_one_wins(tmp_path: Path, exists: bool) -> None:
    for attempt in range(20):
        uri = str(tmp_path / f"{attempt}.json")
        token = storage.replace_bytes(uri, b"old", None) if exists else None
        barrier = threading.Barrier(4)
        won: list[bytes] = []

        def write(data: bytes, uri: str = uri, barrier: threading.Barrier = barrier, won: list[bytes] = won) -> None:
            barrier.wait()
            try:
                storage.replace_bytes(uri, data, token)  # noqa: B023
            except storage.ConflictError:
                return
            won.append(data)

        threads = [threading.Thread(target=write, args=(f"writer {index}".encode(),)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [storage.read_bytes(uri)[0]] == won


def test_download_web(site: str, tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    (tmp_path / "site" / "pairs.csv").write_bytes(content)
    storage.download(f"{site}/pairs.csv", tmp_path / "raw.csv")
    assert (tmp_path / "raw.csv").read_bytes() == content
    with pytest.raises(InputError, match=r"none\.csv doesn't exist"):
        storage.download(f"{site}/none.csv", tmp_path / "other.csv")
    with pytest.raises(InputError, match="gives a web page, not a file"):
        storage.download(site, tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


def test_size(site: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "pairs.csv").write_bytes(b"x" * 1234)
    Site.moved["/moved.csv"] = "/pairs.csv"
    for uri in (str(tmp_path / "site" / "pairs.csv"), f"{site}/pairs.csv", f"{site}/moved.csv"):
        assert storage.size(uri) == 1234
    for uri in (str(tmp_path / "none.csv"), f"{site}/none.csv"):
        with pytest.raises(InputError, match="isn't there"):
            storage.size(uri)


def test_bundle_web(site: str, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / "site" / name).write_bytes(name.encode())
    assert storage.download_bundle(site, FILES, tmp_path / "copy") is True
    assert storage.hash_bundle(site, FILES) == storage.hash_bundle(str(tmp_path / "copy"), FILES)
    assert storage.read_bytes(f"{site}/{FILES[0]}")[0] == FILES[0].encode()
    with pytest.raises(InputError, match="no such folder"):
        storage.download_bundle(f"{site}/none", FILES, tmp_path / "copy")


def test_web_is_for_reading(site: str, package: Path) -> None:
    for call in (
        lambda: storage.publish(package, f"{site}/v1"),
        lambda: storage.replace_bytes(f"{site}/v1", b"", None),
        lambda: storage.list_names(site),
    ):
        with pytest.raises(InputError, match="only single files can be read here"):
            call()
    assert Site.seen == []


@pytest.mark.parametrize("fault", [503, 429, "cut", "stall"])
def test_web_outage_is_waited_for(site: str, tmp_path: Path, impatient: None, fault: int | str) -> None:
    (tmp_path / "site" / "pairs.csv").write_bytes(b"whole")
    Site.faults = [fault, fault]
    storage.download(f"{site}/pairs.csv", tmp_path / "raw.csv")
    assert (tmp_path / "raw.csv").read_bytes() == b"whole"
    assert len(Site.seen) == 3


@pytest.mark.parametrize("fault", [500, "cut", "stall"])
def test_web_outage_ends(site: str, tmp_path: Path, impatient: None, fault: int | str) -> None:
    (tmp_path / "raw.csv").write_bytes(b"old")
    Site.faults = [fault] * 9
    start = time.monotonic()
    with pytest.raises(
        storage.StorageError, match=r"^http://\*\*\*@127\.0\.0\.1:\d+/pairs\.csv can't be read: .+; gave up"
    ):
        storage.download(site.replace("//", "//me:my-password@") + "/pairs.csv", tmp_path / "raw.csv")
    assert time.monotonic() - start < 5
    assert len(Site.seen) == 3
    assert all(header and header.startswith("Basic ") for header in Site.seen)
    assert (tmp_path / "raw.csv").read_bytes() == b"old"
    assert sorted(names(tmp_path)) == ["raw.csv", "site"]


def test_a_redirect_on_the_same_host_is_followed(site: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "pairs.csv").write_bytes(b"whole")
    Site.moved = {"/a": "b", "/b": f"{site}/pairs.csv"}
    storage.download(f"{site}/a", tmp_path / "raw.csv")
    assert (tmp_path / "raw.csv").read_bytes() == b"whole"
    Site.moved = {"/a": "/b", "/b": "/a"}
    with pytest.raises(InputError, match="from one address to the next"):
        storage.download(f"{site}/a", tmp_path / "raw.csv")


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://10.0.0.1/pairs.csv",
        "http://2130706434/pairs.csv",
        "http://127.0.0.2:PORT/pairs.csv",
        "http://localhost:PORT/pairs.csv",
        "//localhost:PORT/pairs.csv",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("first", ["/a", "/b"])
def test_a_redirect_into_a_network_is_refused(site: str, tmp_path: Path, target: str, first: str) -> None:
    """As the first hop or a later one, by address or by name."""
    (tmp_path / "site" / "pairs.csv").write_bytes(b"secret")
    port = site.rpartition(":")[2]
    Site.moved = {"/a": "/b", "/b": target.replace("PORT", port)}
    with pytest.raises(InputError, match="leads to"):
        storage.download(f"{site}{first}", tmp_path / "raw.csv")
    assert not (tmp_path / "raw.csv").exists()
    assert len(Site.seen) == (2 if first == "/a" else 1)


def test_a_name_that_changes_its_address_is_refused(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is connected to counts, not what the name stood for when it was looked up."""
    (tmp_path / "site" / "pairs.csv").write_bytes(b"secret")
    Site.moved = {"/a": site.replace("127.0.0.1", "localhost") + "/pairs.csv"}
    monkeypatch.setattr(web, "_must_be_public", lambda host, uri: None)
    with pytest.raises(InputError, match=r"leads to localhost \((127\.0\.0\.1|::1)\)"):
        storage.download(f"{site}/a", tmp_path / "raw.csv")
    assert len(Site.seen) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_web_denied(site: str, tmp_path: Path, status: int) -> None:
    Site.faults = [status]
    with pytest.raises(InputError, match=r"pairs\.csv\?X-Amz-Signature=\*\*\*: access denied") as denied:
        storage.download(f"{site}/pairs.csv?X-Amz-Signature=abcdef", tmp_path / "raw.csv")
    assert "abcdef" not in str(denied.value)
    assert len(Site.seen) == 1


def test_disk_full(site: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "pairs.csv").write_bytes(b"x" * 100_000)
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb") as full:
        operations._open(f"{site}/pairs.csv").fetch(full)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:pass@host/x and s3://k:s@b", "http://***@host/x and s3://***@b"),
        ("postgresql://user:p@ss@host/db", "postgresql://***@host/db"),
        (
            "https://h/x?a=1&X-Amz-Credential=abc%2F&X-Goog-Signature=d",
            "https://h/x?a=1&X-Amz-Credential=***&X-Goog-Signature=***",
        ),
        ("https://h/x?access_token=abc&b=2", "https://h/x?access_token=***&b=2"),
        ("https://h/x?sv=1&sig=abc", "https://h/x?sv=1&sig=***"),
        ("the key is a-long-secret, isn't it", "the key is ***, isn't it"),
        ("s3://bucket/v1 can't be read", "s3://bucket/v1 can't be read"),
    ],
)
def test_redact(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-long-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "is")
    assert redact(text) == expected
