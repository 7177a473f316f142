"""How large the dashboard is, and how fast: made from 2,000 runs and 20 slices, and drawn by a browser.

`python -m benchmarks.dashboard`: fills an MLflow database (SQLite) with runs, a year and more of daily windows, then
makes the page and has headless Chromium draw it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from matchmaking import tracking
from matchmaking.base.settings import EXPERIMENT
from matchmaking.data.schema import FEATURES
from matchmaking.evidence.metrics import SCALARS
from matchmaking.live.estimate import METRICS
from matchmaking.live.record import Live, log_points, typed, write_record
from matchmaking.reporting.dashboard import assets

NOW = datetime(2026, 11, 1, 6, tzinfo=UTC)
# of each week's runs
WEEK = (*["evaluate"] * 7, *["observe"] * 7, "monitor", "retrain", "retrain")
STEPS = {
    "evaluate": ("ingest", "validate", "split", "evaluate"),
    "observe": ("ingest", "validate", "observe"),
    "monitor": ("ingest", "validate", "score", "drift"),
    "retrain": ("ingest", "validate", "split", "train", "evaluate", "compare"),
    "promote": ("check", "promote"),
}
WIDTH = 1200
GOALS = {"made": 10.0, "drawn": 3.0, "megabytes": 10.0}


def windows(days: int, slices: int, rng: np.random.Generator, models: list[str]) -> pd.DataFrame:
    """Daily windows of all pairs and of `slices` slices, the last three weeks not measured yet."""
    starts = pd.date_range(end=pd.Timestamp(NOW).normalize() - pd.Timedelta(days=1), periods=days, freq="D")
    groups = [("", ""), *(("location" if n % 2 else "case_type", f"value {n}") for n in range(slices))]
    found = []
    for column, value in groups:
        for metric in METRICS:
            level = 0.06 if metric in ("brier", "log_loss") else 0.8
            true = level + 0.03 * np.sin(np.arange(days) / 40) + rng.normal(0, 0.01, days)
            measured = np.arange(days) < days - 21
            found.append(
                pd.DataFrame(
                    {
                        "start": starts,
                        "end": starts + pd.Timedelta(days=1),
                        "slice": column,
                        "value_of": value,
                        "metric": metric,
                        "model": [models[min(n * len(models) // days, len(models) - 1)] for n in range(days)],
                        "value": np.where(measured, true, np.nan),
                        "low": np.where(measured, true - 0.03, np.nan),
                        "high": np.where(measured, true + 0.03, np.nan),
                        "withheld": np.where(measured, "", "no outcome"),
                        "rows": rng.poisson(500, days),
                        "labelled": np.where(measured, 480, 20),
                        "positives": 55,
                        "completeness": np.where(measured, 0.97, 0.05),
                        "measured": measured,
                        "estimate": true + rng.normal(0, 0.01, days),
                        "estimate_low": true - 0.04,
                        "estimate_high": true + 0.04,
                        "estimate_withheld": "",
                        "effective_rows": 400.0,
                        "effective_positives": 45.0,
                        "method": "pape",
                        "estimated_at": starts + pd.Timedelta(days=1),
                    }
                )
            )
    return typed(pd.concat(found, ignore_index=True))


def fill(folder: Path, runs: int, slices: int, days: int, seed: int = 0) -> None:
    """Makes the database `mlflow.db` of a folder: runs straight into MLflow's tables, `observe`'s newest by its client.

    Args:
        folder: is there, and empty.
        runs: how many, evenly over `days`.
        slices: of the windows.
        days: of windows, and of the runs.
        seed: of everything that is drawn.
    """
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    tracking.client.cache_clear()
    rng = np.random.default_rng(seed)
    models = [uuid.UUID(bytes=rng.bytes(16)).hex * 2 for _ in range(6)]
    run_id, _ = tracking.start_run("observe", f"{NOW:%Y%m%dT%H%M%SZ}", "newest", {"period": "day", "source": "logs"})
    frame = windows(days, slices, rng, models)
    with tempfile.TemporaryDirectory() as out:
        write_record(Path(out), Live(period="day", source="logs", now=NOW), frame)
        log_points(run_id, frame)
        tracking.finish_run(run_id, params={}, metrics={}, history=None, tags={}, artifacts=Path(out))
    experiment = tracking.client().get_experiment_by_name(EXPERIMENT).experiment_id
    rows: dict[str, list[tuple]] = {"runs": [], "tags": [], "params": [], "latest_metrics": []}
    for n in range(runs):
        began = NOW - timedelta(days=days) * (1 - n / runs)
        pipeline = WEEK[n % len(WEEK)]
        _add(rows, experiment, pipeline, began, models[n * len(models) // runs], failed=n % 97 == 50, rng=rng)
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.executemany(
            "insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, lifecycle_stage,"
            " status, start_time, end_time, artifact_uri, experiment_id)"
            " values (?, ?, 'UNKNOWN', '', '', '', 'active', ?, ?, ?, ?, ?)",
            rows["runs"],
        )
        database.executemany("insert into tags (run_uuid, key, value) values (?,?,?)", rows["tags"])
        database.executemany("insert into params (run_uuid, key, value) values (?,?,?)", rows["params"])
        database.executemany(
            "insert into latest_metrics (run_uuid, key, value, timestamp, step, is_nan) values (?,?,?,?,0,0)",
            rows["latest_metrics"],
        )


def _add(
    rows: dict[str, list[tuple]],
    experiment: str,
    pipeline: str,
    began: datetime,
    model: str,
    *,
    failed: bool,
    rng: np.random.Generator,
) -> None:
    """Adds a run to the tables' rows."""
    run_id, name = uuid.UUID(bytes=rng.bytes(16)).hex, f"{pipeline}_{began:%Y%m%dT%H%M%SZ}"
    start = int(began.timestamp() * 1000)
    status = "FAILED" if failed else "FINISHED"
    rows["runs"].append((run_id, name, status, start, start + 90_000, f"artifacts/{run_id}", experiment))
    tags = {"mlflow.runName": name, "pipeline": pipeline, "pipeline_job_id": run_id, "code_version": "1" * 12}
    tags |= {"dataset_version": run_id, "kfp_run": f"http://localhost:8080/#/runs/details/{run_id}"}
    metrics = {"rows": 12_000 + 5.0 * (start % 997), "match_rate": 0.117 + rng.normal(0, 0.003)}
    metrics |= {"unseen_categories": float(rng.poisson(1)), "unseen_share": 0.001, "accuracy_of_nothing": 0.5}
    metrics |= {f"seconds_{step}": float(rng.gamma(4, 3)) for step in STEPS[pipeline]}
    if pipeline in ("evaluate", "retrain"):
        metrics |= {f"production_{metric}": 0.8 + rng.normal(0, 0.01) for metric in SCALARS}
    if pipeline == "retrain":
        metrics |= {f"candidate_{metric}": 0.81 + rng.normal(0, 0.01) for metric in SCALARS}
        tags["verdict"] = str(rng.choice(["promote", "hold", "hold", "reject"]))
        for metric in ("average_precision", "recall", "precision", "roc_auc", "brier", "log_loss", "calibration"):
            found = rng.normal(0.005, 0.01)
            metrics |= {f"difference_{metric}": found, f"difference_{metric}_low": found - 0.02}
            metrics |= {f"difference_{metric}_high": found + 0.02, f"difference_{metric}_margin": 0.01}
        metrics |= {f"training_{name}": 0.1 for name in ("loss", "val_loss", "auc", "val_auc")}
    if pipeline == "monitor":
        for column in (*FEATURES, "match", "score"):
            distance = float(rng.gamma(2, 0.02))
            metrics |= {f"drift_{column}": distance, f"drift_threshold_{column}": 0.1}
            metrics |= {f"drifted_{column}": float(distance > 0.1)}
        metrics |= {"drifted": 0.0, "share_drifted": 0.1}
    if failed:
        metrics, tags["failure_reason"] = {}, "validate: column budget is missing in 17 rows"
    params = {"seed": "0", "timestamp": name.rpartition("_")[2], "dataset_version": run_id, "production_model": model}
    rows["tags"] += [(run_id, *each) for each in tags.items()]
    rows["params"] += [(run_id, *each) for each in params.items()]
    rows["latest_metrics"] += [(run_id, key, float(value), start) for key, value in metrics.items()]


