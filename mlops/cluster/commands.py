"""The platform on a local Kubernetes cluster: `python -m mlops.cluster up|submit|open|status|logs|down`.

`make cluster-up` and the targets beside it run this. It calls kubectl, kind, minikube, docker and make, and is for a
checkout of the repository: it applies its `manifests/`. Whatever it does can be done again, and then changes only what
differs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.escape import log_lines, say
from matchmaking.base.settings import kfp_host
from mlops.cluster import capacity
from mlops.cluster.capacity import KFP, PLATFORM
from mlops.cluster.doors import DOORS, doors_of, forwarded, free_port, is_free, tell_doors
from mlops.cluster.images import MANIFESTS, bring_images, kustomize, with_images
from mlops.cluster.kubectl import NAME, NAMESPACES, POLL_SECONDS, TRIES, WAIT_SECONDS, Kubectl, announced, run, say_log
from mlops.cluster.machine import (
    Cluster,
    Kind,
    check,
    context_of,
    ensure_cluster,
    is_foreign,
    node_memory,
    place,
    remembered,
    tell_node_memory,
)
from mlops.cluster.secrets import SEED, make_secrets
from mlops.cluster.wait import JOBS, is_available, is_scaled_to_none, job_state, troubles_of, wait_until_ready

# what needs a model in production, which the seed brings where there is none; so it is waited for last
LAST = (("Job", SEED), ("Deployment", "legalaid-ml"))
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

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


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
    with announced("manifests"):
        objects = kustomize(MANIFESTS / overlay)
        cpus = capacity.needed(objects).cpu
    with announced("cluster"):
        kubectl = ensure_cluster(cluster, cpus)
        if not told and is_foreign(kubectl):
            raise InputError(
                f"{kubectl.context} has a Kubeflow Pipelines that this didn't install. OVERLAY=overlays/shared leaves "
                "it open to its users, and to every pod of the cluster, which may start runs as the promotion; "
                f"OVERLAY={overlay} closes it to all but these pipelines, and deletes its parts that they don't use"
            )
        remembered().parent.mkdir(parents=True, exist_ok=True)
        remembered().write_text(f"{cluster.value}\n")
    if build:
        bring_images(kubectl)
    with announced("custom resources"):
        crds = kustomize(MANIFESTS / "kfp" / "cluster-scoped")
        kubectl.apply(crds)
        names = [f"crd/{found['metadata']['name']}" for found in crds if found["kind"] == "CustomResourceDefinition"]
        kubectl("wait", "--for=condition=Established", "--timeout=120s", *names, tries=TRIES)
    with announced("secrets"):
        kubectl.apply(found for found in objects if found["kind"] == "Namespace")
        stale = make_secrets(kubectl)
    with announced("objects"):
        # a Job can't be changed, and these make right what differs
        kubectl("delete", "job", *JOBS, "--namespace", PLATFORM, "--ignore-not-found", "--wait", tries=TRIES)
        tell_node_memory(objects, kubectl)
        kubectl.apply(with_images(found for found in objects if not _is_last(found)))
        there = {found["metadata"]["name"] for found in objects if found["kind"] == "Deployment"}
        for deployment in [name for name in stale if name in there]:
            kubectl("rollout", "restart", f"deployment/{deployment}", "--namespace", KFP)
        closed = any(found["kind"] == "NetworkPolicy" and place(found) == (KFP, "default-deny") for found in objects)
        # where others use Kubeflow Pipelines, too, they may use these
        if closed:
            kubectl("delete", *LEFT_OUT, "--namespace", KFP, "--ignore-not-found", tries=TRIES)
    with announced("ready") as say:
        wait_until_ready(kubectl, [found for found in objects if not _is_last(found)], time.monotonic() + timeout, say)
    with announced("sample data and a first model, where there are none") as say:
        kubectl.apply(with_images(filter(_is_last, objects)))
        wait_until_ready(kubectl, objects, time.monotonic() + timeout, say)
    namespace, service, port, _ = DOORS["Kubeflow Pipelines"]
    with announced("pipelines"), forwarded(kubectl, namespace, service, port, local := free_port()):
        _upload(f"http://localhost:{local}")
    typer.echo(f"\nAll is ready, after {time.monotonic() - begin:.0f} s. The CronJobs submit the pipelines.")
    tell_doors(kubectl)
    for found in filter(is_scaled_to_none, kubectl.items("deployments", PLATFORM)):
        name = found["metadata"]["name"]
        typer.echo(
            f"Note: {name} has no pods: it was scaled to 0, as a harmful experiment's challenger is, and nothing here "
            f"brings it back. `kubectl scale deployment/{name} --replicas=1 -n {PLATFORM}` does.",
            err=True,
        )
    if not closed:
        typer.echo(
            f"Note: the namespace {KFP} is open: any pod reaches Kubeflow Pipelines, which has no users, "
            "and may start a run as the promotion. Overlays other than shared close it.",
            err=True,
        )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(context: typer.Context, cluster: Cluster = Kind.kind) -> None:
    """Run `mlops submit` on the cluster, with all that follows; forwards a port for as long as it takes."""
    kubectl = context_of(cluster)
    with _sizes(kubectl) as env:
        raise typer.Exit(_mlops(kubectl, "submit", *context.args, env=env))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def schedule(context: typer.Context, cluster: Cluster = Kind.kind) -> None:
    """Run `mlops schedule` on the cluster: apply, list or remove."""
    raise typer.Exit(_mlops(context_of(cluster), "schedule", *context.args))


@app.command("open")
def open_doors(cluster: Cluster = Kind.kind) -> None:
    """Forward the ports of the UIs to this machine until Ctrl-C."""
    kubectl = context_of(cluster)
    doors = doors_of(kubectl)
    if taken := [f"{port} ({name})" for name, (*_, port) in doors.items() if not is_free(port)]:
        raise MlopsError(f"in use already: port {', '.join(taken)}; another `make open`, perhaps")
    # `make`, or the terminal, may go, which this process isn't told in every case; a hang-up is polled for unasked
    parent, terminal = os.getppid(), select.poll()
    if sys.stdin.isatty():
        terminal.register(sys.stdin, 0)
    with contextlib.ExitStack() as stack:
        for namespace, service, port, local in doors.values():
            stack.enter_context(forwarded(kubectl, namespace, service, port, local))
        tell_doors(kubectl)
        typer.echo("Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            while os.getppid() == parent and not terminal.poll(1000 * POLL_SECONDS):
                pass


@app.command()
def status(cluster: Cluster = Kind.kind) -> None:
    """Show what runs, what waits and why, and the schedules."""
    kubectl = context_of(cluster)
    for namespace in NAMESPACES:
        typer.echo(f"{namespace}:")
        for deployment in kubectl.items("deployments", namespace):
            none = is_scaled_to_none(deployment)
            state = "scaled to 0" if none else "ready" if is_available(deployment) else "not ready"
            say(f"  {deployment['metadata']['name']:<36}{state}")
        for job in kubectl.items("jobs", namespace):
            say(f"  job {job['metadata']['name']:<32}{job_state(job)}")
        for cron in kubectl.items("cronjobs", namespace):
            last = cron.get("status", {}).get("lastScheduleTime", "never")
            when = f"{cron['spec']['schedule']} {cron['spec'].get('timeZone', '')}"
            say(f"  {cron['metadata']['name']:<36}{when}, last {last}")
        for pod, reason in troubles_of(kubectl, namespace).items():
            say(f"  {pod}: {reason}")


@app.command()
def logs(
    step: Annotated[str, typer.Argument(help="A step (train), or a Deployment or Job (mlflow, setup-store).")],
    cluster: Cluster = Kind.kind,
) -> None:
    """Show the log of a step's newest pod, or of a part of the platform."""
    kubectl = context_of(cluster)
    for namespace in NAMESPACES:
        for kind in ("deployment", "job"):
            if any(found["metadata"]["name"] == step for found in kubectl.items(f"{kind}s", namespace)):
                say_log(kubectl("logs", f"{kind}/{step}", "--namespace", namespace, "--tail=500"))
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
    say_log(kubectl("logs", newest, "--namespace", KFP, "--container=main"))


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
        context_of(cluster)("delete", "namespace", *NAMESPACES, "--ignore-not-found", seconds=1200)
        # others may use them
        typer.echo("What isn't in a namespace stays: Argo's and KFP's CRDs, and the PriorityClass")
    remembered().unlink(missing_ok=True)
    typer.echo("It is gone")


