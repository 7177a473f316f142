"""What is found to be wrong: on generated traffic with a known day of loss, on summaries, on records in MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchmaking import tracking
from matchmaking.base.settings import EXPERIMENT
from matchmaking.data import sample
from matchmaking.evidence.policy import load_policy
from matchmaking.live import conditions, record
from matchmaking.live.alerts import Condition
from matchmaking.live.delay import estimate_delay
from matchmaking.live.traffic import Champion, Plan, generate_traffic
from matchmaking.tracking.runs import PIPELINE_TAG

POLICY = load_policy()
START = pd.Timestamp("2025-01-06", tz="UTC")
WATCHED = ("average_precision", "recall", "brier")


def noisy(pairs: pd.DataFrame) -> np.ndarray:
    """A model that ranks nearly as well as can be."""
    chance = sample.true_probability(pairs)
    logit = np.log(chance / (1 - chance)) + np.random.default_rng(5).normal(0, 0.5, len(pairs))
    return 1 / (1 + np.exp(-logit))


def joined(plan: Plan, *champions: Champion) -> pd.DataFrame:
    traffic = generate_traffic(plan, champions or [Champion(0, "a" * 64, noisy)])
    outcomes = traffic.outcomes.rename(columns={"time": "outcome_time"})
    return traffic.predictions.merge(outcomes, on="pair_id", how="left")


def look(frame: pd.DataFrame, day: int, policy: Any = POLICY.alerts) -> dict[str, Condition]:
    """As a run on that day's morning sees it."""
    now = START + pd.Timedelta(days=day)
    known = frame[frame["time"] <= now]
    found = conditions.performance(known, now, estimate_delay(known, now), policy)
    return {each.name.removeprefix("performance/"): each for each in found}


@pytest.fixture(scope="module")
def worse() -> pd.DataFrame:
    """From day 150 to the end a quarter of the pairs match by chance alone: nothing that the features show."""
    return joined(Plan(days=260, volume=300, concept=0.25, concept_day=150, seed=3))


def test_a_loss_is_seen_once_its_outcomes_have_come_and_nothing_before(worse: pd.DataFrame) -> None:
    firing = {day: {name for name, each in look(worse, day).items() if each.firing} for day in range(100, 260, 10)}
    # labels are 21 days late, and most have come after 32
    assert not any(firing[day] for day in range(100, 171, 10))
    assert firing[220] == set(WATCHED)
    (found,) = [each for name, each in look(worse, 240).items() if name == "average_precision"]
    assert found.severity == "critical"
    assert found.title == "Production's average precision is worse than it was"
    assert "of the model aaaaaaaaaaaa; tolerated: 0" in found.text


def test_the_same_look_says_the_same_whatever_came_later_or_in_which_order(worse: pd.DataFrame) -> None:
    now = START + pd.Timedelta(days=200)
    delay = estimate_delay(worse, now)
    first = conditions.performance(worse, now, delay, POLICY.alerts)
    assert conditions.performance(worse.sample(frac=1, random_state=0), now, delay, POLICY.alerts) == first


def test_a_young_model_and_a_log_without_outcomes_are_not_told_of(worse: pd.DataFrame) -> None:
    young = look(worse, 80)
    assert {each.firing for each in young.values()} == {False}
    assert not any(each.known for each in young.values())
    assert "compared with its first 60 days" in young["recall"].text
    none = look(worse.assign(match=pd.NA, outcome_time=pd.Series(pd.NaT, worse.index, "datetime64[ns, UTC]")), 200)
    assert {each.firing for each in none.values()} == {None}
    assert none["recall"].text == "no outcome has come yet"


def test_with_another_model_the_alert_of_the_one_before_is_over(worse: pd.DataFrame) -> None:
    assert look(worse, 240)["recall"].firing
    after = worse.copy()
    after.loc[after["time"] >= START + pd.Timedelta(days=235), "model"] = "b" * 64
    found = look(after, 240)["recall"]
    assert (found.firing, found.known) == (False, False)
    assert "bbbbbbbbbbbb" in found.text


