"""What can be wrong: production's performance, drift, a pipeline that failed, a run that didn't come.

Each function gives `Condition`s, which `matchmaking.live.alert_log.look` makes alerts of. They have no memory: each is
a function of the logs, of a run's summary or of MLflow's records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.escape import visible
from matchmaking.base.settings import EXPERIMENT, mlflow_run_url
from matchmaking.evidence.bootstrap import metric_scorer
from matchmaking.evidence.limits import degraded as past_limits
from matchmaking.evidence.metrics import LOWER_IS_BETTER
from matchmaking.evidence.policy import Alerts, Policy
from matchmaking.live.alerts import Condition
from matchmaking.live.delay import Delay
from matchmaking.live.estimate import METRICS
from matchmaking.live.record import Live, followed_record
from matchmaking.live.sequential import Rule, fit_loss, watch
from matchmaking.tracking import client, told
from matchmaking.tracking.runs import MLFLOW_TAG, PIPELINE_TAG, REASON_TAG

# what a model is compared with: its own first days, so many at least and until so many matches are among them
REFERENCE_DAYS = 60
REFERENCE_MATCHES = 200
# what is shown as its performance now
RECENT_DAYS = 28
# of looks at mature performance: older ones say nothing of today's
STALE = timedelta(days=8)
WORDS = {
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
    "brier": "Brier score",
    "log_loss": "log loss",
}
# a run may begin a little before its time, by another clock
EARLY = timedelta(minutes=10)


@dataclass(frozen=True)
class LastRun:
    """A pipeline's newest run: `status` as MLflow has it, times in UTC, `ended` None while it runs.

    `previous` is the newest that has ended, where this one runs still; None where there is none.
    """

    run_id: str
    name: str
    status: str
    started: datetime
    ended: datetime | None
    reason: str
    link: str
    previous: LastRun | None = None


def performance(
    frame: pd.DataFrame, now: pd.Timestamp, delay: Delay, policy: Alerts, link: str = ""
) -> list[Condition]:
    """Whether production has become worse than it was, by measured pairs: a condition for each watched metric.

    The model that serves now is compared with its own first days, day by day, on days whose outcomes have come. It is a
    function of the logs: as long as they go back to the model's first day, every look says the same of the same day.

    Args:
        frame: of `logs.join`: `time`, `model`, `probability`, `match`, `outcome_time`.
        now: what is later hasn't happened yet.
        delay: says which days are old enough.
        policy: what is watched, and the tolerance.
        link: where to look.

    Returns:
        `firing` is None where the delay isn't known. A model that is too young to tell of isn't firing and not `known`:
        what was wrong with the one before it went with it.
    """
    watched = _watched(policy)

    def every(firing: bool | None, why: str, known: bool = True) -> list[Condition]:
        return [_performance(name, firing, why, policy, link, known) for name in watched]

    if delay.mature_days is None:
        return every(None, delay.reason)
    seen = frame[frame["time"].notna() & (frame["time"] <= now)]
    if not len(seen):
        return every(None, "there is no pair")
    day = seen["time"].dt.floor("D")
    model = str(seen.loc[day == day.max(), "model"].mode().iloc[0])
    mature = (now - pd.Timedelta(days=delay.mature_days)).floor("D")
    usable = (seen["model"] == model) & (day < mature) & seen["match"].notna() & ~(seen["outcome_time"] > now)
    mine, day = seen[usable], day[usable]
    match, probability = mine["match"].to_numpy(dtype=np.int8), mine["probability"].to_numpy(dtype=float)
    number = (day - day.min()).dt.days.to_numpy() if len(mine) else np.zeros(0, dtype=int)
    order = np.argsort(number, kind="stable")
    match, probability, number = match[order], probability[order], number[order]
    followed = follow(number, match, probability, policy)
    if followed is None:
        have = f"{int(number[-1]) + 1 if len(number) else 0} days with {int(match.sum())} matches"
        why = (
            f"the model {model[:12]} is compared with its first {REFERENCE_DAYS} days, once their outcomes have come "
            f"and {REFERENCE_MATCHES} matches are among them; so far {have}"
        )
        return every(False, why, known=False)
    recent = number > number[-1] - RECENT_DAYS
    last = day.min() + pd.Timedelta(days=int(number[-1]))
    found = []
    for name, (rule, reference, said) in followed.by_metric.items():
        now_is, evidence = _value(name, match[recent], probability[recent]), float(said["evidence"].iloc[-1])
        text = (
            f"{_word(name)} {now_is} on the pairs of {RECENT_DAYS} days to {last:%Y-%m-%d}, whose outcomes have come; "
            f"{reference:.3f} in the first {followed.days} days of the model {model[:12]}; "
            f"tolerated: {watched[name]:g}\n"
            f"evidence {evidence:.1f}, raised at {rule.raise_at:.1f}, cleared below {rule.clear_at:.1f} (logarithms)"
        )
        found.append(_performance(name, bool(said["firing"].iloc[-1]), text, policy, link))
    return found


@dataclass(frozen=True)
class Followed:
    """A model's days after those it is compared with.

    Attributes:
        days: how many those are.
        looks: the days after them that have pairs, counted from the first, ascending.
        by_metric: the rule, the metric's value in the first days, and what `sequential.watch` says at each look.
    """

    days: int
    looks: np.ndarray
    by_metric: dict[str, tuple[Rule, float, pd.DataFrame]]


def follow(number: np.ndarray, match: np.ndarray, probability: np.ndarray, policy: Alerts) -> Followed | None:
    """The alert rule on a model's labelled pairs; None where there are too few to compare with, or none after them.

    Args:
        number: the day of each pair, counted from the model's first, ascending; shape (rows,).
        match: whether it matched, shape (rows,).
        probability: the model's, shape (rows,).
        policy: what is watched, and how.
    """
    if match.sum() < REFERENCE_MATCHES:
        return None
    first = max(REFERENCE_DAYS, int(number[np.searchsorted(np.cumsum(match), REFERENCE_MATCHES)]) + 1)
    if number[-1] < first:
        return None
    begin = int(np.searchsorted(number, first))
    looks, edges = np.unique(number[begin:], return_index=True)
    pairs = list(zip(np.split(match[begin:], edges[1:]), np.split(probability[begin:], edges[1:]), strict=True))
    watched = _watched(policy)
    found: dict[str, tuple[Rule, float, pd.DataFrame]] = {}
    for name, tolerance in watched.items():
        rule = Rule(tolerance, 365 / policy.performance.false_alarms_a_year, streams=len(watched))
        loss = fit_loss(name, match[:begin], probability[:begin])
        found[name] = (rule, loss.reference, watch(loss, pairs, rule))
    return Followed(first, looks, found)


def watched(live: Live, policy: Alerts, link: str = "") -> list[Condition]:
    """What a run of `observe` on the installation's series says of performance, for the alerts.

    Beside what its rule has found: of a metric that isn't watched any more, and of a labelled dataset that took the
    logs' place, nothing is known, and an alert that was raised before is over.
    """
    said = [Condition(**one) for one in live.conditions]
    there = {each.name for each in said}
    labelled = "pairs" in live.logs
    gone = [
        name for name in METRICS if f"performance/{name}" not in there and (labelled or name not in _watched(policy))
    ]
    return [
        *said,
        *(_performance(name, False, "it isn't watched any more", policy, link, known=False) for name in gone),
    ]


def is_well(now: datetime) -> bool | None:
    """Whether production's measured performance is well, by the newest look at the installation's series of `observe`.

    Returns:
        None where nobody knows.

    Raises:
        TrackingError: MLflow can't be reached.
        RecordError: a newer version wrote its record.
    """
    found = followed_record(now)
    if found is None or now - found[1].live.now > STALE:
        return None
    said = [each for each in found[1].live.conditions if str(each.get("name", "")).startswith("performance/")]
    if any(each.get("firing") for each in said):
        return False
    return True if said and all(each.get("firing") is False and each.get("known", True) for each in said) else None


def drift(summary: Mapping[str, Any], policy: Alerts, well: bool | None, link: str = "") -> Condition:
    """All columns that have drifted, in one.

    Args:
        summary: of a run of monitor.
        policy: whether it is held back while performance is well.
        well: see `is_well`.
        link: where to look.
    """
    found = summary["drift"]
    title = "The data has drifted"
    if found is None:
        return Condition("drift", None, policy.severity["drift"], title, "drift was not measured", link)
    moved = [row for row in found["columns"] if row["drifted"]]
    # the farthest past its threshold first
    moved.sort(key=lambda row: -((row["statistic"] or 0) / (row["threshold"] or 1)))
    lines = [f"{len(moved)} of {len(found['columns'])} columns: distance (threshold)"] if moved else []
    lines += [f"{visible(row['column'])} {_number(row['statistic'])} ({_number(row['threshold'])})" for row in moved]
    firing: bool | None = bool(found["drifted"])
    if firing and well and policy.hold_drift:
        firing = None
        lines.append("Not told: production's performance, by outcomes that have come, is well.")
    elif firing:
        lines.append(
            "Production's performance, by outcomes that have come, is worse than it was, too."
            if well is False
            else "Whether production has become worse isn't known yet."
            if well is None
            else "Production's performance, by outcomes that have come, is well."
        )
    return Condition("drift", firing, policy.severity["drift"], title, "\n".join(lines), link)


def degraded(summary: Mapping[str, Any], policy: Policy, link: str = "") -> Condition:
    """Whether production is past the policy's limits on held-out pairs, by a run of evaluate."""
    past = past_limits(dict(summary), policy.limits)
    title = "Production is past its limits on held-out pairs"
    return Condition("degraded", bool(past), policy.alerts.severity["degraded"], title, "\n".join(past), link)


