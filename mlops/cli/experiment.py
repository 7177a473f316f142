"""`mlops experiment`: shadow and A/B tests in front of two services, and what they say."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.escape import say
from mlops.cli import experiment_results, experiment_shadow
from mlops.cli.console import use_records
from mlops.cli.experiment_results import gateway_record
from mlops.cli.run import WorkDir

if TYPE_CHECKING:
    from matchmaking.experiments.gateway import Gateway

app = typer.Typer(no_args_is_help=True, help="Shadow and A/B tests: a gateway in front of two services.")
Unchecked = Annotated[
    bool, typer.Option("--unchecked", help="Don't hold it against the experiment's recorded definition.")
]
Folder = Annotated[Path, typer.Option(help="Where the definition, the exposure log and the programs' output go.")]


class Begin(StrEnum):
    """What a gateway may begin with."""

    shadow = "shadow"
    ab = "ab"


@app.command()
def up(
    champion: Annotated[Path, typer.Option(help="Folder of production's three files.")],
    challenger: Annotated[Path, typer.Option(help="Folder of the challenger's.")],
    service: Annotated[
        str,
        typer.Option(help="Command line of the service, run without a shell: {models} is its folder, {port} its port."),
    ],
    name: Annotated[str, typer.Option(help="The experiment's; clients are assigned by it.")] = "experiment",
    mode: Annotated[Begin, typer.Option(help="Copies to the challenger, or an A/B test.")] = Begin.shadow,
    share: Annotated[float, typer.Option(help="ab: each arm's share of the clients, in percent; 50 at most.")] = 1.0,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the gateway listens on 127.0.0.1.")] = 8000,
    champion_port: Annotated[int, typer.Option(min=0, max=65535, help="The champion's; 0 for a free one.")] = 0,
    challenger_port: Annotated[int, typer.Option(min=0, max=65535, help="The challenger's; 0 for a free one.")] = 0,
    ship: Annotated[str, typer.Option(help="Folder or URI that the parts of the exposure log are moved to.")] = "",
    service_version: Annotated[
        str, typer.Option(help="The service's, for the exposure log, as you call it: a tag, a digest, a commit.")
    ] = "",
    service_header: Annotated[
        str, typer.Option(help="In its place: the header of the service's answers that has its version.")
    ] = "",
    folder: Folder = Path("work/experiment"),
    work_dir: WorkDir = Path("work"),
    unchecked: Unchecked = False,
) -> None:
    """Run two services with nginx in front of them, until Ctrl-C ends all three.

    Callers ask the gateway in the service's place, and name the client in the header X-Client-Id.
    """
    from mlops.local import gateway

    if service_version and service_header:
        raise InputError(
            "give either --service-version or --service-header: the version is what the answers say, or you"
        )
    gateway.up(
        (name, mode.value, share if mode == Begin.ab else 0.0),
        {"champion": champion, "challenger": challenger},
        service,
        folder,
        port,
        (champion_port, challenger_port),
        ship,
        say,
        _check(work_dir, unchecked),
        (service_version, service_header),
    )


@app.command()
def ramp(
    share: Annotated[float, typer.Argument(help="Each arm's share of the clients, in percent; 50 at most.")],
    folder: Folder = Path("work/experiment"),
    work_dir: WorkDir = Path("work"),
    unchecked: Unchecked = False,
) -> None:
    """Change the share of a running experiment, or go from shadow to A/B; clients keep their arm as it rises."""
    from mlops.local import gateway

    if not share:
        raise InputError("a share of 0 is the way back: `mlops experiment stop`")
    gateway.change(folder, "ab", share, say, _check(work_dir, unchecked))


@app.command()
def stop(
    folder: Folder = Path("work/experiment"),
    experiment: Annotated[
        str, typer.Option(help="Only if it is this one that is served there, as a command that nobody watches asks.")
    ] = "",
    work_dir: WorkDir = Path("work"),
) -> None:
    """Give every client the champion again, at once, and log no more; the gateway and the services go on.

    Where a run of the pipeline couldn't do it, MLflow is told that it is done, and no run tries any more.
    """
    from mlops.local import gateway

    gateway.stop(folder, experiment, say)
    if _has_records(work_dir):
        from matchmaking.experiments.stop import see_to

        use_records(work_dir)
        name = experiment or gateway_record(folder).experiment
        try:
            if see_to(name, "`mlops experiment stop`"):
                say(f"{name}: seen to; no run tries any more to stop its challenger")
        except MlopsError as error:
            # it is off all the same
            say(f"MLflow couldn't be told that it is off: {error}", err=True)


@app.command()
def check(
    gateway: Annotated[
        Path, typer.Option(help="The gateway's record, gateway.yaml, or the folder that it is in.")
    ] = Path("work/experiment"),
    kube_context: Annotated[
        str,
        typer.Option("--context", help="kubectl's context of a cluster: look there whether the challenger has pods."),
    ] = "",
    work_dir: WorkDir = Path("work"),
) -> None:
    """Hold a gateway against its experiment's recorded definition; one that differs is exit code 3.

    On a cluster, before a change of manifests/serving/experiment/gateway.yaml is applied. It says as well whether a
    harmful challenger was stopped, and so has no pods, and what brings them back.
    """
    from matchmaking.experiments.agreement import check_recorded, unrecorded
    from matchmaking.experiments.record import is_recorded
    from matchmaking.experiments.stop import tried_of

    found = gateway_record(gateway)
    work_dir.mkdir(parents=True, exist_ok=True)
    use_records(work_dir)
    if not is_recorded(found.experiment):
        raise InputError(unrecorded(found.experiment))
    host = found.challenger.address.rpartition(":")[0]
    for stop in tried_of(found.experiment):
        say(f"{stop.experiment}: {stop.said}")
        if stop.state == "stopped" and not _is_here(host) and not kube_context:
            say(
                f"  On a cluster the Deployment {host} has no pods since, unless somebody has scaled it up. "
                "`--context` looks, and says what brings them back."
            )
    if kube_context:
        from mlops.cluster.challenger import tell_challenger
        from mlops.cluster.kubectl import Kubectl

        say(tell_challenger(Kubectl(kube_context), host, found.experiment))
    say(check_recorded(found))


def _is_here(host: str) -> bool:
    return host == "localhost" or host.startswith("127.")


def _has_records(work_dir: Path) -> bool:
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (work_dir / "mlflow.db").exists()


def _check(work_dir: Path, unchecked: bool) -> Callable[[Gateway], None]:
    """What is asked before clients have arms: whether MLflow has a definition, and this gateway is as that says."""

    def ask(gateway: Gateway) -> None:
        from matchmaking.experiments.agreement import check_recorded, unrecorded

        if unchecked:
            return
        if not _has_records(work_dir):
            # MLflow takes seconds to import, and would begin the records
            say(unrecorded(gateway.experiment, f"{work_dir / 'mlflow.db'}, which isn't there (--work-dir)"))
            return
        use_records(work_dir)
        say(check_recorded(gateway))

    return ask


experiment_results.register(app)
experiment_shadow.register(app)
