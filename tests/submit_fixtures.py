"""`mlops submit` and `mlops upload` against a stand-in for the Kubeflow Pipelines server (see tests/kfp_server.py)."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from matchmaking.base.settings import EXPERIMENT, package_version
from matchmaking.data import versions
from mlops.cli.app import main
from mlops.kubeflow import kfp_api, submit
from mlops.kubeflow.arguments import parameters
from mlops.kubeflow.follow import Step, follow
from mlops.kubeflow.kfp_api import Server, ServerError, UnsureError
from mlops.kubeflow.submit import start, upload, upload_all
from pipelines import PIPELINES, memory
from tests.hostile import ESCAPES
from tests.kfp_server import FakeKfp, Fault, Plan, kfp_server

Mlops = Callable[..., subprocess.CompletedProcess[str]]

TASKS = {
    "retrain": ["ingest", "validate", "split", "train", "evaluate", "compare", "report"],
    "evaluate": ["ingest", "validate", "split", "evaluate", "report"],
    "monitor": ["ingest", "ingest-2", "validate", "validate-2", "score", "drift", "report"],
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


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with kfp_server() as server:
        server.plans = {name: Plan(tasks) for name, tasks in TASKS.items()}
        server.plans["retrain"].summary = SUMMARY
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kfp_api, "FIRST_PATIENCE", 0.2)
    monkeypatch.setattr(kfp_api, "PATIENCE", 0.2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on the stand-in is over after a few looks."""
    monkeypatch.setattr("mlops.kubeflow.follow.FIRST_POLL", 0.02)
    monkeypatch.setattr("mlops.kubeflow.follow.LONGEST_POLL", 0.02)


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Here = Callable[..., Done]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """The command line in this process, from its arguments to its exit code: a second less than in one of its own."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*args: str, **env: str) -> Done:
        for name, value in {"COLUMNS": "100", **env}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["mlops", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


def submitted(server: Server, **kwargs: Any) -> Any:
    arguments = {"data": "s3://datasets/pairs.csv", "production": "s3://production"}
    return start(server, upload(server, "evaluate"), arguments, **kwargs)


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


def test_a_failed_run_fails_as_its_step_did(kfp: FakeKfp, here: Here) -> None:
    plan = kfp.plans["evaluate"]
    plan.failing, plan.error = "validate", {"step": "validate", "exit_code": 2, "message": "column 'rating' is missing"}
    done = here("submit", "evaluate", "--host", kfp.url)
    assert done.returncode == 2
    assert "evaluate failed in step validate: column 'rating' is missing" in done.stderr
    assert re.search(r"Check the dataset +\d+ s  failed", done.stderr)
    # nothing of what never ran
    assert "Write the report" not in done.stderr
    assert "started" not in done.stderr.split("Check the dataset")[-1]
    assert "Traceback" not in done.stderr


def test_warnings_are_shown_as_after_a_local_run(kfp: FakeKfp, here: Here) -> None:
    unknown = "column 'city': 9 of 200 rows have a value that production's encoder doesn't know"
    repeated = "3 of 200 rows repeat an earlier one exactly"
    kfp.plans["retrain"].summary = {
        **SUMMARY,
        "reasons": ["average precision improves", f"the data: {repeated}"],
        "data": {"rows": 200, "positives": 20, "warnings": [unknown, repeated]},
    }
    done = here("submit", "retrain", "--host", kfp.url)
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    assert f"Warning: the data: {unknown}" in told
    # what the reasons say isn't said twice
    assert told.count(repeated) == 1


def test_what_steps_and_servers_say_moves_no_terminal(kfp: FakeKfp, here: Here) -> None:
    kfp.plans["retrain"].summary = {
        **SUMMARY,
        "reasons": [f"recall[city={ESCAPES}] [red]is[/red] worse"],
        "data": {"rows": 200, "positives": 20, "warnings": [f"city {ESCAPES}"]},
        "candidate_uri": f"s3://candidates/{ESCAPES}",
    }
    shown = [here("submit", "retrain", "--host", kfp.url)]
    assert "[red]is[/red]" in shown[0].stdout
    plan = kfp.plans["evaluate"]
    plan.failing, plan.error = "validate", {"step": f"[b]{ESCAPES}", "exit_code": 2, "message": f"'{ESCAPES}'"}
    shown.append(here("submit", "evaluate", "--host", kfp.url))
    kfp.plans["promote"].entry = {
        "backup": ESCAPES,
        "to": {"sha256": {}, "version": ESCAPES},
    }
    shown.append(here("submit", "promote", "--host", kfp.url))
    assert [done.returncode for done in shown] == [0, 2, 0]
    assert "failed in step [b]\\x1b]0;" in shown[1].stderr
    for done in shown:
        assert "OWNED" in done.stdout + done.stderr
        assert all(char.isprintable() or char == "\n" for char in done.stdout + done.stderr)


def test_a_step_that_dies_without_a_word(kfp: FakeKfp) -> None:
    kfp.plans["evaluate"].failing = "evaluate"
    server = Server(kfp.url)
    ended = follow(server, submitted(server))
    assert ended.exit_code == 1
    assert ended.error and ended.error["step"] == "evaluate"
    assert "without telling why" in ended.error["message"]
    assert "launcher_v2.go] done" in ended.error["message"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            "evaluate",
            "its limit of 1Gi; with `--memory 2Gi` (`memory: 2Gi` in schedules.yaml, `memory` in the UI) it gets",
        ),
        ("ingest", "its limit of 768Mi"),
    ],
)
def test_a_step_that_was_killed_says_what_to_set(kfp: FakeKfp, here: Here, task: str, words: str) -> None:
    plan = kfp.plans["evaluate"]
    plan.failing, plan.last_words = task, "F1123 main.go:60] failed to execute component: exit status 137"
    done = here("submit", "evaluate", "--memory", "1Gi", "--host", kfp.url)
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert f"evaluate failed in step {task}: it was killed, most likely as it needed more memory than" in told
    assert words in told
    assert ("--memory" in told) == (task == "evaluate")


def test_memory_goes_by_the_size_of_the_data(kfp: FakeKfp, here: Here, tmp_path: Path) -> None:
    def asked(*args: str, **env: str) -> str:
        done = here("submit", *args, "--host", kfp.url, "--no-wait", **env)
        assert done.returncode == 0, done.stderr
        return str(kfp.runs[done.stdout.strip()].runtime_config["parameters"]["memory"])

    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    for path, rows in ((small, 12_000), (large, 3_000_000)):
        with path.open("wb") as file:
            file.truncate(int(rows * memory.ROW_BYTES))
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


def test_a_log_that_is_gone_is_no_failure(kfp: FakeKfp, here: Here) -> None:
    kfp.faults.append(Fault("GET", "main-logs", 404, times=99))
    done = here("submit", "retrain", "--host", kfp.url)
    assert done.returncode == 0
    assert "its summary couldn't be read" in done.stderr


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
    }
    assert "production holds v20260101T000000Z" in done.stdout


def test_mistakes_are_told_before_anything_is_asked(kfp: FakeKfp, here: Here) -> None:
    for args in (
        ["promote", "--force"],
        ["retrain", "v1"],
        ["nothing"],
        ["retrain", "--policy", "none.yaml"],
        ["retrain", "--data-rev", "HEAD", "--data", "s3://datasets/other.csv"],
        ["promote", "--data-rev", "HEAD"],
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
            }.items()
            if name in wanted
        }
        file.write_text(yaml.safe_dump(wanted))
        done = here("submit", pipeline, "--arguments", str(file), "--host", kfp.url, "--no-wait")
        assert done.returncode == 0, done.stderr
        assert kfp.runs[done.stdout.strip()].runtime_config["parameters"] == wanted


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


# what goes wrong on the way


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (401, "refuses access (401"),
        (403, "refuses access (403"),
        (404, "has no Kubeflow Pipelines v2 API"),
        (503, "answers 503"),
        ("html", "a web page"),
        ("slow", "has not answered within"),
    ],
)
def test_a_server_that_is_none(kfp: FakeKfp, impatient: None, fault: int | str, words: str) -> None:
    kfp.faults.append(Fault("GET", "healthz", fault, times=99))
    with pytest.raises(ServerError) as told:
        Server(kfp.url, read_seconds=0.5).check()
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert told.value.exit_code == 1


@pytest.mark.usefixtures("impatient")
def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=r"can't be reached .*refused.*make open"):
        Server(f"localhost:{port}/#/pipelines").check()
    with pytest.raises(ServerError, match="no such host"):
        Server("http://nosuch.invalid").check()


def test_an_old_server_and_one_that_isnt_ready(kfp: FakeKfp, impatient: None) -> None:
    for kfp.behind_ui in (True, False):
        kfp.version = "2.5.0"
        with pytest.raises(ServerError, match=r"is Kubeflow Pipelines 2\.5\.0; these pipelines need 2\.17"):
            Server(kfp.url).check()
        for kfp.version in ("2.17.0", "unknown", "v3.0.1"):
            Server(kfp.url).check()
    kfp.behind_ui, kfp.ready = True, False
    with pytest.raises(ServerError, match="isn't ready"):
        Server(kfp.url).check()


def test_a_short_outage_is_waited_out(kfp: FakeKfp) -> None:
    kfp.faults += [Fault("GET", "/runs/", 503, times=2), Fault("GET", "/runs/", "lost"), Fault("GET", "healthz", 502)]
    server = Server(kfp.url)
    server.check()
    assert follow(server, submitted(server)).state == "SUCCEEDED"
    assert kfp.faults == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/pipelines$"), ("POST", "/runs$")])
def test_a_login_page_in_the_middle(kfp: FakeKfp, method: str, path: str) -> None:
    """KFP's own client takes a web page for an empty answer: no pipelines, or a run without an id."""
    kfp.faults.append(Fault(method, path, "html", times=99))
    server = Server(kfp.url)
    with pytest.raises(ServerError, match="a web page"):
        submitted(server)
    assert kfp.runs == {}


