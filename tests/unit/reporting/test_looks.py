"""What the end of a run says to the alerts: runs that find the same tell it once, and a broken log fails no run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.base.settings import EXPERIMENT
from matchmaking.live import conditions
from matchmaking.live.alert_log import read_alerts
from matchmaking.live.alerts import Condition
from matchmaking.live.record import Live
from matchmaking.reporting import report
from matchmaking.reporting.dashboard import records
from matchmaking.reporting.dashboard.gauges import exposition
from matchmaking.reporting.dashboard.page import dashboard_page
from matchmaking.tracking import notify
from tests.observe_fixtures import observe
from tests.webhook import Hook

COLUMN = {"column": "budget", "kind": "feature", "statistic": 0.31, "threshold": 0.1, "drifted": True}


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLOPS_POLICY", raising=False)
    monkeypatch.delenv(notify.URLS_FILE, raising=False)
    tracking.client.cache_clear()
    hook = Hook()
    monkeypatch.setenv(notify.URLS, hook.url)
    yield hook
    hook.close()
    tracking.client.cache_clear()


def ended(pipeline: str, *seen: Condition, **found: Any) -> None:
    ended.count += 1  # type: ignore[attr-defined]
    run_id, _ = tracking.start_run(pipeline, tracking.now(), f"job-{ended.count}", {})  # type: ignore[attr-defined]
    live = Live(period="week", now=datetime.now(UTC), conditions=[asdict(each) for each in seen]) if seen else None
    report._look({"pipeline": pipeline, "run_id": run_id, "live": {"followed": True}, **found}, live)


ended.count = 0  # type: ignore[attr-defined]


def test_runs_that_find_the_same_tell_it_once(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    drifted = {"drifted": True, "columns": [COLUMN]}
    metrics = {"roc_auc": 0.95, "average_precision": 0.5, "brier": 0.05}
    worse = Condition("performance/recall", True, "critical", "Production's recall is worse than it was")
    for _ in range(2):
        ended("monitor", drift=drifted)
        ended("evaluate", metrics={"production": metrics})
        ended("observe", worse)
        ended("retrain")
    said = ["The data has drifted", "Production is past its limits on held-out pairs", worse.title]
    assert [title.split("] ")[1] for title in hook.titles()] == said
    assert all("http://localhost:5001/#/runs/" in body["message"] for body in hook.bodies[:2])
    ended("monitor", drift={**drifted, "drifted": False})
    ended("evaluate", metrics={"production": {**metrics, "average_precision": 0.8}})
    ended("observe", replace(worse, firing=False))
    assert hook.titles()[3:] == [f"[resolved] {title}" for title in said]
    assert {each.state for each in read_alerts()} == {"cleared"}


def test_a_policy_that_is_none_fails_no_run(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLOPS_POLICY", "alerts: [")
    ended("evaluate", metrics={"production": {}})
    assert "alerts were not looked at: MLOPS_POLICY: not YAML" in capsys.readouterr().out


# ------------------------------------------------------------------------------------- the installation's series

LOGS = {"period": "week", "source": "s3://logs/p", "predictions": "s3://logs/p", "outcomes": "s3://logs/o"}
TRIED = {**LOGS, "source": "/tried/p", "predictions": "/tried/p"}
CSV = {"period": "week", "source": "/a.csv", "data": "/a.csv", "production": "/candidate"}
WELL = Condition("performance/recall", False, "critical", "Production's recall is worse than it was")
WORSE = replace(WELL, firing=True)


def states() -> dict[str, str]:
    return {each.name: each.state for each in read_alerts()}


@pytest.mark.parametrize("other", [TRIED, CSV, {**LOGS, "period": "day"}, {**LOGS, "outcomes": "/tried/o"}])
def test_a_run_on_something_else_changes_nothing_that_is_followed(
    hook: Hook, tmp_path: Path, other: dict[str, str]
) -> None:
    """Neither the alerts, nor the dashboard, nor what is said of production; and it says so."""
    now = datetime.now(UTC)
    observe(tmp_path, LOGS, now - timedelta(days=1), WELL, value=0.8)
    observe(tmp_path, LOGS, now, WELL, value=0.8)
    summary = observe(tmp_path, other, now, WORSE, value=0.3)
    assert hook.titles() == [] and "performance/recall" not in states()
    assert conditions.is_well(now) is True
    seen = records.read()
    assert set(seen.whole["value"]) == {0.8}
    assert b'production_live{bound="value",kind="measured",metric="recall"} 0.8' in exposition(seen, 0)
    assert b"0.3" not in exposition(seen, 0)
    (folder,) = tmp_path.glob(f"{summary['run_id']}/results")
    said = "Not the series that alerts and the dashboard follow: they follow s3://logs/p with s3://logs/o, by week, "
    assert said in " ".join((folder / "report.txt").read_text().split())
    assert said in " ".join((folder / "report.html").read_text().split())
    assert "ALERT" not in (folder / "report.txt").read_text()
    assert summary["live"]["followed"] is False and summary["live"]["notes"][0].startswith(said)
    page = dashboard_page(seen)
    assert "The series of s3://logs/p with s3://logs/o, by week." in page and "Observed too, and not shown here" in page
    # what is alerted isn't over by a look at something else
    observe(tmp_path, LOGS, now + timedelta(seconds=1), WORSE)
    observe(tmp_path, other, now + timedelta(seconds=2), WELL)
    assert states()["performance/recall"] == "firing" and conditions.is_well(now) is False


def test_another_series_takes_over_with_its_alerts(hook: Hook, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert observe(tmp_path, LOGS, now - timedelta(days=2), WORSE)["live"]["followed"]
    assert not observe(tmp_path, TRIED, now - timedelta(days=1), WELL)["live"]["followed"]
    assert states()["performance/recall"] == "firing"
    assert observe(tmp_path, TRIED, now, WELL, value=0.7)["live"]["followed"]
    assert states()["performance/recall"] == "cleared"
    assert set(records.read().whole["value"]) == {0.7}


def test_a_look_back_touches_no_alert(hook: Hook, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    observe(tmp_path, LOGS, now, WELL)
    summary = observe(tmp_path, {**LOGS, "timestamp": "20260101T000000Z"}, now, WORSE)
    assert summary["live"]["notes"][0].startswith("Not the newest look at its series")
    assert "performance/recall" not in states() and conditions.is_well(now) is True


def test_what_is_watched_no_more_and_what_took_the_logs_place_is_cleared(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    observe(tmp_path, LOGS, now - timedelta(days=2), WORSE)
    monkeypatch.setenv("MLOPS_POLICY", "alerts: {performance: {tolerance: {recall: null}}}")
    observe(tmp_path, LOGS, now - timedelta(days=1))
    assert states()["performance/recall"] == "cleared"
    monkeypatch.delenv("MLOPS_POLICY")
    observe(tmp_path, LOGS, now - timedelta(days=1), WORSE)
    # a log that is gone for a day says nothing
    observe(tmp_path, LOGS, now - timedelta(days=1))
    assert states()["performance/recall"] == "firing"
    experiment = tracking.client().get_experiment_by_name(EXPERIMENT)
    for run in tracking.client().search_runs([experiment.experiment_id]):
        tracking.client().delete_run(run.info.run_id)
    observe(tmp_path, CSV, now, logs={"pairs": {"read": 1}})
    assert states()["performance/recall"] == "cleared"
