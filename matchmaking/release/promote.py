"""Promotion: putting a candidate's .h5 where production's is, on evidence, and taking it back.

A change is prepared (`check`: everything is looked at, nothing is written), shown, and then made: lock, journal,
backup, the model file replaced whole, read back; then what `complete` does. The next promotion or rollback finishes or
undoes one that was cut off (`recovery`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from matchmaking.base import escape
from matchmaking.base.errors import MlopsError, RefusedError
from matchmaking.base.records import SHORT
from matchmaking.base.redact import redact
from matchmaking.model import production
from matchmaking.release.audit import BACKUPS, JOURNAL, Say, acting_user, put_journal, stored_hashes
from matchmaking.release.check import Change, explain, prepare_promotion
from matchmaking.release.complete import BY_RUN, RestartError, complete_change
from matchmaking.release.records import Entry, Journal
from matchmaking.release.recovery import backup_name, recover_change
from matchmaking.release.store import open_store
from matchmaking.release.store.interface import ChangedError
from matchmaking.tracking import now


def apply(change: Change, *, who: str = "", say: Say = escape.say) -> Entry:
    """Makes a prepared change.

    Args:
        change: what `prepare_promotion` or `prepare_rollback` gave.
        who: for the audit trail; empty for the user and the host.
        say: is told what happens.

    Returns:
        The audit entry.

    Raises:
        RefusedError: another change is under way, or production isn't what was prepared for.
        RestartError: all is done and recorded, but the service did not restart.
        MlopsError: production could not be written; it holds what it held.
    """
    store = open_store(change.production_uri)
    stamp = now()
    journal = Journal(
        id=uuid.uuid4().hex,
        time=stamp,
        action="promote" if change.action == "promote" else "rollback",
        who=who or acting_user(),
        why=change.why,
        overridden=change.overridden,
        experiment=change.experiment,
        before=change.before,
        after=change.after,
        backup=f"{BACKUPS}/{stamp}-{change.before.model[:SHORT]}" if change.before.model else None,
        production=redact(change.production_uri),
    )
    with store.lock({"by": journal.who, "pid": os.getpid(), "since": stamp}, say):
        # an alias that an earlier change has left behind is passed over by this one's
        pending = recover_change(store, say)
        found = {name: store.read(name) for name in production.FILES}
        if {name: file.sha256 for name, file in found.items() if file} != change.before.sha256:
            raise RefusedError(f"{redact(change.production_uri)} changed since it was checked; nothing was done")
        put_journal(store, journal)
        try:
            for name, file in found.items():
                if file:
                    store.put(f"{journal.backup}/{name}", file.data)
                    backup_name(store, journal.backup or "", name, file.sha256)
            for name in change.files:
                file = found[name]
                store.replace(name, change.contents[name], file.tag if file else None)
            if stored_hashes(store) != change.after.sha256:
                raise ChangedError(f"{redact(change.production_uri)} doesn't hold what was written to it")
        except BaseException:
            try:
                recover_change(store, say)
                if pending and store.read(JOURNAL) is None:
                    put_journal(store, pending)
            except (MlopsError, OSError) as error:
                say(f"what was begun is left as it is ({error}); the next promote or rollback finishes or undoes it")
            raise
        entry, restart_error = complete_change(store, journal, say)
    if restart_error:
        raise RestartError(restart_error, entry)
    return entry


def promote_in_run(
    version: str,
    production_uri: str,
    *,
    run_id: str,
    expected_before: Mapping[str, str],
    force: bool,
    reason: str,
    entry_path: Path,
    experiment: str = "",
) -> None:
    """A promotion as a pipeline's step: prepares and makes it, and closes the MLflow run.

    Args:
        version: see `prepare_promotion`. Where production holds it already (the step was retried), all is well.
        production_uri: the folder.
        run_id: the MLflow run.
        expected_before: production's sha256s when this was decided, by file name.
        force: pass over what the evidence forbids.
        reason: why; needed with `force`.
        entry_path: JSON file to write: the audit entry; `{}` where there was nothing to do.
        experiment: see `prepare_promotion`.

    Raises:
        MlopsError: see `prepare_promotion` and `apply`; or all is done, and MLflow cannot be told.
    """
    from matchmaking import tracking

    change = prepare_promotion(version, production_uri, force=force, reason=reason, experiment=experiment)
    for line in explain(change):
        escape.say(line)
    entry_path.write_text("{}")
    promoted = {"promoted": change.after.version or ""}
    if not change.nothing:
        if change.before.sha256 != dict(expected_before):
            raise RefusedError(f"{redact(production_uri)} changed since this promotion was checked; nothing was done")
        try:
            entry = apply(change, who=f"{BY_RUN}{run_id}")
        except RestartError as error:
            # production holds the candidate all the same
            if error.entry:
                entry_path.write_text(error.entry.as_json(indent=1))
            tracking.tag_run(run_id, promoted)
            raise
        entry_path.write_text(entry.as_json(indent=1))
    tracking.tag_run(run_id, promoted)
    tracking.succeed_run(run_id)
