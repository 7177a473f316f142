"""What the tests of submitted runs share: the tasks of each pipeline, a summary, the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlops.kubeflow.kfp_api import Server
from mlops.kubeflow.submit import start, upload

TASKS = {
    "retrain": ["ingest", "validate", "split", "train", "evaluate", "compare", "report"],
    "evaluate-parts": ["plan", "shard", "merge", "report"],
    "sweep": ["ingest", "validate", "split", "trial", "choose", "train", "evaluate", "compare", "report"],
    "evaluate": ["ingest", "validate", "split", "evaluate", "report"],
    "monitor-parts": ["divide", "draw", "pool", "score", "drift", "report"],
    "monitor": ["ingest", "ingest-2", "validate", "validate-2", "score", "drift", "report"],
    "observe": ["collect", "observe", "report"],
    "experiment": ["gather", "experiment", "report"],
    "promote": ["check", "promote"],
}
METRICS = {
    name: value
    for name, value in zip(
        ("accuracy", "precision", "recall", "f1", "roc_auc", "average_precision", "brier", "log_loss", "ece"),
        (0.95, 0.72, 0.88, 0.79, 0.965, 0.81, 0.046, 0.15, 0.02),
        strict=True,
    )
}
SUMMARY = {
    "pipeline": "retrain",
    "run_name": "retrain_20260101T000000Z",
    "run_id": "0123456789abcdef",
    "status": "succeeded",
    "seed": 7,
    "metrics": {"production": METRICS, "candidate": {**METRICS, "recall": 0.9}},
    "verdict": "promote",
    "reasons": [],
    "drift": None,
    "drifted_columns": None,
    "candidate_uri": "s3://candidates/v20260101T000000Z",
    "production_sha256": {"before": {}, "after": {}},
    "error": None,
}


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Here = Callable[..., Done]


def submitted(server: Server, **kwargs: Any) -> Any:
    arguments = {"data": "s3://datasets/pairs.csv", "production": "s3://production"}
    return start(server, upload(server, "evaluate"), arguments, **kwargs)
