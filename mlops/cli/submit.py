"""`mlops submit` and `mlops upload`: the pipelines on a Kubeflow Pipelines server."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from matchmaking.base.errors import InputError
from matchmaking.base.escape import for_rich, for_terminal
from matchmaking.base.settings import (
    CANDIDATES_URI,
    DATA_URI,
    EXPERIMENT,
    EXPERIMENT_OUTCOMES_URI,
    EXPERIMENT_PAIRS_URI,
    EXPOSURES_URI,
    MAX_SEED,
    OUTCOMES_URI,
    PREDICTIONS_URI,
    PRODUCTION_URI,
    kfp_host,
    mlflow_run_url,
)
from matchmaking.inputs import Split
from matchmaking.live import Window
from matchmaking.model import Algorithm
from matchmaking.model.sweep import TRIALS
from mlops.cli.console import make_console, policy_text
from mlops.cli.options import ExperimentName, Until, check_options, given
from mlops.cli.parameters import (
    DATA_ARGUMENTS,
    Candidates,
    Current,
    Data,
    Exposures,
    Host,
    Pairs,
    Predictions,
    Production,
    Trials,
    open_server,
)
from pipelines import Pipeline

if TYPE_CHECKING:
    from rich.console import Console

    from mlops.kubeflow.follow import Ended, Step
    from mlops.kubeflow.kfp_api import Server
    from mlops.kubeflow.submit import Run, Version


def submit(
    context: typer.Context,
    pipeline: Annotated[Pipeline, typer.Argument(help="Which pipeline.")],
    version: Annotated[
        str,
        typer.Argument(help="promote: number in the model registry, or a package's name; the challenger if left out."),
    ] = "",
    data: Data = DATA_URI,
    data_rev: Annotated[
        str, typer.Option(help="In its place: a git revision of the versioned data, in a remote the cluster can read.")
    ] = "",
    production: Production = PRODUCTION_URI,
    current: Current = "",
    predictions: Predictions = PREDICTIONS_URI,
    outcomes: Annotated[
        str,
        typer.Option(
            help="observe: the outcome log, as the cluster sees it. experiment: the outcomes, by default at "
            f"`{EXPERIMENT_OUTCOMES_URI}`."
        ),
    ] = OUTCOMES_URI,
    exposures: Exposures = EXPOSURES_URI,
    pairs: Pairs = EXPERIMENT_PAIRS_URI,
    experiment_name: ExperimentName = "",
    until: Until = "",
    period: Annotated[Window, typer.Option(help="observe: the length of a window.")] = Window.week,
    candidates: Candidates = CANDIDATES_URI,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of everything that is drawn by chance.")] = 0,
    algorithm: Annotated[Algorithm, typer.Option(help="retrain: what to train.")] = Algorithm.interactions,
    epochs: Annotated[int | None, typer.Option(min=1, help="retrain, sweep: passes over the rows, at most.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="retrain: rows a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-6, max=1, help="retrain: the first one.")] = None,
    trials: Trials = TRIALS,
    split: Annotated[Split, typer.Option(help="How held-out pairs are chosen.")] = Split.auto,
    production_data: Annotated[
        str, typer.Option(help="What production was trained on, if it doesn't know.", show_default="--data")
    ] = "",
    policy: Annotated[Path | None, typer.Option(help="retrain, sweep: a promotion policy (YAML).")] = None,
    memory: Annotated[
        str,
        typer.Option(
            help="Of each step that holds the data, as in 6Gi.", show_default="by the size of the data, or else 2Gi"
        ),
    ] = "",
    arguments: Annotated[
        Path | None, typer.Option(help="YAML: parameters of the pipeline; what options give goes before.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="promote: against the evidence; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="promote: why; kept in the audit trail.")] = "",
    win: Annotated[
        str,
        typer.Option(help="promote: an A/B experiment that found it better, in an offline `hold`'s place."),
    ] = "",
    host: Host = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run, and fail if it fails.")] = True,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds to wait; the run goes on.")] = None,
    experiment: Annotated[str, typer.Option(help="The experiment that the run is in.")] = EXPERIMENT,
    name: Annotated[
        str,
        typer.Option(
            envvar="MLOPS_RUN_NAME", help="The run's name; a run of that name is followed, not started a second time."
        ),
    ] = "",
    terminate_on_interrupt: Annotated[
        bool, typer.Option("--terminate-on-interrupt", help="Ctrl-C stops the run too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON and nothing else.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Run a pipeline on Kubeflow Pipelines, and follow it to its end."""
    check_options(context, pipeline)
    if data_rev:
        if data != DATA_URI:
            raise InputError("--data-rev is in place of --data: leave one of them out")
        from matchmaking.data.versions import remote_uri

        data = remote_uri(data_rev)
    recipe = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    judged = {
        "candidates": candidates,
        "split": split.value,
        "production_data": production_data,
        "policy": policy_text(policy),
    }
    measured = {"split": split.value, "production_data": production_data}
    own: dict[str, dict[str, Any]] = {
        "sweep": {**judged, "trials": trials, **({"epochs": epochs} if epochs else {})},
        "retrain": {
            **judged,
            "algorithm": algorithm.value,
            **{key: value for key, value in recipe.items() if value is not None},
        },
        "evaluate": measured,
        "evaluate-parts": measured,
        "monitor": {"current": current},
        "monitor-parts": {"current": current},
        "observe": _logs(context, predictions, outcomes, data) | {"period": period.value},
        "experiment": {
            "exposures": exposures,
            "outcomes": outcomes if "outcomes" in given(context) else EXPERIMENT_OUTCOMES_URI,
            "pairs": pairs,
            "experiment_name": experiment_name,
            "until": until,
        },
        "promote": {"version": version, "force": force, "reason": reason, "win": win},
    }
    common: dict[str, Any] = {"data": data, "seed": seed, "production": production}
    if pipeline in ("promote", "experiment"):
        common = {"production": production} if pipeline == "promote" else {}
    passed = {**common, **own[pipeline]}
    if arguments:
        from mlops.kubeflow.arguments import laid_over, read_arguments

        of_file = chosen_data(read_arguments(pipeline, arguments), f"--arguments {arguments}")
        passed = laid_over(passed, given(context), of_file)
        if of_file.get("data") and pipeline == "observe" and "predictions" not in given(context):
            if of_file.get("predictions") or of_file.get("outcomes"):
                raise InputError(f"--arguments {arguments}: give either the logs or data, a labelled dataset, not both")
            passed |= {"predictions": "", "outcomes": ""}
    if passed.get("force") and not passed["reason"]:
        raise InputError("--force needs --reason: it is kept in the audit trail")
    console = make_console()
    if pipeline != "promote":
        passed["memory"] = _memory(pipeline, {**passed, **({"memory": memory} if memory else {})}, console)
    server = open_server(host)
    from mlops.kubeflow import submit

    uploaded = submit.upload(server, pipeline)
    _say_uploaded(console, uploaded)
    run = submit.start(server, uploaded, passed, name, experiment)
    console.print(f"[bold]{pipeline}[/bold]  {for_rich(run.url)}", soft_wrap=True)
    if run.found:
        console.print(f"  the run {for_rich(run.name)} is there already: it is followed, no other is started")
    started = {"pipeline": pipeline, "run_id": run.run_id, "name": run.name, "url": run.url}
    if not wait:
        typer.echo(json.dumps(started, indent=1) if as_json else run.run_id)
        return
    ended = _followed(server, run, console, timeout, terminate_on_interrupt)
    if ended.error:
        _close_record(run, ended, console)
    if as_json:
        outcome = {**(ended.summary or {"pipeline": pipeline, "status": ended.state.lower(), "error": ended.error})}
        if ended.promotion is not None:
            outcome["promotion"] = ended.promotion
        typer.echo(json.dumps({**outcome, "kfp": started}, indent=1))
    else:
        _show(pipeline, run, ended)
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)


