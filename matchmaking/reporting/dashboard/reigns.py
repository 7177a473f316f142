"""Which model was production when: from the audit trail, or from what MLflow's runs and the logs saw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from matchmaking.base.escape import visible
from matchmaking.base.records import SHORT
from matchmaking.live.series import PIPELINE, Series
from matchmaking.release.audit import ACTIONS
from matchmaking.release.complete import BY_RUN
from matchmaking.reporting.dashboard.records import Records


@dataclass(frozen=True)
class Reign:
    """The time that a model was production.

    Attributes:
        model: sha256 of its .h5; empty where only the name is known.
        name: its package's name, or the begin of the sha256.
        start, end: milliseconds since 1970 UTC; None for "always" and "still".
        how: "promote", "rollback", "elsewhere" (nobody recorded how it came), or "first seen" (nor when).
        who, why: as the audit trail has them; empty where it wasn't read.
        url: the run that promoted it; empty for none.
    """

    model: str
    name: str
    start: int | None
    end: int | None
    how: str
    who: str = ""
    why: str = ""
    url: str = ""


def reigns(records: Records) -> list[Reign]:
    """The reigns, oldest first; the last one is the champion's."""
    found = _audited(records) if records.audit and records.audit.entries else _seen(records)
    ends = [*(reign.start for reign in found[1:]), None][: len(found)]
    return [replace(reign, end=end) for reign, end in zip(found, ends, strict=True)]


def names(records: Records) -> dict[str, str]:
    """A package's name by the sha256 of its model: of the registry, and of the audit trail."""
    found = {version.tags.get("model_sha256", ""): version.tags.get("package", "") for version in records.versions}
    for entry in records.audit.entries if records.audit else []:
        found |= {state.model: state.version for state in (entry.before, entry.after) if state.model and state.version}
    return {model: visible(name) for model, name in found.items() if model and name}


def milliseconds(stamp: str) -> int:
    """A time as runs and the audit trail have it (20260131T235959Z) in milliseconds since 1970."""
    return int(datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() * 1000)


def _audited(records: Records) -> list[Reign]:
    assert records.audit
    known = names(records)
    by_id = {run.id: run for run in records.runs}
    entries = [entry for entry in records.audit.entries if entry.action in ACTIONS]
    # the logs may tell of the time before the trail
    found = _logged(records, known, milliseconds(entries[0].time)) if entries else []
    for entry in entries:
        time = milliseconds(entry.time)
        before = entry.before.model
        if before and (not found or found[-1].model != before):
            # one from elsewhere came at some time in between
            start = found[-1].start if found else None
            if found and found[-1].how not in ACTIONS:
                # not before the last window that saw the one before it
                start = _windows(records, time)[-1][0]
            found.append(Reign(before, known.get(before, before[:SHORT]), start, None, "elsewhere"))
        run = by_id.get(entry.who.removeprefix(BY_RUN)) if entry.who.startswith(BY_RUN) else None
        model = entry.after.model or ""
        won = f"on evidence of experiment {visible(entry.experiment.experiment)}; " if entry.experiment else ""
        name = known.get(model) or entry.after.version or model[:SHORT] or "no model"
        found.append(
            Reign(model, visible(name), time, None, entry.action, entry.who, won + entry.why, run.url if run else "")
        )
    current = records.audit.current.model
    if records.audit.foreign and current and found:
        seen = [run.start for run in records.runs if run.params.get("production_model") == current]
        start = min((time for time in seen if time > (found[-1].start or 0)), default=found[-1].start)
        found.append(Reign(current, known.get(current, current[:SHORT]), start, None, "elsewhere"))
    return found


def _seen(records: Records) -> list[Reign]:
    """From the model that each run and each window of the logs saw, and the runs that promoted one."""
    known = names(records)
    models = {name: model for model, name in known.items()}
    followed = records.followed.series if records.followed else None
    moments: list[tuple[int, str, str, str, str]] = []
    for run in records.runs:
        aside = run.pipeline == PIPELINE and followed is not None and not followed.continues(Series.of(run.params))
        # a look at something else may have been with a model of its own
        if (model := run.params.get("production_model")) and not aside:
            moments.append((run.start, model, "elsewhere", "", ""))
        if (package := visible(run.tags.get("promoted", ""))) and run.end:
            moments.append((run.end, models.get(package, package), "promote", run.name, run.url))
    # a window begins before the promotion within it: the logs tell of the time before the runs
    first = min((moment[0] for moment in moments), default=None)
    moments += [(time, model, "elsewhere", "", "") for time, model in _windows(records, first)]
    found: list[Reign] = []
    for time, model, how, who, url in sorted(moments):
        if found and found[-1].model == model:
            continue
        how = "first seen" if not found and how == "elsewhere" else how
        who = f"the run {who}" if who else ""
        found.append(Reign(model, known.get(model, model[:SHORT]), time, None, how, who, "", url))
    return found


def _windows(records: Records, until: int | None) -> list[tuple[int, str]]:
    """The start of each window of the logs that begins before `until` (None: of all), and its model."""
    whole = records.whole
    whole = whole[whole["model"] != ""].drop_duplicates("start").sort_values("start")
    starts = [int(start.timestamp() * 1000) for start in whole["start"]]
    pairs = zip(starts, whole["model"], strict=True)
    return [(start, model) for start, model in pairs if until is None or start < until]


def _logged(records: Records, known: dict[str, str], until: int) -> list[Reign]:
    """The reigns that the logs tell of, before a moment."""
    found: list[Reign] = []
    for time, model in _windows(records, until):
        if not found or found[-1].model != model:
            how = "elsewhere" if found else "first seen"
            found.append(Reign(model, known.get(model, model[:SHORT]), time, None, how))
    return found
