"""`python -m mlops.cluster`, with stand-ins for kubectl, kind, minikube, docker and make on the PATH.

No cluster can be had here, so what these tests show is what is asked of those programs, in which order and with which
input, and what is said when one is missing or fails. Kubeflow Pipelines is the stand-in of `tests/kfp_server.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from matchmaking.base.errors import MlopsError
from matchmaking.base.settings import image
from mlops.cluster import capacity, commands, images
from mlops.cluster.doors import DOORS, is_free
from mlops.cluster.kubectl import BEAT_SECONDS, Kubectl, announced
from mlops.cluster.machine import Kind
from mlops.cluster.wait import wait_until_ready
from tests.hostile import ESCAPES
from tests.kfp_server import FakeKfp, kfp_server
from tests.manifests.conftest import OVERLAYS, ROOT, Build, standin
from tests.services.conftest import free_ports

PROGRAMS = ("kubectl", "kind", "minikube", "docker", "make", "k3d")
CRDS = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}},
    {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "a.argoproj.io"},
    },
]


SERVING = [
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "legalaid-ml", "namespace": "legalaid-mlops"},
        "spec": {"template": {"spec": {"containers": [{"name": "service", "image": "theirs"}]}}},
    }
]


class Machine:
    """A PATH with the stand-ins, and what was asked of them."""

    def __init__(self, folder: Path, build: Build, kfp: FakeKfp) -> None:
        self.folder, self.bin, self.kfp = folder, folder / "bin", kfp
        self.bin.mkdir()
        script = Path(__file__).with_name("programs.py").read_text()
        for name in PROGRAMS:
            (self.bin / name).write_text(f"#!{sys.executable} -SE\n{script}")
            (self.bin / name).chmod(0o755)
        for tool in ("git", "sh", "sleep"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        built = {}
        for name in OVERLAYS:
            built[f"manifests/{name}"] = self._file(name, build(name))
        built["manifests/kfp/cluster-scoped"] = self._file("crds", CRDS)
        address = urlsplit(kfp.url)
        self.behaviour: dict[str, Any] = {
            "built": built,
            "context": "mine",
            "kfp": [address.hostname, address.port],
            "node_images": [image(kind) for kind in images.IMAGES],
        }

    def _file(self, name: str, objects: list[Any]) -> str:
        path = self.folder / f"{name.replace('/', '-')}.yaml"
        path.write_text(yaml.dump_all(objects, Dumper=yaml.CSafeDumper))
        return str(path)

    def command(self, *arguments: str, **env: str) -> tuple[list[str], dict[str, str]]:
        (self.folder / "behaviour.json").write_text(json.dumps(self.behaviour))
        mine = {"PATH": str(self.bin), "STANDIN_STATE": str(self.folder), "HOME": str(self.folder), "COLUMNS": "100"}
        mine["WORK"] = str(self.folder / "work")
        return [sys.executable, "-m", "mlops.cluster", *arguments], {**mine, **env}

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command, given = self.command(*arguments, **env)
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=given, timeout=120, check=False)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [" ".join(json.loads(line)["call"]) for line in lines]

    def applied(self) -> list[dict[str, Any]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        inputs = [json.loads(line)["stdin"] for line in lines]
        return [each for text in inputs if text for each in json.loads(text)["items"]]

    def forget(self) -> None:
        (self.folder / "calls.jsonl").unlink()


@pytest.fixture(scope="session")
def build(stand_in: Build) -> Build:
    """What is built is looked at elsewhere; here the stand-in for upstream's will do."""
    return stand_in


@pytest.fixture
def machine(tmp_path: Path, build: Build) -> Iterator[Machine]:
    with kfp_server() as kfp:
        yield Machine(tmp_path, build, kfp)


def order(calls: list[str], *wanted: str) -> None:
    """Each is in the calls, after the one before."""
    place = -1
    for each in wanted:
        found = [index for index, call in enumerate(calls) if re.search(each, call) and index > place]
        assert found, f"no {each} after call {place} of:\n" + "\n".join(call[:150] for call in calls)
        place = found[0]


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
        *("retrain", "evaluate", "monitor", "promote")
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
    assert len(machine.kfp.versions) == 4


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


