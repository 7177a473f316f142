"""A retraining whose data, production and candidates are in buckets, with the rights that pipelines have."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.model import production
from tests.services.conftest import S3


def test_a_pipeline_needs_no_right_to_write_production(
    mlops: Callable[..., subprocess.CompletedProcess[str]],
    sample_csv: Path,
    incumbent: Path,
    tmp_path: Path,
    s3: S3,
) -> None:
    """It does all its work with an identity that reads data and production and writes candidates, and no more."""
    s3.put("data", **{"pairs.csv": sample_csv.read_bytes()})
    s3.put("production", **{f"live/{name}": (incumbent / name).read_bytes() for name in production.FILES})
    before = s3.content("production")
    done = mlops(
        *("run", "retrain", "--data", "s3://data/pairs.csv", "--production", "s3://production/live"),
        *("--candidates", "s3://candidates", "--work-dir", tmp_path, "--epochs", "6", "--json"),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["verdict"] == "promote"
    name = summary["candidate_uri"].removeprefix("s3://candidates/")
    package = {key: data for key, data in s3.content("candidates").items() if key.startswith(name)}
    assert {key.rpartition("/")[2] for key in package} >= {*production.FILES, "manifest.json"}
    assert s3.content("production") == before
    for write in (
        lambda: storage.replace_bytes("s3://production/live/new", b"1", None),
        lambda: storage.replace_bytes(
            f"s3://production/live/{production.MODEL}",
            b"1",
            (storage.read_bytes(f"s3://production/live/{production.MODEL}") or (b"", ""))[1],
        ),
        lambda: storage.delete(f"s3://production/live/{production.MODEL}"),
    ):
        with pytest.raises(InputError):
            write()
    assert s3.content("production") == before
