"""`observe` with its logs on S3, recorded in SQLite and on the MLflow server: killed at each step, and run again."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from matchmaking import tracking
from matchmaking.base.settings import EXPERIMENT
from matchmaking.data import sample
from matchmaking.live import record
from matchmaking.live.generate import generate_logs
from matchmaking.live.series import Series, followed
from matchmaking.live.traffic import Champion, Plan
from tests.services.conftest import S3, seaweedfs
from tests.services.test_tracking import NO_CREDENTIALS, Tracking, server  # noqa: F401

STAMP = "20250601T000000Z"
# after how many changes of MLflow's records each step is killed: 0 stands for before it writes its files
KILLED = {"collect": (1, 2, 3), "observe": (0,), "report": (1, 2, 5)}
ROOT = Path(__file__).parents[2]
Step = Callable[..., int]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server with half a year of logs in the bucket `data`."""
    out = tmp_path_factory.mktemp("traffic")
    plan = Plan(start="2024-12-02", days=181, volume=100, delay=10, delay_spread=0.1, seed=4)
    generate_logs(out, plan, [Champion(0, "a" * 64, sample.true_probability)])
    with seaweedfs(tmp_path_factory.mktemp("s3")) as s3:
        for path in out.rglob("*.parquet"):
            s3.client().put_object(Bucket="data", Key=f"logs/{path.relative_to(out)}", Body=path.read_bytes())
        yield s3


@pytest.fixture(params=["sqlite", "server"])
def records(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Where runs are recorded."""
    with contextlib.ExitStack() as stack:
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        if request.param == "server":
            there: Tracking = request.getfixturevalue("server")
            stack.enter_context(there.start())
            uri = there.uri
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracking.client.cache_clear()
        yield {"MLFLOW_TRACKING_URI": uri}
        tracking.client.cache_clear()


@pytest.fixture(scope="module")
def step() -> Iterator[Step]:
    """Runs a step and gives its exit code: 0, or that it was killed."""
    command = [sys.executable, "-m", "tests.observe_driver"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdin and driver.stdout

        def run(name: str, folder: Path, given: dict[str, Any], env: dict[str, str], writes: int | None = None) -> int:
            assert driver.stdin and driver.stdout
            folder.mkdir(exist_ok=True)
            job = {"step": name, "folder": str(folder), "given": given, "env": env, "writes": writes}
            driver.stdin.write(f"{json.dumps(job)}\n")
            driver.stdin.flush()
            done = json.loads(driver.stdout.readline())
            assert done["code"] in (0, -signal.SIGKILL), done["said"]
            return int(done["code"])

        yield run
        driver.stdin.close()


def test_killed_at_each_step_no_point_is_twice_and_none_missing(
    logs: S3, records: dict[str, str], step: Step, tmp_path: Path
) -> None:
    env = {**NO_CREDENTIALS, **logs.pipeline, "AWS_ENDPOINT_URL": logs.endpoint, **records}
    given: dict[str, Any] = {
        "predictions": "s3://data/logs/predictions",
        "outcomes": "s3://data/logs/outcomes",
        **{"data": "", "production": "", "period": "week", "timestamp": STAMP, "params": {"seed": 0}},
    }
    for name, places in KILLED.items():
        for writes in places:
            assert step(name, tmp_path / "killed", {**given, "job_id": "job-1"}, env, writes) == -signal.SIGKILL
            assert record.newest_record() is None and followed(datetime.now(UTC)) is None
        assert step(name, tmp_path / "killed", {**given, "job_id": "job-1"}, env) == 0
    found = record.newest_record(Series("week", given["predictions"], given["outcomes"]))
    assert found is not None
    client = tracking.client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], "tags.pipeline = 'observe'")
    assert [run.info.run_id for run in runs] == [found.run_id]
    check_points(found.run_id, found.windows)
    # an execution that nobody killed says the same
    for name in KILLED:
        assert step(name, tmp_path / "whole", {**given, "job_id": "job-2"}, env) == 0
    # on the predictions alone: that isn't what alerts and the dashboard follow
    for name in KILLED:
        assert step(name, tmp_path / "other", {**given, "outcomes": "", "job_id": "job-3"}, env) == 0
    said = (tmp_path / "other/results/report.txt").read_text()
    assert "Not the series that alerts and the dashboard follow" in " ".join(said.split())
    live = record.followed_record(datetime.now(UTC))
    assert live is not None and live[1].run_id != found.run_id
    assert live[0].series == Series("week", given["predictions"], given["outcomes"])
    assert live[0].others == (Series("week", given["predictions"]),)
    again = record.newest_record(live[0].series)
    assert again is not None and again.run_id != found.run_id
    pd.testing.assert_frame_equal(again.windows, found.windows)
    check_points(again.run_id, again.windows)


def check_points(run_id: str, windows: pd.DataFrame) -> None:
    """MLflow has each point of the series, at its time, and no other."""
    wanted: dict[str, list[tuple[int, int, float]]] = {}
    for key, value, stamp, day in record.points(windows):
        wanted.setdefault(key, []).append((day, stamp, value))
    assert len(wanted["live_measured_recall"]) > 15 and len(wanted["live_estimated_recall"]) > 5
    there = tracking.client().get_run(run_id).data.metrics
    assert {key for key in there if key.startswith("live_")} == set(wanted)
    for key, points in wanted.items():
        history = tracking.client().get_metric_history(run_id, key)
        assert sorted((one.step, one.timestamp, one.value) for one in history) == sorted(points), key
