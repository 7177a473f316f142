"""Promotion and rollback: what is refused, what is left behind, and what a kill at any point leaves."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from matchmaking.base.errors import InputError, MlopsError, RefusedError
from matchmaking.model import production
from matchmaking.release import audit, check, complete, recovery
from matchmaking.release.package import CONTRACT, DECISION
from matchmaking.release.promote import apply
from matchmaking.release.store import open_store
from matchmaking.release.store.interface import LOCK
from matchmaking.release.store.local import LocalStore
from tests.promotion_fixtures import change_evidence, package, variant

DRIVER = Path(__file__).parents[2] / "kill_driver.py"


def quiet(text: str) -> None:
    pass


@pytest.fixture(autouse=True)
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLOPS_RESTART_COMMAND", "MLOPS_NOTIFY_URLS", "MLOPS_NOTIFY_URLS_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def served(incumbent: Path, tmp_path: Path) -> Path:
    """A production folder of one's own."""
    folder = tmp_path / "production"
    shutil.copytree(incumbent, folder)
    return folder


@pytest.fixture
def packages(incumbent: Path, tmp_path: Path) -> list[str]:
    """Two packages made against that production."""
    names = ("v20260101T000000Z", "v20260102T000000Z")
    return [
        package(variant(incumbent, tmp_path / f"bundle {name}", name), incumbent, tmp_path / "candidates", name)
        for name in names
    ]


def promote(version: str, folder: Path, **options: Any) -> dict[str, Any]:
    return apply(check.prepare_promotion(version, str(folder), say=quiet, **options), say=quiet)


def rollback(folder: Path, **options: Any) -> dict[str, Any]:
    return apply(check.prepare_rollback(str(folder), say=quiet, **options), say=quiet)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in production.FILES}


def refused(*words: str) -> Any:
    return pytest.raises(RefusedError, match=".*".join(words))


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


