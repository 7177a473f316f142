"""What pods of `manifests/` run of our code besides pipelines: `python -m mlops.cluster.in_cluster --help` lists it."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matchmaking import storage
from matchmaking.base import settings
from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.escape import say
from matchmaking.model.production import FILES, MODEL
from mlops.cluster import deployments
from mlops.cluster.deployments import SERVED, asking, experiment_of

if TYPE_CHECKING:
    from matchmaking.experiments.gateway import Arm

ROWS, SEED = 12_000, 0
# as `make run` has it: trained on fewer pairs of an earlier time, an incumbent that can be beaten
FIRST_ROWS, FIRST_SEED = 1_000, 1000
# how earlier versions stopped an experiment, which outlasts an upgrade; for one release more
STOPPED = "EXPERIMENT_STOPPED"
# of each arm's service what the manifests call its image
IMAGE = "EXPERIMENT_IMAGE"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def seed(
    data: Annotated[str, typer.Option(help="URI of the dataset.")],
    production: Annotated[str, typer.Option(help="URI of the production folder.")],
    candidates: Annotated[str, typer.Option(help="URI of the folder packages go to.")],
) -> None:
    """Put sample data and a first production model in place, where there are none."""
    with tempfile.TemporaryDirectory() as folder:
        _seed_data(data, Path(folder))
        _seed_production(production, candidates, Path(folder))


def _seed_data(uri: str, folder: Path) -> None:
    from matchmaking.data.sample import generate_file

    if storage.read_bytes(uri) is not None:
        say(f"{uri} is there already")
        return
    generate_file(folder / "pairs.csv", ROWS, SEED)
    storage.replace_bytes(uri, (folder / "pairs.csv").read_bytes(), None)
    say(f"{uri}: {ROWS:,} generated pairs")


def _seed_production(uri: str, candidates: str, folder: Path) -> None:
    from matchmaking.data.sample import generate_file
    from matchmaking.release.check import prepare_promotion
    from matchmaking.release.promote import apply
    from matchmaking.release.recovery import recover
    from mlops.local.run import run_pipeline

    recover(uri, say=say)
    if held := storage.hash_bundle(uri, FILES):
        say(f"{uri} holds {', '.join(held)} already")
        return
    generate_file(folder / "first-pairs.csv", FIRST_ROWS, FIRST_SEED)
    arguments = {
        "data": str(folder / "first-pairs.csv"),
        "production": "",
        "candidates": candidates,
        "seed": SEED,
        "algorithm": "interactions",
    }
    # what is printed while a pipeline runs goes to its log
    outcome = run_pipeline("retrain", arguments, folder / "work", on_step=lambda step: say(step, err=True))
    if outcome.exit_code:
        raise MlopsError(f"there is no first model: {outcome.summary['error']['message']}")
    apply(prepare_promotion(outcome.summary["candidate_uri"], uri, say=say), say=say)
    say(f"{uri} holds a first production model")


@app.command()
def fetch(
    production: Annotated[str, typer.Argument(help="URI of the production folder.")],
    folder: Annotated[Path, typer.Argument(help="Where its files go.")],
) -> None:
    """Bring production's files, for the service to load."""
    if not storage.download_bundle(production, FILES, folder):
        raise InputError(f"{production} holds no model yet")
    say(f"{folder}: {', '.join(FILES)}")


@app.command("fetch-arm")
def fetch_arm(
    definition: Annotated[Path, typer.Argument(help="The experiment's gateway.yaml.")],
    variant: Annotated[str, typer.Argument(help="champion or challenger.")],
    folder: Annotated[Path, typer.Argument(help="Where its files go.")],
    served: Annotated[str, typer.Option(envvar=SERVED, help="A gateway.yaml's text: the same experiment's.")] = "",
) -> None:
    """Bring the model of one arm of an experiment, for its service to load; another one than is named is refused."""
    from matchmaking.experiments.gateway import read_gateway
    from matchmaking.model.production import hashes

    found = read_gateway(definition)
    # by that the challenger is stopped
    if served and (named := experiment_of(served)) != found.experiment:
        raise InputError(f"{SERVED} is of {named}, and {definition} of {found.experiment}")
    if variant not in ("champion", "challenger"):
        raise InputError(f"an experiment has no {variant}: champion or challenger")
    arm = found.champion if variant == "champion" else found.challenger
    if not storage.download_bundle(arm.folder, FILES, folder):
        raise InputError(f"{arm.folder} holds no model")
    _check_arm(variant, arm, hashes(folder))
    say(f"{folder}: {', '.join(FILES)} of {arm.folder}")


