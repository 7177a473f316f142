"""Promotion: putting a candidate's .h5 where production's is, on evidence, and taking it back.

A change is prepared (everything is checked, nothing is written), shown, and then made: lock, journal, backup, the
model file replaced whole, read back, the audit line, the restart of the service, the registry's alias, journal gone.
However it is cut off, production holds the old model or the new one; the next promotion or rollback finds the journal,
sees from the model file's sha256 which of the two it is, finishes or undoes the rest, and says so. The alias
comes last, as MLflow is a record of what is served, and no reason to serve something else.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matchmaking import escape, notify, production, registry, settings
from matchmaking.errors import InputError, MlopsError, RefusedError
from matchmaking.package import PACKAGED, Package, fetch_package
from matchmaking.production_store import STATE, ChangedError, Store, open_store
from matchmaking.records import SHORT, Entry, Journal, NewerError, RecordError, State, read_record
from matchmaking.redact import redact
from matchmaking.tracking import TrackingError, check_uri, now

AUDIT = f"{STATE}/audit.jsonl"
JOURNAL = f"{STATE}/journal.json"
BACKUPS = f"{STATE}/backups"
# the model last: with it there, production is there (a first promotion writes all three)
ORDER = (production.ENCODER, production.SCALER, production.MODEL)
# the audit trail also has "abandoned" and "restart failed"
ACTIONS = ("promote", "rollback")
# who it was, where it was no person; followed by MLflow's id
BY_RUN = "pipeline run "

Say = Callable[[str], None]


class RestartError(MlopsError):
    """Production's files are changed as asked, but the service did not restart."""

    def __init__(self, message: str, entry: Entry | None = None) -> None:
        super().__init__(message)
        self.entry = entry


@dataclass(frozen=True)
class Change:
    """A promotion or a rollback that has been checked and not yet made.

    Attributes:
        action: "promote" or "rollback".
        production_uri: where.
        before, after: what production holds, and what it will.
        contents: the bytes of `after`, by file name.
        package_uri: of a promotion, where they come from.
        facts: lines for the person who decides.
        why: the verdict's reasons, or what the person gave.
        overridden: the objections that `--force` passes over.
        nothing: production holds `after` already.
    """

    action: str
    production_uri: str
    before: State
    after: State
    contents: dict[str, bytes] = field(repr=False)
    package_uri: str = ""
    facts: list[str] = field(default_factory=list)
    why: str = ""
    overridden: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return self.before.sha256 == self.after.sha256

    @property
    def files(self) -> list[str]:
        """The files that will be written, in order."""
        return [name for name in ORDER if self.before.sha256.get(name) != self.after.sha256[name]]

    @property
    def besides_model(self) -> list[str]:
        """The files that are there and would have to be replaced beside the model, which cannot be done as one."""
        return [name for name in self.files if name != production.MODEL and name in self.before.sha256]


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


def prepare_promotion(
    version: str,
    production_uri: str,
    *,
    force: bool = False,
    reason: str = "",
    say: Say = escape.say,
) -> Change:
    """Checks everything about a promotion; writes nothing to production but what an earlier one left to finish.

    Args:
        version: number in the registry, name or URI of a package; empty for the challenger.
        production_uri: the folder.
        force: pass over what the evidence forbids.
        reason: why; needed with `force`.
        say: is told what recovery did.

    Raises:
        InputError: no such version, package or folder; or `force` without a reason.
        RefusedError: the evidence forbids it.
    """
    if force and not reason.strip():
        raise InputError("--force needs --reason: it is kept in the audit trail")
    store = open_store(production_uri)
    before = _begin(store, production_uri, say)
    if before.sha256 and len(before.sha256) < len(production.FILES):
        raise InputError(f"{redact(production_uri)} holds only {', '.join(before.sha256)}; it needs all three files")
    known = _registered(version, say)
    with tempfile.TemporaryDirectory() as folder:
        package = fetch_package(known.package_uri if known else version, Path(folder))
        production.check_bundle(package.folder, source=redact(package.uri))
        contents = {name: (package.folder / name).read_bytes() for name in production.FILES}
    manifest = package.manifest
    after = State(sha256=manifest.sha256, version=manifest.version, registry_version=known.number if known else None)
    if known:
        tagged = {name: known.tags.get(tag) for name, tag in registry.SHA256_TAGS.items()}
        if tagged != after.sha256:
            raise RefusedError(f"{redact(package.uri)} isn't what was registered as version {known.number} (sha256)")
    why = reason.strip() or "; ".join(package.decision.reasons)
    change = Change("promote", production_uri, before, after, contents, package.uri, _facts(package), why)
    if change.nothing:
        _catch_up(store, say)
        return change
    if other := change.besides_model:
        raise RefusedError(
            f"{', '.join(other)} of {after.version} differ from production's: it is no drop-in for the model file alone"
        )
    if not package.contract.passed:
        raise RefusedError(
            f"{after.version} is not promoted, not by force either: production could not serve it "
            f"({'; '.join(package.contract.failed)})"
        )
    objections = list(_objections(package, before))
    if objections and not force:
        raise RefusedError(
            f"{after.version} is not promoted: {'; '.join(objections)}  (--force --reason TEXT does it all the same)"
        )
    return replace(change, overridden=objections)


