"""Settings that are found out, not set."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from matchmaking.base import settings

ROOT = Path(__file__).parents[3]


def test_a_checkout_tells_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_CODE_VERSION", raising=False)
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    found = re.fullmatch(r"([0-9a-f]{12,})(-dirty)?", settings.code_version())
    assert found and head.startswith(found[1])
