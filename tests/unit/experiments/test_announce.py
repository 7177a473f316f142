"""What becomes of a reading: an experiment ends by it, and each address hears of that once, whoever tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from matchmaking import tracking
from matchmaking.experiments import announce
from matchmaking.experiments.announce import keep_reading, tell_ended, tell_verdict
from matchmaking.experiments.record import RESULTS, under_way
from matchmaking.tracking import notify
from tests.experiment_fixtures import DEFINITION, UNTIL, record_earlier
from tests.webhook import Hook

SAID: dict[str, Any] = {"experiment": "embeddings-1", "verdict": "harmful", "day": 20}
SAID |= {"headline": "Stop.", "reason": "latency", "results": []}
NOW = pd.Timestamp(UNTIL)


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The run of a recorded definition."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLOPS_NOTIFY_URLS", raising=False)
    tracking.client.cache_clear()
    yield record_earlier(DEFINITION)
    tracking.client.cache_clear()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    with closing(Hook()) as hook:
        yield hook


def reading(tmp_path: Path, **values: Any) -> Path:
    folder = tmp_path / "reading"
    folder.mkdir(exist_ok=True)
    (folder / RESULTS).write_text(json.dumps({**SAID, **values}))
    (folder / "experiment.html").write_text("<p>")
    return folder


def tags(run_id: str) -> dict[str, str]:
    return dict(tracking.client().get_run(run_id).data.tags)


def test_what_nobody_hears_has_ended_and_is_told_once_somebody_does(
    run_id: str, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert under_way(NOW) is not None
    assert keep_reading(reading(tmp_path), "20260401T000000Z")[0] == run_id
    tell_verdict(run_id, SAID, [], "run-1")
    tell_ended([], "run-1")
    assert tags(run_id)["experiment_ended"] == "harmful" and "experiment_told" not in tags(run_id)
    assert under_way(NOW) is None
    monkeypatch.setenv("MLOPS_NOTIFY_URLS", f"pager={hook.url}")
    tell_ended([], "run-2")
    assert hook.titles() == []
    monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
    for run in ("run-3", "run-4"):
        tell_ended([], run)
    assert hook.titles() == ["[experiment] embeddings-1: Stop."] and tags(run_id)["experiment_told"] == "harmful"


def test_a_day_to_come_ends_nothing(run_id: str, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
    assert keep_reading(reading(tmp_path, to_come=True), "20260401T000000Z") == ("", None)
    tell_verdict(run_id, {**SAID, "to_come": True}, [], "run-1")
    tell_ended([], "run-1")
    assert hook.titles() == [] and "experiment_verdict" not in tags(run_id) and under_way(NOW) is not None


def test_of_two_that_tell_at_once_one_does(run_id: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
    tell = notify.tell

    def slowly(*given: Any) -> set[str]:
        # the other run comes while this one sends
        monkeypatch.setattr(notify, "tell", tell)
        tell_verdict(run_id, SAID, [], "run-2")
        return tell(*given)

    monkeypatch.setattr(notify, "tell", slowly)
    tell_verdict(run_id, SAID, [], "run-1")
    assert len(hook.titles()) == 1 and tags(run_id)["experiment_told"] == "harmful"


def test_a_claim_is_its_runs_and_another_takes_it_over_when_that_is_gone(
    run_id: str, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
    tracking.client().log_param(run_id, "telling_harmful_0001", f"{datetime.now(UTC).isoformat()} run-1")
    tell_verdict(run_id, SAID, [], "run-2")
    assert hook.titles() == []
    # a step that is tried again goes on
    hook.status = 500
    tell_verdict(run_id, SAID, [], "run-1")
    hook.status = 200
    assert hook.titles() == [] and tags(run_id)["experiment_told"].startswith("harmful:")
    monkeypatch.setattr(announce, "LEASE", announce.LEASE * 0)
    tell_verdict(run_id, SAID, [], "run-2")
    assert len(hook.titles()) == 1 and tags(run_id)["experiment_told"] == "harmful"
