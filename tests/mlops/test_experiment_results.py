"""`mlops experiment plan|start|status|report`: recorded in a real MLflow, read from a log as the gateway's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from matchmaking import tracking
from matchmaking.experiments.assignment import assign
from mlops.cli.app import app
from tests.unit.experiments.test_definition import GIVEN

START = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.client.cache_clear()
    yield tmp_path
    tracking.client.cache_clear()


def call(*args: object) -> Any:
    return CliRunner().invoke(app, ["experiment", *map(str, args)], env={"COLUMNS": "100"})


def write_logs(folder: Path, gain: float) -> list[object]:
    """A log of 3,000 clients in two parts, their outcomes, and the options that name them."""
    rng = np.random.default_rng(0)
    lines, outcomes = [], []
    for number in range(3_000):
        unit, day = f"client-{number}", 15 * number / 3_000
        arm = assign("embeddings-1", unit, 50)
        assert arm is not None
        line = {
            "version": 1,
            "time": (START + timedelta(days=day)).isoformat(timespec="milliseconds"),
            "experiment": "embeddings-1",
            "mode": "ab",
            "unit": unit,
            "variant": arm,
            "model": ("a" if arm == "champion" else "b") * 64,
            "request": f"{number:032x}",
            "status": "200",
            "latency_ms": 40.0 + rng.random(),
            "answered_by": arm,
        }
        lines.append(json.dumps(line))
        match = rng.random() < 0.2 + gain * (arm == "challenger")
        outcomes.append((unit, START + timedelta(days=day + 1), int(match), line["request"]))
    parts = folder / "exposures" / "2026-01-05"
    parts.mkdir(parents=True)
    (parts / "0000-a.jsonl").write_text("\n".join(lines[:1_500]) + "\n")
    (parts / "0001-b.jsonl").write_text("\n".join(lines[1_500:]) + "\n")
    pd.DataFrame(outcomes, columns=["unit", "time", "match", "request"]).to_csv(folder / "outcomes.csv", index=False)
    until = (START + timedelta(days=25, hours=7)).isoformat()
    return ["--exposures", folder / "exposures", "--outcomes", folder / "outcomes.csv", "--until", until]


def test_from_the_definition_to_the_report(work: Path) -> None:
    given = {**GIVEN, "start": START.isoformat(), "window_days": 2, "label_delay_days": 3, "planned_clients": 3_000}
    (work / "experiment.json").write_text(json.dumps(given))
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
    assert json.loads((work / "out/experiment.json").read_text()) == said | {"log": {}}
    run = tracking.client().search_runs(["1"], "tags.experiment_name = 'embeddings-1'")[0]
    assert run.data.tags["experiment_verdict"] == "better"
    assert run.data.metrics["difference"] == pytest.approx(said["difference"])
    assert run.info.status == "FINISHED"


def test_another_version_of_the_service_in_the_log_forbids_to_read_it(work: Path) -> None:
    given = {**GIVEN, "start": START.isoformat(), "window_days": 2, "label_delay_days": 3, "planned_clients": 3_000}
    (work / "experiment.json").write_text(json.dumps(given))
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
