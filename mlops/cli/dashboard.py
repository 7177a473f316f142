"""`mlops dashboard`: one page over all runs, as a file or served."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matchmaking.base.errors import InputError, cannot_write
from matchmaking.base.escape import for_terminal
from matchmaking.base.garbage import without_collections
from mlops.cli.console import use_records

if TYPE_CHECKING:
    from matchmaking.reporting.dashboard.records import Records

WorkDir = Annotated[Path, typer.Option(help="Where the MLflow records and the reports of local runs are.")]
Production = Annotated[
    str,
    typer.Option(
        help="Folder of the production model, whose audit trail is shown; only ever read.",
        show_default="what MLflow knows of it",
    ),
]
PORT = 5002


def dashboard(
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="dashboard.html in the work folder")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve it until Ctrl-C, current at each load.")] = False,
    host: Annotated[str, typer.Option(help="With --serve: the address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="With --serve: where to listen.")] = PORT,
    production: Production = "",
    work_dir: WorkDir = Path("work"),
) -> None:
    """Show how production does and what the runs came to: one page, as a file that needs nothing else, or served."""
    if out and serve:
        raise InputError("--out writes a file and --serve serves the page; give one of them")
    use_records(work_dir)
    if serve:
        from matchmaking.reporting.dashboard import records

        _serve(partial(records.read, production), host, port)
        return
    typer.echo(for_terminal(write_dashboard(work_dir, production, out)))


def write_dashboard(work_dir: Path, production: str = "", out: Path | None = None) -> Path:
    """Writes the page, and gives its path.

    Raises:
        InputError: it can't be written there, or there is no such production folder.
        TrackingError: MLflow can't be reached.
    """
    from matchmaking.base.files import written_whole

    path = out or work_dir / "dashboard.html"
    with without_collections():
        from matchmaking.reporting.dashboard import page, records

        found = records.read(production, reports=work_dir.resolve() / "runs", beside=path.resolve().parent)
        html = page.dashboard_page(found)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(html, encoding="utf-8")
    except OSError as error:
        raise cannot_write(f"--out {path}", error) from error
    return path


def register(app: typer.Typer) -> None:
    app.command()(dashboard)


def _serve(read: Callable[[], Records], host: str, port: int) -> None:
    from matchmaking.reporting.dashboard.server import make_server

    try:
        server = make_server(read, host, port)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: can't listen there: {error.strerror}") from error
    typer.echo(
        f"Dashboard on http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}  (Ctrl-C ends it)"
    )
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
