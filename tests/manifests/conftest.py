"""The manifests, built by kubectl, on Kubeflow Pipelines' own or on a stand-in for them.

KFP_CHECKOUT and ARGO_CHECKOUT name checkouts of kubeflow/pipelines at 2.17.0 and of argo-workflows at the version that
refers to. Without them, what is checked stands on `kfp-2.17.0.yaml`: the same names, ports and requests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kfp_server import kfp_server

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
FACTS = Path(__file__).with_name("kfp-2.17.0.yaml")
OVERLAYS = ("overlays/kind", "overlays/minikube", "overlays/existing", "object-store/seaweedfs", "overlays/shared")
CLOSED = OVERLAYS[:4]
REMOTE = re.compile(r"https://github.com/kubeflow/pipelines/manifests/kustomize/(\S+?)\?\S+")
ARGO = re.compile(r"https://github.com/argoproj/argo-workflows/(manifests/\S+?)\?\S+")

BUCKETS = ("mlpipeline", "mlflow", "datasets", "candidates", "production", "exposures")
READ = {"s3:GetObject", "s3:ListBucket"}
WRITE = READ | {"s3:PutObject", "s3:DeleteObject"}
RIGHTS = {
    "kfp": {"mlpipeline": WRITE},
    "mlflow": {"mlflow": WRITE},
    "pipeline": {"datasets": READ, "production": READ, "candidates": WRITE, "exposures": READ},
    "promotion": {"datasets": READ, "candidates": READ, "production": WRITE},
    "seed": {"datasets": WRITE, "candidates": WRITE, "production": WRITE},
    "serving": {"production": READ},
    "experiment": {"candidates": READ, "production": READ, "exposures": READ | {"s3:PutObject"}},
}

Object = dict[str, Any]
# without which an object of the stand-in is none
NEEDED: dict[str, Object] = {
    "ConfigMap": {"data": {}},
    "PersistentVolumeClaim": {"spec": {}},
    "PriorityClass": {"value": 1},
    "RoleBinding": {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pipeline-runner"}},
}
Build = Callable[[str], list[Object]]


def standin(part: str = "other") -> list[Object]:
    """Objects with the names, ports and requests of upstream's, and nothing else in them; or those of the cluster."""
    facts = yaml.safe_load(FACTS.read_text())
    objects: list[Object] = []

    def add(api: str, kind: str, name: str, **content: Any) -> None:
        place = {} if kind in ("Namespace", "ClusterRole", "ClusterRoleBinding") else {"namespace": "kubeflow"}
        objects.append({"apiVersion": api, "kind": kind, "metadata": {"name": name, **place}, **content})

    for key, names in facts[part].items():
        api, kind = key.split()
        for name in names:
            add(api, kind, name, **NEEDED.get(kind, {}))
    if part == "cluster":
        return objects
    for name, service in facts["services"].items():
        ports = [{"name": f"p{port}", "port": port, "targetPort": to} for port, to in service["ports"].items()]
        add("v1", "Service", name, spec={"selector": service["selector"], "ports": ports})
    for name, deployment in facts["deployments"].items():
        images = facts["images"][name]
        containers = [
            {
                "name": container,
                "image": images[container],
                "ports": [{"containerPort": port} for port in found["ports"]],
                "resources": {"requests": found.get("requests", {})},
                "env": [{"name": "MYSQL_ALLOW_EMPTY_PASSWORD", "value": "true"}] if container == "mysql" else [],
            }
            for container, found in deployment["containers"].items()
        ]
        if name == "ml-pipeline":
            containers[0]["env"] = [{"name": each, "value": image} for each, image in facts["run_images"].items()]
        if name == "workflow-controller":
            containers[0]["args"] = ["--executor-image", facts["executor"]]
        first = [
            {"name": each, "image": image, "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}
            for each, image in images.items()
            if each not in deployment["containers"]
        ]
        pod = {"serviceAccountName": deployment["account"], "initContainers": first, "containers": containers}
        template = {"metadata": {"labels": deployment["labels"]}, "spec": pod}
        add(
            "apps/v1",
            "Deployment",
            name,
            spec={"selector": {"matchLabels": deployment["labels"]}, "template": template},
        )
    return objects


def _kubectl(folder: Path) -> list[Object]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed: no manifest can be built")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{folder}: {done.stderr[-2000:]}"
    return [found for found in yaml.load_all(done.stdout, yaml.CSafeLoader) if found]


def _checkout(folder: Path) -> Path:
    """Upstream's kustomizations, with Argo's beside them instead of on GitHub."""
    kfp, argo = Path(os.environ["KFP_CHECKOUT"]), Path(os.environ["ARGO_CHECKOUT"])
    shutil.copytree(kfp / "manifests" / "kustomize", folder / "kfp")
    shutil.copytree(argo / "manifests", folder / "argo" / "manifests")
    for path in folder.rglob("kfp/**/kustomization.yaml"):
        up = os.path.relpath(folder / "argo", path.parent)
        path.write_text(ARGO.sub(rf"{up}/\1", path.read_text()))
    return folder / "kfp"


def _builder(folder: Path, kind: str) -> Build:
    if kind == "upstream":
        upstream = _checkout(folder)
    else:
        upstream = folder / "kfp"
        for place, items in (("env/platform-agnostic", standin()), ("cluster-scoped-resources", standin("cluster"))):
            (upstream / place).mkdir(parents=True)
            listed = {"apiVersion": "v1", "kind": "List", "items": items}
            (upstream / place / "objects.json").write_text(json.dumps(listed))
            (upstream / place / "kustomization.yaml").write_text("resources: [objects.json]")
    shutil.copytree(ROOT / "manifests", folder / "manifests")
    for path in (folder / "manifests").rglob("kustomization.yaml"):
        path.write_text(REMOTE.sub(rf"{os.path.relpath(upstream, path.parent)}/\1", path.read_text()))
    built: dict[str, list[Object]] = {}

    def objects(name: str) -> list[Object]:
        if name not in built:
            built[name] = _kubectl(folder / "manifests" / name)
        return built[name]

    objects.kind = kind  # type: ignore[attr-defined]
    objects.upstream = upstream  # type: ignore[attr-defined]
    return objects


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a folder of `manifests/`, by its path there, on the stand-in for upstream's."""
    return _builder(tmp_path_factory.mktemp("manifests"), "stand-in")


def at_hand() -> bool:
    return all(os.environ.get(name) for name in ("KFP_CHECKOUT", "ARGO_CHECKOUT"))


@pytest.fixture(scope="session", params=["stand-in", *(["upstream"] if at_hand() else [])])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The same, and once more on upstream's own where they are at hand."""
    if request.param == "stand-in":
        return request.getfixturevalue("stand_in")
    return _builder(tmp_path_factory.mktemp("manifests"), "upstream")


@pytest.fixture
def machine(tmp_path: Path, stand_in: Build) -> Iterator[Any]:
    """A `Machine`. What is built is looked at elsewhere; here the stand-in for upstream's will do."""
    from tests.manifests.machine import Machine  # which imports this module

    with kfp_server() as kfp:
        yield Machine(tmp_path, stand_in, kfp)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objects(build: Build, overlay: str) -> list[Object]:
    return build(overlay)


def named(objects: list[Object], kind: str, name: str, namespace: str | None = None) -> Object:
    found = [
        each
        for each in objects
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
        and namespace in (None, each["metadata"].get("namespace"))
    ]
    assert len(found) == 1, f"{len(found)} objects {kind} {name}"
    return found[0]


def pods(objects: list[Object]) -> Iterator[tuple[str, str, Object]]:
    """Namespace, a name for messages, and the pod template of each workload."""
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if each["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob"):
            yield each["metadata"]["namespace"], f"{each['kind']} {each['metadata']['name']}", spec["template"]


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def with_serving(build: Build) -> list[Object]:
    """The overlay for kind as a user changes it to have the service, too."""
    folder = build.upstream.parent / "manifests" / "overlays" / "kind-serving"  # type: ignore[attr-defined]
    if not folder.exists():
        folder.mkdir()
        (folder / "kustomization.yaml").write_text("resources: [../kind]\ncomponents: [../../serving]\n")
    return build("overlays/kind-serving")


def with_experiment(build: Build) -> list[Object]:
    """The same, and with an experiment in front of the service."""
    folder = build.upstream.parent / "manifests" / "overlays" / "kind-experiment"  # type: ignore[attr-defined]
    if not folder.exists():
        folder.mkdir()
        components = "components: [../../serving, ../../serving/experiment]"
        (folder / "kustomization.yaml").write_text(f"resources: [../kind]\n{components}\n")
    return build("overlays/kind-experiment")


def _ports(container: Object) -> dict[str, int]:
    return {port.get("name", str(port["containerPort"])): port["containerPort"] for port in container.get("ports", [])}


def selects(selector: Object, pod: Object) -> bool:
    labels = pod["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in selector.items())


def _key(each: Object) -> tuple[str, str, str]:
    # without the hash of the content in a generated ConfigMap's name
    name = re.sub(r"-[a-z0-9]{10}$", "", each["metadata"]["name"]) if each["kind"] == "ConfigMap" else None
    return each["kind"], each["metadata"].get("namespace", ""), name or each["metadata"]["name"]


def _labels(pod: Object) -> dict[str, str]:
    return dict(pod["metadata"].get("labels", {}))
