"""Promotion and rollback of a production folder in a bucket: conditional writes, so that of two promotions one wins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from matchmaking import storage
from matchmaking.base.errors import InputError, MlopsError, RefusedError
from matchmaking.model import production
from matchmaking.release import audit, check, promote, recovery
from matchmaking.release.records import Entry
from matchmaking.release.store import bucket, open_store
from matchmaking.release.store.interface import LOCK
from matchmaking.storage import s3 as s3_backend
from tests.promotion_fixtures import package, quiet, variant
from tests.services.conftest import S3, race, use_s3

URI = "s3://production/live"
LEASE = bucket.LEASE_SECONDS


@pytest.fixture
def packages(incumbent: Path, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Production in the bucket, two packages for it; this process may write there, as a promotion's may."""
    for name in ("MLFLOW_TRACKING_URI", "MLOPS_RESTART_COMMAND", "MLOPS_NOTIFY_URLS", "MLOPS_NOTIFY_URLS_FILE"):
        monkeypatch.delenv(name, raising=False)
    use_s3(monkeypatch, s3.endpoint, s3.admin)
    for name in production.FILES:
        storage.replace_bytes(f"{URI}/{name}", (incumbent / name).read_bytes(), None)
    return [
        package(variant(incumbent, tmp_path / name, name), incumbent, tmp_path / "candidates", name)
        for name in ("v20260101T000000Z", "v20260102T000000Z")
    ]


def holds(s3: S3) -> dict[str, bytes]:
    """What the service reads."""
    content = s3.content("production")
    return {name: content[f"live/{name}"] for name in production.FILES}


def prepared(version: str) -> check.Change:
    return check.prepare_promotion(version, URI, say=quiet)


def test_promote_then_rollback_gives_back_every_byte(packages: list[str], s3: S3) -> None:
    before = holds(s3)
    entry = promote.apply(prepared(packages[0]), say=quiet)
    assert (
        holds(s3)[production.MODEL] == (Path(packages[0]) / production.MODEL).read_bytes() != before[production.MODEL]
    )
    assert {name: data for name, data in holds(s3).items() if name != production.MODEL} == {
        name: data for name, data in before.items() if name != production.MODEL
    }
    assert s3.content("production")[f"live/{entry.backup}/{production.MODEL}"] == before[production.MODEL]
    promote.apply(check.prepare_rollback(URI, say=quiet), say=quiet)
    assert holds(s3) == before
    history = audit.history(URI)
    assert [found.action for found in history.entries] == ["promote", "rollback"]
    assert not history.foreign
    # neither the lock nor the journal stays
    assert {name.split("/")[2] for name in s3.content("production") if "/.mlops/" in name} == {"audit.jsonl", "backups"}


def test_a_first_model_into_an_empty_folder(incumbent: Path, tmp_path: Path, packages: list[str], s3: S3) -> None:
    storage.delete(URI)
    first = package(variant(incumbent, tmp_path / "first", "first"), None, tmp_path / "candidates", "v20250101T000000Z")
    promote.apply(prepared(first), say=quiet)
    assert holds(s3) == {name: (Path(first) / name).read_bytes() for name in production.FILES}


def test_of_two_promotions_one_wins(packages: list[str], s3: S3) -> None:
    changes = [prepared(version) for version in packages]
    results = race(*[lambda change=change: promote.apply(change, say=quiet) for change in changes])
    lost = [result for result in results if isinstance(result, MlopsError)]
    won = [result for result in results if isinstance(result, Entry)]
    assert len(won) == len(lost) == 1, results
    assert isinstance(lost[0], RefusedError)
    assert production.MODEL in won[0].after.sha256
    found = audit.history(URI)
    assert found.current.model == won[0].after.model
    assert len([entry for entry in found.entries if entry.action == "promote"]) == 1


def test_even_without_a_lock_one_wins(packages: list[str], s3: S3) -> None:
    """A lock that was passed over too early: the conditional write is what decides."""
    store = open_store(URI)
    found = store.read(production.MODEL)
    assert found is not None
    store.replace(production.MODEL, b"somebody else's", found.tag)
    with pytest.raises(MlopsError, match="changed by somebody else"):
        store.replace(production.MODEL, b"ours", found.tag)
    assert holds(s3)[production.MODEL] == b"somebody else's"


def _lock(**holder: Any) -> str:
    content = {"by": "x", "pid": os.getpid(), "host": bucket._machine(), **holder}
    found = storage.read_bytes(f"{URI}/{LOCK}")
    return storage.replace_bytes(f"{URI}/{LOCK}", json.dumps(content).encode(), found[1] if found else None)


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(bucket, "RENEW_SECONDS", 0.4)


@pytest.mark.parametrize("holder", [{}, {"host": "another machine", "pid": 1}])
def test_a_lock_is_heeded_while_it_is_renewed(
    packages: list[str], s3: S3, short_lease: None, holder: dict[str, Any]
) -> None:
    change = prepared(packages[0])
    before = holds(s3)
    over = threading.Event()

    def renew() -> None:
        number = 0
        while not over.wait(0.4):
            number += 1
            _lock(**holder, renewed=number)

    _lock(**holder)
    renewing = threading.Thread(target=renew)
    renewing.start()
    begun = time.monotonic()
    with pytest.raises(RefusedError, match="is under way"):
        promote.apply(change, say=quiet)
    # who is alive shows it at the next renewal
    assert time.monotonic() - begun < 2
    over.set()
    renewing.join()
    assert holds(s3) == before


