"""What pods run besides pipelines: `restart` against a stand-in for the Kubernetes API over HTTP, `fetch` on a folder.

`seed` runs in tests/services/test_platform_containers.py, on a real store and tracking server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.model.production import FILES
from mlops.cluster import in_cluster
from mlops.kubeflow import lateness
from tests.hostile import ESCAPES


class Api:
    """One Deployment, whose new pods serve at the `slow`-th look."""

    def __init__(self) -> None:
        self.slow, self.looks, self.status = 1, 0, 200
        self.requests: list[tuple[str, str, Any]] = []
        self.template: dict[str, Any] = {}

    def answer(self, method: str, path: str, body: Any) -> dict[str, Any]:
        self.requests.append((method, path, body))
        self.looks += method == "GET"
        count = 1 if self.looks >= self.slow else 0
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "legalaid-ml", "generation": 7},
            "spec": {"replicas": 1, "selector": {}, "template": self.template},
            "status": {"observedGeneration": 7, "replicas": 1, "updatedReplicas": count, "availableReplicas": 1},
        }


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    from kubernetes import client, config

    state = Api()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = state.answer(self.command, self.path, json.loads(body) if body else None)
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_PATCH = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def load() -> None:
        settings = client.Configuration()
        settings.host, settings.retries = f"http://127.0.0.1:{server.server_address[1]}", False
        client.Configuration.set_default(settings)

    # a pod finds its account in files that only pods have
    monkeypatch.setattr(config, "load_incluster_config", load)
    monkeypatch.setattr(in_cluster, "POLL_SECONDS", 0.01)
    yield state
    server.shutdown()
    server.server_close()
    client.Configuration.set_default(None)


def test_restart_changes_one_annotation_and_waits(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.slow = 3
    in_cluster.restart("legalaid-mlops", "legalaid-ml")
    methods = [(method, path) for method, path, _ in api.requests]
    path = "/apis/apps/v1/namespaces/legalaid-mlops/deployments/legalaid-ml"
    # what the Role in serving/ allows: get and patch
    assert methods == [("PATCH", path), *[("GET", path)] * 3]
    (key,) = api.requests[0][2]["spec"]["template"]["metadata"]["annotations"]
    assert key == "kubectl.kubernetes.io/restartedAt"
    assert "was restarted" in capsys.readouterr().out


def test_restart_says_why_it_failed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.status = 403
    with pytest.raises(MlopsError, match=r"legalaid-mlops/legalaid-ml can't be restarted: Forbidden"):
        in_cluster.restart("legalaid-mlops", "legalaid-ml")
    api.status, api.slow = 200, 1000
    monkeypatch.setenv("MLOPS_RESTART_TIMEOUT", "0.2")
    with pytest.raises(MlopsError, match="was restarted, but doesn't serve yet"):
        in_cluster.restart("legalaid-mlops", "legalaid-ml")


def gateway_template(**env: str) -> dict[str, Any]:
    """Of the gateway's pods, with these variables."""
    configure = {"name": "configure", "env": [{"name": name, "value": value} for name, value in env.items()]}
    return {"spec": {"containers": [{"name": "nginx"}], "initContainers": [configure, {"name": "ship"}]}}


