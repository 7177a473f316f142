"""A shadow run's report: in words, as tables of the terminal, as JSON, and as one HTML page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from matchmaking.base.escape import for_rich
from matchmaking.data.schema import FEATURES
from matchmaking.experiments.shadow import CANNOT
from matchmaking.experiments.shadow_run import TOLERANCE, ShadowRun
from matchmaking.reporting.html import page
from matchmaking.reporting.plots import COLOURS, GREY, STYLES, as_png, new_axes, new_figure, unit_square

if TYPE_CHECKING:
    from rich.table import Table

# the colours of production and candidate are those of champion and challenger
_AS = {"champion": "production", "challenger": "candidate"}


def said(run: ShadowRun) -> tuple[str, str, list[str]]:
    """The outcome: its tone (`bad`, `attention` or `plain`), one sentence, and what somebody should know beside it."""
    every = run.shadow.decisions.iloc[0]
    notes, tone = [], "plain"
    if run.refused:
        headline, tone = "The challenger can't score the pairs: nothing can be compared.", "bad"
        notes.append(run.refused)
    elif not every["pairs"]:
        headline, tone = "The challenger gives no probability for any pair: nothing can be compared.", "bad"
    else:
        headline = (
            f"The two would have decided differently in {_percent(every['different'])} of {every['pairs']:,} pairs "
            f"({_percent(every['low'])} to {_percent(every['high'])})."
        )
    if failed := [one["name"] for one in run.contract["checks"] if not one["passed"]]:
        tone = "bad"
        notes.append(f"The service can't serve the challenger: {', '.join(failed)}")
    for model, count in run.shadow.without.items():
        if count and not run.refused:
            tone = "bad"
            notes.append(f"The {model} gives no probability for {count:,} pairs")
    if run.requests and (lost := run.requests.failed["challenger"])["failed"]:
        tone = "bad" if tone == "bad" else "attention"
        notes.append(
            f"The challenger's service failed {_percent(lost['share'])} of the {lost['asked']:,.0f} requests that the "
            f"champion's answered ({_percent(lost['low'])} to {_percent(lost['high'])})"
        )
    notes += logged_lines(run)
    if run.logged["different"] and not run.logged["rounded"]:
        tone = "bad" if tone == "bad" else "attention"
    return tone, headline, notes


def logged_lines(run: ShadowRun) -> list[str]:
    """How the log's own probabilities stand to the champion's files."""
    found, lines = run.logged, []
    if not found["pairs"]:
        lines.append("No pair of the log was scored by this champion: its files are others than those that served")
    elif found["rounded"] and found["different"]:
        lines.append(
            f"The log's probabilities are rounded to four decimals; so far the champion's files give the same for its "
            f"{found['pairs']:,} pairs"
        )
    elif found["different"]:
        lines.append(
            f"The log's probabilities of the champion are not those that its files give: {found['different']:,} of "
            f"{found['pairs']:,} pairs differ by more than {TOLERANCE:.0e}, the furthest by {found['largest']:.4f}, "
            f"and {found['decisions']:,} decisions with them"
        )
    else:
        lines.append(f"The champion's files give what the log says of its {found['pairs']:,} pairs")
    if run.others:
        named = ", ".join(f"{model[:12]} ({count:,})" for model, count in list(run.others.items())[:3])
        lines.append(
            f"{sum(run.others.values()):,} pairs were scored by other models, {named}: their outcomes come of those "
            "models' decisions"
        )
    return lines


def known_line(run: ShadowRun) -> str:
    """How many outcomes there are."""
    pairs = int(run.shadow.decisions.iloc[0]["pairs"])
    if not run.known:
        return "No outcome is known: of what would have come of the decisions nothing can be said."
    return f"Outcomes are known of {run.known:,} of {pairs:,} pairs; what the others will bring isn't in these numbers."


def brier_line(run: ShadowRun) -> str:
    """The difference of the Brier scores; empty without outcomes."""
    found = run.shadow.brier
    if not found:
        return ""
    return (
        f"The champion's Brier score less the challenger's (above 0, the challenger's is better): {found['mean']:+.4f} "
        f"on average over {found['clients']:,.0f} {_units(run)}; confidence sequence {found['low']:+.4f} to "
        f"{found['high']:+.4f}, at whatever time it is read"
    )


def unit_line(run: ShadowRun) -> str:
    """What the intervals take for one draw."""
    if run.unit == "client":
        return "Intervals are at 95 %, each by itself, with clients as clusters."
    return (
        "Intervals are at 95 %, each by itself. The log doesn't say whose pairs are whose: pairs of the same case (all "
        "of a client's fields alike) count as one client's, and who came with two cases counts as two."
    )


def shadow_tables(run: ShadowRun) -> list[Table]:
    """What the terminal shows below the headline."""
    decisions = _table(
        "Decisions: recommended by both, the champion or the challenger alone",
        "",
        "pairs",
        "both",
        "champion",
        "challenger",
        "different",
        "",
    )
    above = ""
    for row in run.shadow.decisions.to_dict("records"):
        if row["slice"] != above:
            above = row["slice"]
            decisions.add_row(for_rich(above.replace("_", " ")))
        decisions.add_row(
            for_rich(f"  {row['value_of']}") if above else "all",
            *(f"{row[key]:,}" for key in ("pairs", "both", "champion_only", "challenger_only")),
            _percent(row["different"], 1),
            _between(row["low"], row["high"]) if row["pairs"] else "",
        )
    tables = [decisions]
    if run.known:
        outcomes = _table("What came of the champion's decisions", "recommended by", "pairs", "outcomes", "rate", "")
        for row in run.shadow.outcomes.to_dict("records"):
            outcomes.add_row(row["decision"], f"{row['pairs']:,}", f"{row['known']:,}", *_rate(row))
        calibration = _table("Calibration", "", "pairs", "probability", "rate", "gap", "", "Brier", "ECE")
        for recommended, part in run.shadow.calibration.groupby("recommended", sort=False):
            calibration.add_row("recommended" if recommended else "not recommended")
            for row in part.to_dict("records"):
                calibration.add_row(
                    f"  {row['model']}",
                    f"{row['pairs']:,}",
                    f"{row['mean']:.3f}",
                    f"{row['rate']:.3f}",
                    f"{row['gap']:+.3f}",
                    f"{row['low']:+.3f} to {row['high']:+.3f}",
                    f"{row['brier']:.4f}",
                    f"{row['ece']:.4f}",
                )
        tables += [outcomes, calibration]
    if run.requests:
        latency = _table("Requests that both answered, ms", "", "p50", "p95", "p99", "not answered")
        for row in run.requests.latency.to_dict("records"):
            lost = run.requests.failed[row["model"]]
            shown = f"{lost['failed']:,.0f} of {lost['asked']:,.0f}"
            latency.add_row(row["model"], *(f"{row[key]:.1f}" for key in ("p50", "p95", "p99")), shown)
        tables.append(latency)
    if not run.contract["passed"]:
        contract = _table("The serving contract, where it fails", "check", "")
        for one in run.contract["checks"]:
            if not one["passed"]:
                contract.add_row(for_rich(one["name"]), for_rich(one["detail"]))
        tables.append(contract)
    return tables


def shadow_numbers(run: ShadowRun) -> dict[str, Any]:
    """The run as JSON has it."""
    _, headline, notes = said(run)
    requests = run.requests
    return _plain(
        {
            "headline": headline,
            "notes": notes,
            "models": run.models,
            "first": run.first.isoformat(),
            "last": run.last.isoformat(),
            "unit": run.unit,
            "decisions": run.shadow.decisions,
            "examples": run.shadow.examples.assign(time=[one.isoformat() for one in run.shadow.examples["time"]]),
            "known": run.known,
            "outcomes": run.shadow.outcomes,
            "cannot": CANNOT,
            "calibration": run.shadow.calibration,
            "curves": run.shadow.curves,
            "brier": run.shadow.brier,
            "without": run.shadow.without,
            "logged": run.logged,
            "others": run.others,
            "contract": run.contract,
            "requests": None if requests is None else vars(requests),
            "findings": [vars(one) for one in run.findings],
        }
    )


def shadow_report(run: ShadowRun) -> str:
    """The page: one file, with nothing beside it that it would need."""
    tone, headline, notes = said(run)
    records = _plain(
        {
            "decisions": run.shadow.decisions,
            "outcomes": run.shadow.outcomes,
            "calibration": run.shadow.calibration,
            "examples": run.shadow.examples,
            "statuses": run.requests.statuses if run.requests else pd.DataFrame(),
            "latency": run.requests.latency if run.requests else pd.DataFrame(),
        }
    )
    return page(
        "shadow.html.j2",
        title="shadow run",
        tone=tone,
        headline=headline,
        notes=notes,
        run=run,
        period=f"{run.first:%Y-%m-%d} to {run.last:%Y-%m-%d}",
        unit_line=unit_line(run),
        known_line=known_line(run),
        brier_line=brier_line(run),
        cannot=CANNOT,
        features=FEATURES,
        plot=base64.b64encode(draw_calibration(run)).decode() if run.shadow.curves else "",
        percent=_percent,
        **records,
    )


def draw_calibration(run: ShadowRun) -> bytes:
    """Both calibration curves, as a PNG 800 px wide."""
    figure = new_figure("Calibration, of the pairs whose outcome is known", (8.0, 5.5))
    axes = new_axes(figure, "probability", "share that matched")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    for model, points in run.shadow.curves.items():
        mean, rate, _ = zip(*points, strict=True)
        name = _AS[model]
        axes.plot(mean, rate, color=COLOURS[name], linestyle=STYLES[name], linewidth=2, marker="o", label=model)
    axes.legend(frameon=False, fontsize=12, loc="upper left")
    unit_square(axes)
    return as_png(figure)


def _units(run: ShadowRun) -> str:
    return "clients" if run.unit == "client" else "cases"


def _rate(row: Mapping[Any, Any]) -> tuple[str, str]:
    if not row["known"]:
        return "", ""
    return f"{row['rate']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}"


def _percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def _between(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _table(title: str, *heads: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(heads[0], no_wrap=True)
    for head in heads[1:]:
        numbers = len(heads) > 2
        table.add_column(head, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    return table


def _plain(value: Any) -> Any:
    """What JSON has: frames as lists of records, numbers that are none as null."""
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value
