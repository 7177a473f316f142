"""What `mlops experiment stop` and `ramp` say of a gateway that can't be seen, without nginx."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from matchmaking import tracking
from mlops.cli.app import app
from tests.experiment_fixtures import DEFINITION, record_earlier
from tests.mlops.test_experiment_results import gateway_of

NAME = DEFINITION["name"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a gateway whose nginx is gone, as its pid file has it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "gateway.yaml").write_text(json.dumps(gateway_of(DEFINITION, mode="ab", share=50)))
    (folder / "nginx.pid").write_text("999999999")
    return folder


def call(folder: Path, *args: str) -> tuple[int, str]:
    given = ["experiment", *args, "--folder", str(folder), "--work-dir", str(folder.parent)]
    done = CliRunner().invoke(app, given)
    return getattr(done.exception, "exit_code", done.exit_code), f"{done.output}{done.exception}"


def test_what_answers_still_was_not_stopped(folder: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        (folder / "listen").write_text(f"127.0.0.1:{one.getsockname()[1]}")
        code, said = call(folder, "stop", "--experiment", NAME)
        assert code == 1 and f"something answers at 127.0.0.1:{one.getsockname()[1]}" in said
    code, said = call(folder, "stop", "--experiment", NAME)
    assert code == 0 and "isn't running" in said


def test_a_folder_that_is_not_there_is_no_gateway_that_was_stopped(folder: Path) -> None:
    """A path that was mistyped looks the same, and with it everybody would be told that the harm is over."""
    code, said = call(folder.parent / "gatway", "stop", "--experiment", NAME)
    assert code == 2 and "holds no experiment" in said


def test_a_stop_by_hand_ends_the_tries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder.parent}/mlflow.db")
    tracking.client.cache_clear()
    run_id = record_earlier(DEFINITION)

    def seen() -> Any:
        return tracking.client().get_run(run_id).data.tags.get("experiment_stop_seen_to")

    assert call(folder, "stop", "--experiment", NAME)[0] == 0 and seen() is None
    tracking.client().set_tag(run_id, "experiment_stop_failed", "no gateway")
    code, said = call(folder, "stop", "--experiment", NAME)
    assert code == 0 and "no run tries any more" in said and "`mlops experiment stop`" in seen()
    tracking.client.cache_clear()


def test_where_no_definition_is_recorded_it_is_said_where_was_looked(folder: Path) -> None:
    _, said = call(folder, "ramp", "10")
    assert f"No definition of {NAME} is recorded in {folder.parent / 'mlflow.db'}, which isn't there" in " ".join(
        said.split()
    )
