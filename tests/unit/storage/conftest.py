"""A candidate's folder, and less patience."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchmaking.storage import limits
from tests.storage_fixtures import FILES


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "plots").mkdir(parents=True)
    for name in (*FILES, "manifest.json", "plots/roc.png"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST_WAIT": 0.05, "TRIES": 3, "CONNECT_SECONDS": 0.5, "READ_SECONDS": 0.5}.items():
        monkeypatch.setattr(limits, name, value)
