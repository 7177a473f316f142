"""Recurring runs of Kubeflow Pipelines, from the file that the CronJobs are made from too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import kfp_server_api as kfp
import yaml

from matchmaking.base.errors import InputError
from mlops.kubeflow.arguments import parse_arguments
from mlops.kubeflow.kfp_api import Server
from mlops.kubeflow.submit import Version, account, experiment_id, named, upload
from pipelines import PIPELINES
from pipelines.pods import EXPERIMENT_ACCOUNT, PROMOTION_ACCOUNT

FILE = Path("manifests/schedules/schedules.yaml")
SUFFIX, ARGUMENTS = ".schedule", ".arguments"
ZONE = "timeZone"
# what KFP calls the time it counts in; its controller has one time zone for all, UTC unless it is set up otherwise
UTC_NAMES = frozenset({"", "UTC", "Etc/UTC", "Etc/UCT", "Etc/Universal", "Etc/Zulu", "Universal", "Zulu", "UCT"})
_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = {
    "JAN": 1,
    "FEB": 2,
    "MAR": 3,
    "APR": 4,
    "MAY": 5,
    "JUN": 6,
    "JUL": 7,
    "AUG": 8,
    "SEP": 9,
    "OCT": 10,
    "NOV": 11,
    "DEC": 12,
}
_DAYS = {"SUN": 0, "MON": 1, "TUE": 2, "WED": 3, "THU": 4, "FRI": 5, "SAT": 6}
# minute, hour, day of the month, month, day of the week (Sunday is 0): lowest, highest, names
_FIELDS: tuple[tuple[str, int, int, Mapping[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_PART = re.compile(r"(\*|\?|\w+)(?:-(\w+))?(?:/(\d+))?")
# a 29th of February may be eight years away
_FARTHEST = timedelta(days=366 * 8 + 2)


@dataclass(frozen=True)
class Recurring:
    """A recurring run of ours on a server.

    Attributes:
        name: the pipeline's.
        cron: five fields, UTC.
        enabled: whether it starts anything.
        version: the pipeline version's id.
        next: when it starts next, UTC; None where never.
        last: when its last run was created, UTC; None for none yet.
        last_state: that run's state.
        created: when it was made, UTC.
    """

    name: str
    recurring_run_id: str
    cron: str
    enabled: bool
    version: str
    next: datetime | None
    last: datetime | None
    last_state: str | None
    created: datetime | None = None


def read_file(path: Path) -> dict[str, str]:
    """The schedules of a ConfigMap file: five-field cron, UTC, by pipeline.

    Raises:
        InputError: the file isn't such a one, names a pipeline that isn't there, or another time zone.
    """
    schedules, zone = read_lines(path)
    if zone not in UTC_NAMES:
        raise InputError(
            f"--file {path}: {ZONE} {zone}: recurring runs of Kubeflow Pipelines know UTC only; give the times in UTC, "
            "or use the CronJobs"
        )
    for name, cron in schedules.items():
        try:
            parse(cron)
        except InputError as error:
            raise InputError(f"--file {path}: {name}{SUFFIX}: {error}") from error
    return schedules


def read_lines(path: Path) -> tuple[dict[str, str], str]:
    """The cron lines of a ConfigMap file, by pipeline, as they stand there, and their time zone.

    Raises:
        InputError: the file isn't such a one, or names a pipeline that isn't there.
    """
    data = _data(path)
    schedules = {key.removesuffix(SUFFIX): value.strip() for key, value in data.items() if key.endswith(SUFFIX)}
    if not schedules:
        raise InputError(f"--file {path}: no ConfigMap with keys like retrain{SUFFIX}")
    _check_names(schedules, path)
    return schedules, data.get(ZONE, "").strip()


def read_arguments(path: Path) -> dict[str, dict[str, Any]]:
    """What such a file has each pipeline's runs be given, by pipeline.

    Raises:
        InputError: the file isn't such a one, or an argument isn't one of the pipeline's.
    """
    found = {key.removesuffix(ARGUMENTS): text for key, text in _data(path).items() if key.endswith(ARGUMENTS)}
    _check_names(found, path)
    return {name: parse_arguments(name, text, f"--file {path}: {name}{ARGUMENTS}") for name, text in found.items()}


def _data(path: Path) -> dict[str, str]:
    """What the ConfigMaps in a file hold."""
    try:
        documents = [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--file {path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"--file {path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    maps = [found for found in documents if isinstance(found, dict) and found.get("kind") == "ConfigMap"]
    return {key: str(value) for found in maps for key, value in (found.get("data") or {}).items()}


def _check_names(names: Iterable[str], path: Path) -> None:
    if unknown := set(names) - set(PIPELINES):
        raise InputError(f"--file {path}: {', '.join(sorted(unknown))} is none of {', '.join(PIPELINES)}")


def apply(server: Server, schedules: Mapping[str, str], arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Makes the recurring runs be these; run again, it changes what differs.

    Args:
        server: where.
        schedules: five-field cron by pipeline.
        arguments: each pipeline's parameters.

    Returns:
        What was done, by pipeline: created, replaced or unchanged.
    """
    experiment = experiment_id(server)
    done = {}
    for name, cron in schedules.items():
        version = upload(server, name)
        wanted = _wanted(version, cron, arguments[name], experiment)
        found = _found(server, experiment, name)
        same = [old for old in found if _state(old) == _state(wanted)]
        # the new one first: cut off in between there is one too many, which the next time takes away
        if not same:
            server.write(server.recurring.recurring_run_service_create_recurring_run, wanted)
        for old in [old for old in found if old not in same[:1]]:
            _delete(server, old)
        done[name] = "unchanged" if same and len(found) == 1 else "replaced" if found else "created"
    return done


