"""`mlops submit` and `mlops upload` against a stand-in for the Kubeflow Pipelines server (see tests/kfp_server.py)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from matchmaking.base.settings import EXPERIMENT, package_version
from matchmaking.data import versions
from mlops.kubeflow import submit
from mlops.kubeflow.arguments import parameters
from mlops.kubeflow.submit import upload_all
from pipelines import PIPELINES, memory
from tests.kfp_server import FakeKfp
from tests.submit_fixtures import SUMMARY, Here

pytestmark = pytest.mark.usefixtures("quick")

Mlops = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_from_its_upload_to_the_table(kfp: FakeKfp, mlops: Mlops) -> None:
    done = mlops("submit", "retrain", "--seed", "7", "--epochs", "3", "--host", kfp.url)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = kfp.runs.values()
    (pipeline,) = kfp.pipelines.values()
    (version,) = kfp.versions.values()
    (experiment,) = kfp.experiments.values()
    assert pipeline.display_name == "retrain"
    assert re.fullmatch(rf"{re.escape(package_version())}-[0-9a-f]{{8}}", version.display_name)
    assert experiment.display_name == EXPERIMENT
    assert run.experiment_id == experiment.experiment_id
    assert run.runtime_config["parameters"] == {
        "data": "s3://datasets/pairs.csv",
        "production": "s3://production",
        "candidates": "s3://candidates",
        "seed": 7,
        "algorithm": "interactions",
        "epochs": 3,
        "split": "auto",
        "production_data": "",
        "policy": "",
        "memory": memory.DEFAULT,
    }
    assert "service_account" not in run.to_dict() or run.service_account is None
    for title in ("Fetch dataset and production", "Train a candidate", "Package it and write the report"):
        assert re.search(rf"{title} +\d+ s  succeeded", done.stderr)
    assert f"{kfp.url}/#/runs/details/{run.run_id}" in done.stderr
    for word in (
        "average precision",
        "better",
        "s3://candidates/v20260101T000000Z",
        "The candidate is better",
        run.run_id,
    ):
        assert word in done.stdout
    again = mlops("submit", "retrain", "--host", kfp.url, "--no-wait")
    assert again.returncode == 0
    assert again.stdout.strip() in kfp.runs
    assert len(kfp.runs) == 2
    assert len(kfp.versions) == len(kfp.pipelines) == len(kfp.experiments) == 1


def test_json_is_alone_on_the_output(kfp: FakeKfp, here: Here, impatient: None) -> None:
    found = json.loads(here("submit", "evaluate", "--host", kfp.url, "--no-wait", "--json").stdout)
    assert found["run_id"] in kfp.runs
    assert found["url"].endswith(found["run_id"])
    found = json.loads(here("submit", "retrain", "--host", kfp.url, "--json").stdout)
    assert found["verdict"] == "promote"
    assert found["kfp"]["run_id"] in kfp.runs
    failed = here("submit", "retrain", "--host", "http://127.0.0.1:9", "--json")
    assert failed.returncode == 1
    assert "can't be reached" in json.loads(failed.stdout)["error"]["message"]


def test_memory_goes_by_the_size_of_the_data(kfp: FakeKfp, here: Here, tmp_path: Path) -> None:
    def asked(*args: str, **env: str) -> str:
        done = here("submit", *args, "--host", kfp.url, "--no-wait", **env)
        assert done.returncode == 0, done.stderr
        return str(kfp.runs[done.stdout.strip()].runtime_config["parameters"]["memory"])

    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    for path, rows in ((small, 12_000), (large, 3_000_000)):
        with path.open("wb") as file:
            file.truncate(int(rows * memory.ROW_BYTES[".csv"]))
    assert asked("evaluate", "--data", str(small)) == memory.of_rows("evaluate", 12_000)
    assert asked("evaluate", "--data", str(large)) == memory.of_rows("evaluate", 3_000_000)
    assert asked("monitor", "--data", str(small), "--current", str(large)) == memory.of_rows("monitor", 3_000_000)
    # where it isn't known from here, the default; and what somebody says is taken
    assert asked("evaluate", "--data", str(tmp_path / "nowhere.csv")) == memory.DEFAULT
    assert asked("evaluate", "--data", str(large), "--memory", "10Gi") == "10Gi"
    file = tmp_path / "arguments.yaml"
    file.write_text("memory: 5Gi\n")
    assert asked("evaluate", "--data", str(large), "--arguments", str(file)) == "5Gi"
    assert asked("evaluate", "--data", str(large), "--arguments", str(file), "--memory", "6Gi") == "6Gi"
    asked_before = len(kfp.requests)
    for args, words in (
        (["--memory", "9Gi"], "no node could hold a step of 9Gi, as the largest has 8.0 GiB for pods"),
        (["--memory", "much"], "'much' is no amount of memory"),
        (["--data", str(large)], ""),
    ):
        node = "8Gi" if words else "1Gi"
        done = here("submit", "evaluate", *args, "--host", kfp.url, MLOPS_NODE_MEMORY=node)
        assert done.returncode == 2
        assert words in done.stderr
    assert len(kfp.requests) == asked_before


def test_links_begin_with_the_outside_addresses(kfp: FakeKfp, here: Here) -> None:
    """A pod asks for KFP by a name of the cluster, that nobody can open."""
    outside = {"MLOPS_KFP_URL": "https://kfp.example/", "MLOPS_MLFLOW_URL": "https://mlflow.example"}
    done = here("submit", "retrain", "--host", kfp.url, **outside)
    (run,) = kfp.runs.values()
    page = f"https://kfp.example/#/runs/details/{run.run_id}"
    assert page in done.stderr
    assert page in done.stdout
    assert f"https://mlflow.example/#/runs/{SUMMARY['run_id']}" in done.stdout
    assert kfp.url not in done.stdout + done.stderr


def test_promote_takes_its_own_service_account(kfp: FakeKfp, here: Here) -> None:
    state = {"sha256": {"lawyer_match_model.h5": "ab" * 32}, "version": "v20260101T000000Z", "registry_version": "3"}
    kfp.plans["promote"].entry = {"to": state, "from": state, "backup": ".mlops/backups/b1"}
    done = here("submit", "promote", "3", "--force", "--reason", "so", "--host", kfp.url)
    assert done.returncode == 0, done.stderr
    (run,) = kfp.runs.values()
    assert run.service_account == "mlops-promotion"
    assert run.runtime_config["parameters"] == {
        "production": "s3://production",
        "version": "3",
        "force": True,
        "reason": "so",
        "win": "",
    }
    assert "production holds v20260101T000000Z" in done.stdout
    won = {"experiment": "ranking-1", "sha256": "cd" * 32}
    kfp.plans["promote"].entry = {"to": state, "from": state, "backup": ".mlops/backups/b1", "experiment": won}
    # a run of Kubeflow Pipelines is in an experiment too, which is another thing
    done = here("submit", "promote", "--win", "ranking-1", "--experiment", "mine", "--host", kfp.url)
    assert done.returncode == 0, done.stderr
    last = list(kfp.runs.values())[-1]
    assert last.runtime_config["parameters"] == {
        "production": "s3://production",
        "version": "",
        "force": False,
        "reason": "",
        "win": "ranking-1",
    }
    assert "which won experiment ranking-1; backup" in " ".join(done.stdout.split())


def test_mistakes_are_told_before_anything_is_asked(kfp: FakeKfp, here: Here) -> None:
    for args in (
        ["promote", "--force"],
        ["retrain", "v1"],
        ["nothing"],
        ["retrain", "--policy", "none.yaml"],
        ["retrain", "--data-rev", "HEAD", "--data", "s3://datasets/other.csv"],
        ["promote", "--data-rev", "HEAD"],
        ["retrain", "--win", "ranking-1"],
        ["evaluate", "--algorithm", "dense"],
        ["monitor", "--split", "hash"],
    ):
        done = here("submit", *args, "--host", kfp.url)
        assert done.returncode == 2, args
        assert "Traceback" not in done.stderr
    assert kfp.requests == []


def test_a_version_of_the_data_is_submitted_by_its_place(
    kfp: FakeKfp, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the place is, tests/services/test_dvc_remotes.py asks real remotes."""
    monkeypatch.setattr(versions, "remote_uri", lambda rev: f"s3://datasets/dvc/{rev}")
    done = here("submit", "evaluate", "--data-rev", "v1", "--host", kfp.url)
    assert done.returncode == 0, done.stderr
    (run,) = kfp.runs.values()
    assert run.runtime_config["parameters"]["data"] == "s3://datasets/dvc/v1"
    assert run.plugins_input == {"mlflow": {"disabled": True}}