def made(folder: Path) -> tuple[float, float, float]:
    """Makes the page by the command line, and gives the seconds, those of CPU time, and the megabytes."""
    page = folder / "dashboard.html"
    # as `make setup` leaves an installation: a page that finds no script of its charts makes it, once
    assets.load()
    began = time.monotonic()
    command = [str(Path(sys.executable).with_name("mlops")), "dashboard", "--work-dir", str(folder), "--out", str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, used.ru_utime + used.ru_stime, page.stat().st_size / 1e6


def drawn(page: Path) -> tuple[float, float]:
    """The seconds from opening the page in Chromium until its charts stand, and those of its processes' CPU time."""
    from tests.browser import chromium

    with chromium() as tab:
        # the first page of a browser waits for the browser
        tab.open("data:text/html,<p>")
        before = _children()
        seconds = tab.open(page.as_uri(), width=WIDTH, ready="document.querySelector('html[data-drawn]')")
        used = _children() - before
        assert not tab.errors, tab.errors
    return seconds, used


def _children() -> float:
    """The CPU seconds that the processes below this one have used."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            used += sum(process.cpu_times()[:2])
    return used


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--days", type=int, default=820)
    parser.add_argument("--keep", type=Path, help="a folder for the database and the page")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        fill(folder, chosen.runs, chosen.slices, chosen.days)
        seconds, of_making, megabytes = made(folder)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        until_drawn, of_drawing = drawn(folder / "dashboard.html")
        found = {"made": seconds, "drawn": until_drawn, "megabytes": megabytes}
    print(f"{chosen.runs:,} runs, {chosen.slices} slices, {chosen.days} daily windows")
    print(f"{os.cpu_count()} CPUs, {os.getloadavg()[0]:.1f} processes that want one")
    for name, value in found.items():
        unit = "MB" if name == "megabytes" else "s"
        print(f"  {name:<10}{value:6.1f} {unit}   the aim: at most {GOALS[name]:g} {unit}")
    print(f"  {'CPU time':<10}{of_making:6.1f} s   to make it, and {of_drawing:.1f} s of all the browser's processes")
    print(f"  {'memory':<10}{peak:6.0f} MB   at its peak, while it is made")
    if missed := [name for name, value in found.items() if value > GOALS[name]]:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
