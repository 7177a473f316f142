"""What `make cluster-up` applies, checked as far as that goes without a cluster: it builds, and is made as planned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops.cluster import capacity
from mlops.cluster.capacity import KFP, PLATFORM
from tests.manifests.conftest import (
    MANIFESTS,
    OVERLAYS,
    Build,
    Object,
    _checkout,
    _kubectl,
    _ports,
    at_hand,
    containers,
    named,
    pods,
    standin,
    with_experiment,
    with_serving,
)

# CronJobs' time zones and the labels of Jobs ask for 1.27; these are what is validated
VERSIONS = ("1.30", "1.34")


# ---------------------------------------------------------------------------------------------- builds and schemas


def test_every_kustomization_is_part_of_something_built(build: Build) -> None:
    for name in OVERLAYS:
        assert build(name)
    used: set[str] = set()

    def visit(folder: str) -> None:
        used.add(folder)
        text = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())
        for part in [*text.get("resources", []), *text.get("components", [])]:
            place = (MANIFESTS / folder / part).resolve()
            if "://" not in part and place.is_dir():
                visit(str(place.relative_to(MANIFESTS)))

    for name in (*OVERLAYS, "serving", "serving/experiment", "kfp/cluster-scoped"):
        visit(name)
    there = {str(path.parent.relative_to(MANIFESTS)) for path in MANIFESTS.rglob("kustomization.yaml")}
    assert used == there


def test_every_file_is_used() -> None:
    """A file that no kustomization names is applied nowhere."""
    for path in MANIFESTS.rglob("kustomization.yaml"):
        text = path.read_text()
        for file in path.parent.iterdir():
            if file.is_file() and file != path:
                assert file.name in text, f"{file} is in no kustomization"


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_match_the_schemas(objects: list[Object], version: str) -> None:
    validate(objects, version)


# what was found right, by version and content: most objects are in several overlays, and a look takes 30 ms
right: set[tuple[str, str]] = set()


def validate(objects: list[Object], version: str) -> None:
    library = pytest.importorskip("kubernetes_validate")
    for each in objects:
        content = version, json.dumps(each, sort_keys=True, default=str)
        if content in right:
            continue
        try:
            library.validate(each, version, strict=True)
        except library.ValidationError as error:
            where = "/".join(str(part) for part in error.path)
            pytest.fail(f"{each['kind']} {each['metadata']['name']}: {where}: {error.message[:200]}")
        right.add(content)


def test_the_optional_service_builds_and_matches(build: Build) -> None:
    objects = with_serving(build)
    validate(objects, VERSIONS[-1])
    assert named(objects, "ConfigMap", "mlops-settings")["data"]["MLOPS_RESTART_COMMAND"].endswith(
        f" {PLATFORM} legalaid-ml"
    )
    assert image_tags(objects, "legalaid-ml") == {"1.0.0"}


def test_the_optional_experiment_builds_and_matches(build: Build) -> None:
    objects = with_experiment(build)
    for version in VERSIONS:
        validate(objects, version)
    test_names_are_unique(objects)
    test_public_images_are_pinned(objects)
    test_server_side_apply_takes_the_lists(objects)
    # the champion's service itself is what it is without an experiment
    assert named(objects, "Deployment", "legalaid-ml") == named(with_serving(build), "Deployment", "legalaid-ml")


def test_names_are_unique(objects: list[Object]) -> None:
    keys = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(set(keys)) == len(keys)


def test_server_side_apply_takes_the_lists(objects: list[Object]) -> None:
    """The server refuses lists with the same key twice, where the client took the last one."""
    for _, name, pod in pods(objects):
        for container in containers(pod):
            for field, key in (("env", "name"), ("volumeMounts", "mountPath"), ("ports", "containerPort")):
                keys = [entry[key] for entry in container.get(field, [])]
                assert len(set(keys)) == len(keys), f"{name}: {field}"
        names = [volume["name"] for volume in pod["spec"].get("volumes", [])]
        assert len(set(names)) == len(names), name


def test_the_stand_in_is_like_upstream(tmp_path: Path) -> None:
    if not at_hand():
        pytest.skip(
            "KFP_CHECKOUT and ARGO_CHECKOUT don't name checkouts: the manifests were checked on a stand-in only"
        )
    real = _kubectl(_checkout(tmp_path) / "env" / "platform-agnostic")

    def facts(objects: list[Object]) -> dict[tuple[str, str], Any]:
        found = {}
        for each in objects:
            spec, key = each.get("spec", {}), (each["kind"], each["metadata"]["name"])
            found[key] = None
            if each["kind"] == "Service":
                selector = {name: value for name, value in spec["selector"].items() if name != "application-crd-id"}
                found[key] = (
                    selector,
                    sorted((port["port"], port.get("targetPort", port["port"])) for port in spec["ports"]),
                )
            if each["kind"] == "Deployment":
                found[key] = [
                    (
                        *(each["name"], each["image"], each.get("resources", {}).get("requests", {})),
                        sorted(_ports(each).values()),
                    )
                    for each in containers(spec["template"])
                ]
                found[key] += sorted(capacity.images([each]))
        return found

    assert facts(standin()) == facts(real)
    cluster = _kubectl(tmp_path / "kfp" / "cluster-scoped-resources")
    kinds = {key for key in facts(cluster) if key[0] != "CustomResourceDefinition"}
    assert set(facts(standin("cluster"))) == kinds


# ---------------------------------------------------------------------------------------------- what isn't installed


UNUSED = ("cache-deployer", "cache-server", "metadata-writer", "viewer", "visualization")


def test_what_pipelines_of_the_second_version_dont_use_is_left_out(build: Build, overlay: str) -> None:
    """Upstream's cache server, metadata writer and viewers look after pods of its first version alone."""
    objects = [*build(overlay), *build("kfp/cluster-scoped")]
    left = {
        f"{each['kind']} {each['metadata']['name']}"
        for each in objects
        if each["kind"] != "CustomResourceDefinition" and any(part in each["metadata"]["name"] for part in UNUSED)
    }
    assert left == set()
    # no account without a pod or a use, and no right of one that isn't there
    accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    for each in objects:
        for subject in each.get("subjects", []) if each["kind"].endswith("RoleBinding") else []:
            assert subject["kind"] != "ServiceAccount" or subject["name"] in accounts, each["metadata"]["name"]
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for each in objects:
        if each["kind"].endswith("RoleBinding"):
            assert (each["roleRef"]["kind"], each["roleRef"]["name"]) in there, each["metadata"]["name"]