def upload(host: Host = "") -> None:
    """Upload the pipelines to Kubeflow Pipelines, where they aren't there in this version."""
    from mlops.kubeflow.submit import upload_all

    for version in upload_all(host or kfp_host()):
        told = "uploaded" if version.uploaded else "there already"
        typer.echo(for_terminal(f"{version.pipeline:<12}{version.name}  {told}"))


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command()(submit)
    app.command()(upload)


def _logs(context: typer.Context, predictions: str, outcomes: str, data: str) -> dict[str, Any]:
    """What `observe` looks at: the logs, but a labelled dataset where that and no log is asked for."""
    asked = given(context)
    if asked & {"data", "data_rev"} and "predictions" not in asked:
        return {"predictions": "", "outcomes": "", "data": data}
    return {"predictions": predictions, "outcomes": outcomes, "data": ""}


def _followed(server: Server, run: Run, console: Console, timeout: float | None, stop: bool) -> Ended:
    from mlops.kubeflow import follow, submit

    try:
        with _Progress(console) as progress:
            return follow.follow(server, run, progress.step, timeout)
    except KeyboardInterrupt:
        if stop:
            submit.terminate(server, run)
            told = "the run is being stopped"
        else:
            told = "the run goes on; Terminate on its page stops it"
        console.print(f"interrupted: {told}: {for_rich(run.url)}", soft_wrap=True)
        raise typer.Exit(130) from None


