"""The end of a run: `summary.json` for programs, reports for people, the MLflow record for both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from matchmaking import production, storage
from matchmaking.errors import MlopsError
from matchmaking.metrics import SCALARS
from matchmaking.redact import redact
from matchmaking.settings import code_version

SUMMARY = "summary.json"
# what a summary holds, as docs/reference.md says it
FIELDS = {
    "pipeline": "retrain, evaluate or monitor",
    "run_name": "`<pipeline>_<UTC time>`: the name of its MLflow run",
    "run_id": "the MLflow run's",
    "status": "succeeded or failed",
    "code_version": "the commit, `-dirty` with local changes, or the package's version",
    "dataset_version": "md5 of the dataset, as DVC computes it; null where there was none to read",
    "seed": "of training and bootstrap",
    "data": "`rows`, `positives`, `extra_columns`, `unseen` (categories by column, with counts), `duplicates`",
    "metrics": "`production` and `candidate`, each null or `rows`, `positives`, the nine metrics and `confusion`",
    "verdict": "promote, hold, reject or bootstrap; null but for retrain",
    "reasons": "of the verdict, one sentence each",
    "drift": "null but for monitor; `drifted`, `share_drifted`, `self_comparison`, `columns` with each one's test",
    "drifted_columns": "the names alone; null but for monitor",
    "training": "null but for retrain; `recipe`, `operating_point` (0..1), `logit_shift` (in the output bias)",
    "candidate_uri": "where the package is; null where there is none",
    "production_sha256": "`before` and `after`: sha256 by file name",
    "error": "null, or `step`, `message` and `exit_code`",
    "steps": "`step`, `wall_seconds`, `import_seconds` and `peak_mb` of each",
}


class ProductionChangedError(MlopsError):
    """Production's files are not what they were when the run began."""


def write_reports(
    folder: Path,
    *,
    run_id: str,
    pipeline: str,
    timestamp: str,
    seed: int,
    production_uri: str,
    production_before: dict[str, str],
    dataset_version: str,
    candidate_uri: str,
    steps: list[dict[str, Any]],
    data_report: Path,
    evaluation: Path | None,
    decision: Path | None,
    candidate: Path | None,
    drift: Path | None,
    drift_page: Path | None,
    page: Path,
    short: Path,
) -> dict[str, Any]:
    """Writes everything a run leaves behind into one folder, and records it in MLflow.

    Args:
        folder: becomes the folder: `summary.json`, `report.html`, `report.txt`, `plots/`, and the JSON files of the
            steps.
        run_id, pipeline, timestamp, seed: the run.
        production_uri: production, read once more for its hashes.
        production_before: its hashes when the run began.
        dataset_version: md5 of the dataset.
        candidate_uri: the package; empty for none.
        steps: what the steps before this one cost.
        data_report, evaluation, decision, drift: JSON files of the steps that ran.
        candidate: the candidate's bundle.
        drift_page: Evidently's report.
        page, short: files for the HTML and the Markdown that KFP shows.

    Returns:
        The summary.

    Raises:
        ProductionChangedError: production's files changed while the run went on.
        TrackingError: MLflow cannot be reached.
    """
    from matchmaking import plots, report, tracking
    from matchmaking.model import TRAINING_RECORD
    from matchmaking.steps import own_cost

    folder.mkdir(parents=True, exist_ok=True)
    found = {
        name: json.loads(path.read_text()) if path else None
        for name, path in (
            ("data", data_report),
            ("evaluation", evaluation),
            ("decision", decision),
            ("drift", drift),
        )
    }
    training = json.loads((candidate / TRAINING_RECORD).read_text()) if candidate else None
    after = storage.hash_bundle(production_uri, production.FILES) if production_uri else {}
    if after != production_before:
        raise ProductionChangedError(
            f"{redact(production_uri)} changed while the run went on: its results describe a model that isn't served "
            "any more; run it again"
        )
    scores = found["evaluation"] or {}
    summary: dict[str, Any] = {
        "pipeline": pipeline,
        "run_name": f"{pipeline}_{timestamp}",
        "run_id": run_id,
        "status": "succeeded",
        "code_version": code_version(),
        "dataset_version": dataset_version,
        "seed": seed,
        "data": found["data"],
        "metrics": {name: _flat(scores.get(name)) for name in ("production", "candidate")},
        "verdict": (found["decision"] or {}).get("verdict"),
        "reasons": (found["decision"] or {}).get("reasons", []),
        "drift": found["drift"],
        "drifted_columns": (found["drift"] or {}).get("drifted_columns"),
        "training": {key: training[key] for key in ("recipe", "operating_point", "logit_shift")} if training else None,
        "candidate_uri": candidate_uri or None,
        "production_sha256": {"before": production_before, "after": after},
        "error": None,
        "steps": steps,
    }
    history = training["history"] if training else None
    drawn = plots.save_plots(scores, folder / "plots", history) if evaluation else []
    if drift_page:
        shutil.copyfile(drift_page, folder / "drift.html")
    for name, content in found.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    html = report.html_report(summary, found["evaluation"], _explained(found["decision"]), drawn)
    (folder / "report.html").write_text(html)
    (folder / "report.txt").write_text(report.text_report(summary, found["evaluation"]))
    page.write_text(html)
    short.write_text(report.markdown_report(summary))
    tracking.finish_run(
        run_id,
        params=_params(summary),
        metrics=_scalars(summary),
        history=history,
        tags={
            "verdict": summary["verdict"] or "",
            "candidate_uri": redact(candidate_uri),
            "code_version": code_version(),
            "dataset_version": dataset_version,
        },
        artifacts=folder,
    )
    summary["steps"] = [*steps, own_cost("report")]
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    _tell(summary, found["decision"])
    return summary


