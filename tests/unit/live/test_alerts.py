"""What becomes of an alert, look by look; time is given, nothing is read or sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from matchmaking.evidence.policy import load_policy
from matchmaking.live.alerts import (
    LEASE,
    SEVERITIES,
    Condition,
    Event,
    Record,
    alerts,
    changes,
    due,
    fold,
    is_quiet,
    message,
)

POLICY = load_policy(text="alerts: {repeat_hours: {warning: 168}}").alerts
NIGHT = load_policy(text='alerts: {quiet_hours: {start: "22:00", end: "07:00", time_zone: Asia/Kolkata}}').alerts
ALL = frozenset(SEVERITIES)
# 17:30 in Kolkata
DAY = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Ledger:
    """Looks that are sent at once, as `alert_log.look` does it, without MLflow."""

    def __init__(self, policy: Any = POLICY, heard: frozenset[str] = ALL) -> None:
        self.events: dict[int, Event] = {}
        self.policy, self.heard = policy, heard
        self.told: list[str] = []

    def state(self) -> dict[str, Record]:
        return fold(self.events)

    def add(self, **fields: Any) -> None:
        self.events[len(self.events) + 1] = Event(**{"by": "me", **fields})

    def look(self, at: datetime, *conditions: Condition, deliver: bool = True) -> list[str]:
        before = len(self.told)
        for fields in changes(self.state(), conditions, self.policy, at, self.heard):
            self.add(**fields)
        for name, number, claim in due(self.state(), self.policy, at, "me", self.heard) if deliver else []:
            if claim:
                self.add(kind="take", name=name, at=at, of=number)
            self.told.append(message([self.state()[name]])[0])
            self.add(kind="sent", name=name, at=at, of=number, reached=("a",))
        return self.told[before:]


def drift(firing: bool | None, severity: Any = "warning") -> Condition:
    return Condition("drift", firing, severity, "The data has drifted", "budget .31")


def test_it_is_raised_once_repeated_at_the_interval_and_cleared_once() -> None:
    ledger = Ledger()
    assert ledger.look(DAY, drift(False)) == []
    assert ledger.look(DAY, drift(True)) == ["[warning] The data has drifted"]
    for hours in range(1, 168):
        assert ledger.look(DAY + timedelta(hours=hours), drift(True)) == []
    assert ledger.look(DAY + timedelta(hours=168), drift(True)) == ["[warning] The data has drifted (still)"]
    # also by a look that has another subject, and not once it can't be told
    assert ledger.look(DAY + timedelta(hours=300), drift(None)) == []
    assert ledger.look(DAY + timedelta(hours=336)) == ["[warning] The data has drifted (still)"]
    (found,) = alerts(ledger.state())
    assert (found.state, found.since, found.last_told) == ("firing", DAY, DAY + timedelta(hours=336))
    after = DAY + timedelta(hours=340)
    assert ledger.look(after, drift(False)) == ["[resolved] The data has drifted"]
    assert ledger.look(after, drift(False)) == []
    (found,) = alerts(ledger.state())
    assert (found.state, found.since, found.cleared) == ("cleared", DAY, after)
    assert ledger.look(after, drift(True)) == ["[warning] The data has drifted"]
    assert alerts(ledger.state())[0].since == after


def test_what_gets_worse_is_told_at_once_and_what_gets_better_is_not() -> None:
    ledger = Ledger()
    ledger.look(DAY, drift(True))
    assert ledger.look(DAY + timedelta(hours=1), drift(True, "critical")) == ["[critical] The data has drifted"]
    assert ledger.look(DAY + timedelta(hours=2), drift(True, "info")) == []
    assert alerts(ledger.state())[0].since == DAY


def test_acknowledged_it_is_silent_until_it_is_cleared_or_gets_worse() -> None:
    ledger = Ledger()
    ledger.look(DAY, drift(True))
    ledger.add(kind="acknowledge", name="drift", at=DAY, who="ada: I see to it")
    (found,) = alerts(ledger.state())
    assert (found.state, found.acknowledged_by) == ("acknowledged", "ada: I see to it")
    assert ledger.look(DAY + timedelta(days=30), drift(True)) == []
    assert ledger.look(DAY + timedelta(days=31), drift(True, "critical")) == ["[critical] The data has drifted"]
    assert alerts(ledger.state())[0].state == "firing"
    assert ledger.look(DAY + timedelta(days=32), drift(False)) == ["[resolved] The data has drifted"]
    assert alerts(ledger.state())[0].acknowledged_by == ""


def test_in_quiet_hours_only_what_is_critical_is_told_and_the_rest_afterwards() -> None:
    ledger = Ledger(NIGHT)
    night, morning = DAY + timedelta(hours=6), DAY + timedelta(hours=14)
    assert ledger.look(night, drift(True)) == []
    assert ledger.look(night, drift(None), Condition("failed", True, "critical", "Failed")) == ["[critical] Failed"]
    assert ledger.look(night, Condition("failed", False, "critical", "Failed")) == ["[resolved] Failed"]
    assert alerts(ledger.state())[0].last_told is None
    # by any look, the CronJob's too
    assert ledger.look(morning) == ["[warning] The data has drifted"]
    assert ledger.look(morning) == []
    # raised and over within one night: told in one message
    assert ledger.look(night + timedelta(days=1), drift(False)) == []
    assert ledger.look(morning + timedelta(days=1), drift(False)) == ["[resolved] The data has drifted"]
    short = Ledger(NIGHT)
    short.look(night, drift(True))
    short.look(night + timedelta(hours=1), drift(False))
    assert "It fired from 2026-03-02 18:00 UTC to 2026-03-02 19:00 UTC" in message([short.state()["drift"]])[1]
    assert short.look(morning) == ["[resolved] The data has drifted"]


@pytest.mark.parametrize(("hour", "minute", "quiet"), [(21, 59, False), (22, 0, True), (6, 59, True), (7, 0, False)])
def test_quiet_hours_are_those_of_the_time_zone(hour: int, minute: int, quiet: bool) -> None:
    local = datetime(2026, 3, 2, hour, minute, tzinfo=UTC) - timedelta(hours=5, minutes=30)
    assert is_quiet(NIGHT.quiet_hours, local) is quiet
    assert not is_quiet(POLICY.quiet_hours, local)


def test_what_nobody_has_sent_is_taken_over_later_and_later() -> None:
    ledger = Ledger()
    ledger.look(DAY, drift(True), deliver=False)
    assert due(ledger.state(), POLICY, DAY, "me", ALL) == [("drift", 1, False)]
    # another's look meanwhile lets it be: it is being sent
    assert due(ledger.state(), POLICY, DAY + LEASE - timedelta(seconds=1), "other", ALL) == []
    assert due(ledger.state(), POLICY, DAY + LEASE, "other", ALL) == [("drift", 1, True)]
    ledger.add(kind="take", name="drift", at=DAY + LEASE, of=1, by="other")
    assert due(ledger.state(), POLICY, DAY + 2 * LEASE, "me", ALL) == []
    assert due(ledger.state(), POLICY, DAY + 3 * LEASE, "me", ALL) == [("drift", 1, True)]
    # whom it has reached isn't told again
    ledger.add(kind="sent", name="drift", at=DAY + LEASE, of=1, reached=("a",), all_reached=False)
    assert ledger.state()["drift"].reached == {"a"}
    assert due(ledger.state(), POLICY, DAY + 3 * LEASE, "me", ALL) == [("drift", 1, True)]
    ledger.add(kind="sent", name="drift", at=DAY + 3 * LEASE, of=1, reached=("b",))
    assert due(ledger.state(), POLICY, DAY + timedelta(days=1), "me", ALL) == []


def test_with_nobody_to_tell_the_state_is_kept_and_whoever_comes_is_told() -> None:
    ledger = Ledger(heard=frozenset())
    for days in (0, 10, 20):
        assert ledger.look(DAY + timedelta(days=days), drift(True)) == []
    assert len(ledger.events) == 1
    ledger.heard = ALL
    assert ledger.look(DAY + timedelta(days=21), drift(True)) == ["[warning] The data has drifted (still)"]


def test_texts_are_cut_to_what_mlflow_takes() -> None:
    wide = Condition("drift", True, "warning", "é" * 5000, '"\\' * 5000, "x" * 5000)
    (fields,) = changes({}, [wide], POLICY, DAY, ALL)
    assert len(Event(**fields, by="m" * 32).as_json()) < 6000


def test_one_address_that_nobody_answers_at_keeps_no_reminder_from_the_others() -> None:
    """Two months of looks every quarter of an hour; "a" is reached at once, "b" never."""
    daily = load_policy(text="alerts: {repeat_hours: {critical: 24}}").alerts
    ledger = Ledger(daily)
    now, told = DAY, []
    while now < DAY + timedelta(days=60):
        for fields in changes(ledger.state(), [drift(True, "critical")], daily, now, ALL):
            ledger.add(**fields)
        for name, number, claim in due(ledger.state(), daily, now, "me", ALL):
            if claim:
                ledger.add(kind="take", name=name, at=now, of=number)
            new = "a" not in ledger.state()[name].reached
            told += [message([ledger.state()[name]])[0]] if new else []
            ledger.add(kind="sent", name=name, at=now, of=number, reached=("a",) * new, all_reached=False)
        # each of its looks is a process of its own
        for event in ledger.events.values():
            object.__setattr__(event, "by", "another")
        now += timedelta(minutes=15)
    assert told == ["[critical] The data has drifted", *["[critical] The data has drifted (still)"] * 59]
    # "b" is tried once a day by then, with what is repeated: it doesn't fill the log
    assert len(ledger.events) < 60 * 5


def test_an_address_that_comes_back_is_told_once() -> None:
    ledger = Ledger()
    ledger.look(DAY, drift(True), deliver=False)
    ledger.add(kind="sent", name="drift", at=DAY, of=1, reached=("a",), all_reached=False)
    assert due(ledger.state(), POLICY, DAY + LEASE, "me", ALL) == [("drift", 1, True)]
    ledger.add(kind="take", name="drift", at=DAY + LEASE, of=1)
    ledger.add(kind="sent", name="drift", at=DAY + LEASE, of=1, reached=("b",))
    assert due(ledger.state(), POLICY, DAY + timedelta(days=6), "me", ALL) == []
    # who wasn't reached at all isn't reminded of what he doesn't know
    alone = Ledger()
    alone.look(DAY, drift(True), deliver=False)
    alone.add(kind="sent", name="drift", at=DAY, of=1, all_reached=False)
    assert changes(alone.state(), [drift(True)], POLICY, DAY + timedelta(days=30), ALL) == []


def test_who_knows_nobody_to_tell_leaves_the_message_to_the_others() -> None:
    """An alert of the night, and a look in the morning on a machine without addresses."""
    night, morning = DAY + timedelta(hours=6), DAY + timedelta(hours=14)
    ledger = Ledger(NIGHT)
    assert ledger.look(night, drift(True)) == []
    ledger.heard = frozenset({"critical"})
    assert ledger.look(morning, drift(True)) == []
    ledger.heard = ALL
    assert ledger.look(morning + timedelta(minutes=1)) == ["[warning] The data has drifted"]
    # and that it is over, which only that look has seen
    ledger.heard = frozenset()
    assert ledger.look(morning + timedelta(hours=1), drift(False)) == []
    assert alerts(ledger.state())[0].state == "cleared"
    ledger.heard = ALL
    assert ledger.look(morning + timedelta(hours=2)) == ["[resolved] The data has drifted"]
    assert ledger.look(morning + timedelta(hours=3)) == []
    # of what nobody knows, nobody is told that it is over
    silent = Ledger(heard=frozenset())
    silent.look(DAY, drift(True))
    silent.look(DAY + timedelta(hours=1), drift(False))
    silent.heard = ALL
    assert silent.look(DAY + timedelta(hours=2)) == []
