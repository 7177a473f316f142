"""`mlops`: the command line. Each command checks what it is given, does one thing and says what came of it."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from matchmaking.base.errors import NO_ROOM, InputError, MlopsError, cannot_write
from matchmaking.base.escape import for_terminal
from mlops.cli import alerts, dashboard, data, experiment, promotion, run, schedule, submit
from mlops.cli.run import WorkDir

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrain, evaluate, monitor and promote LegalAid Connect's lawyer matching model.",
)
app.add_typer(data.app, name="data")
# in the order of --help: what is used first comes first
run.register(app)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from matchmaking.base.settings import code_version, package_version

        typer.echo(f"mlops {package_version()} ({code_version()})")
        raise typer.Exit


@app.command("compile")
def compile_pipelines(
    out: Annotated[Path, typer.Option(help="Folder for the YAML files.")] = Path("build"),
) -> None:
    """Compile the pipelines: one KFP IR YAML file each, the same for the same code."""
    from pipelines.compile import compile_all

    for path in compile_all(out):
        typer.echo(for_terminal(path))


@app.command()
def ui(
    work_dir: WorkDir = Path("work"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 5001,
) -> None:
    """Serve the MLflow UI on http://localhost:5001 until Ctrl-C."""
    from matchmaking.base.settings import tracking_uri

    uri = tracking_uri(work_dir)
    if uri.startswith(("http://", "https://")):
        raise InputError("MLFLOW_TRACKING_URI names a server; open that one in a browser")
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise InputError(f"{work_dir} holds no MLflow records yet; run a pipeline first, or give --work-dir")
    typer.echo(f"MLflow UI on http://localhost:{port}  (Ctrl-C ends it)")
    # what it starts too imports nothing from the current folder
    os.environ["PYTHONSAFEPATH"] = "1"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    sys.stdout.flush()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # what the server would run jobs for is not used here, and takes seven processes
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.execv(sys.executable, [*command, "--backend-store-uri", uri, "--workers", "1"])


dashboard.register(app)
promotion.register(app)
submit.register(app)
app.add_typer(schedule.app, name="schedule")
app.add_typer(alerts.app, name="alerts")
app.add_typer(experiment.app, name="experiment")


def main() -> None:
    """Runs the command line; a failure is one line and an exit code, a traceback only with --verbose."""
    verbose = "--verbose" in sys.argv
    # a time-out of cron, systemd or CI ends a run as Ctrl-C does: told, and recorded
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        # a name that the terminal's encoding lacks is shown as its number, and is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except MlopsError as error:
        if verbose:
            raise
        _tell(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except OSError as error:
        if verbose:
            raise
        failure = cannot_write(error.filename or "a file", error) if error.errno in NO_ROOM else None
        _tell(str(failure) if failure else f"{type(error).__name__}: {error}  (--verbose shows where)", 1)
        sys.exit(1)
    except Exception as error:
        if verbose:
            raise
        _tell(f"{type(error).__name__}: {error}  (--verbose shows where)", 1)
        sys.exit(1)


def _tell(message: str, exit_code: int) -> None:
    """One line for people; who asked for JSON gets that."""
    typer.echo(f"Error: {for_terminal(message)}", err=True)
    if "--json" in sys.argv:
        error = {"step": None, "message": message, "exit_code": exit_code}
        typer.echo(json.dumps({"status": "failed", "error": error}, indent=1))
