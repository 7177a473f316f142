"""A candidate made ready to be promoted: a folder of its own, with a manifest that says what it is."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matchmaking import production, storage
from matchmaking.metrics import SCALARS
from matchmaking.model import TRAINING_RECORD
from matchmaking.settings import code_version

MANIFEST = "manifest.json"
PACKAGED = frozenset({"promote", "bootstrap"})
LIBRARIES = ("keras", "tensorflow", "tensorflow-cpu", "scikit-learn", "numpy", "pandas")


def package_candidate(
    candidate_dir: Path,
    evaluation: dict[str, Any],
    decision: dict[str, Any],
    *,
    candidates_uri: str,
    timestamp: str,
    dataset_version: str,
) -> str:
    """Publishes a candidate that improves as `<candidates_uri>/v<timestamp>`.

    Args:
        candidate_dir: the candidate's bundle with its training record.
        evaluation: what `evaluation.evaluate_models` gave.
        decision: what `decision.decide` gave; only the verdicts in `PACKAGED` are published.
        candidates_uri: where candidates are kept.
        timestamp: the run's, UTC.
        dataset_version: md5 of the dataset.

    Returns:
        The URI of the package; empty for a candidate that isn't published.

    Raises:
        InputError: the place cannot be written or the package is there already.
    """
    if decision["verdict"] not in PACKAGED:
        return ""
    training = json.loads((candidate_dir / TRAINING_RECORD).read_text())
    manifest = {
        "version": f"v{timestamp}",
        "created": timestamp,
        "verdict": decision["verdict"],
        "sha256": production.hashes(candidate_dir),
        "libraries": library_versions(),
        "saved_by_keras": production.check_model_file(candidate_dir / production.MODEL)["keras_version"],
        "code_version": code_version(),
        "dataset_version": dataset_version,
        "seed": training["recipe"]["seed"],
        "recipe": training["recipe"],
        "operating_point": {
            "probability": training["operating_point"],
            "logit_shift": training["logit_shift"],
            "meaning": "this probability was made 0.5 by adding logit_shift to the output layer's bias",
        },
        "encoders": "fitted on the training rows" if training["bootstrapped"] else "production's, byte for byte",
        "metrics": {
            name: {metric: evaluation[name][metric] for metric in SCALARS} if evaluation[name] else None
            for name in ("production", "candidate")
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        for name in production.FILES:
            storage.copy_file(candidate_dir / name, staged / name)
        (staged / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        return storage.publish(staged, f"{candidates_uri.rstrip('/')}/v{timestamp}")


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries a model depends on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