def test_an_overlay_that_isnt_there(machine: Machine) -> None:
    done = machine("up", "--overlay", "overlays/none")
    assert done.returncode == 2 and "manifests/overlays/none is no overlay" in done.stderr


@pytest.mark.parametrize("tool", ["kubectl", "kind", "docker", "git", "make"])
def test_a_missing_tool_is_one_line_before_anything_happens(machine: Machine, tool: str) -> None:
    (machine.bin / tool).unlink()
    done = machine("up")
    assert done.returncode == 2
    assert f"Error: {tool} isn't installed (" in done.stderr and "Traceback" not in done.stderr
    assert not [call for call in machine.calls if "create" in call or "apply" in call]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"docker_gib": 3.8}, "Docker has 3.8 GiB of memory; the platform and a retraining need 7"),
        ({"docker_cpus": 2}, "Docker has 2 CPUs; the platform and a retraining need 2."),
        ({"kubectl_minor": "24"}, "kubectl 1.24 is too old"),
        ({"fails": {"docker info": "Cannot connect to the Docker daemon"}}, "Docker doesn't answer; start it"),
    ],
)
def test_too_little_is_one_line_before_anything_happens(machine: Machine, behaviour: dict[str, Any], said: str) -> None:
    machine.behaviour |= behaviour
    done = machine("up")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Note:", "  manifests"))]
    assert said in done.stderr and len(lines) == (1 if "docker_cpus" in behaviour else 2)
    assert not [call for call in machine.calls if "create" in call or "apply" in call]


def test_all_that_is_missing_is_said_at_once(machine: Machine) -> None:
    for tool in ("kind", "make"):
        (machine.bin / tool).unlink()
    done = machine("up")
    assert "Error: kind isn't" in done.stderr and "Error: make isn't" in done.stderr


def test_a_small_cluster_and_one_that_is_away(machine: Machine) -> None:
    machine.behaviour |= {"memory": "3900000Ki", "cpus": 2}
    done = machine("up", "--cluster", "existing")
    assert done.returncode == 2 and "the cluster has 3.7 GiB for pods and 2.00 CPUs" in done.stderr
    machine.behaviour["fails"] = {"kubectl config": "error: current-context is not set"}
    done = machine("status", "--cluster", "existing")
    assert done.returncode == 2 and "no current context" in done.stderr


def test_two_cpus_are_enough_where_others_leave_them(machine: Machine) -> None:
    """What is asked for is what the manifests' requests and the largest step's add up to, beside other pods."""

    def others(cpu: str) -> list[dict[str, Any]]:
        spec = {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}
        ended = {"metadata": {"namespace": "kube-system"}, "spec": spec, "status": {"phase": "Succeeded"}}
        ours = {"metadata": {"namespace": "kubeflow"}, "spec": spec, "status": {"phase": "Running"}}
        return [{**ended, "status": {"phase": "Running"}}, ended, ours]

    needed = capacity.needed(
        yaml.safe_load_all(Path(machine.behaviour["built"]["manifests/overlays/existing"]).read_text())
    )
    machine.behaviour |= {"cpus": 2, "others": others(f"{1000 * (2 - needed.cpu):.0f}m")}
    assert machine("up", "--cluster", "existing", "--no-build").returncode == 0
    machine.behaviour["others"] = others(f"{1000 * (2.02 - needed.cpu):.0f}m")
    done = machine("up", "--cluster", "existing", "--no-build")
    assert done.returncode == 2
    assert f"CPUs that no other pod asks for; 6.5 and {needed.cpu:.2f} are needed" in done.stderr


