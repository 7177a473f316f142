"""MLflow's records and KFP's runs agree: a real MLflow on a file, a stand-in for KFP (see tests/kfp_server.py)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.base import settings
from matchmaking.base.errors import MlopsError
from matchmaking.live import alert_log
from matchmaking.tracking import notify, runs
from matchmaking.tracking.step import step
from mlops.cli.submit import _close_record
from mlops.cluster import in_cluster
from mlops.kubeflow import follow, reconcile, submit
from mlops.kubeflow.kfp_api import Server, ServerError
from tests.kfp_server import FakeKfp, Fault, Plan, kfp_server

TASKS = ["ingest", "validate", "split", "evaluate", "report"]
LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with kfp_server() as server:
        server.plans = {"evaluate": Plan(TASKS)}
        yield server


@pytest.fixture
def mlflow(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    shutil.copyfile(database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for name in ("KFP_POD_NAME", "MLOPS_KFP_URL", "MLOPS_MLFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    tracking.client.cache_clear()
    yield tracking.client()
    tracking.client.cache_clear()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    sent: list[tuple[str, ...]] = []
    monkeypatch.setenv(notify.URLS, "json://nobody.invalid")
    monkeypatch.setattr(notify, "_send", lambda *message: sent.append(message) or True)
    return sent


def opened(job_id: str, monkeypatch: pytest.MonkeyPatch, pod: str = "evaluate-x7k2p-1") -> str:
    """The record as the first step opens it: in a pod, or on a machine of its own."""
    monkeypatch.setenv("KFP_POD_NAME", pod)
    run_id, _ = tracking.start_run("evaluate", tracking.now(), job_id, {})
    monkeypatch.delenv("KFP_POD_NAME")
    return run_id


def started(server: Server, kfp: FakeKfp, looks: int = 1) -> str:
    """A run on the stand-in that has come some way."""
    arguments = {"data": "s3://datasets/pairs.csv", "production": "s3://production"}
    run = submit.start(server, submit.upload(server, "evaluate"), arguments)
    kfp.looks[run.run_id] = looks
    return run.run_id


def state(mlflow: Any, run_id: str) -> tuple[str, str | None]:
    run = mlflow.get_run(run_id)
    return run.info.status, run.data.tags.get(runs.REASON_TAG)


def test_what_has_ended_is_closed_and_told_once(
    kfp: FakeKfp, mlflow: Any, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(kfp.url)
    jobs = [started(server, kfp, looks=-1) for _ in range(3)]
    stopped, going, dead = (opened(job, monkeypatch) for job in jobs)
    server.write(server.runs.run_service_terminate_run, jobs[0])
    # not before it has ended in KFP
    assert reconcile.reconcile(server) == 0
    assert state(mlflow, stopped)[0] == "RUNNING"
    kfp.plans["evaluate"].failing = "split"
    kfp.looks[jobs[1]], kfp.looks[jobs[2]] = -1, 5
    lines: list[str] = []
    assert reconcile.reconcile(server, say=lines.append) == 2
    assert state(mlflow, stopped) == ("KILLED", "it was terminated in Kubeflow Pipelines")
    assert state(mlflow, going) == ("RUNNING", None)
    status, reason = state(mlflow, dead)
    assert status == "FAILED"
    assert reason is not None
    assert reason.startswith("split: it ended without telling why")
    assert len(lines) == 2
    for (event, _, body), job in zip(told, (jobs[0], jobs[2]), strict=True):
        assert event == "failed"
        assert f"http://localhost:8080/#/runs/details/{job}" in body
        assert "http://localhost:5001/#/runs/" in body
    assert "was stopped" in told[0][1]
    kfp.looks[jobs[1]] = -1
    assert reconcile.reconcile(server) == 0
    assert len(told) == 2


def test_links_are_those_of_the_pod_that_opened_the_run(mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' environment has none of them; what it has goes first."""
    monkeypatch.setenv("MLOPS_MLFLOW_URL", "https://mlflow.example/")
    monkeypatch.setenv("MLOPS_KFP_URL", "https://kfp.example")
    run_id = opened("6b4b9c9e", monkeypatch)
    monkeypatch.delenv("MLOPS_MLFLOW_URL")
    monkeypatch.delenv("MLOPS_KFP_URL")
    kfp_line = "Kubeflow Pipelines run https://kfp.example/#/runs/details/6b4b9c9e"
    assert tracking.links(run_id) == [f"MLflow run https://mlflow.example/#/runs/{run_id}", kfp_line]
    # of a run that MLflow can't tell of
    assert tracking.links("0" * 32) == [f"MLflow run http://localhost:5001/#/runs/{'0' * 32}"]
    monkeypatch.setenv("MLOPS_MLFLOW_URL", "https://here.example")
    assert tracking.links(run_id) == [f"MLflow run https://here.example/#/runs/{run_id}", kfp_line]


