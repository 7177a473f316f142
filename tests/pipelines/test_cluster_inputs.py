"""The pipelines' steps as they are compiled, on inputs as they come in a cluster: neither is what kfp.local has.

KFP's launcher reads the artifacts back from its metadata store (backend/src/v2/metadata/converter.go and client.go of
2.17.0): they have lost their type, a list or dict in their metadata comes as a struct of one field, a bool as a number,
and nothing comes of an empty folder. What runs is the image's component of the step's name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.data.sample import generate_file
from matchmaking.tracking.step import costs_of
from mlops.local import steps as local_steps
from mlops.local.run import run_pipeline
from tests.compiled_steps import as_compiled
from tests.experiment_fixtures import DEFINITION, UNTIL, record_earlier, write_logs


def stored(value: Any) -> Any:
    """What the metadata store gives back of a value."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, list):
        return {"list": value}
    if isinstance(value, dict):
        return {"struct": value}
    assert isinstance(value, str), f"the metadata store takes no {type(value).__name__}"
    return value


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Makes steps get what they would in a cluster; what they got."""
    from kfp.local import executor_input_utils

    plain: Callable[..., dict[str, Any]] = executor_input_utils.executor_input_to_dict
    given = []

    def as_in_a_cluster(*args: Any, **kwargs: Any) -> dict[str, Any]:
        found = plain(*args, **kwargs)
        for artifacts in found.get("inputs", {}).get("artifacts", {}).values():
            for artifact in artifacts["artifacts"]:
                artifact["type"] = {"instanceSchema": ""}
                artifact["metadata"] = {name: stored(value) for name, value in artifact.get("metadata", {}).items()}
                path = Path(artifact["uri"])
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
                given.append(artifact)
        return found

    monkeypatch.setattr(executor_input_utils, "executor_input_to_dict", as_in_a_cluster)
    return given


def steps_as_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Makes steps run as they are compiled; the commands of those that ran."""
    run_step = local_steps._run_step
    commands: list[list[str]] = []

    def run_compiled(watcher: Any, scratch: str, nursery: None, full_command: list[str], env_vars: Any = None) -> int:
        commands.append(as_compiled(name, full_command))
        here = [sys.executable, *commands[-1][1:]]
        return run_step(watcher, scratch, nursery, here, env_vars)

    monkeypatch.setattr(local_steps, "_run_step", run_compiled)
    return commands


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("retrain", {"algorithm": "dense", "epochs": 1}),
        # its steps beside the trials are those of a retraining
        ("sweep", {"trials": 2, "epochs": 1, "production": ""}),
        ("monitor", {}),
    ],
    ids=["retrain", "sweep and bootstrap", "monitor"],
)
def test_every_step_takes_them(
    seen: list[dict[str, Any]],
    name: str,
    arguments: dict[str, Any],
    incumbent: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = steps_as_compiled(name, monkeypatch)
    # a run sets it for its steps
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}")
    generate_file(tmp_path / "pairs.csv", 2_400, seed=1)
    places = {"candidates": str(tmp_path / "candidates")} if name != "monitor" else {}
    common = {"data": str(tmp_path / "pairs.csv"), "production": str(incumbent), **places}
    outcome = run_pipeline(name, {**common, **arguments}, tmp_path / "work")
    log = (outcome.folder / "run.log").read_text()
    assert outcome.exit_code == 0, log
    steps = [command[4] for command in commands]
    assert {tuple(command[:4]) for command in commands} == {("python3", "-P", "-m", "components.run")}
    assert len(steps) == {"retrain": 7, "sweep": 12, "monitor": 7}[name] and {"ingest", "validate", "report"} < {*steps}
    # each step's cost has come through the metadata of the artifacts
    told = {step["step"] for step in outcome.summary["steps"]}
    assert {"ingest", "validate"} <= told
    modelled = {"train", "evaluate", "compare"}
    assert told >= {"retrain": modelled, "sweep": modelled | {"trial", "choose"}, "monitor": {"score", "drift"}}[name]
    assert seen
    assert all(artifact["type"] == {"instanceSchema": ""} for artifact in seen)
    assert any(costs_of(artifact["metadata"]) for artifact in seen)


def test_an_experiment_takes_them(seen: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = steps_as_compiled("experiment", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}")
    (tmp_path / "work").mkdir()
    tracking.client.cache_clear()
    record_earlier(DEFINITION)
    write_logs(tmp_path, 0.12)
    given = {"exposures": str(tmp_path / "exposures"), "outcomes": str(tmp_path / "outcomes.csv"), "until": UNTIL}
    outcome = run_pipeline("experiment", given, tmp_path / "work")
    assert outcome.exit_code == 0, (outcome.folder / "run.log").read_text()
    assert [command[:5] for command in commands] == [
        ["python3", "-P", "-m", "components.run", step] for step in ("gather", "experiment", "report")
    ]
    assert outcome.summary["experiment"]["verdict"] == "better"
    assert [step["step"] for step in outcome.summary["steps"]] == ["gather", "experiment", "report"]
    assert seen and all(artifact["type"] == {"instanceSchema": ""} for artifact in seen)
    tracking.client.cache_clear()
