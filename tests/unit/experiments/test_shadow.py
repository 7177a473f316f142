"""The shadow run: decisions by hand, what outcomes tell, failures, and no more than there is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from matchmaking.experiments.shadow import compare_shadow, wilson


def pairs() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "request": list("abcdef"),
            "unit": list("uuvvww"),
            "champion": [0.9, 0.5, 0.1, 0.49, 0.7, 0.6],
            "challenger": [0.8, 0.4, 0.6, 0.51, np.nan, 1.5],
            "case_type": ["Tax", "Tax", "Fraud", "Fraud", "Tax", "Tax"],
        }
    )


def test_decisions_by_hand() -> None:
    found = compare_shadow(pairs(), slices=["case_type"])
    every, fraud, tax = found.decisions.to_dict("records")
    assert {key: every[key] for key in ("pairs", "both", "neither", "champion_only", "challenger_only")} == {
        "pairs": 4,
        "both": 1,
        "neither": 0,
        "champion_only": 1,
        "challenger_only": 2,
    }
    assert (every["different"], fraud["different"], tax["different"]) == (0.75, 1.0, 0.5)
    assert found.examples["request"].tolist() == ["c", "b", "d"]
    assert compare_shadow(pairs(), slices=[], examples=1).examples["request"].tolist() == ["c"]
    assert found.failures == {"requests": 6, "unanswered": 1, "status": 0, "invalid": 1}
    # nothing is made up where nothing is known
    assert found.calibration.empty and found.latency.empty and not found.brier and not found.curves


def test_the_page_says_that_no_command_leads_here() -> None:
    """As long as none does."""
    root = Path(__file__).parents[3]
    product = [path for folder in ("mlops", "matchmaking", "pipelines") for path in (root / folder).rglob("*.py")]
    used = any(
        re.search(r"experiments(\.| import .*)shadow|compare_shadow", path.read_text())
        for path in product
        if path.name != "shadow.py"
    )
    page = (root / "docs" / "experiments.md").read_text()
    assert used != ("no command evaluates a shadow run" in page)


def test_failures_and_latencies() -> None:
    given = pairs().assign(challenger_status=[200, 200, 200, 200, 504, 200], champion_ms=40.0, challenger_ms=[50.0] * 6)
    found = compare_shadow(given, slices=[])
    assert found.failures == {"requests": 6, "unanswered": 0, "status": 1, "invalid": 1}
    assert found.latency.to_dict("records") == [
        {"model": "champion", "p50": 40.0, "p95": 40.0, "p99": 40.0},
        {"model": "challenger", "p50": 50.0, "p95": 50.0, "p99": 50.0},
    ]


def test_what_outcomes_tell() -> None:
    rng = np.random.default_rng(0)
    size = 20_000
    chance = rng.beta(0.5, 0.8, size)
    given = pd.DataFrame(
        {
            "request": np.arange(size),
            "unit": np.arange(size) // 4,
            "champion": np.clip(chance + rng.normal(0, 0.2, size), 0, 1),
            "challenger": chance,
            "match": pd.array((rng.random(size) < chance).astype(int), dtype="Int8"),
        }
    )
    given.loc[::2, "match"] = pd.NA
    found = compare_shadow(given, slices=[])
    assert set(found.curves) == {"champion", "challenger"}
    by = found.calibration.set_index(["model", "recommended"])
    assert by["pairs"].groupby("model").sum().tolist() == [size // 2, size // 2]
    for recommended in (True, False):
        one = by.loc[("challenger", recommended)]
        assert one["mean"] == pytest.approx(one["rate"], abs=0.02)
        assert one["brier"] < by.loc[("champion", recommended), "brier"]
    assert found.brier["clients"] == size // 4
    assert 0 < found.brier["low"] < found.brier["mean"] < found.brier["high"]
    assert found.brier["mean"] == pytest.approx(((given["champion"] - chance) ** 2).mean(), abs=0.01)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (50, 5_000)])
def test_wilsons_interval(count: int, total: int) -> None:
    assert wilson(count, total, 0.05) == pytest.approx(proportion_confint(count, total, 0.05, "wilson"), abs=1e-9)
