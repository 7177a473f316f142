"""A dataset in parts, really evaluated: kfp.local with its loop, a process a shard, beside `evaluate` in one piece."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data.sample import generate
from matchmaking.inputs.validate import validate_file

Mlops = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    pairs = generate(3_000, seed=5)
    pairs.to_csv(tmp_path / "whole.csv", index=False)
    for number, rows in enumerate(np.array_split(np.arange(len(pairs)), 3)):
        pairs.iloc[rows].to_csv(folder / f"part-{number}.csv", index=False)
    return folder


def test_it_says_what_evaluate_says(mlops: Mlops, parts: Path, incumbent: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("evaluate", "evaluate-parts"):
        options = (
            "--production",
            incumbent,
            "--production-data",
            tmp_path / "whole.csv",
            "--work-dir",
            tmp_path / name,
        )
        done = mlops("run", name, "--data", parts, *options, "--json")
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout)
    one, ours = found.values()
    assert ours["pipeline"] == "evaluate-parts" and ours["status"] == "succeeded"
    for name in ("dataset_version", "data", "split", "production_sha256"):
        assert ours[name] == one[name], name
    wanted = one["metrics"]["production"]
    assert ours["metrics"]["production"].pop("confusion") == wanted.pop("confusion")
    assert ours["metrics"]["production"] == pytest.approx(wanted, abs=1e-7)
    assert [step["step"] for step in ours["steps"]] == ["plan", "shard", "merge", "report"]


def test_a_wrong_row_is_told_in_the_same_words(mlops: Mlops, parts: Path, incumbent: Path, tmp_path: Path) -> None:
    path = parts / "part-1.csv"
    lines = path.read_text().splitlines()
    lines[7] = lines[7].replace(",", ",,", 1)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as wanted:
        validate_file(parts, incumbent, tmp_path / "pairs", source=str(parts))
    options = ("--production", incumbent, "--production-data", tmp_path / "whole.csv", "--work-dir", tmp_path / "work")
    done = mlops("run", "evaluate-parts", "--data", parts, *options)
    assert done.returncode == 2
    head, _, told = " ".join(done.stderr.split()).partition(" failed in step merge: ")
    assert head.endswith("evaluate-parts") and told.startswith(" ".join(str(wanted.value).split()))
    assert "line 8 of part-1.csv" in told
