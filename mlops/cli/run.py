"""`mlops run`, `mlops summary` and `mlops bootstrap`: the pipelines on this machine."""

from __future__ import annotations

import json
import os
import sys
import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matchmaking.base.errors import InputError, RefusedError, cannot_write
from matchmaking.base.escape import for_rich, for_terminal, say
from matchmaking.base.settings import MAX_SEED
from matchmaking.inputs import Split
from matchmaking.live import Window
from matchmaking.model import Algorithm
from matchmaking.model.sweep import TRIALS
from mlops.cli.console import make_console, policy_text
from mlops.cli.options import ExperimentName, Until, check_options
from mlops.cli.parameters import Trials
from mlops.local import Runner, warm

if TYPE_CHECKING:
    from rich.console import Console

    from mlops.local.run import Outcome


class Local(StrEnum):
    """What `mlops run` can run: a promotion is `mlops promote`."""

    retrain = "retrain"
    sweep = "sweep"
    evaluate = "evaluate"
    evaluate_parts = "evaluate-parts"
    monitor = "monitor"
    monitor_parts = "monitor-parts"
    observe = "observe"
    experiment = "experiment"
    all = "all"


WorkDir = Annotated[Path, typer.Option(help="Where runs, candidates and the MLflow records go.")]


def run(
    context: typer.Context,
    pipeline: Annotated[
        Local,
        typer.Argument(help="Which pipeline; 'all' runs retrain, evaluate, monitor, and observe where there are logs."),
    ],
    data: Annotated[
        str, typer.Option(help="The dataset: CSV (plain or gzip) or Parquet; a file, a folder of parts, or a pattern.")
    ] = "",
    data_rev: Annotated[str, typer.Option(help="In its place: a git revision of the versioned data.")] = "",
    production: Annotated[
        str,
        typer.Option(
            help="Folder of the production model, only ever read. Left out, retrain and sweep bootstrap a first model."
        ),
    ] = "",
    current: Annotated[str, typer.Option(help="monitor, monitor-parts: the data of now, to compare with --data.")] = "",
    predictions: Annotated[str, typer.Option(help="observe: the prediction log, a file or a folder of parts.")] = "",
    outcomes: Annotated[str, typer.Option(help="observe, experiment: the outcome log.")] = "",
    period: Annotated[Window, typer.Option(help="observe: the length of a window.")] = Window.week,
    exposures: Annotated[str, typer.Option(help="experiment: the gateway's log, a file or a folder of parts.")] = "",
    pairs: Annotated[str, typer.Option(help="experiment: what is known of the requests.")] = "",
    experiment_name: ExperimentName = "",
    until: Until = "",
    runner: Annotated[Runner, typer.Option(help="Where the steps execute.")] = Runner.subprocess,
    work_dir: WorkDir = Path("work"),
    candidates: Annotated[
        str, typer.Option(help="retrain, sweep: where packages go.", show_default="candidates/ in the work folder")
    ] = "",
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
    policy: Annotated[Path | None, typer.Option(help="A promotion policy (YAML).")] = None,
    fail_on_drift: Annotated[
        bool, typer.Option(help="monitor, monitor-parts: exit code 3 past the policy's limits.")
    ] = False,
    fail_on_degraded: Annotated[
        bool, typer.Option(help="evaluate, evaluate-parts: exit code 3 past the policy's limits.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the metrics and curves alone, as `dvc` wants.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show all the steps print, and tracebacks.")] = False,
) -> None:
    """Run a pipeline on this machine, tracked in MLflow under the work folder."""
    console = make_console()
    if pipeline is Local.observe and predictions:
        if data or data_rev:
            raise InputError("observe takes either the logs (--predictions, --outcomes) or a labelled dataset (--data)")
    elif pipeline is Local.experiment:
        if not exposures:
            raise InputError("--exposures is missing: experiment reads the gateway's log")
    elif bool(data) == bool(data_rev):
        raise InputError("give the dataset either as --data FILE or as --data-rev REVISION")
    if out and pipeline is Local.all:
        raise InputError("--out is the folder of one pipeline's results; name the pipeline")
    if pipeline is not Local.all:
        check_options(context, pipeline.value)
    if data_rev:
        data = _at_revision(data_rev, work_dir)
    logs = {"predictions": predictions, "outcomes": outcomes, "data": "" if predictions else data}
    common: dict[str, Any] = {"data": data, "production": production, "seed": seed}
    recipe = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    judged = {
        **common,
        "candidates": _absolute(candidates or str(work_dir / "candidates")),
        "split": split.value,
        "production_data": production_data,
        "policy": policy_text(policy),
    }
    measured = {**common, "split": split.value, "production_data": production_data}
    arguments: dict[str, dict[str, Any]] = {
        "sweep": {**judged, "trials": trials, **({"epochs": epochs} if epochs else {})},
        "retrain": {
            **judged,
            "algorithm": algorithm.value,
            **{name: value for name, value in recipe.items() if value is not None},
        },
        "evaluate": measured,
        "evaluate-parts": measured,
        "monitor": {**common, "current": current},
        "monitor-parts": {**common, "current": current},
        "observe": {
            "seed": seed,
            "period": period.value,
            # as a series goes on where its logs are the same, and the model that scores a dataset, wherever one stands
            **{name: _absolute(uri) if uri else "" for name, uri in {**logs, "production": production}.items()},
        },
        "experiment": {
            **{
                name: _absolute(uri) if uri else ""
                for name, uri in {"exposures": exposures, "outcomes": outcomes, "pairs": pairs}.items()
            },
            "experiment_name": experiment_name,
            "until": until,
        },
    }
    names = [pipeline.value]
    if pipeline is Local.all:
        names = ["retrain", "evaluate", "monitor", *(["observe"] if predictions else [])]
    if production == "" and (measuring := [name for name in names if arguments[name] is measured]):
        raise InputError(f"--production is missing: {measuring[0]} needs the folder of the production model")
    if policy:
        # for the steps that look at alerts
        os.environ["MLOPS_POLICY"] = policy_text(policy)
    ended: dict[str, Outcome] = {}
    with warm.nursery(runner.value, names[0]) as nursery:
        # once they import, so may this process
        from mlops.local.run import check_runner, run_pipeline

        check_runner(runner.value, names)
        for name in names:
            with _Progress(console, name, quiet=as_json) as progress:
                ended[name] = run_pipeline(
                    name,
                    arguments[name],
                    work_dir,
                    runner=runner.value,
                    on_step=progress.step,
                    echo=sys.stderr if verbose else None,
                    nursery=nursery,
                )
            if ended[name].exit_code:
                break
    if out and not ended[name].exit_code:
        from mlops.local.results import write_results

        write_results(ended[name].folder, out)
    if as_json:
        summaries = {name: outcome.summary for name, outcome in ended.items()}
        typer.echo(json.dumps(summaries if pipeline is Local.all else summaries[pipeline.value], indent=1))
    else:
        # one pipeline alone isn't worth the second that the page takes
        _show(ended, work_dir, production if pipeline is Local.all else None)
    if code := ended[name].exit_code:
        raise typer.Exit(code)
    if crossed := _crossed(ended, policy, fail_on_drift, fail_on_degraded):
        typer.echo(f"Past the policy's limits: {for_terminal('; '.join(crossed))}", err=True)
        raise typer.Exit(RefusedError.exit_code)


