"""`mlops promote`, `mlops rollback` and `mlops history`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matchmaking.errors import InputError

if TYPE_CHECKING:
    from matchmaking.promotion import Change

Production = Annotated[str, typer.Option(help="Folder of the production model.", show_default=False)]
WorkDir = Annotated[Path, typer.Option(help="Where the MLflow records are.")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]


def promote(
    production: Production,
    version: Annotated[
        str,
        typer.Argument(help="Number in the model registry, or a package's name or folder; the challenger if left out."),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Promote against the evidence; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit trail.")] = "",
    yes: Yes = False,
    work_dir: WorkDir = Path("work"),
) -> None:
    """Put a packaged candidate into production, on its evidence, with a backup."""
    from matchmaking.promotion import prepare_promotion

    _track(work_dir)
    _must_be_able_to_ask(yes)
    change = prepare_promotion(version, production, force=force, reason=reason, say=_say)
    _carry_out(change, yes)


def rollback(
    production: Production,
    to: Annotated[
        str, typer.Option(help="Which earlier model: name, number or sha256; the one before if left out.")
    ] = "",
    reason: Annotated[str, typer.Option(help="Why; kept in the audit trail.")] = "",
    yes: Yes = False,
    work_dir: WorkDir = Path("work"),
) -> None:
    """Put back the model that production held before."""
    from matchmaking.promotion import prepare_rollback

    _track(work_dir)
    _must_be_able_to_ask(yes)
    _carry_out(prepare_rollback(production, to=to, reason=reason, say=_say), yes)


def history(
    production: Production,
    as_json: Annotated[bool, typer.Option("--json", help="Print the audit trail as JSON and nothing else.")] = False,
    work_dir: WorkDir = Path("work"),
) -> None:
    """Show who put which model into production, when and why."""
    from dataclasses import asdict

    from matchmaking import promotion

    _track(work_dir)
    found = promotion.history(production, say=_say)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    _show(found.entries)
    if found.damaged:
        _say(f"{found.damaged} damaged lines of the audit trail are left out")
    typer.echo(f"now: {found.current}")
    if found.foreign:
        typer.echo("FOREIGN: no promotion of ours wrote the model file that is in production now")


def register(app: typer.Typer) -> None:
    """Adds the three commands to the command line."""
    for command in (promote, rollback, history):
        app.command()(command)


def _carry_out(change: Change, yes: bool) -> None:
    """Shows a change, asks, makes it; after a failed restart, offers the way back."""
    from matchmaking import promotion

    for line in promotion.explain(change):
        typer.echo(line)
    if change.nothing:
        return
    if not yes and not typer.confirm("Go on?"):
        typer.echo("nothing was changed")
        raise typer.Exit(1)
    try:
        entry = promotion.apply(change, say=_say)
    except promotion.RestartError as error:
        if change.action == "rollback":
            raise
        back = f"mlops rollback --production {change.production_uri}"
        if yes or not sys.stdin.isatty() or not typer.confirm(f"{error}. Roll back?"):
            raise promotion.RestartError(f"{error}; the new model is in place, `{back}` takes it back") from error
        _carry_out(promotion.prepare_rollback(change.production_uri, reason=str(error), say=_say), yes=True)
        raise typer.Exit(1) from error
    typer.echo(f"done: production holds {change.after}")
    if entry["backup"]:
        to = "" if change.action == "promote" else f" --to {change.before.version or (change.before.model or '')[:12]}"
        typer.echo(f"backup: {entry['backup']} in the production folder; `mlops rollback{to}` restores it")


def _show(entries: list[dict[str, Any]]) -> None:
    from matchmaking.promotion import State

    for entry in entries:
        if entry["foreign_before"]:
            typer.echo(f"FOREIGN: a model file that no promotion of ours wrote (sha256 {entry['foreign_before'][:12]})")
        what = entry["action"] + (f" of a {entry['abandoned']}" if "abandoned" in entry else "")
        typer.echo(f"{entry['time']}  {what} by {entry['who']}")
        typer.echo(f"    from    {State(**entry['from'])}")
        typer.echo(f"    to      {State(**entry['to'])}")
        for label, text in (("why", entry["why"]), ("backup", entry["backup"])):
            if text:
                typer.echo(f"    {label:<7} {text}")
        for objection in entry["overridden"]:
            typer.echo(f"    FORCED  against: {objection}")
    if not entries:
        typer.echo("no promotion yet")


def _track(work_dir: Path) -> None:
    from matchmaking.settings import tracking_uri

    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(work_dir)


def _must_be_able_to_ask(yes: bool) -> None:
    if not yes and not sys.stdin.isatty():
        raise InputError("nobody is there to be asked (the input is no terminal); say --yes to go on without asking")


def _say(text: str) -> None:
    typer.echo(text, err=True)