def test_the_reason_is_what_the_step_said(kfp: FakeKfp, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = kfp.plans["evaluate"]
    plan.failing, plan.error = "validate", {"step": "validate", "exit_code": 2, "message": "column 'rating' is missing"}
    server = Server(kfp.url)
    run_id = opened(started(server, kfp, looks=5), monkeypatch)
    reconcile.reconcile(server)
    assert state(mlflow, run_id) == ("FAILED", "validate: column 'rating' is missing")


def test_deleted_runs_are_closed_and_those_of_others_let_be(
    kfp: FakeKfp, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(kfp.url)
    jobs = [started(server, kfp) for _ in range(2)]
    deleted = opened(jobs[0], monkeypatch)
    local = opened("0a1b2c3d", monkeypatch, pod="")
    # local runs have had such ids, too
    monkeypatch.setattr(settings, "kfp_run_url", lambda run_id: f"https://kfp.example/#/runs/details/{run_id}")
    elsewhere = opened("6b4b9c9e-0000-4000-8000-000000000000", monkeypatch)
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tracking.client().tracking_uri))
    del kfp.runs[jobs[0]]
    assert reconcile.reconcile(server) == 0
    assert reconcile.reconcile(server, moment=LATER) == 1
    assert state(mlflow, deleted) == ("FAILED", "its run was deleted in Kubeflow Pipelines")
    for run_id in (local, elsewhere):
        assert state(mlflow, run_id) == ("RUNNING", None)


