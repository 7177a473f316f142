"""The numbers and curves of a run at a place that stays the same, for `dvc metrics` and `dvc plots`.

Nothing here depends on when or where a run took place: the same data, code and seed write the same bytes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matchmaking.base.errors import cannot_write

# by the name in evaluation.json: the columns of `<model>_<name>.csv`
CURVES = {
    "roc": ("false_positive_rate", "true_positive_rate"),
    "pr": ("recall", "precision"),
    "calibration": ("predicted", "observed", "pairs"),
}


def write_results(run_folder: Path, out: Path) -> None:
    """Writes `metrics.json`, and CSV files of what the run has: each model's curves, the training, the drift.

    Args:
        run_folder: the folder of a run that succeeded.
        out: the folder to write to; made where it isn't.

    Raises:
        InputError: it can't be written.
    """
    summary = json.loads((run_folder / "summary.json").read_text())
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps(_metrics(summary), indent=1) + "\n")
        evaluation = run_folder / "evaluation.json"
        if evaluation.exists():
            curves = json.loads(evaluation.read_text())["curves"]
            for model in curves:
                for name, columns in CURVES.items():
                    _write_csv(out / f"{model}_{name}.csv", columns, curves[model][name])
        # KFP keeps a step's files by the job; there is one of each in a local run
        for record in run_folder.glob("steps/*/train/candidate/training.json"):
            history = json.loads(record.read_text())["history"]
            epochs = len(next(iter(history.values()), []))
            rows = ([epoch + 1, *(values[epoch] for values in history.values())] for epoch in range(epochs))
            _write_csv(out / "training.csv", ("epoch", *history), rows)
        if drift := summary["drift"]:
            found = ([row["column"], row["statistic"], row["threshold"]] for row in drift["columns"])
            _write_csv(out / "drift.csv", ("column", "distance", "threshold"), found)
    except OSError as error:
        raise cannot_write(f"--out {out}", error) from error


def _metrics(summary: dict[str, Any]) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        model: {name: value for name, value in found.items() if name != "confusion"}
        for model, found in summary["metrics"].items()
        if found
    }
    if summary["verdict"]:
        metrics["verdict"] = summary["verdict"]
    if drift := summary["drift"]:
        metrics["drifted"] = drift["drifted"]
        metrics["share_drifted"] = drift["share_drifted"]
        metrics["distance"] = {row["column"]: row["statistic"] for row in drift["columns"]}
    return metrics


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
