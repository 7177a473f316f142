"""What is known about the real data and the real production model. Skipped, and said so, where they aren't at hand."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matchmaking.model import production

# as the production team's own tracking recorded them
PRODUCTION = {
    "accuracy": 0.9466666666666667,
    "precision": 0.7205882352941176,
    "recall": 0.8812949640287769,
    "f1": 0.7928802588996764,
    "roc_auc": 0.9655374663511415,
}


@pytest.fixture(scope="module")
def read_only(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the real folder that nobody may write to (root may: there, the hashes must show that nobody did)."""
    folder = tmp_path_factory.mktemp("real") / "legalaid"
    shutil.copytree(real, folder, copy_function=shutil.copyfile)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    return folder


Mlops = Callable[..., subprocess.CompletedProcess[str]]


def test_evaluate_reproduces_production_s_metrics(mlops: Mlops, read_only: Path, tmp_path: Path) -> None:
    before = production.hashes(read_only)
    data = read_only / "matchmaking_dataset.csv"
    done = mlops("run", "evaluate", "--data", data, "--production", read_only, "--work-dir", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, value in PRODUCTION.items():
        assert found["metrics"]["production"][name] == pytest.approx(value, abs=1e-6)
    assert found["metrics"]["production"]["brier"] == pytest.approx(0.0461, abs=5e-5)
    assert found["metrics"]["production"]["average_precision"] == pytest.approx(0.8142, abs=5e-5)
    assert found["production_sha256"] == {"before": before, "after": before}
    assert production.hashes(read_only) == before


@pytest.fixture(scope="module")
def retrained(mlops: Mlops, read_only: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A retraining with the defaults: its work folder and its summary."""
    work = tmp_path_factory.mktemp("retrained")
    data = read_only / "matchmaking_dataset.csv"
    done = mlops("run", "retrain", "--data", data, "--production", read_only, "--work-dir", work, "--json")
    assert done.returncode == 0, done.stderr
    return work, json.loads(done.stdout)


def test_the_default_candidate_beats_production_on_all_five(
    retrained: tuple[Path, dict[str, Any]], read_only: Path
) -> None:
    _, found = retrained
    candidate = found["metrics"]["candidate"]
    assert all(candidate[name] > value for name, value in PRODUCTION.items()), candidate
    assert candidate["roc_auc"] >= 0.977
    assert candidate["brier"] <= 0.035
    assert found["verdict"] == "promote"
    assert production.hashes(read_only) == found["production_sha256"]["after"]


def test_verdicts_on_the_real_rows(real: Path) -> None:
    """Production against itself is held; better accuracy bought with clearly worse recall is rejected, by name."""
    import numpy as np

    from matchmaking.data.read import read_pairs
    from matchmaking.data.schema import SLICES
    from matchmaking.evidence.compare import decide
    from matchmaking.evidence.metrics import evaluate
    from matchmaking.evidence.policy import load_policy
    from matchmaking.inputs.split import split
    from matchmaking.model.score import score

    pairs, _ = read_pairs(real / "matchmaking_dataset.csv")
    _, test = split(pairs, "stratified")
    scores = test[["match", *SLICES]].assign(production=score(test, real))
    p = np.clip(scores["production"], 1e-6, 1 - 1e-6)
    itself = decide(scores.assign(candidate=scores["production"]), load_policy())
    assert itself["verdict"] == "hold"
    timid = scores.assign(candidate=1 / (1 + np.exp(-(np.log(p / (1 - p)) - 1.8))))
    found = {name: evaluate(test["match"].to_numpy(), timid[name].to_numpy()) for name in ("production", "candidate")}
    assert found["candidate"]["accuracy"] > found["production"]["accuracy"]
    assert found["candidate"]["recall"] < found["production"]["recall"] - 0.05
    rejected = decide(timid, load_policy())
    assert rejected["verdict"] == "reject"
    assert any("recall" in reason for reason in rejected["reasons"])


def test_promote_then_rollback_on_a_copy(
    mlops: Mlops, real: Path, retrained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The candidate of a retraining goes into production, and production comes back byte for byte."""
    served = tmp_path / "production"
    served.mkdir()
    for name in production.FILES:
        shutil.copyfile(real / name, served / name)
    before = production.hashes(served)
    work_dir, found = retrained
    work = ("--work-dir", work_dir)
    package = found["candidate_uri"]
    assert mlops("promote", "--production", served, "--yes", *work).returncode == 0
    assert production.hashes(served) == production.hashes(Path(package)) != before
    assert mlops("rollback", "--production", served, "--yes", *work).returncode == 0
    assert production.hashes(served) == before
    assert production.hashes(real) == before
