"""The platform on a local Kubernetes cluster: `python -m pipelines.cluster up|submit|open|status|logs|down`.

`make cluster-up` and the targets beside it run this. It calls kubectl, kind, minikube, docker and make, and is for a
checkout of the repository: it applies its `manifests/`. Whatever it does can be done again, and then changes only what
differs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import re
import secrets
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from matchmaking.errors import InputError, MlopsError
from matchmaking.escape import for_rich, for_terminal, log_lines, say
from matchmaking.settings import image, kfp_host
from pipelines import capacity
from pipelines.capacity import KFP, PLATFORM, quantity

NAME = "legalaid-mlops"
NAMESPACES = (PLATFORM, KFP)
TOOLS = {
    "docker": "docs.docker.com/get-docker",
    "git": "git-scm.com",
    "k3d": "k3d.io",
    "kind": "kind.sigs.k8s.io",
    "kubectl": "kubernetes.io/docs/tasks/tools",
    "make": "gnu.org/software/make",
    "minikube": "minikube.sigs.k8s.io",
}
MANIFESTS = Path("manifests")
IMAGES = ("base", "trainer", "monitor", "client", "mlflow")
SEED = "seed"
JOBS = ("setup-store", "setup-mlflow", SEED)
# what needs a model in production, which the seed brings where there is none; so it is waited for last
LAST = (("Job", SEED), ("Deployment", "legalaid-ml"))
# contexts of clusters that run on Docker's own images
SHARED = ("docker-desktop", "rancher-desktop", "colima", "orbstack")
# what a machine of 8 GiB has left for Docker: requests, and what has none, as the files that are read
MEMORY_GIB = 7.0
# which cluster is meant from `up` to `down`: the Makefile's CLUSTER, unless it is said
REMEMBERED = "cluster"
IMAGE_IDS = "legalaid-mlops/image-ids"
KUBECTL = (1, 27)
# parts of KFP that aren't installed (manifests/kfp/upstream), where an earlier install left them; the webhook first, as
# it asks for one of the others
LEFT_OUT = (
    "mutatingwebhookconfiguration/cache-webhook-kubeflow",
    "deployment/cache-deployer-deployment",
    "deployment/cache-server",
    "deployment/metadata-writer",
    "deployment/ml-pipeline-viewer-crd",
    "deployment/ml-pipeline-visualizationserver",
    "service/cache-server",
    "service/ml-pipeline-visualizationserver",
    "clusterrolebinding/kubeflow-pipelines-cache-deployer-clusterrolebinding",
    "clusterrole/kubeflow-pipelines-cache-deployer-clusterrole",
)
# what is opened: namespace, Service, its port, ours
DOORS = {
    "Kubeflow Pipelines": (KFP, "ml-pipeline-ui", 80, 8080),
    "MLflow": (PLATFORM, "mlflow", 5000, 5001),
    "MinIO console": (PLATFORM, "minio", 9001, 9001),
    "MinIO, for S3": (PLATFORM, "minio", 9000, 9002),
}
# kubectl in a loop, until stdin ends; then the whole group does
FORWARD = 'while :; do "$@" >/dev/null 2>&1; sleep 1; done & read -r _; kill -s TERM 0'
# a namespace that was just made, a webhook that starts, a registry's hiccup: gone by the next try
TRIES, WAIT_SECONDS = 4, 5.0
POLL_SECONDS = 3.0
# without a terminal, how often a step that takes long says that it goes on
BEAT_SECONDS = 30.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class Kind(StrEnum):
    """The clusters that can be used."""

    kind = "kind"
    minikube = "minikube"
    existing = "existing"


Cluster = Annotated[Kind, typer.Option(envvar="CLUSTER", help="Which cluster.")]


@dataclass(frozen=True)
class Kubectl:
    """kubectl on one context, whatever the current one is."""

    context: str

    def __call__(self, *args: str, stdin: str | None = None, tries: int = 1, seconds: float = 600) -> str:
        return run("kubectl", "--context", self.context, *args, stdin=stdin, tries=tries, seconds=seconds)

    def items(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        return list(json.loads(self("get", kind, "--namespace", namespace, "--output=json", tries=TRIES))["items"])

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        # by the server, as CRDs are too large for the annotation that kubectl keeps otherwise
        self("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=listed, tries=TRIES)


@app.command()
def up(
    cluster: Cluster = Kind.kind,
    overlay: Annotated[
        str, typer.Option(help="Folder below manifests/.", show_default="overlays/ and the cluster's kind")
    ] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until what is installed has to be ready.")] = 1800,
    build: Annotated[bool, typer.Option(help="Build the images and bring them to the cluster.")] = True,
) -> None:
    """Make the cluster if it isn't there, install or update everything, and say what to open."""
    told = bool(overlay)
    overlay = overlay or f"overlays/{cluster.value}"
    if not (MANIFESTS / overlay / "kustomization.yaml").is_file():
        raise InputError(f"{MANIFESTS / overlay} is no overlay; run this in the repository, with one of its folders")
    check(cluster, build)
    begin = time.monotonic()
    with _step("manifests"):
        objects = _kustomize(MANIFESTS / overlay)
        cpus = capacity.needed(objects).cpu
    with _step("cluster"):
        kubectl = _cluster(cluster, cpus)
        if not told and _is_foreign(kubectl):
            raise InputError(
                f"{kubectl.context} has a Kubeflow Pipelines that this didn't install. OVERLAY=overlays/shared leaves "
                "it open to its users, and to every pod of the cluster, which may start runs as the promotion; "
                f"OVERLAY={overlay} closes it to all but these pipelines, and deletes its parts that they don't use"
            )
        _remembered().parent.mkdir(parents=True, exist_ok=True)
        _remembered().write_text(f"{cluster.value}\n")
    if build:
        _images(kubectl)
    with _step("custom resources"):
        crds = _kustomize(MANIFESTS / "kfp" / "cluster-scoped")
        kubectl.apply(crds)
        names = [f"crd/{found['metadata']['name']}" for found in crds if found["kind"] == "CustomResourceDefinition"]
        kubectl("wait", "--for=condition=Established", "--timeout=120s", *names, tries=TRIES)
    with _step("secrets"):
        kubectl.apply(found for found in objects if found["kind"] == "Namespace")
        stale = make_secrets(kubectl)
    with _step("objects"):
        # a Job can't be changed, and these make right what differs
        kubectl("delete", "job", *JOBS, "--namespace", PLATFORM, "--ignore-not-found", "--wait", tries=TRIES)
        _tell_node_memory(objects, kubectl)
        kubectl.apply(_with_images(found for found in objects if not _is_last(found)))
        there = {found["metadata"]["name"] for found in objects if found["kind"] == "Deployment"}
        for deployment in [name for name in stale if name in there]:
            kubectl("rollout", "restart", f"deployment/{deployment}", "--namespace", KFP)
        closed = any(found["kind"] == "NetworkPolicy" and _place(found) == (KFP, "default-deny") for found in objects)
        # where others use Kubeflow Pipelines, too, they may use these
        if closed:
            kubectl("delete", *LEFT_OUT, "--namespace", KFP, "--ignore-not-found", tries=TRIES)
    with _step("ready") as say:
        _wait(kubectl, [found for found in objects if not _is_last(found)], time.monotonic() + timeout, say)
    with _step("sample data and a first model, where there are none") as say:
        kubectl.apply(_with_images(filter(_is_last, objects)))
        _wait(kubectl, objects, time.monotonic() + timeout, say)
    namespace, service, port, _ = DOORS["Kubeflow Pipelines"]
    with _step("pipelines"), _forward(kubectl, namespace, service, port, local := _free_port()):
        _upload(f"http://localhost:{local}")
    typer.echo(f"\nAll is ready, after {time.monotonic() - begin:.0f} s. The CronJobs submit the pipelines.")
    _tell_doors(kubectl)
    if not closed:
        typer.echo(
            f"Note: the namespace {KFP} is open: any pod reaches Kubeflow Pipelines, which has no users, "
            "and may start a run as the promotion. Overlays other than shared close it.",
            err=True,
        )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(context: typer.Context, cluster: Cluster = Kind.kind) -> None:
    """Run `mlops submit` on the cluster, with all that follows; forwards a port for as long as it takes."""
    kubectl = _context(cluster)
    with _sizes(kubectl) as env:
        raise typer.Exit(_mlops(kubectl, "submit", *context.args, env=env))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def schedule(context: typer.Context, cluster: Cluster = Kind.kind) -> None:
    """Run `mlops schedule` on the cluster: apply, list or remove."""
    raise typer.Exit(_mlops(_context(cluster), "schedule", *context.args))