def test_what_is_watched_and_what_is_tolerated_are_the_policys(worse: pd.DataFrame) -> None:
    text = "alerts: {performance: {tolerance: {average_precision: 0.3, recall: null, brier: null, roc_auc: 0.001}}}"
    found = look(worse, 240, load_policy(text=text).alerts)
    assert {name: each.firing for name, each in found.items()} == {"average_precision": False, "roc_auc": True}


# --------------------------------------------------------------------------------------- drift, degraded


def monitored(*drifted: str, overall: bool = True) -> dict[str, Any]:
    names = ("budget", "city", "rating")
    rows = [
        {"column": name, "kind": "feature", "statistic": 0.1 * (at + 2), "threshold": 0.1, "drifted": name in drifted}
        for at, name in enumerate(names)
    ]
    return {"drift": {"drifted": overall, "columns": rows}}


def test_drift_is_one_digest_with_the_farthest_first() -> None:
    found = conditions.drift(monitored("budget", "rating"), POLICY.alerts, None, "http://page")
    assert found.firing is True
    first, *columns, last = found.text.splitlines()
    assert first == "2 of 3 columns: distance (threshold)"
    assert columns == ["rating 0.400 (0.100)", "budget 0.200 (0.100)"]
    assert last == "Whether production has become worse isn't known yet."


@pytest.mark.parametrize(("well", "hold", "firing"), [(True, True, None), (True, False, True), (False, True, True)])
def test_drift_is_held_back_while_performance_is_well(well: bool, hold: bool, firing: bool | None) -> None:
    policy = load_policy(text=f"alerts: {{hold_drift: {str(hold).lower()}}}").alerts
    assert conditions.drift(monitored("budget"), policy, well).firing is firing
    assert conditions.drift(monitored("budget", overall=False), policy, well).firing is False


def test_production_past_its_limits() -> None:
    metrics = {"roc_auc": 0.95, "average_precision": 0.5, "brier": 0.05}
    found = conditions.degraded({"metrics": {"production": metrics}}, POLICY)
    assert (found.firing, found.severity) == (True, "critical")
    assert found.text == "production's average_precision is 0.5000, limit at least 0.6"
    assert not conditions.degraded({"metrics": {"production": {**metrics, "average_precision": 0.7}}}, POLICY).firing


# ------------------------------------------------------------------------------------------- in MLflow


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracking.client.cache_clear()
    yield
    tracking.client.cache_clear()


def test_failed_and_late_runs(records: None) -> None:
    now = datetime.now(UTC)
    assert conditions.last_runs(["evaluate"]) == {}
    done, _ = tracking.start_run("evaluate", "20260101T000000Z", "job-1", {})
    tracking.succeed_run(done)
    dead, _ = tracking.start_run("retrain", "20260101T000000Z", "job-2", {})
    tracking.close_run(dead, "train: killed")
    tracking.start_run("monitor", "20260101T000000Z", "job-3", {})
    runs = conditions.last_runs(["evaluate", "retrain", "monitor", "observe"])
    assert set(runs) == {"evaluate", "retrain", "monitor"}
    failed = {each.name: each for each in conditions.failed(runs, POLICY.alerts)}
    assert {name: each.firing for name, each in failed.items()} == {
        "failed/evaluate": False,
        "failed/retrain": True,
        "failed/monitor": None,
    }
    assert failed["failed/retrain"].text == "retrain_20260101T000000Z: train: killed"
    earlier, coming = now - timedelta(minutes=5), now + timedelta(hours=1)
    due = {"evaluate": earlier, "retrain": coming, "monitor": earlier, "observe": earlier, "promote": None}
    late = {each.name: each for each in conditions.late(due, runs, POLICY.alerts, now + timedelta(hours=8.1))}
    assert {name: each.firing for name, each in late.items()} == {
        "late/evaluate": False,
        # it came, and failed: that is told by another
        "late/retrain": True,
        "late/monitor": True,
        "late/observe": True,
        "late/promote": False,
    }
    assert late["late/monitor"].title == "monitor runs for too long"
    assert late["late/observe"].title == "observe didn't run when it was due"
    assert "there was no run yet" in late["late/observe"].text