@app.command()
def gateway(
    definition: Annotated[Path, typer.Argument(help="The experiment's gateway.yaml.")],
    folder: Annotated[Path, typer.Argument(help="Where nginx's configuration goes, and nginx writes.")],
    mode: Annotated[str, typer.Option(envvar="EXPERIMENT_MODE", help="In place of the definition's.")] = "",
    stopped: Annotated[str, typer.Option(envvar=STOPPED, help="Names of experiments that are off; goes away.")] = "",
    champion_image: Annotated[str, typer.Option(envvar=f"{IMAGE}_CHAMPION", help="Its service's, for the log.")] = "",
    challenger_image: Annotated[str, typer.Option(envvar=f"{IMAGE}_CHALLENGER", help="Likewise.")] = "",
) -> None:
    """Make nginx's configuration of an experiment, once both folders hold the models that it names.

    Where the experiment's definition, definition.yaml, is beside the gateway's, the two have to agree.
    """
    from matchmaking.experiments.gateway import SERVICE, read_gateway, write_gateway

    def told(arm: Arm, image: str) -> Arm:
        """An arm with its service's version, unless the definition has one."""
        known = arm.service or not re.fullmatch(SERVICE, image)
        return arm if known else arm.model_copy(update={"service": image})

    found = read_gateway(definition)
    if mode not in ("", "off", "shadow", "ab"):
        raise InputError(f"EXPERIMENT_MODE is {mode}: off, shadow or ab")
    if found.experiment in stopped.split():
        mode = "off"
    if mode:
        found = found.changed(mode, found.share if mode == "ab" else 0.0)  # type: ignore[arg-type]
    if found.mode != "off" and (recorded := definition.with_name("definition.yaml")).exists():
        # imported where they are needed: the way back is a matter of seconds
        from matchmaking.experiments.agreement import refuse_disagreement
        from matchmaking.experiments.record import read_definition

        refuse_disagreement(found, read_definition(recorded))
    if found.mode != "off" and not found.service_header:
        images = {"champion": champion_image, "challenger": challenger_image}
        found = found.model_copy(update={arm: told(getattr(found, arm), image) for arm, image in images.items()})
    # off, it has to start whatever became of the models: it is the way back
    for variant, arm in (("champion", found.champion), ("challenger", found.challenger)) if found.mode != "off" else ():
        _check_arm(variant, arm, storage.hash_bundle(arm.folder, FILES))
    write_gateway(found, folder, "0.0.0.0:8000")
    say(f"{found.experiment}: {found.mode}, {found.share:g} % in each arm")


def _check_arm(variant: str, arm: Arm, found: dict[str, str]) -> None:
    if found.get(MODEL) != arm.model:
        raise InputError(
            f"the {variant}'s folder {arm.folder} holds the model {found.get(MODEL, 'none')[:12]}, not "
            f"{arm.model[:12]}, which the experiment is about; with another model it is another experiment"
        )


@app.command()
def ship(
    log: Annotated[Path, typer.Argument(help="The folder that nginx writes the exposure log to.")],
    uri: Annotated[str, typer.Argument(help="Where its parts go.")],
    seconds: Annotated[float, typer.Option(help="Between two looks.")] = 10.0,
) -> None:
    """Move the exposure log's parts to the store until SIGTERM; then what is left, as nginx has ended by that time."""
    from matchmaking.experiments.exposures import ship as ship_parts

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while not ended.wait(seconds):
        try:
            if gone := ship_parts(log, uri):
                say(f"{gone} parts of the exposure log are in {uri}")
        except MlopsError as error:
            # they stay here, and are tried again
            say(f"The exposure log wasn't shipped: {error}", err=True)
    say(f"{ship_parts(log, uri, everything=True)} parts of the exposure log are in {uri}: all there were")


