"""The top of the page: what somebody needs to know in ten seconds, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

import pandas as pd

from matchmaking.base.escape import for_terminal, visible
from matchmaking.base.redact import redact
from matchmaking.evidence.metrics import LOWER_IS_BETTER
from matchmaking.live.estimate import METRICS
from matchmaking.release.registry import CHALLENGER
from matchmaking.reporting.contents import LABELS
from matchmaking.reporting.dashboard.records import Records, Run, web_address
from matchmaking.reporting.dashboard.reigns import Reign, reigns

# the metric that decides comes first
PRIMARY = "average_precision"
SHOWN = (PRIMARY, "recall", "precision", "f1", "roc_auc", "accuracy", "brier", "log_loss")
# a trend is told against this many measured windows before
EARLIER = 4
# of an alert, in characters
MOST_TEXT = 600
# runs by hand have no rhythm; what comes about daily or more seldom has
LEAST_RHYTHM = timedelta(hours=12)
RHYTHM_RUNS = 10
ORDER = ("observe", "evaluate", "monitor", "retrain", "sweep", "promote")


@dataclass(frozen=True)
class Line:
    """A line with a link: `tone` is good, attention, bad or plain, and `sign` says the same without colour."""

    label: str
    text: str
    note: str = ""
    url: str = ""
    tone: str = "plain"

    @property
    def sign(self) -> str:
        return {"good": "✓", "attention": "▲", "bad": "✕", "plain": ""}[self.tone]


@dataclass(frozen=True)
class MetricLine:
    """A metric in the newest windows and in the last `evaluate`; texts, empty where there is no number."""

    label: str
    lower_is_better: bool
    measured: str
    interval: str
    trend: str
    tone: str
    estimated: str
    estimated_interval: str
    holdout: str


@dataclass(frozen=True)
class Now:
    """The section "Now".

    Attributes:
        tone, headline: the page in one sentence.
        problems: what somebody should look at.
        facts: champion, drift, challenger.
        metrics: a line a metric.
        measured, estimated, holdout: which window or run the metrics' columns are of.
        pipelines: the last run of each.
        notes: what could not be read.
    """

    tone: str
    headline: str
    problems: list[Line] = field(default_factory=list)
    facts: list[Line] = field(default_factory=list)
    metrics: list[MetricLine] = field(default_factory=list)
    measured: Line | None = None
    estimated: Line | None = None
    holdout: Line | None = None
    pipelines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def summarise(records: Records) -> Now:
    """What stands at the top of the page."""
    pipelines = _pipelines(records)
    problems = [*_firing(records), *_production(records), *_unwell(records, pipelines)]
    if not records.runs and records.observed is None:
        return Now(
            "plain",
            "No run is recorded yet.",
            problems=problems,
            facts=[_champion(records, reigns(records))],
            notes=records.notes,
        )
    tone = "bad" if any(line.tone == "bad" for line in problems) else "attention" if problems else "good"
    headline = "All is well: nothing is firing, no run is late, no last run failed."
    if problems:
        headline = f"{'One thing' if len(problems) == 1 else f'{len(problems)} things'} to look at."
    measured, estimated = _newest(records, "measured"), _newest(records, "estimated")
    held = next(iter(reversed(records.of("evaluate"))), None)
    return Now(
        tone,
        headline,
        problems,
        [_champion(records, reigns(records)), _drift(records), _challenger(records)],
        _metrics(records, measured, estimated, held),
        _window(records, measured, "Measured", "on the pairs whose outcomes have come"),
        _window(records, estimated, "Estimated", "before the outcomes have come"),
        Line("Held out", f"evaluate of {day(held.start)}", url=held.url) if held else None,
        pipelines,
        records.notes,
    )


def day(time: int | datetime | pd.Timestamp) -> str:
    """A day as people write it: 3 Nov 2026."""
    moment = datetime.fromtimestamp(time / 1000, UTC) if isinstance(time, int) else time
    return f"{moment.day} {moment:%b %Y}"


def ago(moment: datetime, now: datetime) -> str:
    """How long ago something was, in the unit that says enough."""
    hours = (now - moment).total_seconds() / 3600
    if hours < 1:
        return "within the last hour"
    count, unit = (round(hours), "hour") if hours < 36 else (round(hours / 24), "day")
    return f"{count} {unit}{'' if count == 1 else 's'} ago"


def name_of(metric: str) -> str:
    """A metric's name for people."""
    return LABELS.get(metric, metric)