def listed(server: Server, moment: datetime | None = None) -> list[Recurring]:
    """Our recurring runs on a server, in the order of their next start."""
    moment = moment or datetime.now(UTC)
    experiment = experiment_id(server)
    rows = []
    for found in [found for name in PIPELINES for found in _found(server, experiment, name)]:
        seconds, _, cron = found.trigger.cron_schedule.cron.partition(" ")
        cron = cron if seconds == "0" else found.trigger.cron_schedule.cron
        equals = {"operation": 1, "key": "recurring_run_id", "stringValue": found.recurring_run_id}
        last = server.read(
            server.runs.run_service_list_runs,
            experiment_id=experiment,
            filter=json.dumps({"predicates": [equals]}),
            sort_by="created_at desc",
            page_size=1,
        )
        run = next(iter(last.runs or []), None)
        enabled = found.status == "ENABLED" or (found.status is None and found.mode == "ENABLE")
        rows.append(
            Recurring(
                name=found.display_name,
                recurring_run_id=found.recurring_run_id,
                cron=cron,
                enabled=enabled,
                version=found.pipeline_version_reference.pipeline_version_id,
                next=next_start(cron, moment) if enabled else None,
                last=run.created_at if run else None,
                last_state=run.state if run else None,
                created=found.created_at,
            )
        )
    return sorted(rows, key=lambda row: (row.next is None, row.next, row.name))


def remove(server: Server) -> list[str]:
    """Takes our recurring runs away; runs that were started go on.

    Returns:
        The names of those there were.
    """
    experiment = experiment_id(server)
    found = [found for name in PIPELINES for found in _found(server, experiment, name)]
    for old in found:
        _delete(server, old)
    return [old.display_name for old in found]


def to_kfp(cron: str) -> str:
    """Five-field cron as KFP has it: with the second in front."""
    parse(cron)
    return f"0 {_WORDS.get(cron, cron)}"


def next_start(cron: str, after: datetime) -> datetime | None:
    """When a five-field cron is due next after a moment (UTC); None for never, as on a 30th of February."""
    minutes, hours, *_ = parse(cron)
    day: date = after.date()
    while day <= after.date() + _FARTHEST:
        if _is_day(cron, day):
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    start = datetime.combine(day, time(hour, minute), UTC)
                    if start > after:
                        return start
        day += timedelta(days=1)
    return None


