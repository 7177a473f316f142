"""A candidate's folder, less patience, and S3 at an address."""

from __future__ import annotations

import os
from collections.abc import Callable
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


@pytest.fixture
def s3_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    pytest.importorskip("boto3")

    def use(endpoint: str) -> None:
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret-0123456789",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)

    return use