def summary(
    files: Annotated[list[Path], typer.Argument(help="The summary.json of runs.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown, for a page of CI, say.")] = False,
) -> None:
    """Show what came of earlier runs, from their summary.json."""
    from matchmaking.base.records import RecordError, read_record
    from matchmaking.reporting.markdown import markdown_report
    from matchmaking.reporting.summary import Summary
    from matchmaking.reporting.text import text_report

    for file in files:
        try:
            found = read_record(Summary, file.read_bytes(), str(file)).as_dict()
            shown = markdown_report(found) if markdown else text_report(found)
        except OSError as error:
            raise InputError(f"{file} can't be read: {error.strerror}") from error
        except RecordError as error:
            raise InputError(str(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is not the summary.json of a run: {error}") from error
        typer.echo(shown)


def bootstrap(
    data: Annotated[
        str,
        typer.Option(
            help="The dataset: CSV (plain or gzip) or Parquet; a file, a folder of parts, or a pattern.",
            show_default=False,
        ),
    ],
    production: Annotated[Path, typer.Option(help="Folder for the model; made, or empty.", show_default=False)],
    algorithm: Annotated[Algorithm, typer.Option(help="What to train.")] = Algorithm.interactions,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of everything that is drawn by chance.")] = 0,
    work_dir: WorkDir = Path("work"),
) -> None:
    """Train a first production model, where there is none yet, and put it in place."""
    from matchmaking.model.production import FILES

    try:
        production.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(f"--production {production}", error) from error
    if held := [name for name in FILES if (production / name).exists()]:
        raise InputError(f"{production} holds {', '.join(held)} already; bootstrap is for a folder without a model")
    console = make_console()
    arguments = {
        "data": data,
        "production": str(production.resolve()),
        "candidates": str(work_dir.resolve() / "candidates"),
        "seed": seed,
        "algorithm": algorithm.value,
    }
    with warm.nursery("subprocess", "retrain") as nursery, _Progress(console, "bootstrap", quiet=False) as progress:
        from mlops.local.run import run_pipeline

        outcome = run_pipeline("retrain", arguments, work_dir, on_step=progress.step, nursery=nursery)
    if outcome.exit_code:
        _show({"bootstrap": outcome}, work_dir)
        raise typer.Exit(outcome.exit_code)
    from matchmaking.release.check import prepare_promotion
    from matchmaking.release.promote import apply

    aside = partial(say, err=True)
    change = prepare_promotion(outcome.summary["candidate_uri"], str(production.resolve()), say=aside)
    apply(change, say=aside)
    say(f"{production} holds a first production model: {change.after}")


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(summary)
    app.command()(bootstrap)


def _crossed(outcomes: dict[str, Outcome], policy: Path | None, drift: bool, production: bool) -> list[str]:
    """The limits of the policy that runs have crossed, of those that were asked about."""
    if not drift and not production:
        return []
    from matchmaking.evidence.limits import degraded, drift_crossed, unchecked
    from matchmaking.evidence.policy import load_policy

    limits = load_policy(policy).limits
    crossed = []
    for name in ("monitor", "monitor-parts") if drift else ():
        if name in outcomes:
            crossed += drift_crossed(outcomes[name].summary, limits)
            for what in unchecked(outcomes[name].summary, limits):
                typer.echo(f"Not checked: {what}", err=True)
    for name in ("evaluate", "evaluate-parts") if production else ():
        if name in outcomes:
            crossed += degraded(outcomes[name].summary, limits)
    return crossed


def _at_revision(rev: str, work_dir: Path) -> str:
    """The file of a version of the data; the runs on it name the revision too."""
    from matchmaking.data.versions import fetch

    found = fetch(rev, work_dir.resolve() / "data")
    os.environ["MLOPS_DATA_REVISION"] = found.commit
    return str(found.path)


def _absolute(place: str) -> str:
    """A local path made absolute, as it is kept in the registry; another URI as it is."""
    return place if "://" in place else str(Path(place).resolve())


class _Progress:
    """A line for each finished step with its time, and a spinner for the one that runs."""

    def __init__(self, console: Console, pipeline: str, quiet: bool) -> None:
        self.console, self.pipeline, self.quiet = console, pipeline, quiet
        self.status = console.status("")
        self.name, self.since, self.begin = "", 0.0, time.monotonic()

    def __enter__(self) -> _Progress:
        if not self.quiet:
            self.console.print(f"[bold]{self.pipeline}[/bold]")
            self.status.start()
            self.status.update("  starting")
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self.status.stop()
        if not failed:
            self._finished()

    def step(self, name: str) -> None:
        if name == self.name:
            # another one of those that run side by side
            return
        self._finished()
        self.name, self.since = name, time.monotonic()
        if not self.quiet:
            self.status.update(f"  {name}")

    def _finished(self) -> None:
        if self.name and not self.quiet:
            self.console.print(f"  {self.name:<18}{time.monotonic() - self.since:6.1f} s")


def _show(outcomes: dict[str, Outcome], work_dir: Path, production: str | None = None) -> None:
    """The tables at the end: what came out, and where everything is; with the dashboard where `production` is given."""
    from rich.table import Table

    from matchmaking.reporting.contents import headline
    from matchmaking.reporting.terminal import terminal_notes, terminal_table

    console = make_console(stderr=False)
    for name, outcome in outcomes.items():
        console.print()
        if outcome.exit_code and not outcome.summary["verdict"]:
            continue
        measured = outcome.summary["metrics"]
        if measured["production"] or measured["candidate"] or outcome.summary["live"]:
            console.print(terminal_table(outcome.summary))
        console.print(f"[bold]{name}[/bold]: {for_rich(headline(outcome.summary))}")
        if told := terminal_notes(outcome.summary):
            console.print(told)
    where = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, outcome in outcomes.items():
        if outcome.exit_code:
            error = outcome.summary["error"]
            make_console().print(
                f"[bold red]{name} failed[/bold red] in step {for_rich(error['step'])}: {for_rich(error['message'])}",
                soft_wrap=True,
            )
            where.add_row(f"{name} log", for_rich(_shown(outcome.folder / "run.log")))
        if (outcome.folder / "report.html").exists():
            where.add_row(f"{name} report", for_rich(_shown(outcome.folder / "report.html")))
        if outcome.summary["candidate_uri"]:
            where.add_row("candidate", for_rich(_shown(outcome.summary["candidate_uri"])))
    option = "" if work_dir == Path("work") else f" --work-dir {work_dir}"
    where.add_row("MLflow UI", for_rich(f"mlops ui{option}   (http://localhost:5001)"))
    if production is not None and (page := _dashboard(work_dir, production)):
        where.add_row("dashboard", for_rich(_shown(page)))
    console.print()
    console.print(where, soft_wrap=True)


def _dashboard(work_dir: Path, production: str) -> Path | None:
    """The dashboard, made anew; None where it can't be, which is told and is no failure of the runs."""
    from matchmaking.base.errors import MlopsError
    from mlops.cli.dashboard import write_dashboard

    try:
        return write_dashboard(work_dir, production)
    except MlopsError as error:
        say(f"the dashboard could not be made: {error}", err=True)
        return None


def _shown(place: Path | str) -> str:
    """A path as short as it can be from here; another URI as it is."""
    try:
        return str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return str(place)
