"""Kubeflow Pipelines' stand-in with a plan for each pipeline, and the command line in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.cli.app import main
from mlops.kubeflow import kfp_api
from tests.kfp_server import FakeKfp, Plan, kfp_server
from tests.submit_fixtures import SUMMARY, TASKS, Done, Here


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take some seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with kfp_server() as server:
        server.plans = {name: Plan(tasks) for name, tasks in TASKS.items()}
        server.plans["retrain"].summary = SUMMARY
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kfp_api, "FIRST_PATIENCE", 0.2)
    monkeypatch.setattr(kfp_api, "PATIENCE", 0.2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on the stand-in is over after a few looks."""
    monkeypatch.setattr("mlops.kubeflow.follow.FIRST_POLL", 0.02)
    monkeypatch.setattr("mlops.kubeflow.follow.LONGEST_POLL", 0.02)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """The command line in this process, from its arguments to its exit code: a second less than in one of its own."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*args: str, **env: str) -> Done:
        for name, value in {"COLUMNS": "100", **env}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["mlops", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)
