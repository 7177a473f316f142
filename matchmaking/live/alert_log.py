"""Where alerts live: events in MLflow, each the parameter of a run under its number.

MLflow changes no parameter that has a value: of two that write event 17 at once, one is refused, reads again and
decides anew. So what is told is told once, however many look, on SQLite and on a server. The run is in an experiment
of its own, which gets its name once the run is there: names are unique, too, and of two that begin the log at once one
keeps its own.
"""

from __future__ import annotations

import getpass
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.escape import for_terminal
from matchmaking.base.settings import EXPERIMENT
from matchmaking.evidence.policy import Alerts, installed_policy
from matchmaking.live.alerts import (
    SEVERITIES,
    Alert,
    Condition,
    Event,
    Record,
    alerts,
    changes,
    due,
    fold,
    message,
    together,
)
from matchmaking.tracking import TrackingError, client, notify, told
from matchmaking.tracking.connection import database_lock
from matchmaking.tracking.runs import artifact_location

LEDGER = f"{EXPERIMENT}-alerts"
# of the experiment: the run that holds the events
RUN_TAG = "alert_log_run"
LOG = "can't use the alerts' log"
# more writers than this at once, again and again, aren't there
MOST_TRIES = 200
# of apprise's kinds of messages
KINDS = {"critical": "failure", "warning": "warning", "info": "info"}
NOTE = "Each parameter is an event of an alert: `mlops alerts list` shows them. Don't delete it."


@dataclass(frozen=True)
class Log:
    """The events there are, in the run that holds them."""

    run_id: str
    events: dict[int, Event]
    # the number that the next one gets: one that can't be read has its place, too
    next: int

    def state(self) -> dict[str, Record]:
        return fold(self.events)


def read_alerts() -> list[Alert]:
    """Every alert there ever was, as it is now: what fires first, the most severe first.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    log = _read()
    return alerts(log.state()) if log else []


def look(conditions: Iterable[Condition], policy: Alerts | None = None, now: datetime | None = None) -> list[Alert]:
    """Raises, repeats and clears alerts by what has been found, and tells people of what they weren't told.

    Args:
        conditions: what was looked at, each name once; other alerts stay, and are told again when it is time.
        policy: whom to tell and when; None for the installation's.
        now: UTC.

    Returns:
        All alerts, as `read_alerts` gives them.

    Raises:
        TrackingError: MLflow can't be reached.
        InputError: the installation's policy is none.
    """
    given, me = list(conditions), uuid.uuid4().hex
    policy, now = policy or installed_policy().alerts, now or datetime.now(UTC)
    addresses = notify.addresses()
    heard = frozenset(each for each in SEVERITIES if _hearers(addresses, policy, each))

    def decide(state: dict[str, Record]) -> list[dict[str, Any]]:
        return changes(state, given, policy, now, heard)

    log = _write(decide, me)
    if log is None:
        return []
    mine = {
        name: number
        for name, number, claim in due(log.state(), policy, now, me, heard)
        if not claim or _claim(name, number, policy, now, me, heard)
    }
    if mine:
        _send(mine, policy, addresses, now, me)
    return read_alerts()


def try_look(conditions: Callable[[], Iterable[Condition]]) -> None:
    """Looks at the end of a run that has done its work; where that fails, it says so, and a later look does it."""
    try:
        look(conditions())
    except MlopsError as error:
        print(for_terminal(f"alerts were not looked at: {error}"), flush=True)


def acknowledge(name: str, who: str = "", why: str = "") -> Alert:
    """Keeps an alert from being repeated until it is cleared or gets worse.

    Args:
        name: of an alert that fires.
        who: empty for the user of this process.
        why: a word, for those who read it.

    Raises:
        InputError: no alert of that name fires.
        TrackingError: MLflow can't be reached.
    """
    by = " ".join(f"{who or _user()}: {why}".removesuffix(": ").split())[:500]

    def decide(state: dict[str, Record]) -> list[dict[str, Any]]:
        if name not in state or state[name].alert.state == "cleared":
            firing = [known for known, record in state.items() if record.alert.state != "cleared"]
            raise InputError(
                f"no alert '{name}' fires; {'firing: ' + ', '.join(sorted(firing)) if firing else 'none does'}"
            )
        known = state[name].alert
        if known.state == "acknowledged" and known.acknowledged_by == by:
            return []
        return [{"kind": "acknowledge", "name": name, "at": datetime.now(UTC), "who": by}]

    if _read() is None:
        decide({})
    log = _write(decide, uuid.uuid4().hex)
    assert log is not None
    return log.state()[name].alert


def _claim(name: str, number: int, policy: Alerts, now: datetime, me: str, heard: frozenset[str]) -> bool:
    """Whether this look is the one to send what nobody sends."""

    def decide(state: dict[str, Record]) -> list[dict[str, Any]]:
        found = [claim for known, last, claim in due(state, policy, now, me, heard) if (known, last) == (name, number)]
        return [{"kind": "take", "name": name, "at": now, "of": number}] if found == [True] else []

    log = _write(decide, me)
    record = log.state().get(name) if log else None
    return bool(record and number in record.untold and record.claimed_by == me)


def _send(mine: Mapping[str, int], policy: Alerts, addresses: Sequence[notify.Address], now: datetime, me: str) -> None:
    """Tells people of the alerts whose last messages are this look's to send, and records it."""
    log = _read()
    state = log.state() if log else {}
    # somebody may have acknowledged one, or told what came after it
    left = [name for name, number in mine.items() if name in state and max(state[name].untold, default=0) == number]
    for names in together(state, left):
        records = [state[name] for name in names]
        event, before = records[0].untold[mine[names[0]]], records[0].reached
        to = [
            each
            for each in _hearers(addresses, policy, event.severity)
            if each.key not in before and not (event.noticed and each.hears_notices)
        ]
        kind = "success" if event.kind == "clear" else KINDS[event.severity]
        reached = notify.tell(to, kind, *message(records))
        for name in names:
            fields = {
                "kind": "sent",
                "name": name,
                "at": now,
                "of": mine[name],
                "reached": tuple(sorted(reached)),
                "all_reached": len(reached) == len({each.key for each in to}),
            }
            _write(lambda _, fields=fields: [fields], me, once=True)  # type: ignore[misc]


