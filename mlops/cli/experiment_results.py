"""`mlops experiment plan|start|status|report`: an experiment's definition, recorded, and what its logs say."""

from __future__ import annotations

import json
import math
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matchmaking.base.errors import InputError, cannot_write
from matchmaking.base.escape import for_terminal
from matchmaking.base.files import written_whole
from mlops.cli.console import use_records
from mlops.cli.run import WorkDir

if TYPE_CHECKING:
    import pandas as pd

    from matchmaking.experiments.analysis import Analysis


class Primary(StrEnum):
    """The metrics that may be primary."""

    match_rate = "match_rate"
    client_match_rate = "client_match_rate"


Name = Annotated[str, typer.Argument(help="The experiment's name.")]
Exposures = Annotated[str, typer.Option(help="The exposure log: a folder of parts or a file, local or any URI.")]
Outcomes = Annotated[Path, typer.Option(help="Parquet or CSV: unit, time, match, and request where it is known.")]
Pairs = Annotated[
    Path | None,
    typer.Option(help="Parquet or CSV of requests: request; score (champion's), probability, slice columns, lawyer."),
]
Until = Annotated[str, typer.Option(help="As of when, ISO 8601 with an offset; now if left out.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `mlops experiment`."""
    app.command()(plan)
    app.command()(start)
    app.command()(status)
    app.command()(report)


def plan(
    past: Annotated[Path, typer.Argument(help="Parquet or CSV of past pairs: unit, match, and score (champion's).")],
    effect: Annotated[float, typer.Option(min=0.0001, max=1.0, help="The smallest difference worth having.")],
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.5, help="The error, two-sided.")] = 0.05,
    power: Annotated[float, typer.Option(min=0.5, max=0.999, help="To show a difference of that size.")] = 0.8,
    primary: Annotated[Primary, typer.Option(help="Each pair counts the same, or each client.")] = Primary.match_rate,
) -> None:
    """Say how many clients an experiment takes, from past pairs of as many days as a client's window has."""
    from matchmaking.experiments import power as planning

    pairs = _frame(past, "past")
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
    work_dir: WorkDir = Path("work"),
) -> None:
    """Record an experiment's definition, before its first exposure; what is recorded can't be changed."""
    from matchmaking.experiments.record import read_definition, record

    definition = read_definition(file)
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
    pairs: Pairs = None,
    until: Until = "",
    work_dir: WorkDir = Path("work"),
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON and nothing else.")] = False,
) -> None:
    """Show what an experiment says as of its last full day."""
    from matchmaking.reporting.experiment import HEADLINES, results_of

    _, found = _read(name, exposures, outcomes, pairs, until, work_dir)
    if as_json:
        typer.echo(json.dumps(_numbers(found), indent=1))
        return
    typer.echo(for_terminal(f"{name}: {HEADLINES[found.verdict.state]} {found.verdict.reason}"))
    if found.verdict.state != "unreadable":
        for label, value in results_of(found):
            typer.echo(for_terminal(f"  {label}: {value}"))
    for one in found.checks:
        if one.found:
            typer.echo(for_terminal(f"  {one.code}: {one.said}"))


def report(
    name: Name,
    exposures: Exposures,
    outcomes: Outcomes,
    pairs: Pairs = None,
    until: Until = "",
    out: Annotated[Path, typer.Option(help="Folder for experiment.html and experiment.json.")] = Path(
        "build/experiment"
    ),
    work_dir: WorkDir = Path("work"),
) -> None:
    """Write an experiment's report, one HTML page, and keep it with the experiment's MLflow record."""
    from matchmaking.experiments.record import keep
    from matchmaking.reporting.experiment import experiment_report

    run_id, found = _read(name, exposures, outcomes, pairs, until, work_dir)
    numbers = _numbers(found)
    texts = {"experiment.html": experiment_report(found), "experiment.json": json.dumps(numbers, indent=1)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            with written_whole(out / file) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(out, error) from None
    with tempfile.TemporaryDirectory() as folder:
        for file, text in texts.items():
            (Path(folder) / file).write_text(text, encoding="utf-8")
        scalars = {key: numbers[key] for key in ("difference", "low", "high") if numbers.get(key) is not None}
        keep(run_id, Path(folder), scalars, found.verdict.state)
    typer.echo(for_terminal(f"{name}: {found.verdict.state}; {out / 'experiment.html'}"))


def _open_records(work_dir: Path) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    use_records(work_dir)


def _read(
    name: str, exposures: str, outcomes: Path, pairs: Path | None, until: str, work_dir: Path
) -> tuple[str, Analysis]:
    import pandas as pd

    from matchmaking.experiments.analysis import analyse
    from matchmaking.experiments.assignment import assign
    from matchmaking.experiments.exposures import read_exposures
    from matchmaking.experiments.record import recorded
    from matchmaking.live.logs import fetch_log

    _open_records(work_dir)
    run_id, definition = recorded(name)
    now = pd.Timestamp.now("UTC")
    if until:
        try:
            now = pd.Timestamp(until).tz_convert("UTC")
        except (ValueError, TypeError):
            raise InputError(f"--until {until}: no time with an offset, such as 2026-03-01T00:00:00Z") from None
    with tempfile.TemporaryDirectory() as folder:
        log = read_exposures(fetch_log(exposures, Path(folder) / "exposures"), name)
    for one in log.findings:
        typer.echo(for_terminal(f"exposure log: {one.code}, {one.count}: {', '.join(one.examples)}"), err=True)
    return run_id, analyse(
        definition,
        log.frame,
        _frame(outcomes, "outcomes"),
        now,
        _frame(pairs, "pairs") if pairs is not None else None,
        # who is in an arm at some share is in the same one at 50 %
        lambda unit: assign(definition.salt, unit, 50.0),
    )


def _frame(path: Path, what: str) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--{what} {path}: can't be read: {str(error).splitlines()[0]}") from None
    for column in ("unit", "request"):
        if column in frame:
            frame[column] = frame[column].astype("string").astype(object)
    if "time" in frame:
        frame["time"] = pd.to_datetime(frame["time"], utc=True, format="ISO8601")
    return frame


def _numbers(found: Analysis) -> dict[str, Any]:
    """The analysis as JSON; without results where they aren't to be read."""
    said: dict[str, Any] = {
        "experiment": found.definition.name,
        "sha256": found.definition.sha256,
        "verdict": found.verdict.state,
        "reason": found.verdict.reason,
        "decided_on_day": None if found.verdict.look is None else found.verdict.look + 1,
        "day": found.looks,
        "last_day": found.definition.last_day,
        "clients_exposed": found.exposed,
        "checks": [vars(one) for one in found.checks if one.found],
        "guardrails": [{key: _finite(value) for key, value in vars(one).items()} for one in found.guardrails],
    }
    if found.verdict.state != "unreadable" and len(found.table):
        last = found.table.iloc[-1].to_dict()
        said |= {str(key): _finite(float(value)) for key, value in last.items() if key != "look"}
    return said


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
