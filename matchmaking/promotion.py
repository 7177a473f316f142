"""Promotion: putting a candidate's .h5 where production's is, on evidence, and taking it back.

A change is prepared (everything is checked, nothing is written), shown, and then made: lock, journal, backup, the
model file replaced whole, read back, the registry's alias, the audit line, the restart of the service, journal gone.
However it is cut off, production holds the old model or the new one; the next command finds the journal, sees from the
model file's sha256 which of the two it is, finishes or undoes the rest, and says so.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from matchmaking import notify, production, registry, settings
from matchmaking.errors import InputError, MlopsError, RefusedError
from matchmaking.package import PACKAGED, Package, fetch_package
from matchmaking.production_store import STATE, ChangedError, Store, open_store
from matchmaking.redact import redact
from matchmaking.tracking import TrackingError, now

AUDIT = f"{STATE}/audit.jsonl"
JOURNAL = f"{STATE}/journal.json"
BACKUPS = f"{STATE}/backups"
# the model last: with it there, production is there (a first promotion writes all three)
ORDER = (production.ENCODER, production.SCALER, production.MODEL)
# the audit trail also has "abandoned" and "restart failed"
ACTIONS = ("promote", "rollback")
SHORT = 12

Say = Callable[[str], None]


class RestartError(MlopsError):
    """Production's files are changed as asked, but the service did not restart."""


