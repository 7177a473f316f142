"""What pods run besides pipelines: `restart` against a stand-in for the Kubernetes API over HTTP, `fetch` on a folder.

`seed` runs in tests/services/test_platform_containers.py, on a real store and tracking server.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from matchmaking.base import settings
from matchmaking.base.errors import InputError, MlopsError
from matchmaking.model.production import FILES
from mlops.cluster import deployments, in_cluster
from mlops.kubeflow import lateness
from tests.hostile import ESCAPES
from tests.manifests.conftest import MANIFESTS


class Api:
    """One Deployment, whose new pods serve at the `slow`-th look."""

    def __init__(self) -> None:
        self.slow, self.looks, self.status = 1, 0, 200
        self.requests: list[tuple[str, str, Any]] = []

    def answer(self, method: str, path: str, body: Any) -> dict[str, Any]:
        self.requests.append((method, path, body))
        self.looks += method == "GET"
        count = 1 if self.looks >= self.slow else 0
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "legalaid-ml", "generation": 7},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"observedGeneration": 7, "replicas": 1, "updatedReplicas": count, "availableReplicas": 1},
        }


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Api]]:
    """What the API server has; the last one answers."""
    from kubernetes import client, config

    states: list[Api] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state = states[-1]
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
    monkeypatch.setattr(deployments, "POLL_SECONDS", 0.01)
    yield states
    server.shutdown()
    server.server_close()
    client.Configuration.set_default(None)


@pytest.fixture
def api(states: list[Api]) -> Api:
    states.append(Api())
    return states[-1]


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


class Challenger(Api):
    """The challenger's Deployment and its scale, as the API server and the controller have them, by the Role's rights.

    What is asked without a right is 403, and a patch of what has changed since it was looked at 409. The controller
    sees a change at the `slow`-th look after it, and from then on each look finds one pod fewer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.experiment, self.version, self.generation, self.wanted = "ranking-1", 40, 7, 2
        # seconds that a pod that is about to end may answer for
        self.grace = 0
        self.slow, self.seen, self.pods, self.updated = 2, 7, 2, 2
        # who changes it between a look and the patch that follows
        self.meanwhile: list[Callable[[], None]] = []
        # what the next requests are answered by
        self.refuses: list[int] = []
        self.rules = next(yaml.safe_load_all((MANIFESTS / "serving" / "experiment" / "stop.yaml").read_text()))["rules"]

    def answer(self, method: str, path: str, body: Any) -> dict[str, Any]:
        self.requests.append((method, path, body))
        self.status = 200
        _, _, group, _, _, namespace, kind, name, *sub = path.split("/")
        asked = (group, "/".join([kind, *sub]), name, method.lower())
        given = {
            (of, resource, named, verb)
            for rule in self.rules
            for of in rule["apiGroups"]
            for resource in rule["resources"]
            for named in rule["resourceNames"]
            for verb in rule["verbs"]
        }
        if self.refuses:
            self.status = self.refuses.pop()
            return {}
        if asked not in given or namespace != "legalaid-mlops":
            self.status = 403
            return {}
        if method == "PATCH":
            return self.scale(body)
        if self.seen < self.generation:
            self.looks += 1
            self.seen = self.generation if self.looks >= self.slow else self.seen
        elif self.pods > self.wanted:
            self.pods -= 1
        found = self.deployment()
        if self.meanwhile and self.wanted:
            self.meanwhile.pop()()
        return found

    def deployment(self) -> dict[str, Any]:
        text = (MANIFESTS / "serving" / "experiment" / "gateway.yaml").read_text()
        env = [{"name": "EXPERIMENT_SERVED", "value": text.replace("ranking-1", self.experiment)}]
        init = [{"name": "fetch", "env": env if self.experiment else []}]
        pod = {"containers": [{"name": "service"}], "initContainers": init, "terminationGracePeriodSeconds": self.grace}
        # what is 0 isn't in a status
        counts = {"replicas": self.pods, "updatedReplicas": min(self.updated, self.pods)}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "it", "generation": self.generation, "resourceVersion": str(self.version)},
            "spec": {"replicas": self.wanted, "selector": {}, "template": {"spec": pod}},
            "status": {"observedGeneration": self.seen, **{key: count for key, count in counts.items() if count}},
        }

    def scale(self, body: Any) -> dict[str, Any]:
        if body["metadata"].get("resourceVersion", str(self.version)) != str(self.version):
            self.status = 409
            return {}
        assert body.keys() == {"metadata", "spec"} and body["spec"].keys() == {"replicas"}
        self.change(wanted=body["spec"]["replicas"])
        return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {}, "spec": body["spec"]}

    def change(self, **to: Any) -> None:
        vars(self).update(to)
        self.version, self.generation, self.looks = self.version + 1, self.generation + 1, 0


DEPLOYMENT = "/apis/apps/v1/namespaces/legalaid-mlops/deployments/legalaid-ml-challenger"
STOP = ("legalaid-mlops", "legalaid-ml-challenger")


@pytest.fixture
def challenger(states: list[Api]) -> Challenger:
    found = Challenger()
    states.append(found)
    return found


