"""The manifests' network policies, evaluated: who reaches whom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from mlops.cluster.capacity import KFP, PLATFORM
from tests.manifests.conftest import (
    CLOSED,
    Build,
    Object,
    _key,
    _labels,
    _ports,
    containers,
    named,
    pods,
    selects,
    with_experiment,
    with_serving,
)


class Network:
    """Who may talk to whom: NetworkPolicies, evaluated as their API says (no ipBlock, no endPort: none here)."""

    def __init__(self, objects: list[Object]) -> None:
        # of upstream's policies the stand-in knows the names
        self.policies = [each for each in objects if each["kind"] == "NetworkPolicy" and each.get("spec")]

    @staticmethod
    def chosen(selector: Object | None, labels: dict[str, str]) -> bool:
        selector = selector or {}
        assert set(selector) <= {"matchLabels", "matchExpressions"}
        for rule in selector.get("matchExpressions", []):
            assert rule["operator"] == "In"
            if labels.get(rule["key"]) not in rule["values"]:
                return False
        return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())

    def _side(
        self, direction: str, here: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]], port: int
    ) -> bool:
        key = "from" if direction == "Ingress" else "to"
        on = [
            each
            for each in self.policies
            if each["metadata"]["namespace"] == here[0]
            and direction in each["spec"]["policyTypes"]
            and self.chosen(each["spec"]["podSelector"], here[1])
        ]
        if not on:
            return True
        for policy in on:
            for rule in policy["spec"].get(direction.lower(), []):
                if "ports" in rule and port not in {each["port"] for each in rule["ports"]}:
                    continue
                for peer in rule.get(key, [{}]):
                    place = {"kubernetes.io/metadata.name": other[0]}
                    if "namespaceSelector" in peer:
                        there = self.chosen(peer["namespaceSelector"], place)
                    else:
                        there = not peer or other[0] == here[0]
                    if there and self.chosen(peer.get("podSelector"), other[1]):
                        return True
        return False

    def allows(self, source: tuple[str, dict[str, str]], target: tuple[str, dict[str, str]], port: int) -> bool:
        return self._side("Egress", source, target, port) and self._side("Ingress", target, source, port)


SERVING = ("legalaid-ml", "legalaid-ml-challenger", "experiment-gateway")
OURS = ("minio", "postgres", "mlflow", "dashboard", "setup-store", "setup-mlflow", "seed", "mlops-client", *SERVING)
PEERS: dict[str, tuple[str, dict[str, str]]] = {
    **{name: (PLATFORM, {"app": name}) for name in OURS},
    "mlops-reconcile": (KFP, {"app": "mlops-reconcile"}),
    "step": (KFP, {"pipelines.kubeflow.org/v2_component": "true"}),
    "ml-pipeline": (KFP, {"app": "ml-pipeline"}),
    "ml-pipeline-ui": (KFP, {"app": "ml-pipeline-ui"}),
    "workflow-controller": (KFP, {"app": "workflow-controller"}),
    "mysql": (KFP, {"app": "mysql"}),
    "seaweedfs": (KFP, {"app": "seaweedfs"}),
    "stranger": ("default", {"app": "mlflow"}),
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
}
KFPS = ("step", "mlops-reconcile", "ml-pipeline", "ml-pipeline-ui", "workflow-controller", "mysql")


def reachable(objects: list[Object], target: str, port: int) -> set[str]:
    network = Network(objects)
    return {name for name, peer in PEERS.items() if name != target and network.allows(peer, PEERS[target], port)}


def test_network_policies_allow_what_is_needed_and_no_more(build: Build) -> None:
    objects = with_experiment(build)
    named(objects, "NetworkPolicy", "default-deny", PLATFORM)
    assert reachable(objects, "postgres", 5432) == {"mlflow"}
    assert reachable(objects, "mlflow", 5000) == {"step", "mlops-reconcile", "setup-mlflow", "seed", "dashboard"}
    assert reachable(objects, "dashboard", 8080) == set()
    assert reachable(objects, "minio", 9000) - {"seaweedfs"} == {
        "mlflow",
        "setup-store",
        "seed",
        "mlops-client",
        *SERVING,
        *KFPS,
    }
    assert reachable(objects, "minio", 9001) == set()
    assert reachable(objects, "dns", 53) >= set(OURS)
    assert reachable(objects, "legalaid-ml", 8000) & set(OURS) == {"experiment-gateway"}
    assert reachable(objects, "legalaid-ml-challenger", 8000) == {"experiment-gateway"}
    assert reachable(objects, "experiment-gateway", 8000) >= {"stranger", "step"}
    assert reachable(objects, "experiment-gateway", 8000) & set(OURS) == set()
    assert reachable(with_serving(build), "legalaid-ml", 8000) & set(OURS) == set()
    assert reachable(objects, "stranger", 443) & set(OURS) == set()


def test_network_policies_with_seaweedfs(build: Build) -> None:
    objects = build("object-store/seaweedfs")
    assert reachable(objects, "seaweedfs", 8333) - set(KFPS) == {"mlflow", "seed", "mlops-client", *SERVING}
    for port in (9333, 19333, 8888, 18888):
        assert "setup-store" in reachable(objects, "seaweedfs", port)
        assert "mlflow" not in reachable(objects, "seaweedfs", port)
    assert "stranger" not in reachable(objects, "seaweedfs", 8333)


# who has to reach what in KFP's namespace, by Deployment and port; from elsewhere nobody reaches anything
FLOWS = {
    # the UI and its API; the API server's clients; KFP's driver and launcher in the pods of runs; the CronJobs
    ("ml-pipeline", 8888): {"ml-pipeline-ui", "ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow"},
    ("ml-pipeline", 8887): {"ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow", "step"},
    ("mysql", 3306): {"ml-pipeline", "metadata-grpc-deployment"},
    ("metadata-grpc-deployment", 8080): {"ml-pipeline", "metadata-envoy-deployment", "step"},
    ("metadata-envoy-deployment", 9090): {"ml-pipeline-ui"},
}
CLIENTS = {"ml-pipeline-ui", "ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow", "step"}


def peers(objects: list[Object]) -> dict[str, tuple[str, dict[str, str]]]:
    """Every pod that is installed, by its workload; those of a run; and such as are labelled like them elsewhere."""
    found = {
        name.split()[1] if name.startswith("Deployment") else name: (place, _labels(pod))
        for place, name, pod in pods(objects)
    }
    found["step"] = PEERS["step"]
    elsewhere = {f"{name} in default": ("default", labels) for name, (_, labels) in found.items()}
    return {**found, **elsewhere, "anything in default": ("default", {}), "anything": ("kube-system", {})}


@pytest.mark.parametrize("overlay", CLOSED)
def test_kubeflow_is_closed_but_for_what_it_needs(build: Build, overlay: str) -> None:
    """From any pod that reaches KFP's API a run may be started under any of its Secrets: it has no users."""
    objects = build(overlay)
    network, around = Network(objects), peers(objects)
    clients = {name for name, (place, _) in around.items() if name.startswith("CronJob ") and place != "default"}
    assert len(clients) >= 4
    for place, name, pod in pods(objects):
        target = name.split()[1]
        if place != KFP or target == "seaweedfs":  # which has a test of its own
            continue
        for port in {port for each in containers(pod) for port in _ports(each).values()} | {1, 22}:
            reach = {
                who for who, peer in around.items() if who != target and network.allows(peer, (KFP, _labels(pod)), port)
            }
            assert FLOWS.get((target, port), set()) <= reach, f"{target}:{port}"
            if target == "ml-pipeline" and port in (8887, 8888):
                assert reach <= CLIENTS | clients
                assert port != 8888 or clients <= reach
            else:
                assert reach == FLOWS.get((target, port), set()), f"{target}:{port}"
    assert not [who for who, peer in around.items() if network.allows(peer, PEERS["step"], 8080) and who != "step"]


