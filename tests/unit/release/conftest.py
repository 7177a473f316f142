"""What the tests of promotion need: no registry, and two packages."""

from __future__ import annotations

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
