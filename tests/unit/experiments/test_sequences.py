"""Confidence sequences: against ville 0.1.0's values and the papers', and by simulation against their stated error."""

from __future__ import annotations

import numpy as np
import pytest

from matchmaking.experiments.sequences import (
    asymptotic_radius,
    asymptotic_sequence,
    betting_sequence,
    fixed_interval,
    forecast_sequence,
    mixture_scale,
    pseudo_outcomes,
    running,
    stitched_boundary,
)

# numbers that need no generator
INDEX = np.arange(1, 401)
VALUES = (INDEX * 7919 % 101) / 100
TREATED = INDEX * 104729 % 13 < 6
LOOKS = np.array([50, 200, 400])


def test_the_asymptotic_sequence_is_villes() -> None:
    """`ville.AsymptoticCS(alpha=0.05, t_opt=200)` on `VALUES`, after 50, 200 and 400 of them."""
    mean = np.array([VALUES[:n].mean() for n in LOOKS])
    variance = np.array([VALUES[:n].var(ddof=1) / n for n in LOOKS])
    low, high = asymptotic_sequence(mean, variance, LOOKS.astype(float), 0.05, 200)
    assert low == pytest.approx([0.36239311, 0.43944008, 0.45639516], abs=1e-6)
    assert high == pytest.approx([0.63040689, 0.56455992, 0.54570484], abs=1e-6)
    assert 1 / mixture_scale(0.05, 200) ** 2 == pytest.approx(24.354715728575986, rel=1e-5)


def test_the_betting_sequence_is_villes() -> None:
    """`ville.BettingABTest(alpha=0.05, propensity=0.5, grid=20001)` on a treatment effect."""
    value = VALUES**2 * np.where(TREATED, 0.9, 0.3)
    found = betting_sequence(value, TREATED, 0.5, range(1, 401), 0.05, grid=10_001)
    at = LOOKS - 1
    assert found.low[at] == pytest.approx([-0.1324, 0.0970, 0.1322], abs=1e-9)
    assert found.high[at] == pytest.approx([0.4428, 0.2850, 0.2574], abs=1e-9)
    assert found.estimate[at] == pytest.approx([0.17581652, 0.19433761, 0.19464015], abs=1e-8)
    # the wealth against no difference reaches 2 / alpha at the unit that excludes 0
    first = int(np.argmax(found.low > 0))
    assert found.above[first] >= np.log(2 / 0.05) > found.above[first - 1]


def test_pseudo_outcomes_by_hand() -> None:
    found = pseudo_outcomes(np.array([1.0, 0.0, 1.0]), np.array([True, False, False]), 0.2)
    # centres: 1/2, then the means of what came before, 1 and 1/2
    assert found == pytest.approx([0.5 / 0.2, -(0 - 1) / 0.8, -(1 - 0.5) / 0.8])


def test_the_radius_is_narrowest_where_it_was_tuned() -> None:
    n = np.arange(100, 10_000, 10)
    for alpha in (0.01, 0.05, 0.2):
        at = n[np.argmin(asymptotic_radius(n, alpha, 1_000) / np.sqrt(n) * np.sqrt(1_000))]
        assert at > 1_000  # the interval itself goes on shrinking
        over_scales = [asymptotic_radius(1_000, alpha, tuned) for tuned in (300, 700, 900, 1_000, 1_100, 1_400, 3_000)]
        assert int(np.argmin(over_scales)) == 3
    # one side is cheaper than two, and dearer than one look
    assert 1.645 < asymptotic_radius(1_000, 0.05, 1_000, one_sided=True) < asymptotic_radius(1_000, 0.05, 1_000)


def test_the_stitched_boundary_is_the_published_one() -> None:
    """Howard et al. (2021), equation 2: 1.7 sqrt(v (log log(2 v) + 0.72 log(5.2 / alpha))), for scale 0."""
    v = np.array([1.0, 10.0, 1e3, 1e6])
    for alpha in (0.01, 0.05):
        published = 1.7 * np.sqrt(v * (np.log(np.log(2 * v)) + 0.72 * np.log(5.2 / alpha)))
        assert stitched_boundary(v, alpha, 0.0) == pytest.approx(published, rel=0.01)


def test_all_looks_together_keep_the_stated_error() -> None:
    """Of 1,000 streams in which nothing differs, looked at after each 50 of 3,000 units."""
    rng = np.random.default_rng(0)
    looks = np.arange(200, 3_001, 50)
    wrong = {"asymptotic": 0, "fixed": 0}
    for _ in range(1_000):
        # skewed, as counts of matches are
        x = rng.binomial(3, 0.11, looks[-1]) - 0.33
        sums, squares = np.cumsum(x)[looks - 1], np.cumsum(x**2)[looks - 1]
        mean = sums / looks
        variance = (squares / looks - mean**2) / looks
        for name, (low, high) in {
            "asymptotic": asymptotic_sequence(mean, variance, looks.astype(float), 0.05, 1_500),
            "fixed": fixed_interval(mean, variance, 0.05),
        }.items():
            wrong[name] += bool(((low > 0) | (high < 0)).any())
    # 50 and three standard deviations of it; the fixed one is what it is there to show
    assert wrong["asymptotic"] <= 70
    assert wrong["fixed"] > 150


def test_betting_keeps_the_stated_error_with_unequal_shares_and_few_units() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        treated = rng.random(400) < 0.1
        found = betting_sequence(
            rng.binomial(1, 0.2, 400).astype(float), treated, 0.1, range(20, 401, 20), 0.1, grid=3, planned=400
        )
        wrong += bool((np.maximum(found.above, found.below) >= np.log(2 / 0.1)).any())
    assert wrong <= 45  # 30 and three standard deviations


def test_forecasters_are_told_apart_and_alike_ones_are_not() -> None:
    rng = np.random.default_rng(2)
    chance = rng.beta(0.5, 3, 20_000)
    match = rng.random(20_000) < chance
    worse = np.clip(chance + rng.normal(0, 0.15, 20_000), 0, 1)
    mean, low, high = forecast_sequence((worse - match) ** 2 - (chance - match) ** 2, 0.05)
    true = float(((worse - chance) ** 2).mean())
    assert mean[-1] == pytest.approx(true, abs=0.003)
    assert 0 < low[-1] < true < high[-1]
    crossed = 0
    for _ in range(200):
        sign = rng.choice([-1, 1], 2_000)
        _, low, high = forecast_sequence(sign * rng.random(2_000), 0.1)
        crossed += bool(((low > 0) | (high < 0)).any())
    assert crossed <= 20


def test_forecasters_by_hand() -> None:
    mean, low, high = forecast_sequence(np.array([1.0] + [-0.8] * 999), 0.05)
    # errors against the mean of what came before: 0, then 1, then what is near -0.8
    time = 1 + sum((-0.8 - (1 - 0.8 * (i - 1)) / i) ** 2 for i in range(1, 1_000))
    assert mean[-1] == pytest.approx(-0.7982)
    radius = stitched_boundary(time, 0.025, 2.0) / 1_000
    assert (low[-1], high[-1]) == (pytest.approx(-0.7982 - radius), pytest.approx(-0.7982 + radius))


def test_the_running_intersection() -> None:
    low, high = running(np.array([-1.0, -0.5, -0.7]), np.array([1.0, 1.2, 0.4]))
    assert low.tolist() == [-1.0, -0.5, -0.5]
    assert high.tolist() == [1.0, 1.0, 0.4]