def test_a_shared_kubeflow_stays_as_open_as_it_was(build: Build) -> None:
    objects = build("overlays/shared")
    ours = [each for each in objects if each["kind"] == "NetworkPolicy" and each["metadata"]["namespace"] == KFP]
    assert [each["metadata"]["name"] for each in ours] == []
    assert "stranger" in reachable(objects, "ml-pipeline", 8888)
    closed = {_key(each) for each in build("overlays/existing")} - {_key(each) for each in objects}
    assert {kind for kind, *_ in closed} == {"NetworkPolicy"}


def test_cronjobs_reach_the_api_they_are_told(build: Build, overlay: str) -> None:
    objects = build(overlay)
    client = named(objects, "ConfigMap", "mlops-client")["data"]
    network = Network(objects)
    crons = [(there, name, pod) for there, name, pod in pods(objects) if name.startswith("CronJob")]
    assert len(crons) >= 4
    for there, name, pod in crons:
        (container,) = pod["spec"]["containers"]
        own = {each["name"]: each.get("value") for each in container.get("env", [])}
        host = own.get("MLOPS_KFP_HOST") or client["MLOPS_KFP_HOST"]
        service, place, port = re.fullmatch(  # type: ignore[union-attr]
            r"http://([\w-]+)(?:\.([\w-]+)\.svc\.cluster\.local)?:(\d+)", host
        ).groups()
        found = named(objects, "Service", service, place or there)["spec"]
        (to,) = [each.get("targetPort", each["port"]) for each in found["ports"] if each["port"] == int(port)]
        target = next(
            pod for where, _, pod in pods(objects) if where == (place or there) and selects(found["selector"], pod)
        )
        known = {key: value for each in containers(target) for key, value in _ports(each).items()}
        where = ((there, _labels(pod)), (place or there, _labels(target)))
        assert network.allows(*where, known.get(to, to)), f"{name}: {host}"


def _chosen_labels(part: Any) -> Iterator[tuple[str, str]]:
    """Every label that a policy asks of pods."""
    if isinstance(part, list):
        for each in part:
            yield from _chosen_labels(each)
    elif isinstance(part, dict):
        yield from part.get("matchLabels", {}).items()
        for rule in part.get("matchExpressions", []):
            yield from ((rule["key"], value) for value in rule["values"])
        for key, each in part.items():
            if key not in ("matchLabels", "matchExpressions", "namespaceSelector"):
                yield from _chosen_labels(each)


def test_policies_select_pods_that_there_are(build: Build) -> None:
    """A label that is written wrong selects nothing, and denies or allows in silence."""
    everything = [with_experiment(build), build("object-store/seaweedfs")]
    there = {pair for objects in everything for _, _, pod in pods(objects) for pair in _labels(pod).items()}
    there |= set(PEERS["step"][1].items())
    checked = 0
    for policy in (each for objects in everything for each in objects if each["kind"] == "NetworkPolicy"):
        for pair in _chosen_labels(policy.get("spec", {})):
            assert pair in there, f"{policy['metadata']['name']}: {pair}"
            checked += 1
    assert checked > 40


def test_policies_open_ports_that_pods_have(build: Build) -> None:
    objects = with_serving(build)
    for policy in (each for each in objects if each["kind"] == "NetworkPolicy"):
        namespace, selector = policy["metadata"]["namespace"], policy["spec"]["podSelector"]
        chosen = [
            pod for place, _, pod in pods(objects) if place == namespace and Network.chosen(selector, _labels(pod))
        ]
        there = {port for pod in chosen for each in containers(pod) for port in _ports(each).values()}
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= there, policy["metadata"]["name"]
