"""Runs of `observe` at times of their own, in a real MLflow; the last step of the pipeline ends them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Metric, Param

from matchmaking import tracking
from matchmaking.base.settings import EXPERIMENT
from matchmaking.live.alerts import Condition
from matchmaking.live.record import Live, Look, Newest, typed, write_record
from matchmaking.reporting.report import write_reports
from matchmaking.tracking.runs import JOB_TAG, PIPELINE_TAG

MODEL = "a" * 64


def begin(params: dict[str, str], at: datetime, metrics: dict[str, float] | None = None) -> str:
    """A run that began at a moment, as the first step leaves it; its id."""
    client = tracking.client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run = client.create_run(
        experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT),
        start_time=int(at.timestamp() * 1000),
        tags={PIPELINE_TAG: "observe", JOB_TAG: f"{at:%d%H%M%S%f}"},
        run_name=f"observe_{at:%Y%m%dT%H%M%SZ}",
    )
    client.log_batch(
        run.info.run_id,
        params=[Param(name, text) for name, text in params.items()],
        metrics=[Metric(name, value, 0, 0) for name, value in (metrics or {}).items()],
    )
    return str(run.info.run_id)


def windows(value: float, weeks: int = 4, first: str = "2026-01-05") -> pd.DataFrame:
    """Weeks in which every metric is `value`; the last isn't measured."""
    starts = pd.date_range(first, periods=weeks, freq="7D", tz="UTC")
    found = [
        {
            **{"start": start, "end": start + pd.Timedelta(days=7), "slice": "", "value_of": "", "metric": metric},
            **{"model": MODEL, "value": value, "low": value - 0.1, "high": value + 0.1, "withheld": ""},
            **{"rows": 100, "labelled": 99, "completeness": 0.99, "measured": place < weeks - 1},
            **{"estimate": value, "method": "pape"},
        }
        for place, start in enumerate(starts)
        for metric in ("average_precision", "recall", "precision", "roc_auc", "brier")
    ]
    return typed(pd.DataFrame(found))


def observe(
    folder: Path, params: dict[str, str], at: datetime, *conditions: Condition, value: float = 0.8, **live: Any
) -> dict[str, Any]:
    """A whole run of `observe` that began at a moment and found these windows and conditions; its summary."""
    run_id = begin(params, at)
    frame, last = windows(value), pd.Timestamp("2026-01-19", tz="UTC").to_pydatetime()
    look = Look(
        **{"start": last, "end": last, "model": MODEL, "rows": 100, "labelled": 99, "completeness": 0.99},
        metrics={"recall": {"value": value, "low": value - 0.1, "high": value + 0.1}},
    )
    found: dict[str, Any] = {
        **{"period": params["period"], "source": params["source"], "now": at, "logs": {"predictions": {"read": 1}}},
        **{"newest": Newest(measured=look), "conditions": [asdict(each) for each in conditions], **live},
    }
    write_record(folder / run_id / "live", Live(**found), frame)
    nothing = dict.fromkeys(("data_report", "evaluation", "decision", "candidate", "drift", "drift_page"))
    return write_reports(
        folder / run_id / "results",
        run_id=run_id,
        pipeline="observe",
        timestamp=f"{at:%Y%m%dT%H%M%SZ}",
        seed=0,
        production_uri="",
        production_before={},
        dataset_version="",
        candidate_uri="",
        steps=[],
        **nothing,  # type: ignore[arg-type]
        live=folder / run_id / "live",
        page=folder / run_id / "page.html",
        short=folder / run_id / "short.md",
    )
