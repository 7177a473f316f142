"""Following a run on the stand-in of tests/kfp_server.py: how it ends, and what is told of its steps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlops.kubeflow import kfp_api, submit
from mlops.kubeflow.follow import Step, follow
from mlops.kubeflow.kfp_api import Server, ServerError
from tests.hostile import ESCAPES
from tests.kfp_server import FakeKfp, Fault
from tests.submit_fixtures import SUMMARY, Here, submitted

pytestmark = pytest.mark.usefixtures("quick")


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


def test_a_failure_in_a_loop_is_found_among_steps_of_the_same_name(kfp: FakeKfp, here: Here) -> None:
    plan = kfp.plans["sweep"]
    plan.tasks = [task for task in plan.tasks for _ in range(4 if task == "trial" else 1)]
    # the first of them fails, and the others are left out
    plan.failing, plan.error = "trial", {"step": "trial", "exit_code": 2, "message": "a sweep needs 20 matches"}
    done = here("submit", "sweep", "--host", kfp.url)
    assert done.returncode == 2
    assert "sweep failed in step trial: a sweep needs 20 matches" in done.stderr
    assert re.search(r"Try recipes out of fold +\d+ s  failed", done.stderr)


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


def test_a_log_that_is_gone_is_no_failure(kfp: FakeKfp, here: Here) -> None:
    kfp.faults.append(Fault("GET", "main-logs", 404, times=99))
    done = here("submit", "retrain", "--host", kfp.url)
    assert done.returncode == 0
    assert "its summary couldn't be read" in done.stderr


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