def test_every_parameter_can_come_from_a_file(kfp: FakeKfp, here: Here, tmp_path: Path) -> None:
    file = tmp_path / "arguments.yaml"
    samples = {"STRING": "s", "NUMBER_INTEGER": 3, "NUMBER_DOUBLE": 0.5, "BOOLEAN": True}
    for pipeline in PIPELINES:
        wanted = {name: samples[kind] for name, kind in parameters(pipeline).items()}
        wanted |= {
            name: value
            for name, value in {
                "split": "hash",
                "algorithm": "dense",
                "policy": "auto_promote: true\n",
                "memory": "3Gi",
                "period": "month",
            }.items()
            if name in wanted
        }
        # either the logs or a labelled dataset
        either = [wanted]
        if pipeline == "observe":
            file.write_text(yaml.safe_dump(wanted))
            done = here("submit", pipeline, "--arguments", str(file), "--host", kfp.url, "--no-wait")
            assert done.returncode == 2 and "either the logs or data" in done.stderr
            either = [wanted | {"data": ""}, wanted | {"predictions": "", "outcomes": ""}]
        for one in either:
            file.write_text(yaml.safe_dump(one))
            done = here("submit", pipeline, "--arguments", str(file), "--host", kfp.url, "--no-wait")
            assert done.returncode == 0, done.stderr
            assert kfp.runs[done.stdout.strip()].runtime_config["parameters"] == one


