"""What `make open` opens: ports forwarded to the cluster's Services."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator

import typer

from matchmaking.base.errors import MlopsError
from mlops.cluster.capacity import KFP, PLATFORM
from mlops.cluster.kubectl import NAMESPACES, Kubectl

# what is opened: namespace, Service, its port, ours
DOORS = {
    "Kubeflow Pipelines": (KFP, "ml-pipeline-ui", 80, 8080),
    "MLflow": (PLATFORM, "mlflow", 5000, 5001),
    "Dashboard": (PLATFORM, "dashboard", 8080, 5002),
    "MinIO console": (PLATFORM, "minio", 9001, 9001),
    "MinIO, for S3": (PLATFORM, "minio", 9000, 9002),
}
# kubectl in a loop, until stdin ends; then the whole group does
FORWARD = 'while :; do "$@" >/dev/null 2>&1; sleep 1; done & read -r _; kill -s TERM 0'


@contextlib.contextmanager
def forwarded(kubectl: Kubectl, namespace: str, service: str, port: int, local: int) -> Iterator[None]:
    """A forwarded port, begun again when it breaks, as it does when its pod is replaced."""
    target = ["port-forward", f"service/{service}", f"{local}:{port}", "--namespace", namespace]
    command = ["sh", "-c", FORWARD, "sh", "kubectl", "--context", kubectl.context, *target]
    # of its own session, as Ctrl-C ends this process in its own time; its stdin ends when this process has, in any way
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while is_free(local):
            if time.monotonic() > deadline:
                raise MlopsError(f"port {local} can't be forwarded to {namespace}/{service}; `make status` may say why")
            time.sleep(0.2)
        yield
    finally:
        if process.stdin:
            process.stdin.close()
        process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as found:
        found.settimeout(2)
        return found.connect_ex(("127.0.0.1", port)) != 0


def doors_of(kubectl: Kubectl) -> dict[str, tuple[str, str, int, int]]:
    """What there is to open; a port of an alias (MinIO's, where another store is used) can't be forwarded."""
    aliases = {
        (namespace, found["metadata"]["name"])
        for namespace in NAMESPACES
        for found in kubectl.items("services", namespace)
        if found["spec"].get("type") == "ExternalName"
    }
    return {name: door for name, door in DOORS.items() if door[:2] not in aliases}


def tell_doors(kubectl: Kubectl) -> None:
    for name, (*_, port) in doors_of(kubectl).items():
        typer.echo(f"  {name:<20}http://localhost:{port}")
    template = "{{.data.password | base64decode}}{{println}}"
    typer.echo(
        "`make open` forwards them. The passwords are in Secrets: for MLflow's user admin\n"
        f"  kubectl --context {kubectl.context} get secret mlflow-admin -n {PLATFORM} -o go-template='{template}'\n"
        "and for MinIO in minio-root, which has its user, too."
    )
