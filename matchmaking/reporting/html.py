"""What people read about a run: plain text, one HTML page, a short Markdown note, a terminal table.

All of them are made from `summary.json`, the page also from `evaluation.json` and the plots. What comes from
a dataset or a user goes through `matchmaking.escape`; in the HTML page Jinja escapes it.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchmaking.escape import for_markdown, for_rich, for_terminal, visible
from matchmaking.metrics import LOWER_IS_BETTER, SCALARS
from matchmaking.redact import redact

if TYPE_CHECKING:
    from rich.table import Table

MODELS = ("production", "candidate")
LABELS = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "log_loss": "log loss",
    "ece": "calibration error (ECE)",
}
SLICE_METRICS = ("recall", "precision", "f1", "roc_auc")
# recall on fewer matches than this has a standard error of up to 0.5/sqrt(25) = 0.1; as in policy.yaml
FEW_POSITIVES = 25
MOST_SLICES = 30
WIDTH = 100

VERDICTS = {
    "promote": "The candidate is better than production: it is packaged and can be promoted.",
    "hold": "The candidate is not shown to be better than production: production stays.",
    "reject": "The candidate is worse than production where it must not be: production stays.",
    "bootstrap": "There was no production model to compare with: this run trained a first one.",
}
# how the reasons begin where the candidate broke the serving contract; as in decision.with_contract
NOT_SERVED = "the serving contract failed"


@dataclass(frozen=True)
class MetricRow:
    """One metric of the models of a run; `better` tells of the candidate, None where nothing can be told."""

    name: str
    label: str
    production: float | None
    candidate: float | None
    difference: float | None
    better: bool | None

    @property
    def mark(self) -> str:
        if self.difference is None:
            return ""
        return {True: "better", False: "worse", None: "same"}[self.better]


@dataclass(frozen=True)
class SliceRow:
    """One value of a slice column: its size, and for each metric the numbers of the models, in order."""

    value: str
    rows: int
    positives: int
    few: bool
    values: list[list[float | None]]


def headline(summary: dict[str, Any]) -> str:
    """The outcome of a run in one plain sentence; a second one where something else matters."""
    warning = " WARNING: production's files changed while it ran." if _changed(summary) else ""
    return _outcome(summary) + warning


def _outcome(summary: dict[str, Any]) -> str:
    pipeline = str(summary.get("pipeline") or "pipeline")
    if summary.get("error") or str(summary.get("status", "")).upper() == "FAILED":
        error = summary.get("error") or "no reason was recorded"
        why = f"in step {error['step']}: {error['message']}" if isinstance(error, dict) else str(error)
        return f"The {pipeline} run failed{' ' if why.startswith('in step') else ': '}{why.rstrip('.')}."
    if any(str(reason).startswith(NOT_SERVED) for reason in summary.get("reasons") or []):
        return "Production could not serve the candidate: production stays."
    if summary.get("verdict") in VERDICTS:
        return VERDICTS[summary["verdict"]]
    drift = _drift(summary)
    if drift:
        columns = drift.get("drifted_columns") or summary.get("drifted_columns") or []
        listed = ", ".join(map(visible, columns[:5])) + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")
        if drift.get("drifted"):
            reasons = f" ({'; '.join(drift['reasons'])})" if drift.get("reasons") else ""
            text = f"The data has drifted{reasons}: {listed}."
        elif columns:
            text = f"The data as a whole has not drifted; these columns have: {listed}."
        else:
            text = "The data has not drifted: no column is beyond its threshold."
        if drift.get("self_comparison"):
            text += " No current data was given, so two samples of the reference were compared with each other."
        return text
    metrics = _models(summary)
    if metrics:
        name, model = next(iter(metrics.items()))
        reached = f"ROC AUC {_number(model.get('roc_auc'))} and f1 {_number(model.get('f1'))}"
        return (
            f"{name.capitalize()} reaches {reached} "
            f"on {model.get('rows', 0):,} held-out pairs, {model.get('positives', 0):,} of them matches."
        )
    return f"The {pipeline} run ended: {summary.get('status') or 'no status was recorded'}."


def metric_rows(summary: dict[str, Any], evaluation: dict[str, Any] | None = None) -> list[MetricRow]:
    """Every metric of production and candidate; empty where no model was evaluated."""
    models = _models(summary, evaluation)
    rows = []
    for name in SCALARS if models else ():
        old, new = ((models.get(model) or {}).get(name) for model in MODELS)
        difference = new - old if old is not None and new is not None else None
        # what is the same in all the digits shown is not called better
        better = None if difference is None or abs(difference) < 5e-5 else (difference < 0) == (name in LOWER_IS_BETTER)
        rows.append(MetricRow(name, LABELS.get(name, name), old, new, difference, better))
    return rows


def slice_rows(models: dict[str, dict[str, Any]]) -> dict[str, list[SliceRow]]:
    """For each slice column its values, largest first, at most `MOST_SLICES` of them."""
    first = next(iter(models.values()), {})
    tables = {}
    for column in first.get("slices") or {}:
        groups = {name: (model.get("slices") or {}).get(column) or {} for name, model in models.items()}
        rows = []
        for value, group in next(iter(groups.values())).items():
            numbers = [[groups[name].get(value, {}).get(metric) for name in models] for metric in SLICE_METRICS]
            few = group["positives"] < FEW_POSITIVES
            rows.append(SliceRow(visible(value), group["rows"], group["positives"], few, numbers))
        tables[column] = sorted(rows, key=lambda row: -row.rows)[:MOST_SLICES]
    return tables


def text_report(summary: dict[str, Any], evaluation: dict[str, Any] | None = None) -> str:
    """The whole report as plain text, at most 100 columns wide, without control characters."""
    return "\n".join(_text_lines(summary, evaluation)) + "\n"


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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, short=lambda value: _number(value, 3), signed=_signed)
    models = _models(summary, evaluation)
    return environment.get_template("report.html.j2").render(
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
        drift=_drift(summary),
        decision=_markdown(decision_markdown) if decision_markdown else None,
        reasons=summary.get("reasons") or [],
        plots=[(path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode()) for path in plots or []],
        data=_data(summary),
        provenance=_provenance(summary),
        production_files=_production_files(summary),
        production_changed=_changed(summary),
        steps=summary.get("steps") or [],
    )


def markdown_report(summary: dict[str, Any]) -> str:
    """The short version, as the KFP UI shows it: outcome, reasons, metrics or drifted columns."""
    lines = [f"# {for_markdown(headline(summary))}", ""]
    if summary.get("reasons"):
        lines += [*(f"- {for_markdown(reason)}" for reason in summary["reasons"]), ""]
    if told := warnings(summary):
        lines += [*(f"- Warning: {for_markdown(warning)}" for warning in told), ""]
    rows, models = metric_rows(summary), list(_models(summary))
    if rows:
        both = len(models) == 2
        header = ["metric", *models, *(["difference", ""] if both else [])]
        lines += [_row(header), _row(["---", *["---:"] * (len(header) - 1)])]
        for row in rows:
            cells = [row.label, *(_number(getattr(row, model)) for model in models)]
            lines.append(_row([*cells, *([_signed(row.difference), row.mark] if both else [])]))
    drift = _drift(summary)
    if drift and drift.get("columns"):
        lines += [
            _row(["column", "kind", "distance", "threshold", "drifted"]),
            "| --- | --- | ---: | ---: | --- |",
        ]
        for column in drift["columns"]:
            cells = [
                visible(column["column"]),
                column["kind"],
                _number(column["statistic"]),
                _number(column["threshold"]),
            ]
            lines.append(_row([*map(for_markdown, cells), "**yes**" if column["drifted"] else "no"]))
    lines += ["", *(f"- {label}: {for_markdown(value)}" for label, value in _provenance(summary))]
    return "\n".join(lines) + "\n"


def terminal_table(summary: dict[str, Any]) -> Table:
    """Production and candidate side by side on every metric, better or worse in words and in colour.

    A run without models (monitor) has a table of its columns' drift instead.
    """
    from rich.table import Table

    models = list(_models(summary))
    if not models:
        return _drift_table(_drift(summary))
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
        cells = [label, *(_number(getattr(row, model)) for model in models)]
        style = {"better": "green", "worse": "red"}.get(row.mark, "")
        if both:
            cells += [_signed(row.difference), f"[{style}]{row.mark}[/]" if style else row.mark]
        table.add_row(*cells)
    return table


def terminal_notes(summary: dict[str, Any]) -> Table | None:
    """What stands below a run's headline: the reasons, and what somebody should look at; None for nothing."""
    from rich.table import Table

    notes = Table.grid(padding=(0, 1))
    for reason in summary.get("reasons") or []:
        notes.add_row("  -", for_rich(reason))
    for warning in warnings(summary):
        notes.add_row("  -", f"[yellow]Warning:[/] {for_rich(warning)}")
    return notes if notes.row_count else None


