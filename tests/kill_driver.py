"""Kills a change of production at every point where it touches the disk, and reports what the next command finds.

Run as a program, without TensorFlow and its threads, so that it can fork: each case is a child that is killed with
SIGKILL right before its k-th operation, then a second child that runs the next command. Prints a JSON line a case.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # noqa: F401  imported before the forks, so that each child needn't
import joblib  # noqa: F401
import sklearn.preprocessing  # noqa: F401

from matchmaking.model import production
from matchmaking.release import audit, check, promote, recovery, registry
from matchmaking.release.store.interface import STATE

OPERATIONS: list[tuple[Any, str]] = [
    *((os, name) for name in ("replace", "fsync", "ftruncate", "pwrite", "fchmod")),
    *((Path, name) for name in ("mkdir", "unlink", "rmdir")),
    (registry, "set_champion"),
]


def in_child(call: Callable[[], Any]) -> tuple[int, Any]:
    """Runs something in a fork; gives its wait status and what it returned (JSON)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(call()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(text) if text else None


def kill_before(number: int) -> None:
    """Arms this process: it dies right before its `number`-th operation."""
    count = 0

    def armed(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **kwargs)

        setattr(owner, name, wrapped)

    for owner, name in OPERATIONS:
        armed(owner, name)


def look(folder: Path) -> dict[str, Any]:
    """What the service sees, and what is left beside it."""
    return {
        "files": production.hashes(folder),
        "names": sorted(path.name for path in folder.iterdir() if path.name != STATE),
        "journal": (folder / audit.JOURNAL).exists(),
        "temporary": [path.name for path in folder.rglob(".*tmp")],
        "ours": len(list((folder / STATE).rglob("*"))),
    }


def main(template: str, work: str, action: str, package: str) -> None:
    folder = Path(work) / "production"
    number = twice = 0
    # a killed process loses nothing that it wrote, so nothing needs to reach the disk here
    os.fsync = lambda descriptor: None
    recovered: set[str] = set()

    def change() -> check.Change:
        if action == "rollback":
            return check.prepare_rollback(str(folder), say=lambda text: None)
        return check.prepare_promotion(package, str(folder), say=lambda text: None)

    def interrupted() -> None:
        prepared = change()
        kill_before(number)
        promote.apply(prepared, say=lambda text: None)

    def interrupted_recovery() -> None:
        kill_before(twice)
        recovery.recover(str(folder), say=lambda text: None)

    def next_command() -> dict[str, Any]:
        said: list[str] = []
        recovery.recover(str(folder), say=said.append)
        found = audit.history(str(folder))
        return {
            "said": said,
            "entries": [entry.as_dict() for entry in found.entries],
            "foreign": found.foreign,
            "after": look(folder),
            "registry": registry.find("1").number if registry.available() else None,
        }

    while True:
        number += 1
        twice = 0
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(template, folder)
            status, _ = in_child(interrupted)
            if not os.WIFSIGNALED(status):
                sys.exit(os.waitstatus_to_exitcode(status))
            killed = look(folder)
            key = json.dumps(killed)
            # the recovery is killed, too, at each of its own operations
            again = False
            if killed["journal"] and twice:
                again = os.WIFSIGNALED(in_child(interrupted_recovery)[0])
            status, found = in_child(next_command)
            print(json.dumps({"point": number, "twice": twice, "status": status, "killed": killed, "found": found}))
            # once for each state that recovery can begin with
            if (
                not killed["journal"]
                or (twice and not again)
                or (not twice and key in recovered)
                or action == "rollback"
            ):
                break
            recovered.add(key)
            twice += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