@dataclass(frozen=True)
class State:
    """What production holds at one time.

    Attributes:
        sha256: by file name; empty for no model.
        version: the package's name; None for files that no promotion of ours wrote.
        registry_version: its number in the model registry, where it has one.
    """

    sha256: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    registry_version: str | None = None

    @property
    def model(self) -> str | None:
        """The model file's sha256."""
        return self.sha256.get(production.MODEL)

    def __str__(self) -> str:
        if self.model is None:
            return "no model"
        number = f", version {self.registry_version}" if self.registry_version else ""
        return f"{self.version or 'a model from elsewhere'} (sha256 {self.model[:SHORT]}{number})"


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
        entries: oldest first; each has `foreign_before`, the sha256 of a model that came between it and the one before
            without us, or None.
        current: what production holds now.
        foreign: whether no promotion of ours wrote that.
        damaged: lines of the trail that cannot be read.
    """

    entries: list[dict[str, Any]]
    current: State
    foreign: bool
    damaged: int


def prepare_promotion(
    version: str,
    production_uri: str,
    *,
    force: bool = False,
    reason: str = "",
    say: Say = print,
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
    recover(production_uri, say=say)
    before = _state(store)
    _check_settings()
    if before.sha256 and len(before.sha256) < len(production.FILES):
        raise InputError(f"{redact(production_uri)} holds only {', '.join(before.sha256)}; it needs all three files")
    known = _registered(version)
    with tempfile.TemporaryDirectory() as folder:
        package = fetch_package(known.package_uri if known else version, Path(folder))
        production.check_bundle(package.folder, source=redact(package.uri))
        contents = {name: (package.folder / name).read_bytes() for name in production.FILES}
    after = State(package.manifest["sha256"], package.manifest["version"], known.number if known else None)
    if known:
        tagged = {name: known.tags.get(tag) for name, tag in registry.SHA256_TAGS.items()}
        if tagged != after.sha256:
            raise RefusedError(f"{redact(package.uri)} isn't what was registered as version {known.number} (sha256)")
    why = reason.strip() or "; ".join(package.decision["reasons"])
    change = Change("promote", production_uri, before, after, contents, package.uri, _facts(package), why)
    if change.nothing:
        return change
    if other := change.besides_model:
        raise RefusedError(
            f"{', '.join(other)} of {after.version} differ from production's: it is no drop-in for the model file alone"
        )
    objections = list(_objections(package, before))
    if objections and not force:
        raise RefusedError(
            f"{after.version} is not promoted: {'; '.join(objections)}  (--force --reason TEXT does it all the same)"
        )
    return replace(change, overridden=objections)


def prepare_rollback(production_uri: str, *, to: str = "", reason: str = "", say: Say = print) -> Change:
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
    recover(production_uri, say=say)
    _check_settings()
    before = _state(store)
    entries = [entry for entry in _audit(store)[0] if entry["action"] in ACTIONS]
    if to:
        entry = next((e for e in reversed(entries) if _matches(_from(e), to)), None)
        if entry is None or not entry["backup"]:
            raise InputError(f"--to {to}: no backup of such a model; `mlops history` lists those there are")
    else:
        promotions = [e for e in entries if e["action"] == "promote" and e["to"]["sha256"] == before.sha256]
        if not promotions:
            raise RefusedError(
                f"{redact(production_uri)} holds {before}, which is not the result of a promotion of ours: there is no "
                "promotion to take back; --to says which earlier model to restore (`mlops history` lists them)"
            )
        entry = promotions[-1]
        if not entry["backup"]:
            raise RefusedError("this was the first promotion: there is no earlier model to go back to")
    after = _from(entry)
    contents = {name: _backup(store, entry["backup"], name, digest) for name, digest in after.sha256.items()}
    facts = [f"backup of {entry['time']}, checked against its sha256s"]
    change = Change("rollback", production_uri, before, after, contents, facts=facts, why=reason.strip())
    if other := change.besides_model:
        raise RefusedError(f"{', '.join(other)} changed since that backup; a rollback replaces the model file alone")
    return change


def apply(change: Change, *, who: str = "", say: Say = print) -> dict[str, Any]:
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
    journal: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "time": stamp,
        "action": change.action,
        "who": who or _who(),
        "why": change.why,
        "overridden": change.overridden,
        "from": asdict(change.before),
        "to": asdict(change.after),
        "backup": f"{BACKUPS}/{stamp}-{(change.before.model or '')[:SHORT]}" if change.before.model else None,
        "production": redact(change.production_uri),
    }
    with store.lock({"by": journal["who"], "pid": os.getpid(), "since": stamp}):
        _recover(store, say)
        found = {name: store.read(name) for name in production.FILES}
        if {name: file.sha256 for name, file in found.items() if file} != change.before.sha256:
            raise RefusedError(f"{redact(change.production_uri)} changed since it was checked; nothing was done")
        _put_json(store, JOURNAL, journal)
        try:
            for name, file in found.items():
                if file:
                    store.put(f"{journal['backup']}/{name}", file.data)
                    _backup(store, journal["backup"], name, file.sha256)
            for name in change.files:
                file = found[name]
                store.replace(name, change.contents[name], file.tag if file else None)
            if _hashes(store) != change.after.sha256:
                raise ChangedError(f"{redact(change.production_uri)} doesn't hold what was written to it")
        except BaseException:
            _recover(store, say)
            raise
        entry, restart_error = _complete(store, journal, say)
    if restart_error:
        raise RestartError(restart_error)
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
        MlopsError: see `prepare_promotion` and `apply`.
    """
    from matchmaking import tracking

    change = prepare_promotion(version, production_uri, force=force, reason=reason)
    for line in explain(change):
        print(line, flush=True)
    entry: dict[str, Any] = {}
    if not change.nothing:
        if change.before.sha256 != dict(expected_before):
            raise RefusedError(f"{redact(production_uri)} changed since this promotion was checked; nothing was done")
        entry = apply(change, who=f"pipeline run {run_id}")
    entry_path.write_text(json.dumps(entry, indent=1))
    client = tracking.client()
    client.set_tag(run_id, "promoted", change.after.version)
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


def recover(production_uri: str, *, say: Say = print) -> None:
    """Finishes or undoes a change that was cut off, if there is one, and says what it did.

    Raises:
        RefusedError: the change is still going on.
    """
    store = open_store(production_uri)
    if store.read(JOURNAL) is not None:
        with store.lock({"by": _who(), "pid": os.getpid(), "since": now()}):
            _recover(store, say)


