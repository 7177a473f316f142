"""Folders and patterns: what is in them, on this disk and on an S3 server of a few lines, or why that can't be said."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.data.parts import chosen, dataset_files, fetch_dataset
from matchmaking.live.logs import fetch_log


def files(folder: Path, **content: str) -> Path:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody who may not read everything; root may."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


# -- on this disk


def test_links_are_followed(tmp_path: Path) -> None:
    files(tmp_path, **{"away/b.csv": "22", "away/deep/c.csv": "333", "one.csv": "1", "parts/a.csv": "4444"})
    (tmp_path / "parts" / "linked").symlink_to(tmp_path / "away")
    (tmp_path / "parts" / "z.csv").symlink_to("../one.csv")
    there = {"a.csv": 4, "linked/b.csv": 2, "linked/deep/c.csv": 3, "z.csv": 1}
    assert storage.list_sizes(str(tmp_path / "parts")) == there
    assert storage.matching(f"{tmp_path}/parts/l*/*.csv") == (str(tmp_path / "parts"), {"linked/b.csv": 2})
    fetch_dataset(str(tmp_path / "parts"), tmp_path / "copy")
    assert storage.list_sizes(str(tmp_path / "copy")) == there


@pytest.mark.parametrize("name", ["a.csv", "old", "deep/a.csv"])
def test_a_link_that_leads_nowhere_is_told(tmp_path: Path, name: str) -> None:
    folder = files(tmp_path / "parts", **{"b.csv": "1", "deep/c.csv": "1"})
    for target in ("gone.csv", Path(name).name):
        (folder / name).symlink_to(target)
        with pytest.raises(InputError, match=re.escape(f"{folder / name} is a link that leads nowhere")):
            fetch_dataset(str(folder), tmp_path / "copy")
        (folder / name).unlink()
    pattern = f"{folder}/*/*.csv" if "/" in name else f"{folder}/[ao]*"
    (folder / name).symlink_to("gone.csv")
    with pytest.raises(InputError, match="is a link that leads nowhere"):
        storage.matching(pattern)
    # one that isn't asked for is nobody's trouble
    assert storage.matching(f"{folder}/b*") == (str(folder), {"b.csv": 1})


def test_links_that_nobody_reads_may_lead_nowhere(tmp_path: Path) -> None:
    files(tmp_path, **{"a.csv": "1", "_temporary/b.csv": "1"})
    for name in (".link", "_link", "_temporary/link"):
        (tmp_path / name).symlink_to("gone")
    assert storage.list_names(str(tmp_path)) == ["_temporary/b.csv", "a.csv"]


def test_folders_that_are_one_by_a_link_are_refused(tmp_path: Path) -> None:
    """Be it a loop, or a second name: the same rows would count twice."""
    folder = files(tmp_path / "parts", **{"v1/a.csv": "1"})
    for name, target in (("v1/loop", ".."), ("latest", "v1")):
        (folder / name).symlink_to(target)
        with pytest.raises(InputError, match=r"is the same folder as .*, by a link"):
            storage.list_names(str(folder))
        (folder / name).unlink()
    (folder / "latest").symlink_to("v1")
    assert storage.matching(f"{folder}/v*/*") == (str(folder), {"v1/a.csv": 1})


def test_files_that_are_one_by_a_link_are_refused(tmp_path: Path) -> None:
    """One that only `_` and `.` stand before isn't read a second time, and neither is what a pattern leaves out."""
    folder = files(tmp_path / "parts", **{"part-0.csv": "1", "deep/part-1.csv": "22"})
    files(tmp_path, **{"away/part-2.csv": "333"})
    (folder / "part-2.csv").symlink_to("../away/part-2.csv")
    for name in ("_latest.csv", ".latest.csv"):
        (folder / name).symlink_to("part-0.csv")
    there = {"_latest.csv": 1, "deep/part-1.csv": 2, "part-0.csv": 1, "part-2.csv": 3}
    assert storage.list_sizes(str(folder)) == there
    for name, target in (
        ("latest.csv", "part-0.csv"),
        ("z.csv", "deep/part-1.csv"),
        ("deep/z.csv", "../part-0.csv"),
        ("again.csv", "../away/part-2.csv"),
    ):
        (folder / name).symlink_to(target)
        with pytest.raises(InputError, match=r"is the same file as .*, by a link; it would count twice"):
            fetch_dataset(str(folder), tmp_path / "copy")
        assert storage.matching(f"{folder}/part-*.csv") == (str(folder), {"part-0.csv": 1, "part-2.csv": 3})
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["_current", "_z", "_a/current"])
def test_a_folder_that_nobody_reads_keeps_none_from_being_read(tmp_path: Path, name: str) -> None:
    folder = files(
        tmp_path / "parts", **{"data/a.csv": "1", "data/deep/b.csv": "22", "_a/c.csv": "1", "_a/d/e.csv": ""}
    )
    (folder / name).symlink_to(folder / "data")
    # loops end
    (folder / "_a/loop").symlink_to(".")
    (folder / "_a/d/loop").symlink_to("..")
    (folder / "_loop").symlink_to("..")
    names = storage.list_names(str(folder))
    assert chosen(names, "") == ["data/a.csv", "data/deep/b.csv"]
    assert not any("loop/loop" in each for each in names)
    fetch_dataset(str(folder), tmp_path / "copy")
    assert storage.list_names(str(tmp_path / "copy")) == ["data/a.csv", "data/deep/b.csv"]


