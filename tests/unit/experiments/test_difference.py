"""The difference of ratios: by hand, its variance against the bootstrap of clients, and what adjustment takes off."""

from __future__ import annotations

import numpy as np
import pytest

from matchmaking.experiments.difference import difference, moments


def test_by_hand() -> None:
    # champion: clients of 2 and 4 pairs, 1 match each; challenger: 1 and 3 pairs, 1 and 1 matches
    challenger = np.array([False, False, True, True])
    y, d = np.array([1.0, 1, 1, 1]), np.array([2.0, 4, 1, 3])
    found = difference(moments(challenger, np.array([0, 1, 0, 1]), 2, (y, d)))
    assert found.clients.tolist() == [[1, 1], [2, 2]]
    assert found.champion.tolist() == [0.5, pytest.approx(1 / 3)]
    assert found.challenger.tolist() == [1.0, 0.5]
    assert found.estimate[1] == pytest.approx(1 / 6)
    # influences (y - R d) / mean d: +-1/9 and +-1/4; the mean of their squares by 2 clients
    assert found.variance[1] == pytest.approx((1 / 9) ** 2 / 2 + (1 / 4) ** 2 / 2)


def test_clients_beyond_the_last_look_do_not_count() -> None:
    sums = moments(np.array([False, True, True]), np.array([0, 0, 5]), 2, (np.ones(3), np.ones(3)))
    assert sums[1, :, 0, 0].tolist() == [1, 1]


def test_an_arm_without_clients_has_no_difference() -> None:
    found = difference(moments(np.array([True]), np.array([0]), 1, (np.ones(1), np.ones(1))))
    assert np.isnan(found.estimate[0]) and np.isnan(found.variance[0])


def clients(rng: np.random.Generator, size: int, effect: float = 0.0) -> tuple[np.ndarray, ...]:
    """Of very different size, whose pairs are alike: cases that are hard have no match at all."""
    challenger = rng.random(size) < 0.5
    pairs = 1 + rng.poisson(rng.gamma(1.0, 6.0, size))
    score = rng.beta(0.6, 4.0, size)
    match = rng.binomial(pairs, np.clip(score + effect * challenger, 0, 1))
    return challenger, match.astype(float), pairs.astype(float), score * pairs


@pytest.mark.parametrize("adjust", [False, True])
def test_its_variance_is_that_of_repeated_experiments(adjust: bool) -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(1_500):
        challenger, y, d, x = clients(rng, 600, effect=0.02)
        found.append(difference(moments(challenger, np.zeros(600, dtype=int), 1, (y, d, x)), adjust=adjust))
    estimates = np.array([one.estimate[0] for one in found])
    assert estimates.mean() == pytest.approx(0.02, abs=0.002)
    assert np.mean([one.variance[0] for one in found]) == pytest.approx(estimates.var(), rel=0.1)
    # pairs as if they were independent would say far less
    pairs = np.mean([2 * one.champion[0] * (1 - one.champion[0]) / (300 * 7) for one in found])
    plain = np.mean([one.plain[0] for one in found])
    assert plain > 2 * pairs
    assert (np.mean([one.variance[0] for one in found]) < 0.5 * plain) == adjust


@pytest.mark.parametrize("score", [0.3, 0.0])
def test_a_covariate_that_says_nothing_takes_nothing(score: float) -> None:
    rng = np.random.default_rng(4)
    challenger, y, d, _ = clients(rng, 2_000)
    one = difference(moments(challenger, np.zeros(2_000, dtype=int), 1, (y, d, score * d)), adjust=True)
    assert one.variance[0] == pytest.approx(one.plain[0])
    assert one.estimate[0] == pytest.approx(one.challenger[0] - one.champion[0])
