"""What production's own records tell: the audit trail, the journal of a change under way, and who holds what."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matchmaking.base.errors import MlopsError
from matchmaking.base.records import NewerError, RecordError, read_record
from matchmaking.model import production
from matchmaking.release import registry
from matchmaking.release.records import Entry, Journal, State
from matchmaking.release.store import open_store
from matchmaking.release.store.interface import STATE, Store

AUDIT = f"{STATE}/audit.jsonl"
JOURNAL = f"{STATE}/journal.json"
BACKUPS = f"{STATE}/backups"
# the model last: with it there, production is there (a first promotion writes all three)
ORDER = (production.ENCODER, production.SCALER, production.MODEL)
# the audit trail also has "abandoned" and "restart failed"
ACTIONS = ("promote", "rollback")

Say = Callable[[str], None]


@dataclass(frozen=True)
class History:
    """The audit trail of a production folder.

    Attributes:
        entries: oldest first.
        foreign_before: by an entry's id, the sha256 of a model that came between it and the one before without us.
        current: what production holds now.
        foreign: whether no promotion of ours wrote that.
        unreadable: the lines of the trail that can't be read, and why.
        unfinished: the change that is under way or was cut off, in a sentence; empty for none.
    """

    entries: list[Entry]
    foreign_before: dict[str, str | None]
    current: State
    foreign: bool
    unreadable: list[str]
    unfinished: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The history as `mlops history --json` prints it."""
        entries = [{**entry.as_dict(), "foreign_before": self.foreign_before.get(entry.id)} for entry in self.entries]
        return {
            "entries": entries,
            "current": self.current.model_dump(mode="json"),
            "foreign": self.foreign,
            "damaged": len(self.unreadable),
            "unreadable": self.unreadable,
            "unfinished": self.unfinished,
        }


def history(production_uri: str) -> History:
    """The audit trail, and what production holds now; reads, and neither waits nor writes.

    Raises:
        InputError: no such folder.
    """
    store = open_store(production_uri)
    entries, unreadable = read_audit(store)
    current = current_state(store)
    last: str | None = None
    ours = False
    foreign_before: dict[str, str | None] = {}
    for entry in entries:
        if entry.action in ACTIONS:
            if ours and entry.before.model != last:
                foreign_before[entry.id] = entry.before.model
            last, ours = entry.after.model, True
    foreign = current.model is not None and current.model != last
    return History(entries, foreign_before, current, foreign, unreadable, _unfinished(store))


def promoted_models(production_uri: str) -> list[str] | None:
    """The sha256 of every .h5 that has been production, oldest first; None where the audit trail can't be read.

    A trail that is empty knows nothing: production was put there by other hands.
    """
    try:
        found = history(production_uri)
    except MlopsError:
        return None
    models = [
        state.model
        for entry in found.entries
        if entry.action in ACTIONS
        for state in (entry.before, entry.after)
        if state.model
    ]
    return list(dict.fromkeys([*models, *([found.current.model] if found.current.model else [])])) if models else None


def in_words(journal: Journal) -> str:
    return f"the {'promotion of' if journal.action == 'promote' else 'rollback to'} {journal.after} by {journal.who}"


def _unfinished(store: Store) -> str:
    """A change that isn't at its end, in a sentence."""
    try:
        journal = read_journal(store)
    except NewerError as error:
        return str(error)
    except RecordError as error:
        return f"a change was cut off, and its record is damaged ({error}); the next promote or rollback sets it aside"
    if journal is None:
        return ""
    if journal.restarted:
        return (
            f"{in_words(journal)} is done but for the alias {registry.CHAMPION} in the model registry, which the next "
            "promote or rollback moves"
        )
    return (
        f"{in_words(journal)}, begun {journal.time}, isn't finished: it is under way, or it was cut off, and then the "
        "next promote or rollback completes or undoes it"
    )


def stored_hashes(store: Store) -> dict[str, str]:
    found = {name: store.read(name) for name in production.FILES}
    return {name: file.sha256 for name, file in found.items() if file}


def current_state(store: Store) -> State:
    """What production holds, with its name where a promotion of ours wrote it."""
    holds = stored_hashes(store)
    for entry in reversed(read_audit(store)[0]):
        if entry.action in ACTIONS and entry.after.sha256 == holds:
            return entry.after
    return State.model_validate({"sha256": holds})


def read_audit(store: Store) -> tuple[list[Entry], list[str]]:
    """The entries, oldest first, and of each line that can't be read why."""
    found = store.read(AUDIT)
    entries: list[Entry] = []
    unreadable: list[str] = []
    for number, line in enumerate(found.data.splitlines() if found else [], start=1):
        try:
            entries.append(read_record(Entry, line, f"line {number}"))
        except RecordError as error:
            unreadable.append(str(error))
    return entries, unreadable


def read_journal(store: Store) -> Journal | None:
    """The record of a change that isn't at its end.

    Raises:
        NewerError: a newer version began it.
        RecordError: it is damaged.
    """
    found = store.read(JOURNAL)
    return read_record(Journal, found.data, f"{JOURNAL}, the record of a change that was cut off,") if found else None


def put_journal(store: Store, journal: Journal) -> None:
    store.put(JOURNAL, journal.as_json(indent=1).encode())


def acting_user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
