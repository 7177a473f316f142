"""What the manifests ask a cluster for: `kubectl kustomize manifests/overlays/kind | python -m mlops.cluster.capacity`.

Prints the table of docs/cluster.md, which `make cluster-up` goes by, too, and the images that are pulled.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

PLATFORM, KFP = "legalaid-mlops", "kubeflow"


@dataclass(frozen=True)
class Requests:
    """What pods are sure to get.

    Attributes:
        cpu: CPUs.
        memory: bytes.
    """

    cpu: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Requests) -> Requests:
        return Requests(self.cpu + other.cpu, self.memory + other.memory)


# Kubernetes' own pods on the one node of kind, about, where all of it are pods
SYSTEM = Requests(0.95, 0.3 * 2**30)
# KFP's own, of the pod that starts the next step
DRIVER = Requests(0.1, 64 * 2**20)


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number: "500m" is 0.5, "1Gi" is 2**30."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text)).groups()  # type: ignore[union-attr]
    powers = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
    return float(number) * powers[unit]


def of_pod(spec: Mapping[str, Any]) -> Requests:
    """What the scheduler counts for a pod: its containers together, or one that runs before them, if that is more."""

    def asked(container: Mapping[str, Any], kind: str) -> float:
        return quantity(container.get("resources", {}).get("requests", {}).get(kind, 0))

    def counted(kind: str) -> float:
        before = [asked(each, kind) for each in spec.get("initContainers", [])]
        return max(sum(asked(each, kind) for each in spec["containers"]), *before, 0)

    return Requests(counted("cpu"), counted("memory"))


def rows(objects: Iterable[Mapping[str, Any]]) -> dict[str, Requests]:
    """What runs at once when the largest step of a pipeline does, but for Kubernetes itself; their sum is asked for.

    Steps that run side by side wait for each other where there is no room for both, so one has to fit.
    """
    from mlops.cluster import in_cluster
    from pipelines import memory
    from pipelines.pods import PODS

    running = {KFP: Requests(), PLATFORM: Requests()}
    submits, others = [Requests()], Requests()
    for found in objects:
        spec, place = found.get("spec", {}), found["metadata"].get("namespace")
        if found["kind"] == "Deployment":
            running[KFP if place == KFP else PLATFORM] += of_pod(spec["template"]["spec"])
        elif found["kind"] == "CronJob":
            pod = of_pod(spec["jobTemplate"]["spec"]["template"]["spec"])
            if place == PLATFORM:
                submits.append(pod)
            else:
                others += pod
    step = Requests(
        max(quantity(pod.cpu) for pod in PODS.values()),
        max(
            memory.in_bytes(memory.of_rows("retrain", in_cluster.ROWS)),
            *(quantity(pod.memory) for pod in PODS.values()),
        ),
    )
    return {
        "Kubeflow Pipelines": running[KFP],
        "the store, PostgreSQL, MLflow": running[PLATFORM],
        "a CronJob's pod that submits a run": max(submits, key=lambda each: (each.cpu, each.memory)),
        "the CronJob `reconcile`": others,
        "the largest step (of the sample data), and KFP's driver of the next": step + DRIVER,
    }


def needed(objects: Iterable[Mapping[str, Any]]) -> Requests:
    """What has to be free on a cluster."""
    return sum(rows(objects).values(), Requests())


def images(objects: Iterable[Mapping[str, Any]]) -> set[str]:
    """Every image that the objects name, those of the pods of runs included."""

    def named(part: Any) -> Iterator[str]:
        if isinstance(part, Mapping):
            if isinstance(part.get("image"), str):
                yield part["image"]
            # KFP's driver and launcher, Argo's executor
            if str(part.get("name", "")).endswith("_IMAGE") and part.get("value"):
                yield part["value"]
            arguments = part.get("args") or []
            yield from (after for before, after in pairwise(arguments) if before == "--executor-image")
            for each in part.values():
                yield from named(each)
        elif isinstance(part, list):
            for each in part:
                yield from named(each)

    return {name for found in objects if found["kind"] in ("Deployment", "Job", "CronJob") for name in named(found)}


def table(objects: Iterable[Mapping[str, Any]]) -> str:
    """The requests in Markdown, with Kubernetes' own on kind, and the images by who made them."""
    listed = list(objects)
    parts = {"Kubernetes itself (kind, about)": SYSTEM, **rows(listed)}
    parts["**sum**"] = sum(parts.values(), Requests())
    lines = ["| | CPUs | GiB |", "|---|---:|---:|"]
    for name, each in parts.items():
        cells = f"{each.cpu:.2f}", f"{each.memory / 2**30:.2f}"
        lines.append(
            f"| {name} | " + " | ".join(f"**{cell}**" if name.startswith("**") else cell for cell in cells) + " |"
        )
    ours = sorted(name for name in images(listed) if "/mlops-" in name)
    theirs = sorted(name.partition("@")[0] for name in images(listed) if name not in ours)
    said = "; ".join(f"`{name}`" for name in theirs)
    return "\n".join(
        [*lines, "", f"Images that are pulled: {len(theirs)}, beside the {len(ours)} named here of ours: {said}."]
    )


if __name__ == "__main__":
    import yaml

    print(table(found for found in yaml.safe_load_all(sys.stdin) if found))
