"""`mlops run --data-rev` and dvc.yaml, really run, in a small clone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from matchmaking.base.files import file_md5
from matchmaking.data.pointer import POINTER
from tests.dvc_fixtures import ROOT, commit_all, dvc, git, make_clone, pairs_file

Mlops = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_clone(tmp_path / "clone", rows=2_000)
    monkeypatch.chdir(root)
    return root


def retrain(mlops: Mlops, *args: object) -> dict[str, Any]:
    done = mlops("run", "retrain", *args, "--algorithm", "dense", "--epochs", 2, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def weights(summary: dict[str, Any]) -> list[np.ndarray]:
    import h5py

    found: list[np.ndarray] = []
    with h5py.File(Path(summary["candidate_uri"]) / "lawyer_match_model.h5") as file:
        file.visititems(lambda name, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return found


def test_an_earlier_version_gives_the_same_candidate(clone: Path, mlops: Mlops, tmp_path: Path) -> None:
    git(clone, "tag", "v1")
    first = retrain(mlops, "--data-rev", "v1")
    added = mlops("data", "add", pairs_file(tmp_path, 6, rows=2_000))
    assert added.returncode == 0, added.stderr
    again = retrain(mlops, "--data-rev", "v1")
    v1 = yaml.safe_load(git(clone, "show", f"v1:{POINTER}"))["outs"][0]["md5"]
    assert first["dataset_version"] == again["dataset_version"] == v1 != file_md5(clone / "data" / "pairs.csv")
    # bootstrapped: there is no production model, so each is packaged
    same = list(zip(weights(first), weights(again), strict=True))
    assert same and all(np.array_equal(old, new) for old, new in same)
    manifest = json.loads((Path(again["candidate_uri"]) / "manifest.json").read_text())
    assert v1 in json.dumps(manifest)

    from mlflow import MlflowClient

    run = MlflowClient(f"sqlite:///{clone / 'work' / 'mlflow.db'}").get_run(again["run_id"])
    assert run.data.params["dataset_version"] == v1
    assert run.data.tags["data_revision"] == git(clone, "rev-parse", "v1")


def test_where_the_data_comes_from_is_said_once(clone: Path, mlops: Mlops) -> None:
    for args in ((), ("--data", "x.csv", "--data-rev", "HEAD")):
        done = mlops("run", "retrain", *args)
        assert done.returncode == 2
        assert "--data-rev REVISION" in done.stderr
    done = mlops("run", "retrain", "--data-rev", "nosuch")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert not (clone / "work").exists()


def test_stages(clone: Path, mlops: Mlops, incumbent: Path) -> None:
    """`dvc repro` of two of the stages (the first test trains), their metrics and their plots."""
    for name in ("dvc.yaml", "params.yaml", ".gitignore"):
        shutil.copy(ROOT / name, clone / name)
    shutil.copytree(ROOT / "matchmaking", clone / "matchmaking", ignore=shutil.ignore_patterns("__pycache__"))
    # an incumbent that is there already: bootstrapping one has tests of its own
    bundle = clone / "results" / "production"
    shutil.copytree(incumbent, bundle)
    commit_all(clone, "stages")
    assert mlops("data", "checkout").returncode == 0
    dvc("commit", "--force", "incumbent")
    dvc("repro", "monitor")
    commit_all(clone, "results")
    # what is there already is not done again, and what a run leaves behind is not in git
    assert "Stage 'monitor' didn't change" in dvc("repro", "monitor")
    assert git(clone, "status", "--porcelain") == ""
    held = git(clone, "ls-files", "results").split()
    assert "results/monitor/metrics.json" in held
    assert not any(name.endswith((".h5", ".pkl")) for name in held)

    # another result in the place of this one
    metrics = clone / "results" / "monitor" / "metrics.json"
    found = json.loads(metrics.read_text())
    assert found["drifted"] is False and not re.search("Z|/|run", metrics.read_text())
    metrics.write_text(json.dumps({**found, "share_drifted": 0.5}))
    difference = dvc("metrics", "diff", "--md")
    assert "share_drifted" in difference and "distance" not in difference
    dvc("plots", "diff", "-o", "plots")
    assert "drift.csv" in (clone / "plots" / "index.html").read_text()
