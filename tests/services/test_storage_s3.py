"""`matchmaking.storage` on a real S3 server, with the credentials that a pipeline has."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.data.parts import dataset_files, fetch_dataset
from matchmaking.storage import limits

from .conftest import PIPELINE, S3, free_ports, race, use_s3
from .proxy import Proxy

FILES = ("lawyer_match_model.h5", "encoder.pkl", "scaler.pkl")
URI = "s3://candidates/team/v1"


def test_download(s3: S3, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    s3.put("data", **{"year/pairs.csv": content})
    storage.download("s3://data/year/pairs.csv", tmp_path / "new" / "raw.csv")
    assert (tmp_path / "new" / "raw.csv").read_bytes() == content
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["raw.csv"]


def test_a_dataset_in_parts(s3: S3, tmp_path: Path) -> None:
    """With an object in the place of a folder, as some tools make one, and what Spark leaves beside the parts."""
    parts = {f"year/part-{number}.csv": b"x" * number for number in (0, 1, 2)}
    s3.put("data", **parts, **{"year/": b"", "year/_SUCCESS": b"", "year/old/part-9.csv": b"y", "years.csv": b"z"})
    fetch_dataset("s3://data/year", tmp_path / "all")
    assert sorted(path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*.*")) == [
        "old/part-9.csv",
        "part-0.csv",
        "part-1.csv",
        "part-2.csv",
    ]
    for pattern in ("s3://data/year/part-[12].csv", "s3://data/y*r/part-[12].csv"):
        fetch_dataset(pattern, tmp_path / "some")
        assert sum(path.stat().st_size for path in (tmp_path / "some").rglob("*.csv")) == 3
        assert list(dataset_files(pattern)[1].values()) == [1, 2]
    assert sum(dataset_files("s3://data/year/")[1].values()) == 4
    # one name, not those below it
    fetch_dataset("s3://data/*", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["years.csv"]
    for uri, words in (("s3://data/none", "doesn't exist"), ("s3://data/year/*.parquet", "no file matches")):
        with pytest.raises(InputError, match=words):
            fetch_dataset(uri, tmp_path / "none")
    with pytest.raises(InputError, match="leads out of the folder"):
        storage.download_folder("s3://data/escape", ["../../x.csv"], tmp_path / "out")


def test_size(s3: S3) -> None:
    s3.put("data", **{"year/pairs.csv": b"x" * 1234})
    assert storage.size("s3://data/year/pairs.csv") == 1234
    for uri in ("s3://data/year/none.csv", "s3://data/year/"):
        with pytest.raises(InputError, match="isn't there"):
            storage.size(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://data/year/none.csv", "doesn't exist"),
        ("s3://data/year", "is a folder"),
        ("s3://data/year/", "is a folder"),
        ("s3://data", "is a folder"),
        ("s3://key:secret@data/year/pairs.csv", r"s3://\*\*\*@data/year/pairs.csv: write it as s3://bucket/path"),
    ],
)
def test_download_what_is_no_file(s3: S3, tmp_path: Path, uri: str, message: str) -> None:
    s3.put("data", **{"year/pairs.csv": b"x"})
    with pytest.raises(InputError, match=message):
        storage.download(uri, tmp_path / "raw.csv")
    assert not list(tmp_path.iterdir())


def test_no_bucket(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, s3.endpoint, s3.admin)
    with pytest.raises(InputError, match="there is no bucket nowhere"):
        storage.download("s3://nowhere/pairs.csv", tmp_path / "raw.csv")


def test_bundle(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        storage.download_bundle("s3://production/live", FILES, tmp_path)
    assert storage.download_bundle("s3://production", FILES, tmp_path) is False
    s3.put("production", **{"live/note.txt": b""})
    assert storage.download_bundle("s3://production/live", FILES, tmp_path) is False
    s3.put("production", **{"live/encoder.pkl": b"e", "live/scaler.pkl": b"s"})
    with pytest.raises(InputError, match=r"lawyer_match_model.h5 is missing"):
        storage.download_bundle("s3://production/live/", FILES, tmp_path)
    s3.put("production", **{"live/lawyer_match_model.h5": b"m"})
    assert storage.download_bundle("s3://production/live/", FILES, tmp_path) is True
    assert [(tmp_path / name).read_bytes() for name in FILES] == [b"m", b"e", b"s"]
    hashes = storage.hash_bundle("s3://production/live", FILES)
    assert hashes == storage.hash_bundle(str(tmp_path), FILES)
    assert len(hashes) == 3


def test_publish(s3: S3, package: Path, tmp_path: Path) -> None:
    assert storage.publish(package, URI) == URI
    expected = {f"team/v1/{path.name}": path.read_bytes() for path in package.iterdir()}
    assert s3.content("candidates") == expected
    assert storage.list_names("s3://candidates/team") == sorted(f"v1/{path.name}" for path in package.iterdir())
    (package / "scaler.pkl").write_bytes(b"other")
    with pytest.raises(InputError, match="exists already"):
        storage.publish(package, URI)
    assert s3.content("candidates") == expected


def test_publish_without_manifest(s3: S3, package: Path) -> None:
    (package / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        storage.publish(package, URI)
    assert s3.content("candidates") == {}


def test_pipelines_only_read_production(s3: S3, package: Path, tmp_path: Path) -> None:
    production = {f"live/{name}": (package / name).read_bytes() for name in FILES}
    s3.put("production", **production)
    s3.put("data", **{"pairs.csv": b"a,b\n1,2\n"})
    # all that a pipeline does with its stores
    assert fetch_dataset("s3://data/pairs.csv", tmp_path / "raw.csv") == "e5ebd4c02cefbe7955977c67ada242b7"
    assert storage.download_bundle("s3://production/live", FILES, tmp_path / "copy")
    assert storage.hash_bundle("s3://production/live", FILES) == storage.hash_bundle(str(tmp_path / "copy"), FILES)
    assert storage.list_names("s3://production") == sorted(production)
    storage.publish(package, URI)
    # and what it can't do, by this module and past it
    name = "live/encoder.pkl"
    _, token = storage.read_bytes(f"s3://production/{name}")
    for bucket in ("production", "data"):
        with pytest.raises(InputError, match="access denied"):
            storage.publish(package, f"s3://{bucket}/v1")
    for expected in (token, None):
        with pytest.raises(InputError, match="access denied"):
            storage.replace_bytes(f"s3://production/{name}", b"new", expected)
    pipeline = s3.client(s3.pipeline)
    where = {"Bucket": "production", "Key": name}
    for refused in (
        lambda: pipeline.put_object(**where, Body=b"new"),
        lambda: pipeline.put_object(Bucket="production", Key="live/new", Body=b"new"),
        lambda: pipeline.delete_object(**where),
        lambda: pipeline.copy_object(**where, CopySource="production/live/scaler.pkl"),
        lambda: pipeline.create_multipart_upload(**where),
        lambda: pipeline.put_object_tagging(**where, Tagging={"TagSet": []}),
        lambda: pipeline.delete_bucket(Bucket="production"),
    ):
        with pytest.raises(ClientError) as denied:
            refused()
        assert denied.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    # this one answers 200 with an error for each object
    assert pipeline.delete_objects(Bucket="production", Delete={"Objects": [{"Key": name}]})["Errors"]
    assert s3.content("production") == production


def test_interrupted_upload_leaves_no_candidate(proxy: Proxy, s3: S3, package: Path, impatient: None) -> None:
    proxy.bytes_up = 100_000
    with pytest.raises(
        storage.StorageError, match=rf"^{URI}/lawyer_match_model\.h5 can't be written: .*; gave up after"
    ):
        storage.publish(package, URI)
    left = s3.content("candidates")
    assert set(left) <= {"team/v1/encoder.pkl"}
    proxy.bytes_up = None
    storage.publish(package, URI)
    assert s3.content("candidates") == {f"team/v1/{path.name}": path.read_bytes() for path in package.iterdir()}


def test_failed_publication_takes_back_its_own_files(s3: S3, package: Path) -> None:
    theirs = {"team/v1/scaler.pkl": b"of somebody else"}
    s3.put("candidates", **theirs)
    with pytest.raises(InputError, match=r"scaler\.pkl is there already, from another upload"):
        storage.publish(package, URI)
    assert s3.content("candidates") == theirs


def test_connection_lost_in_an_upload_is_retried(proxy: Proxy, s3: S3, package: Path, impatient: None) -> None:
    proxy.bytes_up, proxy.cuts = 100_000, 1
    storage.publish(package, URI)
    assert proxy.cuts == 0
    assert s3.content("candidates") == {f"team/v1/{path.name}": path.read_bytes() for path in package.iterdir()}


@pytest.mark.parametrize("name", ["encoder.pkl", "manifest.json"])
def test_lost_answer_is_no_conflict(proxy: Proxy, s3: S3, package: Path, impatient: None, name: str) -> None:
    proxy.lose_answer_to = f"PUT /candidates/team/v1/{name} ".encode()
    storage.publish(package, URI)
    assert not proxy.lose_answer_to
    assert len(s3.content("candidates")) == 4


def test_publishers_of_different_packages(s3: S3, package: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in package.iterdir():
        (other / path.name).write_bytes(b"other " + path.name.encode())
    folders = (package, other)
    for attempt in range(3):
        uri = f"s3://candidates/v{attempt}"
        results = race(*(lambda folder=folder, uri=uri: storage.publish(folder, uri) for folder in folders))
        assert sorted(isinstance(result, InputError) for result in results) == [False, True]
        winner = folders[results.index(uri)]
        found = {name: storage.read_bytes(f"{uri}/{name}")[0] for name in storage.list_names(uri)}
        assert found == {path.name: path.read_bytes() for path in winner.iterdir()}


def test_replace(s3: S3) -> None:
    uri = "s3://candidates/current.json"
    first = storage.replace_bytes(uri, b"1", None)
    assert storage.read_bytes(uri) == (b"1", first)
    with pytest.raises(storage.ConflictError, match=f"^{uri} exists already; nothing was written$") as conflict:
        storage.replace_bytes(uri, b"2", None)
    assert conflict.value.exit_code == 3
    second = storage.replace_bytes(uri, b"2", first)
    with pytest.raises(storage.ConflictError, match="has changed since it was read"):
        storage.replace_bytes(uri, b"3", first)
    assert storage.read_bytes(uri) == (b"2", second)
    s3.client().delete_object(Bucket="candidates", Key="current.json")
    with pytest.raises(storage.ConflictError):
        storage.replace_bytes(uri, b"3", second)
    assert s3.content("candidates") == {}


@pytest.mark.parametrize("exists", [True, False])
def test_of_writers_with_one_token_one_wins(s3: S3, exists: bool) -> None:
    for attempt in range(5):
        uri = f"s3://candidates/{attempt}.json"
        token = storage.replace_bytes(uri, b"old", None) if exists else None
        contents = [f"writer {index}".encode() for index in range(4)]
        results = race(
            *(lambda c=content, uri=uri, token=token: storage.replace_bytes(uri, c, token) for content in contents)
        )
        winners = [index for index, result in enumerate(results) if isinstance(result, str)]
        assert len(winners) == 1
        assert sum(isinstance(result, storage.ConflictError) for result in results) == 3
        assert storage.read_bytes(uri) == (contents[winners[0]], results[winners[0]])


def test_own_write_whose_answer_was_lost_is_no_conflict(proxy: Proxy, impatient: None) -> None:
    uri = "s3://candidates/current.json"
    first = storage.replace_bytes(uri, b"1", None)
    proxy.lose_answer_to = b"PUT /candidates/current.json "
    second = storage.replace_bytes(uri, b"2", first)
    assert not proxy.lose_answer_to
    assert storage.read_bytes(uri) == (b"2", second)


def test_bytes_changed_on_the_way_are_noticed(proxy: Proxy, s3: S3, tmp_path: Path, impatient: None) -> None:
    s3.put("data", **{"pairs.csv": b"the true content"})
    proxy.swap = (b"true", b"tame")
    with pytest.raises(storage.StorageError, match=r"pairs\.csv can't be read: .*checksum"):
        storage.download("s3://data/pairs.csv", tmp_path / "raw.csv")
    assert not list(tmp_path.iterdir())


def test_wrong_credentials(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": PIPELINE[0], "AWS_SECRET_ACCESS_KEY": "a-wrong-secret-0123456789"}
    use_s3(monkeypatch, s3.endpoint, wrong)
    start = time.monotonic()
    with pytest.raises(InputError, match="access denied") as denied:
        storage.download("s3://data/pairs.csv", tmp_path / "raw.csv")
    assert "secret" not in str(denied.value)
    assert time.monotonic() - start < 5
    for name in wrong:
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match="Unable to locate credentials"):
        storage.download("s3://data/pairs.csv", tmp_path / "raw.csv")


@pytest.mark.parametrize("action", ["download", "bundle", "publish", "replace", "list"])
def test_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: Path, impatient: None, action: str
) -> None:
    (port,) = free_ports(1)
    _outage(monkeypatch, port, tmp_path, package, action, within=3)


@pytest.mark.parametrize("action", ["download", "publish", "replace"])
def test_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: Path, impatient: None, action: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _outage(monkeypatch, silent.getsockname()[1], tmp_path, package, action, within=8)


def test_trickle_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: Path) -> None:
    monkeypatch.setattr(limits, "TOTAL_SECONDS", 1.0)

    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        client.recv(65536)
        client.sendall(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 1000\r\n\r\n')
        for _ in range(60):
            client.sendall(b".")
            if over.wait(0.1):
                break
        client.close()

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server,), daemon=True)
        dripping.start()
        _outage(monkeypatch, server.getsockname()[1], tmp_path, package, "download", within=3)
        over.set()
        dripping.join()


def _outage(
    monkeypatch: pytest.MonkeyPatch, port: int, tmp_path: Path, package: Path, action: str, within: float
) -> None:
    """One line with the URI and the reason, soon, and no credentials in it."""
    use_s3(
        monkeypatch,
        f"http://user:password@127.0.0.1:{port}",
        {"AWS_ACCESS_KEY_ID": PIPELINE[0], "AWS_SECRET_ACCESS_KEY": PIPELINE[1]},
    )
    call: dict[str, Callable[[], Any]] = {
        "download": lambda: storage.download("s3://data/v1", tmp_path / "raw"),
        "bundle": lambda: storage.download_bundle("s3://data/v1", FILES, tmp_path / "raw"),
        "publish": lambda: storage.publish(package, "s3://data/v1"),
        "replace": lambda: storage.replace_bytes("s3://data/v1", b"1", None),
        "list": lambda: storage.list_names("s3://data/v1"),
    }
    start = time.monotonic()
    with pytest.raises(storage.StorageError, match=r"^s3://data/v1.* can't be .+: .+; gave up after") as told:
        call[action]()
    assert time.monotonic() - start < within
    assert told.value.exit_code == 1
    text = str(told.value)
    assert "\n" not in text
    assert not any(secret in text for secret in (*PIPELINE, "password"))
    assert not (tmp_path / "raw").is_file()
