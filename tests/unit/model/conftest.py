"""A copy of production's files to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def bundle(incumbent: Path, tmp_path: Path) -> Path:
    shutil.copytree(incumbent, tmp_path / "bundle")
    return tmp_path / "bundle"