def lateness(runs: list[Run], now: datetime) -> str:
    """The rhythm that a pipeline had and has lost, in words; empty for not lost, or for none.

    Args:
        runs: of one pipeline that Kubeflow Pipelines ran, oldest first.
        now: UTC.
    """
    starts = [datetime.fromtimestamp(run.start / 1000, UTC) for run in runs if run.scheduled][-RHYTHM_RUNS:]
    if len(starts) < 4:
        return ""
    gap = timedelta(seconds=median((b - a).total_seconds() for a, b in pairwise(starts)))
    if gap < LEAST_RHYTHM or now - starts[-1] < 1.5 * gap + timedelta(hours=1):
        return ""
    hours = gap.total_seconds() / 3600
    return f"it usually runs every {f'{hours:.0f} hours' if hours < 36 else f'{hours / 24:.0f} days'}"


def _firing(records: Records) -> list[Line]:
    """The alerts that fire, as `read_alerts` orders them: the most severe first."""
    found = []
    for alert in records.alerts:
        if alert.state == "cleared":
            continue
        told = f"{alert.severity}, since {day(alert.since)} ({ago(alert.since, records.now)})"
        if alert.state == "acknowledged":
            told += f", acknowledged by {for_terminal(alert.acknowledged_by)}"
        text = f"{for_terminal(redact(alert.title))}. {for_terminal(redact(alert.text))}".strip()
        tone = "bad" if alert.severity == "critical" and alert.state == "firing" else "attention"
        found.append(Line("Alert", text[:MOST_TEXT], told, web_address(alert.link), tone))
    return found


def _unwell(records: Records, pipelines: list[Line]) -> list[Line]:
    """The pipelines whose last run failed or is late, but for those that an alert tells of."""
    alerted = {alert.name for alert in records.alerts if alert.state != "cleared"}
    return [
        line
        for line in pipelines
        if line.tone != "good" and not {f"failed/{line.label}", f"late/{line.label}"} & alerted
    ]


def _production(records: Records) -> list[Line]:
    """What is wrong with production's own records."""
    found: list[Line] = []
    if records.audit is None:
        return found
    if records.audit.foreign:
        found.append(Line("Production", "holds a model file that no promotion of ours wrote", tone="bad"))
    if records.audit.unfinished:
        found.append(Line("Production", for_terminal(records.audit.unfinished), tone="bad"))
    if records.audit.unreadable:
        count = len(records.audit.unreadable)
        found.append(Line("Audit trail", f"{count} of its lines can't be read", tone="attention"))
    return found


def _champion(records: Records, found: list[Reign]) -> Line:
    if not found:
        held = records.audit.current.model if records.audit else None
        text = f"a model from elsewhere (sha256 {held[:12]})" if held else "not known yet"
        return Line("Champion", text, "no promotion is recorded")
    last = found[-1]
    how = {"promote": "promoted", "rollback": "put back", "first seen": "first seen", "elsewhere": "since about"}
    when = ""
    if last.start is not None:
        began = datetime.fromtimestamp(last.start / 1000, UTC)
        when = f"{how[last.how]} {day(last.start)} ({ago(began, records.now)})"
    who = f" by {for_terminal(last.who)}" if last.who else ""
    why = f"; {for_terminal(redact(last.why))}" if last.why else ""
    return Line("Champion", last.name, f"{when}{who}{why}", last.url)


def _drift(records: Records) -> Line:
    last = next((run for run in reversed(records.of("monitor")) if "drifted" in run.metrics), None)
    if last is None:
        return Line("Drift", "not measured yet")
    columns = drifted_columns(last)
    total = sum(name.startswith("drifted_") for name in last.metrics)
    listed = ", ".join(columns[:4]) + (f" and {len(columns) - 4} more" if len(columns) > 4 else "")
    when = f"monitor of {day(last.start)}"
    if last.params.get("self_comparison") == "True":
        when += ", two samples of the same data"
    if last.metrics["drifted"]:
        return Line("Drift", f"the data has drifted: {listed or 'as a whole'}", when, last.url, "attention")
    text = f"{len(columns)} of {total} columns, not the data as a whole: {listed}" if columns else "none"
    return Line("Drift", text, when, last.url, "good")


def drifted_columns(run: Run) -> list[str]:
    """The columns that a run of `monitor` found drifted."""
    return [visible(name.removeprefix("drifted_")) for name, yes in run.metrics.items() if _is_drifted(name) and yes]


def _is_drifted(name: str) -> bool:
    return name.startswith("drifted_")


def _challenger(records: Records) -> Line:
    for version in records.versions:
        if CHALLENGER in version.aliases:
            tags = version.tags
            made = next((run for run in records.runs if run.id == tags.get("run_id")), None)
            scores = [_score(tags.get(name, "")) for name in ("primary_candidate", "primary_production")]
            said = f"{name_of(visible(tags.get('primary_metric', '')))} {' against '.join(filter(None, scores))}"
            note = f"{said}; `mlops promote` puts it in place"
            return Line("Challenger", f"{visible(tags.get('package', ''))} waits", note, made.url if made else "")
    return Line("Challenger", "none waits")


