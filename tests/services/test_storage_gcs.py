"""`matchmaking.storage` on emulators of Google Cloud Storage.

Neither knows credentials, so what a read-only identity may do is shown on S3 alone. gcp-storage-emulator takes no
notice of conditions on a write; fake-gcs-server heeds them in uploads of one request, which the SDK makes up to 8 MiB.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.data.parts import dataset_files, fetch_dataset
from matchmaking.release.store import open_store
from matchmaking.release.store.interface import LOCK

from .conftest import free_ports, race

FILES = ("lawyer_match_model.h5", "encoder.pkl", "scaler.pkl")

conditions = pytest.mark.parametrize("gs", ["fake-gcs-server"], indirect=True)


def put(gs: Any, **objects: bytes) -> None:
    for name, content in objects.items():
        gs.blob(name).upload_from_string(content)


def content(gs: Any) -> dict[str, bytes]:
    return {blob.name: blob.download_as_bytes() for blob in gs.list_blobs()}


def test_download(gs: Any, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    put(gs, **{"year/pairs.csv": data})
    storage.download(f"gs://{gs.name}/year/pairs.csv", tmp_path / "new" / "raw.csv")
    assert (tmp_path / "new" / "raw.csv").read_bytes() == data
    for name, message in (("year/none", "doesn't exist"), ("year", "is a folder"), ("", "is a folder")):
        with pytest.raises(InputError, match=message):
            storage.download(f"gs://{gs.name}/{name}", tmp_path / "raw.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_size(gs: Any) -> None:
    put(gs, **{"year/pairs.csv": b"x" * 1234})
    assert storage.size(f"gs://{gs.name}/year/pairs.csv") == 1234
    with pytest.raises(InputError, match="isn't there"):
        storage.size(f"gs://{gs.name}/none.csv")


def test_a_dataset_in_parts(gs: Any, tmp_path: Path) -> None:
    put(gs, **{"year/part-0.parquet": b"x", "year/part-1.parquet": b"yy", "year/_SUCCESS": b"", "year/old/a.csv": b""})
    fetch_dataset(f"gs://{gs.name}/year/part-*", tmp_path / "some")
    assert [(path.name, path.stat().st_size) for path in sorted((tmp_path / "some").iterdir())] == [
        ("part-0.parquet", 1),
        ("part-1.parquet", 2),
    ]
    assert dataset_files(f"gs://{gs.name}/year/part-*")[1] == {"part-0.parquet": 1, "part-1.parquet": 2}
    for name, message in (("year", "both kinds"), ("none", "doesn't exist"), ("year/*.csv", "no file matches")):
        with pytest.raises(InputError, match=message):
            fetch_dataset(f"gs://{gs.name}/{name}", tmp_path / "none")


def test_bundle(gs: Any, tmp_path: Path) -> None:
    live = f"gs://{gs.name}/live"
    assert storage.download_bundle(f"gs://{gs.name}", FILES, tmp_path) is False
    with pytest.raises(InputError, match="no such folder"):
        storage.download_bundle(live, FILES, tmp_path)
    put(gs, **{"live/encoder.pkl": b"e", "live/scaler.pkl": b"s"})
    with pytest.raises(InputError, match=r"lawyer_match_model.h5 is missing"):
        storage.download_bundle(live, FILES, tmp_path)
    put(gs, **{"live/lawyer_match_model.h5": b"m"})
    assert storage.download_bundle(live, FILES, tmp_path) is True
    assert storage.hash_bundle(live, FILES) == storage.hash_bundle(str(tmp_path), FILES)


def test_no_bucket(gs: Any, package: Path, tmp_path: Path) -> None:
    for call in (
        lambda: storage.download_bundle("gs://nowhere/live", FILES, tmp_path),
        lambda: storage.publish(package, "gs://nowhere/v1"),
        lambda: storage.replace_bytes("gs://nowhere/current.json", b"", None),
    ):
        with pytest.raises(InputError, match=r"^gs://nowhere/.*there is no bucket nowhere$"):
            call()


def test_publish(gs: Any, package: Path) -> None:
    # more than the 8 MiB that the SDK sends in one request
    (package / "lawyer_match_model.h5").write_bytes(os.urandom(9_000_000))
    uri = f"gs://{gs.name}/team/v1"
    assert storage.publish(package, uri) == uri
    expected = {f"team/v1/{path.name}": path.read_bytes() for path in package.iterdir()}
    assert content(gs) == expected
    assert storage.list_names(f"gs://{gs.name}/team") == sorted(f"v1/{path.name}" for path in package.iterdir())
    with pytest.raises(InputError, match="exists already"):
        storage.publish(package, uri)
    assert content(gs) == expected


@conditions
def test_publish_over_an_unfinished_upload(gs: Any, package: Path) -> None:
    uri = f"gs://{gs.name}/v1"
    put(gs, **{"v1/encoder.pkl": (package / "encoder.pkl").read_bytes()})
    storage.publish(package, uri)
    assert len(content(gs)) == 4
    theirs = {"v2/scaler.pkl": b"of somebody else"}
    put(gs, **theirs)
    with pytest.raises(InputError, match=r"scaler\.pkl is there already, from another upload"):
        storage.publish(package, f"gs://{gs.name}/v2")
    assert {name: data for name, data in content(gs).items() if name.startswith("v2")} == theirs


def test_read_and_replace(gs: Any) -> None:
    uri = f"gs://{gs.name}/current.json"
    assert storage.read_bytes(uri) is None
    first = storage.replace_bytes(uri, b"1", None)
    assert storage.read_bytes(uri)[0] == b"1"
    second = storage.replace_bytes(uri, b"2", first)
    assert storage.read_bytes(uri)[0] == b"2"
    assert second != first


@conditions
def test_conflicts(gs: Any) -> None:
    uri = f"gs://{gs.name}/current.json"
    first = storage.replace_bytes(uri, b"1", None)
    assert storage.read_bytes(uri) == (b"1", first)
    with pytest.raises(storage.ConflictError, match="exists already"):
        storage.replace_bytes(uri, b"2", None)
    second = storage.replace_bytes(uri, b"2", first)
    with pytest.raises(storage.ConflictError, match="has changed"):
        storage.replace_bytes(uri, b"3", first)
    assert storage.read_bytes(uri) == (b"2", second)


@conditions
@pytest.mark.parametrize("exists", [True, False])
def test_of_writers_with_one_token_one_wins(gs: Any, exists: bool) -> None:
    for attempt in range(5):
        uri = f"gs://{gs.name}/{attempt}.json"
        token = storage.replace_bytes(uri, b"old", None) if exists else None
        contents = [f"writer {index}".encode() for index in range(4)]
        results = race(
            *(lambda c=content, uri=uri, token=token: storage.replace_bytes(uri, c, token) for content in contents)
        )
        winners = [index for index, result in enumerate(results) if isinstance(result, str)]
        assert len(winners) == 1
        assert sum(isinstance(result, storage.ConflictError) for result in results) == 3, results
        assert storage.read_bytes(uri) == (contents[winners[0]], results[winners[0]])


@pytest.mark.parametrize("action", ["download", "publish", "list"])
def test_nobody_listens(
    tmp_path: Path, package: Path, impatient: None, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    pytest.importorskip("google.cloud.storage")
    (port,) = free_ports(1)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    with pytest.raises(storage.StorageError, match=r"^gs://data/v1.* can't be \w+: .*refused; gave up after"):
        {
            "download": lambda: storage.download("gs://data/v1", tmp_path / "raw"),
            "publish": lambda: storage.publish(package, "gs://data/v1"),
            "list": lambda: storage.list_names("gs://data/v1"),
        }[action]()
    assert time.monotonic() - start < 4


@conditions
def test_a_promotion_s_lock_is_held_by_one(gs: Any) -> None:
    store = open_store(f"gs://{gs.name}/live")
    with store.lock({"by": "ada", "pid": os.getpid()}):
        (held,) = content(gs)
        assert held == f"live/{LOCK}"
        store.put(".mlops/note", b"1")
        store.append(".mlops/note", "2")
        store.append(".mlops/note", "3")
    assert content(gs) == {"live/.mlops/note": b"1\n2\n3\n"}


@pytest.mark.parametrize("gs", ["gcp-storage-emulator"], indirect=True)
def test_a_store_that_passes_over_conditions_gets_no_promotion(gs: Any) -> None:
    store = open_store(f"gs://{gs.name}/live")
    with (
        pytest.raises(InputError, match="passes over the conditions of a write"),
        store.lock({"by": "ada", "pid": os.getpid()}),
    ):
        pytest.fail("the lock was given")
    assert content(gs) == {}