def _tell(summary: dict[str, Any], decision: dict[str, Any] | None) -> None:
    """Notifies people of what came of a run, where it is news."""
    from matchmaking import notify, report, tracking

    if not notify.configured():
        return
    lines = [report.headline(summary), *summary["reasons"], *tracking.links(summary["run_id"])]
    if summary["candidate_uri"]:
        lines.append(f"candidate {summary['candidate_uri']}")
    if summary["verdict"] in ("promote", "bootstrap"):
        notify.send("improved", f"{summary['run_name']}: an improved candidate", "\n".join(lines))
    if decision and not decision.get("contract", {"passed": True})["passed"]:
        notify.send("rejected", f"{summary['run_name']}: production could not serve the candidate", "\n".join(lines))
    if summary["drift"] and summary["drift"]["drifted"]:
        notify.send("drift", f"{summary['run_name']}: the data has drifted", "\n".join(lines))


def _explained(decision: dict[str, Any] | None) -> str | None:
    if decision is None:
        return None
    from matchmaking.decision import explain

    return explain(decision)


def _flat(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """The metrics without the breakdown by slice, which is in evaluation.json."""
    return {key: value for key, value in metrics.items() if key != "slices"} if metrics else None


def _params(summary: dict[str, Any]) -> dict[str, Any]:
    recipe = (summary["training"] or {}).get("recipe", {})
    return {
        "dataset_version": summary["dataset_version"],
        "code_version": summary["code_version"],
        # as they were run, not as they were asked for
        **{name: recipe.get(name) for name in ("epochs", "batch_size", "learning_rate")},
        "logit_shift": (summary["training"] or {}).get("logit_shift"),
    }


def _scalars(summary: dict[str, Any]) -> dict[str, float]:
    scalars = {
        f"{model}_{metric}": summary["metrics"][model][metric]
        for model in ("production", "candidate")
        if summary["metrics"][model]
        for metric in SCALARS
        if summary["metrics"][model][metric] is not None
    }
    if summary["drift"]:
        scalars["share_drifted"] = summary["drift"]["share_drifted"]
        scalars["drifted"] = float(summary["drift"]["drifted"])
    return scalars
