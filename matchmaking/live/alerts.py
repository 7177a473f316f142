"""An alert is a state, not a message: it is raised once, repeated at an interval, acknowledged, and cleared once.

What happens to alerts is a series of numbered events, which `matchmaking.live.alert_log` keeps. Everything here is a
function of those events, of what a look has found and of the time: nothing is read or sent.

A message is first claimed by an event, then sent, then recorded as sent. A claim whose sender died is taken over by a
later look. So nobody is told twice, but where a sender dies in the seconds between sending and recording it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from matchmaking.evidence.policy import Alerts, QuietHours, Severity

State = Literal["firing", "acknowledged", "cleared"]
Kind = Literal["raise", "repeat", "clear", "acknowledge", "take", "sent"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
# what is to be told
MESSAGES = ("raise", "repeat", "clear")
# sending takes seconds; what hasn't been recorded as sent for so long is sent by somebody else, and then for longer
# and longer, so that an address nobody answers at doesn't fill the log
LEASE = timedelta(minutes=5)
LONGEST_LEASE = timedelta(days=1)
# of an event as JSON: MLflow takes values of 6,000 characters
MOST_TITLE, MOST_TEXT, MOST_LINK = 200, 2_500, 300


@dataclass(frozen=True)
class Condition:
    """What a look has found.

    Attributes:
        name: of the alert, as in "performance/average_precision", "drift", "late/evaluate", "failed/retrain".
        firing: whether it is so now; None where that can't be told, and the alert stays as it is.
        severity: of the alert.
        title: in one line.
        text: plain text, in lines.
        link: where to look.
        noticed: people were told of it when it happened, as of a failed run; only who hears no such notices is told.
        known: whether not firing says that all is well; False where what it was about is gone.
    """

    name: str
    firing: bool | None
    severity: Severity
    title: str
    text: str = ""
    link: str = ""
    noticed: bool = False
    known: bool = True


@dataclass(frozen=True)
class Alert:
    """An alert as the log has it.

    Attributes:
        name: see `Condition`.
        severity, title, text, link: as they were told last.
        state: "firing", "acknowledged" (firing, and not repeated any more) or "cleared".
        since: when it was raised, UTC.
        last_told: when people were told last, UTC; None where nobody was.
        acknowledged_by: who did, and with which word; empty for nobody.
        cleared: when it was cleared, UTC; None for what fires.
    """

    name: str
    severity: Severity
    title: str
    text: str
    link: str
    state: State
    since: datetime
    last_told: datetime | None = None
    acknowledged_by: str = ""
    cleared: datetime | None = None


class Event(BaseModel):
    """Something that happened to an alert.

    Attributes:
        version: of the format.
        kind: raise, repeat or clear, which are to be told; acknowledge; take (another's claim to send) and sent.
        name: the alert's.
        at: UTC.
        by: whose event it is: two are never the same, whoever writes them.
        claimed: whether its writer sends it; else it waits for the end of the quiet hours.
        unheard: its writer knows nobody to tell. Nobody is told, then, of what begins so; of what people know of, or
            are about to be told of, who knows addresses tells.
        noticed: see `Condition`.
        of: take, sent: the number of the event that is told, with all of this alert before it.
        reached: sent: which addresses were reached, by `notify.Address.key`.
        all_reached: sent: whether those are all; else it is tried again with the others.
        who: acknowledge: by whom, and a word of why.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    kind: Kind
    name: str
    at: datetime
    by: str
    severity: Severity = "warning"
    title: str = ""
    text: str = ""
    link: str = ""
    claimed: bool = False
    unheard: bool = False
    noticed: bool = False
    of: int = 0
    reached: tuple[str, ...] = Field(default=())
    all_reached: bool = True
    who: str = ""

    def as_json(self) -> str:
        """One line; what holds for most events is left out."""
        return self.model_dump_json(exclude_defaults=True)


@dataclass
class Record:
    """All that the log says of one alert.

    Attributes:
        alert: its state.
        untold: the messages that nobody was told, by number, in order.
        changed: when it was last raised or repeated.
        claimed_by: of the last of `untold`: who is sending it; empty for nobody.
        claimed_at: since when.
        attempts: how often it was claimed.
        missed: how often it, and what it repeats, didn't reach everybody.
        reached: whom it has reached.
    """

    alert: Alert
    untold: dict[int, Event] = field(default_factory=dict)
    changed: datetime | None = None
    claimed_by: str = ""
    claimed_at: datetime | None = None
    attempts: int = 0
    missed: int = 0
    reached: frozenset[str] = frozenset()


def fold(events: Mapping[int, Event]) -> dict[str, Record]:
    """The state of every alert after these events, by name."""
    found: dict[str, Record] = {}
    for number in sorted(events):
        event = events[number]
        record = found.get(event.name)
        known = record is not None and _is_known(record)
        if event.kind == "raise":
            since = event.at if record is None or record.alert.state == "cleared" else record.alert.since
            told = record.alert.last_told if record else None
            alert = Alert(event.name, event.severity, event.title, event.text, event.link, "firing", since, told)
            if record is None:
                record = found[event.name] = Record(alert)
            record.alert, record.changed = alert, event.at
        elif record is None:
            # of a log whose beginning is gone
            continue
        elif event.kind == "repeat":
            record.alert = replace(record.alert, title=event.title, text=event.text, link=event.link)
            record.changed = event.at
        elif event.kind == "clear":
            record.alert = replace(record.alert, state="cleared", cleared=event.at, acknowledged_by="")
        elif event.kind == "acknowledge":
            record.alert = replace(record.alert, state="acknowledged", acknowledged_by=event.who)
            # who acknowledges it knows of it
            record.untold.clear()
        elif event.kind == "take":
            if event.of in record.untold:
                record.claimed_by, record.claimed_at = event.by, event.at
                record.attempts += 1
        elif event.kind == "sent":
            record.reached |= set(event.reached)
            if event.reached:
                record.alert = replace(record.alert, last_told=event.at)
            if event.all_reached:
                record.untold = {n: each for n, each in record.untold.items() if n > event.of}
                record.missed = 0
            elif event.of in record.untold:
                record.claimed_by = ""
                record.missed += 1
        if event.kind in MESSAGES and (known or not event.unheard):
            record.untold[number] = event
            record.reached = frozenset()
            # an address nobody answers at isn't tried more often for what is repeated to the others
            record.missed = record.missed if event.kind == "repeat" else 0
            record.attempts = int(event.claimed)
            record.claimed_by, record.claimed_at = (event.by, event.at) if event.claimed else ("", None)
    return found


def changes(
    state: Mapping[str, Record], conditions: Iterable[Condition], policy: Alerts, now: datetime, heard: frozenset[str]
) -> list[dict[str, Any]]:
    """What is new: the fields of the events to record, but for their writer.

    Args:
        state: what the log says.
        conditions: what this look has found; alerts that it didn't look at are repeated when it is time.
        policy: how often, and when not.
        now: UTC.
        heard: the severities that reach anybody.
    """
    found = []
    seen = {condition.name: condition for condition in conditions}
    for name, condition in seen.items():
        record = state.get(name)
        fires = record is not None and record.alert.state != "cleared"
        if condition.firing is None:
            continue
        if condition.firing:
            worse = record is not None and _rank(condition.severity) > _rank(record.alert.severity)
            if not fires or worse:
                found.append(_event("raise", condition, policy, now, heard, noticed=condition.noticed))
        elif record is not None and fires:
            # called as it was when it was raised
            cleared = replace(condition, severity=record.alert.severity, title=record.alert.title)
            found.append(_event("clear", cleared, policy, now, heard))
    for name, record in state.items():
        alert, told = record.alert, record.changed
        if alert.state != "firing" or told is None or alert.severity not in heard:
            continue
        # what nobody was told yet is not repeated; for one address that isn't reached the others don't go without
        if record.untold and not record.reached:
            continue
        if now - told >= timedelta(hours=policy.repeat_hours[alert.severity]):
            newest = seen.get(name)
            if newest is not None and newest.firing is False:
                continue
            text = newest if newest is not None and newest.firing else alert
            again = Condition(name, True, alert.severity, text.title, text.text, text.link)
            found.append(_event("repeat", again, policy, now, heard))
    return found


def due(
    state: Mapping[str, Record], policy: Alerts, now: datetime, me: str, heard: frozenset[str]
) -> list[tuple[str, int, bool]]:
    """The messages to send now: the alert, the number of its last message, and whether that has to be claimed first.

    What reaches nobody from here (`heard` is what does) waits for a look that knows whom to tell.
    """
    found = []
    for name, record in state.items():
        if not record.untold:
            continue
        number, event = max(record.untold.items())
        if event.severity not in heard:
            continue
        if is_quiet(policy.quiet_hours, now) and event.severity != "critical":
            continue
        if record.claimed_by == me:
            found.append((name, number, False))
            continue
        tries = max(record.attempts, record.missed) if record.reached else record.attempts
        # doubled for every try of a month, it would be more than a timedelta holds
        lease = min(LEASE * 2 ** min(max(tries - 1, 0), 10), LONGEST_LEASE)
        if record.claimed_at is None or now - record.claimed_at >= lease:
            found.append((name, number, True))
    return found


def message(records: Sequence[Record]) -> tuple[str, str]:
    """Title and body of what people are told of one alert, or of several of a kind in one message."""
    said = [_message(record) for record in records]
    if len(said) == 1:
        return said[0]
    title = f"{said[0][0]}, and {len(said) - 1} more"
    return title, "\n\n".join(f"{each}\n{body}" for each, body in said)


def together(state: Mapping[str, Record], names: Iterable[str]) -> list[list[str]]:
    """The alerts to tell of, by message: what is of one kind (`performance/...`) and happened alike is in one."""
    found: dict[Any, list[str]] = {}
    for name in names:
        record = state[name]
        event = record.untold[max(record.untold)]
        about = (name.partition("/")[0], event.kind, event.severity, event.noticed, record.reached)
        found.setdefault(about, []).append(name)
    return list(found.values())


def _message(record: Record) -> tuple[str, str]:
    """Of one alert: its last message, and what came before it unheard."""
    event = record.untold[max(record.untold)]
    alert = record.alert
    kinds = {each.kind for each in record.untold.values()}
    lines = [event.text] if event.text else []
    if event.kind == "clear":
        title = f"[resolved] {event.title}"
        lines.append(f"It had fired since {_shown(alert.since)}." if "raise" not in kinds else _only_now(alert))
    else:
        title = f"[{event.severity}] {event.title}"
        if event.kind == "repeat":
            title += " (still)"
        if "raise" not in kinds or len(kinds) > 1:
            lines.append(f"It has fired since {_shown(alert.since)}.")
        lines.append(f"`mlops alerts ack {alert.name}` keeps it from being repeated.")
    if event.link:
        lines.append(event.link)
    return title, "\n".join(lines)


def is_quiet(hours: QuietHours, now: datetime) -> bool:
    """Whether a moment is in the quiet hours; they may go past midnight."""
    local = now.astimezone(ZoneInfo(hours.time_zone))
    minute = local.hour * 60 + local.minute
    if hours.first <= hours.last:
        return hours.first <= minute < hours.last
    return minute >= hours.first or minute < hours.last


def alerts(state: Mapping[str, Record]) -> list[Alert]:
    """The alerts: what fires first, the most severe first, then the newest."""
    order = {"firing": 0, "acknowledged": 1, "cleared": 2}
    return sorted(
        (record.alert for record in state.values()),
        key=lambda alert: (
            order[alert.state],
            -_rank(alert.severity),
            -(alert.cleared or alert.since).timestamp(),
            alert.name,
        ),
    )


def _event(
    kind: Kind, condition: Condition, policy: Alerts, now: datetime, heard: frozenset[str], noticed: bool = False
) -> dict[str, Any]:
    quiet = is_quiet(policy.quiet_hours, now) and condition.severity != "critical"
    return {
        "kind": kind,
        "name": condition.name,
        "at": now,
        "severity": condition.severity,
        "title": condition.title[:MOST_TITLE],
        "text": condition.text[:MOST_TEXT],
        "link": condition.link[:MOST_LINK],
        "claimed": not quiet and condition.severity in heard,
        "unheard": condition.severity not in heard,
        "noticed": noticed,
    }


def _is_known(record: Record) -> bool:
    """Whether people know that an alert fires, or are about to be told."""
    alert = record.alert
    told = alert.last_told is not None and alert.last_told >= alert.since
    return bool(record.untold) or (alert.state != "cleared" and (told or alert.state == "acknowledged"))


def _only_now(alert: Alert) -> str:
    return f"It fired from {_shown(alert.since)} to {_shown(alert.cleared or alert.since)}, when nothing was told."


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