def history(production_uri: str, *, say: Say = print) -> History:
    """The audit trail, and what production holds now.

    Raises:
        InputError: no such folder.
        RefusedError: a change is going on.
    """
    recover(production_uri, say=say)
    store = open_store(production_uri)
    entries, damaged = _audit(store)
    current = _state(store)
    last: str | None = None
    ours = False
    for entry in entries:
        entry["foreign_before"] = None
        if entry["action"] in ACTIONS:
            if ours and _from(entry).model != last:
                entry["foreign_before"] = _from(entry).model
            last, ours = _to(entry).model, True
    return History(entries, current, current.model is not None and current.model != last, damaged)


# --- evidence ------------------------------------------------------------------------------------------


def _objections(package: Package, before: State) -> Iterator[str]:
    """What the evidence says against a promotion."""
    verdict = package.decision["verdict"]
    if verdict not in PACKAGED:
        yield f"its verdict is {verdict} ({'; '.join(package.decision['reasons'])})"
    if not package.contract["passed"]:
        from matchmaking.contract import failed

        yield f"the serving contract failed ({'; '.join(failed(package.contract))})"
    compared = package.manifest["compared_with"]
    if compared != before.sha256:
        was = compared.get(production.MODEL, "")[:SHORT] or "no model"
        yield f"it was compared with {was}, and production holds {before}: train a new candidate"


def _facts(package: Package) -> list[str]:
    manifest, primary = package.manifest, package.decision["primary"]
    metric = f"{primary['metric']} {primary['candidate']:.4f}"
    if primary["production"] is not None:
        metric = f"{primary['metric']} {primary['production']:.4f} -> {primary['candidate']:.4f}"
    return [
        f"verdict {package.decision['verdict']}: {metric} on {package.decision['rows']:,} held-out pairs",
        f"serving contract {'passed' if package.contract['passed'] else 'FAILED'}, "
        f"{len(package.contract['checks'])} checks",
        f"dataset {manifest['dataset_version']}, code {manifest['code_version']}, seed {manifest['seed']}",
    ]


# --- the change ----------------------------------------------------------------------------------------


def _complete(store: Store, journal: dict[str, Any], say: Say) -> tuple[dict[str, Any], str | None]:
    """What follows once the model file is replaced; each part may have been done already.

    Returns:
        The audit entry, and why the service did not restart, if so.
    """
    moved = _move_champion(journal, say)
    entry = {key: value for key, value in journal.items() if key != "restarted"}
    restart_error = None
    if journal["id"] not in {known["id"] for known in _audit(store)[0]}:
        store.append(AUDIT, json.dumps(entry))
    if not journal.get("restarted"):
        restart_error = _restart(say)
        if restart_error:
            failure = {"id": uuid.uuid4().hex, "time": now(), "action": "restart failed", "why": restart_error}
            store.append(AUDIT, json.dumps({**entry, "backup": None, "overridden": [], **failure}))
        _tell(entry, restart_error)
    if moved:
        store.delete(JOURNAL)
    else:
        # the next command tries again, and that only
        _put_json(store, JOURNAL, {**journal, "restarted": True})
    return entry, restart_error