@app.command("open")
def open_doors(cluster: Cluster = Kind.kind) -> None:
    """Forward the ports of the UIs to this machine until Ctrl-C."""
    kubectl = _context(cluster)
    doors = _doors(kubectl)
    if taken := [f"{port} ({name})" for name, (*_, port) in doors.items() if not _free(port)]:
        raise MlopsError(f"in use already: port {', '.join(taken)}; another `make open`, perhaps")
    # `make`, or the terminal, may go, which this process isn't told in every case; a hang-up is polled for unasked
    parent, terminal = os.getppid(), select.poll()
    if sys.stdin.isatty():
        terminal.register(sys.stdin, 0)
    with contextlib.ExitStack() as stack:
        for namespace, service, port, local in doors.values():
            stack.enter_context(_forward(kubectl, namespace, service, port, local))
        _tell_doors(kubectl)
        typer.echo("Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            while os.getppid() == parent and not terminal.poll(1000 * POLL_SECONDS):
                pass


@app.command()
def status(cluster: Cluster = Kind.kind) -> None:
    """Show what runs, what waits and why, and the schedules."""
    kubectl = _context(cluster)
    for namespace in NAMESPACES:
        typer.echo(f"{namespace}:")
        for deployment in kubectl.items("deployments", namespace):
            state = "ready" if _available(deployment) else "not ready"
            say(f"  {deployment['metadata']['name']:<36}{state}")
        for job in kubectl.items("jobs", namespace):
            say(f"  job {job['metadata']['name']:<32}{_job_state(job)}")
        for cron in kubectl.items("cronjobs", namespace):
            last = cron.get("status", {}).get("lastScheduleTime", "never")
            when = f"{cron['spec']['schedule']} {cron['spec'].get('timeZone', '')}"
            say(f"  {cron['metadata']['name']:<36}{when}, last {last}")
        for pod, reason in _troubles(kubectl, namespace).items():
            say(f"  {pod}: {reason}")


@app.command()
def logs(
    step: Annotated[str, typer.Argument(help="A step (train), or a Deployment or Job (mlflow, setup-store).")],
    cluster: Cluster = Kind.kind,
) -> None:
    """Show the log of a step's newest pod, or of a part of the platform."""
    kubectl = _context(cluster)
    for namespace in NAMESPACES:
        for kind in ("deployment", "job"):
            if any(found["metadata"]["name"] == step for found in kubectl.items(f"{kind}s", namespace)):
                _say_log(kubectl("logs", f"{kind}/{step}", "--namespace", namespace, "--tail=500"))
                return
    # Argo calls a node by its way down: retrain-x7d2f.root.train.executor(0)
    called = re.compile(rf"\.{re.escape(step)}(\(\d+\))?\.executor(\(\d+\))?$")
    pods = [
        pod["metadata"]
        for pod in kubectl.items("pods", KFP)
        if called.search(pod["metadata"].get("annotations", {}).get("workflows.argoproj.io/node-name", ""))
    ]
    if not pods:
        raise InputError(f"there is no pod of a step {step}; KFP's UI has the logs of runs that ended over an hour ago")
    newest = max(pods, key=lambda pod: str(pod["creationTimestamp"]))["name"]
    _say_log(kubectl("logs", newest, "--namespace", KFP, "--container=main"))


@app.command()
def down(
    cluster: Cluster = Kind.kind,
    yes: Annotated[bool, typer.Option("--yes", help="existing: really delete both namespaces, with all data.")] = False,
) -> None:
    """Delete the cluster; of an existing one, what was installed there, with all data."""
    if cluster is Kind.kind:
        run("kind", "delete", "cluster", "--name", NAME)
    elif cluster is Kind.minikube:
        run("minikube", "delete", "--profile", NAME)
    elif not yes:
        raise InputError(f"the namespaces {' and '.join(NAMESPACES)} would be deleted, with all data; --yes does it")
    else:
        _context(cluster)("delete", "namespace", *NAMESPACES, "--ignore-not-found", seconds=1200)
        # others may use them
        typer.echo("What isn't in a namespace stays: Argo's and KFP's CRDs, and the PriorityClass")
    _remembered().unlink(missing_ok=True)
    typer.echo("It is gone")


def check(cluster: Kind, build: bool) -> None:
    """What is missing, one line each, before anything is touched.

    Raises:
        InputError: something is missing.
    """
    needed = {"kubectl", "git"}
    if cluster is not Kind.existing:
        needed |= {cluster.value, "docker"}
    elif build and shutil.which("kubectl") and (bring := _bring(_context_name(cluster))):
        needed |= {"minikube" if "minikube" in bring[-2] else bring[0], "docker"}
    if build and "docker" in needed:
        needed |= {"make"}
    problems = [f"{tool} isn't installed ({TOOLS[tool]})" for tool in sorted(needed) if not shutil.which(tool)]
    if not problems:
        problems += _old_kubectl()
        problems += _small_docker() if cluster is not Kind.existing else []
    for problem in problems:
        say(f"Error: {problem}", err=True)
    for name, (*_, port) in DOORS.items():
        if not _free(port):
            typer.echo(f"Note: port {port} is in use, which `make open` needs for {name}", err=True)
    if problems:
        raise InputError("nothing was done")


def _old_kubectl() -> Iterator[str]:
    found = json.loads(run("kubectl", "version", "--client", "--output=json"))["clientVersion"]
    version = int(found["major"]), int(re.match(r"\d+", found["minor"])[0])  # type: ignore[index]
    if version < KUBECTL:
        yield f"kubectl {version[0]}.{version[1]} is too old; {KUBECTL[0]}.{KUBECTL[1]} or newer is needed"


def _docker() -> dict[str, Any]:
    return dict(json.loads(run("docker", "info", "--format={{json .}}", seconds=30)))


def _small_docker() -> Iterator[str]:
    try:
        gib = _docker().get("MemTotal", 0) / 2**30
    except MlopsError:
        yield "Docker doesn't answer; start it"
        return
    if gib < MEMORY_GIB:
        yield f"Docker has {gib:.1f} GiB of memory; the platform and a retraining need {MEMORY_GIB:g}"


def _small_cluster(kubectl: Kubectl, cpus: float) -> None:
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    gib = sum(quantity(node["status"]["allocatable"]["memory"]) for node in nodes) / 2**30
    free = sum(quantity(node["status"]["allocatable"]["cpu"]) for node in nodes) - _asked_by_others(kubectl)
    # to a hundredth, as sums of floats are
    if gib < MEMORY_GIB - 0.5 or round(free, 2) < round(cpus, 2):
        raise InputError(
            f"the cluster has {gib:.1f} GiB for pods and {free:.2f} CPUs that no other pod asks for; "
            f"{MEMORY_GIB - 0.5:g} and {cpus:.2f} are needed"
        )


def _asked_by_others(kubectl: Kubectl) -> float:
    pods = json.loads(kubectl("get", "pods", "--all-namespaces", "--output=json", tries=TRIES))["items"]
    return sum(
        capacity.of_pod(pod["spec"]).cpu
        for pod in pods
        if pod["metadata"]["namespace"] not in NAMESPACES
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


def _node_memory(kubectl: Kubectl) -> int:
    """The bytes that the largest node has for pods."""
    nodes = json.loads(kubectl("get", "nodes", "--output=json", tries=TRIES))["items"]
    return int(max(quantity(node["status"]["allocatable"]["memory"]) for node in nodes))


def _tell_node_memory(objects: Iterable[dict[str, Any]], kubectl: Kubectl) -> None:
    """Lets the CronJobs refuse at once what no node could hold."""
    for found in objects:
        if (found["kind"], found["metadata"]["name"]) == ("ConfigMap", "mlops-client"):
            found["data"]["MLOPS_NODE_MEMORY"] = str(_node_memory(kubectl))


def _cluster(cluster: Kind, cpus: float) -> Kubectl:
    """The cluster, made where it isn't there, with as many CPUs for pods."""
    if cluster is not Kind.existing and (has := _docker().get("NCPU", 0)) < (wants := cpus + capacity.SYSTEM.cpu):
        raise InputError(f"Docker has {has} CPUs; the platform and a retraining need {wants:.2f}")
    if cluster is Kind.kind and NAME not in run("kind", "get", "clusters").split():
        run("kind", "create", "cluster", "--name", NAME, "--wait", "180s", seconds=1200)
    if cluster is Kind.minikube:
        # does nothing where it runs; Calico, as minikube's own network knows no policies
        run(
            "minikube",
            "start",
            "--profile",
            NAME,
            f"--cpus={math.ceil(cpus + capacity.SYSTEM.cpu)}",
            "--memory=7g",
            "--cni=calico",
            seconds=1800,
        )
    kubectl = _context(cluster)
    _small_cluster(kubectl, cpus)
    return kubectl


def _context(cluster: Kind) -> Kubectl:
    """The kubectl of a cluster that is there."""
    if not shutil.which("kubectl"):
        raise InputError(f"kubectl isn't installed ({TOOLS['kubectl']})")
    context, here = _context_name(cluster), f"CLUSTER={cluster.value}"
    kubectl = Kubectl(context)
    try:
        kubectl("version", "--output=json", "--request-timeout=20s", tries=2)
    except MlopsError as error:
        make = (
            "kubectl's current context names it" if cluster is Kind.existing else f"`make cluster-up {here}` makes one"
        )
        others = " or ".join(f"CLUSTER={other.value}" for other in Kind if other is not cluster)
        raise InputError(f"no cluster answers as {context} ({here}); {make}, and {others} means another") from error
    return kubectl


def _context_name(cluster: Kind) -> str:
    if cluster is not Kind.existing:
        return f"kind-{NAME}" if cluster is Kind.kind else NAME
    try:
        return run("kubectl", "config", "current-context").strip()
    except MlopsError as error:
        raise InputError("kubectl has no current context; `kubectl config use-context` sets one") from error


def _is_last(found: Mapping[str, Any]) -> bool:
    """Whether it works with all the rest, and so comes after it."""
    return (found["kind"], found["metadata"]["name"]) in LAST


def _place(found: Mapping[str, Any]) -> tuple[str | None, str]:
    return found["metadata"].get("namespace"), found["metadata"]["name"]


def _is_foreign(kubectl: Kubectl) -> bool:
    """Whether there is a Kubeflow Pipelines without what steps are given here."""
    names = {found["metadata"]["name"] for found in kubectl.items("deployments", KFP)}
    return "ml-pipeline" in names and "mlops-pipeline" not in _secrets(kubectl, KFP)


def _remembered() -> Path:
    return Path(os.environ.get("WORK", "work"), REMEMBERED)


def _images(kubectl: Kubectl) -> None:
    bring = _bring(kubectl.context)
    if bring is None:
        # pods would ask a public registry for images of these names, where they may be anybody's
        if missing := [name for name in map(image, IMAGES) if not _on_nodes(kubectl, name)]:
            raise InputError(
                f"there is no way known to bring images to {kubectl.context}, whose nodes don't list {missing[0]}: "
                "REGISTRY=host/path pushes them, or ARGS=--no-build says that they are there"
            )
        typer.echo("  the images are on the nodes already, and stay as they are")
        return
    with _step("build images"):
        run("make", "--no-print-directory", "images", seconds=7200)
    with _step("bring images") as say:
        for name in map(image, IMAGES):
            say(name)
            run(*bring, name, tries=3, seconds=3600)


def _bring(context: str) -> list[str] | None:
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


def _kustomize(folder: Path) -> list[dict[str, Any]]:
    # it fetches KFP's and Argo's manifests by git
    text = run("kubectl", "kustomize", str(folder), tries=3)
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def _with_images(objects: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
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


def make_secrets(kubectl: Kubectl) -> list[str]:
    """Makes the Secrets that aren't there; what is there stays, so that nothing is rotated unasked.

    The platform's namespace has all of them; those that steps and KFP need are copied from there to theirs.

    Returns:
        The Deployments in KFP's namespace that run with a copy of before.
    """
    kept = {namespace: _secrets(kubectl, namespace) for namespace in NAMESPACES}
    new = {name: value for name, value in _wanted().items() if name not in kept[PLATFORM]}
    _put(kubectl, PLATFORM, new)
    have = kept[PLATFORM] | new
    if "mysql-secret" not in kept[KFP]:
        _put(kubectl, KFP, {"mysql-secret": {"username": "root", "password": _password()}})
    store = have["identity-kfp"]
    copies = {
        "mlpipeline-minio-artifact": {
            "accesskey": store["AWS_ACCESS_KEY_ID"],
            "secretkey": store["AWS_SECRET_ACCESS_KEY"],
        },
        "mlops-pipeline": have["identity-pipeline"],
        "mlops-promotion": have["identity-promotion"],
    }
    differing = {name: value for name, value in copies.items() if kept[KFP].get(name) != value}
    _put(kubectl, KFP, differing)
    changed = "mlpipeline-minio-artifact" in differing and "mlpipeline-minio-artifact" in kept[KFP]
    # SeaweedFS's own pod reads the keys too, where it is the store
    return ["seaweedfs", "ml-pipeline", "ml-pipeline-ui"] if changed else []


def _wanted() -> dict[str, dict[str, str]]:
    """All Secrets of the platform's namespace, with new values."""
    wanted = {
        "minio-root": {"user": "root-" + secrets.token_hex(4), "password": _password()},
        "postgres": {"password": _password()},
        "mlflow-admin": {"username": "admin", "password": _password(), "flask-secret-key": _password()},
    }
    for role in ("kfp", "mlflow", "pipeline", "promotion", "seed", "serving"):
        wanted[f"identity-{role}"] = {"AWS_ACCESS_KEY_ID": f"mlops-{role}", "AWS_SECRET_ACCESS_KEY": _password()}
        if role in ("pipeline", "promotion", "seed"):
            names = {"MLFLOW_TRACKING_USERNAME": role, "MLFLOW_TRACKING_PASSWORD": _password()}
            wanted[f"identity-{role}"] |= names
    return wanted


def _password() -> str:
    # hexadecimal: it goes into URLs and shells; 40 digits are the most that MinIO takes
    return secrets.token_hex(20)


def _secrets(kubectl: Kubectl, namespace: str) -> dict[str, dict[str, str]]:
    return {
        found["metadata"]["name"]: {
            key: base64.b64decode(value).decode(errors="replace") for key, value in found["data"].items()
        }
        for found in kubectl.items("secrets", namespace)
        if found.get("type") == "Opaque" and found.get("data")
    }


def _put(kubectl: Kubectl, namespace: str, values: Mapping[str, Mapping[str, str]]) -> None:
    """Writes Secrets; the values go through stdin, as the arguments of a process can be seen."""
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": NAME}},
            "type": "Opaque",
            "stringData": dict(value),
        }
        for name, value in values.items()
    ]
    if objects:
        kubectl.apply(objects)


def _wait(kubectl: Kubectl, objects: list[dict[str, Any]], deadline: float, say: Callable[..., None]) -> None:
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
            troubles |= _troubles(kubectl, namespace)
            for found in kubectl.items("deployments", namespace):
                if _available(found):
                    done.add(("Deployment", namespace, found["metadata"]["name"]))
            for found in kubectl.items("jobs", namespace):
                name = found["metadata"]["name"]
                if _job_state(found) == "failed" and name in JOBS:
                    try:
                        last = kubectl("logs", f"job/{name}", "--namespace", namespace, "--tail=5").strip()
                    except MlopsError:  # past its deadline a Job's pods are deleted
                        last = "its pods are gone: it took too long"
                    raise MlopsError(f"the Job {name} failed; `make logs STEP={name}` shows more:\n{last}")
                if _job_state(found) == "done":
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


def _available(deployment: Mapping[str, Any]) -> bool:
    """Whether all its pods are the newest and serve, as `kubectl rollout status` decides it."""
    wanted, found = deployment["spec"].get("replicas", 1), deployment.get("status", {})
    return found.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0) and all(
        found.get(key, 0) == wanted for key in ("replicas", "updatedReplicas", "availableReplicas")
    )


