"""What the end of a run says to the alerts: runs that find the same tell it once, and a broken log fails no run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.live.alert_log import read_alerts
from matchmaking.live.alerts import Condition
from matchmaking.reporting import report
from matchmaking.tracking import notify
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


def ended(pipeline: str, seen: Any = (), **found: Any) -> None:
    ended.count += 1  # type: ignore[attr-defined]
    run_id, _ = tracking.start_run(pipeline, tracking.now(), f"job-{ended.count}", {})  # type: ignore[attr-defined]
    report._look({"pipeline": pipeline, "run_id": run_id, **found}, seen)


ended.count = 0  # type: ignore[attr-defined]


def test_runs_that_find_the_same_tell_it_once(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    drifted = {"drifted": True, "columns": [COLUMN]}
    metrics = {"roc_auc": 0.95, "average_precision": 0.5, "brier": 0.05}
    worse = asdict(Condition("performance/recall", True, "critical", "Production's recall is worse than it was"))
    for _ in range(2):
        ended("monitor", drift=drifted)
        ended("evaluate", metrics={"production": metrics})
        ended("observe", [worse])
        ended("retrain")
    said = ["The data has drifted", "Production is past its limits on held-out pairs", worse["title"]]
    assert [title.split("] ")[1] for title in hook.titles()] == said
    assert all("http://localhost:5001/#/runs/" in body["message"] for body in hook.bodies[:2])
    ended("monitor", drift={**drifted, "drifted": False})
    ended("evaluate", metrics={"production": {**metrics, "average_precision": 0.8}})
    ended("observe", [{**worse, "firing": False}])
    assert hook.titles()[3:] == [f"[resolved] {title}" for title in said]
    assert {each.state for each in read_alerts()} == {"cleared"}


def test_a_policy_that_is_none_fails_no_run(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLOPS_POLICY", "alerts: [")
    ended("evaluate", metrics={"production": {}})
    assert "alerts were not looked at: MLOPS_POLICY: not YAML" in capsys.readouterr().out
