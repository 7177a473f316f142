"""A run's parameters and numbers as MLflow has them, for a page over many runs."""

from __future__ import annotations

from typing import Any

from matchmaking.evidence.metrics import SCALARS
from matchmaking.model import production


def run_params(summary: dict[str, Any], decision: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a run was done with, as MLflow's parameters."""
    recipe = (summary["training"] or {}).get("recipe", {})
    return {
        "dataset_version": summary["dataset_version"],
        "code_version": summary["code_version"],
        # which model served while the run went on: a page over runs tells production's reigns by it
        "production_model": (summary["production_sha256"]["before"] or {}).get(production.MODEL),
        "primary_metric": ((decision or {}).get("primary") or {}).get("metric"),
        # as they were run, not as they were asked for
        **{name: recipe.get(name) for name in ("epochs", "batch_size", "learning_rate")},
        "logit_shift": (summary["training"] or {}).get("logit_shift"),
        "self_comparison": (summary["drift"] or {}).get("self_comparison"),
    }


def run_scalars(summary: dict[str, Any], decision: dict[str, Any] | None = None) -> dict[str, float]:
    """The numbers of a run as MLflow's metrics, so that many runs can be drawn without opening the artifacts of one.

    Beside the models' metrics: of the data `rows`, `match_rate`, `unseen_categories` and `unseen_share` (of the rows of
    the worst column); `seconds_<step>`; of a comparison `difference_<metric>` with `_low`, `_high` and `_margin`
    (positive is better; the margin is what it must gain, of the primary metric, or may lose at most); of drift
    `drift_<column>`, `drift_threshold_<column>` and `drifted_<column>` (0 or 1).
    """
    scalars = {
        f"{model}_{metric}": summary["metrics"][model][metric]
        for model in ("production", "candidate")
        if summary["metrics"][model]
        for metric in SCALARS
        if summary["metrics"][model][metric] is not None
    }
    if data := summary["data"]:
        unseen = [counts.values() for counts in (data.get("unseen") or {}).values()]
        scalars["rows"] = float(data["rows"])
        scalars["match_rate"] = data["positives"] / data["rows"] if data["rows"] else 0.0
        scalars["unseen_categories"] = float(sum(map(len, unseen)))
        scalars["unseen_share"] = max(map(sum, unseen), default=0) / max(data["rows"], 1)
    for step in summary["steps"]:
        scalars[f"seconds_{step['step']}"] = step["wall_seconds"]
    for test in _overall_tests(decision or {}):
        name = f"difference_{test['metric']}"
        scalars[name] = test["improvement"]
        scalars[f"{name}_low"], scalars[f"{name}_high"] = test["ci"]
        scalars[f"{name}_margin"] = test["margin"]
    if drift := summary["drift"]:
        scalars["share_drifted"] = drift["share_drifted"]
        scalars["drifted"] = float(drift["drifted"])
        for column in drift.get("columns") or []:
            scalars[f"drifted_{column['column']}"] = float(column["drifted"])
            for key, name in (("statistic", "drift_"), ("threshold", "drift_threshold_")):
                if column[key] is not None:
                    scalars[f"{name}{column['column']}"] = column[key]
    return scalars


def _overall_tests(decision: dict[str, Any]) -> list[dict[str, Any]]:
    """The tests of a decision on all held-out rows: the primary metric's and each guardrail's; none of a bootstrap."""
    primary = decision.get("primary") or {}
    if "improvement" not in primary:
        return []
    overall = [test for test in decision["guardrails"] if test["name"] in decision["policy"]["guardrails"]["margins"]]
    return [
        *({**test, "metric": test["name"]} for test in overall if test["name"] != primary["metric"]),
        {**primary, "margin": primary["min_effect"]},
    ]