def _job_state(job: Mapping[str, Any]) -> str:
    conditions = {each["type"] for each in job.get("status", {}).get("conditions", []) if each["status"] == "True"}
    return "done" if "Complete" in conditions else "failed" if "Failed" in conditions else "running"


def _troubles(kubectl: Kubectl, namespace: str) -> dict[str, str]:
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


def _upload(host: str) -> None:
    from pipelines.submit import upload_all

    # through a forwarded port the UI may answer before the API server behind it does
    for attempt in range(TRIES):
        try:
            upload_all(host)
            return
        except MlopsError:
            if attempt == TRIES - 1:
                raise
            time.sleep(WAIT_SECONDS)


def _mlops(kubectl: Kubectl, *arguments: str, env: Mapping[str, str] | None = None) -> int:
    """The exit code of a command of `mlops` that talks to the cluster's KFP."""
    with _kfp(kubectl) as host:
        command = [str(Path(sys.executable).with_name("mlops")), *arguments]
        variables = {**os.environ, **(env or {}), "MLOPS_KFP_HOST": host}
        return subprocess.run(command, env=variables, check=False).returncode


@contextlib.contextmanager
def _sizes(kubectl: Kubectl) -> Iterator[dict[str, str]]:
    """What `mlops submit` sizes a run's steps by: the nodes, and the store, to be asked how large the data is.

    Where somebody's own credentials for a store are set, that one is asked. What can't be found out is left out: the
    steps get their default then.
    """
    env: dict[str, str] = {}
    with contextlib.suppress(MlopsError):
        env["MLOPS_NODE_MEMORY"] = os.environ.get("MLOPS_NODE_MEMORY") or str(_node_memory(kubectl))
    with contextlib.ExitStack() as stack:
        if not any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")):
            with contextlib.suppress(MlopsError):
                env |= _store_of(kubectl, stack)
        yield env