def test_an_experiment_is_stopped_by_one_variable_beside_those_stopped_before(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.template = gateway_template(EXPERIMENT_MODE="", EXPERIMENT_STOPPED="ranking-1")
    in_cluster.stop_experiment("legalaid-mlops", "experiment-gateway", "ranking-2")
    path = "/apis/apps/v1/namespaces/legalaid-mlops/deployments/experiment-gateway"
    # what the Role in serving/experiment allows: get and patch
    assert [(method, path) for method, path, _ in api.requests] == [("GET", path), ("PATCH", path), ("GET", path)]
    env = [{"name": "EXPERIMENT_STOPPED", "value": "ranking-1 ranking-2"}]
    patch = {"spec": {"template": {"spec": {"initContainers": [{"name": "configure", "env": env}]}}}}
    assert api.requests[1][2] == patch
    assert "was told to stop ranking-2" in capsys.readouterr().out
    # a second time changes nothing, and waits for the pods
    api.requests.clear()
    in_cluster.stop_experiment("legalaid-mlops", "experiment-gateway", "ranking-1")
    assert {method for method, _, _ in api.requests} == {"GET"}
    api.status = 403
    with pytest.raises(MlopsError, match="experiment-gateway can't be told to stop ranking-1: Forbidden"):
        in_cluster.stop_experiment("legalaid-mlops", "experiment-gateway", "ranking-1")


def test_where_the_gateway_is_gone_nothing_is_left_to_stop(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.status = 404
    in_cluster.stop_experiment("legalaid-mlops", "experiment-gateway", "ranking-1")
    assert "experiment-gateway isn't there" in capsys.readouterr().out
    # a service that is to be restarted has to be there
    with pytest.raises(MlopsError, match="can't be restarted: Not Found"):
        in_cluster.restart("legalaid-mlops", "legalaid-ml")


def test_restart_outside_a_pod() -> None:
    with pytest.raises(MlopsError, match="this is no pod with a service account"):
        in_cluster.restart("legalaid-mlops", "legalaid-ml")


def test_a_runs_workflow_is_looked_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[dict[str, Any]] = [{"metadata": {"name": "evaluate-x7k2p"}}]
    monkeypatch.setattr(api, "answer", lambda *asked: api.requests.append(asked) or {"items": there})
    assert in_cluster._has_workflow("kubeflow", "6b4b9c9e")
    there.clear()
    assert not in_cluster._has_workflow("kubeflow", "6b4b9c9e")
    # what the Role in reconcile/ allows: to list
    method, path, _ = api.requests[0]
    assert method == "GET"
    assert path.startswith("/apis/argoproj.io/v1alpha1/namespaces/kubeflow/workflows?")
    assert "labelSelector=pipeline%2Frunid%3D6b4b9c9e" in path
    # not to know isn't that it is gone
    api.status = 403
    with pytest.raises(MlopsError, match="the Workflows of kubeflow can't be read: Forbidden"):
        in_cluster._has_workflow("kubeflow", "6b4b9c9e")


def test_the_schedules_are_looked_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made = "2026-01-01T00:00:00Z"
    jobs = [
        {"metadata": {"name": name, "creationTimestamp": made}, "spec": {"schedule": cron, **more}}
        for name, cron, more in (
            ("evaluate", "0 5 * * *", {"timeZone": "UTC"}),
            ("retrain", "0 3 * * 1", {"suspend": True}),
            ("backup", "0 3 * * 1", {}),
        )
    ]
    monkeypatch.setattr(api, "answer", lambda *asked: api.requests.append(asked) or {"items": jobs})
    (found,) = lateness.cron_jobs(in_cluster._cron_jobs("legalaid-mlops"))
    assert found == lateness.Scheduled("evaluate", "0 5 * * *", "UTC", datetime(2026, 1, 1, tzinfo=UTC))
    method, path, _ = api.requests[0]
    # what the Role in reconcile/ allows: to list
    assert method == "GET"
    assert path.startswith("/apis/batch/v1/namespaces/legalaid-mlops/cronjobs?")
    assert "labelSelector=app%3Dmlops-client" in path
    api.status = 403
    with pytest.raises(MlopsError, match="the CronJobs of legalaid-mlops can't be read: Forbidden"):
        in_cluster._cron_jobs("legalaid-mlops")


def test_errors_move_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ESCAPES).mkdir()
    monkeypatch.setattr("sys.argv", ["in_cluster", "fetch", str(tmp_path / ESCAPES), str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        in_cluster.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "OWNED\\x07" in said and said.removesuffix("\n").isprintable()


def test_fetch_brings_the_three_files_or_says_that_there_are_none(tmp_path: Path) -> None:
    served, target = tmp_path / "production", tmp_path / "models"
    served.mkdir()
    target.mkdir()
    with pytest.raises(InputError, match="holds no model yet"):
        in_cluster.fetch(str(served), target)
    for name in FILES:
        (served / name).write_bytes(name.encode())
    in_cluster.fetch(str(served), target)
    assert {path.name for path in target.iterdir()} == set(FILES)
