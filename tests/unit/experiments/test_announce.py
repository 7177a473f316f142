"""What becomes of a reading: an experiment ends by it, and each address hears of that once, whoever tells."""

from __future__ import annotations

import json
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
from tests.experiment_fixtures import UNTIL
from tests.webhook import Hook

SAID: dict[str, Any] = {"experiment": "embeddings-1", "verdict": "harmful", "day": 20}
SAID |= {"headline": "Stop.", "reason": "latency", "results": []}
SAID |= {"last_day": 40, "checks": [], "guardrails": []}
MISMATCH = {"code": "sample-ratio-mismatch", "found": True, "stops": True}
SLOW = {"name": "latency by day", "look": 4}
NOW = pd.Timestamp(UNTIL)


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


def test_a_day_to_come_ends_nothing(run_id: str, heard: Hook, tmp_path: Path) -> None:
    assert keep_reading(reading(tmp_path, to_come=True), "20260401T000000Z") == ("", None)
    tell_verdict(run_id, {**SAID, "to_come": True}, [], "run-1")
    tell_ended([], "run-1")
    assert heard.titles() == [] and "experiment_verdict" not in tags(run_id) and under_way(NOW) is not None


def told(run_id: str, tmp_path: Path, run: str, **values: Any) -> None:
    """A daily run: what it reads, keeps and tells."""
    keep_reading(reading(tmp_path, **values), f"20260401T0{run[-1]}0000Z")
    tell_verdict(run_id, {**SAID, **values}, [], run)
    tell_ended([], run)


def test_what_cannot_be_read_is_told_once_and_read_on_until_it_can_be(run_id: str, heard: Hook, tmp_path: Path) -> None:
    broken: dict[str, Any] = {"verdict": "unreadable", "headline": "They can't.", "checks": [MISMATCH]}
    for run, day in (("run-1", 6), ("run-2", 7)):
        told(run_id, tmp_path, run, **broken, day=day)
        assert under_way(NOW) is not None and "experiment_ended" not in tags(run_id)
    assert heard.titles() == ["[experiment] embeddings-1: They can't."]
    assert (
        "every day until day 40" in heard.bodies[0]["message"] and "mlops experiment end" in heard.bodies[0]["message"]
    )
    # what is new is told, and what comes back isn't
    for run in ("run-3", "run-4"):
        told(run_id, tmp_path, run, **broken, day=8, guardrails=[SLOW])
    told(run_id, tmp_path, "run-5", **broken, day=9)
    assert len(heard.titles()) == 2
    for run in ("run-6", "run-7"):
        told(run_id, tmp_path, run, verdict="go on", headline="Go on.", day=10)
    assert heard.titles()[2:] == ["[experiment] embeddings-1: The arms can be compared again. Go on."]
    told(run_id, tmp_path, "run-8", verdict="worse", headline="It is worse.", day=25)
    assert heard.titles()[3:] == ["[experiment] embeddings-1: It is worse."]
    assert tags(run_id)["experiment_ended"] == "worse" and under_way(NOW) is None
    # a look back at a day that decided nothing takes nothing back
    told(run_id, tmp_path, "run-9", verdict="go on", day=12)
    assert len(heard.titles()) == 4


def test_what_cannot_be_read_until_the_last_day_has_ended(run_id: str, heard: Hook, tmp_path: Path) -> None:
    for run, day in (("run-1", 39), ("run-2", 40), ("run-3", 41)):
        told(run_id, tmp_path, run, verdict="unreadable", checks=[MISMATCH], day=day)
    assert tags(run_id)["experiment_ended"] == "unreadable" and under_way(NOW) is None
    assert len(heard.titles()) == 2 and "read no more" in heard.bodies[1]["message"]


@pytest.mark.parametrize("code", ["exposure-before-start", "not-as-assigned", "service-changed"])
def test_what_no_later_log_repairs_ends_it_at_once(run_id: str, heard: Hook, tmp_path: Path, code: str) -> None:
    for run, day in (("run-1", 6), ("run-2", 7)):
        checks = [MISMATCH, {"code": code, "found": True, "stops": True}]
        told(run_id, tmp_path, run, verdict="unreadable", checks=checks, day=day)
    assert tags(run_id)["experiment_ended"] == "unreadable" and under_way(NOW) is None
    (said,) = [each["message"] for each in heard.bodies]
    assert f"late logs are no remedy for {code}." in said and "may repair" not in said


@pytest.mark.parametrize("code", ["bot", "client-in-both-arms"])
def test_a_share_of_the_clients_that_a_hole_overstates_ends_nothing(run_id: str, tmp_path: Path, code: str) -> None:
    """10 programs are many of 2,000 clients, and few of the 10,000 there are once the log is whole."""
    checks = [{"code": code, "found": True, "stops": True}]
    keep_reading(reading(tmp_path, verdict="unreadable", checks=checks, day=6), "20260401T000000Z")
    assert "experiment_ended" not in tags(run_id) and under_way(NOW) is not None


def test_the_verdict_after_what_could_not_be_read_is_told_where_nobody_heard_it_then(
    run_id: str, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLOPS_NOTIFY_URLS", hook.url)
        told(run_id, tmp_path, "run-1", verdict="unreadable", checks=[MISMATCH], day=6)
    told(run_id, tmp_path, "run-2", verdict="worse", headline="It is worse.")
    monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
    for run in ("run-3", "run-4"):
        tell_ended([], run)
    assert hook.titles()[1:] == ["[experiment] embeddings-1: It is worse."]


def test_of_two_that_tell_at_once_one_does(run_id: str, heard: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = notify.tell

    def slowly(*given: Any) -> set[str]:
        # the other run comes while this one sends
        monkeypatch.setattr(notify, "tell", tell)
        tell_verdict(run_id, SAID, [], "run-2")
        return tell(*given)

    monkeypatch.setattr(notify, "tell", slowly)
    tell_verdict(run_id, SAID, [], "run-1")
    assert len(heard.titles()) == 1 and tags(run_id)["experiment_told"] == "harmful"


def test_a_claim_is_its_runs_and_another_takes_it_over_when_that_is_gone(
    run_id: str, heard: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.client().log_param(run_id, "telling_harmful_0001", f"{datetime.now(UTC).isoformat()} run-1")
    tell_verdict(run_id, SAID, [], "run-2")
    assert heard.titles() == []
    # a step that is tried again goes on
    heard.status = 500
    tell_verdict(run_id, SAID, [], "run-1")
    heard.status = 200
    assert heard.titles() == [] and tags(run_id)["experiment_told"].startswith("harmful:")
    monkeypatch.setattr(announce, "LEASE", announce.LEASE * 0)
    tell_verdict(run_id, SAID, [], "run-2")
    assert len(heard.titles()) == 1 and tags(run_id)["experiment_told"] == "harmful"