def test_a_folder_that_may_not_be_read_is_told() -> None:
    with tempfile.TemporaryDirectory() as name:
        # what is imported late is imported now
        storage.list_names(name)
        folder = files(Path(name), **{"a.csv": "1", "closed/b.csv": "1", "_closed/c.csv": "1"})
        folder.chmod(0o755)
        for closed in ("closed", "_closed"):
            (folder / closed).chmod(0)
        with unprivileged():
            for call in (lambda: storage.list_names(name), lambda: storage.matching(f"{name}/c*/*.csv")):
                with pytest.raises(InputError, match=f"{name}/closed can't be read: Permission denied"):
                    call()
            with pytest.raises(InputError, match=r"closed/b\.csv can't be read: Permission denied"):
                storage.size(f"{name}/closed/b.csv")
            assert storage.matching(f"{name}/*.csv") == (name, {"a.csv": 1})
        (folder / "closed").chmod(0o755)
        with unprivileged():
            assert storage.list_names(name) == ["a.csv", "closed/b.csv"]


@pytest.mark.parametrize("uri", ["{}/**/a.csv", "{}/**", "{}/part**.csv", "file://{}/**/a.csv", "s3://data/**/a.csv"])
def test_two_stars_are_refused(tmp_path: Path, uri: str) -> None:
    files(tmp_path, **{"a.csv": "1", "part-1.csv": "1"})
    with pytest.raises(InputError, match=r"\*\* is no pattern here; give the folder"):
        fetch_dataset(uri.format(tmp_path), tmp_path / "copy")


@pytest.mark.parametrize("uri", ["s3://da*/a.csv", "gs://*", "s*://data/a.csv", "file://local*/a.csv"])
def test_patterns_begin_after_the_bucket(uri: str) -> None:
    with pytest.raises(InputError):
        storage.matching(uri)


def test_file_uris_with_any_character(tmp_path: Path) -> None:
    """A ? is a pattern and a # is itself; what is quoted has no other meaning."""
    folder = files(tmp_path / "a b#1[x]", **{"part-1.csv": "1", "part-2#.csv": "22", "c%20d.csv": "3", "e?.csv": "44"})
    quoted = f"file://{tmp_path}/a%20b%231%5Bx%5D"
    for uri in (quoted, f"file://{tmp_path}/a%20b#1%5Bx%5D/"):
        fetch_dataset(uri, tmp_path / "copy")
        assert storage.list_sizes(str(tmp_path / "copy")) == storage.list_sizes(str(folder))
    assert storage.matching(f"{quoted}/part-?.csv") == (str(folder), {"part-1.csv": 1})
    assert storage.matching(f"{quoted}/part-?%23.csv") == (str(folder), {"part-2#.csv": 2})
    assert storage.matching(f"file://{tmp_path}/a*/e%3F.cs?") == (str(tmp_path), {"a b#1[x]/e?.csv": 2})
    assert storage.size(f"{quoted}/e%3F.csv") == storage.size(f"{quoted}/e?.csv") == 2
    assert storage.join(quoted, "c%20d.csv") == f"{quoted}/c%2520d.csv"
    assert storage.size(storage.join(quoted, "c%20d.csv")) == 1
    with pytest.raises(InputError, match="no file matches"):
        fetch_dataset(f"{quoted}/none-?.csv", tmp_path / "none")


# -- in a bucket


