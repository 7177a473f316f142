"""Waiting until what was applied works, and saying what doesn't."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from matchmaking.base.errors import MlopsError
from mlops.cluster.kubectl import NAMESPACES, POLL_SECONDS, Kubectl
from mlops.cluster.secrets import SEED

JOBS = ("setup-store", "setup-mlflow", SEED)


def wait_until_ready(
    kubectl: Kubectl, objects: list[dict[str, Any]], deadline: float, say: Callable[..., None]
) -> None:
    """Waits until every Deployment is available and every Job of ours has succeeded; says what isn't, and why."""
    wanted = {
        (found["kind"], found["metadata"]["namespace"], found["metadata"]["name"])
        for found in objects
        if found["kind"] in ("Deployment", "Job")
    }
    while True:
        done = set()
        troubles: dict[str, str] = {}
        for namespace in NAMESPACES:
            troubles |= troubles_of(kubectl, namespace)
            for found in kubectl.items("deployments", namespace):
                if is_available(found):
                    done.add(("Deployment", namespace, found["metadata"]["name"]))
            for found in kubectl.items("jobs", namespace):
                name = found["metadata"]["name"]
                if job_state(found) == "failed" and name in JOBS:
                    try:
                        last = kubectl("logs", f"job/{name}", "--namespace", namespace, "--tail=5").strip()
                    except MlopsError:  # past its deadline a Job's pods are deleted
                        last = "its pods are gone: it took too long"
                    raise MlopsError(f"the Job {name} failed; `make logs STEP={name}` shows more:\n{last}")
                if job_state(found) == "done":
                    done.add(("Job", namespace, name))
                elif (failed := found.get("status", {}).get("failed", 0)) and name in JOBS:
                    troubles[f"job {name}"] = f"failed ({failed}), and is tried again; `make logs STEP={name}` has why"
        missing = sorted(name for _, _, name in wanted - done)
        if not missing:
            return
        if time.monotonic() > deadline:
            for pod, why in troubles.items():
                say(f"  {pod}: {why}", err=True)
            raise MlopsError(
                f"not ready in time: {', '.join(missing)}; `make status` and `make logs STEP=...` show more"
            )
        blocked = "".join(f"; {what}: {why}" for what, why in sorted(troubles.items())[:3])
        # that an image is pulled in vain, and then waited for, over and over, is nothing new
        say(
            f"{len(wanted) - len(missing)} of {len(wanted)}, waiting for {', '.join(missing[:3])}{blocked}",
            missing,
            sorted(troubles),
        )
        time.sleep(POLL_SECONDS)


def is_available(deployment: Mapping[str, Any]) -> bool:
    """Whether all its pods are the newest and serve, as `kubectl rollout status` decides it."""
    wanted, found = deployment["spec"].get("replicas", 1), deployment.get("status", {})
    return found.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0) and all(
        found.get(key, 0) == wanted for key in ("replicas", "updatedReplicas", "availableReplicas")
    )


def is_scaled_to_none(deployment: Mapping[str, Any]) -> bool:
    """Whether it is to have no pods, as a challenger that was stopped."""
    return bool(deployment["spec"].get("replicas", 1) == 0)


def job_state(job: Mapping[str, Any]) -> str:
    conditions = {each["type"] for each in job.get("status", {}).get("conditions", []) if each["status"] == "True"}
    return "done" if "Complete" in conditions else "failed" if "Failed" in conditions else "running"


def troubles_of(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """Why pods don't start, by pod; what merely takes its time isn't named."""
    found = {}
    for pod in kubectl.items("pods", namespace):
        status = pod.get("status", {})
        for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            waiting = each.get("state", {}).get("waiting", {})
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                found[pod["metadata"]["name"]] = f"{waiting['reason']} {waiting.get('message', '')}".strip()[:300]
        for each in status.get("conditions", []):
            if each["type"] == "PodScheduled" and each["status"] == "False":
                found[pod["metadata"]["name"]] = each.get("message", "can't be scheduled")[:300]
    return found
