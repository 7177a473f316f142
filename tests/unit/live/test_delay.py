"""The label delay: censored pairs, a textbook answer, and the age from which a window counts as measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from matchmaking.data import sample
from matchmaking.live.delay import estimate_delay
from matchmaking.live.traffic import Champion, Plan, generate_traffic

NOW = pd.Timestamp("2025-06-01", tz="UTC")


def log(days: list[float], came: list[bool]) -> pd.DataFrame:
    """Pairs whose outcome came after so many days, or that have been waiting for so many."""
    # long ago for those with an outcome: only of the others is the age what they have waited for
    began = [NOW - pd.Timedelta(days=400 if one else length) for length, one in zip(days, came, strict=True)]
    ended = [t + pd.Timedelta(days=n) if one else pd.NaT for t, n, one in zip(began, days, came, strict=True)]
    return pd.DataFrame({"time": pd.Series(began), "outcome_time": pd.to_datetime(pd.Series(ended), utc=True)})


def traffic(plan: Plan) -> pd.DataFrame:
    made = generate_traffic(plan, [Champion(0, "a" * 64, sample.true_probability)])
    outcomes = made.outcomes.rename(columns={"time": "outcome_time"})
    return made.predictions.merge(outcomes, on="pair_id", how="left")


def test_the_textbook_answer() -> None:
    # Freireich et al. 1963, remission in weeks under 6-MP, as in every text on survival analysis
    days = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    came = [True, True, True, False, True, False, True, False, False, True, True, False, False, False, True, True]
    found = estimate_delay(log([float(d) for d in days], came + [False] * 5), NOW)
    assert found.days.tolist() == [6, 7, 10, 13, 16, 22, 23]
    left = [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448]
    assert (1 - found.arrived).round(3).tolist() == left
    assert found.error.round(3).tolist() == [0.076, 0.087, 0.096, 0.107, 0.114, 0.128, 0.135]
    assert (found.pairs, found.outcomes) == (21, 9)
    assert found.share(np.array([0, 5.9, 6, 12])).round(3).tolist() == [0, 0, 0.143, 0.247]


def test_a_young_log_is_not_taken_for_a_short_delay() -> None:
    joined = traffic(Plan(days=120, volume=300, delay=21, delay_spread=0.2, never=0.1))
    now = pd.Timestamp("2025-02-12", tz="UTC")  # day 37
    found = estimate_delay(joined, now)
    seen = joined[(joined["outcome_time"] <= now)]
    naive = ((seen["outcome_time"] - seen["time"]).dt.total_seconds() / 86_400).median()
    assert naive < 20  # short delays are what can have come by now
    # half of the 90 % that ever come
    assert found.days[np.searchsorted(found.arrived, 0.45)] == pytest.approx(21, abs=0.3)


def test_the_age_of_maturity_and_completeness() -> None:
    joined = traffic(Plan(days=200, volume=300, delay=21, delay_spread=0.2, never=0.1))
    now = pd.Timestamp("2025-07-01", tz="UTC")
    found = estimate_delay(joined, now, complete=0.98)
    # the 98th percentile of the log-normal delay
    assert found.mature_days == pytest.approx(21 * np.exp(0.2 * 2.0537), rel=0.02)
    assert found.ever == pytest.approx(0.9, abs=0.01)
    assert found.completeness(21.0) == pytest.approx(0.5, abs=0.01)
    assert found.completeness(found.mature_days) >= 0.98
    assert found.completeness(200.0) == 1
    end = now - pd.Timedelta(days=found.mature_days)
    assert found.is_mature(end, now)
    assert not found.is_mature(end + pd.Timedelta(hours=1), now)
    recent = estimate_delay(joined, now, recent_days=100)
    assert recent.pairs < 0.7 * found.pairs
    assert recent.mature_days == pytest.approx(found.mature_days, rel=0.03)


def test_what_the_log_cannot_tell_yet() -> None:
    joined = traffic(Plan(days=60, volume=300, delay=21))
    nothing = estimate_delay(joined, pd.Timestamp("2025-01-10", tz="UTC"))
    assert (nothing.mature_days, nothing.reason) == (None, "no outcome has come yet")
    young = estimate_delay(joined, pd.Timestamp("2025-02-05", tz="UTC"))
    assert young.mature_days is None
    assert "outcomes still come at the age of" in young.reason
    few = estimate_delay(joined[:40], NOW)
    assert few.mature_days is None
    assert "fewer than 50 pairs" in few.reason
    assert not few.is_mature(pd.Timestamp("2024-01-01", tz="UTC"), NOW)


def test_outcomes_from_the_future_the_past_and_nowhere() -> None:
    joined = log([5.0] * 60, [True] * 60)
    joined.loc[0, "outcome_time"] = joined.loc[0, "time"] - pd.Timedelta(days=3)
    joined.loc[1, "outcome_time"] = NOW + pd.Timedelta(days=1)  # as good as still to come
    found = estimate_delay(joined, NOW)
    assert (found.pairs, found.outcomes, found.backwards) == (59, 58, 1)
    # labels without a time, from a labelled file, are no pairs that have been waiting
    labelled = joined.assign(match=1)
    labelled.loc[2, "outcome_time"] = pd.NaT
    assert estimate_delay(labelled, NOW).pairs == 58
