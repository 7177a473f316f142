"""Runs that are missing, don't end, or have failed: seen by something that runs when the pipelines don't."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from matchmaking.base.errors import InputError
from matchmaking.evidence.policy import Alerts
from mlops.kubeflow.schedule import last_start, parse, read_lines
from pipelines import PIPELINES

if TYPE_CHECKING:
    from matchmaking.live.alerts import Condition
    from mlops.kubeflow.kfp_api import Server

# a promotion has no time at which it is due, and one that failed is no state
WATCHED = tuple(name for name in PIPELINES if name != "promote")


@dataclass(frozen=True)
class Scheduled:
    """When a pipeline runs.

    Attributes:
        pipeline: its name.
        cron: five fields.
        zone: the time zone they are in.
        since: when it was set up, UTC: no run before it is missed; None for long ago.
    """

    pipeline: str
    cron: str
    zone: str = "UTC"
    since: datetime | None = None


def scheduled(path: Path) -> list[Scheduled]:
    """The schedules of a ConfigMap file, as `manifests/schedules/schedules.yaml` is.

    Raises:
        InputError: the file isn't such a one.
    """
    schedules, zone = read_lines(path)
    try:
        ZoneInfo(zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"--file {path}: timeZone {zone}: no such time zone") from None
    for name, cron in schedules.items():
        try:
            parse(cron)
        except InputError as error:
            raise InputError(f"--file {path}: {name}.schedule: {error}") from error
    return [Scheduled(name, cron, zone or "UTC") for name, cron in schedules.items()]


def recurring(server: Server) -> list[Scheduled]:
    """Those that Kubeflow Pipelines starts itself: `mlops schedule apply`.

    Raises:
        ServerError: it can't be reached.
    """
    from mlops.kubeflow import schedule

    return [
        Scheduled(found.name, found.cron, "UTC", found.created)
        for found in schedule.listed(server)
        if found.enabled and _is_cron(found.cron)
    ]


def cron_jobs(items: Iterable[dict]) -> list[Scheduled]:
    """Those of CronJobs, as the cluster lists them; what is suspended is not late."""
    found = []
    for each in items:
        meta, spec = each["metadata"], each["spec"]
        if meta["name"] in PIPELINES and not spec.get("suspend") and _is_cron(spec["schedule"]):
            since = datetime.fromisoformat(meta["creationTimestamp"])
            found.append(Scheduled(meta["name"], spec["schedule"], spec.get("timeZone") or "UTC", since))
    return found


def conditions(schedules: Iterable[Scheduled], policy: Alerts, now: datetime | None = None) -> list[Condition]:
    """What of the pipelines' runs is late, or failed.

    Args:
        schedules: those there are.
        policy: how late a run may be.
        now: UTC.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    from matchmaking.live.conditions import failed, first_run, last_runs, late

    now = now or datetime.now(UTC)
    runs = last_runs(WATCHED)
    begun = first_run()
    due: dict[str, datetime | None] = {}
    for each in schedules:
        moment = last_start(each.cron, now - timedelta(hours=policy.late_hours), each.zone)
        since = each.since or begun
        if moment is not None and (since is None or moment < since):
            moment = None
        # of two schedules of a pipeline the one that was due last
        known = due.get(each.pipeline)
        due[each.pipeline] = max(filter(None, (known, moment)), default=None)
    return [*failed(runs, policy), *late(due, runs, policy, now)]


def _is_cron(text: str) -> bool:
    try:
        parse(text)
    except InputError:
        return False
    return True
