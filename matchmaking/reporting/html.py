"""The report as one HTML page, which needs nothing beside it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from matchmaking.base.escape import for_terminal
from matchmaking.evidence.metrics import LOWER_IS_BETTER
from matchmaking.reporting.contents import (
    FEW_POSITIVES,
    LABELS,
    MOST_SLICES,
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
from matchmaking.reporting.live import SHOWN as LIVE_METRICS
from matchmaking.reporting.live import UNSEEN, day, interval, past_lines, state


def html_report(
    summary: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
    decision_markdown: str | None = None,
    plots: list[Path] | None = None,
) -> str:
    """One self-contained HTML page: no scripts, no links, the images inside; light, dark and print.

    Args:
        summary: what `summary.json` holds.
        evaluation: what `evaluation.json` holds; brings the slices.
        decision_markdown: the decision as Markdown; HTML, links and images in it are shown as text.
        plots: PNG files to show, in this order.
    """
    models = models_of(summary, evaluation)
    return page(
        "report.html.j2",
        summary=summary,
        title=str(summary.get("run_name") or summary.get("pipeline") or "run"),
        headline=headline(summary),
        tone=_tone(summary),
        models=list(models),
        sizes=next(iter(models.values()), {}),
        metrics=metric_rows(summary, evaluation),
        lower_is_better=LOWER_IS_BETTER,
        confusion={name: model["confusion"] for name, model in models.items() if model.get("confusion")},
        slices=slice_rows(models),
        slice_metrics=[LABELS.get(name, name) for name in SLICE_METRICS],
        few_positives=FEW_POSITIVES,
        most_slices=MOST_SLICES,
        sweep=(summary.get("training") or {}).get("sweep"),
        drift=drift_of(summary),
        live=summary.get("live"),
        live_rows=[(day(w), w, state(w)) for w in summary["live"]["recent"]] if summary.get("live") else [],
        live_metrics=LIVE_METRICS,
        past=past_lines(summary["live"]) if summary.get("live") else [],
        labels=LABELS,
        unseen_by_estimates=UNSEEN,
        interval=interval,
        decision=_markdown(decision_markdown) if decision_markdown else None,
        reasons=summary.get("reasons") or [],
        plots=[(path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode()) for path in plots or []],
        data=data_lines(summary),
        provenance=provenance_of(summary),
        production_files=production_files(summary),
        production_changed=production_changed(summary),
        steps=summary.get("steps") or [],
    )


def page(template: str, **values: Any) -> str:
    """A page of `templates/`, everything in it made harmless and visible."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number_text, short=lambda value: number_text(value, 3), signed=signed_text)
    return environment.get_template(template).render(**values)


def _tone(summary: dict[str, Any]) -> str:
    if summary.get("error") or str(summary.get("status", "")).upper() == "FAILED" or production_changed(summary):
        return "bad"
    if summary.get("verdict") in ("promote", "bootstrap"):
        return "good"
    if (summary.get("live") or {}).get("firing") or (summary.get("experiment") or {}).get("served"):
        return "bad"
    return "attention" if summary.get("verdict") in ("hold", "reject") or drift_of(summary).get("drifted") else "plain"


def _seen(value: Any) -> Any:
    """What a template is given, with what can't be seen spelled out; HTML of our own making as it is."""
    from markupsafe import Markup

    return for_terminal(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _markdown(text: str) -> Any:
    """Markdown as safe HTML."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    parser = (
        MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink", "reference"])
    )
    return Markup(parser.render(text))
