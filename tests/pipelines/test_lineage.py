"""What a growing dataset does to the comparison, through the pipelines: held-out pairs that nobody was trained on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from matchmaking.data.sample import generate
from matchmaking.model import production
from matchmaking.model.lineage import pair_keys, read_lineage

Mlops = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("--algorithm", "dense", "--epochs", 2)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """1,500 pairs, and the 2,200 that they grow to."""
    folder = tmp_path_factory.mktemp("data")
    pairs = generate(2_200, seed=7)
    pairs.head(1_500).to_csv(folder / "old.csv", index=False)
    pairs.sample(frac=1, random_state=0).to_csv(folder / "grown.csv", index=False)
    return folder / "old.csv", folder / "grown.csv"


def run_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_model_from_elsewhere_is_assumed_to_know_one_dataset(
    mlops: Mlops, incumbent: Path, datasets: tuple[Path, Path], tmp_path: Path
) -> None:
    old, grown = datasets
    options = ("--production", incumbent, "--work-dir", tmp_path)
    # a run that came to nothing has assumed nothing
    (tmp_path / "bad.csv").write_text(old.read_text().replace("match", "matched", 1))
    assert mlops("run", "evaluate", "--data", tmp_path / "bad.csv", *options).returncode == 2
    found = run_of(mlops("run", "retrain", "--data", old, *options, *QUICK, "--json"))
    split = found["split"]
    assert (split["asked"], split["rule"], split["test_rows"], split["left_out"]) == ("auto", "stratified", 300, 0)
    (note,) = split["notes"]
    assert note.startswith("production's model doesn't say which pairs trained it")
    assert f"the split: {note}" in found["reasons"]
    (folder,) = (tmp_path / "runs").glob("retrain_*")
    assert json.loads((folder / "decision.json").read_text())["split"] == split
    assert "300 held out by the stratified split, 1,200 to train on." in (folder / "report.txt").read_text()

    # of a later version the same can't be true
    refused = mlops("run", "evaluate", "--data", grown, *options)
    assert refused.returncode == 3
    assert f"The run {folder.name} took them" in refused.stderr and "--production-data" in refused.stderr
    told = run_of(mlops("run", "evaluate", "--data", grown, *options, "--production-data", old, "--json"))
    assert told["split"]["rule"] == "production's" and told["split"]["left_out"] == 0
    # monitor holds nothing out, and needs to know nothing
    assert run_of(mlops("run", "monitor", "--data", grown, *options, "--json"))["split"] is None


def test_a_model_that_was_trained_here_knows(mlops: Mlops, datasets: tuple[Path, Path], tmp_path: Path) -> None:
    """A first model is put in place; then the dataset grows, and the next candidate is judged on what neither saw."""
    old, grown = datasets
    served = tmp_path / "production"
    options = ("--production", served, "--work-dir", tmp_path)
    done = mlops("bootstrap", "--data", old, *options, "--algorithm", "dense")
    assert done.returncode == 0, done.stderr
    known = read_lineage(served / production.MODEL)
    assert known is not None and known.split == "hash"
    package = next((tmp_path / "candidates").iterdir())
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["split"]["train_rows"] == known.train_rows
    assert manifest["dataset_version"] == known.dataset_version

    found = run_of(mlops("run", "retrain", "--data", grown, *options, *QUICK, "--json"))
    assert found["split"]["rule"] == "production's"
    assert found["split"]["notes"] == [] and not [each for each in found["reasons"] if "the split" in each]
    (run,) = [path for path in (tmp_path / "runs").glob("retrain_*") if path.name == found["run_name"]]
    (test,) = (pd.read_parquet(path) for path in run.glob("steps/*/split/test"))
    (candidate,) = (read_lineage(path) for path in run.glob(f"steps/*/train/candidate/{production.MODEL}"))
    assert candidate is not None
    assert len(test) == found["split"]["test_rows"] > 350
    for lineage in (known, candidate):
        assert lineage.held_out(pair_keys(test)).all()