def _close_record(run: Run, ended: Ended, console: Console) -> None:
    """A killed step can't say in MLflow that the run has ended; where MLflow is known here, it is said now."""
    from matchmaking import tracking
    from mlops.kubeflow import reconcile

    # elsewhere, the CronJob `reconcile` does it
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    try:
        for record in tracking.open_runs(run.run_id):
            reconcile.close(record, *reconcile.reason(ended))
    except tracking.TrackingError as error:
        console.print(f"[yellow]{for_rich(error)}; the CronJob reconcile closes it[/yellow]", soft_wrap=True)


class _Progress:
    """A line for each step that ends, and a spinner for those that run; without a terminal, only lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("  waiting for the first step")
        self.running: dict[str, str] = {}

    def __enter__(self) -> _Progress:
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()

    def step(self, step: Step) -> None:
        if step.state in ("PENDING", "RUNNING"):
            if step.task not in self.running and not self.console.is_terminal:
                self.console.print(f"  {for_rich(step.title):<32}{'':>8}  started")
            self.running[step.task] = for_rich(step.title)
        else:
            self.running.pop(step.task, None)
            # of what was left out, since an earlier step failed or a condition wasn't met, there is nothing to say
            if step.state in ("SUCCEEDED", "FAILED", "CANCELED"):
                took = f"{step.seconds:6.0f} s" if step.seconds is not None else ""
                colour = {"SUCCEEDED": "green", "FAILED": "red"}.get(step.state, "yellow")
                self.console.print(
                    f"  {for_rich(step.title):<32}{took:>8}  [{colour}]{for_rich(step.state.lower())}[/]"
                )
        self.status.update(f"  {', '.join(self.running.values()) or 'waiting for the next step'}")


def _say_uploaded(console: Console, version: Version) -> None:
    if version.uploaded:
        console.print(f"[dim]uploaded {version.pipeline} {version.name}[/dim]")


def _show(pipeline: str, run: Run, ended: Ended) -> None:
    """What came of a run: the same table, reasons and warnings as of a local one."""
    from matchmaking.reporting.contents import headline
    from matchmaking.reporting.terminal import terminal_notes, terminal_table

    if ended.error:
        step = f" in step {for_rich(ended.error['step'])}" if ended.error["step"] else ""
        make_console().print(
            f"[bold red]{pipeline} failed[/]{step}: {for_rich(ended.error['message'])}", soft_wrap=True
        )
        return
    console = make_console(stderr=False)
    console.print()
    summary = ended.summary
    if summary:
        if summary["metrics"]["production"] or summary["metrics"]["candidate"] or summary.get("live"):
            console.print(terminal_table(summary))
        console.print(f"[bold]{pipeline}[/bold]: {for_rich(headline(summary))}")
        if told := terminal_notes(summary):
            console.print(told)
    elif ended.promotion is None:
        make_console().print(f"{pipeline} succeeded; its summary couldn't be read from the log, the page has it")
    if ended.promotion is not None:
        console.print(f"[bold]promote[/bold]: {for_rich(_promoted(ended.promotion))}")
    where = {"run": run.url}
    if summary:
        where = {"candidate": summary["candidate_uri"], "MLflow run": mlflow_run_url(summary["run_id"]), **where}
    console.print()
    for label, place in where.items():
        if place:
            # whole, however narrow the terminal: addresses are copied
            console.print(f"{label:<12}{for_rich(place)}", soft_wrap=True)


def _promoted(entry: dict[str, Any]) -> str:
    from matchmaking.release.records import State

    if not entry:
        return "production held it already; nothing was changed."
    won = f", which won experiment {entry['experiment']['experiment']}" if entry.get("experiment") else ""
    backup = f"; backup {entry['backup']}" if entry["backup"] else ""
    return f"production holds {State(**entry['to'])}{won}{backup}."


def _memory(pipeline: str, arguments: Mapping[str, Any], console: Console) -> str:
    """What the steps of a run get: what is asked for, or what its data's size asks for, if a node could hold it."""
    from pipelines.memory import check_fits, choose

    chosen = arguments.get("memory")
    if not chosen:
        uris = {name: str(arguments[name]) for name in DATA_ARGUMENTS if arguments.get(name)}
        chosen, why = choose(pipeline, uris)
        console.print(f"[dim]memory {chosen}: {for_rich(why)}[/dim]", soft_wrap=True)
    check_fits(str(chosen), os.environ.get("MLOPS_NODE_MEMORY", ""))
    return str(chosen)


def chosen_data(arguments: dict[str, Any], source: str) -> dict[str, Any]:
    """Arguments of a file, where they are of those that an option offers."""
    for name, hint in get_type_hints(submit, include_extras=False).items():
        offered = tuple(hint) if isinstance(hint, type) and issubclass(hint, StrEnum) else ()
        if offered and name in arguments and arguments[name] not in offered:
            choices = f"{', '.join(offered[:-1])} or {offered[-1]}"
            raise InputError(f"{source}: {name} is {choices}, not {arguments[name]!r}")
    return arguments
