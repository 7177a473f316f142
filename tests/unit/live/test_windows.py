"""Windows: where they begin, that their numbers are scikit-learn's, and what their intervals and marks are worth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from matchmaking.data import sample
from matchmaking.evidence.metrics import evaluate
from matchmaking.live.delay import estimate_delay
from matchmaking.live.traffic import Champion, Plan, generate_traffic
from matchmaking.live.windows import end_of, intervals, measure, starts

UTC = "UTC"


def stamp(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz=UTC)


@pytest.fixture(scope="module")
def joined() -> pd.DataFrame:
    made = generate_traffic(Plan(days=90, volume=200, never=0), [Champion(0, "a" * 64, sample.true_probability)])
    outcomes = made.outcomes.rename(columns={"time": "outcome_time"})
    return made.predictions.merge(outcomes, on="pair_id", how="left")


def test_where_windows_begin_and_end() -> None:
    times = pd.Series(
        pd.to_datetime(["2025-03-02T23:59:59Z", "2025-03-03T00:00:00Z", "2025-03-02T23:00:00-02:00"], utc=True)
    )
    assert starts(times, "day").tolist() == [stamp("2025-03-02"), stamp("2025-03-03"), stamp("2025-03-03")]
    assert starts(times, "week").tolist() == [stamp("2025-02-24"), stamp("2025-03-03"), stamp("2025-03-03")]
    assert starts(times, "month").tolist() == [stamp("2025-03-01")] * 3
    # 23:30 in New York is another day in UTC
    assert starts(pd.Series([pd.Timestamp("2025-03-31 23:30", tz="America/New_York")]), "month")[0] == stamp(
        "2025-04-01"
    )
    assert end_of(stamp("2025-02-01"), "month") == stamp("2025-03-01")
    assert end_of(stamp("2025-02-24"), "week") == stamp("2025-03-03")


def test_the_numbers_are_those_of_the_metrics(joined: pd.DataFrame) -> None:
    found = measure(joined, "month", stamp("2025-07-01"), slices=["location"], resamples=50)
    january = joined[joined["time"] < stamp("2025-02-01")]
    wanted = evaluate(january["match"].to_numpy(int), january["probability"].to_numpy(), january[["location"]])
    rows = found[found["start"] == stamp("2025-01-01")]
    whole = rows[rows["slice"] == ""].set_index("metric")
    for name in whole.index:
        assert whole.loc[name, "value"] == pytest.approx(wanted[name]), name
        assert whole.loc[name, "low"] < whole.loc[name, "value"] < whole.loc[name, "high"], name
    assert len(whole) == 8
    assert (whole["rows"] == len(january)).all()
    delhi = rows[rows["value_of"] == "Delhi"].set_index("metric")
    assert delhi.loc["brier", "value"] == pytest.approx(wanted["slices"]["location"]["Delhi"]["brier"])
    assert delhi.loc["brier", "rows"] == (january["location"] == "Delhi").sum()
    pd.testing.assert_frame_equal(
        found, measure(joined, "month", stamp("2025-07-01"), slices=["location"], resamples=50)
    )


def test_only_what_has_come_counts_and_says_how_complete_it_is(joined: pd.DataFrame) -> None:
    now = stamp("2025-03-10")
    found = measure(joined, "week", now, delay=estimate_delay(joined, now), resamples=20)
    whole = found[found["metric"] == "brier"].set_index("start")
    assert whole.index.max() == stamp("2025-03-03")  # nothing from after now
    assert whole["measured"].tolist() == [True] * 4 + [False] * 5  # the fourth ended 35 days ago, the fifth 28
    assert whole["completeness"].iloc[0] == 1
    assert 0 < whole.loc[stamp("2025-02-10"), "completeness"] < 0.8
    last = found[found["start"] == stamp("2025-03-03")]
    assert last["value"].isna().all()
    assert (last["withheld"] == "no outcome").all()
    assert (last["labelled"] == 0).all()
    # without a delay a window is measured where every outcome has come
    plain = measure(joined, "week", stamp("2025-07-01"), resamples=10)
    assert plain["measured"].all()


def test_too_few_matches_are_withheld() -> None:
    match, probability = np.array([1] * 9 + [0] * 91), np.linspace(0.9, 0.1, 100)
    found = intervals(match, probability, resamples=20)
    assert found["recall"]["withheld"] == "9 matches, at least 10 are needed"
    assert np.isnan(found["recall"]["value"])
    assert found["brier"]["withheld"] == ""
    assert intervals(match, probability, resamples=20, min_positives=9)["recall"]["value"] == 1
    # a log that is told of matches only
    alone = intervals(np.ones(20), np.full(20, 0.9), resamples=20)
    assert all(one["withheld"] == "outcomes of matches only" and np.isnan(one["value"]) for one in alone.values())


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = {"accuracy": 0, "recall": 0, "brier": 0, "average_precision": 0}
    population = np.clip(rng.beta(0.3, 2.0, 200_000), 1e-6, 1 - 1e-6)
    labels = rng.random(len(population)) < population
    true = evaluate(labels, population)
    for trial in range(200):
        rows = rng.integers(len(population), size=800)
        found = intervals(labels[rows].astype(int), population[rows], resamples=100, confidence=0.9, seed=trial)
        for name in held:
            held[name] += found[name]["low"] <= true[name] <= found[name]["high"]
    # 90 % of 200, give or take three standard errors and the coarseness of 100 resamples
    assert all(0.82 <= count / 200 <= 0.97 for count in held.values()), held