def _store_of(kubectl: Kubectl, stack: contextlib.ExitStack) -> dict[str, str]:
    """The cluster's MinIO, forwarded for now, for one who reads datasets; empty where it has none."""
    door, names = "MinIO, for S3", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    namespace, service, port, _ = DOORS[door]
    secret = kubectl("get", "secret", "identity-pipeline", "--namespace", namespace, "--output=json")
    keys = json.loads(secret).get("data") or {}
    if door not in _doors(kubectl) or not set(names) <= set(keys):
        return {}
    stack.enter_context(_forward(kubectl, namespace, service, port, local := _free_port()))
    found = {name: base64.b64decode(keys[name]).decode() for name in names}
    return {**found, "AWS_ENDPOINT_URL": f"http://localhost:{local}", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def _kfp(kubectl: Kubectl) -> Iterator[str]:
    """KFP's address: what MLOPS_KFP_HOST says, what `make open` has open, or else a port forwarded for now."""
    from pipelines.kfp_api import Server

    known = bool(os.environ.get("MLOPS_KFP_HOST"))
    namespace, service, port, local = DOORS["Kubeflow Pipelines"]
    if not known and not _free(local):
        try:
            Server(kfp_host(), read_seconds=5).check()
            known = True
        except MlopsError:
            local = _free_port()
    if known:
        yield kfp_host()
        return
    with _forward(kubectl, namespace, service, port, local):
        yield f"http://localhost:{local}"


@contextlib.contextmanager
def _forward(kubectl: Kubectl, namespace: str, service: str, port: int, local: int) -> Iterator[None]:
    """A forwarded port, begun again when it breaks, as it does when its pod is replaced."""
    target = ["port-forward", f"service/{service}", f"{local}:{port}", "--namespace", namespace]
    command = ["sh", "-c", FORWARD, "sh", "kubectl", "--context", kubectl.context, *target]
    # of its own session, as Ctrl-C ends this process in its own time; its stdin ends when this process has, in any way
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while _free(local):
            if time.monotonic() > deadline:
                raise MlopsError(f"port {local} can't be forwarded to {namespace}/{service}; `make status` may say why")
            time.sleep(0.2)
        yield
    finally:
        if process.stdin:
            process.stdin.close()
        process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _free(port: int) -> bool:
    with socket.socket() as found:
        found.settimeout(2)
        return found.connect_ex(("127.0.0.1", port)) != 0


def _doors(kubectl: Kubectl) -> dict[str, tuple[str, str, int, int]]:
    """What there is to open; a port of an alias (MinIO's, where another store is used) can't be forwarded."""
    aliases = {
        (namespace, found["metadata"]["name"])
        for namespace in NAMESPACES
        for found in kubectl.items("services", namespace)
        if found["spec"].get("type") == "ExternalName"
    }
    return {name: door for name, door in DOORS.items() if door[:2] not in aliases}


def _tell_doors(kubectl: Kubectl) -> None:
    for name, (*_, port) in _doors(kubectl).items():
        typer.echo(f"  {name:<20}http://localhost:{port}")
    template = "{{.data.password | base64decode}}{{println}}"
    typer.echo(
        "`make open` forwards them. The passwords are in Secrets: for MLflow's user admin\n"
        f"  kubectl --context {kubectl.context} get secret mlflow-admin -n {PLATFORM} -o go-template='{template}'\n"
        "and for MinIO in minio-root, which has its user, too."
    )


@contextlib.contextmanager
def _step(name: str) -> Iterator[Callable[..., None]]:
    """A line when it has ended, with its time, and a spinner that says where it is.

    Without a terminal, a line each time that something else is waited for, and every half a minute. What it gives is
    called with what is to be said, and with what has to differ for that to be something else.
    """
    from rich.console import Console

    console, begin = Console(stderr=True, highlight=False, soft_wrap=True), time.monotonic()
    if console.is_terminal:
        with console.status(f"  {name}") as spinner:
            yield lambda text, *_: spinner.update(f"  {name}: {for_rich(text)}")
    else:
        state: dict[str, Any] = {"text": "", "about": None}
        ended = threading.Event()

        def line() -> None:
            now = f"{time.monotonic() - begin:.0f} s"
            text = for_terminal(state["text"])
            console.print(f"  {name}, {now}: {text}" if text else f"  {name}, {now}", markup=False)

        def say(text: str, *about: object) -> None:
            changed, state["text"], state["about"] = state["about"] != (about or text), text, about or text
            if changed:
                line()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                line()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield say
        finally:
            ended.set()
            thread.join()
    console.print(f"  {name:<18}{time.monotonic() - begin:6.1f} s")


def run(*command: str, stdin: str | None = None, tries: int = 1, seconds: float = 600) -> str:
    """What a program prints.

    Args:
        command: the program and its arguments; never a secret, as they can be seen.
        stdin: what it reads.
        tries: how often it may fail before that counts.
        seconds: that it may take.

    Raises:
        MlopsError: it failed; the message has the last lines it said.
    """
    for attempt in range(tries):
        if attempt:
            time.sleep(WAIT_SECONDS)
        try:
            done = subprocess.run(
                command,
                input=stdin or "",
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except FileNotFoundError:
            raise MlopsError(f"{command[0]} isn't installed") from None
        except subprocess.TimeoutExpired:
            said = f"no end after {seconds:.0f} s"
            continue
        if done.returncode == 0:
            return done.stdout
        said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
    shown = " ".join(part for part in command[:6] if not part.startswith("--context"))
    raise MlopsError(f"{shown}: {said[-600:]}")


def _say_log(text: str) -> None:
    for line in log_lines(text):
        typer.echo(line)


def main() -> None:
    """Runs the command line; a failure is one line and an exit code."""
    try:
        app()
    except MlopsError as error:
        # a Job's last lines are more than one
        for line in log_lines(f"Error: {error}"):
            typer.echo(line, err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
