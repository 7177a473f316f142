"""`make cluster-up` on the stand-ins of `machine.py`: what it asks of whom, in which order, what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
import yaml

from matchmaking.base.settings import image
from mlops.cluster import commands, images
from tests.manifests.conftest import MANIFESTS, ROOT, Build, standin
from tests.manifests.machine import Machine, order

SERVING = [
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "legalaid-ml", "namespace": "legalaid-mlops"},
        "spec": {"template": {"spec": {"containers": [{"name": "service", "image": "theirs"}]}}},
    }
]


@pytest.fixture(scope="session")
def build(stand_in: Build) -> Build:
    """What is built is looked at elsewhere; here the stand-in for upstream's will do."""
    return stand_in


def test_up_makes_a_cluster_and_again_changes_nothing(machine: Machine) -> None:
    done = machine("up", CLUSTER="kind")
    assert done.returncode == 0, done.stdout + done.stderr
    order(
        machine.calls,
        "kustomize manifests/overlays/kind",
        "^kind create cluster --name legalaid-mlops",
        "^make .*images",
        "^kind load docker-image --name legalaid-mlops legalaid/mlops-base:",
        "kustomize manifests/kfp/cluster-scoped",
        "apply --server-side",
        "wait --for=condition=Established .*crd/a.argoproj.io",
        "get secrets --namespace legalaid-mlops",
        "delete job setup-store setup-mlflow seed",
        "apply --server-side",
        "get deployments",
        "apply --server-side",
        "port-forward service/ml-pipeline-ui",
    )
    for call in machine.calls:
        assert (
            not call.startswith("kubectl")
            or "--context kind-legalaid-mlops" in call
            or re.match(r"kubectl (version --client|kustomize)", call)
        ), call
    assert {pipeline.display_name for pipeline in machine.kfp.pipelines.values()} == {
        *(
            "retrain",
            "sweep",
            "evaluate",
            "evaluate-parts",
            "monitor",
            "monitor-parts",
            "observe",
            "experiment",
            "promote",
        )
    }
    for words in ("http://localhost:8080", "http://localhost:5001", "http://localhost:9001", "make open"):
        assert words in done.stdout
    secrets = [each for each in machine.applied() if each["kind"] == "Secret"]
    for secret in secrets:
        for value in secret["stringData"].values():
            shown = done.stdout + done.stderr + "\n".join(machine.calls)
            # the names of users may be seen
            assert len(value) < 20 or value not in shown

    machine.forget()
    again = machine("up", CLUSTER="kind")
    assert again.returncode == 0, again.stderr
    assert not [call for call in machine.calls if "create cluster" in call]
    assert not [each for each in machine.applied() if each["kind"] == "Secret"]
    # as many versions as before: each pipeline has one
    assert len(machine.kfp.versions) == len(machine.kfp.pipelines)


def test_up_on_an_existing_cluster_takes_its_context_and_pushes_images(machine: Machine) -> None:
    options = ("--cluster", "existing", "--overlay", "object-store/seaweedfs")
    done = machine("up", *options, MLOPS_REGISTRY="registry.example:5000/team", MLOPS_TAG="1.2.3")
    assert done.returncode == 0, done.stderr
    assert "kubectl kustomize manifests/object-store/seaweedfs" in machine.calls
    assert not [call for call in machine.calls if call.startswith(("kind", "minikube"))]
    assert [call for call in machine.calls if "--context mine apply" in call]
    assert "docker push registry.example:5000/team/mlops-mlflow:1.2.3" in machine.calls
    images = set(re.findall(r'"image": "([^"]*mlops-[^"]*)"', json.dumps(machine.applied())))
    assert images == {f"registry.example:5000/team/mlops-{kind}:1.2.3" for kind in ("mlflow", "trainer", "client")}
    settings = [each["data"] for each in machine.applied() if each["metadata"]["name"] == "mlops-client"]
    assert settings[-1]["MLOPS_REGISTRY"] == "registry.example:5000/team" and settings[-1]["MLOPS_TAG"] == "1.2.3"


