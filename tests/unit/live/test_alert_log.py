"""The alerts' log in a real MLflow on SQLite: many writers, dead senders, hostile texts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.base.errors import InputError
from matchmaking.evidence.policy import load_policy
from matchmaking.live import alert_log
from matchmaking.live.alerts import LEASE, Condition, Event
from matchmaking.tracking import notify
from tests.webhook import Hook

DRIFT = Condition("drift", True, "warning", "The data has drifted", "budget .31")
WELL = Condition("drift", False, "warning", "The data has drifted")
# a look of its own process, as a pod's is; it says so when it is ready, and goes on when it is told to
LOOK = """
import sys
from matchmaking.live.alert_log import look
from matchmaking.live.alerts import Condition
from matchmaking import tracking
tracking.client()
print("ready", flush=True)
sys.stdin.readline()
look([Condition(f"{name}-late", True, "warning", f"{name} is late") for name in sys.argv[1:]])
"""


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for name in (notify.URLS, notify.URLS_FILE, "MLOPS_POLICY"):
        monkeypatch.delenv(name, raising=False)
    tracking.client.cache_clear()
    yield
    tracking.client.cache_clear()


@pytest.fixture
def database() -> None:
    """Who looks has had a run, which made it."""
    tracking.start_run("evaluate", "20260101T000000Z", "job", {})


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    hook = Hook()
    monkeypatch.setenv(notify.URLS, hook.url)
    yield hook
    hook.close()


def together(names: list[list[str]]) -> None:
    """Looks at once, each in a process of its own."""
    command = [sys.executable, "-c", LOOK]
    started = [
        subprocess.Popen([*command, *each], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for each in names
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.communicate("\n", timeout=120)
        assert process.returncode == 0


def test_nothing_to_tell_writes_nothing(tmp_path: Path) -> None:
    assert alert_log.read_alerts() == []
    assert not (tmp_path / "mlflow.db").exists()
    tracking.start_run("evaluate", "20260101T000000Z", "job", {})
    assert alert_log.look([WELL]) == []
    assert tracking.client().get_experiment_by_name(alert_log.LEDGER) is None


def test_raised_acknowledged_and_cleared(hook: Hook) -> None:
    (found,) = alert_log.look([DRIFT])
    assert (found.name, found.state, found.severity) == ("drift", "firing", "warning")
    assert found.last_told is not None
    assert alert_log.look([DRIFT])[0].state == "firing"
    acknowledged = alert_log.acknowledge("drift", "ada", "I see to it")
    assert (acknowledged.state, acknowledged.acknowledged_by) == ("acknowledged", "ada: I see to it")
    # said again, it is known
    alert_log.acknowledge("drift", "ada", "I see to it")
    alert_log.look([WELL])
    assert [each.state for each in alert_log.read_alerts()] == ["cleared"]
    assert hook.titles() == ["[warning] The data has drifted", "[resolved] The data has drifted"]
    with pytest.raises(InputError, match="no alert 'drift' fires; none does"):
        alert_log.acknowledge("drift")


def test_of_many_at_once_each_is_told_once_and_there_is_one_log(hook: Hook, database: None) -> None:
    together([["evaluate", "monitor"], ["monitor", "evaluate"], ["evaluate", "retrain"], ["retrain", "monitor"]])
    assert sorted(hook.titles()) == [f"[warning] {name} is late" for name in ("evaluate", "monitor", "retrain")]
    found = alert_log.read_alerts()
    assert {each.name for each in found} == {"evaluate-late", "monitor-late", "retrain-late"}
    assert all(each.last_told for each in found)
    named = [each.name for each in tracking.client().search_experiments()]
    assert [name for name in named if name.startswith(alert_log.LEDGER)] == [alert_log.LEDGER]


def test_of_two_that_write_a_number_one_is_refused() -> None:
    alert_log.look([DRIFT])
    log = alert_log._read()
    assert log is not None
    one, two = (Event(kind="acknowledge", name="drift", at=datetime.now(UTC), by=by) for by in ("one", "two"))
    assert alert_log._append(log, one)
    assert not alert_log._append(log, two)
    # sent again, as after an answer that was lost
    assert alert_log._append(log, one)


def test_threads_write_each_number_once(hook: Hook, database: None) -> None:
    barrier = threading.Barrier(8)

    def look(number: int) -> None:
        barrier.wait()
        alert_log.look([DRIFT, Condition(f"failed/{number % 3}", True, "warning", f"failed {number % 3}")])

    threads = [threading.Thread(target=look, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(hook.titles()) == sorted(
        ["[warning] The data has drifted", *(f"[warning] failed {n}" for n in range(3))]
    )


def test_killed_between_claim_and_sending_it_is_sent_by_a_later_look(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = LOOK.replace(
        "look([", "import os; from matchmaking.tracking import notify\nnotify.tell = lambda *given: os._exit(9)\nlook(["
    )
    died = subprocess.run([sys.executable, "-c", code, "evaluate"], input="\n", capture_output=True, text=True)
    assert died.returncode == 9, died.stderr
    assert hook.bodies == []
    late = Condition("evaluate-late", True, "warning", "evaluate is late")
    alert_log.look([late])
    assert hook.bodies == []
    after = datetime.now(UTC) + LEASE
    alert_log.look([], now=after)
    alert_log.look([late], now=after + timedelta(hours=1))
    assert hook.titles() == ["[warning] evaluate is late"]


def test_who_was_not_reached_is_told_later_and_the_others_not_again(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Hook()
    try:
        monkeypatch.setenv(notify.URLS, f"{hook.url} {other.url}")
        other.status = 503
        alert_log.look([DRIFT])
        assert len(hook.bodies) == 1
        other.status = 200
        alert_log.look([DRIFT], now=datetime.now(UTC) + LEASE)
        assert (len(hook.bodies), len(other.bodies)) == (1, 1)
    finally:
        other.close()


def test_a_look_without_addresses_leaves_what_waits_to_the_others(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = load_policy(text='alerts: {quiet_hours: {start: "22:00", end: "07:00", time_zone: Etc/UTC}}').alerts
    night = datetime(2026, 3, 2, 23, tzinfo=UTC)
    alert_log.look([DRIFT], quiet, night)
    monkeypatch.delenv(notify.URLS)
    (found,) = alert_log.look([DRIFT], quiet, night + timedelta(hours=10))
    assert (found.state, found.last_told) == ("firing", None)
    monkeypatch.setenv(notify.URLS, hook.url)
    # one that knows others, who don't hear this
    pager = load_policy(text="alerts: {channels: {warning: [pager]}}").alerts
    monkeypatch.setenv(notify.URLS, f"team={hook.url}")
    alert_log.look([DRIFT], pager, night + timedelta(hours=10, minutes=1))
    assert hook.bodies == []
    monkeypatch.setenv(notify.URLS, hook.url)
    alert_log.look([DRIFT], quiet, night + timedelta(hours=10, minutes=2))
    assert hook.titles() == ["[warning] The data has drifted"]


def test_what_is_of_one_kind_is_told_in_one_message(hook: Hook) -> None:
    worse = [Condition(f"performance/{name}", True, "critical", f"{name} is worse", "why") for name in ("ap", "recall")]
    alert_log.look([DRIFT, *worse])
    assert hook.titles() == ["[warning] The data has drifted", "[critical] ap is worse, and 1 more"]
    assert "[critical] recall is worse\nwhy\n" in hook.bodies[1]["message"]
    assert all(each.last_told for each in alert_log.read_alerts())
    alert_log.look([Condition("performance/ap", False, "critical", "ap is worse")])
    assert hook.titles()[2:] == ["[resolved] ap is worse"]


def test_channels_by_severity_and_who_hears_notices(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    pager = Hook()
    try:
        monkeypatch.setenv(notify.URLS, f"{hook.url} pager={pager.url}")
        policy = load_policy(text="alerts: {channels: {warning: [team], critical: [pager]}}").alerts
        alert_log.look([DRIFT, Condition("performance/recall", True, "critical", "Recall is worse")], policy)
        assert pager.titles() == ["[critical] Recall is worse"]
        assert len(hook.bodies) == 2
        assert notify.send("improved", "an improved candidate", "v1")
        # of a failed run the notice has told; the alert tells who hears no notices
        failed = Condition("failed/retrain", True, "critical", "retrain failed", noticed=True)
        alert_log.look([failed], policy)
        assert pager.titles()[1:] == ["[critical] retrain failed"]
        assert len(hook.bodies) == 3
    finally:
        pager.close()


def test_texts_from_outside_and_credentials_are_harmless(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notify.URLS, f"{hook.url}?format=html")
    text = 'city <img src=x onerror="a()">\x1b[31m\nhttps://ada:pw@example.org/x'
    alert_log.look([Condition("drift", True, "warning", "a <b>title\x1b[2J", text)])
    (body,) = hook.bodies
    shown = str(body)
    assert "<img" not in shown and "pw@" not in shown
    assert "\x1b" not in body["title"] + body["message"]


def test_a_log_that_was_deleted_is_told() -> None:
    alert_log.look([DRIFT])
    found = tracking.client().get_experiment_by_name(alert_log.LEDGER)
    tracking.client().delete_experiment(found.experiment_id)
    with pytest.raises(tracking.TrackingError, match="restore the experiment"):
        alert_log.look([DRIFT])


def test_an_event_of_a_newer_version_is_passed_over_and_keeps_its_number() -> None:
    alert_log.look([DRIFT])
    found: Any = tracking.client().get_experiment_by_name(alert_log.LEDGER)
    run_id = found.tags[alert_log.RUN_TAG]
    used = len(tracking.client().get_run(run_id).data.params)
    tracking.client().log_param(run_id, f"{used + 1:06d}", '{"version": 2, "kind": "snooze", "name": "drift"}')
    alert_log.look([WELL])
    assert [each.state for each in alert_log.read_alerts()] == ["cleared"]


def test_a_run_goes_on_where_the_log_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLOPS_POLICY", "alerts: {repeat_hours: {warning: -1}}")
    alert_log.try_look(lambda: [DRIFT])
    assert "alerts were not looked at: MLOPS_POLICY: alerts.repeat_hours.warning" in capsys.readouterr().out
    assert os.environ["MLOPS_POLICY"]