def prepare_rollback(production_uri: str, *, to: str = "", reason: str = "", say: Say = escape.say) -> Change:
    """Finds the backup a rollback restores, and checks it.

    Args:
        production_uri: the folder.
        to: name, registry number or sha256 (its first 8 digits will do) of a model that production held before; empty
            for what the last promotion replaced.
        reason: why, for the audit trail.
        say: is told what recovery did.

    Raises:
        InputError: no such folder or model.
        RefusedError: there is nothing to go back to, or the backup is damaged.
    """
    store = open_store(production_uri)
    before = _begin(store, production_uri, say)
    entries = [entry for entry in _audit(store)[0] if entry.action in ACTIONS]
    if to:
        entry = next((e for e in reversed(entries) if _matches(e.before, to)), None)
        if entry is None or not entry.backup:
            raise InputError(f"--to {to}: no backup of such a model; `mlops history` lists those there are")
    else:
        promotions = [e for e in entries if e.action == "promote" and e.after.sha256 == before.sha256]
        if not promotions:
            raise RefusedError(
                f"{redact(production_uri)} holds {before}, which is not the result of a promotion of ours: there is no "
                "promotion to take back; --to says which earlier model to restore (`mlops history` lists them)"
            )
        entry = promotions[-1]
        if not entry.backup:
            raise RefusedError("this was the first promotion: there is no earlier model to go back to")
    after = entry.before
    contents = {name: _backup(store, entry.backup, name, digest) for name, digest in after.sha256.items()}
    facts = [f"backup of {entry.time}, checked against its sha256s"]
    change = Change("rollback", production_uri, before, after, contents, facts=facts, why=reason.strip())
    if other := change.besides_model:
        raise RefusedError(f"{', '.join(other)} changed since that backup; a rollback replaces the model file alone")
    return change


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
        who=who or _who(),
        why=change.why,
        overridden=change.overridden,
        before=change.before,
        after=change.after,
        backup=f"{BACKUPS}/{stamp}-{change.before.model[:SHORT]}" if change.before.model else None,
        production=redact(change.production_uri),
    )
    with store.lock({"by": journal.who, "pid": os.getpid(), "since": stamp}, say):
        # an alias that an earlier change has left behind is passed over by this one's
        pending = _recover(store, say)
        found = {name: store.read(name) for name in production.FILES}
        if {name: file.sha256 for name, file in found.items() if file} != change.before.sha256:
            raise RefusedError(f"{redact(change.production_uri)} changed since it was checked; nothing was done")
        _put_journal(store, journal)
        try:
            for name, file in found.items():
                if file:
                    store.put(f"{journal.backup}/{name}", file.data)
                    _backup(store, journal.backup or "", name, file.sha256)
            for name in change.files:
                file = found[name]
                store.replace(name, change.contents[name], file.tag if file else None)
            if _hashes(store) != change.after.sha256:
                raise ChangedError(f"{redact(change.production_uri)} doesn't hold what was written to it")
        except BaseException:
            try:
                _recover(store, say)
                if pending and store.read(JOURNAL) is None:
                    _put_journal(store, pending)
            except (MlopsError, OSError) as error:
                say(f"what was begun is left as it is ({error}); the next promote or rollback finishes or undoes it")
            raise
        entry, restart_error = _complete(store, journal, say)
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

    Raises:
        MlopsError: see `prepare_promotion` and `apply`; or all is done, and MLflow cannot be told.
    """
    from matchmaking import tracking

    change = prepare_promotion(version, production_uri, force=force, reason=reason)
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


def explain(change: Change) -> list[str]:
    """What will change, in lines for the person who decides."""
    if change.nothing:
        return [f"{redact(change.production_uri)} holds {change.after} already: nothing to do"]
    return [
        f"{change.action} in {redact(change.production_uri)}",
        f"from: {change.before}",
        f"to: {change.after}",
        *change.facts,
        *([f"why: {redact(change.why)}"] if change.why else []),
        *(f"FORCED, against: {objection}" for objection in change.overridden),
        f"files to write: {', '.join(change.files)}" + ("; a backup first" if change.before.model else ""),
    ]


def recover(production_uri: str, *, say: Say = escape.say) -> None:
    """Finishes or undoes a change that was cut off, if there is one, and says what it did.

    Raises:
        RefusedError: the change is still going on, or a newer version began it.
    """
    store = open_store(production_uri)
    if store.read(JOURNAL) is not None:
        with store.lock({"by": _who(), "pid": os.getpid(), "since": now()}, say):
            _recover(store, say)


def history(production_uri: str) -> History:
    """The audit trail, and what production holds now; reads, and neither waits nor writes.

    Raises:
        InputError: no such folder.
    """
    store = open_store(production_uri)
    entries, unreadable = _audit(store)
    current = _state(store)
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


# --- evidence ------------------------------------------------------------------------------------------


def _objections(package: Package, before: State) -> Iterator[str]:
    """What the evidence says against a promotion."""
    decision = package.decision
    if decision.verdict not in PACKAGED:
        yield f"its verdict is {decision.verdict} ({'; '.join(decision.reasons)})"
    compared = package.manifest.compared_with
    if compared != before.sha256:
        was = compared.get(production.MODEL, "")[:SHORT] or "no model"
        yield f"it was compared with {was}, and production holds {before}: train a new candidate"


def _facts(package: Package) -> list[str]:
    manifest, primary = package.manifest, package.decision.primary
    metric = f"{primary.metric} {primary.candidate:.4f}"
    if primary.production is not None:
        metric = f"{primary.metric} {primary.production:.4f} -> {primary.candidate:.4f}"
    return [
        f"verdict {package.decision.verdict}: {metric} on {package.decision.rows:,} held-out pairs",
        f"serving contract {'passed' if package.contract.passed else 'FAILED'}, {len(package.contract.checks)} checks",
        f"dataset {manifest.dataset_version}, code {manifest.code_version}, seed {manifest.seed}",
        *(f"WARNING, the data: {warning}" for warning in package.decision.warnings),
    ]


# --- the change ----------------------------------------------------------------------------------------


def _begin(store: Store, production_uri: str, say: Say) -> State:
    """What comes before every change: an earlier one brought to its end, and what can be refused at once refused."""
    _check_settings()
    store.check(production.FILES)
    recover(production_uri, say=say)
    for line in _audit(store)[1]:
        say(f"the audit trail: {line}; it is passed over")
    return _state(store)


def _complete(store: Store, journal: Journal, say: Say) -> tuple[Entry, str | None]:
    """What follows once the model file is replaced; each part may have been done already.

    Returns:
        The audit entry, and why the service did not restart, if so.
    """
    entry = journal.entry()
    restart_error = None
    if journal.id not in {known.id for known in _audit(store)[0]}:
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
            )
            store.append(AUDIT, failed.as_json())
        journal = journal.model_copy(update={"restarted": True})
        _put_journal(store, journal)
        _tell(entry, restart_error)
    if _move_champion(journal, say):
        store.delete(JOURNAL)
    return entry, restart_error


def _recover(store: Store, say: Say) -> Journal | None:
    """Reads the journal and brings what it says to an end; to be called under the lock.

    Returns:
        The journal of a change that is done but for the alias in the model registry: it is left to the next change,
        which must not wait for MLflow.
    """
    try:
        journal = _journal(store)
    except NewerError:
        raise
    except RecordError as error:
        _set_aside(store, error, say)
        return None
    if journal is None:
        return None
    before, after, holds = journal.before, journal.after, _hashes(store)
    what = _what(journal)
    if journal.restarted:
        if registry.available():
            return journal
        say(f"{what} was done; no MLflow records here: the alias {registry.CHAMPION} was not moved")
        store.delete(JOURNAL)
        return None
    if holds == after.sha256:
        say(f"{what} was cut off after it had replaced the model; completing it")
        _, restart_error = _complete(store, journal, say)
        if restart_error:
            say(restart_error)
        return None
    model = holds.get(production.MODEL)
    if journal.id in {known.id for known in _audit(store)[0]}:
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


def _catch_up(store: Store, say: Say) -> None:
    """Moves the alias that an earlier change could not."""
    journal = _journal(store)
    if journal and journal.restarted:
        with store.lock({"by": _who(), "pid": os.getpid(), "since": now()}, say):
            pending = _recover(store, say)
            if pending:
                _complete(store, pending, say)


def _what(journal: Journal) -> str:
    return f"the {'promotion of' if journal.action == 'promote' else 'rollback to'} {journal.after} by {journal.who}"


def _unfinished(store: Store) -> str:
    """A change that isn't at its end, in a sentence."""
    try:
        journal = _journal(store)
    except NewerError as error:
        return str(error)
    except RecordError as error:
        return f"a change was cut off, and its record is damaged ({error}); the next promote or rollback sets it aside"
    if journal is None:
        return ""
    if journal.restarted:
        return (
            f"{_what(journal)} is done but for the alias {registry.CHAMPION} in the model registry, which the next "
            "promote or rollback moves"
        )
    return (
        f"{_what(journal)}, begun {journal.time}, isn't finished: it is under way, or it was cut off, and then the "
        "next promote or rollback completes or undoes it"
    )


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
    # a file, not a pipe: a service that goes on running would hold a pipe open
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"the restart command can't be run: {error}"
        try:
            code = process.wait(settings.restart_timeout())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"the restart command didn't end in {settings.restart_timeout():g} s; is the service running?"
        if code:
            output.seek(0)
            said = " ".join(output.read().decode(errors="replace").split())[-300:]
            return f"the restart command failed with exit code {code}: {redact(said) or 'it said nothing'}"
    say("the service was restarted")
    return None


