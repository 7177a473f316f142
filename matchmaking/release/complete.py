"""The end of a change of production, once the model file is in place.

The audit line, the restart of the service, the registry's alias, journal gone. The alias comes last, as MLflow is a
record of what is served, and no reason to serve something else.
"""

from __future__ import annotations

import uuid

from matchmaking.base import settings
from matchmaking.base.command import run_command
from matchmaking.base.errors import MlopsError
from matchmaking.release import registry
from matchmaking.release.audit import AUDIT, JOURNAL, Say, put_journal, read_audit
from matchmaking.release.records import Entry, Journal
from matchmaking.release.store.interface import Store
from matchmaking.tracking import notify, now

# who it was, where it was no person; followed by MLflow's id
BY_RUN = "pipeline run "


class RestartError(MlopsError):
    """Production's files are changed as asked, but the service did not restart."""

    def __init__(self, message: str, entry: Entry | None = None) -> None:
        super().__init__(message)
        self.entry = entry


def complete_change(store: Store, journal: Journal, say: Say) -> tuple[Entry, str | None]:
    """What follows once the model file is replaced; each part may have been done already.

    Returns:
        The audit entry, and why the service did not restart, if so.
    """
    entry = journal.entry()
    restart_error = None
    if journal.id not in {known.id for known in read_audit(store)[0]}:
        store.append(AUDIT, entry.as_json())
    if not journal.restarted:
        restart_error = _restart(say)
        if restart_error:
            failed = journal.entry(
                id=uuid.uuid4().hex,
                time=now(),
                action="restart failed",
                why=restart_error,
                backup=None,
                overridden=[],
                experiment=None,
            )
            store.append(AUDIT, failed.as_json())
        journal = journal.model_copy(update={"restarted": True})
        put_journal(store, journal)
        _tell(entry, restart_error)
    if _move_champion(journal, say):
        store.delete(JOURNAL)
    return entry, restart_error


def _move_champion(journal: Journal, say: Say) -> bool:
    """Whether the alias is where it should be, or there is no registry to say it in."""
    after = journal.after
    if not registry.available():
        say(f"no MLflow records here: the alias {registry.CHAMPION} was not moved")
        return True
    try:
        registry.set_champion(after.model or "", after.registry_version)
    except MlopsError as error:
        say(f"{error}; the alias {registry.CHAMPION} is moved by the next promote or rollback")
        return False
    return True


def _restart(say: Say) -> str | None:
    """Runs the restart command, if one is configured; gives why the service did not restart."""
    command = settings.restart_command()
    if not command:
        say("the service reads its files when it starts: restart it (MLOPS_RESTART_COMMAND can do that)")
        return None
    if failure := run_command(command, settings.restart_timeout(), "the restart command"):
        return f"{failure}; is the service running?"
    say("the service was restarted")
    return None


def _tell(entry: Entry, restart_error: str | None) -> None:
    body = [f"{entry.before} -> {entry.after}", f"by {entry.who}: {entry.why}"]
    if entry.experiment:
        body.append(f"on evidence of {entry.experiment}")
    if entry.overridden:
        body.append(f"FORCED, against: {'; '.join(entry.overridden)}")
    if restart_error:
        body.append(restart_error)
    if entry.who.startswith(BY_RUN):
        # whose page leads on to Kubeflow Pipelines; asked for it, MLflow might have to be waited for
        body.append(f"MLflow run {settings.mlflow_run_url(entry.who.removeprefix(BY_RUN))}")
    done = "Promoted" if entry.action == "promote" else "Rolled back to"
    notify.send(
        "promotion" if entry.action == "promote" else "rollback",
        f"{done} {entry.after.version or 'an earlier model'}" + (", NOT RESTARTED" if restart_error else ""),
        "\n".join(body),
    )
