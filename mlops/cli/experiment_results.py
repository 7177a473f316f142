"""`mlops experiment plan|start|status|report|end`: an experiment's definition, recorded, and what its logs say."""

from __future__ import annotations

import json
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matchmaking.base.errors import InputError, cannot_write
from matchmaking.base.escape import for_terminal
from mlops.cli.console import use_records
from mlops.cli.run import WorkDir

if TYPE_CHECKING:
    from matchmaking.experiments.analysis import Analysis
    from matchmaking.experiments.gateway import Gateway
    from matchmaking.experiments.stop import Stop
    from matchmaking.live.parts import Finding


class Primary(StrEnum):
    """The metrics that may be primary."""

    match_rate = "match_rate"
    client_match_rate = "client_match_rate"


Name = Annotated[str, typer.Argument(help="The experiment's name.")]
Exposures = Annotated[str, typer.Option(help="The exposure log: a folder of parts or a file, local or any URI.")]
Outcomes = Annotated[
    str,
    typer.Option(
        help="Parquet, CSV or JSON Lines, a file or a folder, any URI: unit, time, match, request where it is known."
    ),
]
Pairs = Annotated[
    str,
    typer.Option(help="The same of requests: request; score (champion's), probability, slice columns, lawyer."),
]
Stopping = Annotated[
    bool, typer.Option("--stop", help="Where it does harm, run MLOPS_EXPERIMENT_STOP_COMMAND, as the daily run does.")
]
Until = Annotated[str, typer.Option(help="As of when, ISO 8601 with an offset; now if left out.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `mlops experiment`."""
    app.command()(plan)
    app.command()(start)
    app.command()(status)
    app.command()(report)
    app.command()(end)


def plan(
    past: Annotated[Path, typer.Argument(help="Parquet or CSV of past pairs: unit, match, and score (champion's).")],
    effect: Annotated[float, typer.Option(min=0.0001, max=1.0, help="The smallest difference worth having.")],
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.5, help="The error, two-sided.")] = 0.05,
    power: Annotated[float, typer.Option(min=0.5, max=0.999, help="To show a difference of that size.")] = 0.8,
    primary: Annotated[Primary, typer.Option(help="Each pair counts the same, or each client.")] = Primary.match_rate,
) -> None:
    """Say how many clients an experiment takes, from past pairs of as many days as a client's window has."""
    from matchmaking.experiments import power as planning
    from matchmaking.experiments.gather import read_table

    pairs = read_table(past, "past pairs")
    if missing := [column for column in ("unit", "match") if column not in pairs]:
        raise InputError(f"{past}: no column {', '.join(missing)}")
    by_client = pairs.assign(match=pairs["match"].fillna(0)).groupby("unit")
    clients = by_client.agg(pairs=("match", "size"), matches=("match", "sum"))
    if "score" in pairs:
        clients["score"] = by_client["score"].agg(lambda one: one.sum(skipna=False))
    found = planning.plan(clients, primary.value, effect, alpha, power)
    typer.echo(
        f"{len(clients):,} clients, {primary.value} {found.rate:.4f}. To show a difference of {effect:g} with a power "
        f"of {power:g} it takes {found.sequential:,} clients of both arms with a look every day, {found.fixed:,} with "
        "one"
    )
    if found.shortened > 0:
        typer.echo(f"The champion's score saves {found.shortened:.0%} of the clients")


def start(
    file: Annotated[Path, typer.Argument(help="The definition, YAML or JSON.")],
    gateway: Annotated[
        Path | None,
        typer.Option(
            help="The gateway that serves it, its gateway.yaml or the folder: what differs is refused.",
            show_default="work/experiment, if that is this experiment's",
        ),
    ] = None,
    work_dir: WorkDir = Path("work"),
) -> None:
    """Record an experiment's definition, before its first exposure; what is recorded can't be changed."""
    from matchmaking.experiments.agreement import refuse_disagreement
    from matchmaking.experiments.gateway import DEFINITION
    from matchmaking.experiments.record import read_definition, record

    definition = read_definition(file)
    usual = work_dir / "experiment"
    if gateway or (usual / DEFINITION).exists():
        found = gateway_record(gateway or usual)
        # of another experiment's folder, that nobody has named, nothing follows
        if gateway or found.experiment == definition.name:
            refuse_disagreement(found, definition)
    _open_records(work_dir)
    run_id = record(definition)
    typer.echo(for_terminal(f"{definition.name}: recorded, sha256 {definition.sha256}, MLflow run {run_id}"))
    typer.echo(
        f"It starts at {definition.start:%Y-%m-%d %H:%M %Z}; day {definition.last_day} is its last, unless a verdict "
        "comes before"
    )


def status(
    name: Name,
    exposures: Exposures,
    outcomes: Outcomes,
    pairs: Pairs = "",
    until: Until = "",
    work_dir: WorkDir = Path("work"),
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON and nothing else.")] = False,
    stop: Stopping = False,
) -> None:
    """Show what an experiment says as of its last full day."""
    from matchmaking.experiments.analysis import numbers
    from matchmaking.reporting.experiment import HEADLINES, TO_COME, results_of

    run_id, found, _ = _read(name, until, work_dir, exposures, outcomes, pairs)
    became = _stop(run_id, found, stop)
    if as_json:
        typer.echo(json.dumps(numbers(found) | ({"stop": became.said} if became else {}), indent=1))
        _tell(became, stop)
        return
    typer.echo(for_terminal(f"{name}: {HEADLINES[found.verdict.state]} {found.verdict.reason}"))
    if found.to_come:
        typer.echo(f"  {TO_COME}")
    if found.verdict.state != "unreadable":
        for label, value in results_of(found):
            typer.echo(for_terminal(f"  {label}: {value}"))
    for one in found.checks:
        if one.found:
            typer.echo(for_terminal(f"  {one.code}: {one.said}"))
    _tell(became, stop)


