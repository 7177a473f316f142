"""`mlops experiment check` says whether a challenger was stopped, so that it has no pods, and what brings them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from matchmaking import tracking
from mlops.cli.app import app
from mlops.cluster.challenger import challenger_line
from tests.experiment_fixtures import DEFINITION, record_earlier
from tests.unit.experiments.conftest import run_id  # noqa: F401

SCALE = "kubectl scale deployment/legalaid-ml-challenger --replicas=1 -n legalaid-mlops"


def gateway(experiment: str, address: str) -> dict[str, Any]:
    arms = {arm: {"address": address, "model": DEFINITION[arm]} for arm in ("champion", "challenger")}
    return {"experiment": experiment, "salt": DEFINITION["salt"], "mode": "shadow", **arms}


def deployment(replicas: int | None, served: str = "") -> dict[str, Any]:
    env = [{"name": "EXPERIMENT_SERVED", "value": json.dumps(gateway(served, "a:1")) if served else ""}]
    spec: dict[str, Any] = {"template": {"spec": {"initContainers": [{"name": "fetch", "env": env}]}}}
    return {"spec": spec if replicas is None else {**spec, "replicas": replicas}}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, ["isn't there yet"]),
        (deployment(None, "other-1"), ["has 1 pod of other-1"]),
        (deployment(2), ["has 2 pods"]),
        (deployment(0, "embeddings-1"), ["NO PODS", "under embeddings-1", "another experiment", SCALE]),
        (deployment(0, "other-1"), ["NO PODS", "under other-1", "Apply this first, and then", SCALE]),
        (deployment(0), ["NO PODS", "that it does not name", SCALE]),
    ],
    ids=["none", "another's", "unnamed", "stopped", "another's, stopped", "unnamed, stopped"],
)
def test_what_is_said_of_the_challengers_pods(found: dict[str, Any] | None, said: list[str]) -> None:
    line = challenger_line(found, "legalaid-ml-challenger", "embeddings-1")
    assert all(part in line for part in said) and (SCALE in line) == (SCALE in said)


def test_check_says_what_was_stopped_and_what_was_not(
    run_id: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = tmp_path / "gateway.yaml"

    def check(experiment: str = "embeddings-1", address: str = "legalaid-ml-challenger:8000", *more: str) -> str:
        record.write_text(json.dumps(gateway(experiment, address)))
        given = ["experiment", "check", "--gateway", str(record), "--work-dir", str(tmp_path), *more]
        done = CliRunner().invoke(app, given)
        assert done.exit_code == 0 or getattr(done.exception, "exit_code", 0) == 3, done.output
        return f"{done.output}{done.exception or ''}"

    assert "It was stopped" not in check() and "as its definition says" in check()
    old = record_earlier({**DEFINITION, "name": "old-1", "salt": "old-1"})
    tracking.client().set_tag(old, "experiment_stopped", "2026-04-01T00:00:00Z")
    said = check()
    assert "old-1: It was stopped by itself at 2026-04-01T00:00:00Z" in said and "as its definition says" in said
    assert "the Deployment legalaid-ml-challenger has no pods since, unless" in said
    # of a gateway on one machine that isn't so
    assert "Deployment" not in check("embeddings-1", "127.0.0.1:8001")
    # what isn't stopped is said, also where it is refused
    tracking.client().set_tag(run_id, "experiment_stop_failed", "2026-04-01T00:00:00Z: no gateway")
    tracking.client().set_tag(run_id, "experiment_ended", "harmful")
    said = check()
    assert "embeddings-1: It could NOT be stopped" in said and "has ended (harmful)" in said
    # and with the cluster's own word on it
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat {tmp_path}/answer\n')
    kubectl.chmod(0o755)
    (tmp_path / "answer").write_text(json.dumps(deployment(0, "old-1")))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    said = check("embeddings-1", "legalaid-ml-challenger:8000", "--context", "kind-legalaid")
    assert "NO PODS" in said and "under old-1" in said and SCALE in said and "unless" not in said
    asked = (tmp_path / "asked").read_text()
    assert "--context kind-legalaid get deployment legalaid-ml-challenger --namespace legalaid-mlops" in asked