def last_start(cron: str, before: datetime, zone: str = "UTC") -> datetime | None:
    """When a five-field cron of a time zone was due last, not after a moment (UTC); None for never."""
    minutes, hours, *_ = parse(cron)
    where = ZoneInfo(zone)
    first = before.astimezone(where).date()
    for back in range(_FARTHEST.days):
        day = first - timedelta(days=back)
        if _is_day(cron, day):
            times = (datetime.combine(day, time(hour, minute), where) for hour in hours for minute in minutes)
            if found := [start for each in times if (start := each.astimezone(UTC)) <= before]:
                return max(found)
    return None


def _is_day(cron: str, day: date) -> bool:
    _, _, days, months, weekdays = parse(cron)
    # as Vixie's cron has it: where both kinds of day are limited, either will do
    either = all(field[0] not in "*?" for field in _WORDS.get(cron, cron).split()[2::2])
    of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
    return day.month in months and ((of_month or of_week) if either else (of_month and of_week))


# not croniter: it takes what Kubernetes and KFP refuse (L, #, day 7, 22-2), and 5-5 for every minute
def parse(cron: str) -> tuple[frozenset[int], ...]:
    """The values of the five fields of a cron line.

    Raises:
        InputError: it isn't one that both Kubernetes and KFP read.
    """
    fields = _WORDS.get(cron, cron).split()
    if len(fields) != len(_FIELDS):
        raise InputError(f"'{cron}' has {len(fields)} fields; a schedule has 5, as in '0 3 * * 1'")
    return tuple(_values(field, *limits) for field, limits in zip(fields, _FIELDS, strict=True))


def _values(field: str, what: str, low: int, high: int, names: Mapping[str, int]) -> frozenset[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        try:
            first, last, step = match.groups() if match else ("", None, None)
            begin = low if first in ("*", "?") else _number(first, names)
            # as cron has it, 5/10 is from 5 on
            end = _number(last, names) if last else high if step or first in ("*", "?") else begin
        except ValueError:
            raise InputError(f"'{part}' is no {what}") from None
        if not low <= begin <= end <= high or step == "0":
            raise InputError(f"'{part}' is no {what}; it is {low} to {high}")
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


def _number(word: str, names: Mapping[str, int]) -> int:
    return names[word.upper()] if word.upper() in names else int(word)


def _wanted(version: Version, cron: str, arguments: Mapping[str, Any], experiment: str) -> Any:
    return kfp.V2beta1RecurringRun(
        display_name=version.pipeline,
        experiment_id=experiment,
        pipeline_version_reference=kfp.V2beta1PipelineVersionReference(version.pipeline_id, version.version_id),
        runtime_config=kfp.V2beta1RuntimeConfig(parameters=dict(arguments)),
        service_account=account(version.pipeline),
        trigger=kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron=to_kfp(cron))),
        mode=kfp.RecurringRunMode.ENABLE,
        # as the CronJobs: never two at once, and what was missed is not made up for
        max_concurrency="1",
        no_catchup=True,
    )


def _state(run: Any) -> tuple[Any, ...]:
    """What of a recurring run is to be as wanted."""
    return (
        run.trigger.cron_schedule.cron if run.trigger and run.trigger.cron_schedule else None,
        run.pipeline_version_reference.pipeline_version_id if run.pipeline_version_reference else None,
        run.runtime_config.parameters if run.runtime_config else None,
        run.mode,
        run.max_concurrency,
        run.no_catchup,
        # where none is wanted, KFP answers with its own
        run.service_account if run.service_account in (PROMOTION_ACCOUNT, EXPERIMENT_ACCOUNT) else None,
        # with plugins, KFP's controller starts the run without its parameters
        run.plugins_input or None,
    )


def _found(server: Server, experiment: str, name: str) -> list[Any]:
    listed = server.read(
        server.recurring.recurring_run_service_list_recurring_runs,
        experiment_id=experiment,
        filter=named(name),
        page_size=100,
    )
    return [run for run in listed.recurring_runs or [] if run.trigger and run.trigger.cron_schedule]


def _delete(server: Server, run: Any) -> None:
    server.write(server.recurring.recurring_run_service_delete_recurring_run, run.recurring_run_id)
