"""A sweep, really run: kfp.local with its loop, a process a step, on generated data."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from matchmaking.data.sample import generate
from matchmaking.model.sweep.propose import propose
from pipelines.compile import compile_pipeline

Mlops = Callable[..., subprocess.CompletedProcess[str]]


def test_only_the_evaluation_reads_held_out_pairs() -> None:
    spec = next(yaml.safe_load_all(compile_pipeline("sweep")))
    read: dict[str, set[str]] = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        for source in task.get("inputs", {}).get("artifacts", {}).values():
            found = source["taskOutputArtifact"]
            read.setdefault(f"{found['producerTask']}/{found['outputArtifactKey']}", set()).add(name)
    assert read["split/test"] == {"evaluate"}
    assert read["split/train"] == {"for-loop-2", "train"}
    assert {name for place, names in read.items() if place in ("validate/pairs", "ingest/raw") for name in names} == {
        "validate",
        "split",
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "pairs.csv"
    generate(1_000, seed=1).to_csv(path, index=False)
    return path


def test_the_chosen_recipe_trains_the_candidate_and_all_trials_are_told(
    mlops: Mlops, small: Path, incumbent: Path, tmp_path: Path
) -> None:
    options = ("--trials", 2, "--epochs", 1, "--seed", 3, "--work-dir", tmp_path, "--json")
    done = mlops("run", "sweep", "--data", small, "--production", incumbent, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == "succeeded" and found["pipeline"] == "sweep"
    assert found["verdict"] in ("promote", "hold", "reject")
    proposed = propose(2, seed=3, epochs=1)
    sweep = found["training"]["sweep"]
    assert [one["number"] for one in sweep["trials"]] == [0, 1]
    default, chosen = sweep["trials"][0], sweep["trials"][sweep["chosen"]]
    assert default["changes"] == "" and chosen["log_loss"] <= default["log_loss"]
    trained = found["training"]["recipe"]
    for name in ("seed", "epochs", "learning_rate", "members", "embedding", "dropout", "weight_decay"):
        assert trained[name] == getattr(proposed[sweep["chosen"]], name), name
    costs = {step["step"]: step for step in found["steps"]}
    assert {"trial", "choose", "train", "evaluate"} <= costs.keys()
    # the loop's steps together, each of which may keep every core busy
    trained_for = sum(one["cpu_seconds"] for one in sweep["trials"]) / (os.cpu_count() or 1)
    assert costs["trial"]["wall_seconds"] >= trained_for * 0.5
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    points = {
        name: {point.step: point.value for point in client.get_metric_history(found["run_id"], f"trial_{name}")}
        for name in ("log_loss", "average_precision", "roc_auc", "cpu_seconds")
    }
    assert points == {name: {one["number"]: one[name] for one in sweep["trials"]} for name in points}
    assert client.get_run(found["run_id"]).data.params["trial_chosen"] == str(sweep["chosen"])
    (folder,) = (tmp_path / "runs").glob("sweep_*")
    page = (folder / "report.html").read_text()
    assert "Recipes that were tried" in page and sweep["trials"][1]["changes"] in page and sweep["why"] in page


def test_too_few_matches_end_it_in_one_line(mlops: Mlops, incumbent: Path, tmp_path: Path) -> None:
    pairs = generate(600, seed=1)
    few = pairs.drop(pairs.index[pairs["match"] == 1][20:])
    few.to_csv(tmp_path / "few.csv", index=False)
    done = mlops("run", "sweep", "--data", tmp_path / "few.csv", "--production", incumbent, "--work-dir", tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "sweep failed in step trial: a sweep needs 20 matches and 20 others among the training pairs" in said
    assert "Traceback" not in done.stderr + done.stdout


def test_an_option_of_another_pipeline_is_refused(mlops: Mlops, small: Path) -> None:
    for options, said in (
        (("retrain", "--trials", 4), "--trials is for sweep; retrain would take no notice of it"),
        (("sweep", "--batch-size", 64), "--batch-size is for retrain; sweep would take no notice of it"),
    ):
        done: Any = mlops("run", options[0], "--data", small, *options[1:])
        assert done.returncode == 2 and said in " ".join(done.stderr.split())