def _drift_table(drift: dict[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("column", "kind", title="Drift", title_justify="left")
    for name in ("distance", "threshold"):
        table.add_column(name, justify="right")
    table.add_column("drifted")
    for column in drift.get("columns") or []:
        numbers = (_number(column["statistic"]), _number(column["threshold"]))
        drifted = "[red]yes[/]" if column["drifted"] else "no"
        table.add_row(*(escape(visible(column[key])) for key in ("column", "kind")), *numbers, drifted)
    return table


# --- what the summary holds ---


def _models(summary: dict[str, Any], evaluation: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The metrics of the models that were evaluated, production first."""
    source = evaluation or summary.get("metrics") or {}
    return {name: source[name] for name in MODELS if source.get(name)}


def _drift(summary: dict[str, Any]) -> dict[str, Any]:
    """The drift result, its drifted columns first."""
    drift = summary.get("drift")
    if isinstance(drift, bool):
        return {"drifted": drift, "drifted_columns": summary.get("drifted_columns") or []}
    if not drift:
        return {}
    return {**drift, "columns": sorted(drift.get("columns") or [], key=lambda column: not column["drifted"])}


def _tone(summary: dict[str, Any]) -> str:
    if summary.get("error") or str(summary.get("status", "")).upper() == "FAILED" or _changed(summary):
        return "bad"
    if summary.get("verdict") in ("promote", "bootstrap"):
        return "good"
    return "attention" if summary.get("verdict") in ("hold", "reject") or _drift(summary).get("drifted") else "plain"


def _changed(summary: dict[str, Any]) -> bool:
    """Whether production changed during a run by anything but the run's own promotion."""
    promoted = ((summary.get("promotion") or {}).get("to") or {}).get("sha256") or {}
    return any(after not in (before, promoted.get(name, before)) for name, before, after in _production_files(summary))


def _production_files(summary: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """Each production file with its sha256 before and after the run."""
    sums = summary.get("production_sha256") or {}
    before, after = sums.get("before") or {}, sums.get("after") or {}
    return [(name, before.get(name), after.get(name)) for name in sorted({*before, *after})]


def _provenance(summary: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "run_name": "run",
        "dataset_version": "dataset version (md5)",
        "seed": "seed",
        "code_version": "code version",
        "candidate_uri": "candidate",
    }
    found = {label: summary[key] for key, label in names.items() if summary.get(key) not in (None, "")}
    return [(label, redact(str(value))) for label, value in found.items()]


def _data(summary: dict[str, Any]) -> list[str]:
    """What was noticed in the dataset (`schema.DataReport.as_dict()` in `summary["data"]`), in sentences."""
    data = summary.get("data")
    if not data:
        return []
    lines = [f"{data['rows']:,} pairs, {data['positives']:,} of them matches."]
    if split := summary.get("split"):
        how = "production's own" if split["rule"] == "production's" else f"the {split['rule']}"
        lines.append(f"{split['test_rows']:,} held out by {how} split, {split['train_rows']:,} to train on.")
        lines += [f"{note[:1].upper()}{note[1:]}." for note in split["notes"]]
    if data.get("extra_columns"):
        lines.append(f"Extra columns, ignored: {', '.join(map(visible, data['extra_columns']))}.")
    if "warnings" in data:
        return [*lines, *(f"Warning: {warning}." for warning in data["warnings"])]
    for column, counts in (data.get("unseen") or {}).items():
        listed = ", ".join(f"{visible(name)} ({rows:,})" for name, rows in list(counts.items())[:10])
        more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
        lines.append(f"{column} has categories unknown to production, which it scores as if empty: {listed}{more}.")
    if data.get("duplicates"):
        lines.append(f"{data['duplicates']:,} rows repeat an earlier one exactly.")
    return lines


def warnings(summary: dict[str, Any]) -> list[str]:
    """What somebody should look at before trusting a run, each in one sentence, but for what its reasons tell."""
    found = [f"the data: {warning}" for warning in (summary.get("data") or {}).get("warnings") or []]
    found += [f"the split: {note}" for note in (summary.get("split") or {}).get("notes") or []]
    found += [note for note in _drift(summary).get("notes") or [] if "not measured" in note or "too few" in note]
    return [warning for warning in found if warning not in (summary.get("reasons") or [])]


# --- text ---


def _text_lines(summary: dict[str, Any], evaluation: dict[str, Any] | None) -> Iterator[str]:
    title = f"LegalAid Connect matchmaking: {summary.get('pipeline') or 'pipeline'}"
    yield from _wrap(title)
    yield "=" * min(len(title), WIDTH)
    yield ""
    yield from _wrap(headline(summary))
    for reason in summary.get("reasons") or []:
        yield from _wrap(str(reason), "- ")

    models = _models(summary, evaluation)
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
            line = f"{row.label:<28}" + "".join(f"{_number(getattr(row, name)):>12}" for name in models)
            yield (line + (f"{_signed(row.difference):>12}  {row.mark}" if len(models) == 2 else "")).rstrip()
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
            numbers = "".join(f"{' / '.join(_number(v, 3) for v in pair):>{cell}}" for pair in group.values)
            name = textwrap.shorten(group.value, 17, placeholder="…") or "…"
            yield f"{name:<18}{group.rows:>8,}{group.positives:>8,}{'*' if group.few else ' '}{numbers}"
        if any(group.few for group in rows):
            yield f"* fewer than {FEW_POSITIVES} matches: too few to tell models apart"

    drift = _drift(summary)
    if drift.get("columns"):
        yield from _section("Drift by column")
        yield f"{'':<24}{'kind':<10}{'method':<16}{'distance':>10}{'threshold':>12}"
        for column in drift["columns"]:
            kind, method = visible(column["kind"]), visible(column["method"] or "-")
            line = f"{visible(column['column']):<24.23}{kind:<10}{method:<16}"
            line += f"{_number(column['statistic']):>10}{_number(column['threshold']):>12}"
            yield line + ("  DRIFTED" if column["drifted"] else "")
        for note in drift.get("notes") or []:
            yield from _wrap(str(note), "- ")

    if data := _data(summary):
        yield from _section("Data")
        for line in data:
            yield from _wrap(line)
    yield from _section("Where this comes from")
    for label, value in _provenance(summary):
        yield from _wrap(f"{label}: {value}")
    files = _production_files(summary)
    if files:
        state = "replaced by this run's promotion" if summary.get("promotion") else "unchanged (sha256)"
        yield "production files: " + ("CHANGED DURING THE RUN" if _changed(summary) else state)
        for name, before, after in files:
            yield from _wrap(f"{before or 'absent'}  {name}", "  ")
            if after != before:
                yield from _wrap(f"now {after or 'absent'}", "  ")


def _section(title: str) -> list[str]:
    return ["", *_wrap(title), "-" * min(len(title), WIDTH)]


def _wrap(text: str, bullet: str = "") -> list[str]:
    return textwrap.wrap(for_terminal(text), WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet)) or [""]


# --- numbers, Markdown ---


def _number(value: float | None, digits: int = 4) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    # + 0.0: no "-0.0000"
    return "" if value is None else f"{round(value, 4) + 0.0:+.4f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
