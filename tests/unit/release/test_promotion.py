"""Promotion and rollback: what they leave in production, and what must not be taken on trust."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.model import production
from matchmaking.release import audit, check
from matchmaking.release.package import CONTRACT
from matchmaking.release.promote import apply, promote_in_run
from matchmaking.release.store.local import LocalStore
from tests.promotion_fixtures import change_evidence, contents, package, promote, quiet, refused, rollback, variant


def test_promote_then_rollback_gives_back_every_byte_and_the_mode(served: Path, packages: list[str]) -> None:
    (served / production.MODEL).chmod(0o440)
    before = contents(served)
    entry = promote(packages[0], served)
    assert contents(served) == contents(Path(packages[0])) != before
    assert contents(served / entry.backup) == before
    assert stat.S_IMODE((served / production.MODEL).stat().st_mode) == 0o440
    rollback(served, reason="it was slow")
    assert contents(served) == before
    assert stat.S_IMODE((served / production.MODEL).stat().st_mode) == 0o440
    assert {path.name for path in served.iterdir()} == {*production.FILES, ".mlops"}
    found = audit.history(str(served))
    assert [entry.action for entry in found.entries] == ["promote", "rollback"]
    assert found.entries[1].why == "it was slow"
    assert not found.foreign


def test_the_audit_line_says_who_when_what_and_why(served: Path, packages: list[str]) -> None:
    before = production.hashes(served)
    entry = apply(check.prepare_promotion(packages[0], str(served), say=quiet), who="ada", say=quiet)
    (line,) = (served / audit.AUDIT).read_text().splitlines()
    assert json.loads(line) == entry.as_dict()
    assert (entry.who, entry.why, entry.overridden) == ("ada", "it is better", [])
    assert entry.before.sha256 == before
    assert entry.after.sha256 == production.hashes(Path(packages[0]))
    assert entry.after.version == "v20260101T000000Z"
    assert entry.time.endswith("Z")


def test_the_first_promotion_fills_an_empty_folder(incumbent: Path, tmp_path: Path) -> None:
    (tmp_path / "production").mkdir()
    first = package(variant(incumbent, tmp_path / "b", "first"), None, tmp_path / "c", "v20260101T000000Z")
    promote(first, tmp_path / "production")
    assert contents(tmp_path / "production") == contents(Path(first))
    assert stat.S_IMODE((tmp_path / "production" / production.MODEL).stat().st_mode) & 0o444 == 0o444
    with refused("first promotion"):
        rollback(tmp_path / "production")


def test_production_that_changed_since_the_check_is_left_alone(served: Path, packages: list[str]) -> None:
    change = check.prepare_promotion(packages[0], str(served), say=quiet)
    promote(packages[1], served)
    with refused("changed since it was checked"):
        apply(change, say=quiet)
    assert contents(served) == contents(Path(packages[1]))


# --- rollback and history ------------------------------------------------------------------------------


def test_rollbacks_go_back_one_promotion_each(served: Path, packages: list[str]) -> None:
    original = contents(served)
    promote(packages[0], served)
    promote(packages[1], served, force=True, reason="again")
    rollback(served)
    assert contents(served) == contents(Path(packages[0]))
    rollback(served)
    assert contents(served) == original
    assert audit.history(str(served)).foreign_before == {}
    with refused("no promotion to take back"):
        rollback(served)


@pytest.mark.parametrize("by", ["name", "sha256"])
def test_rollback_to_any_model_that_was_there(served: Path, packages: list[str], by: str) -> None:
    promote(packages[0], served)
    digest = production.hashes(served)[production.MODEL]
    promote(packages[1], served, force=True, reason="again")
    rollback(served)
    rollback(served)
    rollback(served, to="v20260101T000000Z" if by == "name" else digest[:8])
    assert contents(served) == contents(Path(packages[0]))
    with pytest.raises(InputError, match="no backup"):
        rollback(served, to="v20990101T000000Z")


def test_a_damaged_backup_is_not_restored(served: Path, packages: list[str]) -> None:
    entry = promote(packages[0], served)
    (served / entry.backup / production.MODEL).write_bytes(b"damaged")
    with refused("backup", "damaged"):
        rollback(served)
    assert contents(served) == contents(Path(packages[0]))


# --- what must not be taken on trust -------------------------------------------------------------------


def test_production_that_changed_between_check_and_promotion_is_left_alone(
    served: Path, packages: list[str], tmp_path: Path
) -> None:
    """The promote pipeline: what its check saw travels with it, also where the change was prepared after that."""
    seen = production.hashes(served)
    promote(packages[1], served)
    change_evidence(packages[0], CONTRACT)
    before = contents(served)
    with refused("changed since this promotion was checked"):
        promote_in_run(
            packages[0],
            str(served),
            run_id="run",
            expected_before=seen,
            force=True,
            reason="known to be fine",
            entry_path=tmp_path / "entry",
        )
    assert contents(served) == before
    assert len(audit.history(str(served)).entries) == 1


def test_what_was_written_is_read_back(served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that keeps something else than it was given."""
    change = check.prepare_promotion(packages[0], str(served), say=quiet)
    before = contents(served)
    write = LocalStore._write

    def damaged(self: LocalStore, path: Path, data: bytes, like: Any) -> None:
        write(self, path, data[:-1] + b"?" if path == served / production.MODEL else data, like)

    monkeypatch.setattr(LocalStore, "_write", damaged)
    said: list[str] = []
    with pytest.raises(MlopsError, match="doesn't hold what was written"):
        apply(change, say=said.append)
    assert "neither the one before nor the one after" in said[-1]
    (entry,) = audit.history(str(served)).entries
    assert (entry.action, entry.abandoned) == ("abandoned", "promote")
    # what was there is in the backup that the entry names, and can be had back
    assert entry.backup
    assert contents(served / entry.backup) == before


def test_a_backup_that_is_not_what_production_held_stops_the_promotion(
    served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change = check.prepare_promotion(packages[0], str(served), say=quiet)
    before = contents(served)
    put = LocalStore.put

    def damaged(self: LocalStore, name: str, data: bytes) -> None:
        put(self, name, data[:-1] if name.startswith(f"{audit.BACKUPS}/") and name.endswith(".h5") else data)

    monkeypatch.setattr(LocalStore, "put", damaged)
    with refused("backup", "missing or damaged"):
        apply(change, say=quiet)
    assert contents(served) == before


# --- places --------------------------------------------------------------------------------------------


def test_a_file_uri_is_a_place_like_another(served: Path, packages: list[str], tmp_path: Path) -> None:
    folder = served.rename(tmp_path / "my production")
    uri = f"file://{str(folder).replace(' ', '%20')}"
    apply(check.prepare_promotion(packages[0], uri, say=quiet), say=quiet)
    assert contents(folder) == contents(Path(packages[0]))
    assert len(audit.history(uri).entries) == 1
    with pytest.raises(InputError, match="file:///path"):
        audit.history("file://host/production")