def _is_last(found: Mapping[str, Any]) -> bool:
    """Whether it works with all the rest, and so comes after it."""
    return (found["kind"], found["metadata"]["name"]) in LAST


def _upload(host: str) -> None:
    from mlops.kubeflow.submit import upload_all

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
        env["MLOPS_NODE_MEMORY"] = os.environ.get("MLOPS_NODE_MEMORY") or str(node_memory(kubectl))
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
    if door not in doors_of(kubectl) or not set(names) <= set(keys):
        return {}
    stack.enter_context(forwarded(kubectl, namespace, service, port, local := free_port()))
    found = {name: base64.b64decode(keys[name]).decode() for name in names}
    return {**found, "AWS_ENDPOINT_URL": f"http://localhost:{local}", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def _kfp(kubectl: Kubectl) -> Iterator[str]:
    """KFP's address: what MLOPS_KFP_HOST says, what `make open` has open, or else a port forwarded for now."""
    from mlops.kubeflow.kfp_api import Server

    known = bool(os.environ.get("MLOPS_KFP_HOST"))
    namespace, service, port, local = DOORS["Kubeflow Pipelines"]
    if not known and not is_free(local):
        try:
            Server(kfp_host(), read_seconds=5).check()
            known = True
        except MlopsError:
            local = free_port()
    if known:
        yield kfp_host()
        return
    with forwarded(kubectl, namespace, service, port, local):
        yield f"http://localhost:{local}"


def main() -> None:
    """Runs the command line; a failure is one line and an exit code."""
    try:
        app()
    except MlopsError as error:
        # a Job's last lines are more than one
        for line in log_lines(f"Error: {error}"):
            typer.echo(line, err=True)
        sys.exit(error.exit_code)
