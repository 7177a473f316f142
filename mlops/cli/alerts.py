"""`mlops alerts`: what fires, who has seen it, and a look at what runs and doesn't."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matchmaking.base.escape import for_rich, for_terminal, say
from mlops.cli.console import make_console, use_records

if TYPE_CHECKING:
    from matchmaking.live.alerts import Alert

app = typer.Typer(no_args_is_help=True, help="Alerts of production and the pipelines: list, acknowledge, look.")
WorkDir = Annotated[Path, typer.Option(help="Where the MLflow records are.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the alerts as JSON and nothing else.")]
STYLES = {"critical": "bold red", "warning": "yellow", "info": ""}


@app.command("list")
def list_alerts(
    every: Annotated[bool, typer.Option("--all", help="Those that are over as well.")] = False,
    as_json: AsJson = False,
    work_dir: WorkDir = Path("work"),
) -> None:
    """Show the alerts that fire; exit code 0, whether any does or not."""
    from matchmaking.live.alert_log import read_alerts

    use_records(work_dir)
    _show([each for each in read_alerts() if every or each.state != "cleared"], as_json)


@app.command("ack")
def ack(
    name: Annotated[str, typer.Argument(help="As `mlops alerts list` shows it.")],
    why: Annotated[str, typer.Option(help="A word for who reads it.")] = "",
    who: Annotated[str, typer.Option(help="Who takes it on.", show_default="the user")] = "",
    work_dir: WorkDir = Path("work"),
) -> None:
    """Keep an alert from being repeated, until it is over or gets worse."""
    from matchmaking.live.alert_log import acknowledge

    use_records(work_dir)
    found = acknowledge(name, who, why)
    say(f"{found.name}: acknowledged by {found.acknowledged_by}")


@app.command("check")
def check(
    file: Annotated[
        Path | None,
        typer.Option(help="ConfigMap with <pipeline>.schedule and timeZone: a run that is missing raises an alert."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A policy (YAML) with `alerts`.", show_default="MLOPS_POLICY")
    ] = None,
    as_json: AsJson = False,
    work_dir: WorkDir = Path("work"),
) -> None:
    """Look for failed and late runs, tell people what is due, show what fires; for a cron of its own."""
    from matchmaking.evidence.policy import installed_policy, load_policy
    from matchmaking.live.alert_log import look
    from mlops.kubeflow.lateness import conditions, scheduled

    rules = (load_policy(policy) if policy else installed_policy()).alerts
    due = scheduled(file) if file else []
    use_records(work_dir)
    found = look(conditions(due, rules), rules) if _begun() else []
    _show([each for each in found if each.state != "cleared"], as_json)


def _begun() -> bool:
    """Whether there are records: a look makes none where nothing has run yet."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def _show(found: list[Alert], as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=1, default=lambda moment: moment.isoformat()))
        return
    if not found:
        typer.echo("nothing fires")
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("severity", "alert", "state", "since (UTC)"):
        table.add_column(column, no_wrap=True)
    table.add_column("what", overflow="fold")
    for each in found:
        table.add_row(
            f"[{STYLES[each.severity]}]{each.severity}[/]" if STYLES[each.severity] else each.severity,
            for_rich(each.name),
            each.state,
            f"{each.since:%Y-%m-%d %H:%M}",
            for_rich(each.title),
        )
    console = make_console(stderr=False)
    console.print(table)
    for each in found:
        told = f"told last at {each.last_told:%Y-%m-%d %H:%M} UTC" if each.last_told else "nobody was told"
        lines = [*(line for line in each.text.splitlines() if line), told]
        if each.acknowledged_by:
            lines.insert(0, f"acknowledged by {each.acknowledged_by}")
        console.print(f"\n[bold]{for_rich(each.name)}[/bold]")
        for line in [*lines, *([each.link] if each.link else [])]:
            typer.echo(f"  {for_terminal(line)}")
