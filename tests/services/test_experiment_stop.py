"""A look that finds harm ends the challenger's traffic through the real gateway, by the commands that people give."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.experiments.assignment import assign
from matchmaking.experiments.gateway import read_gateway
from matchmaking.model import production
from mlops.local.gateway import change
from tests.experiment_fixtures import DEFINITION, record_earlier, write_logs
from tests.services.load import PAYLOAD, Answer, ask, run_load
from tests.services.running_experiment import MLOPS, RATE, Experiment, Models, nginx
from tests.services.test_gateway import models  # noqa: F401

NAME = DEFINITION["name"]


@pytest.fixture
def harmed(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Experiment, list[str]]]:  # noqa: F811
    """An A/B test of a recorded definition that runs, and the options of a log in which its challenger is slow."""
    nginx()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLOPS_EXPERIMENT_STOP_COMMAND", "MLOPS_NOTIFY_URLS"):
        monkeypatch.delenv(name, raising=False)
    tracking.client.cache_clear()
    sha256 = {arm: production.hashes(folder)[production.MODEL] for arm, folder in models.items()}
    record_earlier({**DEFINITION, **sha256})
    logs = list(map(str, write_logs(tmp_path, 0.0)))
    for part in (tmp_path / "exposures").rglob("*.jsonl"):
        lines = [json.loads(line) for line in part.read_text().splitlines()]
        for line in lines:
            line["model"] = sha256[line["variant"]]
            line["latency_ms"] *= 2 if line["variant"] == "challenger" else 1
        part.write_text("".join(json.dumps(line) + "\n" for line in lines))
    experiment = Experiment(tmp_path, models, "--name", NAME, "--mode", "ab", "--share", "50")
    yield experiment, logs
    experiment.end()
    tracking.client.cache_clear()


def looked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [MLOPS, "experiment", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_harm_ends_the_traffic_and_loses_no_request(
    harmed: tuple[Experiment, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, logs = harmed
    right, wrong = gateway.answer("champion"), gateway.answer("challenger")
    theirs = next(f"c-{n}" for n in range(100) if assign(NAME, f"c-{n}", 50) == "challenger")

    def served() -> Any:
        return asyncio.run(ask(gateway.port, theirs, PAYLOAD))

    # nothing is set: it is told, and nothing else
    done = looked("status", NAME, *logs)
    assert done.returncode == 0 and "Stop: the challenger does harm." in done.stdout, done.stdout + done.stderr
    assert "KEEPS ITS TRAFFIC" in done.stderr and served() == (200, wrong)
    # a gateway that isn't this experiment's is a failure, and this one is what it was
    stop = f"{MLOPS} experiment stop --experiment {{experiment}} --folder"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", f"{stop} {tmp_path / 'nowhere'}")
    done = looked("status", NAME, *logs, "--json", "--stop")
    assert done.returncode == 1 and "NOT be stopped" in done.stderr and "holds no experiment" in done.stderr
    assert json.loads(done.stdout)["stop"] in done.stderr and served() == (200, wrong)

    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", f"{stop} {gateway.folder}")
    finished = threading.Event()
    answers: list[Answer] = []

    def under_load() -> None:
        while not finished.is_set():
            answers.extend(run_load(gateway.port, RATE / 4, 1))

    thread = threading.Thread(target=under_load, daemon=True)
    thread.start()
    done = looked("report", NAME, *logs, "--stop", "--out", str(tmp_path / "out"))
    finished.set()
    thread.join()
    assert done.returncode == 0 and "stopped by itself" in done.stderr, done.stdout + done.stderr
    assert "under way still" in done.stdout
    assert {each.status for each in answers} == {200}
    assert read_gateway(gateway.folder / "gateway.yaml").mode == "off" and served() == (200, right)
    # a second look runs nothing: what is told to fail would
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", "false {experiment}")
    assert looked("status", NAME, *logs, "--stop").returncode == 0


def test_a_gateway_that_is_not_what_the_definition_says_exposes_nobody(
    harmed: tuple[Experiment, list[str]],
) -> None:
    gateway, _ = harmed
    assert any("models, salt and share are as its definition says" in line for line in gateway.said)
    assert gateway.mlops("ramp", "50").returncode == 0
    # as if another model had been recorded: the record of the gateway is what is held against it
    path = gateway.folder / "gateway.yaml"
    path.write_text(path.read_text().replace("salt: embeddings-1", "salt: pepper"))
    before = (gateway.folder / "nginx.conf").read_text()
    refused = gateway.mlops("ramp", "10")
    assert refused.returncode == 3 and "the salt 'pepper', not 'embeddings-1'" in refused.stderr
    assert (gateway.folder / "nginx.conf").read_text() == before
    assert gateway.mlops("ramp", "10", "--unchecked").returncode == 0
    # the way back asks nobody
    assert gateway.mlops("stop").returncode == 0


def test_the_stop_that_nobody_watches_takes_its_own_experiment_alone(
    harmed: tuple[Experiment, list[str]],
) -> None:
    gateway, _ = harmed
    other = gateway.mlops("stop", "--experiment", "ranking-7")
    assert other.returncode == 2 and "never was ranking-7's" in other.stderr
    assert read_gateway(gateway.folder / "gateway.yaml").mode == "ab"
    # by now the folder is another one's: there is nothing to stop, and the other one goes on
    with (gateway.folder / "changes.log").open("a") as changes:
        changes.write(json.dumps({"experiment": "ranking-7"}) + "\n")
    over = gateway.mlops("stop", "--experiment", "ranking-7")
    assert over.returncode == 0 and "isn't served there any more" in over.stdout
    assert read_gateway(gateway.folder / "gateway.yaml").mode == "ab"
    # twice is once, also when it has ended
    for _ in range(2):
        assert gateway.mlops("stop", "--experiment", NAME).returncode == 0
    assert read_gateway(gateway.folder / "gateway.yaml").mode == "off"
    gateway.end()
    ended = gateway.mlops("stop", "--experiment", NAME)
    assert ended.returncode == 0 and "isn't running" in ended.stdout


def test_a_stop_that_was_cut_off_is_completed_by_the_next(harmed: tuple[Experiment, list[str]]) -> None:
    """Between the record and nginx, which then says off and does something else."""
    gateway, _ = harmed
    right, wrong = gateway.answer("champion"), gateway.answer("challenger")
    theirs = next(f"c-{n}" for n in range(100) if assign(NAME, f"c-{n}", 50) == "challenger")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlops.local.gateway._check", interrupted)
        with pytest.raises(KeyboardInterrupt):
            change(gateway.folder, "off", 0.0, print)
    assert read_gateway(gateway.folder / "gateway.yaml").mode == "off"
    assert asyncio.run(ask(gateway.port, theirs, PAYLOAD)) == (200, wrong)
    # as the next run's command, and as a person would
    assert gateway.mlops("stop", "--experiment", NAME).returncode == 0
    assert asyncio.run(ask(gateway.port, theirs, PAYLOAD)) == (200, right)