def test_an_occupied_port_is_noted_and_refused_by_open(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        doors = {"MLflow": ("legalaid-mlops", "mlflow", 5000, port)}
        monkeypatch.setattr("mlops.cluster.commands.doors_of", lambda kubectl: doors)
        monkeypatch.setattr("mlops.cluster.commands.context_of", lambda kind: Kubectl("mine"))
        with pytest.raises(MlopsError, match=rf"in use already: port {port} \(MLflow\)"):
            commands.open_doors(Kind.existing)


def test_a_failed_job_is_told_with_its_log(machine: Machine) -> None:
    machine.behaviour["failed"] = ["setup-mlflow"]
    done = machine("up", "--cluster", "existing")
    assert done.returncode == 1
    assert "the Job setup-mlflow failed" in done.stderr and "log of job/setup-mlflow" in done.stderr


def test_what_isnt_ready_in_time_is_named_with_its_reason(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.behaviour |= {
        "waiting": ["mlflow"],
        "pods": [
            {
                "metadata": {"name": "mlflow-7d9"},
                "status": {
                    "containerStatuses": [
                        {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
                    ]
                },
            }
        ],
    }
    done = machine("status", "--cluster", "existing")
    assert "mlflow-7d9: ImagePullBackOff no such image" in done.stdout
    _, env = machine.command()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    kubectl = Kubectl("mine")
    kubectl.apply(yaml.safe_load_all(Path(machine.behaviour["built"]["manifests/overlays/existing"]).read_text()))
    objects = machine.applied()
    with pytest.raises(MlopsError, match="not ready in time: mlflow; "):
        wait_until_ready(kubectl, objects, time.monotonic() - 1, lambda text, err=False: print(text))


class Scripted:
    """A kubectl that shows states one after the other: a pod's reason, a Job's failures, whether all is ready."""

    def __init__(self, *states: tuple[str, int, bool]) -> None:
        self.states = [states[0], *states]

    def items(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        if namespace != capacity.PLATFORM:
            return []
        if kind == "pods":  # which are looked at first
            self.states.pop(0)
        reason, failed, ready = self.states[0]
        waiting = [{"state": {"waiting": {"reason": reason, "message": "manifest unknown"}}}] if reason else [{}]
        counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": int(ready)}
        conditions = [{"type": "Complete", "status": "True"}] if ready else []
        found = {
            "pods": {"metadata": {"name": "mlflow-7d9"}, "status": {"containerStatuses": waiting}},
            "deployments": {"metadata": {"name": "mlflow"}, "spec": {}, "status": counts},
            "jobs": {"metadata": {"name": "setup-store"}, "status": {"failed": failed, "conditions": conditions}},
        }
        return [found[kind]]


WAITED_FOR = [
    {"kind": kind, "metadata": {"name": name, "namespace": capacity.PLATFORM}}
    for kind, name in (("Deployment", "mlflow"), ("Job", "setup-store"))
]


def test_without_a_terminal_a_line_when_what_is_waited_for_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlops.cluster.wait.POLL_SECONDS", 0.01)
    # an image that can't be pulled is tried again and again, and a Job, too
    pulls = [("ErrImagePull", 0, False), ("ImagePullBackOff", 0, False)] * 3
    kubectl = Scripted(("", 0, False), *pulls, ("ImagePullBackOff", 1, False), ("", 1, False), ("", 1, True))
    with announced("ready") as say:
        wait_until_ready(kubectl, WAITED_FOR, time.monotonic() + 60, say)  # type: ignore[arg-type]
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    pulled, tried = (f"mlflow-7d9: {reason} manifest unknown" for reason in ("ErrImagePull", "ImagePullBackOff"))
    failing = "job setup-store: failed (1), and is tried again; `make logs STEP=setup-store` has why"
    assert lines[:-1] == [
        "ready, 0 s: 0 of 2, waiting for mlflow, setup-store",
        f"ready, 0 s: 0 of 2, waiting for mlflow, setup-store; {pulled}",
        f"ready, 0 s: 0 of 2, waiting for mlflow, setup-store; {failing}; {tried}",
        f"ready, 0 s: 0 of 2, waiting for mlflow, setup-store; {failing}",
    ]
    assert re.fullmatch(r"ready +0\.\d s", lines[-1])


def test_without_a_terminal_a_step_that_takes_long_is_heard_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert BEAT_SECONDS == 30
    monkeypatch.setattr("mlops.cluster.kubectl.BEAT_SECONDS", 0.1)
    with announced("build images"):
        time.sleep(0.35)
    with announced("ready") as say:
        say("1 of 2", 1)
        time.sleep(0.35)
    said = capsys.readouterr().err
    assert said.count("  build images, 0 s\n") >= 2 and said.count("  ready, 0 s: 1 of 2\n") >= 3


def test_submit_follows_a_run_through_a_forwarded_port(machine: Machine) -> None:
    # what `make open` has open is used as it is
    done = machine("submit", "--cluster", "existing", "evaluate", "--no-wait", MLOPS_KFP_HOST=machine.kfp.url)
    assert done.returncode == 0, done.stderr
    assert len(machine.kfp.runs) == 1
    assert not [call for call in machine.calls if "port-forward" in call]
    done = machine("submit", "--cluster", "existing", "evaluate", "--no-wait")
    assert done.returncode == 0, done.stderr
    assert len(machine.kfp.runs) == 2
    assert [call for call in machine.calls if "port-forward service/ml-pipeline-ui" in call]
    assert "--nonsense" in machine("submit", "--cluster", "existing", "evaluate", "--nonsense").stderr
    # its node has 7.6 GiB
    done = machine("submit", "--cluster", "existing", "evaluate", "--memory", "20Gi", MLOPS_KFP_HOST=machine.kfp.url)
    assert done.returncode == 2
    assert "no node could hold a step of 20Gi, as the largest has 7.6 GiB for pods" in done.stderr
    assert len(machine.kfp.runs) == 2
    listed = machine("schedule", "--cluster", "existing", "list", MLOPS_KFP_HOST=machine.kfp.url)
    assert listed.returncode == 0 and "no recurring run of ours" in listed.stdout


def test_logs_finds_the_newest_pod_of_a_step(machine: Machine) -> None:
    def pod(name: str, node: str, created: str) -> dict[str, Any]:
        annotations = {"workflows.argoproj.io/node-name": node}
        return {"metadata": {"name": name, "creationTimestamp": created, "annotations": annotations}}

    machine.behaviour["pods"] = [
        pod("old", "retrain-a.root.train.executor(0)", "2026-01-01T00:00:00Z"),
        pod("new", "retrain-b.root.train.executor(1)", "2026-01-02T00:00:00Z"),
        pod("driver", "retrain-b.root.train-driver(0)", "2026-01-03T00:00:00Z"),
        pod("other", "retrain-b.root.evaluate.executor(0)", "2026-01-04T00:00:00Z"),
    ]
    assert "log of new" in machine("logs", "--cluster", "existing", "train").stdout
    done = machine("logs", "--cluster", "existing", "nothing")
    assert done.returncode == 2 and "no pod of a step nothing" in done.stderr


def test_what_a_cluster_says_moves_no_terminal(machine: Machine) -> None:
    """Logs hold what steps print of the data; names, reasons and errors are the cluster's."""
    annotations = {"workflows.argoproj.io/node-name": "retrain-a.root.train.executor(0)"}
    pod = {"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations}}
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": ESCAPES}}}
    machine.behaviour["pods"] = [{**pod, "status": {"containerStatuses": [waiting]}}]
    machine.behaviour["log"] = f"\x1b[31mred\x1b[0m\tand\r\ncity {ESCAPES}\n\nlast"
    done = machine("logs", "--cluster", "existing", "train")
    shown = ESCAPES.replace("\x1b[31m", "").encode("unicode_escape").decode()
    assert done.stdout == f"red and\ncity {shown}\n\nlast\n"
    told = machine("status", "--cluster", "existing")
    assert "  a: ImagePullBackOff \\x1b]0;OWNED" in told.stdout
    machine.behaviour["fails"] = {"kubectl --context mine get pods": f"no {ESCAPES}"}
    failed = machine("logs", "--cluster", "existing", "train")
    assert failed.returncode == 1 and "Error: kubectl" in failed.stderr and "OWNED" in failed.stderr
    for text in (done.stdout, told.stdout, failed.stderr):
        assert all(char.isprintable() or char == "\n" for char in text)


def test_down_of_an_existing_cluster_wants_a_yes(machine: Machine) -> None:
    done = machine("down", "--cluster", "existing")
    assert done.returncode == 2 and "--yes does it" in done.stderr
    assert not machine.calls
    assert machine("down", "--cluster", "existing", "--yes").returncode == 0
    assert [call for call in machine.calls if "delete namespace legalaid-mlops kubeflow" in call]
    assert machine("down").returncode == 0
    assert "kind delete cluster --name legalaid-mlops" in machine.calls


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("2", 2.0), ("1Gi", 2.0**30), ("64Mi", 2.0**26), ("0.5Gi", 2.0**29)]
)
def test_quantity(text: str, number: float) -> None:
    assert capacity.quantity(text) == pytest.approx(number)


def test_makefile_has_the_targets() -> None:
    env = {**os.environ, "MAKEFLAGS": ""}
    for target, words in {
        "cluster-up": "CLUSTER=minikube .*mlops.cluster up",
        "submit PIPELINE=retrain ARGS=--no-wait": "mlops.cluster submit retrain --no-wait",
        "logs STEP=train": "mlops.cluster logs train",
        "cluster-down ARGS=--yes": "mlops.cluster down --yes",
        "open": "mlops.cluster open",
        "schedule": "mlops.cluster schedule list",
        "schedule ARGS=apply": "mlops.cluster schedule apply",
        "status": "mlops.cluster status",
    }.items():
        command = ["make", "--dry-run", "CLUSTER=minikube", *target.split()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
        assert re.search(words, done.stdout), done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------- what ends `make open`


DRIVER = """
import json, os, sys
from mlops.cluster import commands, doors
ports = json.loads(os.environ["PORTS"])
doors.DOORS.update({name: (*door[:3], port) for (name, door), port in zip(doors.DOORS.items(), ports)})
sys.argv = ["cluster", *sys.argv[sys.argv.index("mlops.cluster") + 1 :]]
commands.main()
"""


def started(folder: Path) -> dict[int, str]:
    """The processes that have this folder in their environment, however they came to be whose child they are."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:150]
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for what is left in /proc")
@pytest.mark.parametrize(
    ("way", "by_make"),
    [
        (signal.SIGINT, False),
        (signal.SIGTERM, False),
        (signal.SIGHUP, False),
        (signal.SIGKILL, False),
        (signal.SIGTERM, True),
        (signal.SIGKILL, True),
        ("closed terminal", True),
    ],
    ids=str,
)
def test_whatever_ends_open_ends_its_port_forwards(machine: Machine, way: signal.Signals | str, by_make: bool) -> None:
    ports = free_ports(len(DOORS))
    driver = machine.folder / "driver.py"
    driver.write_text(DRIVER)
    _, env = machine.command(PORTS=json.dumps(ports), PYTHONPATH=str(ROOT))
    command = [sys.executable, str(driver), "-m", "mlops.cluster", "open", "--cluster", "existing"]
    if by_make:
        python = machine.bin / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {driver} "$@"\n')
        python.chmod(0o755)
        make = str(shutil.which("make"))
        command = [make, "--old-file=setup", "open", "CLUSTER=existing", f"BIN={machine.bin}", f"WORK={machine.folder}"]
    ours, theirs = pty.openpty()
    with (machine.folder / "said").open("wb") as said:
        # a session of its own whose terminal is the other end: closed, it hangs up
        process = subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            stdin=theirs,
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=_control,
        )
    os.close(theirs)
    try:
        deadline = time.monotonic() + 90
        while any(map(is_free, ports)):
            assert process.poll() is None and time.monotonic() < deadline, (machine.folder / "said").read_text()
            time.sleep(0.2)
        assert sum("port-forward" in line for line in started(machine.folder).values()) >= len(ports)
        if isinstance(way, signal.Signals):
            os.kill(process.pid, way)
        else:
            os.close(ours)
        process.wait(30)
        deadline = time.monotonic() + 20
        # a process that ends loses its environment first, and its sockets after
        while (left := started(machine.folder) or not all(map(is_free, ports))) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left
    finally:
        with contextlib.suppress(OSError):
            os.close(ours)
        for pid in started(machine.folder):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _control() -> None:
    """Makes the terminal at stdin that of the session, and Ctrl-C heard: what runs in the background passes it over."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
