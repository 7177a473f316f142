"""A promotion that was cut off: what the next command makes of it, and what a kill at any point leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from matchmaking.model import production
from matchmaking.release import audit, check, complete, recovery
from matchmaking.release.promote import apply
from tests.promotion_fixtures import (
    contents,
    cut_off,
    package,
    promote,
    quiet,
    refused,
    rollback,
    variant,
)

DRIVER = Path(__file__).parents[2] / "kill_driver.py"


@pytest.mark.parametrize("at", ["production", "backups"])
def test_recovery_leaves_what_somebody_else_put_there(
    served: Path, packages: list[str], incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    before = contents(served)
    cut_off(check.prepare_promotion(packages[0], str(served), say=quiet), at, monkeypatch)
    by_hand = variant(incumbent, tmp_path / "by hand", "by hand")
    shutil.copyfile(by_hand / production.MODEL, served / production.MODEL)
    said: list[str] = []
    recovery.recover(str(served), say=said.append)
    assert "neither the one before nor the one after" in said[0]
    assert contents(served) == contents(by_hand)
    found = audit.history(str(served))
    assert found.foreign
    assert not found.unfinished
    (entry,) = found.entries
    assert (entry.action, entry.abandoned) == ("abandoned", "promote")
    if at == "production":
        assert "with a backup of" in said[0]
        assert contents(served / str(entry.backup)) == before
    else:
        # it names no backup that isn't whole
        assert "before a model from elsewhere" in said[0]
        assert entry.backup is None


def test_recovery_of_a_change_that_is_recorded_leaves_what_came_after(
    served: Path, packages: list[str], incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the audit line and the journal's end; then somebody else changes production."""
    restart = complete._restart

    class Killed(BaseException):
        pass

    def die(say: Any) -> None:
        raise Killed

    change = check.prepare_promotion(packages[0], str(served), say=quiet)
    monkeypatch.setattr(complete, "_restart", die)
    with pytest.raises(Killed):
        apply(change, say=quiet)
    monkeypatch.setattr(complete, "_restart", restart)
    by_hand = variant(incumbent, tmp_path / "by hand", "by hand")
    shutil.copyfile(by_hand / production.MODEL, served / production.MODEL)
    said: list[str] = []
    recovery.recover(str(served), say=said.append)
    assert "is done; somebody else has changed production since" in said[0]
    assert contents(served) == contents(by_hand)
    assert [entry.action for entry in audit.history(str(served)).entries] == ["promote"]
    assert not (served / audit.JOURNAL).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}', '{"backup": "."}', "[" * 100_000])
def test_a_damaged_journal_is_set_aside(served: Path, packages: list[str], text: str) -> None:
    promote(packages[0], served)
    before = contents(served)
    (served / audit.JOURNAL).write_text(text)
    assert "damaged" in audit.history(str(served)).unfinished
    assert (served / audit.JOURNAL).read_text() == text
    said: list[str] = []
    change = check.prepare_rollback(str(served), say=said.append)
    assert "its record is damaged" in said[0]
    assert contents(served) == before
    (aside,) = (served / ".mlops").glob("journal-damaged-*")
    assert aside.read_text() == text
    apply(change, say=quiet)
    assert not audit.history(str(served)).unfinished


def test_a_newer_version_s_journal_is_left_to_it(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    journal = json.dumps({"format": 2, "steps": ["one"]})
    (served / audit.JOURNAL).write_text(journal)
    before = contents(served)
    for change in (lambda: rollback(served), lambda: promote(packages[1], served, force=True, reason="x")):
        with refused("newer version of mlops"):
            change()
    assert "newer version" in audit.history(str(served)).unfinished
    assert (served / audit.JOURNAL).read_text() == journal
    assert contents(served) == before


@pytest.mark.parametrize("action", ["promote", "bootstrap", "rollback"])
def test_killed_anywhere_the_next_command_finds_a_consistent_state(
    action: str, served: Path, packages: list[str], incumbent: Path, tmp_path: Path
) -> None:
    """SIGKILL before every operation on the disk, and (but for rollback) before every one of the recovery, too."""
    target = packages[0]
    if action == "bootstrap":
        for name in production.FILES:
            (served / name).unlink()
        target = package(variant(incumbent, tmp_path / "b", "first"), None, tmp_path / "c", "v20260103T000000Z")
    old = production.hashes(served)
    new = production.hashes(Path(target))
    if action == "rollback":
        old, new = new, old
        promote(target, served)
    earlier = len(audit.history(str(served)).entries)
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, DRIVER, served, tmp_path / "work", action, target], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) > 30
    ends = set()
    for case in cases:
        killed, found = case["killed"], case["found"]
        # whole at any time: the model file is the old one or the new one, and it comes last
        assert killed["files"].get(production.MODEL) in (old.get(production.MODEL), new[production.MODEL]), case
        if production.MODEL in killed["files"]:
            assert killed["files"] in (old, new), case
        assert case["status"] == 0, (case, done.stderr)
        after, entries = found["after"], found["entries"][earlier:]
        assert after["files"] in (old, new), case
        if case["twice"] == 0:
            # recovery goes the way the model file shows
            happened = killed["files"].get(production.MODEL) == new[production.MODEL]
            assert (after["files"] == new) == happened, case
            assert bool(found["said"]) == killed["journal"], case
            told = " ".join(found["said"])
            ends_with = ("completing it", "was not moved") if happened else ("undone",)
            assert not killed["journal"] or any(words in told for words in ends_with), case
        actions = [entry["action"] for entry in entries]
        wanted = "rollback" if action == "rollback" else "promote"
        assert actions == [wanted] if after["files"] == new else actions in ([], ["abandoned"]), case
        assert not after["journal"], case
        assert set(after["names"]) - set(killed["temporary"]) == set(after["files"]), case
        assert not killed["journal"] or not after["temporary"], case
        assert found["foreign"] is (after["files"] == old and action == "promote"), case
        ends.add((after["files"] == new, killed["journal"]))
    assert ends >= {(False, False), (False, True), (True, True)}
