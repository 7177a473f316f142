"""The workflows of GitHub Actions: what their scripts do, run here; where they would run can't be had."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from matchmaking.data.sample import generate_file
from tests.dvc_fixtures import ROOT, make_clone

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
Mlops = Callable[..., subprocess.CompletedProcess[str]]


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        yield from job["steps"]


def step(name: str) -> str:
    return next(step["run"] for step in steps(ROOT / ".github/workflows/mlops.yml") if step.get("name") == name)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_hold_no_expressions_and_actions_are_commits(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"]
        assert job["permissions"] == {"contents": "read"}
    for found in steps(path):
        assert "${{" not in found.get("run", "")
        if "uses" in found:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", found["uses"])
        if found.get("uses", "").startswith("actions/checkout@"):
            assert found["with"]["persist-credentials"] is False
        if "run" in found:
            parsed = subprocess.run(["bash", "-n"], input=found["run"], text=True, capture_output=True, check=False)
            assert parsed.returncode == 0, parsed.stderr


def test_new_data_that_has_drifted_fails_the_workflow(
    mlops: Mlops, incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = make_clone(tmp_path / "clone", rows=2_000)
    monkeypatch.chdir(clone)
    generate_file(tmp_path / "new.csv", 2_000, 6, drift="match-rate")
    assert mlops("data", "add", tmp_path / "new.csv").returncode == 0
    (clone / ".venv").mkdir()
    (clone / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    page = tmp_path / "page.md"
    env = {
        **os.environ,
        **{"DATA_REV": "", "REFERENCE_REV": "", "ROWS": "", "SEED": "0", "PRODUCTION": str(incumbent)},
        **{"POLICY": "", "OPTIONS": "", "TRIALS": ""},
        **{"GITHUB_STEP_SUMMARY": str(page), "GITHUB_ENV": str(tmp_path / "env")},
    }

    def run(name: str, **changed: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step(name)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**env, **changed})

    assert run("Data and production model", SEED="0; touch pwned").returncode == 2
    assert run("Data and production model", TRIALS="4; touch pwned").returncode == 2
    assert run("Data and production model", DATA_REV="$(touch pwned)").returncode == 2
    assert not (clone / "pwned").exists()
    done = run("Data and production model")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "work/ci/data.csv").read_bytes() == (tmp_path / "new.csv").read_bytes()
    # the version before
    assert (clone / "work/ci/reference.csv").read_bytes() != (tmp_path / "new.csv").read_bytes()
    done = run("Monitor")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Past the policy's limits: target drifted" in done.stderr
    done = run("Summary")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The data has drifted" in page.read_text()


def test_the_workflow_passes_options_and_a_policy_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / ".venv" / "bin" / "mlops"
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > called\nmkdir -p work/ci\n')
    script.chmod(0o755)
    policy = "auto_promote: true\nlimits:\n  roc_auc: 0.9"
    env = {
        **os.environ,
        **{"DATA_REV": "", "REFERENCE_REV": "", "ROWS": "10", "SEED": "0", "PRODUCTION": "s3://production"},
        **{"TRIALS": "4"},
        **{
            "POLICY": policy,
            "OPTIONS": "--split hash  --epochs 20 $(touch pwned) *",
            "GITHUB_ENV": str(tmp_path / "env"),
        },
    }

    def run(name: str, **changed: str) -> list[str]:
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step(name)]
        (tmp_path / "work" / "ci").mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / "ci" / "data.csv").touch()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**env, **changed})
        assert done.returncode == 0, done.stderr
        return (tmp_path / "called").read_text().splitlines()

    run("Data and production model")
    assert (tmp_path / "work/ci/policy.yaml").read_text() == policy + "\n"
    for name in ("Retrain", "Sweep", "Monitor", "Evaluate"):
        called = run(name)
        given = ["--policy", "work/ci/policy.yaml", "--split", "hash", "--epochs", "20", "$(touch", "pwned)", "*"]
        assert called[-len(given) :] == given
        assert "--policy" not in run(name, POLICY="", OPTIONS="")
        assert ("--trials" in called) == (name == "Sweep")
    assert not (tmp_path / "pwned").exists()