def test_an_experiment_is_stopped_by_its_challengers_scale(
    challenger: Challenger, capsys: pytest.CaptureFixture[str]
) -> None:
    in_cluster.stop_experiment(*STOP, "ranking-1")
    assert (challenger.wanted, challenger.pods) == (0, 0)
    (patch,) = [each for each in challenger.requests if each[0] == "PATCH"]
    # as it was when its experiment was seen
    assert patch == ("PATCH", f"{DEPLOYMENT}/scale", {"metadata": {"resourceVersion": "40"}, "spec": {"replicas": 0}})
    # the controller is waited for, and then the pods: four looks, after that before the change
    assert [path for method, path, _ in challenger.requests if method == "GET"] == [DEPLOYMENT] * 5
    assert "has no pods any more: the gateway answers for ranking-1 from the champion" in capsys.readouterr().out
    # a second time changes nothing, and waits as long for those that are about to end
    challenger.requests.clear()
    challenger.grace, begun = 1, time.monotonic()
    in_cluster.stop_experiment(*STOP, "ranking-1")
    assert time.monotonic() - begun >= 1
    assert [method for method, _, _ in challenger.requests] == ["GET"]


def test_another_experiments_challenger_is_not_stopped(
    challenger: Challenger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cluster.stop_experiment(*STOP, "ranking-0")
    assert "is ranking-1's by now, and ranking-0 isn't served there: nothing was changed" in capsys.readouterr().out
    # what it became between the look and the patch counts, and other changes don't keep it from being stopped
    challenger.meanwhile = [lambda: challenger.change(experiment="ranking-2")]
    in_cluster.stop_experiment(*STOP, "ranking-1")
    assert challenger.wanted == 2 and "is ranking-2's by now" in capsys.readouterr().out
    # new pods that don't start leave the old ones, which are another experiment's
    challenger.updated = 1
    monkeypatch.setattr(settings, "EXPERIMENT_STOP_SECONDS", 0.3)
    out = "kubectl set env deployment/experiment-gateway EXPERIMENT_MODE=off -n legalaid-mlops"
    with pytest.raises(MlopsError, match=f"legalaid-ml-challenger still has pods of ranking-1.*{out}"):
        in_cluster.stop_experiment(*STOP, "ranking-1")
    assert challenger.wanted == 2
    challenger.experiment = ""
    with pytest.raises(InputError, match=rf"doesn't say whose challenger it is \(EXPERIMENT_SERVED\); `{out}`"):
        in_cluster.stop_experiment(*STOP, "ranking-1")


def test_what_changes_meanwhile_is_looked_at_again(challenger: Challenger) -> None:
    challenger.meanwhile = [lambda: challenger.change(wanted=3), lambda: challenger.change(wanted=1)]
    in_cluster.stop_experiment(*STOP, "ranking-1")
    assert [method for method, _, _ in challenger.requests].count("PATCH") == 3 and challenger.pods == 0


def test_an_api_that_is_busy_is_asked_again(challenger: Challenger, monkeypatch: pytest.MonkeyPatch) -> None:
    challenger.refuses = [429, 500, 503]
    in_cluster.stop_experiment(*STOP, "ranking-1")
    assert challenger.pods == 0 and challenger.refuses == []
    challenger.refuses = [503] * 10_000
    monkeypatch.setattr(settings, "EXPERIMENT_STOP_SECONDS", 0.3)
    with pytest.raises(MlopsError, match="can't be stopped for ranking-1: Service Unavailable"):
        in_cluster.stop_experiment(*STOP, "ranking-1")


def test_what_the_api_refuses_stops_nobody(challenger: Challenger) -> None:
    challenger.rules = challenger.rules[:1]
    with pytest.raises(MlopsError, match="legalaid-ml-challenger can't be stopped for ranking-1: Forbidden"):
        in_cluster.stop_experiment(*STOP, "ranking-1")
    assert challenger.wanted == 2
    # nothing else in the namespace is open to it
    with pytest.raises(MlopsError, match="experiment-gateway can't be stopped for ranking-1: Forbidden"):
        in_cluster.stop_experiment("legalaid-mlops", "experiment-gateway", "ranking-1")


def test_a_challenger_whose_pods_stay_was_not_stopped(challenger: Challenger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what a status says that was there before the change, nor a pod that is left, is an end."""
    monkeypatch.setattr(settings, "EXPERIMENT_STOP_SECONDS", 0.3)
    challenger.slow, challenger.pods = 1000, 0
    with pytest.raises(MlopsError, match="still has pods of ranking-1"):
        in_cluster.stop_experiment(*STOP, "ranking-1")
    assert challenger.wanted == 0
    challenger.slow, challenger.pods = 0, 1000
    with pytest.raises(MlopsError, match="still has pods of ranking-1"):
        in_cluster.stop_experiment(*STOP, "ranking-1")


def test_where_the_challenger_is_gone_nothing_is_left_to_stop(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.status = 404
    in_cluster.stop_experiment(*STOP, "ranking-1")
    assert "legalaid-ml-challenger isn't there" in capsys.readouterr().out
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
