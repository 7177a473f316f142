"""An experiment's report: the sequence drawn over time, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.files import written_whole
from matchmaking.base.records import read_record
from matchmaking.experiments.analysis import Analysis, numbers
from matchmaking.experiments.gather import ASKED, Asked, read
from matchmaking.experiments.page import EMPTY
from matchmaking.experiments.record import PAGE, RESULTS
from matchmaking.live.parts import Finding
from matchmaking.reporting.html import page
from matchmaking.reporting.plots import COLOURS, GREY, as_png, new_axes, new_figure

TONES = {"better": "good", "equivalent": "plain", "go on": "plain", "undecided": "attention"}
HEADLINES = {
    "better": "The challenger is better.",
    "worse": "The challenger is worse.",
    "equivalent": "The two are the same, within the smallest effect worth having.",
    "go on": "Nothing is decided yet: go on.",
    "undecided": "The planned length is over without a verdict.",
    "harmful": "Stop: the challenger does harm.",
    "unreadable": "The arms can't be compared, so the results aren't shown.",
}

TO_COME = "This looks at a day to come: outcomes that will have come by then count as none. It is kept nowhere."
NONE = "No experiment is under way; `mlops experiment start` records one."


def draw_sequence(analysis: Analysis) -> bytes:
    """The difference over the days, as a PNG 800 px wide: the confidence sequence and, thin, the usual interval."""
    definition, table = analysis.definition, analysis.table
    figure = new_figure("The difference, day by day")
    axes = new_axes(figure, "days since the start", f"{definition.primary}: challenger less champion")
    seen = table[np.isfinite(table["low"])]
    day = seen["look"] + 1
    axes.axhline(0, color=GREY, linewidth=1)
    for side in (-1, 1):
        axes.axhline(side * definition.effect, color=GREY, linewidth=1, linestyle=":")
    axes.fill_between(day, seen["low"], seen["high"], color=COLOURS["candidate"], alpha=0.2, linewidth=0)
    axes.plot(day, seen["difference"], color=COLOURS["candidate"], linewidth=2, label="difference")
    for bound, label in (("fixed_low", "an interval for one look alone"), ("fixed_high", None)):
        axes.plot(day, seen[bound], color=GREY, linewidth=1, linestyle="--", label=label)
    axes.plot([], [], color=COLOURS["candidate"], alpha=0.2, linewidth=8, label="confidence sequence")
    if analysis.verdict.look is not None and len(seen):
        axes.axvline(analysis.verdict.look + 1, color=COLOURS["production"], linewidth=1.5)
    if len(seen):
        axes.legend(frameon=False, fontsize=11)
        # what the first looks leave open would flatten the rest
        reach = max(2 * definition.effect, float(np.nanquantile(np.abs(seen[["low", "high"]]), 0.8)))
        axes.set_ylim(-reach, reach)
    axes.set_xlim(0, max(definition.last_day, analysis.looks))
    return as_png(figure)


def experiment_report(analysis: Analysis) -> str:
    """The page. Where the verdict is `unreadable` it shows why, and no result."""
    from markupsafe import Markup

    readable = analysis.verdict.state != "unreadable"
    definition = analysis.definition
    return page(
        "experiment.html.j2",
        title=f"experiment {definition.name}",
        headline=HEADLINES[analysis.verdict.state],
        tone=TONES.get(analysis.verdict.state, "bad"),
        reason=analysis.verdict.reason,
        to_come=TO_COME if analysis.to_come else "",
        traffic=Markup(EMPTY),
        results=results_of(analysis) if readable else [],
        plot=base64.b64encode(draw_sequence(analysis)).decode() if readable and len(analysis.table) else "",
        guardrails=[
            {**vars(one), "bound": None if math.isinf(one.at_least) else one.at_least, "harmed": one.harmed}
            for one in analysis.guardrails
        ],
        checks=[vars(one) for one in analysis.checks],
        overlap=analysis.overlap,
        definition=sorted(definition.as_dict().items()),
        sha256=definition.sha256,
    )


def experiment_files(folder: Path, out: Path) -> str:
    """Reads what the pipeline's first step has gathered, and writes what it says.

    Args:
        folder: what `gather` left.
        out: becomes the folder: `experiment.json`, and the page where there is an experiment.

    Returns:
        The verdict; empty where no experiment is under way.

    Raises:
        InputError: a log can't be read, or the experiment hasn't begun.
    """
    asked = read_record(Asked, (folder / ASKED).read_bytes(), ASKED)
    out.mkdir(parents=True, exist_ok=True)
    if asked.definition is None:
        (out / RESULTS).write_text(json.dumps({"experiment": None, "verdict": None, "headline": NONE}))
        return ""
    found, odd = read(folder, asked.definition, pd.Timestamp(asked.now), pd.Timestamp(asked.clock))
    write_report(found, odd, out)
    return found.verdict.state


def write_report(analysis: Analysis, odd: Sequence[Finding], folder: Path) -> None:
    """Writes the page and the numbers, `experiment.html` and `experiment.json`, each whole or not at all.

    Args:
        analysis: what it says.
        odd: what was odd in the exposure log.
        folder: where they go.
    """
    said = numbers(analysis) | {
        "headline": HEADLINES[analysis.verdict.state] + (f" {TO_COME}" if analysis.to_come else ""),
        "results": results_of(analysis) if analysis.verdict.state != "unreadable" else [],
        "log": {one.code: one.count for one in odd},
    }
    for file, text in ((PAGE, experiment_report(analysis)), (RESULTS, json.dumps(said, indent=1))):
        with written_whole(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def results_of(analysis: Analysis) -> list[tuple[str, str]]:
    """The results in words, label and value."""
    table, definition, fixed = analysis.table, analysis.definition, analysis.fixed
    rows = [("days", f"{analysis.looks} of {definition.last_day}"), ("clients exposed", f"{analysis.exposed:,}")]
    if not len(table):
        return rows
    last = table.iloc[-1]
    rows += [
        ("clients whose outcomes are in", f"{last['champion_clients']:,.0f} and {last['challenger_clients']:,.0f}"),
        (definition.primary, f"{_shown(last['champion'])} and {_shown(last['challenger'])}"),
        ("difference" + (", adjusted" if last["shortened"] > 0 else ""), _signed(last["difference"])),
        (
            f"confidence sequence, {1 - definition.alpha:.0%} over all days",
            f"{_signed(last['low'])} to {_signed(last['high'])}",
        ),
        (
            "clients that the champion's score saves",
            f"{max(last['shortened'], 0):.0%}" if last["shortened"] > 0 else "-",
        ),
        (
            "mean of clients' own rates, by betting",
            f"{_signed(analysis.betting.low[-1])} to {_signed(analysis.betting.high[-1])}",
        ),
    ]
    planned = f"the usual analysis, once, at {definition.planned_clients:,} clients"
    if fixed["look"] is None:
        rows.append((planned, "not there yet"))
    else:
        rows.append((planned, f"{fixed['state']}: {_signed(fixed['low'])} to {_signed(fixed['high'])}"))
    daily = fixed["daily_look"]
    said = f"{fixed['daily_state']}, on day {int(str(daily)) + 1}" if daily is not None else "nothing yet"
    rows.append(("the same, wrongly looked at every day, would have said", said))
    return rows


def _shown(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.4f}"


def _signed(value: Any) -> str:
    return "-" if pd.isna(value) or math.isinf(value) else f"{value:+.4f}"
