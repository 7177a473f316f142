"""`mlops data`: make sample data, and keep versions of the data that is trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matchmaking.base.escape import for_terminal
from matchmaking.base.settings import MAX_SEED

if TYPE_CHECKING:
    from matchmaking.data.versions import Version

app = typer.Typer(no_args_is_help=True, help="Datasets: make sample data, keep versions of your own.")


@app.command()
def generate(
    out: Annotated[Path, typer.Option(help="The CSV file to write; with .gz it is compressed.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 12_000,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same file.")] = 0,
    drift: Annotated[str, typer.Option(help="How the world has moved: none, prices, new-city, match-rate.")] = "none",
) -> None:
    """Make sample data on the documented schema, whose best possible score is known."""
    from matchmaking.base.files import file_md5
    from matchmaking.data.sample import generate_file

    ceiling = generate_file(out, rows, seed, drift)
    typer.echo(f"{for_terminal(out)}: {rows:,} pairs, {ceiling['positives']:,} matches, md5 {file_md5(out)}")
    typer.echo(
        f"The best any model can do on all of them: average precision {ceiling['average_precision']:.4f}, "
        f"ROC AUC {ceiling['roc_auc']:.4f}, Brier {ceiling['brier']:.4f}"
    )


@app.command("generate-logs")
def generate_logs(
    out: Annotated[Path, typer.Option(help="Folder for predictions/, outcomes/ and truth.csv.", show_default=False)],
    model: Annotated[
        list[str],
        typer.Option(
            help="A production folder whose model serves; FOLDER@90 from the 90th day on. May be given again.",
            show_default=False,
        ),
    ],
    days: Annotated[int, typer.Option(min=1, help="Days of traffic.")] = 365,
    volume: Annotated[float, typer.Option(min=1, help="Pairs on an average day.")] = 500,
    until: Annotated[str, typer.Option(help="The day after the last, as in 2026-01-31.", show_default="today")] = "",
    delay: Annotated[float, typer.Option(min=0.1, help="Days until an outcome comes, the median.")] = 21,
    drift: Annotated[str, typer.Option(help="What changes: none, prices, new-city, demand.")] = "none",
    drift_day: Annotated[int, typer.Option(min=0, help="The day from which it does.")] = 180,
    concept: Annotated[
        float, typer.Option(min=0, max=1, help="Concept drift: the share of pairs that come to match by chance alone.")
    ] = 0.0,
    concept_day: Annotated[int, typer.Option(min=0, help="The day from which they do.")] = 180,
    ending: Annotated[str, typer.Option(help="Of the parts: .parquet, .jsonl or .jsonl.gz.")] = ".parquet",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same logs.")] = 0,
) -> None:
    """Make months of traffic as logs of predictions and outcomes, with the truth of each window beside them."""
    import pandas as pd

    from matchmaking.base.errors import InputError
    from matchmaking.live.generate import TRUTH, champion, generate_logs
    from matchmaking.live.traffic import Plan

    try:
        end = pd.Timestamp(until) if until else pd.Timestamp.now("UTC").normalize().tz_localize(None)
    except ValueError as error:
        raise InputError(f"--until {until} is no day; give it as 2026-01-31") from error
    champions = []
    for given in model:
        folder, _, day = given.rpartition("@") if given.rpartition("@")[2].isdigit() else (given, "", "0")
        champions.append(champion(Path(folder), int(day)))
    plan = Plan(
        start=f"{end - pd.Timedelta(days=days):%Y-%m-%d}",
        days=days,
        volume=volume,
        delay=delay,
        covariate=drift,
        covariate_day=drift_day,
        concept=concept,
        concept_day=concept_day,
        seed=seed,
    )
    written = generate_logs(out, plan, champions, ending=ending)
    months = written.truth[written.truth["period"] == "month"]
    typer.echo(
        f"{for_terminal(out)}: {written.predictions:,} predictions, {written.outcomes:,} outcomes that have come, "
        f"{len(months)} months; the truth of each window is in {TRUTH}"
    )


@app.command()
def add(
    file: Annotated[
        str,
        typer.Argument(
            help="Pairs with their outcomes: CSV (plain or gzip) or Parquet; a file, a folder of parts, or a pattern."
        ),
    ],
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit.")] = "",
    commit: Annotated[bool, typer.Option("--commit/--no-commit", help="Commit the pointer, and only it.")] = True,
) -> None:
    """Check a file and make it the newest version: stored, sent to the DVC remote, committed."""
    from matchmaking.data import versions
    from matchmaking.data.pointer import DATA, POINTER, on_no_branch

    pointer, pushed = versions.add(file, message, commit=commit)
    typer.echo(f"{DATA}: {pointer.rows:,} pairs, version {pointer.md5}")
    kept = "in the cache and in the default remote" if pushed else "in the cache only: no default remote is set up"
    typer.echo(f"kept {kept}")
    if commit:
        if on_no_branch():
            typer.echo(
                f"WARNING: committed {POINTER} on no branch (HEAD is detached): `git switch -c NAME` "
                "keeps it, the next checkout loses it otherwise",
                err=True,
            )
        else:
            typer.echo(f"committed {POINTER}; `git push` shares it")
    else:
        typer.echo(f"not committed yet: git add {POINTER} && git commit")


@app.command()
def versions(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON and nothing else.")] = False,
) -> None:
    """List the versions of the data: by which revision each came, and where it is kept."""
    from matchmaking.data import versions

    found, trouble = versions.versions()
    if as_json:
        typer.echo(json.dumps([asdict(version) for version in found], indent=1))
    elif found:
        _show(found)
    else:
        typer.echo("no versions yet; `mlops data add FILE` makes the first")
    if trouble:
        typer.echo(f"The remote column is unknown: {for_terminal(trouble)}", err=True)


@app.command()
def checkout(
    rev: Annotated[str, typer.Argument(help="A commit, tag or branch; the version git has here if left out.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing when all is well.")] = False,
) -> None:
    """Put a version in place as data/pairs.csv, never over changes that aren't saved."""
    from matchmaking.data import versions
    from matchmaking.data.pointer import DATA

    pointer = versions.checkout(rev)
    if quiet:
        return
    rows = f"{pointer.rows:,} pairs, " if pointer.rows else ""
    typer.echo(f"{DATA}: {rows}version {pointer.md5}")


@app.command()
def fetch(
    rev: Annotated[str, typer.Argument(help="A commit, tag or branch.")],
    out: Annotated[Path, typer.Option(help="The file to write.", show_default=False)],
) -> None:
    """Write a version to a file of its own, and leave data/pairs.csv as it is."""
    from matchmaking.data import versions

    pointer = versions.export(rev, out)
    typer.echo(f"{for_terminal(out)}: version {pointer.md5}")


def _show(found: list[Version]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("revision", "date", "version (md5)"):
        table.add_column(column, no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("pairs", justify="right", no_wrap=True)
    table.add_column("kept in", no_wrap=True)
    # the only one that gives way on a narrow terminal
    table.add_column("what", overflow="fold")
    for version in found:
        places = (
            ("here", version.here),
            ("cache", version.cached),
            ("remote", version.remote),
            ("generated", version.sample),
        )
        tags = f"[{', '.join(version.tags)}] " if version.tags else ""
        table.add_row(
            version.revision,
            version.date[:10],
            version.md5[:12],
            f"{version.size / 1e6:.1f}",
            f"{version.rows:,}" if version.rows else "?",
            ", ".join(name for name, held in places if held) or "-",
            escape(for_terminal(tags + version.message)),
        )
    Console(highlight=False).print(table)