def _recover(store: Store, say: Say) -> None:
    """Reads the journal and brings what it says to an end; to be called under the lock."""
    found = store.read(JOURNAL)
    if found is None:
        return
    journal = json.loads(found.data)
    before, after, holds = _from(journal), _to(journal), _hashes(store)
    what = f"the {'promotion of' if journal['action'] == 'promote' else 'rollback to'} {after} by {journal['who']}"
    if holds == after.sha256:
        if journal.get("restarted"):
            say(f"{what} was done but for the alias in the model registry; trying that again")
        else:
            say(f"{what} was cut off after it had replaced the model; completing it")
        _, restart_error = _complete(store, journal, say)
        if restart_error:
            say(restart_error)
        return
    model = holds.get(production.MODEL)
    if journal["id"] in {known["id"] for known in _audit(store)[0]}:
        say(f"{what} is done; somebody else has changed production since")
        store.delete(JOURNAL)
        return
    if model == before.model:
        # of a first promotion, what came before the model file; nothing else writes more than one file
        for name in ORDER:
            if name not in before.sha256 and holds.get(name) == after.sha256[name]:
                store.delete(name)
        if journal["backup"]:
            store.delete(journal["backup"])
        say(f"{what} was cut off before it had replaced the model; undone: production holds {before}, as before")
    else:
        say(
            f"{what} was cut off, and production now holds a model that is neither the one before nor the one after "
            f"(sha256 {(model or 'none')[:SHORT]}); it was left as it is, with a backup of {before}"
        )
    cut_off = {**journal, "action": "abandoned", "abandoned": journal["action"]}
    if model == before.model:
        cut_off["backup"] = None
    store.append(AUDIT, json.dumps(cut_off))
    store.delete(JOURNAL)


def _move_champion(journal: dict[str, Any], say: Say) -> bool:
    """Whether the alias is where it should be, or there is no registry to say it in."""
    after = _to(journal)
    if not registry.available():
        say("no MLflow records here: the alias champion was not moved")
        return True
    try:
        registry.set_champion(after.model or "", after.registry_version)
    except TrackingError as error:
        say(f"{error}; the alias champion is moved by the next promote, rollback or history")
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


def _tell(entry: dict[str, Any], restart_error: str | None) -> None:
    body = [f"{_from(entry)} -> {_to(entry)}", f"by {entry['who']}: {entry['why']}"]
    if entry["overridden"]:
        body.append(f"FORCED, against: {'; '.join(entry['overridden'])}")
    if restart_error:
        body.append(restart_error)
    done = "Promoted" if entry["action"] == "promote" else "Rolled back to"
    notify.send(
        "promotion" if entry["action"] == "promote" else "rollback",
        f"{done} {_to(entry).version or 'an earlier model'}" + (", NOT RESTARTED" if restart_error else ""),
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
        if entry["action"] in ACTIONS and _to(entry).sha256 == holds:
            return _to(entry)
    return State(holds)


def _audit(store: Store) -> tuple[list[dict[str, Any]], int]:
    """The entries, oldest first, and how many lines cannot be read."""
    found = store.read(AUDIT)
    entries, damaged = [], 0
    for line in found.data.splitlines() if found else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            damaged += 1
    return entries, damaged


def _backup(store: Store, folder: str, name: str, sha256: str) -> bytes:
    found = store.read(f"{folder}/{name}")
    if found is None or hashlib.sha256(found.data).hexdigest() != sha256:
        raise RefusedError(f"the backup {folder}/{name} is missing or damaged (sha256); nothing was changed")
    return found.data


def _put_json(store: Store, name: str, content: Mapping[str, Any]) -> None:
    store.put(name, json.dumps(content, indent=1).encode())


def _from(entry: Mapping[str, Any]) -> State:
    return State(**entry["from"])


def _to(entry: Mapping[str, Any]) -> State:
    return State(**entry["to"])


def _matches(state: State, to: str) -> bool:
    return to in (state.version, state.registry_version) or (len(to) >= 8 and (state.model or "").startswith(to))


def _registered(version: str) -> registry.Version | None:
    """A version in the registry; None for a package that is named by its URI and isn't in there."""
    if "/" not in version:
        return registry.find(version)
    try:
        return registry.find(version) if registry.available() else None
    except InputError:
        return None


def _check_settings() -> None:
    """What is needed once production has been replaced must be right before it is."""
    try:
        settings.restart_timeout()
        shlex.split(settings.restart_command())
    except ValueError as error:
        raise InputError(f"MLOPS_RESTART_COMMAND or MLOPS_RESTART_TIMEOUT: {error}") from error


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
