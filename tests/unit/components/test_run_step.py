"""`components.run`: the image's components, run by KFP's executor as their sources would be."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from components.run import function, names
from matchmaking.data.sample import generate_file


@pytest.mark.parametrize("name", names())
def test_the_function_is_the_component_s(name: str) -> None:
    whole = getattr(import_module(f"components.{name}"), name).python_func
    plain = function(name)
    assert plain is not whole
    assert inspect.signature(plain).parameters.keys() == inspect.signature(whole).parameters.keys()
    assert plain.__code__.co_code == whole.__code__.co_code
    assert plain.__code__.co_filename == whole.__code__.co_filename


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-X", "importtime", "-m", "components.run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_a_step_runs_on_what_the_launcher_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the folder it stands in is imported, and nothing of KFP's compiler."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    generate_file(tmp_path / "pairs.csv", 60, seed=0)
    for name in ("json", "random", "matchmaking", "kfp"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is not it')\n")

    def artifact(name: str) -> dict[str, object]:
        return {"artifacts": [{"name": name, "type": {"instanceSchema": ""}, "uri": str(tmp_path / "out" / name)}]}

    given = {
        "inputs": {"parameterValues": {"data": str(tmp_path / "pairs.csv"), "production": "", "run_id": ""}},
        "outputs": {
            "parameters": {"dataset_version": {"outputFile": str(tmp_path / "out" / "dataset_version")}},
            "artifacts": {name: artifact(name) for name in ("raw", "production_model")},
            "outputFile": str(tmp_path / "out" / "executor_output.json"),
        },
    }
    done = run("ingest", "--executor_input", json.dumps(given), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "raw").read_bytes() == (tmp_path / "pairs.csv").read_bytes()
    written = json.loads((tmp_path / "out" / "executor_output.json").read_text())
    assert written["parameterValues"]["production_sha256"] == {}
    assert written["artifacts"]["raw"]["artifacts"][0]["metadata"]["display_name"] == "Dataset as it came"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "kfp.dsl.executor" in imported
    assert not {"kfp.compiler", "kfp.dsl.component_decorator", "kfp.dsl.component_factory"} & imported

    missing = {**given, "inputs": {"parameterValues": {"data": str(tmp_path / "none.csv"), "production": ""}}}
    failed = run("ingest", "--executor_input", json.dumps(missing), cwd=tmp_path)
    assert failed.returncode == 2
    assert "MLOPS-ERROR" in failed.stdout and "Traceback" not in failed.stdout + failed.stderr


def test_another_name_is_told(tmp_path: Path) -> None:
    for name in ("run", "__init__", "../pipelines/retrain"):
        done = run(name, "--executor_input", "{}", cwd=tmp_path)
        assert done.returncode == 2 and "invalid choice" in done.stderr
