"""A change of production that was cut off: found by its journal, finished or undone, and said.

However it was cut off, production holds the old model or the new one; the model file's sha256 tells which.
"""

from __future__ import annotations

import hashlib
import os

from matchmaking.base import escape
from matchmaking.base.errors import RefusedError
from matchmaking.base.records import SHORT, NewerError, RecordError
from matchmaking.model import production
from matchmaking.release import registry
from matchmaking.release.audit import (
    AUDIT,
    JOURNAL,
    ORDER,
    Say,
    acting_user,
    in_words,
    read_audit,
    read_journal,
    stored_hashes,
)
from matchmaking.release.complete import complete_change
from matchmaking.release.records import Journal
from matchmaking.release.store import open_store
from matchmaking.release.store.interface import STATE, Store
from matchmaking.tracking import now


def recover(production_uri: str, *, say: Say = escape.say) -> None:
    """Finishes or undoes a change that was cut off, if there is one, and says what it did.

    Raises:
        RefusedError: the change is still going on, or a newer version began it.
    """
    store = open_store(production_uri)
    if store.read(JOURNAL) is not None:
        with store.lock({"by": acting_user(), "pid": os.getpid(), "since": now()}, say):
            recover_change(store, say)


def recover_change(store: Store, say: Say) -> Journal | None:
    """Reads the journal and brings what it says to an end; to be called under the lock.

    Returns:
        The journal of a change that is done but for the alias in the model registry: it is left to the next change,
        which must not wait for MLflow.
    """
    try:
        journal = read_journal(store)
    except NewerError:
        raise
    except RecordError as error:
        _set_aside(store, error, say)
        return None
    if journal is None:
        return None
    before, after, holds = journal.before, journal.after, stored_hashes(store)
    what = in_words(journal)
    if journal.restarted:
        if registry.available():
            return journal
        say(f"{what} was done; no MLflow records here: the alias {registry.CHAMPION} was not moved")
        store.delete(JOURNAL)
        return None
    if holds == after.sha256:
        say(f"{what} was cut off after it had replaced the model; completing it")
        _, restart_error = complete_change(store, journal, say)
        if restart_error:
            say(restart_error)
        return None
    model = holds.get(production.MODEL)
    if journal.id in {known.id for known in read_audit(store)[0]}:
        say(f"{what} is done; somebody else has changed production since")
        store.delete(JOURNAL)
        return None
    if model == before.model:
        # of a first promotion, what came before the model file; nothing else writes more than one file
        for name in ORDER:
            if name not in before.sha256 and holds.get(name) == after.sha256[name]:
                store.delete(name)
        if journal.backup:
            store.delete(journal.backup)
        say(f"{what} was cut off before it had replaced the model; undone: production holds {before}, as before")
        cut_off = journal.entry(action="abandoned", abandoned=journal.action, backup=None)
    else:
        kept = journal.backup if _is_whole(store, journal) else None
        say(
            f"{what} was cut off, and production now holds a model that is neither the one before nor the one after "
            f"(sha256 {(model or 'none')[:SHORT]}); it was left as it is, "
            + (f"with a backup of {before}" if kept else f"before {before} was backed up")
        )
        cut_off = journal.entry(action="abandoned", abandoned=journal.action, backup=kept)
    store.append(AUDIT, cut_off.as_json())
    store.delete(JOURNAL)
    return None


def _set_aside(store: Store, error: RecordError, say: Say) -> None:
    """A journal that says nothing any more must not keep production from being changed for good."""
    found = store.read(JOURNAL)
    aside = f"{STATE}/journal-damaged-{now()}.json"
    store.put(aside, found.data if found else b"")
    store.delete(JOURNAL)
    say(
        f"a change was cut off, and its record is damaged ({error}); it was kept as {aside}, and production, which is "
        "whole, as it is; the backups are untouched"
    )


def catch_up(store: Store, say: Say) -> None:
    """Moves the alias that an earlier change could not."""
    journal = read_journal(store)
    if journal and journal.restarted:
        with store.lock({"by": acting_user(), "pid": os.getpid(), "since": now()}, say):
            pending = recover_change(store, say)
            if pending:
                complete_change(store, pending, say)


def backup_name(store: Store, folder: str, name: str, sha256: str) -> bytes:
    found = store.read(f"{folder}/{name}")
    if found is None or hashlib.sha256(found.data).hexdigest() != sha256:
        raise RefusedError(f"the backup {folder}/{name} is missing or damaged (sha256); nothing was changed")
    return found.data


def _is_whole(store: Store, journal: Journal) -> bool:
    """Whether a change that was cut off had come to the end of its backup."""
    try:
        return bool([backup_name(store, journal.backup or "", *file) for file in journal.before.sha256.items()])
    except RefusedError:
        return False
