"""What the platform asks for, and that it fits where the documents say it does."""

from __future__ import annotations

import math

import pytest

from mlops.cluster import capacity, machine
from mlops.cluster.capacity import quantity
from pipelines import pods as step_pods
from tests.manifests.conftest import (
    ROOT,
    Build,
    Object,
)


def test_it_fits_three_cpus_and_eight_gib(build: Build, overlay: str) -> None:
    """The sum of the requests of all that runs at once, with the largest step of a pipeline."""
    needed = capacity.needed(build(overlay))
    there = needed + capacity.SYSTEM
    assert there.cpu <= 3 and needed.cpu <= 2
    assert there.memory <= machine.MEMORY_GIB * 2**30 < 8 * 2**30


def test_the_documents_say_what_it_takes(build: Build) -> None:
    objects, page = build("overlays/kind"), (ROOT / "docs" / "cluster.md").read_text()
    said = capacity.table(objects)
    assert said in page, f"docs/cluster.md doesn't have:\n\n{said}"
    there = capacity.needed(objects) + capacity.SYSTEM
    assert f"Docker with {math.ceil(there.cpu)} CPUs and 8 GiB ({machine.MEMORY_GIB:g} are asked for)" in page


def test_requests_of_a_pod_are_what_the_scheduler_counts() -> None:
    def asks(cpu: str, memory: str) -> Object:
        return {"resources": {"requests": {"cpu": cpu, "memory": memory}}}

    # the containers at once; of those before them, one at a time
    pod = {
        "initContainers": [asks("2", "1Mi"), asks("1", "2Mi")],
        "containers": [asks("500m", "2Mi"), asks("1", "1Gi"), {}],
    }
    assert capacity.of_pod(pod) == capacity.Requests(2.0, 2**30 + 2**21)
    assert capacity.of_pod({"containers": [{}]}) == capacity.Requests()


def test_every_step_is_within_what_is_asked_for(build: Build) -> None:
    """Of a run on the sample data; of larger data `submit` says what it asks for."""
    steps = capacity.rows(build("overlays/kind"))["the largest step (of the sample data), and KFP's driver of the next"]
    for pod in step_pods.PODS.values():
        assert quantity(pod.cpu) + capacity.DRIVER.cpu <= steps.cpu
        assert quantity(pod.memory) + capacity.DRIVER.memory <= steps.memory


def test_volumes_are_asked_for(objects: list[Object]) -> None:
    claims = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    assert {"postgres", "mysql-pv-claim"} < set(claims)
    for each in objects:
        volumes = each.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", [])
        if each["kind"] == "Deployment" and any("persistentVolumeClaim" in volume for volume in volumes):
            # a second pod can't have a ReadWriteOnce volume that the first one still holds
            assert each["spec"]["strategy"]["type"] == "Recreate" or not each["spec"].get("replicas", 1), each[
                "metadata"
            ]


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("2", 2.0), ("1Gi", 2.0**30), ("64Mi", 2.0**26), ("0.5Gi", 2.0**29)]
)
def test_quantity(text: str, number: float) -> None:
    assert capacity.quantity(text) == pytest.approx(number)
