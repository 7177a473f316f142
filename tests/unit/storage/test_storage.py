"""`matchmaking.storage` on local paths; with real S3 and GCS servers it is tested in tests/services."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from matchmaking import storage
from matchmaking.base.errors import InputError, MlopsError
from tests.storage_fixtures import FILES, names


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
