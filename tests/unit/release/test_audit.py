"""The audit trail: what was no promotion's, and lines that can't be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from matchmaking.model import production
from matchmaking.release import audit, check
from matchmaking.release.promote import apply
from matchmaking.release.store import open_store
from tests.promotion_fixtures import cut_off, promote, quiet, refused, rollback, variant


def test_history_marks_what_no_promotion_wrote(
    served: Path, packages: list[str], incumbent: Path, tmp_path: Path
) -> None:
    assert audit.history(str(served)).foreign
    promote(packages[0], served)
    assert not audit.history(str(served)).foreign
    by_hand = variant(incumbent, tmp_path / "by hand", "by hand")
    shutil.copyfile(by_hand / production.MODEL, served / production.MODEL)
    found = audit.history(str(served))
    assert found.foreign
    assert found.current.version is None
    with refused("no promotion to take back"):
        rollback(served)
    # once a promotion has replaced it, the trail still shows that it was there
    promote(packages[1], served, force=True, reason="clean up")
    found = audit.history(str(served))
    assert not found.foreign
    assert found.foreign_before == {found.entries[1].id: production.hashes(by_hand)[production.MODEL]}


def test_a_torn_audit_line_does_not_swallow_the_next(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    with (served / audit.AUDIT).open("a") as file:
        file.write('{"id": "torn')
    rollback(served)
    found = audit.history(str(served))
    assert [entry.action for entry in found.entries] == ["promote", "rollback"]
    assert found.unreadable == [text for text in found.unreadable if text.startswith("line 2 is damaged")] != []


def test_lines_that_are_no_entries_are_passed_over(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    trail = served / audit.AUDIT
    junk = ["17", "[]", '{"id": "x"}', json.dumps({"format": 2, "verb": "promoted"}), "[" * 100_000, ""]
    trail.write_text("\n".join([*junk, trail.read_text()]))
    found = audit.history(str(served))
    assert [entry.action for entry in found.entries] == ["promote"]
    assert len(found.unreadable) == len(junk)
    assert "newer version" in found.unreadable[3]
    assert found.as_dict()["damaged"] == len(junk)
    said: list[str] = []
    change = check.prepare_rollback(str(served), say=said.append)
    assert len([text for text in said if text.startswith("the audit trail: line")]) == len(junk)
    apply(change, say=quiet)
    promote(packages[1], served)
    # what can't be read stays where it is
    assert trail.read_text().splitlines()[: len(junk)] == junk


def test_history_only_reads(served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(check.prepare_promotion(packages[0], str(served), say=quiet), "production", monkeypatch)
    before = {path: path.read_bytes() for path in served.rglob("*") if path.is_file()}
    with open_store(str(served)).lock({"by": "ada"}):
        during = {path: path.read_bytes() for path in served.rglob("*") if path.is_file()}
        assert "isn't finished" in audit.history(str(served)).unfinished
        assert {path: path.read_bytes() for path in served.rglob("*") if path.is_file()} == during
    assert set(before) == set(during)