MONDAY = datetime(2026, 3, 2, 3, tzinfo=UTC)


def recorded(at: datetime, ended: bool = True, pipeline: str = "retrain") -> None:
    """A run as MLflow has it, begun at a moment; one that has ended took an hour."""
    experiment = tracking.client().get_experiment_by_name(EXPERIMENT)
    run = tracking.client().create_run(
        experiment.experiment_id if experiment else tracking.client().create_experiment(EXPERIMENT),
        start_time=int(at.timestamp() * 1000),
        tags={PIPELINE_TAG: pipeline},
        run_name=f"{pipeline}_{at:%d_%H:%M}",
    )
    if ended:
        took = timedelta(hours=1)
        tracking.client().set_terminated(run.info.run_id, "FINISHED", int((at + took).timestamp() * 1000))


def lateness(now: datetime, due: datetime) -> Condition:
    (found,) = conditions.late({"retrain": due}, conditions.last_runs(["retrain"]), POLICY.alerts, now)
    return found


def test_a_run_that_runs_has_its_hours_whatever_was_due_before_it(records: None) -> None:
    """A weekly run is looked at every quarter of an hour: for eight hours last week's is the one that was due."""
    week, quarter = timedelta(days=7), timedelta(minutes=15)
    recorded(MONDAY - week)
    recorded(MONDAY, ended=False)
    now = MONDAY + quarter
    while now < MONDAY + timedelta(hours=8):
        assert lateness(now, MONDAY - week).firing is False, now
        now += quarter
    found = lateness(now, MONDAY)
    assert (found.firing, found.title) == (True, "retrain runs for too long")
    assert found.text == "retrain_02_03:00 began at 2026-03-02 03:00 UTC, still runs"


def test_a_run_by_hand_is_not_late_until_it_has_run_for_as_long(records: None) -> None:
    recorded(MONDAY)
    by_hand = MONDAY + timedelta(days=3)
    recorded(by_hand, ended=False)
    assert lateness(by_hand + timedelta(hours=7.9), MONDAY).firing is False
    found = lateness(by_hand + timedelta(hours=8.1), MONDAY)
    assert (found.firing, found.title) == (True, "retrain runs for too long")


def test_of_a_missed_run_nothing_is_said_while_another_runs(records: None) -> None:
    recorded(MONDAY - timedelta(days=7))
    late = MONDAY + timedelta(hours=9)
    assert lateness(late, MONDAY).title == "retrain didn't run when it was due"
    assert lateness(late, MONDAY).firing is True
    recorded(late, ended=False)
    # what fires goes on until that has ended
    assert lateness(late + timedelta(hours=1), MONDAY).firing is None
    recorded(late + timedelta(hours=2))
    assert lateness(late + timedelta(hours=4), MONDAY).firing is False


def test_whether_production_is_well_is_what_observe_found_last(records: None, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert conditions.is_well(now) is None

    def observed(*found: Condition) -> bool | None:
        from dataclasses import asdict

        run_id, _ = tracking.start_run("observe", tracking.now(), f"job-{len(list(tmp_path.iterdir()))}", {})
        folder = tmp_path / run_id
        live = record.Live(period="week", now=now, conditions=[asdict(each) for each in found])
        record.write_record(folder, live, pd.DataFrame({"start": []}))
        tracking.finish_run(run_id, params={"period": "week"}, metrics={}, history=None, tags={}, artifacts=folder)
        return conditions.is_well(now)

    well = Condition("performance/recall", False, "critical", "Recall")
    assert observed(well) is True
    assert observed(well, Condition("performance/brier", True, "critical", "Brier")) is False
    assert observed(well, Condition("performance/brier", None, "critical", "Brier")) is None
    assert observed(Condition("performance/recall", False, "critical", "Recall", known=False)) is None
    assert observed() is None
    assert observed(well) is True
    assert conditions.is_well(now + timedelta(days=9)) is None