def test_a_workflow_that_was_deleted(kfp: FakeKfp, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """KFP has such a run as running for ever."""
    kfp.plans["evaluate"].ends = False
    server = Server(kfp.url)
    jobs = [started(server, kfp, looks=9) for _ in range(2)]
    gone, there = (opened(job, monkeypatch) for job in jobs)
    reconcile.reconcile(server, lambda job: job == jobs[1])
    assert state(mlflow, gone) == ("RUNNING", None)
    reconcile.reconcile(server, lambda job: job == jobs[1], moment=LATER)
    assert state(mlflow, gone) == ("FAILED", "its Workflow was deleted in the cluster")
    assert state(mlflow, there) == ("RUNNING", None)


def test_an_outage_closes_nothing(kfp: FakeKfp, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(kfp.url)
    run_id = opened(started(server, kfp), monkeypatch)
    for status in (401, 403, 500):
        kfp.faults = [Fault("GET", "/runs/", status, times=99)]
        monkeypatch.setattr("mlops.kubeflow.kfp_api.PATIENCE", 0.1)
        with pytest.raises(ServerError):
            reconcile.reconcile(server, moment=LATER)
    assert state(mlflow, run_id) == ("RUNNING", None)


def test_submit_closes_the_record_of_what_it_follows(
    kfp: FakeKfp, mlflow: Any, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    server = Server(kfp.url)
    job = started(server, kfp)
    run_id = opened(job, monkeypatch)
    other = opened(started(server, kfp), monkeypatch)
    server.write(server.runs.run_service_terminate_run, job)
    run = submit.Run(job, "evaluate", "", False, {task: task for task in TASKS})
    _close_record(run, follow.follow(server, run), Console(stderr=True))
    assert state(mlflow, run_id)[0] == "KILLED"
    assert state(mlflow, other)[0] == "RUNNING"
    assert len(told) == 1


def test_the_pod_reconciles(kfp: FakeKfp, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    server = Server(kfp.url)
    job = started(server, kfp)
    run_id = opened(job, monkeypatch)
    server.write(server.runs.run_service_terminate_run, job)
    server.read(server.runs.run_service_get_run, job)
    done = CliRunner().invoke(in_cluster.app, ["reconcile"], env={"MLOPS_KFP_HOST": kfp.url})
    assert done.exit_code == 0, done.output
    assert "terminated in Kubeflow Pipelines\n1 closed" in done.output
    assert state(mlflow, run_id)[0] == "KILLED"


@pytest.mark.parametrize("down", ["server", "runs", "recurring", "cron jobs"])
def test_the_pod_looks_at_alerts_whatever_is_down(
    kfp: FakeKfp, mlflow: Any, monkeypatch: pytest.MonkeyPatch, down: str
) -> None:
    """What is down is why runs fail, so people are told of them then above all."""
    from typer.testing import CliRunner

    monkeypatch.setattr("mlops.kubeflow.kfp_api.FIRST_PATIENCE", 0.1)
    monkeypatch.setattr("mlops.kubeflow.kfp_api.PATIENCE", 0.1)
    closed_run, _ = tracking.start_run("retrain", tracking.now(), "job", {})
    tracking.close_run(closed_run, "train: killed")
    # it goes on
    opened(started(Server(kfp.url), kfp, looks=-5), monkeypatch)
    made = (datetime.now(UTC) - timedelta(days=90)).isoformat()
    jobs = [{"metadata": {"name": "monitor", "creationTimestamp": made}, "spec": {"schedule": "0 6 * * *"}}]
    where = {"server": "/healthz", "runs": "/runs/", "recurring": "/recurringruns"}

    def cron_jobs(_: str) -> list[dict[str, Any]]:
        if down == "cron jobs":
            raise MlopsError("the CronJobs of legalaid-mlops can't be read: Forbidden")
        return jobs

    # Kubernetes' API has its tests in tests/manifests/test_in_cluster.py
    monkeypatch.setattr(in_cluster, "_cron_jobs", cron_jobs)
    kfp.faults = [Fault("GET", where[down], 503, times=99)] if down in where else []
    environment = {"MLOPS_KFP_HOST": kfp.url}
    done = CliRunner().invoke(in_cluster.app, ["reconcile", "--schedules", "legalaid-mlops"], env=environment)
    assert done.exit_code == 1, done.output
    assert "Error: " in done.output
    firing = {each.name for each in alert_log.read_alerts() if each.state == "firing"}
    assert firing == {"failed/retrain"} | ({"late/monitor"} if down != "cron jobs" else set())
    # as soon as it is back, all is well with this
    kfp.faults, down = [], ""
    done = CliRunner().invoke(in_cluster.app, ["reconcile", "--schedules", "legalaid-mlops"], env=environment)
    assert done.exit_code == 0, done.output


def test_a_retry_that_succeeds_forgets_the_failure(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = "6b4b9c9e-0000-4000-8000-000000000000"
    run_id = opened(job, monkeypatch)
    page = f"http://localhost:8080/#/runs/details/{job}"
    with pytest.raises(ValueError, match="so"), step("validate", run_id):
        raise ValueError("so it is")
    run = mlflow.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags[runs.REASON_TAG] == "validate: ValueError: so it is"
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("Failed: validate: ")
    assert page in note
    (tmp_path / "artifacts").mkdir()
    tracking.finish_run(run_id, params={}, metrics={}, history=None, tags={}, artifacts=tmp_path / "artifacts")
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert runs.REASON_TAG not in run.data.tags
    assert run.data.tags["mlflow.note.content"] == f"[The run in Kubeflow Pipelines]({page})"