def last_runs(pipelines: Iterable[str]) -> dict[str, LastRun]:
    """The newest run of each pipeline that MLflow knows.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    found = {}
    with told("can't be asked for the newest runs"):
        experiment = client().get_experiment_by_name(EXPERIMENT)
        for name in pipelines:
            if experiment is None:
                break
            run = _newest(experiment.experiment_id, name)
            if run is not None and run.ended is None:
                run = replace(run, previous=_newest(experiment.experiment_id, name, "attributes.status != 'RUNNING'"))
            if run is not None:
                found[name] = run
    return found


def _newest(experiment: str, pipeline: str, *also: str) -> LastRun | None:
    """The newest run of a pipeline of which the conditions hold, too, in MLflow's language."""
    condition = " and ".join([f"tags.{PIPELINE_TAG} = '{pipeline}'", *also])
    order = ["attributes.start_time DESC", "attributes.run_id"]
    for run in client().search_runs([experiment], condition, order_by=order, max_results=1):
        info, tags = run.info, run.data.tags
        return LastRun(
            info.run_id,
            str(info.run_name),
            info.status,
            _moment(info.start_time),
            _moment(info.end_time) if info.end_time else None,
            tags.get(REASON_TAG, ""),
            mlflow_run_url(info.run_id, tags.get(MLFLOW_TAG, "")),
        )
    return None


