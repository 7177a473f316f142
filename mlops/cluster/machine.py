"""The machine and the cluster on it: the tools that have to be there, kubectl's context, the memory of the nodes."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.escape import say
from mlops.cluster import capacity
from mlops.cluster.capacity import KFP, quantity
from mlops.cluster.doors import DOORS, is_free
from mlops.cluster.images import way_to_nodes
from mlops.cluster.kubectl import NAME, NAMESPACES, TRIES, Kubectl, run
from mlops.cluster.secrets import secrets_of

TOOLS = {
    "docker": "docs.docker.com/get-docker",
    "git": "git-scm.com",
    "k3d": "k3d.io",
    "kind": "kind.sigs.k8s.io",
    "kubectl": "kubernetes.io/docs/tasks/tools",
    "make": "gnu.org/software/make",
    "minikube": "minikube.sigs.k8s.io",
}
# what a machine of 8 GiB has left for Docker: requests, and what has none, as the files that are read
MEMORY_GIB = 7.0
# which cluster is meant from `up` to `down`: the Makefile's CLUSTER, unless it is said
REMEMBERED = "cluster"
KUBECTL = (1, 27)


class Kind(StrEnum):
    """The clusters that can be used."""

    kind = "kind"
    minikube = "minikube"
    existing = "existing"


Cluster = Annotated[Kind, typer.Option(envvar="CLUSTER", help="Which cluster.")]


def check(cluster: Kind, build: bool) -> None:
    """What is missing, one line each, before anything is touched.

    Raises:
        InputError: something is missing.
    """
    needed = {"kubectl", "git"}
    if cluster is not Kind.existing:
        needed |= {cluster.value, "docker"}
    elif build and shutil.which("kubectl") and (bring := way_to_nodes(_context_name(cluster))):
        needed |= {"minikube" if "minikube" in bring[-2] else bring[0], "docker"}
    if build and "docker" in needed:
        needed |= {"make"}
    problems = [f"{tool} isn't installed ({TOOLS[tool]})" for tool in sorted(needed) if not shutil.which(tool)]
    if not problems:
        problems += _old_kubectl()
        problems += _small_docker() if cluster is not Kind.existing else []
    for problem in problems:
        say(f"Error: {problem}", err=True)
    for name, (*_, port) in DOORS.items():
        if not is_free(port):
            typer.echo(f"Note: port {port} is in use, which `make open` needs for {name}", err=True)
    if problems:
        raise InputError("nothing was done")


def _old_kubectl() -> Iterator[str]:
    found = json.loads(run("kubectl", "version", "--client", "--output=json"))["clientVersion"]
    version = int(found["major"]), int(re.match(r"\d+", found["minor"])[0])  # type: ignore[index]
    if version < KUBECTL:
        yield f"kubectl {version[0]}.{version[1]} is too old; {KUBECTL[0]}.{KUBECTL[1]} or newer is needed"


def _docker() -> dict[str, Any]:
    return dict(json.loads(run("docker", "info", "--format={{json .}}", seconds=30)))


def _small_docker() -> Iterator[str]:
    try:
        gib = _docker().get("MemTotal", 0) / 2**30
    except MlopsError:
        yield "Docker doesn't answer; start it"
        return
    if gib < MEMORY_GIB:
        yield f"Docker has {gib:.1f} GiB of memory; the platform and a retraining need {MEMORY_GIB:g}"


def _small_cluster(kubectl: Kubectl, cpus: float) -> None:
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    gib = sum(quantity(node["status"]["allocatable"]["memory"]) for node in nodes) / 2**30
    free = sum(quantity(node["status"]["allocatable"]["cpu"]) for node in nodes) - _asked_by_others(kubectl)
    # to a hundredth, as sums of floats are
    if gib < MEMORY_GIB - 0.5 or round(free, 2) < round(cpus, 2):
        raise InputError(
            f"the cluster has {gib:.1f} GiB for pods and {free:.2f} CPUs that no other pod asks for; "
            f"{MEMORY_GIB - 0.5:g} and {cpus:.2f} are needed"
        )


def _asked_by_others(kubectl: Kubectl) -> float:
    pods = json.loads(kubectl("get", "pods", "--all-namespaces", "--output=json", tries=TRIES))["items"]
    return sum(
        capacity.of_pod(pod["spec"]).cpu
        for pod in pods
        if pod["metadata"]["namespace"] not in NAMESPACES
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


def node_memory(kubectl: Kubectl) -> int:
    """The bytes that the largest node has for pods."""
    nodes = json.loads(kubectl("get", "nodes", "--output=json", tries=TRIES))["items"]
    return int(max(quantity(node["status"]["allocatable"]["memory"]) for node in nodes))


def tell_node_memory(objects: Iterable[dict[str, Any]], kubectl: Kubectl) -> None:
    """Lets the CronJobs refuse at once what no node could hold."""
    for found in objects:
        if (found["kind"], found["metadata"]["name"]) == ("ConfigMap", "mlops-client"):
            found["data"]["MLOPS_NODE_MEMORY"] = str(node_memory(kubectl))


def ensure_cluster(cluster: Kind, cpus: float) -> Kubectl:
    """The cluster, made where it isn't there, with as many CPUs for pods."""
    if cluster is not Kind.existing and (has := _docker().get("NCPU", 0)) < (wants := cpus + capacity.SYSTEM.cpu):
        raise InputError(f"Docker has {has} CPUs; the platform and a retraining need {wants:.2f}")
    if cluster is Kind.kind and NAME not in run("kind", "get", "clusters").split():
        run("kind", "create", "cluster", "--name", NAME, "--wait", "180s", seconds=1200)
    if cluster is Kind.minikube:
        # does nothing where it runs; Calico, as minikube's own network knows no policies
        run(
            "minikube",
            "start",
            "--profile",
            NAME,
            f"--cpus={math.ceil(cpus + capacity.SYSTEM.cpu)}",
            "--memory=7g",
            "--cni=calico",
            seconds=1800,
        )
    kubectl = context_of(cluster)
    _small_cluster(kubectl, cpus)
    return kubectl