class Objects:
    """An S3 server for one bucket, `data`; notes which prefixes were listed, and can be told to be away."""

    def __init__(self, **objects: bytes) -> None:
        self.objects, self.listed, self.requests, self.away = objects, list[str](), 0, False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                parts = urlsplit(self.path)
                query = parse_qs(parts.query, keep_blank_values=True)
                key = unquote(parts.path).removeprefix("/data").removeprefix("/")
                if outer.away:
                    return self.answer(503, b"<Error><Code>SlowDown</Code><Message>later</Message></Error>")
                if "list-type" in query:
                    (prefix,) = query.get("prefix", [""])
                    outer.listed.append(prefix)
                    found = "".join(
                        f"<Contents><Key>{name}</Key><Size>{len(data)}</Size></Contents>"
                        for name, data in sorted(outer.objects.items())
                        if name.startswith(prefix)
                    )
                    return self.answer(200, f"<ListBucketResult>{found}</ListBucketResult>".encode())
                if key not in outer.objects:
                    return self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")
                data = outer.objects[key]
                end = (self.headers.get("Range") or "").removeprefix("bytes=-")
                return self.answer(206 if end else 200, data[-int(end) :] if end else data)

            do_HEAD = do_GET

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("ETag", '"x"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def bucket(s3_at: Callable[[str], None]) -> Iterator[Objects]:
    store = Objects()
    s3_at(f"http://127.0.0.1:{store.server.server_address[1]}")
    yield store
    store.server.shutdown()
    store.server.server_close()


def test_an_object_that_is_called_like_a_pattern_is_itself(bucket: Objects, tmp_path: Path) -> None:
    bucket.objects = {"y/part[12].csv": b"own", "y/part1.csv": b"1", "y/part2.csv": b"22", "z[1]/a.csv": b"333"}
    fetch_dataset("s3://data/y/part[12].csv", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"own"
    assert dataset_files("s3://data/y/part[12].csv") == ("", {"s3://data/y/part[12].csv": 3})
    assert dataset_files("s3://data/z[1]") == ("s3://data/z[1]", {"a.csv": 3})
    del bucket.objects["y/part[12].csv"]
    assert dataset_files("s3://data/y/part[12].csv") == ("s3://data/y", {"part1.csv": 1, "part2.csv": 2})


def test_of_a_bucket_no_more_is_listed_than_may_match(bucket: Objects) -> None:
    bucket.objects = {"y/part-1.csv": b"1", "y/other.csv": b"1", "x.csv": b"1"}
    assert storage.matching("s3://data/y/part-*.csv") == ("s3://data/y", {"part-1.csv": 1})
    assert storage.matching("s3://data/?/part-1.csv") == ("s3://data", {"y/part-1.csv": 1})
    assert storage.matching("s3://data/x*") == ("s3://data", {"x.csv": 1})
    assert bucket.listed == ["y/part-", "", "x"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("p/a//b.csv", "p/a/b.csv"), "'a//b.csv' and 'a/b.csv' are the same file on a disk"),
        (("p/a//b.csv", "p/c.csv"), "a//b.csv can't be the name of a part on a disk"),
        (("p//b.csv",), "leads out of the folder"),
    ],
)
def test_names_that_a_disk_does_not_hold_are_refused(
    bucket: Objects, tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    bucket.objects = {name: b"x" for name in names}
    with pytest.raises(InputError, match=words):
        fetch_dataset("s3://data/p", tmp_path / "copy")


def test_parts_of_a_log_that_are_one_file_on_a_disk_are_refused(bucket: Objects, tmp_path: Path) -> None:
    """Though several are brought here at a time; those that aren't wanted are in nobody's way."""
    bucket.objects = {name: b"{}" for name in ("p/a//b.jsonl", "p/a/b.jsonl", "p/c.jsonl")}
    with pytest.raises(InputError, match=r"'a//b\.jsonl' and 'a/b\.jsonl' are the same file on a disk"):
        fetch_log("s3://data/p", tmp_path / "copy")
    fetch_log("s3://data/p", tmp_path / "one", lambda name: "//" not in name)
    assert storage.list_names(str(tmp_path / "one")) == ["a/b.jsonl", "c.jsonl"]


@pytest.mark.parametrize("uri", ["s3://data/y/part-*.csv", "s3://data/y", "s3://data/y/a.csv"])
def test_a_store_that_is_away_is_asked_once_for_sizes(bucket: Objects, uri: str) -> None:
    bucket.away = True
    with pytest.raises(storage.StorageError, match="can't be reached"):
        dataset_files(uri)
    assert bucket.requests == 1


def test_the_end_of_a_file(bucket: Objects, tmp_path: Path) -> None:
    bucket.objects = {"a": b"0123456789"}
    (tmp_path / "a").write_bytes(b"0123456789")
    for uri in ("s3://data/a", str(tmp_path / "a"), f"file://{tmp_path}/a"):
        assert storage.read_end(uri, 3) == b"789"
        assert storage.read_end(uri, 30) == b"0123456789"
    for uri in ("s3://data/b", str(tmp_path / "b")):
        with pytest.raises(InputError):
            storage.read_end(uri, 3)
