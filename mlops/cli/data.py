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


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A CSV file of pairs with their outcomes, plain or gzip.")],
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
