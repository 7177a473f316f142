"""A run in a few lines of Markdown, for KFP's UI and MLflow."""

from __future__ import annotations

from typing import Any

from matchmaking.base.escape import for_markdown, visible
from matchmaking.reporting.contents import (
    data_lines,
    drift_of,
    headline,
    metric_rows,
    models_of,
    number_text,
    provenance_of,
    signed_text,
    warnings,
)
from matchmaking.reporting.live import day, interval, state


def markdown_report(summary: dict[str, Any]) -> str:
    """The short version, as the KFP UI shows it: outcome, reasons, metrics or drifted columns."""
    lines = [f"# {for_markdown(headline(summary))}", ""]
    if summary.get("reasons"):
        lines += [*(f"- {for_markdown(reason)}" for reason in summary["reasons"]), ""]
    if told := warnings(summary):
        lines += [*(f"- Warning: {for_markdown(warning)}" for warning in told), ""]
    rows, models = metric_rows(summary), list(models_of(summary))
    if rows:
        both = len(models) == 2
        header = ["metric", *models, *(["difference", ""] if both else [])]
        lines += [_row(header), _row(["---", *["---:"] * (len(header) - 1)])]
        for row in rows:
            cells = [row.label, *(number_text(getattr(row, model)) for model in models)]
            lines.append(_row([*cells, *([signed_text(row.difference), row.mark] if both else [])]))
    drift = drift_of(summary)
    if drift and drift.get("columns"):
        lines += [
            _row(["column", "kind", "distance", "threshold", "drifted"]),
            "| --- | --- | ---: | ---: | --- |",
        ]
        for column in drift["columns"]:
            cells = [
                visible(column["column"]),
                column["kind"],
                number_text(column["statistic"]),
                number_text(column["threshold"]),
            ]
            lines.append(_row([*map(for_markdown, cells), "**yes**" if column["drifted"] else "no"]))
    if live := summary.get("live"):
        lines += [_row(["from", "pairs", "outcomes", "average precision", "estimated"])]
        lines += [_row(["---", "---:", "---", "---:", "---:"])]
        for window in live["recent"]:
            numbers = window["metrics"]["average_precision"]
            value = interval(numbers) or "-"
            value = value if window["measured"] or value == "-" else f"({value})"
            estimate = interval(numbers, "estimate")
            cells = [day(window), f"{window['rows']:,}", state(window), value, f"~ {estimate}" if estimate else "-"]
            lines.append(_row([*map(for_markdown, cells)]))
        lines += ["", *(f"- {for_markdown(line)}" for line in data_lines(summary))]
    for label, value in (summary.get("experiment") or {}).get("results") or []:
        lines.append(f"- {for_markdown(label)}: {for_markdown(value)}")
    lines += ["", *(f"- {label}: {for_markdown(value)}" for label, value in provenance_of(summary))]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
