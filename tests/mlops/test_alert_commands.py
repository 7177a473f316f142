"""`mlops alerts`, and what is late: a real MLflow on a file, schedules from a file and from cron's own calendar."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from matchmaking import tracking
from matchmaking.base.errors import InputError
from matchmaking.evidence.policy import load_policy
from matchmaking.live import alert_log
from matchmaking.live.alerts import Condition
from matchmaking.tracking import notify, runs
from mlops.cli.app import app
from mlops.kubeflow import lateness
from mlops.kubeflow.schedule import FILE, last_start, next_start, read_file
from tests.webhook import Hook

POLICY = load_policy().alerts
HOSTILE = "[red]\x1b[2Jbudget <b>"


@pytest.fixture
def work(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copyfile(database, tmp_path / "mlflow.db")
    for name in (notify.URLS, notify.URLS_FILE, "MLOPS_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracking.client.cache_clear()
    yield tmp_path
    tracking.client.cache_clear()


def call(*args: object) -> Any:
    return CliRunner().invoke(app, ["alerts", *map(str, args)], env={"COLUMNS": "100"})


def test_list_and_ack(work: Path) -> None:
    assert call("list", "--work-dir", work).output == "nothing fires\n"
    title = "Production's average precision is worse than it was"
    alert_log.look(
        [
            Condition(
                "performance/average_precision", True, "critical", title, f"{HOSTILE} .81\nsecond", "http://page"
            ),
            Condition("drift", True, "warning", "The data has drifted"),
            Condition("late/evaluate", True, "warning", "evaluate didn't run when it was due"),
        ]
    )
    alert_log.look([Condition("late/evaluate", False, "warning", "evaluate didn't run when it was due")])
    listed = call("list", "--work-dir", work)
    assert listed.exit_code == 0
    assert max(map(len, listed.output.splitlines())) <= 100
    assert "performance/average_precision" in listed.output and "late/evaluate" not in listed.output
    # one line each, and nothing of the data moves the terminal
    assert listed.output.splitlines()[1].startswith("critical  performance/average_precision  firing ")
    assert r"[red]\x1b[2Jbudget <b> .81" in listed.output
    assert "late/evaluate" in call("list", "--all", "--work-dir", work).output
    done = call("ack", "drift", "--who", "ada", "--why", "a price rise", "--work-dir", work)
    assert done.output == "drift: acknowledged by ada: a price rise\n"
    found = {each["name"]: each for each in json.loads(call("list", "--json", "--work-dir", work).output)}
    assert found["drift"]["state"] == "acknowledged"
    assert found["drift"]["acknowledged_by"] == "ada: a price rise"
    assert datetime.fromisoformat(found["drift"]["since"]).tzinfo is not None
    assert "acknowledged by ada" in call("list", "--work-dir", work).output


def test_what_does_not_fire_cannot_be_acknowledged(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alert_log.look([Condition("drift", True, "warning", "The data has drifted")])
    for name in ("drfit", HOSTILE):
        refused = call("ack", name, "--work-dir", work)
        assert isinstance(refused.exception, InputError)
        assert "fires; firing: drift" in str(refused.exception)


def test_a_look_raises_what_failed_and_what_is_late_and_clears_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Hook()
    monkeypatch.setenv(notify.URLS, hook.url)
    schedules = work / "schedules.yaml"
    schedules.write_text(
        "kind: ConfigMap\n"
        "data: {evaluate.schedule: '0 * * * *', monitor.schedule: '0 6 1 1 *', timeZone: Asia/Kolkata}\n"
    )
    policy = work / "policy.yaml"
    policy.write_text("alerts: {late_hours: 0.01}\n")
    look = ("check", "--file", schedules, "--policy", policy, "--work-dir", work)
    try:
        # nothing has run yet: nothing can be missing
        assert call(*look).output == "nothing fires\n"
        run_id, _ = tracking.start_run("retrain", "20260101T000000Z", "job", {})
        tracking.close_run(run_id, "train: killed")
        # two hours ago, so that an hourly run was missed
        monkeypatch.setattr("matchmaking.live.conditions.first_run", lambda: datetime.now(UTC) - timedelta(hours=2))
        told = call(*look)
        assert told.exit_code == 0
        assert {"late/evaluate", "failed/retrain"} == {
            each["name"] for each in json.loads(call(*look, "--json").output)
        }
        # of a failed run its own notice has told
        assert hook.titles() == ["[warning] evaluate didn't run when it was due"]
        for name in ("evaluate", "retrain"):
            run_id, _ = tracking.start_run(name, tracking.now(), f"job-{name}", {})
            runs.succeed_run(run_id)
        assert call(*look).output == "nothing fires\n"
        assert sorted(hook.titles()[1:]) == [
            "[resolved] evaluate didn't run when it was due",
            "[resolved] retrain failed",
        ]
    finally:
        hook.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: ConfigMap\ndata: {evaluate.schedule: '0 5 * *'}", "evaluate.schedule: '0 5 * *' has 4 fields"),
        ("kind: ConfigMap\ndata: {evaluat.schedule: '0 5 * * *'}", "evaluat is none of"),
        ("kind: ConfigMap\ndata: {evaluate.schedule: '0 5 * * *', timeZone: Mars}", "timeZone Mars: no such time zone"),
        ("kind: Secret", "no ConfigMap"),
    ],
)
def test_a_file_of_schedules_that_is_none(work: Path, text: str, said: str) -> None:
    (work / "bad.yaml").write_text(text)
    refused = call("check", "--file", work / "bad.yaml", "--work-dir", work)
    assert isinstance(refused.exception, InputError)
    assert said in str(refused.exception)


def test_the_last_start_is_the_one_before_the_next() -> None:
    for cron in [*read_file(FILE).values(), "*/20 8-18 * * MON-FRI", "30 2 29 2 *", "@monthly", "0 0 13 * 5"]:
        for moment in (datetime(2026, 3, 2, 3, 0, tzinfo=UTC), datetime(2024, 2, 29, 2, 31, tzinfo=UTC)):
            last = last_start(cron, moment)
            assert last is not None and last <= moment
            following = next_start(cron, last)
            assert following is not None and following > moment, cron
    assert last_start("0 0 30 2 *", datetime(2026, 1, 1, tzinfo=UTC)) is None
    # 5:30 ahead of UTC
    assert last_start("0 5 * * *", datetime(2026, 3, 2, 0, 0, tzinfo=UTC), "Asia/Kolkata") == datetime(
        2026, 3, 1, 23, 30, tzinfo=UTC
    )


def test_nothing_is_late_that_was_set_up_since(work: Path) -> None:
    run_id, _ = tracking.start_run("evaluate", "20260101T000000Z", "job", {})
    runs.succeed_run(run_id)
    now = datetime.now(UTC) + timedelta(days=30)
    for since, firing in ((now - timedelta(hours=1), False), (now - timedelta(days=20), True)):
        found = lateness.conditions([lateness.Scheduled("monitor", "0 6 * * *", "UTC", since)], POLICY, now)
        assert [each.firing for each in found if each.name == "late/monitor"] == [firing]
    # with no word of when it was set up, since there are records
    for moment, firing in ((datetime.now(UTC), False), (now, True)):
        found = lateness.conditions([lateness.Scheduled("monitor", "0 6 * * *")], POLICY, moment)
        assert [each.firing for each in found if each.name == "late/monitor"] == [firing]
