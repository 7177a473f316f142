"""What several test modules need: sample data, a production model of our own, and the real one where it is."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from matchmaking.data.sample import generate, generate_file
from matchmaking.model import production
from mlops.local import warm
from tests.warm_commands import PATIENCE, Commands

# before any test imports them: no telemetry, no start-up chatter
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What a test leaves in the environment is no other's: commands called in this process set where MLflow is."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


# the real dataset and model are not part of the repository; a checkout beside them finds them here
REAL = Path(os.environ.get("LEGALAID_DIR", Path(__file__).parents[2] / "shared" / "legalaid"))


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder with the real dataset and production model; tests that need it are skipped where it isn't."""
    if not (REAL / production.MODEL).exists():
        pytest.skip(f"the real production model isn't at {REAL} (LEGALAID_DIR says where it is)")
    return REAL


@pytest.fixture(scope="session")
def mlops() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs the command line as a user does: `mlops(*args)`, 100 columns wide, in a process of its own."""
    if warm.SUPPORTED:
        commands = Commands()
        yield commands
        commands.close()
    else:
        yield installed


def installed(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The installed command line, started anew."""
    return subprocess.run(
        [Path(sys.executable).with_name("mlops"), *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", **env},
        timeout=PATIENCE,
        check=False,
    )


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of a session that `make` fills, once for all workers of a parallel run; the others wait for it.

    Nobody writes there afterwards: tests that change something copy it first.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def sample_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000 generated pairs: enough to show that a better model is better."""
    return once(tmp_path_factory, "data", lambda folder: generate_file(folder / "pairs.csv", 12_000, 1)) / "pairs.csv"


@pytest.fixture(scope="session")
def incumbent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A production folder of our own, of little precision: the dense recipe on 3,000 other generated pairs."""
    return once(tmp_path_factory, "incumbent", train_incumbent) / "production"


def train_incumbent(folder: Path) -> None:
    from matchmaking.model.recipe import Recipe
    from matchmaking.model.train import train_candidate

    train = folder / "train.parquet"
    generate(3_000, seed=3).to_parquet(train, index=False)
    (folder / "none").mkdir()
    train_candidate(train, folder / "none", folder / "bundle", Recipe("dense", seed=0))
    served = folder / "production"
    served.mkdir()
    for name in production.FILES:
        shutil.copyfile(folder / "bundle" / name, served / name)


@pytest.fixture
def served(incumbent: Path, tmp_path: Path) -> Path:
    """A production folder of one's own."""
    folder = tmp_path / "production"
    shutil.copytree(incumbent, folder)
    return folder


@pytest.fixture(scope="session")
def run_of_all(
    mlops: Callable[..., subprocess.CompletedProcess[str]],
    sample_csv: Path,
    incumbent: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One `mlops run all` with the defaults: its work folder, and what it printed."""

    def run(folder: Path) -> None:
        before = production.hashes(incumbent)
        places = ("--data", sample_csv, "--production", incumbent, "--work-dir", folder / "work")
        done = mlops("run", "all", *places, "--seed", "3")
        assert done.returncode == 0, done.stdout + done.stderr
        assert production.hashes(incumbent) == before
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    folder = once(tmp_path_factory, "all", run)
    printed = ((folder / name).read_text() for name in ("stdout", "stderr"))
    return folder / "work", subprocess.CompletedProcess(["mlops", "run", "all"], 0, *printed)


# what takes long first, or one worker is left with it at the end
FOLDERS = ("services", "pipelines", "mlops", "real", "manifests", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [Path(__file__).with_name(name) for name in FOLDERS]
    items.sort(key=lambda item: next((n for n, place in enumerate(places) if place in item.path.parents), 0))
