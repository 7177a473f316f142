"""The images on a cluster's nodes, and the manifests that name them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.settings import image
from mlops.cluster.kubectl import NAME, TRIES, Kubectl, announced, run

MANIFESTS = Path("manifests")
IMAGES = ("base", "trainer", "monitor", "client", "mlflow")
# contexts of clusters that run on Docker's own images
SHARED = ("docker-desktop", "rancher-desktop", "colima", "orbstack")
IMAGE_IDS = "legalaid-mlops/image-ids"


def bring_images(kubectl: Kubectl) -> None:
    bring = way_to_nodes(kubectl.context)
    if bring is None:
        # pods would ask a public registry for images of these names, where they may be anybody's
        if missing := [name for name in map(image, IMAGES) if not _on_nodes(kubectl, name)]:
            raise InputError(
                f"there is no way known to bring images to {kubectl.context}, whose nodes don't list {missing[0]}: "
                "REGISTRY=host/path pushes them, or ARGS=--no-build says that they are there"
            )
        typer.echo("  the images are on the nodes already, and stay as they are")
        return
    with announced("build images"):
        run("make", "--no-print-directory", "images", seconds=7200)
    with announced("bring images") as say:
        for name in map(image, IMAGES):
            say(name)
            run(*bring, name, tries=3, seconds=3600)


def way_to_nodes(context: str) -> list[str] | None:
    """The command that brings an image to the nodes, but for the image; None where there is none."""
    if _has_host(image("base")):
        return ["docker", "push"]
    if context in (NAME, "minikube"):
        # by its name it would first remove the old one, which it can't while a container has it, and says so to nobody
        return ["sh", "-c", 'docker save "$1" | minikube image load --profile "$0" -', context]
    if context.startswith("kind-"):
        return ["kind", "load", "docker-image", "--name", context.removeprefix("kind-")]
    if context in SHARED:
        # the nodes have the engine's images: what was built is there
        return ["docker", "image", "inspect", "--format={{.Id}}"]
    if context.startswith("k3d-"):
        return ["k3d", "image", "import", "--cluster", context.removeprefix("k3d-")]
    return None


def _on_nodes(kubectl: Kubectl, name: str) -> bool:
    nodes = json.loads(kubectl("get", "nodes", "--output=json", tries=TRIES))["items"]
    names = (each for node in nodes for found in node["status"].get("images", []) for each in found.get("names") or [])
    return any(each == name or each.endswith(f"/{name}") for each in names)


def _has_host(name: str) -> bool:
    """Whether an image's name begins with a registry's host, as Docker decides it."""
    first = name.split("/", maxsplit=1)[0]
    return "/" in name and (first == "localhost" or "." in first or ":" in first)


def kustomize(folder: Path) -> list[dict[str, Any]]:
    # it fetches KFP's and Argo's manifests by git
    text = run("kubectl", "kustomize", str(folder), tries=3)
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def with_images(objects: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The objects with our images as MLOPS_REGISTRY and MLOPS_TAG call them, which pipelines are compiled with too."""
    for found in objects:
        if found["kind"] == "ConfigMap" and found["metadata"]["name"] == "mlops-client":
            registry, _, tag = image("base").rpartition(":")
            names = {"MLOPS_REGISTRY": registry.rpartition("/")[0], "MLOPS_TAG": tag}
            found = {**found, "data": {**found["data"], **names}}
        found = _renamed(found)
        yield _with_image_ids(found) if found["kind"] == "Deployment" else found


def _with_image_ids(deployment: dict[str, Any]) -> dict[str, Any]:
    """The Deployment with its images' ids, where they are ours: it is to start anew when one of its tag is another."""
    pod = deployment["spec"]["template"]
    named = {each["image"] for each in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]}
    ids = [_image_id(name) for name in sorted(named & {image(kind) for kind in IMAGES})]
    if not any(ids):
        return deployment
    metadata = pod.get("metadata", {})
    annotations = {**metadata.get("annotations", {}), IMAGE_IDS: " ".join(ids)}
    pod = {**pod, "metadata": {**metadata, "annotations": annotations}}
    return {**deployment, "spec": {**deployment["spec"], "template": pod}}


def _image_id(name: str) -> str:
    """What Docker here has of an image; empty for none, as with images that come from elsewhere."""
    try:
        return run("docker", "image", "inspect", "--format={{.Id}}", name).strip()
    except MlopsError:
        return ""


def _renamed(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _image(value) if key == "image" else _renamed(value) for key, value in part.items()}
    return [_renamed(each) for each in part] if isinstance(part, list) else part


def _image(name: Any) -> Any:
    ours = re.fullmatch(r"legalaid/mlops-([a-z]+):[^@/]+", name) if isinstance(name, str) else None
    return image(ours[1]) if ours else _renamed(name)
