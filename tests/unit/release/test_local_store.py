"""Production in a folder: two at once, readers, what is on the disk when, and a disk that is full."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from matchmaking.base.errors import MlopsError
from matchmaking.model import production
from matchmaking.release import audit, check
from matchmaking.release.promote import apply
from matchmaking.release.store import open_store
from matchmaking.release.store.interface import LOCK
from matchmaking.release.store.local import LocalStore
from tests.promotion_fixtures import contents, promote, quiet, refused


def test_of_many_at_once_one_wins(served: Path, packages: list[str]) -> None:
    """Real processes, each with a change that was prepared against the same production."""
    code = (
        "import sys\n"
        "from matchmaking.release import check, promote\n"
        "from matchmaking.base.errors import RefusedError\n"
        "change = check.prepare_promotion(sys.argv[1], sys.argv[2])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n    promote.apply(change)\nexcept RefusedError:\n    sys.exit(3)\n"
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