def _score(text: str) -> str:
    """A number that a tag holds, for people; empty where it holds none, as a tag may hold anything."""
    try:
        value = float(text)
    except ValueError:
        return ""
    return short(value) if math.isfinite(value) else ""


def _pipelines(records: Records) -> list[Line]:
    found = []
    names = [name for name in ORDER if any(run.pipeline == name for run in records.runs)]
    for name in [*names, *sorted({run.pipeline for run in records.runs} - {*ORDER})]:
        runs = [run for run in records.runs if run.pipeline == name]
        ended = [run for run in runs if run.status != "RUNNING"]
        last = (ended or runs)[-1]
        when = ago(datetime.fromtimestamp(last.start / 1000, UTC), records.now)
        running = ", one is running" if runs[-1].status == "RUNNING" else ""
        late = lateness(runs, records.now)
        if last.status in ("FAILED", "KILLED"):
            word = "failed" if last.status == "FAILED" else "was stopped"
            reason = last.reason[:300] or "no reason is recorded"
            found.append(Line(name, f"the last run {word} {when}{running}", reason, last.url, "bad"))
        elif late:
            found.append(Line(name, f"late: {when}{running}", late, last.url, "bad"))
        else:
            found.append(Line(name, f"{when}{running}", "", last.url, "good"))
    return found


def _newest(records: Records, kind: str) -> pd.DataFrame:
    """The whole-window rows of the newest window that is measured, or that has estimates and isn't, by metric."""
    whole = records.whole
    has = whole["measured"] & whole["value"].notna() if kind == "measured" else whole["estimate"].notna()
    found = whole[has]
    return found[found["start"] == found["start"].max()].set_index("metric") if len(found) else pd.DataFrame()


def _window(records: Records, rows: pd.DataFrame, label: str, what: str) -> Line | None:
    if not len(rows) or records.observed is None:
        return None
    first = rows.iloc[0]
    period = records.observed.live.period
    text = day(first["start"]) if period == "day" else f"{first['start']:%B %Y}" if period == "month" else ""
    text = text or f"week of {day(first['start'])}"
    pairs = f"{int(first['labelled']):,} of {int(first['rows']):,} pairs" if label == "Measured" else ""
    run = next((run for run in records.runs if run.id == records.observed.run_id), None)
    return Line(label, text, f"{what}{f', {pairs}' if pairs else ''}", run.url if run else "")


def _metrics(records: Records, measured: pd.DataFrame, estimated: pd.DataFrame, held: Run | None) -> list[MetricLine]:
    found = []
    for metric in (*SHOWN, *(name for name in METRICS if name not in SHOWN)):
        seen: Any = measured.loc[metric] if metric in measured.index else None
        guess: Any = estimated.loc[metric] if metric in estimated.index else None
        holdout = held.metrics.get(f"production_{metric}") if held else None
        if seen is None and guess is None and holdout is None:
            continue
        trend, tone = _trend(records, metric, seen) if seen is not None else ("", "plain")
        found.append(
            MetricLine(
                name_of(metric),
                metric in LOWER_IS_BETTER,
                short(seen["value"]) if seen is not None else "",
                _interval(seen, "low", "high"),
                trend,
                tone,
                short(guess["estimate"]) if guess is not None else "",
                _interval(guess, "estimate_low", "estimate_high"),
                short(holdout) if holdout is not None else "",
            )
        )
    return found


def _trend(records: Records, metric: str, newest: pd.Series) -> tuple[str, str]:
    """How a measured window differs from those before, and its tone; "steady" is what its own interval explains."""
    rows = records.whole
    rows = rows[(rows["metric"] == metric) & rows["measured"] & rows["value"].notna()]
    before = rows[rows["start"] < newest["start"]]["value"].tail(EARLIER)
    if not len(before):
        return "", "plain"
    change = float(newest["value"] - before.mean())
    arrow = "▲" if change > 0 else "▼"
    if newest["low"] <= before.mean() <= newest["high"]:
        return f"steady ({change:+.3f})", "plain"
    better = (change < 0) == (metric in LOWER_IS_BETTER)
    return f"{arrow} {'better' if better else 'worse'} ({change:+.3f})", "good" if better else "bad"


def _interval(row: Any, low: str, high: str) -> str:
    return "" if row is None or pd.isna(row[low]) else f"{short(row[low])}–{short(row[high])}"


def short(value: float) -> str:
    """A metric with three digits."""
    return "" if pd.isna(value) else f"{value:.3f}"
