"""Runs as the pipelines record them, at times of their own, in a real MLflow on SQLite: for the dashboard's tests."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Metric, Param, RunTag

from matchmaking import tracking
from matchmaking.evidence.metrics import SCALARS
from matchmaking.live.estimate import METRICS
from matchmaking.live.record import FindingRecord, Live, Past, log_points, typed, write_record
from matchmaking.release import registry

HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>\'&\u202e{{7*7}}'
OLD, NEW = "a" * 64, "b" * 64
NOW = datetime.now(UTC).replace(microsecond=0)


def record_run(
    pipeline: str,
    days_ago: float,
    *,
    status: str = "FINISHED",
    metrics: dict[str, float] | None = None,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    seconds: float = 60,
) -> str:
    """A run that began so many days ago; its id."""
    began = NOW - timedelta(days=days_ago)
    name = f"{pipeline}_{began:%Y%m%dT%H%M%SZ}"
    run_id, _ = tracking.start_run(pipeline, name.rpartition("_")[2], f"{name}-job", {"seed": 0})
    client = tracking.client()
    stamp = int(began.timestamp() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, stamp, 0) for key, value in (metrics or {}).items()],
        params=[Param(key, value) for key, value in (params or {}).items()],
        tags=[RunTag(key, value) for key, value in (tags or {}).items()],
    )
    client.set_terminated(run_id, status, end_time=stamp + int(seconds * 1000))
    _began(run_id, stamp)
    return run_id


def _began(run_id: str, stamp: int) -> None:
    """Moves a run's start, which MLflow's client can only set where it makes the run."""
    import os
    import sqlite3

    with sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")) as database:
        database.execute("update runs set start_time = ? where run_uuid = ?", (stamp, run_id))


def holdout(level: float, model: str) -> dict[str, Any]:
    """The metrics and parameters of an `evaluate`."""
    return {
        "metrics": {
            **{f"production_{name}": level + place / 1000 for place, name in enumerate(SCALARS)},
            **{"rows": 12_000.0, "match_rate": 0.117, "unseen_categories": 2.0, "unseen_share": 0.004},
            **{"seconds_ingest": 1.5, "seconds_evaluate": 9.25},
        },
        "params": {"production_model": model},
    }


def drift(moved: float) -> dict[str, Any]:
    """The metrics of a `monitor` in which `budget` is so far from the reference."""
    found = {"drifted": 0.0, "share_drifted": 1 / 13}
    for column, distance in (("budget", moved), ("city", 0.02), ("match", 0.01)):
        found |= {f"drift_{column}": distance, f"drift_threshold_{column}": 0.1}
        found |= {f"drifted_{column}": float(distance > 0.1)}
    return {"metrics": found}


def retraining(verdict: str, difference: float, model: str = OLD) -> dict[str, Any]:
    """The metrics and tags of a `retrain`."""
    metrics = {f"difference_{name}": difference for name in ("average_precision", "recall")}
    metrics |= {f"difference_{name}_low": difference - 0.02 for name in ("average_precision", "recall")}
    metrics |= {f"difference_{name}_high": difference + 0.02 for name in ("average_precision", "recall")}
    metrics |= {"difference_average_precision_margin": 0.01, "difference_recall_margin": 0.05}
    params = {"primary_metric": "average_precision", "production_model": model}
    return {"metrics": metrics, "params": params, "tags": {"verdict": verdict, "candidate_uri": f"/c/{HOSTILE}"}}


def windows(weeks: int = 12, seed: int = 0) -> pd.DataFrame:
    """Weekly windows of all pairs and of two slices; the last three aren't measured."""
    rng = np.random.default_rng(seed)
    last = pd.Timestamp(NOW).tz_convert("UTC").normalize() - pd.Timedelta(days=1)
    starts = [last - pd.Timedelta(weeks=weeks - place) for place in range(weeks)]
    found = []
    for column, value in (("", ""), ("city", "Zürich"), ("city", HOSTILE)):
        for metric in METRICS:
            for place, start in enumerate(starts):
                measured = place < weeks - 3
                level = float(rng.uniform(0.7, 0.9))
                found.append(
                    {
                        "start": start,
                        "end": start + pd.Timedelta(weeks=1),
                        "slice": column,
                        "value_of": value,
                        "metric": metric,
                        "model": OLD if place < weeks // 2 else NEW,
                        "value": level if measured else np.nan,
                        "low": level - 0.05 if measured else np.nan,
                        "high": level + 0.05 if measured else np.nan,
                        "withheld": "" if measured else "no outcome",
                        "rows": 500,
                        "labelled": 480 if measured else 0,
                        "positives": 55,
                        "completeness": 0.97 if measured else 0.0,
                        "measured": measured,
                        "estimate": level + 0.01,
                        "estimate_low": level - 0.04,
                        "estimate_high": level + 0.06,
                        "method": "pape",
                        "estimated_at": start + pd.Timedelta(weeks=1),
                    }
                )
    return typed(pd.DataFrame(found))


def observed(frame: pd.DataFrame) -> str:
    """A run of `observe` with its record; its id."""
    run_id, _ = tracking.start_run(
        "observe", f"{NOW:%Y%m%dT%H%M%SZ}", "observe-job", {"period": "week", "source": HOSTILE, "predictions": HOSTILE}
    )
    live = Live(
        period="week",
        now=NOW,
        findings=[FindingRecord(code="duplicate", count=3, examples=[HOSTILE])],
        past=[
            Past(
                metric="average_precision",
                windows=9,
                mean_error=0.003,
                mean_absolute_error=0.01,
                within=0.95,
                covered=0.9,
            )
        ],
        notes=[HOSTILE],
    )
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder), live, frame)
        log_points(run_id, frame)
        tracking.finish_run(run_id, params={}, metrics={}, history=None, tags={}, artifacts=Path(folder))
    return run_id


def record_everything() -> dict[str, str]:
    """Some runs of each pipeline; their ids, by what they are."""
    ids = {
        "first": record_run("evaluate", 60, **holdout(0.80, OLD)),
        "monitor": record_run("monitor", 20, **drift(0.3)),
        "retrain": record_run("retrain", 40, **retraining("promote", 0.03)),
        "hold": record_run("retrain", 12, **retraining("hold", -0.01, NEW)),
        "promote": record_run("promote", 30, tags={"promoted": "v20260101T000000Z"}),
        "second": record_run("evaluate", 2, **holdout(0.85, NEW)),
        "failed": record_run("evaluate", 1, status="FAILED", tags={"failure_reason": f"validate: {HOSTILE}"}),
    }
    _register(ids["retrain"], "v20260101T000000Z", NEW, "champion")
    _register(ids["hold"], "v20260202T000000Z", "c" * 64, "challenger")
    return {**ids, "observe": observed(windows())}


def _register(run_id: str, package: str, model: str, alias: str) -> None:
    """A version in the model registry."""
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    with suppress(MlflowException):
        client.create_registered_model(registry.MODEL)
    tags = {"package": package, "model_sha256": model, "run_id": run_id, "primary_metric": "average_precision"}
    tags |= {"primary_production": "0.8", "primary_candidate": "0.83", "verdict": "promote"}
    version = client.create_model_version(registry.MODEL, f"runs:/{run_id}/model", run_id=run_id, tags=tags)
    client.set_registered_model_alias(registry.MODEL, alias, version.version)
