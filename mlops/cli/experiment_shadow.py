"""`mlops experiment shadow`: two models' files over the pairs of a prediction log, and what the gateway saw of both."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from matchmaking.base.errors import InputError, cannot_write
from matchmaking.base.escape import for_terminal
from matchmaking.base.files import written_whole


def register(app: typer.Typer) -> None:
    """Adds the command to `mlops experiment`."""
    app.command()(shadow)


def shadow(
    champion: Annotated[str, typer.Option(help="Folder or URI of the champion's three files.")],
    challenger: Annotated[str, typer.Option(help="Folder or URI of the challenger's.")],
    predictions: Annotated[
        str, typer.Option(help="The prediction log: a folder of parts or a file, local or any URI.")
    ],
    outcomes: Annotated[str, typer.Option(help="The outcome log, likewise; none if left out.")] = "",
    exposures: Annotated[str, typer.Option(help="The exposure log of the shadow run, likewise.")] = "",
    name: Annotated[str, typer.Option(help="The experiment whose lines of it are read; all if left out.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for shadow.html and shadow.json.")] = Path("build/shadow"),
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON and nothing else.")] = False,
) -> None:
    """Say how often two models would have decided differently on the same pairs, and what outcomes tell of it.

    The challenger needn't have been asked: both models' files score the log's pairs here.
    """
    import pandas as pd

    from matchmaking import storage
    from matchmaking.base.redact import redact
    from matchmaking.experiments.exposures import read_exposures
    from matchmaking.experiments.shadow import CANNOT
    from matchmaking.experiments.shadow_run import evaluate_shadow
    from matchmaking.inputs.ingest import fetch_production
    from matchmaking.live.logs import fetch_log, read_logs
    from matchmaking.model import production
    from matchmaking.reporting.shadow import (
        brier_line,
        known_line,
        said,
        shadow_numbers,
        shadow_report,
        shadow_tables,
        unit_line,
    )
    from mlops.cli.console import make_console

    if name and not exposures:
        raise InputError("--name chooses lines of an exposure log: give --exposures")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if not champion or not fetch_production(champion, place / "champion"):
            raise InputError(f"--champion {redact(champion)}: there is no model; give the folder of the three files")
        # unchecked: what is wrong with it is part of the answer
        (place / "challenger").mkdir()
        if not challenger or not storage.download_bundle(challenger, production.FILES, place / "challenger"):
            raise InputError(
                f"--challenger {redact(challenger)}: there is no model; give the folder of the three files"
            )
        logs = read_logs(
            fetch_log(predictions, place / "predictions"),
            fetch_log(outcomes, place / "outcomes") if outcomes else None,
            pd.Timestamp.now("UTC"),
        )
        lines = read_exposures(fetch_log(exposures, place / "exposures"), name or None) if exposures else None
        found = evaluate_shadow(
            place / "champion", place / "challenger", logs, lines.frame if lines is not None else None
        )
        if lines is not None:
            found.findings.extend(lines.findings)
    numbers = json.dumps(shadow_numbers(found), indent=1, allow_nan=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in (("shadow.html", shadow_report(found)), ("shadow.json", numbers)):
            with written_whole(out / file) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(out, error) from None
    if as_json:
        typer.echo(numbers)
        return
    _, headline, notes = said(found)
    typer.echo(for_terminal(headline))
    for note in notes:
        typer.echo(for_terminal(f"  - {note}"))
    console = make_console(stderr=False)
    for table in shadow_tables(found):
        console.print()
        console.print(table)
    typer.echo()
    for line in (unit_line(found), known_line(found), brier_line(found), CANNOT if found.known else ""):
        if line:
            typer.echo(f"- {line}")
    typer.echo(for_terminal(out / "shadow.html"))
