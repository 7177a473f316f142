"""`mlops data generate-logs` and `mlops run observe`, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from matchmaking.live.record import read_folder, series

Mlops = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def logs(mlops: Mlops, incumbent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("traffic") / "logs"
    done = mlops(
        *("data", "generate-logs", "--out", out, "--model", incumbent, "--days", 120, "--volume", 80),
        *("--until", "2026-03-01", "--delay", 10, "--ending", ".jsonl.gz"),
    )
    assert done.returncode == 0, done.stderr
    assert "the truth of each window is in truth.csv" in done.stdout
    return out


def test_from_logs_to_the_report(mlops: Mlops, incumbent: Path, logs: Path, tmp_path: Path) -> None:
    given = ("--predictions", logs / "predictions", "--outcomes", logs / "outcomes", "--production", incumbent)
    done = mlops("run", "observe", *given, "--work-dir", tmp_path, "--period", "month")
    assert done.returncode == 0, done.stderr
    assert "Production on the pairs of now, by month (UTC)" in done.stdout and "measured" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    live, windows = read_folder(folder)
    found = series(windows, "average_precision")
    assert summary["live"]["windows"] == live.windows == found["start"].nunique() == 4
    last = summary["live"]["recent"][-1]["metrics"]["average_precision"]
    assert last["value"] is None or last["value"] == pytest.approx(found["value"].iloc[-1], abs=1e-6)
    page = (folder / "report.html").read_text()
    assert "The newest windows" in page and 'alt="live average precision"' in page
    # what was measured is what the truth beside the logs says, as far as so few pairs tell
    truth = pd.read_csv(logs / "truth.csv", parse_dates=["start"])
    truth = truth[truth["period"] == "month"].set_index("start")
    measured = found[found["measured"]].set_index("start").join(truth["average_precision"])
    assert len(measured) >= 3
    assert ((measured["value"] - measured["average_precision"]).abs() < 0.1).all()


def test_a_labelled_file(mlops: Mlops, incumbent: Path, sample_csv: Path, tmp_path: Path) -> None:
    # the model that scored it is part of the series, wherever one stood
    given = ("--data", os.path.relpath(sample_csv), "--production", os.path.relpath(incumbent))
    done = mlops("run", "observe", *given, "--work-dir", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    params = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(summary["run_id"]).data.params
    assert (params["data"], params["production"]) == (str(sample_csv), str(incumbent))
    live = summary["live"]
    assert [one["code"] for one in live["findings"]] == ["no-time"]
    (window,) = live["recent"]
    assert window["rows"] == window["labelled"] > 1_000
    assert window["metrics"]["recall"]["value"] > 0.2


def test_what_doesnt_go_together_is_refused(mlops: Mlops, tmp_path: Path) -> None:
    for given, said in (
        (("observe", "--predictions", "p", "--data", "d"), "either the logs"),
        (("observe", "--production", "p"), "give the dataset"),
        (("retrain", "--data", "d", "--predictions", "p"), "--predictions is for observe"),
    ):
        done = mlops("run", *given, "--work-dir", tmp_path)
        assert done.returncode == 2 and said in done.stderr, done.stderr
    done = mlops("run", "observe", "--predictions", tmp_path / "none", "--work-dir", tmp_path)
    assert done.returncode == 2 and "none" in done.stderr