def test_a_dead_holder_s_lock_is_passed_over_at_once(packages: list[str], s3: S3) -> None:
    change = prepared(packages[0])
    _lock(pid=_dead_pid())
    begun = time.monotonic()
    promote.apply(change, say=quiet)
    assert time.monotonic() - begun < bucket.LEASE_SECONDS / 2
    assert storage.read_bytes(f"{URI}/{LOCK}") is None


@pytest.mark.parametrize(
    "holder", [{"host": "another machine", "pid": 1}, {"pid": os.getppid()}], ids=["another machine", "pid used again"]
)
def test_a_lock_that_is_not_renewed_is_passed_over_after_the_lease(
    packages: list[str], s3: S3, short_lease: None, holder: dict[str, Any]
) -> None:
    assert LEASE <= 60
    change = prepared(packages[0])
    _lock(**holder)
    said: list[str] = []
    begun = time.monotonic()
    promote.apply(change, say=said.append)
    assert 2 <= time.monotonic() - begun < 20
    assert "whether it is renewed" in said[0]
    assert storage.read_bytes(f"{URI}/{LOCK}") is None


def test_a_holder_renews_its_lock_and_stops_when_it_has_lost_it(packages: list[str], s3: S3, short_lease: None) -> None:
    store = open_store(URI)
    with store.lock({"by": "ada", "pid": os.getpid()}):
        first = storage.read_bytes(f"{URI}/{LOCK}")
        time.sleep(1)
        second = storage.read_bytes(f"{URI}/{LOCK}")
        assert first
        assert second
        assert first != second
        store.put(".mlops/note", b"mine")
        _lock(by="somebody else")
        time.sleep(1)
        for write in (lambda: store.put(".mlops/note", b"late"), lambda: store.delete(".mlops/note")):
            with pytest.raises(MlopsError, match="took the lock over"):
                write()
    assert s3.content("production")["live/.mlops/note"] == b"mine"
    # the lock of the one who took over stays
    assert b"somebody else" in s3.content("production")[f"live/{LOCK}"]


def test_history_neither_waits_nor_writes(packages: list[str], s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    promote.apply(prepared(packages[0]), say=quiet)
    journal = {**audit.history(URI).entries[0].as_dict(), "id": "another"}
    storage.replace_bytes(f"{URI}/{audit.JOURNAL}", json.dumps(journal).encode(), None)
    _lock(host="another machine")
    before = s3.content("production")
    use_s3(monkeypatch, s3.endpoint, s3.pipeline)
    found = audit.history(URI)
    assert len(found.entries) == 1
    assert "under way, or it was cut off" in found.unfinished
    assert s3.content("production") == before


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
def test_a_store_that_passes_over_conditions_is_refused(
    packages: list[str], s3: S3, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    """A store that doesn't know the header does as the same store does without it."""
    client = s3_backend.S3(URI).client
    before = s3.content("production")
    change = prepared(packages[0])

    def forget(request: Any, **_: Any) -> None:
        del request.headers[header]

    client.meta.events.register("before-sign.s3.PutObject", forget)
    try:
        with pytest.raises(
            InputError, match=f"conditions of a write .{header}.: two promotions at once could both win"
        ):
            promote.apply(change, say=quiet)
    finally:
        client.meta.events.unregister("before-sign.s3.PutObject", forget)
    assert s3.content("production") == before


@pytest.mark.parametrize("done", [False, True], ids=["before the model", "after the model"])
def test_a_promotion_that_was_cut_off_is_finished_or_undone(
    packages: list[str], s3: S3, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """The process dies (nothing after this line runs); the next command says what it did and finds all consistent."""
    before = holds(s3)
    real = bucket.BucketStore.replace

    class Killed(BaseException):
        pass

    def die(self: Any, name: str, data: bytes, tag: str | None) -> None:
        if name == production.MODEL:
            if done:
                real(self, name, data, tag)
            raise Killed
        real(self, name, data, tag)

    change = prepared(packages[0])
    with monkeypatch.context() as patch:
        patch.setattr(bucket.BucketStore, "replace", die)
        # a killed process recovers nothing and lets go of nothing
        patch.setattr("matchmaking.release.promote.recover_change", lambda store, say: None)
        patch.setattr(storage, "delete", lambda uri: None)
        with pytest.raises(Killed):
            promote.apply(change, say=quiet)
    holder = storage.read_bytes(f"{URI}/{LOCK}")
    assert holder is not None
    dead = {**json.loads(holder[0]), "pid": _dead_pid()}
    storage.replace_bytes(f"{URI}/{LOCK}", json.dumps(dead).encode(), holder[1])
    said: list[str] = []
    assert "was cut off" in audit.history(URI).unfinished
    recovery.recover(URI, say=said.append)
    found = audit.history(URI)
    assert any("was cut off" in text for text in said)
    assert (holds(s3) == before) is not done
    assert found.entries[-1].action == ("promote" if done else "abandoned")
    assert found.foreign is not done  # what was there at first is none of our promotions


def test_the_pipelines_identity_cannot_promote(packages: list[str], s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    before = s3.content("production")
    use_s3(monkeypatch, s3.endpoint, s3.pipeline)
    change = prepared(packages[0])
    with pytest.raises(InputError, match=r"[Dd]enied|not allowed|no right"):
        promote.apply(change, say=quiet)
    assert s3.content("production") == before
