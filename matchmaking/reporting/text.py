"""The report as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from matchmaking.base.escape import for_terminal, visible
from matchmaking.reporting.contents import (
    FEW_POSITIVES,
    LABELS,
    SLICE_METRICS,
    data_lines,
    drift_of,
    headline,
    metric_rows,
    models_of,
    number_text,
    production_changed,
    production_files,
    provenance_of,
    signed_text,
    slice_rows,
)
from matchmaking.reporting.live import UNSEEN, day, interval, past_lines
from matchmaking.reporting.live import state as live_state

WIDTH = 100


def text_report(summary: dict[str, Any], evaluation: dict[str, Any] | None = None) -> str:
    """The whole report as plain text, at most 100 columns wide, without control characters."""
    return "\n".join(_text_lines(summary, evaluation)) + "\n"


def _text_lines(summary: dict[str, Any], evaluation: dict[str, Any] | None) -> Iterator[str]:
    title = f"LegalAid Connect matchmaking: {summary.get('pipeline') or 'pipeline'}"
    yield from _wrap(title)
    yield "=" * min(len(title), WIDTH)
    yield ""
    yield from _wrap(headline(summary))
    for reason in summary.get("reasons") or []:
        yield from _wrap(str(reason), "- ")

    models = models_of(summary, evaluation)
    if models:
        sizes = next(iter(models.values()))
        yield from _section(
            f"Metrics on {sizes.get('rows', 0):,} held-out pairs, {sizes.get('positives', 0):,} matches"
        )
        yield (
            f"{'':<28}"
            + "".join(f"{name:>12}" for name in models)
            + (f"{'difference':>12}" if len(models) == 2 else "")
        )
        for row in metric_rows(summary, evaluation):
            line = f"{row.label:<28}" + "".join(f"{number_text(getattr(row, name)):>12}" for name in models)
            yield (line + (f"{signed_text(row.difference):>12}  {row.mark}" if len(models) == 2 else "")).rstrip()
        for name, model in models.items():
            if cells := model.get("confusion"):
                counts = ", ".join(f"{cells[key]:,} {key.upper()}" for key in ("tp", "fp", "fn", "tn"))
                yield f"{'confusion, ' + name:<28}  {counts}"
    for column, rows in slice_rows(models).items():
        yield from _section(f"By {column}" + (" (production / candidate)" if len(models) == 2 else ""))
        cell = 15 if len(models) == 2 else 10
        yield f"{'':<18}{'rows':>8}{'matches':>9}" + "".join(
            f"{LABELS.get(name, name):>{cell}}" for name in SLICE_METRICS
        )
        for group in rows:
            numbers = "".join(f"{' / '.join(number_text(v, 3) for v in pair):>{cell}}" for pair in group.values)
            name = textwrap.shorten(group.value, 17, placeholder="…") or "…"
            yield f"{name:<18}{group.rows:>8,}{group.positives:>8,}{'*' if group.few else ' '}{numbers}"
        if any(group.few for group in rows):
            yield f"* fewer than {FEW_POSITIVES} matches: too few to tell models apart"

    drift = drift_of(summary)
    if drift.get("columns"):
        yield from _section("Drift by column")
        yield f"{'':<24}{'kind':<10}{'method':<16}{'distance':>10}{'threshold':>12}"
        for column in drift["columns"]:
            kind, method = visible(column["kind"]), visible(column["method"] or "-")
            line = f"{visible(column['column']):<24.23}{kind:<10}{method:<16}"
            line += f"{number_text(column['statistic']):>10}{number_text(column['threshold']):>12}"
            yield line + ("  DRIFTED" if column["drifted"] else "")
        for note in drift.get("notes") or []:
            yield from _wrap(str(note), "- ")

    if live := summary.get("live"):
        yield from _section(f"The newest windows, by {live['period']} (UTC)")
        yield f"{'from':<12}{'pairs':>9}  {'outcomes':<12}{'average precision':<28}{'estimated':<28}"
        for window in live["recent"]:
            numbers = window["metrics"]["average_precision"]
            value, estimate = interval(numbers) or "-", interval(numbers, "estimate")
            value = value if window["measured"] or value == "-" else f"[{value}]"
            line = f"{day(window):<12}{window['rows']:>9,}  {live_state(window):<12}{value:<28}"
            yield (line + (f"~{estimate}" if estimate else "-")).rstrip()
        for text in (*past_lines(live), *live["notes"], UNSEEN):
            yield from _wrap(text, "- ")

    if results := (summary.get("experiment") or {}).get("results"):
        yield from _section("The experiment")
        for label, value in results:
            yield from _wrap(f"{label}: {value}")

    if data := data_lines(summary):
        yield from _section("Data")
        for line in data:
            yield from _wrap(line)
    yield from _section("Where this comes from")
    for label, value in provenance_of(summary):
        yield from _wrap(f"{label}: {value}")
    files = production_files(summary)
    if files:
        state = "replaced by this run's promotion" if summary.get("promotion") else "unchanged (sha256)"
        yield "production files: " + ("CHANGED DURING THE RUN" if production_changed(summary) else state)
        for name, before, after in files:
            yield from _wrap(f"{before or 'absent'}  {name}", "  ")
            if after != before:
                yield from _wrap(f"now {after or 'absent'}", "  ")


def _section(title: str) -> list[str]:
    return ["", *_wrap(title), "-" * min(len(title), WIDTH)]


def _wrap(text: str, bullet: str = "") -> list[str]:
    return textwrap.wrap(for_terminal(text), WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet)) or [""]
