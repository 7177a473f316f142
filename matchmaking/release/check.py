"""What a promotion or a rollback would change, and what speaks against it: all is checked, nothing is written."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from matchmaking.base import escape, settings
from matchmaking.base.errors import InputError, RefusedError
from matchmaking.base.records import SHORT
from matchmaking.base.redact import redact
from matchmaking.experiments.win import Win, find_win
from matchmaking.model import production
from matchmaking.release import registry
from matchmaking.release.audit import ACTIONS, ORDER, Say, current_state, read_audit
from matchmaking.release.package import PROMOTABLE, Package, fetch_package
from matchmaking.release.records import State
from matchmaking.release.recovery import backup_name, catch_up, recover
from matchmaking.release.store import open_store
from matchmaking.release.store.interface import Store
from matchmaking.tracking import TrackingError, check_uri


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
        experiment: of a promotion, the won experiment that it rests on.
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
    experiment: Win | None = None

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


def prepare_promotion(
    version: str,
    production_uri: str,
    *,
    force: bool = False,
    reason: str = "",
    experiment: str = "",
    say: Say = escape.say,
) -> Change:
    """Checks everything about a promotion; writes nothing to production but what an earlier one left to finish.

    Args:
        version: number in the registry, name or URI of a package; empty for the challenger.
        production_uri: the folder.
        force: pass over what the evidence forbids.
        reason: why; needed with `force`.
        experiment: name of a won experiment, which takes the place of a verdict `hold`; empty for none.
        say: is told what recovery did.

    Raises:
        InputError: no such version, package, folder or experiment; or `force` without a reason.
        RefusedError: the evidence forbids it, or the experiment is none for this change, which no force passes over.
        TrackingError: the experiment can't be read.
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
    held = "held offline: " if experiment and package.decision.verdict == "hold" else ""
    why = reason.strip() or held + "; ".join(package.decision.reasons)
    change = Change("promote", production_uri, before, after, contents, package.uri, _facts(package), why)
    if change.nothing:
        catch_up(store, say)
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
    won = None
    if experiment:
        if not registry.available():
            raise InputError(f"--experiment {experiment}: no MLflow records here; MLFLOW_TRACKING_URI says where it is")
        won = find_win(experiment, after.model or "", before.model or "")
    objections = list(_objections(package, before, won))
    if objections and not force:
        raise RefusedError(
            f"{after.version} is not promoted: {'; '.join(objections)}  (--force --reason TEXT does it all the same)"
        )
    return replace(change, overridden=objections, experiment=won)


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
    entries = [entry for entry in read_audit(store)[0] if entry.action in ACTIONS]
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
    contents = {name: backup_name(store, entry.backup, name, digest) for name, digest in after.sha256.items()}
    facts = [f"backup of {entry.time}, checked against its sha256s"]
    change = Change("rollback", production_uri, before, after, contents, facts=facts, why=reason.strip())
    if other := change.besides_model:
        raise RefusedError(f"{', '.join(other)} changed since that backup; a rollback replaces the model file alone")
    return change


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
        *([f"on evidence of {change.experiment}"] if change.experiment else []),
        *(f"FORCED, against: {objection}" for objection in change.overridden),
        f"files to write: {', '.join(change.files)}" + ("; a backup first" if change.before.model else ""),
    ]


def _objections(package: Package, before: State, won: Win | None) -> Iterator[str]:
    """What the evidence says against a promotion; of that a won experiment answers `hold` alone, never shown harm."""
    decision = package.decision
    if decision.verdict not in PROMOTABLE and not (won and decision.verdict == "hold"):
        only = "; an experiment takes the place of `hold` alone" if won else ""
        yield f"its verdict is {decision.verdict} ({'; '.join(decision.reasons)}){only}"
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


def _begin(store: Store, production_uri: str, say: Say) -> State:
    """What comes before every change: an earlier one brought to its end, and what can be refused at once refused."""
    _check_settings()
    store.check(production.FILES)
    recover(production_uri, say=say)
    for line in read_audit(store)[1]:
        say(f"the audit trail: {line}; it is passed over")
    return current_state(store)


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
