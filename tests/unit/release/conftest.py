"""What the tests of promotion need: no registry, two packages, and MLflow, on SQLite and as a server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.promotion_fixtures import package, variant


@pytest.fixture(autouse=True)
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLOPS_RESTART_COMMAND", "MLOPS_NOTIFY_URLS", "MLOPS_NOTIFY_URLS_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def packages(incumbent: Path, tmp_path: Path) -> list[str]:
    """Two packages made against that production."""
    names = ("v20260101T000000Z", "v20260102T000000Z")
    return [
        package(variant(incumbent, tmp_path / f"bundle {name}", name), incumbent, tmp_path / "candidates", name)
        for name in names
    ]


@pytest.fixture(params=["sqlite", "server"], scope="module")
def tracking_uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    if request.param == "sqlite":
        yield f"sqlite:///{folder}/mlflow.db"
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
