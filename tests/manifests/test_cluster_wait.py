"""Waiting for what was applied: what isn't ready in time is named, with its reason."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from matchmaking.base.errors import MlopsError
from mlops.cluster import capacity
from mlops.cluster.kubectl import BEAT_SECONDS, Kubectl, announced
from mlops.cluster.wait import wait_until_ready
from tests.manifests.machine import Machine


def test_a_failed_job_is_told_with_its_log(machine: Machine) -> None:
    machine.behaviour["failed"] = ["setup-mlflow"]
    done = machine("up", "--cluster", "existing")
    assert done.returncode == 1
    assert "the Job setup-mlflow failed" in done.stderr and "log of job/setup-mlflow" in done.stderr


def test_what_isnt_ready_in_time_is_named_with_its_reason(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.behaviour |= {
        "waiting": ["mlflow"],
        "pods": [
            {
                "metadata": {"name": "mlflow-7d9"},
                "status": {
                    "containerStatuses": [
                        {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
                    ]
                },
            }
        ],
    }
    done = machine("status", "--cluster", "existing")
    assert "mlflow-7d9: ImagePullBackOff no such image" in done.stdout
    _, env = machine.command()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    kubectl = Kubectl("mine")
    kubectl.apply(yaml.safe_load_all(Path(machine.behaviour["built"]["manifests/overlays/existing"]).read_text()))
    objects = machine.applied()
    with pytest.raises(MlopsError, match="not ready in time: mlflow; "):
        wait_until_ready(kubectl, objects, time.monotonic() - 1, lambda text, err=False: print(text))


class Scripted:
    """A kubectl that shows states one after the other: a pod's reason, a Job's failures, whether all is ready."""

    def __init__(self, *states: tuple[str, int, bool]) -> None:
        self.states = [states[0], *states]

    def items(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        if namespace != capacity.PLATFORM:
            return []
        if kind == "pods":  # which are looked at first
            self.states.pop(0)
        reason, failed, ready = self.states[0]
        waiting = [{"state": {"waiting": {"reason": reason, "message": "manifest unknown"}}}] if reason else [{}]
        counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": int(ready)}
        conditions = [{"type": "Complete", "status": "True"}] if ready else []
        found = {
            "pods": {"metadata": {"name": "mlflow-7d9"}, "status": {"containerStatuses": waiting}},
            "deployments": {"metadata": {"name": "mlflow"}, "spec": {}, "status": counts},
            "jobs": {"metadata": {"name": "setup-store"}, "status": {"failed": failed, "conditions": conditions}},
        }
        return [found[kind]]


WAITED_FOR = [
    {"kind": kind, "metadata": {"name": name, "namespace": capacity.PLATFORM}}
    for kind, name in (("Deployment", "mlflow"), ("Job", "setup-store"))
]


def test_without_a_terminal_a_line_when_what_is_waited_for_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlops.cluster.wait.POLL_SECONDS", 0.01)
    # an image that can't be pulled is tried again and again, and a Job, too
    pulls = [("ErrImagePull", 0, False), ("ImagePullBackOff", 0, False)] * 3
    kubectl = Scripted(("", 0, False), *pulls, ("ImagePullBackOff", 1, False), ("", 1, False), ("", 1, True))
    with announced("ready") as say:
        wait_until_ready(kubectl, WAITED_FOR, time.monotonic() + 60, say)  # type: ignore[arg-type]
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    pulled, tried = (f"mlflow-7d9: {reason} manifest unknown" for reason in ("ErrImagePull", "ImagePullBackOff"))
    failing = "job setup-store: failed (1), and is tried again; `make logs STEP=setup-store` has why"
    assert lines[:-1] == [
        "ready, 0 s: 0 of 2, waiting for mlflow, setup-store",
        f"ready, 0 s: 0 of 2, waiting for mlflow, setup-store; {pulled}",
        f"ready, 0 s: 0 of 2, waiting for mlflow, setup-store; {failing}; {tried}",
        f"ready, 0 s: 0 of 2, waiting for mlflow, setup-store; {failing}",
    ]
    assert re.fullmatch(r"ready +0\.\d s", lines[-1])


def test_without_a_terminal_a_step_that_takes_long_is_heard_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert BEAT_SECONDS == 30
    monkeypatch.setattr("mlops.cluster.kubectl.BEAT_SECONDS", 0.1)
    with announced("build images"):
        time.sleep(0.35)
    with announced("ready") as say:
        say("1 of 2", 1)
        time.sleep(0.35)
    said = capsys.readouterr().err
    assert said.count("  build images, 0 s\n") >= 2 and said.count("  ready, 0 s: 1 of 2\n") >= 3