def _hearers(addresses: Iterable[notify.Address], policy: Alerts, severity: str) -> list[notify.Address]:
    tags = set(policy.channels[severity])  # type: ignore[index]
    return [each for each in addresses if "all" in tags or not each.tags or tags & each.tags]


def _write(decide: Callable[[dict[str, Record]], list[dict[str, Any]]], me: str, once: bool = False) -> Log | None:
    """Records what is decided, one event after the other, each decided on what there is then.

    Args:
        decide: from the state, the fields of the events to write; it is asked again after each.
        me: the writer.
        once: write one event and no more.

    Returns:
        The log; None where there is none and nothing is to be written.
    """
    log = _read()
    for _ in range(MOST_TRIES):
        fields = decide(log.state() if log else {})
        if not fields:
            return log
        if log is None:
            # somebody may have begun it, and decided the same
            log = _begin()
            continue
        event = Event(**fields[0], by=me)
        if _append(log, event):
            log = Log(log.run_id, {**log.events, log.next: event}, log.next + 1)
            if once:
                return log
        else:
            time.sleep(random.uniform(0, 0.2))
            log = _read()
    raise TrackingError("the alerts' log is written by so many that this event found no place in it")


def _append(log: Log, event: Event) -> bool:
    """Whether the event got the next number; False where another event has it."""
    from mlflow.exceptions import MlflowException

    key = f"{log.next:06d}"
    with told(LOG):
        try:
            client().log_param(log.run_id, key, event.as_json())
        except MlflowException:
            # said again after an answer that was lost, it is there already, and that is no error
            kept = client().get_run(log.run_id).data.params.get(key)
            if kept is None:
                raise
            return bool(kept == event.as_json())
    return True


def _read() -> Log | None:
    """The log; None where there is none yet."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return None
    with told(LOG):
        found = client().get_experiment_by_name(LEDGER)
        if found is None:
            return None
        run = client().get_run(found.tags[RUN_TAG])
    if "deleted" in (found.lifecycle_stage, run.info.lifecycle_stage):
        raise TrackingError(f"the alerts' log was deleted in MLflow: restore the experiment {LEDGER} and its run")
    events, last = {}, 0
    for key, text in run.data.params.items():
        if key.isdigit():
            last = max(last, int(key))
            with suppress(ValidationError):
                events[int(key)] = Event.model_validate_json(text)
    return Log(str(run.info.run_id), events, last + 1)


def _begin() -> Log:
    """Makes the log, or finds the one that somebody made in between."""
    from mlflow.exceptions import MlflowException

    with told(LOG), database_lock():
        experiment = client().create_experiment(f"{LEDGER}-{uuid.uuid4().hex}", artifact_location=artifact_location())
        run_id = client().create_run(experiment, run_name="alerts", tags={"mlflow.note.content": NOTE}).info.run_id
        client().set_terminated(run_id)
        client().set_experiment_tag(experiment, RUN_TAG, run_id)
        try:
            client().rename_experiment(experiment, LEDGER)
        except MlflowException:
            found = client().get_experiment_by_name(LEDGER)
            if found is None:
                raise
            if found.experiment_id != experiment:
                client().delete_experiment(experiment)
    log = _read()
    assert log is not None
    return log


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