def test_an_outage_while_waiting_says_that_the_run_may_go_on(kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(kfp.url)
    run = submitted(server)
    monkeypatch.setattr(kfp_api, "PATIENCE", 0.2)
    kfp.faults.append(Fault("GET", "/runs/", 503, times=99))
    with pytest.raises(ServerError, match=rf"the run may go on: {re.escape(run.url)}"):
        follow(server, run)


def test_the_wait_has_an_end(kfp: FakeKfp, here: Here) -> None:
    kfp.plans["evaluate"].ends = False
    done = here("submit", "evaluate", "--host", kfp.url, "--timeout", "1")
    assert done.returncode == 1
    assert "still running after 1 s; it goes on: http" in done.stderr


# never two runs for one submission


@pytest.mark.parametrize("kind", ["lost", 503, "slow"])
def test_an_answer_that_is_lost_makes_no_second_run(kfp: FakeKfp, kind: int | str) -> None:
    """The server has made the run (lost, slow) or hasn't (503): in the end there is one."""
    server = Server(kfp.url, read_seconds=1)
    version = upload(server, "evaluate")
    kfp.faults.append(Fault("POST", "/runs$", kind))
    run = start(server, version, {"data": "d", "production": "p"})
    if kind == "slow":
        time.sleep(2)
    assert list(kfp.runs) == [run.run_id]
    assert kfp.count("POST", "/runs$") == (2 if kind == 503 else 1)


def test_it_gives_up_in_the_end(kfp: FakeKfp) -> None:
    server = Server(kfp.url)
    version = upload(server, "evaluate")
    kfp.faults.append(Fault("POST", "/runs$", 503, times=99))
    with pytest.raises(UnsureError, match="answers 503 the server said no"):
        start(server, version, {"data": "d", "production": "p"})
    assert kfp.count("POST", "/runs$") == 3


def test_a_refusal_is_told_in_the_servers_words(kfp: FakeKfp) -> None:
    server = Server(kfp.url)
    version = upload(server, "evaluate")
    with pytest.raises(ServerError, match=r"answers 400 parameters \['nonsense'\] are not in the pipeline"):
        start(server, version, {"nonsense": 1})
    assert kfp.count("POST", "/runs$") == 1


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


@pytest.mark.parametrize("stop", [False, True])
def test_ctrl_c_says_what_becomes_of_the_run(kfp: FakeKfp, stop: bool) -> None:
    kfp.plans["evaluate"].ends = False
    command = [str(Path(sys.executable).with_name("mlops")), "submit", "evaluate", "--host", kfp.url]
    process = subprocess.Popen(
        [*command, "--terminate-on-interrupt"] if stop else command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        # what is started in the background ignores Ctrl-C, and so would all its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 20
    while not kfp.looks and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM if stop else signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    (run,) = kfp.runs.values()
    assert (run.state == "CANCELING") == stop
    assert ("is being stopped" if stop else "the run goes on; Terminate on its page stops it") in told
    assert "Traceback" not in told


def test_a_cancelled_run_is_told(kfp: FakeKfp) -> None:
    server = Server(kfp.url)
    run = submitted(server)
    seen: list[Step] = []
    kfp.looks[run.run_id] = 1
    submit.terminate(server, run)
    for _ in range(2):
        ended = follow(server, run, seen.append)
        # what never ran isn't pending either
        assert {step.state for step in seen} == {"SUCCEEDED", "FAILED", "OMITTED"}
        assert kfp.runs[run.run_id].state == "FAILED"
        assert ended.exit_code == 1
        assert ended.error and "cancelled" in ended.error["message"]


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
