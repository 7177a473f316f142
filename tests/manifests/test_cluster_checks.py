"""What `make cluster-up` finds missing or too little, and says in one line before anything happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from matchmaking.base.errors import MlopsError
from mlops.cluster import capacity, commands
from mlops.cluster.kubectl import Kubectl
from mlops.cluster.machine import Kind
from tests.manifests.machine import Machine


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
