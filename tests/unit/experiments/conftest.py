"""An experiment that is recorded, and who hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from matchmaking import tracking
from tests.experiment_fixtures import DEFINITION, record_earlier
from tests.webhook import Hook


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The run of a recorded definition; nobody hears of it, and no command stops it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLOPS_NOTIFY_URLS", "MLOPS_EXPERIMENT_STOP_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    tracking.client.cache_clear()
    yield record_earlier(DEFINITION)
    tracking.client.cache_clear()


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A web hook, of which nothing is told yet."""
    with closing(Hook()) as hook:
        yield hook


@pytest.fixture
def heard(run_id: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Hook:
    """The same, by which everything is heard."""
    monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
    return hook