@pytest.mark.parametrize(
    ("context", "registry", "command"),
    [
        ("kind-other", "legalaid", "kind load docker-image --name other"),
        ("minikube", "legalaid", 'sh -c docker save "$1" | minikube image load --profile "$0" - minikube'),
        ("legalaid-mlops", "legalaid", 'sh -c docker save "$1" | minikube image load --profile "$0" - legalaid-mlops'),
        ("k3d-x", "legalaid", "k3d image import --cluster x"),
        ("kind-other", "ghcr.io/team", "docker push"),
        ("cloud", "localhost:5000", "docker push"),
        ("docker-desktop", "legalaid", "docker image inspect --format={{.Id}}"),
        ("cloud", "legalaid", None),
    ],
)
def test_how_images_get_to_a_cluster(
    context: str,
    registry: str,
    command: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLOPS_REGISTRY", registry)
    found = images.way_to_nodes(context)
    assert (" ".join(found) if found else None) == command


def test_images_that_cannot_be_brought_have_to_be_there(machine: Machine) -> None:
    """Or the nodes would ask a public registry for them."""
    done = machine("up", "--cluster", "existing")
    assert done.returncode == 0 and "the images are on the nodes already" in done.stdout
    machine.forget()
    machine.behaviour["node_images"] = ["legalaid/mlops-base:0.0.1"]
    done = machine("up", "--cluster", "existing")
    assert done.returncode == 2 and "REGISTRY=host/path pushes them" in done.stderr
    assert not [call for call in machine.calls if "apply" in call]
    assert machine("up", "--cluster", "existing", "--no-build").returncode == 0


def test_the_seed_comes_when_all_the_rest_is_ready(machine: Machine) -> None:
    machine.behaviour["waiting"] = ["mlflow"]
    assert machine("up", "--cluster", "existing", "--timeout", "3", "--no-build").returncode == 1
    assert "seed" not in {each["metadata"]["name"] for each in machine.applied() if each["kind"] == "Job"}


def test_the_service_may_wait_for_the_seed(machine: Machine, build: Build) -> None:
    """It has nothing to serve before."""
    folder = machine.folder / "serving"
    objects = [*build("overlays/existing"), *map(dict, SERVING)]
    folder.mkdir()
    machine.behaviour["built"]["manifests/overlays/existing"] = machine._file("serving/all", objects)
    done = machine("up", "--cluster", "existing", "--no-build")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line)["stdin"] for line in (machine.folder / "calls.jsonl").read_text().splitlines()]
    last = json.loads([text for text in lines if text][-1])["items"]
    found = {(each["kind"], each["metadata"]["name"]) for each in last}
    assert found == {("Job", "seed"), ("Deployment", "legalaid-ml")}


def test_a_challenger_that_was_stopped_stays_so_and_is_told(machine: Machine, build: Build) -> None:
    """Also when it is applied again; and it isn't waited for."""
    challenger = next(yaml.safe_load_all((MANIFESTS / "serving" / "experiment" / "challenger.yaml").read_text()))
    name = challenger["metadata"]["name"]
    built = {"manifests/overlays/kind": machine._file("challenger", [*build("overlays/kind"), challenger])}
    machine.behaviour["built"] |= built
    up = machine("up")
    assert up.returncode == 0 and "scaled to 0" not in up.stderr, up.stderr
    machine.behaviour["scaled"] = [name]
    up = machine("up", "--timeout", "5")
    assert up.returncode == 0, up.stderr
    assert f"Note: {name} has no pods" in up.stderr
    assert f"`kubectl scale deployment/{name} --replicas=1 -n legalaid-mlops`" in up.stderr
    applied = [each for each in machine.applied() if each["metadata"]["name"] == name and each["kind"] == "Deployment"]
    assert len(applied) == 2 and all("replicas" not in each["spec"] for each in applied)
    assert f"  {name:<36}scaled to 0" in machine("status").stdout.splitlines()


def test_a_deployment_starts_anew_with_another_image_of_its_tag(machine: Machine) -> None:
    def told() -> str:
        named = [each for each in machine.applied() if each["kind"] == "Deployment"]
        (found,) = [each for each in named if each["metadata"]["name"] == "mlflow"]
        machine.forget()
        return str(found["spec"]["template"]["metadata"]["annotations"][images.IMAGE_IDS])

    assert machine("up", "--cluster", "existing", "--no-build").returncode == 0
    first = told()
    assert machine("up", "--cluster", "existing", "--no-build").returncode == 0
    assert told() == first
    machine.behaviour["image_ids"] = {image("mlflow"): "sha256:other"}
    assert machine("up", "--cluster", "existing", "--no-build").returncode == 0
    assert told() == "sha256:other" != first