def test_options_go_before_a_file(kfp: FakeKfp, here: Here, tmp_path: Path) -> None:
    file = tmp_path / "arguments.yaml"
    file.write_text("seed: 3\nsplit: hash\npolicy: {auto_promote: true}\n")
    done = here("submit", "retrain", "--arguments", str(file), "--seed", "0", "--host", kfp.url, "--no-wait")
    passed = kfp.runs[done.stdout.strip()].runtime_config["parameters"]
    assert (passed["seed"], passed["split"], passed["policy"]) == (0, "hash", "auto_promote: true\n")
    assert passed["data"] == "s3://datasets/pairs.csv"
    file.write_text("current: s3://datasets/may.csv\n")
    done = here("submit", "monitor", "--arguments", str(file), "--host", kfp.url, "--no-wait")
    passed = kfp.runs[done.stdout.strip()].runtime_config["parameters"]
    assert passed["current"] == "s3://datasets/may.csv"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: 3", "rows is no parameter of retrain; those are algorithm, "),
        ("seed: many", "seed is a whole number, not 'many'"),
        ("seed: true", "seed is a whole number, not True"),
        ("split: random", "split is auto, stratified or hash, not 'random'"),
        ("policy: {auto_promot: true}", "policy: auto_promot"),
        ("- seed", "parameters of retrain, a line each, as in 'seed: 7'"),
        ("seed: [", "is not YAML"),
    ],
)
def test_a_file_of_arguments_that_wont_do(kfp: FakeKfp, here: Here, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "arguments.yaml"
    file.write_text(text)
    done = here("submit", "retrain", "--arguments", str(file), "--host", kfp.url)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert f"--arguments {file}" in done.stderr.replace("\n", "")
    assert kfp.requests == []


def test_monitor_is_told_of_current_data(kfp: FakeKfp, here: Here) -> None:
    for args, variable, current in (
        ([], "", ""),
        (["--current", "s3://datasets/may.csv"], "", "s3://datasets/may.csv"),
        ([], "s3://datasets/may.csv", "s3://datasets/may.csv"),
    ):
        done = here("submit", "monitor", "--host", kfp.url, "--no-wait", *args, MLOPS_CURRENT=variable)
        parameters = kfp.runs[done.stdout.strip()].runtime_config["parameters"]
        assert parameters["current"] == current


def test_upload_is_done_once(kfp: FakeKfp, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = upload_all(kfp.url), upload_all(kfp.url)
    assert [version.pipeline for version in first] == list(PIPELINES)
    assert all(version.uploaded for version in first)
    assert not any(version.uploaded for version in second)
    assert len(kfp.versions) == len(PIPELINES)
    monkeypatch.setattr(submit, "package_version", lambda: "9.9.9")
    done = here("upload", "--host", kfp.url)
    assert done.stdout.count("  uploaded") == len(PIPELINES)
    assert len(kfp.pipelines) == len(PIPELINES)
    assert len(kfp.versions) == 2 * len(PIPELINES)


def test_the_second_pod_of_a_job_follows_the_firsts_run(kfp: FakeKfp, here: Here) -> None:
    first = here("submit", "evaluate", "--host", kfp.url, "--no-wait", MLOPS_RUN_NAME="evaluate-29000000")
    kfp.plans["evaluate"].failing = "ingest"
    second = here("submit", "evaluate", "--host", kfp.url, MLOPS_RUN_NAME="evaluate-29000000")
    assert list(kfp.runs) == [first.stdout.strip()]
    assert second.returncode == 1
    assert "is there already: it is followed" in second.stderr
    third = here("submit", "retrain", "--host", kfp.url, "--name", "evaluate-29000000")
    assert third.returncode == 2
    assert "a run of another pipeline has that name" in third.stderr


def test_no_heavy_import(kfp: FakeKfp) -> None:
    """What a client imports is light."""
    code = (
        "import sys; from mlops.cli.app import main; sys.argv = ['mlops', 'submit', 'evaluate', '--host', "
        f"{kfp.url!r}, '--no-wait']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('tensorflow', 'keras', 'mlflow', 'evidently', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
