"""`mlops schedule`: recurring runs on Kubeflow Pipelines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from matchmaking.base.escape import for_rich, for_terminal
from matchmaking.base.settings import (
    CANDIDATES_URI,
    DATA_URI,
    EXPERIMENT_OUTCOMES_URI,
    EXPERIMENT_PAIRS_URI,
    EXPOSURES_URI,
    OUTCOMES_URI,
    PREDICTIONS_URI,
    PRODUCTION_URI,
)
from mlops.cli.console import make_console
from mlops.cli.options import given
from mlops.cli.parameters import (
    Candidates,
    Current,
    Data,
    Exposures,
    Host,
    Outcomes,
    Pairs,
    Predictions,
    Production,
    open_server,
)
from mlops.cli.submit import chosen_data

app = typer.Typer(no_args_is_help=True, help="Recurring runs on Kubeflow Pipelines, instead of CronJobs.")


@app.command("apply")
def apply(
    context: typer.Context,
    file: Annotated[
        Path, typer.Option(help="ConfigMap with <pipeline>.schedule, <pipeline>.arguments and timeZone.")
    ] = Path("manifests/schedules/schedules.yaml"),
    data: Data = DATA_URI,
    production: Production = PRODUCTION_URI,
    candidates: Candidates = CANDIDATES_URI,
    current: Current = "",
    predictions: Predictions = PREDICTIONS_URI,
    outcomes: Outcomes = OUTCOMES_URI,
    exposures: Exposures = EXPOSURES_URI,
    pairs: Pairs = EXPERIMENT_PAIRS_URI,
    host: Host = "",
) -> None:
    """Make the recurring runs be those of the file; run again, it changes what differs."""
    from mlops.kubeflow import schedule
    from mlops.kubeflow.arguments import laid_over
    from pipelines.memory import check_fits

    schedules = schedule.read_file(file)
    arguments: dict[str, dict[str, Any]] = {
        "retrain": {"data": data, "production": production, "candidates": candidates},
        "sweep": {"data": data, "production": production, "candidates": candidates},
        "evaluate": {"data": data, "production": production},
        "evaluate-parts": {"data": data, "production": production},
        "monitor": {"data": data, "production": production, "current": current},
        "monitor-parts": {"data": data, "production": production, "current": current},
        "observe": {"production": production, "predictions": predictions, "outcomes": outcomes},
        "experiment": {"exposures": exposures, "outcomes": EXPERIMENT_OUTCOMES_URI, "pairs": pairs},
        "promote": {"production": production},
    }
    for name, found in schedule.read_arguments(file).items():
        if "memory" in found:
            check_fits(
                found["memory"], os.environ.get("MLOPS_NODE_MEMORY", ""), f"--file {file}: {name}.arguments: memory"
            )
        arguments[name] = laid_over(
            arguments[name], given(context), chosen_data(found, f"--file {file}: {name}.arguments")
        )
    if arguments["observe"].get("data"):
        arguments["observe"] |= {"predictions": "", "outcomes": ""}
    for name, done in schedule.apply(open_server(host), schedules, arguments).items():
        typer.echo(for_terminal(f"{name:<12}{schedules[name]:<16}{done}"))
    make_console().print(
        "[yellow]Where the CronJobs of manifests/schedules/ are applied too, each pipeline runs twice: delete them, or "
        "`mlops schedule remove`.[/yellow]"
    )


@app.command("list")
def list_runs(
    host: Host = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON and nothing else.")] = False,
) -> None:
    """Show the recurring runs: when they start, next and last."""
    from dataclasses import asdict

    from rich.table import Table

    from mlops.kubeflow import schedule

    rows = schedule.listed(open_server(host))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1, default=str))
        return
    if not rows:
        typer.echo("no recurring run of ours; `mlops schedule apply` makes them")
        return
    table = Table("pipeline", "schedule (UTC)", "next", "last", "that run")
    for row in rows:
        table.add_row(
            for_rich(row.name),
            for_rich(row.cron),
            f"{row.next:%Y-%m-%d %H:%M}" if row.next else "never" if row.enabled else "disabled",
            f"{row.last:%Y-%m-%d %H:%M}" if row.last else "",
            for_rich((row.last_state or "").lower()),
        )
    make_console(stderr=False).print(table)


@app.command("remove")
def remove(host: Host = "") -> None:
    """Take the recurring runs away; what runs goes on."""
    from mlops.kubeflow import schedule

    removed = schedule.remove(open_server(host))
    typer.echo(for_terminal(f"removed: {', '.join(removed)}") if removed else "there was no recurring run of ours")
