"""`mlops candidates`, `mlops promote`, `mlops rollback` and `mlops history`."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matchmaking.base.errors import InputError
from matchmaking.base.escape import for_terminal, say
from mlops.cli.console import use_records

if TYPE_CHECKING:
    from matchmaking.release.audit import History
    from matchmaking.release.check import Change
    from matchmaking.release.registry import Version

Production = Annotated[str, typer.Option(help="Folder of the production model.", show_default=False)]
# the tags with the score that decides, of both models
PRIMARY = ("primary_production", "primary_candidate")

WorkDir = Annotated[Path, typer.Option(help="Where the MLflow records are.")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
_aside = partial(say, err=True)


def candidates(
    most: Annotated[int, typer.Option("--last", min=1, help="How many, the newest first.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the candidates as JSON and nothing else.")] = False,
    work_dir: WorkDir = Path("work"),
) -> None:
    """List the packaged candidates: which one waits to be promoted, which one is in production."""
    from dataclasses import asdict

    from matchmaking.release import registry

    use_records(work_dir)
    found = registry.versions(most)
    if as_json:
        typer.echo(json.dumps([asdict(version) for version in found], indent=1))
    elif found:
        _list(found)
    else:
        typer.echo("no candidate yet; `mlops run retrain` packages one that is better than production")


def promote(
    production: Production,
    version: Annotated[
        str,
        typer.Argument(help="Number in the model registry, or a package's name or folder; the challenger if left out."),
    ] = "",
    experiment: Annotated[
        str, typer.Option(help="An experiment that found it better, which takes the place of an offline `hold`.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Promote against the evidence; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit trail.")] = "",
    yes: Yes = False,
    work_dir: WorkDir = Path("work"),
) -> None:
    """Put a packaged candidate into production, on its evidence, with a backup."""
    from matchmaking.release.check import prepare_promotion

    use_records(work_dir)
    _must_be_able_to_ask(yes)
    change = prepare_promotion(version, production, force=force, reason=reason, experiment=experiment, say=_aside)
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
    from matchmaking.release.check import prepare_rollback

    use_records(work_dir)
    _must_be_able_to_ask(yes)
    _carry_out(prepare_rollback(production, to=to, reason=reason, say=_aside), yes)


def history(
    production: Production,
    as_json: Annotated[bool, typer.Option("--json", help="Print the audit trail as JSON and nothing else.")] = False,
) -> None:
    """Show who put which model into production, when and why."""
    from matchmaking.release import audit

    found = audit.history(production)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    _show(found)
    for line in found.unreadable:
        _aside(f"the audit trail: {line}; it is left out")
    typer.echo(f"now: {for_terminal(found.current)}")
    if found.unfinished:
        typer.echo(f"UNFINISHED: {for_terminal(found.unfinished)}")
    if found.foreign:
        typer.echo("FOREIGN: no promotion of ours wrote the model file that is in production now")


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    for command in (candidates, promote, rollback, history):
        app.command()(command)


def _carry_out(change: Change, yes: bool) -> None:
    """Shows a change, asks, makes it; after a failed restart, offers the way back."""
    from matchmaking.release import check, complete, promote

    for line in check.explain(change):
        typer.echo(for_terminal(line))
    if change.nothing:
        return
    if not yes and not typer.confirm("Go on?"):
        typer.echo("nothing was changed")
        raise typer.Exit(1)
    try:
        entry = promote.apply(change, say=_aside)
    except complete.RestartError as error:
        if change.action == "rollback":
            raise
        back = f"mlops rollback --production {change.production_uri}"
        if yes or not sys.stdin.isatty() or not typer.confirm(for_terminal(f"{error}. Roll back?")):
            raise complete.RestartError(f"{error}; the new model is in place, `{back}` takes it back") from error
        _carry_out(check.prepare_rollback(change.production_uri, reason=str(error), say=_aside), yes=True)
        raise typer.Exit(1) from error
    typer.echo(f"done: production holds {for_terminal(change.after)}")
    if entry.backup:
        to = "" if change.action == "promote" else f" --to {change.before.version or (change.before.model or '')[:12]}"
        typer.echo(for_terminal(f"backup: {entry.backup} in the production folder; `mlops rollback{to}` restores it"))


def _show(found: History) -> None:
    for entry in found.entries:
        if foreign := found.foreign_before.get(entry.id):
            typer.echo(f"FOREIGN: a model file that no promotion of ours wrote (sha256 {for_terminal(foreign[:12])})")
        what = entry.action + (f" of a {entry.abandoned}" if entry.abandoned else "")
        typer.echo(for_terminal(f"{entry.time}  {what} by {entry.who}"))
        typer.echo(f"    from    {for_terminal(entry.before)}")
        typer.echo(f"    to      {for_terminal(entry.after)}")
        won = str(entry.experiment) if entry.experiment else ""
        for label, text in (("why", entry.why), ("won", won), ("backup", entry.backup)):
            if text:
                _wrapped(label, text)
        for objection in entry.overridden:
            _wrapped("FORCED", f"against: {objection}")
    if not found.entries:
        typer.echo("no promotion yet")


def _wrapped(label: str, text: str) -> None:
    width = max(shutil.get_terminal_size().columns, 40)
    typer.echo(textwrap.fill(for_terminal(text), width, initial_indent=f"    {label:<7} ", subsequent_indent=" " * 12))


def _list(found: list[Version]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from matchmaking.release.registry import CHALLENGER, CHAMPION

    meaning = {CHALLENGER: f"{CHALLENGER} (waits)", CHAMPION: f"{CHAMPION} (serves)"}
    metrics = ", ".join(sorted({version.tags["primary_metric"] for version in found}))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=f"Scores: {metrics}", title_justify="left")
    for column in ("number", "package", "data (md5)", "production", "candidate", "verdict", ""):
        table.add_column(column, no_wrap=True, justify="right" if column in ("production", "candidate") else "left")
    for version in found:
        tags = version.tags
        scores = [f"{float(tags[name]):.4f}" if tags.get(name) else "-" for name in PRIMARY]
        said = ", ".join(meaning.get(alias, alias) for alias in version.aliases)
        shown = (version.number, tags["package"], tags["dataset_version"][:12], *scores, tags["verdict"], said)
        table.add_row(*(escape(for_terminal(each)) for each in shown))
    Console(highlight=False).print(table)


def _must_be_able_to_ask(yes: bool) -> None:
    if not yes and not sys.stdin.isatty():
        raise InputError("nobody is there to be asked (the input is no terminal); say --yes to go on without asking")
