"""What several test modules need: sample data, a production model of our own, and the real one where it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from matchmaking import production
from matchmaking.sample import generate, generate_file

# before any test imports them: no telemetry, no start-up chatter
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.pop("MLFLOW_TRACKING_URI", None)

# the real dataset and model are not part of the repository; a checkout beside them finds them here
REAL = Path(os.environ.get("LEGALAID_DIR", Path(__file__).parents[2] / "shared" / "legalaid"))


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder with the real dataset and production model; tests that need it are skipped where it isn't."""
    if not (REAL / production.MODEL).exists():
        pytest.skip(f"the real production model isn't at {REAL} (LEGALAID_DIR says where it is)")
    return REAL


@pytest.fixture(scope="session")
def mlops() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the installed command line as a user does: `mlops(*args)`, 100 columns wide."""
    script = Path(sys.executable).with_name("mlops")

    def call(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script), *map(str, args)],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "100", **env},
            timeout=600,
        )

    return call


@pytest.fixture(scope="session")
def sample_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000 generated pairs: enough to show that a better model is better."""
    path = tmp_path_factory.mktemp("data") / "pairs.csv"
    generate_file(path, 12_000, seed=1)
    return path


@pytest.fixture(scope="session")
def incumbent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A production folder of our own: the dense recipe on 3,000 generated pairs of another seed."""
    from matchmaking.model import Recipe, train_candidate

    folder = tmp_path_factory.mktemp("incumbent")
    train = folder / "train.parquet"
    generate(3_000, seed=2).to_parquet(train, index=False)
    (folder / "none").mkdir()
    train_candidate(train, folder / "none", folder / "bundle", Recipe("dense", seed=0))
    served = folder / "production"
    served.mkdir()
    for name in production.FILES:
        shutil.copyfile(folder / "bundle" / name, served / name)
    return served