def context_of(cluster: Kind) -> Kubectl:
    """The kubectl of a cluster that is there."""
    if not shutil.which("kubectl"):
        raise InputError(f"kubectl isn't installed ({TOOLS['kubectl']})")
    context, here = _context_name(cluster), f"CLUSTER={cluster.value}"
    kubectl = Kubectl(context)
    try:
        kubectl("version", "--output=json", "--request-timeout=20s", tries=2)
    except MlopsError as error:
        make = (
            "kubectl's current context names it" if cluster is Kind.existing else f"`make cluster-up {here}` makes one"
        )
        others = " or ".join(f"CLUSTER={other.value}" for other in Kind if other is not cluster)
        raise InputError(f"no cluster answers as {context} ({here}); {make}, and {others} means another") from error
    return kubectl


def _context_name(cluster: Kind) -> str:
    if cluster is not Kind.existing:
        return f"kind-{NAME}" if cluster is Kind.kind else NAME
    try:
        return run("kubectl", "config", "current-context").strip()
    except MlopsError as error:
        raise InputError("kubectl has no current context; `kubectl config use-context` sets one") from error


def place(found: Mapping[str, Any]) -> tuple[str | None, str]:
    return found["metadata"].get("namespace"), found["metadata"]["name"]


def is_foreign(kubectl: Kubectl) -> bool:
    """Whether there is a Kubeflow Pipelines without what steps are given here."""
    names = {found["metadata"]["name"] for found in kubectl.items("deployments", KFP)}
    return "ml-pipeline" in names and "mlops-pipeline" not in secrets_of(kubectl, KFP)


def remembered() -> Path:
    return Path(os.environ.get("WORK", "work"), REMEMBERED)
