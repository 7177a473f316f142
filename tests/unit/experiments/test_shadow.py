"""The shadow run: decisions by hand, what outcomes tell, failures, and no more than there is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from matchmaking.experiments.shadow import compare_shadow, share_interval, wilson
from matchmaking.experiments.shadow_run import judge_lines


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
    # no answer, and one that is no probability
    assert found.without == {"champion": 0, "challenger": 2}
    # nothing is made up where nothing is known
    assert found.calibration.empty and found.outcomes.empty and not found.brier and not found.curves


def test_failures_and_latencies() -> None:
    lines = pd.DataFrame(
        {
            "unit": [*list("uuvvw"), ""],
            "champion_status": [200, 200, 200, 500, 200, np.nan],
            "challenger_status": [200, 504, 200, 200, np.nan, 200],
            "champion_ms": 40.0,
            "challenger_ms": [50.0, 5_000.0, 50.0, 50.0, np.nan, 50.0],
        },
        index=list("abcdef"),
    )
    found = judge_lines(lines)
    assert found.total == 6
    assert {model: (one["failed"], one["asked"]) for model, one in found.failed.items()} == {
        "champion": (2, 4),
        "challenger": (2, 4),
    }
    assert found.latency.to_dict("records") == [
        {"model": "champion", "p50": 40.0, "p95": 40.0, "p99": 40.0},
        {"model": "challenger", "p50": 50.0, "p95": 50.0, "p99": 50.0},
    ]
    assert found.ratio == pytest.approx(1.25)
    assert found.statuses.set_index(["champion", "challenger"])["requests"].to_dict() == {
        (200, 200): 2,
        (200, 504): 1,
        (500, 200): 1,
        (200, 0): 1,
        (0, 200): 1,
    }


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
    rate = found.outcomes.set_index("decision")
    assert rate["known"].sum() == size // 2 and rate["pairs"].sum() == size
    for name, champion, challenger in (("both", True, True), ("challenger only", False, True)):
        chosen = ((given["champion"] >= 0.5) == champion) & ((chance >= 0.5) == challenger)
        assert rate.loc[name, "low"] < chance[chosen].mean() < rate.loc[name, "high"]
    assert found.brier["clients"] == size // 4
    assert 0 < found.brier["low"] < found.brier["mean"] < found.brier["high"]
    assert found.brier["mean"] == pytest.approx(((given["champion"] - chance) ** 2).mean(), abs=0.01)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (50, 5_000)])
def test_wilsons_interval(count: int, total: int) -> None:
    assert wilson(count, total, 0.05) == pytest.approx(proportion_confint(count, total, 0.05, "wilson"), abs=1e-9)


def test_pairs_of_one_client_are_one_draw() -> None:
    """Each client's ten pairs all alike: the clients' interval; independent ones: that of the pairs."""
    rng = np.random.default_rng(1)
    what = rng.random(400) < 0.3
    assert share_interval(what, np.arange(400), 0.05)[1:] == pytest.approx(wilson(what.sum(), 400, 0.05), abs=1e-3)
    same, of_ten = np.repeat(what, 10), np.repeat(np.arange(400), 10)
    assert share_interval(same, of_ten, 0.05)[1:] == pytest.approx(wilson(what.sum(), 400, 0.05), abs=1e-3)
    # none is found: clients say how little that says
    assert share_interval(np.zeros(4_000, dtype=bool), of_ten, 0.05)[2] == pytest.approx(wilson(0, 400, 0.05)[1])
    assert share_interval(what[:0], np.arange(0), 0.05)[1:] == (0.0, 1.0)


def test_the_interval_covers_as_often_as_it_says_when_pairs_are_alike() -> None:
    rng, covered = np.random.default_rng(2), 0
    for _ in range(400):
        sizes = 1 + rng.poisson(4, 200)
        units = np.repeat(np.arange(200), sizes)
        what = rng.random(len(units)) < np.repeat(rng.beta(0.3, 2.7, 200), sizes)
        _, low, high = share_interval(what, units, 0.05)
        covered += low <= 0.1 <= high
    # 95 %, and three standard deviations
    assert covered >= 0.95 * 400 - 3 * np.sqrt(400 * 0.95 * 0.05)
