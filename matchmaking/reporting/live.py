"""What the reports tell of `observe`: the newest windows, how estimates fared, what was odd in the logs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from matchmaking.base.escape import visible
from matchmaking.live.record import Live

# shown of each window; all metrics and slices are in windows.parquet
SHOWN = ("average_precision", "recall", "precision", "roc_auc", "brier")
RECENT = 8
VALUES = ("value", "low", "high", "estimate", "estimate_low", "estimate_high")
UNSEEN = (
    "Estimates see what features and probabilities show. Where the same pairs come to meet other outcomes (concept "
    "drift), they stay where they were, and only the measured windows tell."
)
# what a finding's code means, for people
FINDINGS = {
    "half-written-part": "parts break off; what stands before the break counts",
    "unreadable-part": "parts can't be read and were left out",
    "other-file": "files are no parts of a log",
    "other-version": "records have a format version that this program doesn't read and were set aside",
    "invalid-record": "records are not what the format says and were set aside",
    "time-zones": "time zones are in use; all times were taken to UTC",
    "time-without-zone": "times have no zone and were taken for UTC",
    "duplicate-prediction": "predictions are there again and count once",
    "conflicting-prediction": "predictions say something else of a pair that is there; the earliest counts",
    "duplicate-outcome": "outcomes are there again and count once",
    "repeated-outcome": "outcomes were told again later; the earliest counts",
    "corrected-outcome": "outcomes were corrected later; the latest word counts",
    "contradictory-outcome": "outcomes contradict each other at the same time; none counts",
    "outcome-without-prediction": "outcomes have no prediction (yet)",
    "outcome-before-prediction": "outcomes are dated before their prediction; they count, but for the delay",
    "in-the-future": "records are dated after the time of looking and don't count yet",
    "model-not-promoted": "predictions are of a model that nobody promoted",
    "no-time": "labelled pairs have no time and were taken to be of now",
}


def live_summary(live: Live, windows: pd.DataFrame, beside: str = "") -> dict[str, Any]:
    """The field `live` of summary.json: what fits a page.

    Args:
        live: the run's `live.json`.
        windows: the run's `windows.parquet`.
        beside: why alerts and the dashboard don't follow it, see `series.beside`; empty where they do.
    """
    whole = windows[(windows["slice"] == "") & windows["metric"].isin(SHOWN)]
    recent = []
    for start, rows in list(whole.groupby("start"))[-RECENT:]:
        first = rows.iloc[0]
        metrics = {
            row["metric"]: {name: None if pd.isna(row[name]) else round(float(row[name]), 6) for name in VALUES}
            for _, row in rows.iterrows()
        }
        recent.append(
            {
                "start": pd.Timestamp(str(start)).isoformat(),
                "end": first["end"].isoformat(),
                "rows": int(first["rows"]),
                "labelled": int(first["labelled"]),
                "completeness": round(float(first["completeness"]), 4),
                "measured": bool(first["measured"]),
                "withheld": first["withheld"],
                "estimate_withheld": first["estimate_withheld"],
                "metrics": metrics,
            }
        )
    found = live.as_dict()
    return {
        **{name: found[name] for name in ("period", "now", "delay", "windows", "carried", "past", "findings")},
        "followed": not beside,
        "notes": [*([beside] if beside else []), *found["notes"]],
        "recent": recent,
        "firing": [one["title"] for one in found["conditions"] if one.get("firing")],
    }


def live_headline(live: dict[str, Any], metric: str = "average_precision") -> str:
    """The newest measured and the newest estimated value, in a sentence each."""
    measured = [w for w in live["recent"] if w["measured"] and w["metrics"][metric]["value"] is not None]
    estimated = [w for w in live["recent"] if not w["measured"] and w["metrics"][metric]["estimate"] is not None]
    told = []
    if measured:
        numbers = measured[-1]["metrics"][metric]
        told.append(f"Measured: average precision {interval(numbers)} in the {live['period']} of {day(measured[-1])}.")
    if estimated:
        numbers = estimated[-1]["metrics"][metric]
        told.append(f"Estimated: {interval(numbers, 'estimate')} in the {live['period']} of {day(estimated[-1])}.")
    if not told and live["recent"]:
        last = live["recent"][-1]
        numbers = last["metrics"][metric]
        value = interval(numbers) if numbers["value"] is not None else f"no value ({last['withheld'] or 'no outcome'})"
        told.append(
            f"No window counts as measured or could be estimated yet; on the outcomes so far average precision is "
            f"{value} in the {live['period']} of {day(last)}."
        )
    return " ".join(told) or "The logs hold no pair yet."


def day(window: dict[str, Any]) -> str:
    return str(window["start"])[:10]


def interval(numbers: dict[str, Any], kind: str = "value") -> str:
    """A number with its interval, "0.812 (0.771 to 0.850)"; empty for none."""
    if numbers[kind] is None:
        return ""
    low, high = ("low", "high") if kind == "value" else (f"{kind}_low", f"{kind}_high")
    if numbers[low] is None or numbers[high] is None:
        return f"{numbers[kind]:.3f}"
    return f"{numbers[kind]:.3f} ({numbers[low]:.3f} to {numbers[high]:.3f})"


def state(window: dict[str, Any]) -> str:
    """Which numbers a window has, in a word: they are told apart without a colour."""
    if window["measured"]:
        return "measured"
    return f"{window['completeness']:.0%} come" if window["labelled"] else "none come"


def finding_lines(live: dict[str, Any]) -> list[str]:
    """What was odd in the logs, in sentences."""
    lines = []
    for one in live["findings"]:
        examples = ", ".join(map(visible, one["examples"][:3]))
        lines.append(
            f"{one['count']:,} {FINDINGS.get(one['code'], one['code'])}" + (f": {examples}" if examples else "")
        )
    return lines


def past_lines(live: dict[str, Any]) -> list[str]:
    """How estimates compare with what was measured later, in sentences."""
    return [
        f"{one['metric'].replace('_', ' ')}: of {one['windows']} windows {one['within']:.0%} were estimated within "
        f"{one['tolerance']:g} of what was measured later, by {one['mean_absolute_error']:.3f} on average "
        f"({one['mean_error']:+.3f} with the sign); the interval held it in {one['covered']:.0%}"
        for one in live["past"]
        if one["metric"] in SHOWN
    ]