def first_run() -> datetime | None:
    """When the records begin, UTC; None where there are none.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    with told("can't be asked for the first run"):
        experiment = client().get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        runs = client().search_runs([experiment.experiment_id], order_by=["attributes.start_time"], max_results=1)
    return _moment(runs[0].info.start_time) if runs else None


def succeeded(pipeline: str, policy: Alerts, link: str = "") -> Condition:
    """What a run says of its own pipeline when it has done its work."""
    return Condition(f"failed/{pipeline}", False, policy.severity["failed"], f"{pipeline} failed", link=link)


def failed(runs: Mapping[str, LastRun], policy: Alerts) -> list[Condition]:
    """Of each pipeline whether its newest run failed; of one that runs still or was stopped that isn't known."""
    found = []
    for name, run in runs.items():
        firing = {"FAILED": True, "FINISHED": False}.get(run.status)
        title = f"{name} failed"
        text = f"{run.name}: {run.reason or 'no reason'}" if firing else run.name
        found.append(
            Condition(f"failed/{name}", firing, policy.severity["failed"], title, text, run.link, noticed=True)
        )
    return found


def late(
    due: Mapping[str, datetime | None], runs: Mapping[str, LastRun], policy: Alerts, now: datetime
) -> list[Condition]:
    """Of each scheduled pipeline whether its run is missing, or doesn't end.

    A run that runs has `policy.late_hours` from its own beginning: until then the one before it tells, and where that
    didn't come in time either, nobody knows yet.

    Args:
        due: when a run was due last, for `policy.late_hours` at least, UTC; None for not yet.
        runs: the newest.
        policy: its severity, and its `late_hours`.
        now: UTC.
    """
    found = []
    for name, moment in due.items():
        run = runs.get(name)
        runs_still = run is not None and run.ended is None
        ended = run.previous if run is not None and runs_still else run
        stuck = run is not None and runs_still and run.started <= now - timedelta(hours=policy.late_hours)
        came = moment is not None and ended is not None and ended.started >= moment - EARLY
        firing: bool | None = moment is not None and (stuck or not came)
        if firing and runs_still and not stuck:
            firing = None
        # of a run that is too long it doesn't matter whether somebody started it by hand
        lines = [f"it was due at {moment:%Y-%m-%d %H:%M} UTC"] if moment and not stuck else []
        if run is not None and (came or runs_still):
            lines.append(f"{run.name} began at {run.started:%Y-%m-%d %H:%M} UTC" + (", still runs" * runs_still))
        else:
            lines.append(f"the last run was {run.name}" if run else "there was no run yet")
        title = f"{name} runs for too long" if stuck else f"{name} didn't run when it was due"
        found.append(
            Condition(f"late/{name}", firing, policy.severity["late"], title, "\n".join(lines), run.link if run else "")
        )
    return found


def _watched(policy: Alerts) -> dict[str, float]:
    """The tolerance of each metric that is watched."""
    return {str(name): each for name, each in policy.performance.tolerance.items() if each is not None}


def _performance(name: str, firing: bool | None, text: str, policy: Alerts, link: str, known: bool = True) -> Condition:
    title = f"Production's {_word(name)} is worse than it was"
    return Condition(f"performance/{name}", firing, policy.severity["performance"], title, text, link, known=known)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def _word(name: str) -> str:
    return WORDS.get(name, name)


def _value(name: str, match: np.ndarray, probability: np.ndarray) -> str:
    if not 0 < match.sum() < len(match) and name not in LOWER_IS_BETTER | {"accuracy"}:
        return "can't be told"
    with np.errstate(divide="ignore", invalid="ignore"):
        return f"{float(metric_scorer(match, probability)(np.ones((1, len(match))))[name][0]):.3f}"


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
