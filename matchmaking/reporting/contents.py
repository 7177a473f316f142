"""What the reports tell of a run, before it has a form: the headline, rows of metrics and slices, warnings.

All of it comes from `summary.json` and `evaluation.json`. What comes from a dataset or a user goes through
`base.escape` where it is given its form; in the HTML page Jinja escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matchmaking.base.escape import visible
from matchmaking.base.redact import redact
from matchmaking.evidence import MODELS
from matchmaking.evidence.metrics import LOWER_IS_BETTER, SCALARS
from matchmaking.reporting.live import finding_lines, live_headline

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
    warning = " WARNING: production's files changed while it ran." if production_changed(summary) else ""
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
    if summary.get("live"):
        firing = "; ".join(summary["live"]["firing"])
        # nobody is alerted of a series that isn't the installation's
        said = "ALERT: " if summary["live"].get("followed", True) else "By the alert rule: "
        return live_headline(summary["live"]) + (f" {said}{firing}." if firing else "")
    if summary.get("experiment"):
        return experiment_headline(summary["experiment"])
    drift = drift_of(summary)
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
    metrics = models_of(summary)
    if metrics:
        name, model = next(iter(metrics.items()))
        reached = f"ROC AUC {number_text(model.get('roc_auc'))} and f1 {number_text(model.get('f1'))}"
        return (
            f"{name.capitalize()} reaches {reached} "
            f"on {model.get('rows', 0):,} held-out pairs, {model.get('positives', 0):,} of them matches."
        )
    return f"The {pipeline} run ended: {summary.get('status') or 'no status was recorded'}."


def experiment_headline(said: dict[str, Any]) -> str:
    """What an experiment says, in `summary["experiment"]`, in a sentence or two."""
    text = str(said["headline"])
    if said.get("experiment"):
        text = f"{said['experiment']}: {text} {said['reason'][:1].upper()}{said['reason'][1:].rstrip('.')}."
    return f"{text} {said['stop']}" if said.get("stop") else text


def metric_rows(summary: dict[str, Any], evaluation: dict[str, Any] | None = None) -> list[MetricRow]:
    """Every metric of production and candidate; empty where no model was evaluated."""
    models = models_of(summary, evaluation)
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


def models_of(summary: dict[str, Any], evaluation: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The metrics of the models that were evaluated, production first."""
    source = evaluation or summary.get("metrics") or {}
    return {name: source[name] for name in MODELS if source.get(name)}


def drift_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The drift result, its drifted columns first."""
    drift = summary.get("drift")
    if isinstance(drift, bool):
        return {"drifted": drift, "drifted_columns": summary.get("drifted_columns") or []}
    if not drift:
        return {}
    return {**drift, "columns": sorted(drift.get("columns") or [], key=lambda column: not column["drifted"])}


def production_changed(summary: dict[str, Any]) -> bool:
    """Whether production changed during a run by anything but the run's own promotion."""
    promoted = ((summary.get("promotion") or {}).get("to") or {}).get("sha256") or {}
    return any(after not in (before, promoted.get(name, before)) for name, before, after in production_files(summary))


def production_files(summary: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """Each production file with its sha256 before and after the run."""
    sums = summary.get("production_sha256") or {}
    before, after = sums.get("before") or {}, sums.get("after") or {}
    return [(name, before.get(name), after.get(name)) for name in sorted({*before, *after})]


def provenance_of(summary: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "run_name": "run",
        "dataset_version": "dataset version (md5)",
        "seed": "seed",
        "code_version": "code version",
        "candidate_uri": "candidate",
    }
    found = {label: summary[key] for key, label in names.items() if summary.get(key) not in (None, "")}
    return [(label, redact(str(value))) for label, value in found.items()]


def data_lines(summary: dict[str, Any]) -> list[str]:
    """What was noticed in the dataset (`schema.DataReport.as_dict()` in `summary["data"]`), in sentences.

    Or in the logs.
    """
    if live := summary.get("live"):
        return finding_lines(live) or ["Nothing odd was found in the logs."]
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
    found += (summary.get("live") or {}).get("notes") or []
    experiment = summary.get("experiment") or {}
    found += [f"{one['code']}: {one['said']}" for one in experiment.get("checks") or [] if not one["stops"]]
    found += [f"the exposure log: {code}, {count:,}" for code, count in (experiment.get("log") or {}).items()]
    found += [note for note in drift_of(summary).get("notes") or [] if "not measured" in note or "too few" in note]
    return [warning for warning in found if warning not in (summary.get("reasons") or [])]


def number_text(value: float | None, digits: int = 4) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def signed_text(value: float | None) -> str:
    # + 0.0: no "-0.0000"
    return "" if value is None else f"{round(value, 4) + 0.0:+.4f}"