@app.command()
def restart(
    namespace: Annotated[str, typer.Argument(help="Of the Deployment.")],
    deployment: Annotated[str, typer.Argument(help="Its name.")],
) -> None:
    """Restart a Deployment as `kubectl rollout restart` does, and wait until the new pods serve.

    As MLOPS_RESTART_COMMAND it has MLOPS_RESTART_TIMEOUT seconds.
    """
    deployments.restart(namespace, deployment, settings.restart_timeout())


@app.command("stop-experiment")
def stop_experiment(
    namespace: Annotated[str, typer.Argument(help="Of the challenger's Deployment.")],
    deployment: Annotated[str, typer.Argument(help="Its name.")],
    experiment: Annotated[str, typer.Argument(help="The experiment's name; another one's challenger goes on.")],
) -> None:
    """End a challenger's pods, upon which the gateway answers from the champion, and wait until they are gone.

    A second time changes nothing. Where there is no such Deployment, or it is another experiment's by now and has none
    of the old pods, nobody is served by it, and there is nothing to do.

    As MLOPS_EXPERIMENT_STOP_COMMAND it has `settings.EXPERIMENT_STOP_SECONDS`.
    """
    deployments.end_challenger(namespace, deployment, experiment, settings.EXPERIMENT_STOP_SECONDS)


@app.command()
def reconcile(
    host: Annotated[str, typer.Option(help="Kubeflow Pipelines.", envvar="MLOPS_KFP_HOST")],
    namespace: Annotated[str, typer.Option(help="Of its Workflows.")] = "kubeflow",
    schedules: Annotated[str, typer.Option(help="The namespace of the CronJobs that submit pipelines.")] = "",
) -> None:
    """Close what MLflow has as running and has ended in Kubeflow Pipelines, and raise alerts of what failed or is late.

    What was killed can't say so itself, and what didn't start even less. Where Kubeflow Pipelines or the CronJobs can't
    be asked, alerts are looked at all the same, by what is known; the exit code is then that of the first failure.
    """
    from matchmaking.evidence.policy import installed_policy
    from matchmaking.live.alert_log import look
    from mlops.kubeflow import lateness
    from mlops.kubeflow.kfp_api import Server
    from mlops.kubeflow.reconcile import reconcile as close_ended

    failures: list[MlopsError] = []

    def asked(part: Callable[[], list[Any]]) -> list[Any]:
        """What a part gives; nothing where it fails, which is said at once."""
        try:
            return part()
        except MlopsError as error:
            failures.append(error)
            say(f"Error: {error}", err=True)
            return []

    def of_kfp() -> list[Any]:
        server = Server(host)
        # one that isn't there is waited for once
        server.check()
        closed = asked(lambda: [close_ended(server, lambda run_id: _has_workflow(namespace, run_id), say=say)])
        say(f"{sum(closed)} closed")
        return lateness.recurring(server)

    due = asked(of_kfp) + (asked(lambda: lateness.cron_jobs(_cron_jobs(schedules))) if schedules else [])
    policy = installed_policy().alerts
    firing = [each for each in look(lateness.conditions(due, policy), policy) if each.state != "cleared"]
    say(f"{len(firing)} alerts fire" + "".join(f", {each.name}" for each in firing))
    if failures:
        raise typer.Exit(failures[0].exit_code)


def _cron_jobs(namespace: str) -> list[dict[str, Any]]:
    """The CronJobs that submit pipelines, as the cluster has them."""
    from kubernetes import client

    with asking(f"the CronJobs of {namespace} can't be read"):
        api = client.CustomObjectsApi()
        found = api.list_namespaced_custom_object(
            "batch", "v1", namespace, "cronjobs", label_selector="app=mlops-client"
        )
    return list(found["items"])


def _has_workflow(namespace: str, run_id: str) -> bool:
    """Whether the cluster has the Workflow of a run."""
    from kubernetes import client

    with asking(f"the Workflows of {namespace} can't be read"):
        found = client.CustomObjectsApi().list_namespaced_custom_object(
            "argoproj.io", "v1alpha1", namespace, "workflows", label_selector=f"pipeline/runid={run_id}", limit=1
        )
    return bool(found["items"])


def main() -> None:
    """Runs the command line; a failure is one line and an exit code."""
    try:
        app()
    except MlopsError as error:
        say(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
