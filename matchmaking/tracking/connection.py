"""MLflow's client, which waits: for a server that doesn't answer, and for an SQLite file that another process locks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.redact import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

# a short outage of the server is waited for; past about a minute the run fails and says so
_HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# as long as the waits above add up to; MLflow itself gives up on a locked database after 20 s
LOCKED_SECONDS = 60.0
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


class TrackingError(MlopsError):
    """The tracking server could not be reached or refused."""


def _waiting(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, made again while MLflow's SQLite file is locked: a call that met the lock did nothing."""

    def waiting(*args: Any, **kwargs: Any) -> Any:
        until = time.monotonic() + LOCKED_SECONDS
        while True:
            try:
                return call(*args, **kwargs)
            except Exception as error:
                if "database is locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    return waiting


class _Waiting:
    """MLflow's client, whose methods wait for a locked SQLite file."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return _waiting(getattr(self._client, name))


@cache
def client() -> MlflowClient:
    """The MLflow client for MLFLOW_TRACKING_URI.

    Raises:
        TrackingError: MLFLOW_TRACKING_URI isn't set, or what it names can't be used.
        InputError: it can't name anything.
    """
    for name, value in _HTTP_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise TrackingError("MLFLOW_TRACKING_URI isn't set; it says where the run is recorded")
    check_uri()
    import logging

    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL if noisy == "mlflow" else logging.ERROR)
    if not os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:"):
        return MlflowClient()
    with told("can't be used"):
        _must_be_readable(Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")))
        return cast("MlflowClient", _Waiting(_waiting(MlflowClient)()))


def check_uri() -> None:
    """Makes sure that MLFLOW_TRACKING_URI, where it is set, can name a place for records; asks nobody.

    Raises:
        InputError: it can't.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    reason = ""
    try:
        if scheme in ("http", "https"):
            server = urlsplit(uri)
            # an unusable port is told by looking at it
            reason = "" if server.hostname and server.port != 0 else "it names no host"
        elif scheme in DATABASES:
            from sqlalchemy import make_url

            url = make_url(uri)
            url.get_dialect().import_dbapi()
            if scheme == "sqlite" and not url.database:
                reason = "it names no file"
        elif uri:
            reason = "it is neither a server nor a database"
    except ImportError as error:
        reason = f"its driver isn't installed ({error})"
    except Exception as error:
        # whatever SQLAlchemy and its plugins raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    if reason:
        raise InputError(
            f"MLFLOW_TRACKING_URI={redact(uri)} can't be used: {redact(reason)}; give http://HOST:PORT, "
            "sqlite:///FILE, or another database with its driver (postgresql+psycopg2://...)"
        )


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tells in one line what MLflow, its database and its file store raise.

    Args:
        what: what can't be done, as in "can't record the run".

    Raises:
        TrackingError: always in their place.
    """
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrackingError(
            f"MLflow at {redact(os.environ.get('MLFLOW_TRACKING_URI', ''))} {what}: {redact(first)}"
        ) from error


def _must_be_readable(path: Path) -> None:
    """A file that is no database is told at once: MLflow would try it again and again, for minutes."""
    import sqlite3

    if not path.exists():
        return
    try:
        with sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, timeout=0) as database:
            # reads the header and every table's definition
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise TrackingError(f"{path} can't be used: {error}") from error
    except sqlite3.DatabaseError as error:
        raise TrackingError(
            f"{path} is damaged ({error}): put a copy of it back, or move it away and begin new records"
        ) from error


@contextmanager
def database_lock() -> Iterator[None]:
    """Keeps two first runs in a work folder from creating MLflow's SQLite file at the same time."""
    import fcntl

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
