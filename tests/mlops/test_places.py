"""Odd places to run from and to write to, and those that are full."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pipelines
from matchmaking.base.errors import InputError
from matchmaking.base.settings import MAX_SEED
from matchmaking.data.sample import generate_file
from mlops.cli.run import Local
from mlops.local.containers import READ, WRITTEN

Mlops = Callable[..., subprocess.CompletedProcess[str]]
MLOPS = Path(sys.executable).with_name("mlops")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("places") / "pairs.csv"
    generate_file(path, 600, seed=1)
    return path


def test_a_container_sees_every_place_that_a_pipeline_is_given() -> None:
    sources = [
        (Path(pipelines.__file__).parent / f"{name.value.replace('-', '_')}.py").read_text()
        for name in Local
        if name != Local.all
    ]
    given = {name for source in sources for name in re.findall(r"^ {8}(\w+): .*\bURI of ", source, re.M)}
    assert {"exposures", "pairs", "production"} < given <= {*READ, *WRITTEN}


def test_steps_import_nothing_from_where_the_user_stands(pairs: Path, incumbent: Path, tmp_path: Path) -> None:
    """And leave no temporary file behind; the work folder has spaces, quotes and letters beyond ASCII."""
    here, scratch = tmp_path / "here", tmp_path / "tmp"
    for package in ("matchmaking", "components", "pipelines", "kfp"):
        (here / package).mkdir(parents=True)
        (here / package / "__init__.py").write_text("raise SystemExit('code of another checkout')\n")
    for name in ("random", "secrets", "tempfile", "numpy"):
        (here / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the current folder')\n")
    scratch.mkdir()
    work = here / "wörk 'a\"b"
    done = subprocess.run(
        [MLOPS, "run", "evaluate", "--data", pairs, "--production", incumbent, "--work-dir", work, "--json"],
        cwd=here,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert (work / "mlflow.db").stat().st_size > 0
    assert not list(scratch.glob("tmp.*")) and not list(scratch.glob("mlops-*"))


@pytest.mark.parametrize("name", ["a%2Fb", "what?", "a#b", "a%20b", "two\nlines", b"\xff\xfe", "x/" * 300])
def test_a_work_folder_that_no_record_could_name_is_refused_at_once(
    name: str | bytes, pairs: Path, incumbent: Path, tmp_path: Path
) -> None:
    work = os.path.join(os.fsencode(tmp_path), os.fsencode(name))  # noqa: PTH118
    done = subprocess.run(
        [MLOPS, "run", "evaluate", "--data", pairs, "--production", incumbent, "--work-dir", work],
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("Error: --work-dir")]
    assert (done.returncode, len(told)) == (2, 1), done.stderr
    assert "choose another folder" in told[0]
    assert not any(tmp_path.iterdir())


def test_a_folder_for_temporary_files_that_is_not_there_is_named(
    mlops: Mlops, pairs: Path, incumbent: Path, tmp_path: Path
) -> None:
    options = ("--data", pairs, "--production", incumbent, "--work-dir", tmp_path / "work")
    done = mlops("run", "evaluate", *options, TMPDIR=str(tmp_path / "gone"))
    assert done.returncode == 2
    assert f"TMPDIR is {tmp_path / 'gone'}" in done.stderr


@pytest.mark.parametrize("limit", [1_000, 60_000])
def test_a_limit_of_a_files_size_is_told_in_one_line(limit: int, pairs: Path, incumbent: Path, tmp_path: Path) -> None:
    """As a full disk: the machine's fault, exit 1."""
    commands = (
        ("data", "generate", "--rows", 5_000, "--out", tmp_path / "pairs.csv"),
        ("run", "evaluate", "--data", pairs, "--production", incumbent, "--work-dir", tmp_path / "work"),
    )
    for command in commands:
        done = subprocess.run(
            [MLOPS, *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            # what Python compiles is no matter
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        told = [line for line in done.stderr.splitlines() if line.startswith("Error: ") or " failed in step " in line]
        assert len(told) == 1, done.stderr
    assert not (tmp_path / "pairs.csv").exists()


def test_a_compiled_pipeline_that_finds_no_room_is_named(mlops: Mlops, tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "evaluate.yaml").symlink_to("/dev/full")
    done = mlops("compile", "--out", tmp_path / "build")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {tmp_path / 'build' / 'evaluate.yaml'} can't be written: No space left on device\n"
    # where KFP's compiler writes first
    full = subprocess.run(
        [MLOPS, "compile", "--out", str(tmp_path / "build")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path)},
    )
    assert full.returncode == 1
    (line,) = full.stderr.splitlines()
    assert line.startswith(f"Error: {tmp_path}/") and line.endswith("can't be written: File too large")


def test_seeds_are_those_that_everything_can_be_seeded_with(
    mlops: Mlops, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (-1, MAX_SEED + 1, 2**53 + 1):
        done = mlops("run", "retrain", "--data", pairs, "--work-dir", tmp_path / "work", "--seed", seed)
        assert done.returncode == 2 and "--seed" in done.stderr
    assert not (tmp_path / "work").exists()
    # what comes through KFP's API is looked at by the first step
    from matchmaking import tracking
    from matchmaking.tracking.step import Running

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr("matchmaking.tracking.runs.client", tracking.client.__wrapped__)
    for seed, job in ((MAX_SEED + 1, "a"), (2**53, "b"), (-1, "c")):
        with pytest.raises(InputError, match=f"seed {seed}: give a whole number from 0 to {MAX_SEED}"):
            Running("ingest", "").open_run("retrain", "", job, {"seed": seed})
    Running("ingest", "").open_run("retrain", "", "d", {"seed": MAX_SEED})
