"""`matchmaking.storage` over HTTP: outages, redirects, and what is no file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.storage import operations, web
from tests.storage_fixtures import FILES, names


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