def test_promoting_what_is_there_changes_nothing(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    assert check.prepare_promotion(packages[0], str(served), say=quiet).nothing


@pytest.mark.parametrize("verdict", ["hold", "reject"])
def test_another_verdict_is_refused_unless_forced_with_a_reason(
    served: Path, packages: list[str], verdict: str
) -> None:
    change_evidence(packages[0], DECISION, verdict=verdict, reasons=["recall is clearly worse"])
    before = contents(served)
    with refused(verdict, "recall is clearly worse"):
        promote(packages[0], served)
    with pytest.raises(InputError, match="--reason"):
        promote(packages[0], served, force=True, reason=" ")
    assert contents(served) == before
    entry = promote(packages[0], served, force=True, reason="an emergency")
    assert entry.why == "an emergency"
    assert verdict in entry.overridden[0]


def test_a_failed_contract_is_refused_and_named(served: Path, packages: list[str]) -> None:
    checks = [{"name": "held-out rows", "passed": False, "detail": "largest difference 1.0e-02"}]
    change_evidence(packages[0], CONTRACT, passed=False, checks=checks)
    for force in (False, True):
        with refused("could not serve", "held-out rows"):
            promote(packages[0], served, force=force, reason="all the same")
    assert not (served / ".mlops").exists()


def test_evidence_against_another_production_is_stale(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    with refused("compared with", "v20260101T000000Z"):
        promote(packages[1], served)
    promote(packages[1], served, force=True, reason="known to be fine")
    assert contents(served) == contents(Path(packages[1]))


@pytest.mark.parametrize("name", [*production.FILES, DECISION, CONTRACT])
def test_an_altered_package_is_refused_even_by_force(served: Path, packages: list[str], name: str) -> None:
    with (Path(packages[0]) / name).open("ab") as file:
        file.write(b" ")
    with refused(name, "sha256"):
        promote(packages[0], served, force=True, reason="all the same")


def test_a_contract_of_other_files_is_refused_even_by_force(served: Path, packages: list[str]) -> None:
    change_evidence(packages[0], CONTRACT, sha256=production.hashes(served))
    with refused("contract", "other files"):
        promote(packages[0], served, force=True, reason="all the same")


def test_other_encoders_are_no_drop_in_even_by_force(served: Path, packages: list[str]) -> None:
    with (served / production.SCALER).open("ab") as file:
        file.write(b" ")
    before = contents(served)
    with refused("scaler.pkl", "drop-in"):
        promote(packages[0], served, force=True, reason="all the same")
    assert contents(served) == before


def test_production_that_changed_since_the_check_is_left_alone(served: Path, packages: list[str]) -> None:
    change = check.prepare_promotion(packages[0], str(served), say=quiet)
    promote(packages[1], served)
    with refused("changed since it was checked"):
        apply(change, say=quiet)
    assert contents(served) == contents(Path(packages[1]))


def test_a_model_file_that_is_a_link_is_left_alone(served: Path, packages: list[str], tmp_path: Path) -> None:
    real = (served / production.MODEL).rename(tmp_path / "elsewhere.h5")
    (served / production.MODEL).symlink_to(real)
    before = real.read_bytes()
    with pytest.raises(InputError, match="symbolic link"):
        check.prepare_promotion(packages[0], str(served), say=quiet)
    with pytest.raises(InputError, match="symbolic link"):
        check.prepare_rollback(str(served), say=quiet)
    assert real.read_bytes() == before
    assert (served / production.MODEL).is_symlink()
    # nothing was begun
    assert not (served / ".mlops").exists()


@pytest.mark.parametrize("uri", ["", "no/such/folder", "s3://bucket/production"])
def test_a_place_that_is_no_folder_is_refused(uri: str, packages: list[str]) -> None:
    with pytest.raises(InputError):
        check.prepare_promotion(packages[0], uri, say=quiet)


def test_what_is_no_package_is_told(served: Path, incumbent: Path) -> None:
    with pytest.raises(InputError, match=r"isn't a package.*manifest\.json"):
        promote(str(incumbent), served)


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


# --- the restart of the service ------------------------------------------------------------------------


def test_the_service_is_restarted_without_a_shell(
    served: Path, packages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a shell the semicolon is a file's name
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_RESTART_COMMAND", f"touch '{tmp_path}/re started' ;")
    promote(packages[0], served)
    assert (tmp_path / "re started").exists()


@pytest.mark.parametrize(
    ("command", "said"), [("sh -c 'echo no such pod; exit 4'", "exit code 4.*no such pod"), ("/none", "can't be run")]
)
def test_a_failed_restart_is_reported_and_the_promotion_stands(
    served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    before = contents(served)
    monkeypatch.setenv("MLOPS_RESTART_COMMAND", command)
    with pytest.raises(complete.RestartError, match=said):
        promote(packages[0], served)
    assert contents(served) == contents(Path(packages[0]))
    assert not (served / audit.JOURNAL).exists()
    found = audit.history(str(served))
    assert [entry.action for entry in found.entries] == ["promote", "restart failed"]
    monkeypatch.delenv("MLOPS_RESTART_COMMAND")
    rollback(served)
    assert contents(served) == before


def test_a_restart_that_hangs_is_ended_with_its_children(
    served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_RESTART_COMMAND", "sh -c 'sleep 60; true'")
    monkeypatch.setenv("MLOPS_RESTART_TIMEOUT", "0.3")
    with pytest.raises(complete.RestartError, match=r"didn't end in 0\.3 s"):
        promote(packages[0], served)


@pytest.mark.parametrize(("name", "value"), [("MLOPS_RESTART_TIMEOUT", "soon"), ("MLOPS_RESTART_COMMAND", "sh -c 'x")])
def test_settings_that_would_fail_later_are_refused_first(
    served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="MLOPS_RESTART"):
        promote(packages[0], served)


# --- two at once, and readers --------------------------------------------------------------------------


def test_of_many_at_once_one_wins(served: Path, packages: list[str]) -> None:
    """Real processes, each with a change that was prepared against the same production."""
    code = (
        "import sys\n"
        "from matchmaking import promotion\n"
        "from matchmaking.base.errors import RefusedError\n"
        "change = promotion.prepare_promotion(sys.argv[1], sys.argv[2])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n    promotion.apply(change)\nexcept RefusedError:\n    sys.exit(3)\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, packages[number % 2], str(served)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for run in runs:
        assert run.stdout
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin
        run.stdin.write("\n")
        run.stdin.flush()
    codes = [run.wait(60) for run in runs]
    for run in runs:
        assert run.stdin
        assert run.stdout
        run.stdin.close()
        run.stdout.close()
    assert sorted(codes) == [0, 3, 3, 3]
    assert contents(served) == contents(Path(packages[codes.index(0) % 2]))
    assert len(audit.history(str(served)).entries) == 1


def test_while_one_is_under_way_the_other_is_refused_and_told_whose(served: Path, packages: list[str]) -> None:
    change = check.prepare_promotion(packages[0], str(served), say=quiet)
    before = contents(served)
    with open_store(str(served)).lock({"by": "ada"}), refused("under way", "ada"):
        apply(change, say=quiet)
    assert contents(served) == before
    apply(change, say=quiet)


def test_the_lock_of_a_dead_process_is_free(served: Path, packages: list[str]) -> None:
    code = (
        "import os, sys, signal\n"
        "from matchmaking.release.store import open_store\n"
        "open_store(sys.argv[1]).lock({'by': 'ghost'}).__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(served)], check=False)
    assert "ghost" in (served / LOCK).read_text()
    promote(packages[0], served)


def test_a_reader_never_sees_a_mix(tmp_path: Path) -> None:
    old, new = b"o" * 3_000_000, b"n" * 2_000_000
    (tmp_path / "model").write_bytes(old)
    store, done, seen = LocalStore(tmp_path), threading.Event(), set()

    def read() -> None:
        while not done.is_set():
            seen.add((tmp_path / "model").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        found = store.read("model")
        assert found
        store.replace("model", old if number % 2 else new, found.tag)
    done.set()
    reader.join()
    assert seen <= {old, new}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(served: Path, packages: list[str]) -> None:
    served.chmod(0o555)
    with pytest.raises(MlopsError, match="can't be written"):
        promote(packages[0], served)


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
        promote.promote_in_run(
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


def test_every_file_is_on_the_disk_before_it_has_its_name(
    served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure, too, there is the old file or the new one: content, then name, then the folder."""
    change = check.prepare_promotion(packages[0], str(served), say=quiet)
    done: list[tuple[str, int]] = []
    renamed: list[tuple[int, int, str]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def named(source: Path, target: Path) -> None:
        renamed.append((len(done), source.stat().st_ino, str(target)))
        done.append(("name", source.stat().st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    entry = apply(change, say=quiet)
    places = {target for _, _, target in renamed}
    assert {str(served / entry.backup / name) for name in production.FILES} | {
        str(served / production.MODEL),
        str(served / audit.JOURNAL),
    } <= places
    for at, inode, target in renamed:
        assert ("fsync", inode) in done[:at], target
        assert ("fsync", Path(target).parent.stat().st_ino) in done[at:] or "backups" in target, target
    # a backup's folder is there before production is changed
    at = next(at for at, _, target in renamed if target == str(served / production.MODEL))
    for folder in (served / entry.backup, served / audit.BACKUPS, served / ".mlops"):
        assert ("fsync", folder.stat().st_ino) in done[:at], folder
    assert ("fsync", (served / audit.AUDIT).stat().st_ino) in done[at:]


def cut_off(change: check.Change, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a change whose process dies before it writes the model into a folder of this name."""

    class Killed(BaseException):
        pass

    real = LocalStore._write

    def die(self: LocalStore, path: Path, data: bytes, like: Any) -> None:
        if path.name == production.MODEL and folder in (path.parent.name, path.parent.parent.name):
            raise Killed
        real(self, path, data, like)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "_write", die)
        patch.setattr("matchmaking.release.promote.recover_change", lambda store, say: None)
        with pytest.raises(Killed):
            apply(change, say=quiet)


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


def test_a_rollback_with_other_encoders_is_refused(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    with (served / production.SCALER).open("ab") as file:
        file.write(b" ")
    before = contents(served)
    with refused("no promotion to take back"):
        rollback(served)
    (entry,) = audit.history(str(served)).entries
    with refused("scaler.pkl changed since that backup", "model file alone"):
        rollback(served, to=str(entry.before.model)[:12])
    assert contents(served) == before


# --- records that can't be read ------------------------------------------------------------------------


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


def test_history_only_reads(served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(check.prepare_promotion(packages[0], str(served), say=quiet), "production", monkeypatch)
    before = {path: path.read_bytes() for path in served.rglob("*") if path.is_file()}
    with open_store(str(served)).lock({"by": "ada"}):
        during = {path: path.read_bytes() for path in served.rglob("*") if path.is_file()}
        assert "isn't finished" in audit.history(str(served)).unfinished
        assert {path: path.read_bytes() for path in served.rglob("*") if path.is_file()} == during
    assert set(before) == set(during)


# --- places --------------------------------------------------------------------------------------------


def test_a_file_uri_is_a_place_like_another(served: Path, packages: list[str], tmp_path: Path) -> None:
    folder = served.rename(tmp_path / "my production")
    uri = f"file://{str(folder).replace(' ', '%20')}"
    apply(check.prepare_promotion(packages[0], uri, say=quiet), say=quiet)
    assert contents(folder) == contents(Path(packages[0]))
    assert len(audit.history(uri).entries) == 1
    with pytest.raises(InputError, match="file:///path"):
        audit.history("file://host/production")


@pytest.mark.parametrize("limit", [100, 50_000])
def test_a_full_disk_fails_in_one_line_and_leaves_production(served: Path, packages: list[str], limit: int) -> None:
    """A limit on the size of files stands for a full disk: it lets the record be written, or not even that."""
    import resource

    change = check.prepare_promotion(packages[0], str(served), say=quiet)
    before = contents(served)
    assert limit < len(change.contents[production.MODEL])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(MlopsError, match=r"can't be written: File too large") as told:
            apply(change, say=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.exit_code == 1
    assert "\n" not in str(told.value)
    assert contents(served) == before
    # and it can be done again
    promote(packages[0], served)
    assert not list(served.rglob(".*tmp"))


# --- killed at any point -------------------------------------------------------------------------------


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
