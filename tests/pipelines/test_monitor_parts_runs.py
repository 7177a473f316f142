"""Two datasets in parts, really compared: kfp.local with its loop, a process a shard, beside `monitor` in one piece."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from matchmaking.data.drawn import MAX_ROWS
from matchmaking.data.sample import generate

Mlops = Callable[..., subprocess.CompletedProcess[str]]


def write(folder: Path, rows: int, seed: int, parts: int) -> Path:
    folder.mkdir()
    pairs = generate(rows, seed)
    if seed == 6:
        pairs = pairs.drop(columns="match").assign(budget=99_000, experience=0, success_rate=0.1, rating=1.0)
        pairs = pairs.assign(urgency_level=5, availability=0, case_complexity_score=0.9)
    for number, chosen in enumerate(np.array_split(np.arange(rows), parts)):
        pairs.iloc[chosen].to_parquet(folder / f"part-{number}.parquet", index=False)
    return folder


def test_it_says_what_monitor_says(mlops: Mlops, incumbent: Path, tmp_path: Path) -> None:
    """Of more pairs than are compared, too."""
    reference = write(tmp_path / "reference", MAX_ROWS + 2_000, 5, 3)
    current = write(tmp_path / "current", 3_000, 6, 2)
    found = {}
    for name in ("monitor", "monitor-parts"):
        options = ("--production", incumbent, "--work-dir", tmp_path / name)
        done = mlops("run", name, "--data", reference, "--current", current, *options, "--json", "--fail-on-drift")
        assert done.returncode == 3 and "Past the policy's limits" in done.stderr, done.stderr
        found[name] = json.loads(done.stdout)
    one, ours = found.values()
    assert ours["pipeline"] == "monitor-parts" and ours["status"] == "succeeded"
    for name in ("dataset_version", "data", "drift", "drifted_columns", "production_sha256"):
        assert ours[name] == one[name], name
    assert ours["drift"]["rows"] == {"reference": MAX_ROWS + 2_000, "current": 3_000}
    assert ours["drift"]["rows_used"] == {"reference": MAX_ROWS, "current": 3_000}
    assert "budget" in ours["drifted_columns"]
    assert [step["step"] for step in ours["steps"]] == ["divide", "draw", "pool", "score", "drift", "report"]
    # without a current dataset there is nothing to compare side by side
    done = mlops("run", "monitor-parts", "--data", reference, "--work-dir", tmp_path / "none")
    assert done.returncode == 2 and "--current is missing" in " ".join(done.stderr.split())
