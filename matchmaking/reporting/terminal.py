"""A run as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matchmaking.base.escape import for_rich, visible
from matchmaking.evidence.metrics import LOWER_IS_BETTER
from matchmaking.reporting.contents import drift_of, metric_rows, models_of, number_text, signed_text, warnings
from matchmaking.reporting.live import day, state

if TYPE_CHECKING:
    from rich.table import Table


def terminal_table(summary: dict[str, Any]) -> Table:
    """Production and candidate side by side on every metric, better or worse in words and in colour.

    A run without models (monitor) has a table of its columns' drift instead, `observe` one of its newest windows.
    """
    from rich.table import Table

    models = list(models_of(summary))
    if summary.get("live"):
        return _live_table(summary["live"])
    if not models:
        return _drift_table(drift_of(summary))
    table = Table(title="Held-out pairs", title_justify="left")
    table.add_column("metric")
    for model in models:
        table.add_column(model, justify="right")
    both = len(models) == 2
    if both:
        table.add_column("difference", justify="right")
        table.add_column("candidate is")
    for row in metric_rows(summary):
        label = row.label + (", lower is better" if row.name in LOWER_IS_BETTER and not both else "")
        cells = [label, *(number_text(getattr(row, model)) for model in models)]
        style = {"better": "green", "worse": "red"}.get(row.mark, "")
        if both:
            cells += [signed_text(row.difference), f"[{style}]{row.mark}[/]" if style else row.mark]
        table.add_row(*cells)
    return table


def terminal_notes(summary: dict[str, Any]) -> Table | None:
    """What stands below a run's headline: the reasons, and what somebody should look at; None for nothing."""
    from rich.table import Table

    notes = Table.grid(padding=(0, 1))
    for reason in summary.get("reasons") or []:
        notes.add_row("  -", for_rich(reason))
    for label, value in (summary.get("experiment") or {}).get("results") or []:
        notes.add_row("  -", for_rich(f"{label}: {value}"))
    for warning in warnings(summary):
        notes.add_row("  -", f"[yellow]Warning:[/] {for_rich(warning)}")
    return notes if notes.row_count else None


def _live_table(live: dict[str, Any]) -> Table:
    """The newest windows: what was measured, and beside it what was estimated before."""
    from rich.table import Table

    title = f"Production on the pairs of now, by {live['period']} (UTC)"
    table = Table(title=title, title_justify="left")
    table.add_column("from", no_wrap=True)
    table.add_column("pairs", justify="right")
    table.add_column("outcomes")
    for name in ("average precision", "estimated", "recall", "estimated"):
        table.add_column(name, justify="right")
    for window in live["recent"]:
        cells = []
        for metric in ("average_precision", "recall"):
            numbers = window["metrics"][metric]
            # what may still change stands in brackets
            value = number_text(numbers["value"], 3) if numbers["value"] is not None else "-"
            cells.append(value if window["measured"] else f"({value})" if value != "-" else value)
            cells.append(f"~{number_text(numbers['estimate'], 3)}" if numbers["estimate"] is not None else "-")
        table.add_row(day(window), f"{window['rows']:,}", state(window), *cells)
    return table


def _drift_table(drift: dict[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("column", "kind", title="Drift", title_justify="left")
    for name in ("distance", "threshold"):
        table.add_column(name, justify="right")
    table.add_column("drifted")
    for column in drift.get("columns") or []:
        numbers = (number_text(column["statistic"]), number_text(column["threshold"]))
        drifted = "[red]yes[/]" if column["drifted"] else "no"
        table.add_row(*(escape(visible(column[key])) for key in ("column", "kind")), *numbers, drifted)
    return table