def _tell(entry: Entry, restart_error: str | None) -> None:
    body = [f"{entry.before} -> {entry.after}", f"by {entry.who}: {entry.why}"]
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


# --- reading -------------------------------------------------------------------------------------------


def _hashes(store: Store) -> dict[str, str]:
    found = {name: store.read(name) for name in production.FILES}
    return {name: file.sha256 for name, file in found.items() if file}


def _state(store: Store) -> State:
    """What production holds, with its name where a promotion of ours wrote it."""
    holds = _hashes(store)
    for entry in reversed(_audit(store)[0]):
        if entry.action in ACTIONS and entry.after.sha256 == holds:
            return entry.after
    return State.model_validate({"sha256": holds})


def _audit(store: Store) -> tuple[list[Entry], list[str]]:
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


def _journal(store: Store) -> Journal | None:
    """The record of a change that isn't at its end.

    Raises:
        NewerError: a newer version began it.
        RecordError: it is damaged.
    """
    found = store.read(JOURNAL)
    return read_record(Journal, found.data, f"{JOURNAL}, the record of a change that was cut off,") if found else None


def _backup(store: Store, folder: str, name: str, sha256: str) -> bytes:
    found = store.read(f"{folder}/{name}")
    if found is None or hashlib.sha256(found.data).hexdigest() != sha256:
        raise RefusedError(f"the backup {folder}/{name} is missing or damaged (sha256); nothing was changed")
    return found.data


def _is_whole(store: Store, journal: Journal) -> bool:
    """Whether a change that was cut off had come to the end of its backup."""
    try:
        return bool([_backup(store, journal.backup or "", *file) for file in journal.before.sha256.items()])
    except RefusedError:
        return False


def _put_journal(store: Store, journal: Journal) -> None:
    store.put(JOURNAL, journal.as_json(indent=1).encode())


def _matches(state: State, to: str) -> bool:
    return to in (state.version, state.registry_version) or (len(to) >= 8 and (state.model or "").startswith(to))


def _registered(version: str, say: Say) -> registry.Version | None:
    """A version in the registry; None for a package that is named by its URI and isn't in there."""
    if "/" not in version:
        return registry.find(version)
    try:
        return registry.find(version) if registry.available() else None
    except InputError:
        return None
    except TrackingError as error:
        say(f"{error}; {redact(version)} is taken by its files alone")
        return None


def _check_settings() -> None:
    """What is needed once production has been replaced must be right before it is."""
    try:
        settings.restart_timeout()
        shlex.split(settings.restart_command())
    except ValueError as error:
        raise InputError(f"MLOPS_RESTART_COMMAND or MLOPS_RESTART_TIMEOUT: {error}") from error
    check_uri()


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
