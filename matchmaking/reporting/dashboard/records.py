"""What the dashboard knows: the runs of MLflow, the newest record of `observe`, the registry, the audit trail, alerts.

Of a run its parameters, metrics and tags are read, never an artifact: thousands of runs are a few requests. The two
artifacts of the newest `observe` are the exception.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from matchmaking import tracking
from matchmaking.base import settings
from matchmaking.base.errors import MlopsError
from matchmaking.base.escape import for_terminal, visible
from matchmaking.base.garbage import without_collections
from matchmaking.base.redact import redact
from matchmaking.base.settings import EXPERIMENT
from matchmaking.live.alert_log import read_alerts
from matchmaking.live.alerts import Alert
from matchmaking.live.record import Observed, followed_record, typed
from matchmaking.live.series import Followed
from matchmaking.release import registry
from matchmaking.release.audit import History, history
from matchmaking.tracking.runs import JOB_TAG, KFP_TAG, MLFLOW_TAG, PIPELINE_TAG, REASON_TAG

PAGE = 1_000
# the newest runs; the page says so where there are more
MOST_RUNS = 5_000


@dataclass(frozen=True)
class Run:
    """A run of a pipeline, as MLflow has it.

    Attributes:
        id, name, pipeline, status: MLflow's; the status is RUNNING, FINISHED, FAILED or KILLED.
        start, end: milliseconds since 1970 UTC; `end` is None while it runs.
        url: the run's page.
        drift_url: that of the distributions, of a run that compared some.
        scheduled: whether Kubeflow Pipelines ran it.
        reason: why it failed.
        params, metrics, tags: by name.
    """

    id: str
    name: str
    pipeline: str
    status: str
    start: int
    end: int | None
    url: str
    drift_url: str
    scheduled: bool
    reason: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Records:
    """Everything that the page is made from.

    Attributes:
        now: when it was read; UTC.
        runs: oldest first.
        more_runs: whether there are older ones that were not read.
        followed: the installation's series of `observe`, ...
        observed: ... and its newest record.
        versions: of the model registry, newest first.
        audit: of the production folder, where one was given.
        alerts: that were ever raised, and their state.
        notes: what could not be read, in sentences.
    """

    now: datetime
    runs: list[Run] = field(default_factory=list)
    more_runs: bool = False
    followed: Followed | None = None
    observed: Observed | None = None
    versions: list[registry.Version] = field(default_factory=list)
    audit: History | None = None
    alerts: list[Alert] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def whole(self) -> pd.DataFrame:
        """The windows of all pairs, in the columns of `windows.parquet`; empty where nothing was observed."""
        if self.observed is None:
            return typed(pd.DataFrame())
        windows = self.observed.windows
        return windows[windows["slice"] == ""]

    def of(self, pipeline: str, status: str = "FINISHED") -> list[Run]:
        """The runs of a pipeline with a status, oldest first."""
        return [run for run in self.runs if run.pipeline == pipeline and run.status == status]


def read(production_uri: str = "", *, reports: Path | None = None, beside: Path | None = None) -> Records:
    """Everything that is known now.

    What is optional (the record of `observe`, the audit trail) and can't be read is told in `notes`.

    Args:
        production_uri: the production folder, whose audit trail is read; empty for what MLflow alone knows.
        reports: the folder of local runs. A run with a report there is linked to that and not to MLflow, ...
        beside: ... by its path from this folder, where the page will be; None for the page's being served.

    Raises:
        TrackingError: MLflow can't be reached, after the retries.
        InputError: the production folder isn't there.
    """
    now = datetime.now(UTC)
    audit = history(production_uri) if production_uri else None
    if not registry.available():
        return Records(now, audit=audit)
    runs, more = _runs(reports if beside else None, beside)
    notes: list[str] = []
    live: tuple[Followed, Observed] | None = None
    alerts: list[Alert] = []
    try:
        live = followed_record(now) if any(run.pipeline == "observe" for run in runs) else None
    except MlopsError as error:
        notes.append(f"The record of the live performance can't be read: {for_terminal(redact(str(error)))}.")
    try:
        alerts = read_alerts()
    except MlopsError as error:
        notes.append(f"The alerts can't be read: {for_terminal(redact(str(error)))}.")
    followed, observed = live or (None, None)
    return Records(now, runs, more, followed, observed, registry.versions(50), audit, alerts, notes)


def _runs(reports: Path | None, beside: Path | None) -> tuple[list[Run], bool]:
    """The newest runs, oldest first, and whether there are more."""
    found: list[Any] = []
    token = None
    client = tracking.client()
    with tracking.told("can't be asked for the runs"), without_collections():
        experiment = client.get_experiment_by_name(EXPERIMENT)
        while experiment:
            page = client.search_runs(
                [experiment.experiment_id],
                order_by=["attributes.start_time DESC"],
                max_results=PAGE,
                page_token=token,
            )
            found += [run for run in page if PIPELINE_TAG in run.data.tags]
            if not (token := page.token) or len(found) >= MOST_RUNS:
                break
    place = _reports(reports, beside)
    return [_run(run, place) for run in reversed(found[:MOST_RUNS])], bool(token) or len(found) > MOST_RUNS


def _reports(reports: Path | None, beside: Path | None) -> dict[str, str]:
    """The relative path of each local run's folder that has pages, by the run's name."""
    if reports is None or beside is None or not reports.is_dir():
        return {}
    return {
        folder.name: Path(os.path.relpath(folder, beside)).as_posix()
        for folder in reports.iterdir()
        if (folder / "report.html").exists()
    }


def _run(run: Any, places: Mapping[str, str]) -> Run:
    info, tags = run.info, run.data.tags
    name = str(info.run_name)
    known = web_address(tags.get(MLFLOW_TAG, ""))
    url = settings.mlflow_run_url(info.run_id, known)
    drift = f"{settings.mlflow_url(known)}/#/experiments/{info.experiment_id}/runs/{info.run_id}/artifacts/drift.html"
    if name in places:
        url, drift = f"{places[name]}/report.html", f"{places[name]}/drift.html"
    return Run(
        id=str(info.run_id),
        name=visible(name),
        pipeline=visible(tags[PIPELINE_TAG]),
        status=str(info.status),
        start=int(info.start_time),
        end=int(info.end_time) if info.end_time else None,
        url=url,
        drift_url=drift if "drifted" in run.data.metrics else "",
        scheduled=bool(tags.get(KFP_TAG)) and JOB_TAG in tags,
        reason=for_terminal(redact(tags.get(REASON_TAG, ""))),
        params=run.data.params,
        # what isn't a number is none: MLflow keeps NaN and infinity, and nobody can draw them
        metrics={name: value for name, value in run.data.metrics.items() if math.isfinite(value)},
        tags=tags,
    )


def web_address(text: str) -> str:
    """An address that a page may link to; empty for what is none, as a tag may hold anything."""
    return text if text.startswith(("http://", "https://")) else ""
