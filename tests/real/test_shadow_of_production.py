"""A shadow run on the real rows, with the real production model as champion: known answers, and a known difference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from matchmaking.data.schema import FEATURES, TARGET
from matchmaking.live.parts import write_part
from matchmaking.model import production
from mlops.cli.app import app
from tests.shadow_fixtures import run_of, shifted


@pytest.fixture(scope="module")
def logs(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The held-out rows as production's own logs would have them, with all their outcomes."""
    from sklearn.model_selection import train_test_split

    from matchmaking.model.score import score

    rows = pd.read_csv(real / "matchmaking_dataset.csv")
    _, held = train_test_split(rows, test_size=0.2, random_state=42, stratify=rows[TARGET])
    held = held.reset_index(drop=True)
    ids = [f"row-{number}" for number in range(len(held))]
    time = pd.Series(pd.date_range("2026-01-01", periods=len(held), freq="h", tz="UTC"))
    pairs = held[list(FEATURES)].assign(
        pair_id=ids,
        time=time,
        model=production.hashes(real)[production.MODEL],
        probability=score(held[list(FEATURES)], real),
    )
    outcomes = pd.DataFrame({"pair_id": ids, "time": time + pd.Timedelta(days=20), TARGET: held[TARGET]})
    folder = tmp_path_factory.mktemp("logs")
    write_part(pairs, folder / "predictions" / "1.parquet", "prediction")
    write_part(outcomes, folder / "outcomes" / "1.parquet", "outcome")
    return folder


def run(real: Path, challenger: Path, logs: Path, out: Path) -> str:
    done = CliRunner().invoke(
        app,
        [
            *("experiment", "shadow", "--champion", str(real), "--challenger", str(challenger)),
            *("--predictions", str(logs / "predictions"), "--outcomes", str(logs / "outcomes"), "--out", str(out)),
        ],
    )
    assert done.exit_code == 0, done.output
    return done.output


def test_production_against_itself(real: Path, logs: Path, tmp_path: Path) -> None:
    before = production.hashes(real)
    run(real, real, logs, tmp_path)
    found = run_of(tmp_path)
    every = found["decisions"][0]
    assert (every["pairs"], every["different"], found["known"]) == (2_400, 0, 2_400)
    # precision and recall as production's own tracking has them: 245 of 340 recommended, of 278 matches
    outcomes = {row["decision"]: row for row in found["outcomes"]}
    assert (outcomes["both"]["matches"], outcomes["both"]["known"]) == (245, 340)
    assert outcomes["neither"]["matches"] == 278 - 245
    brier = sum(row["brier"] * row["pairs"] for row in found["calibration"] if row["model"] == "champion") / 2_400
    assert brier == pytest.approx(0.0461, abs=5e-5)
    assert found["contract"]["passed"], json.dumps(found["contract"]["checks"])
    assert found["logged"]["different"] == 0 and found["brier"]["mean"] == 0
    assert production.hashes(real) == before


def test_a_known_shift_of_it(real: Path, logs: Path, tmp_path: Path) -> None:
    said = run(real, shifted(real, tmp_path / "challenger", 1.0), logs, tmp_path / "out")
    found = run_of(tmp_path / "out")
    given = pd.read_parquet(logs / "predictions" / "1.parquet")
    more = given["probability"].between(1 / (1 + np.e), 0.5, inclusive="left")
    every = found["decisions"][0]
    assert (every["champion_only"], every["challenger_only"]) == (0, more.sum())
    assert every["low"] < every["different"] == more.mean() < every["high"]
    assert "differently in 0.83 % of 2,400 pairs" in said
