"""`mlops experiment plan|start|status|report`: recorded in a real MLflow, read from a log as the gateway's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from matchmaking import tracking
from mlops.cli.app import app
from tests.experiment_fixtures import DEFINITION, START, write_logs
from tests.unit.experiments.test_definition import GIVEN


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.client.cache_clear()
    yield tmp_path
    tracking.client.cache_clear()


def call(*args: object) -> Any:
    return CliRunner().invoke(app, ["experiment", *map(str, args)], env={"COLUMNS": "100"})


def test_from_the_definition_to_the_report(work: Path) -> None:
    (work / "experiment.json").write_text(json.dumps(DEFINITION))
    started = call("start", work / "experiment.json", "--work-dir", work)
    assert started.exit_code == 0 and "recorded, sha256" in started.output
    logs = write_logs(work, 0.12)
    status = call("status", "embeddings-1", *logs, "--work-dir", work)
    assert status.exit_code == 0
    assert "embeddings-1: The challenger is better." in status.output
    assert "clients exposed: 3,000" in status.output
    said = json.loads(call("status", "embeddings-1", *logs, "--work-dir", work, "--json").stdout)
    assert (said["verdict"], said["day"], said["checks"]) == ("better", 25, [])
    assert 0 < said["low"] < said["difference"] < said["high"]
    made = call("report", "embeddings-1", *logs, "--out", work / "out", "--work-dir", work)
    assert made.exit_code == 0
    assert "The challenger is better." in (work / "out/experiment.html").read_text()
    assert said.items() <= json.loads((work / "out/experiment.json").read_text()).items()
    run = tracking.client().search_runs(["1"], "tags.experiment_name = 'embeddings-1'")[0]
    assert run.data.tags["experiment_verdict"] == "better"
    assert run.data.metrics["difference"] == pytest.approx(said["difference"])
    assert run.info.status == "FINISHED"


def test_another_version_of_the_service_in_the_log_forbids_to_read_it(work: Path) -> None:
    (work / "experiment.json").write_text(json.dumps(DEFINITION))
    assert call("start", work / "experiment.json", "--work-dir", work).exit_code == 0
    logs = write_logs(work, 0.0)
    for version, part in zip(("1.4", "1.5"), sorted((work / "exposures").rglob("*.jsonl")), strict=True):
        part.write_text(part.read_text().replace("}\n", f', "service": "{version}"}}\n'))
    said = json.loads(call("status", "embeddings-1", *logs, "--work-dir", work, "--json").stdout)
    assert said["verdict"] == "unreadable" and "1.4, 1.5" in json.dumps(said["checks"])


def test_what_goes_wrong_is_one_line(work: Path) -> None:
    logs = write_logs(work, 0.0)
    nothing = call("status", "embeddings-1", *logs, "--work-dir", work)
    assert nothing.exit_code and "no experiment 'embeddings-1' is recorded" in str(nothing.exception)
    (work / "late.json").write_text(json.dumps(GIVEN))
    late = call("start", work / "late.json", "--work-dir", work)
    assert late.exit_code and "give a later start" in str(late.exception)
    (work / "experiment.json").write_text(json.dumps({**GIVEN, "start": START.isoformat()}))
    assert call("start", work / "experiment.json", "--work-dir", work).exit_code == 0
    zone = call("status", "embeddings-1", *logs[:-1], "2026-03-01", "--work-dir", work)
    assert "no time with an offset" in str(zone.exception)
    (work / "outcomes.csv").write_text("")
    assert "can't be read" in str(call("status", "embeddings-1", *logs, "--work-dir", work).exception)


def test_the_plan_of_past_pairs(tmp_path: Path) -> None:
    past = pd.DataFrame({"unit": np.repeat(np.arange(1_000), 2), "match": [1, 1] * 100 + [0, 0] * 900})
    past.to_csv(tmp_path / "past.csv", index=False)
    said = call("plan", tmp_path / "past.csv", "--effect", 0.02).output
    # two pairs that are alike are one: 2 * (1.96 + 0.84)^2 * 2 * 0.09 / 0.02^2
    assert "1,000 clients, match_rate 0.1000" in said and "7,064 with one" in said
    assert "score" not in said
    past.assign(score=past["match"] * 0.5 + past["unit"] % 2 * 0.3).to_parquet(tmp_path / "past.parquet")
    assert "The champion's score saves" in call("plan", tmp_path / "past.parquet", "--effect", 0.02).output
    past.drop(columns="match").to_csv(tmp_path / "past.csv", index=False)
    assert "no column match" in str(call("plan", tmp_path / "past.csv", "--effect", 0.02).exception)