def report(
    name: Name,
    exposures: Exposures,
    outcomes: Outcomes,
    pairs: Pairs = "",
    until: Until = "",
    out: Annotated[Path, typer.Option(help="Folder for experiment.html and experiment.json.")] = Path(
        "build/experiment"
    ),
    work_dir: WorkDir = Path("work"),
    stop: Stopping = False,
) -> None:
    """Write an experiment's report, one HTML page, and keep it with the experiment's MLflow record.

    A report of a day to come (--until) is written, and not kept.
    """
    from matchmaking.experiments.analysis import numbers
    from matchmaking.experiments.announce import ends
    from matchmaking.experiments.record import keep
    from matchmaking.reporting.experiment import TO_COME, write_report

    run_id, found, said = _read(name, until, work_dir, exposures, outcomes, pairs)
    became = _stop(run_id, found, stop)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_report(found, said, out)
        _say_on_page(out, became)
    except OSError as error:
        raise cannot_write(out, error) from None
    if found.to_come:
        typer.echo(TO_COME)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_report(found, said, Path(folder))
            _say_on_page(Path(folder), became)
            keep(run_id, Path(folder))
    typer.echo(for_terminal(f"{name}: {found.verdict.state}; {out / 'experiment.html'}"))
    if ends(numbers(found)) and not found.to_come:
        typer.echo(for_terminal(_ends(run_id, name)))
    _tell(became, stop)


def _ends(run_id: str, name: str) -> str:
    """What a verdict that ends an experiment means to the record: reports by hand end nothing."""
    from matchmaking.experiments.record import ended_as

    if ended := ended_as(run_id):
        return f"{name} has ended before ({ended}); this report is kept beside the others"
    return (
        f"{name} is under way still: a report by hand is kept as evidence, but ends nothing and tells nobody. "
        f"`mlops run experiment --experiment-name {name}` with the same logs does both; `mlops experiment end {name}` "
        "gives it up"
    )


def end(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, in a sentence.")],
    work_dir: WorkDir = Path("work"),
) -> None:
    """End an experiment that was given up, so that the pipeline looks for it no more; the gateway isn't touched.

    Of one whose harmful challenger couldn't be stopped it says that somebody has seen to it: no run tries any more.
    """
    from matchmaking.experiments import record
    from matchmaking.experiments.stop import see_to

    if not reason.strip():
        raise InputError("--reason is empty: say why the experiment is given up")
    _open_records(work_dir)
    if see_to(name, f"`mlops experiment end`: {' '.join(reason.split())}"):
        typer.echo(for_terminal(f"{name}: seen to; no run tries any more to stop its challenger"))
        if record.is_over(name):
            return
    record.end(name, reason)
    typer.echo(for_terminal(f"{name}: ended; `mlops experiment stop` gives everybody the champion again"))


def _stop(run_id: str, found: Analysis, run: bool) -> Stop | None:
    """What became of the traffic of a challenger that does harm, or was stopped before.

    A look by hand, at whatever logs it was given, ends nobody's traffic unless it was told to.
    """
    from matchmaking.base.settings import experiment_stop_command
    from matchmaking.experiments.stop import HARM, Stop, stop_harmful, stopped, tried

    said = {"experiment": found.definition.name, "verdict": found.verdict.state, "to_come": found.to_come}
    if run and (done := stop_harmful(run_id, said)):
        return done
    if found.verdict.state != HARM or found.to_come:
        return tried(run_id)
    became = stopped(run_id)
    if became.state == "on" and experiment_stop_command():
        return Stop("on", f"{became.said} `--stop` runs MLOPS_EXPERIMENT_STOP_COMMAND, and so does the daily run.")
    return became


def _say_on_page(folder: Path, became: Stop | None) -> None:
    from matchmaking.experiments.page import say_on_page
    from matchmaking.experiments.record import PAGE

    if became:
        say_on_page(folder / PAGE, became.said, served=became.served)


def _tell(became: Stop | None, stop: bool) -> None:
    """Says it beside what was asked for, which may be JSON; one that was tried and failed is the exit code."""
    from matchmaking.experiments.stop import StopError

    if became:
        typer.echo(for_terminal(became.said), err=True)
    if stop and became and became.state == "failed":
        raise typer.Exit(StopError.exit_code)


def gateway_record(path: Path) -> Gateway:
    """A gateway's record, from its file or the folder that it is in."""
    from matchmaking.experiments.gateway import DEFINITION, read_gateway

    return read_gateway(path / DEFINITION if path.is_dir() else path)


def _open_records(work_dir: Path) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    use_records(work_dir)


def _read(name: str, until: str, work_dir: Path, *uris: str) -> tuple[str, Analysis, list[Finding]]:
    """The experiment's MLflow run, what it says, and what was odd in its exposure log, which is told."""
    from matchmaking.experiments import gather
    from matchmaking.experiments.record import recorded

    _open_records(work_dir)
    run_id, definition = recorded(name)
    clock = gather.moment("")
    now = gather.moment(until) if until else clock
    with tempfile.TemporaryDirectory() as folder:
        gather.fetch(gather.Sources(*uris), Path(folder), definition, now)
        found, odd = gather.read(Path(folder), definition, now, clock)
    for one in odd:
        typer.echo(for_terminal(f"exposure log: {one.code}, {one.count}: {', '.join(one.examples)}"), err=True)
    return run_id, found, odd