@pytest.mark.parametrize(
    ("overlay", "renewed"),
    [
        ("overlays/existing", ["ml-pipeline", "ml-pipeline-ui"]),
        ("object-store/seaweedfs", ["seaweedfs", "ml-pipeline", "ml-pipeline-ui"]),
    ],
)
def test_a_renewed_identity_of_kfp_restarts_who_reads_it(machine: Machine, overlay: str, renewed: list[str]) -> None:
    def restarted() -> list[str]:
        assert machine("up", "--cluster", "existing", "--no-build", "--overlay", overlay).returncode == 0
        return [call.split("deployment/")[1].split()[0] for call in machine.calls if "rollout restart" in call]

    assert restarted() == []
    path = machine.folder / "objects.json"
    objects = json.loads(path.read_text())
    del objects["Secret/legalaid-mlops/identity-kfp"]
    path.write_text(json.dumps(objects))
    assert restarted() == renewed


def test_the_cluster_that_was_brought_up_is_remembered(machine: Machine) -> None:
    remembered = machine.folder / "work" / "cluster"
    machine.behaviour["memory"] = "1Gi"
    assert machine("up", "--cluster", "existing").returncode == 2
    assert not remembered.exists()
    machine.behaviour["memory"] = "8Gi"
    assert machine("up", "--cluster", "existing", "--no-build").returncode == 0

    def meant(*settings: str) -> str:
        # of the sub-make of a test run nothing is to be inherited
        env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "CLUSTER")}
        command = ["make", "--dry-run", f"WORK={remembered.parent}", "status", *settings]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
        return str(re.search(r"CLUSTER=(\w+)", done.stdout)[1])  # type: ignore[index]

    assert meant() == "existing"
    assert meant("CLUSTER=minikube") == "minikube"
    assert machine("down", "--cluster", "existing", "--yes").returncode == 0
    assert meant() == "kind"


def foreign(machine: Machine) -> None:
    """A Kubeflow Pipelines as its own manifests install it."""
    objects = {
        f"Deployment/kubeflow/{name}": {
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "kubeflow"},
            "spec": {},
        }
        for name in ("ml-pipeline", "cache-server")
    }
    (machine.folder / "objects.json").write_text(json.dumps(objects))


def test_somebody_elses_kubeflow_is_not_closed_unasked(machine: Machine) -> None:
    foreign(machine)
    done = machine("up", "--cluster", "existing", "--no-build")
    assert done.returncode == 2, done.stdout
    assert "that this didn't install. OVERLAY=overlays/shared leaves it open" in done.stderr
    assert not [call for call in machine.calls if re.search("apply|delete", call)]
    # theirs: told what that means, and nothing of theirs is gone
    done = machine("up", "--cluster", "existing", "--no-build", "--overlay", "overlays/shared")
    assert done.returncode == 0, done.stderr
    assert "Note: the namespace kubeflow is open: any pod reaches Kubeflow Pipelines" in done.stderr
    assert not [call for call in machine.calls if "cache-server" in call]
    assert not [
        each
        for each in machine.applied()
        if each["kind"] == "NetworkPolicy" and each["metadata"]["namespace"] == "kubeflow"
    ]


@pytest.mark.parametrize(
    "options", [("--cluster", "existing", "--overlay", "overlays/existing"), ("--cluster", "kind")]
)
def test_a_kubeflow_of_ones_own_loses_what_isnt_used(machine: Machine, options: tuple[str, ...]) -> None:
    if "existing" in options:
        foreign(machine)
    done = machine("up", *options, "--no-build")
    assert done.returncode == 0, done.stderr
    assert "is open" not in done.stderr
    gone = " ".join(commands.LEFT_OUT)
    assert [call for call in machine.calls if call.endswith(f"delete {gone} --namespace kubeflow --ignore-not-found")]
    # once it is there, it is one's own
    assert machine("up", *options[:2], "--no-build").returncode == 0


def test_what_is_deleted_is_what_isnt_installed(build: Build) -> None:
    left_out = {tuple(each.split("/")) for each in commands.LEFT_OUT}
    kinds = ("Deployment", "Service", "ClusterRole", "ClusterRoleBinding")
    upstream, ours = (
        {(each["kind"].lower(), each["metadata"]["name"]) for each in objects if each["kind"] in kinds}
        for objects in ([*standin(), *standin("cluster")], [*build("kfp/upstream"), *build("kfp/cluster-scoped")])
    )
    # which its deployer makes
    assert left_out - upstream == {("mutatingwebhookconfiguration", "cache-webhook-kubeflow")}
    assert left_out & upstream == upstream - ours


def test_an_alias_is_no_door(machine: Machine) -> None:
    done = machine("up", "--cluster", "existing", "--overlay", "object-store/seaweedfs")
    assert done.returncode == 0, done.stderr
    assert "MLflow" in done.stdout and "MinIO" not in done.stdout.split("All is ready")[1].split("`make open`")[0]