def test_the_api_server_starts_without_a_visualization_server(objects: list[Object]) -> None:
    """It ends at once where it isn't told an address; Kubernetes gives it one only where there is such a Service."""
    (container,) = named(objects, "Deployment", "ml-pipeline", KFP)["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    services = {each["metadata"]["name"] for each in objects if each["kind"] == "Service"}
    for part in ("HOST", "PORT"):
        name = f"ML_PIPELINE_VISUALIZATIONSERVER_SERVICE_{part}"
        assert given.get(name) or "ml-pipeline-visualizationserver" in services


def test_argo_looks_at_a_run_every_two_seconds(objects: list[Object]) -> None:
    """By default each step waits up to ten, several times; below one, Argo says, it works on what is no longer so."""
    (container,) = named(objects, "Deployment", "workflow-controller", KFP)["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value", "") for each in container["env"]}
    assert 1 <= float(given.get("DEFAULT_REQUEUE_TIME", "10s").removesuffix("s")) <= 2


def image_tags(objects: list[Object], name: str) -> set[str]:
    images = [container["image"] for _, _, pod in pods(objects) for container in containers(pod)]
    return {image.rpartition(":")[2] for image in images if f"/{name}:" in image}


# ---------------------------------------------------------------------------------------------- security


def test_pods_are_as_restricted_as_can_be(build: Build, overlay: str) -> None:
    objects = with_experiment(build) if overlay == "overlays/kind" else build(overlay)
    namespace = named(objects, "Namespace", PLATFORM)["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    ours = [(name, pod) for place, name, pod in pods(objects) if place == PLATFORM]
    assert len(ours) >= 8
    for name, pod in ours:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert {key for volume in spec["volumes"] for key in volume} <= {
            *("name", "emptyDir", "configMap", "persistentVolumeClaim")
        }, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            for kind in ("requests", "limits"):
                assert set(container["resources"][kind]) == {"cpu", "memory"}, name
            assert container["imagePullPolicy"] == "IfNotPresent", name
            if not name.startswith(("Job", "CronJob")) and container in spec["containers"]:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name
            for volume in spec["volumes"]:
                assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], name


def test_public_images_are_pinned(objects: list[Object]) -> None:
    for namespace, name, pod in pods(objects):
        for container in containers(pod):
            image = container["image"]
            repository, tag = re.fullmatch(r"([^@:]+(?::\d+/[^@:]+)?)(?::([^@]+))?(?:@.*)?", image).groups()  # type: ignore[union-attr]
            assert tag and tag != "latest", f"{name}: {image}"
            # SeaweedFS's client is pinned as upstream pins the server, by tag
            if namespace == PLATFORM and not repository.startswith("legalaid/") and "seaweedfs" not in repository:
                assert re.search(r"@sha256:[0-9a-f]{64}$", image), f"{name}: {image}"
