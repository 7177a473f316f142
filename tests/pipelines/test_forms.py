"""One dataset in several forms, through real runs: the same numbers, and what is wrong in one line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from matchmaking.data.parts import version_of
from matchmaking.data.sample import generate
from tests.hostile import ESCAPES, HANDLER

Mlops = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pairs as one CSV file, one Parquet file, and parts of either."""
    folder = tmp_path_factory.mktemp("forms")
    pairs = generate(2_000, seed=3)
    pairs.to_csv(folder / "pairs.csv", index=False)
    pairs.to_parquet(folder / "pairs.parquet", index=False)
    (folder / "parts").mkdir()
    (folder / "parts" / "_SUCCESS").touch()
    for number in range(4):
        part = pairs.iloc[number * 500 : (number + 1) * 500]
        part.to_csv(folder / "parts" / f"{number}.csv.gz", index=False)
        part.to_parquet(folder / "parts" / f"{number}.parquet", index=False, compression="zstd")
    return folder


def test_a_retraining_is_the_same_in_any_form(mlops: Mlops, forms: Path, incumbent: Path, tmp_path: Path) -> None:
    """Split, training and metrics to the last digit; production's own training data in another form still."""
    found: list[dict[str, Any]] = []
    for form, trained_on in (("pairs.csv", "parts/*.parquet"), ("parts/*.parquet", "pairs.csv")):
        done = mlops(
            *("run", "retrain", "--data", forms / form, "--production-data", forms / trained_on),
            *("--production", incumbent, "--work-dir", tmp_path / "work", "--algorithm", "dense", "--epochs", 2),
            *("--split", "hash", "--json"),
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    # (a reason names the version of what production is said to be trained on)
    same = ("metrics", "verdict", "data", "training")
    assert {name: found[0].get(name) for name in same} == {name: found[1].get(name) for name in same}
    assert found[0]["metrics"]["candidate"]
    # what the report names is the version of what was given
    parts = tmp_path / "parts"
    parts.mkdir()
    for path in (forms / "parts").glob("*.parquet"):
        (parts / path.name).symlink_to(path)
    assert [each["dataset_version"] for each in found] == [version_of(forms / "pairs.csv"), version_of(parts)]
    runs = sorted((tmp_path / "work" / "runs").iterdir())
    assert found[1]["dataset_version"][:12] in (runs[1] / "report.html").read_text()


def test_drift_between_forms(mlops: Mlops, forms: Path, tmp_path: Path) -> None:
    current = forms / "parts" / "[0-3].csv.gz"
    done = mlops(
        "run", "monitor", "--data", forms / "pairs.parquet", "--current", current, "--work-dir", tmp_path, "--json"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["drift"]["share_drifted"] == 0
    assert {column["statistic"] for column in summary["drift"]["columns"]} == {0.0}


def damaged(folder: Path, name: str) -> str:
    """A folder of parts of which one is wrong; what is to be said of it."""
    pairs = generate(300, seed=4)
    for number in range(3):
        pairs.to_parquet(folder / f"part-{number}.parquet", index=False)
    bad = folder / "part-1.parquet"
    if name == "half-written":
        bad.write_bytes(bad.read_bytes()[:5_000])
        return "part-1.parquet in"
    if name == "other columns":
        pairs.drop(columns="rating").to_parquet(bad, index=False)
        return "column 'rating' is missing"
    if name == "text for numbers":
        pairs.astype({"budget": str}).to_parquet(bad, index=False)
        return "column 'budget' is of type"
    if name == "empty":
        for path in folder.iterdir():
            path.unlink()
        return "holds no part"
    if name == "hostile names":
        pairs.assign(rating=9.0).to_parquet(folder / f"{ESCAPES.replace('/', '')}.parquet", index=False)
        pairs.assign(**{HANDLER: 1}).to_parquet(bad, index=False)
        return "row 1 of \\x1b]0;OWNED\\x07\\x1b[2J"
    pairs.assign(city=pd.Series(["Delhi", None] * 150)).to_parquet(bad, index=False)
    return "column 'city': missing values in row 2 of part-1.parquet, row 4 of part-1.parquet"


@pytest.mark.parametrize(
    "name", ["half-written", "other columns", "text for numbers", "empty", "hostile names", "nulls"]
)
def test_a_part_that_is_wrong_is_told_in_one_line(mlops: Mlops, incumbent: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    words = damaged(folder, name)
    done = mlops("run", "evaluate", "--data", folder, "--production", incumbent, "--work-dir", tmp_path / "work")
    assert done.returncode == 2, done.stderr
    printed = done.stdout + done.stderr
    (told,) = [line for line in printed.splitlines() if "failed in step" in line]
    assert words in told and "Traceback" not in printed and "\x1b" not in printed
