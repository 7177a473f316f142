"""Generated traffic: the same by seed, and what happens in it is what the plan says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data import sample
from matchmaking.evidence.metrics import evaluate
from matchmaking.live.traffic import Champion, Plan, generate_traffic, true_performance, with_concept_drift

ORACLE = Champion(0, "a" * 64, sample.true_probability)


def test_the_same_plan_gives_the_same_traffic() -> None:
    plan = Plan(days=20, volume=50, covariate="demand", covariate_day=10, concept=0.1, concept_day=10)
    first, again = generate_traffic(plan, [ORACLE]), generate_traffic(plan, [ORACLE])
    for name in ("predictions", "outcomes", "truth"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    other = generate_traffic(Plan(days=20, volume=50, seed=1), [ORACLE])
    assert len(other.predictions) != len(first.predictions)


def test_volume_has_its_week_and_labels_come_late() -> None:
    traffic = generate_traffic(Plan(days=280, volume=200, weekend=0.5, delay=21, never=0.1), [ORACLE])
    time = traffic.predictions["time"]
    assert time.is_monotonic_increasing
    assert str(time.dtype) == "datetime64[ns, UTC]"
    assert (time.min().floor("D"), time.max().floor("D")) == (
        pd.Timestamp("2025-01-06", tz="UTC"),
        pd.Timestamp("2025-10-12", tz="UTC"),
    )
    assert len(time) == pytest.approx(280 * 200, rel=0.02)
    by_day = time.dt.dayofweek.value_counts() / 40
    assert by_day[[5, 6]].mean() / by_day[[0, 1, 2, 3, 4]].mean() == pytest.approx(0.5, rel=0.03)
    joined = traffic.predictions.merge(traffic.outcomes, on="pair_id", suffixes=("", "_outcome"))
    assert len(joined) / len(time) == pytest.approx(0.9, abs=0.01)
    late = (joined["time_outcome"] - joined["time"]).dt.total_seconds() / 86_400
    assert late.median() == pytest.approx(21, rel=0.01)
    assert np.log(late).std() == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize("drift", ["prices", "new-city", "demand"])
def test_covariates_drift_on_their_day_and_nothing_else_does(drift: str) -> None:
    quiet = generate_traffic(Plan(days=40, volume=100), [ORACLE])
    moved = generate_traffic(Plan(days=40, volume=100, covariate=drift, covariate_day=20), [ORACLE])
    column = {"prices": "consultation_fee", "new-city": "city", "demand": "case_type"}[drift]
    before = quiet.truth["time"] < pd.Timestamp("2025-01-26", tz="UTC")
    for name in ("predictions", "truth"):
        pd.testing.assert_frame_equal(getattr(quiet, name)[before], getattr(moved, name)[before])
    changed = [c for c in quiet.predictions if not quiet.predictions[c].equals(moved.predictions[c])]
    assert changed == [column, "probability"] or changed == ["probability", column]
    # the outcomes still follow the features
    assert np.allclose(moved.truth["chance"], sample.true_probability(moved.predictions))


def test_the_concept_drifts_without_a_trace_in_the_features() -> None:
    quiet = generate_traffic(Plan(days=40, volume=500), [ORACLE])
    moved = generate_traffic(Plan(days=40, volume=500, concept=0.5, concept_day=20), [ORACLE])
    pd.testing.assert_frame_equal(quiet.predictions, moved.predictions)
    after = (quiet.truth["time"] >= pd.Timestamp("2025-01-26", tz="UTC")).to_numpy()
    assert quiet.truth["chance"][~after].equals(moved.truth["chance"][~after])
    expected = with_concept_drift(quiet.truth["chance"][after].to_numpy(), 0.5)
    assert np.allclose(moved.truth["chance"][after], expected)
    assert expected.mean() == pytest.approx(quiet.truth["chance"][after].mean())
    assert with_concept_drift(np.array([0.0, 1.0]), 0.5).tolist() == [0.25, 0.75]


def test_champions_change_on_their_day() -> None:
    half = Champion(10, "b" * 64, lambda pairs: np.full(len(pairs), 0.5))
    traffic = generate_traffic(Plan(days=20, volume=50), [half, ORACLE])
    second = traffic.predictions["time"] >= pd.Timestamp("2025-01-16", tz="UTC")
    assert traffic.predictions["model"].tolist() == np.where(second, "b" * 64, "a" * 64).tolist()
    assert (traffic.predictions["probability"][second] == 0.5).all()
    assert np.allclose(traffic.predictions["probability"][~second], traffic.truth["chance"][~second])


def test_true_performance_is_what_many_labels_would_show() -> None:
    traffic = generate_traffic(Plan(days=31, volume=300, start="2025-01-01", seed=3), [ORACLE])
    true = true_performance(traffic, "month")
    assert true["start"].tolist() == [pd.Timestamp("2025-01-01", tz="UTC")]
    score, chance = traffic.predictions["probability"].to_numpy(), traffic.truth["chance"].to_numpy()
    rng = np.random.default_rng(0)
    drawn = [evaluate((rng.random(len(chance)) < chance).astype(int), score) for _ in range(60)]
    for name in ("accuracy", "precision", "recall", "f1", "roc_auc", "average_precision", "brier", "log_loss"):
        values = np.array([one[name] for one in drawn])
        # four standard errors, and what a ratio of means differs from a mean of ratios
        assert true[name][0] == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(60) + 1e-3), name


def test_plans_that_cannot_be_are_refused() -> None:
    for wrong in ({"days": 0}, {"volume": 0}, {"never": 1.5}, {"covariate": "match-rate"}, {"delay_spread": -1}):
        with pytest.raises(InputError, match="traffic: "):
            Plan(**wrong)
    with pytest.raises(InputError, match="no model serves on day 0"):
        generate_traffic(Plan(), [Champion(1, "a" * 64, sample.true_probability)])
