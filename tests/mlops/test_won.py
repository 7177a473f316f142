"""From a held candidate to its promotion, by the commands that people give: an experiment with real models' sha256s."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from matchmaking import tracking
from matchmaking.model import production
from matchmaking.release import registry
from matchmaking.release.package import fetch_package
from mlops.cli.app import app
from tests.experiment_fixtures import START, record_earlier, write_logs
from tests.promotion_fixtures import contents, package, variant
from tests.unit.experiments.test_definition import GIVEN

PACKAGE = "v20260101T000000Z"


@pytest.fixture
def work(incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A work folder with one registered package, which was held."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracking.client.cache_clear()
    uri = package(variant(incumbent, tmp_path / "bundle", "x"), incumbent, tmp_path / "candidates", PACKAGE, "hold")
    (tmp_path / "copy").mkdir()
    run_id, _ = tracking.start_run("retrain", PACKAGE.removeprefix("v"), "job", {})
    registry.register(fetch_package(uri, tmp_path / "copy"), run_id)
    yield tmp_path
    tracking.client.cache_clear()


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


def test_a_held_candidate_wins_and_is_promoted(work: Path, served: Path) -> None:
    models = {"a": production.hashes(served), "b": production.hashes(work / "candidates" / PACKAGE)}
    sha256 = {arm: found[production.MODEL] for arm, found in models.items()}
    given = {**GIVEN, "start": START.isoformat(), "window_days": 2, "label_delay_days": 3, "planned_clients": 3_000}
    given |= {"champion": sha256["a"], "challenger": sha256["b"]}
    record_earlier(given)
    logs = write_logs(work, 0.12)
    for part in (work / "exposures").rglob("*.jsonl"):
        text = part.read_text()
        for arm, digest in sha256.items():
            text = text.replace(f'"model": "{arm * 64}"', f'"model": "{digest}"')
        part.write_text(text)
    promoting = ("promote", "1", "--production", served, "--work-dir", work, "--yes", "--experiment", "embeddings-1")
    early = call(*promoting)
    assert early.exit_code and "experiment embeddings-1 has no report" in str(early.exception)
    made = call("experiment", "report", "embeddings-1", *logs, "--out", work / "out", "--work-dir", work)
    assert made.exit_code == 0, made.output
    numbers = json.loads((work / "out/experiment.json").read_text())
    done = call(*promoting)
    assert done.exit_code == 0, done.output
    assert "on evidence of experiment embeddings-1 (sha256 " in done.output
    assert contents(served) == contents(work / "candidates" / PACKAGE)
    shown = " ".join(call("history", "--production", served).output.split())
    assert "won experiment embeddings-1" in shown
    assert f"match_rate {numbers['difference']:+.4f} ({numbers['low']:+.4f} to {numbers['high']:+.4f}, 95 %" in shown
    (entry,) = json.loads(call("history", "--production", served, "--json").output)["entries"]
    assert {key: entry["experiment"][key] for key in ("sha256", "day", "low")} == {
        key: numbers[key] for key in ("sha256", "day", "low")
    }
    page = work / "dashboard.html"
    assert call("dashboard", "--production", served, "--work-dir", work, "--out", page).exit_code == 0
    assert "on evidence of experiment embeddings-1" in page.read_text()
    # what it compared is no more: the same evidence promotes nothing a second time
    assert call("rollback", "--production", served, "--work-dir", work, "--yes").exit_code == 0
    with (served / production.MODEL).open("ab") as file:
        file.write(b" ")
    stale = call(*promoting)
    assert stale.exit_code and "is about another comparison: its champion is" in str(stale.exception)
