"""The alert rule: losses that are the metric, evidence by hand, its stated error, and that it clears."""

from __future__ import annotations

import numpy as np
import pytest

from matchmaking.base.errors import InputError
from matchmaking.evidence.bootstrap import metric_scorer
from matchmaking.evidence.metrics import LOWER_IS_BETTER, evaluate
from matchmaking.live.sequential import METRICS, Loss, Rule, fit_loss, watch

Pairs = tuple[np.ndarray, np.ndarray]


def pairs(rows: int, rng: np.random.Generator, lost: float = 0.0) -> Pairs:
    """Labels and a calibrated model's probabilities; `lost` of the pairs match by chance alone."""
    probability = rng.beta(0.25, 1.8, rows).clip(1e-3, 1 - 1e-3)
    chance = (1 - lost) * probability + lost * 0.25 / 2.05
    return (rng.random(rows) < chance).astype(int), probability


@pytest.mark.parametrize("metric", METRICS)
def test_the_mean_loss_is_the_metric(metric: str) -> None:
    rng = np.random.default_rng(0)
    match, probability = pairs(60_000, rng)
    loss = fit_loss(metric, match, probability)
    assert loss.reference == pytest.approx(evaluate(match, probability)[metric], abs=1e-3)
    losses = loss.of(match, probability)
    assert losses.min() >= 0
    assert losses.max() <= 1
    assert losses.mean() == pytest.approx(loss.mean)
    later = pairs(60_000, rng, lost=0.05)
    true = evaluate(*later)[metric] - loss.reference
    worse = true if metric in LOWER_IS_BETTER else -true
    assert worse > 0.003
    # to first order, for the linearised ones
    assert (loss.of(*later).mean() - loss.mean) / loss.unit == pytest.approx(worse, rel=0.12)


@pytest.mark.parametrize("metric", ["average_precision", "roc_auc"])
def test_influence_is_what_one_more_pair_adds(metric: str) -> None:
    rng = np.random.default_rng(1)
    match, probability = pairs(3_000, rng)
    probability = probability.round(2)  # with ties
    loss = fit_loss(metric, match, probability)
    score = metric_scorer(match, probability)
    plain = np.ones((1, len(match)))
    for row in rng.integers(len(match), size=40):
        more = plain.copy()
        more[0, row] += 0.01
        added = (score(more)[metric][0] - score(plain)[metric][0]) * len(match) / 0.01
        of = loss.of_match if match[row] else loss.of_none
        assert np.interp(probability[row], loss.scores, of) == pytest.approx(added, rel=0.02, abs=0.01)


def test_evidence_by_hand() -> None:
    match = np.array([1, 0] * 50)
    loss = fit_loss("accuracy", match, np.where(np.arange(100) < 80, match, 1 - match).astype(float))  # 0.8
    assert (loss.mean, loss.deviation) == (pytest.approx(0.2), pytest.approx(0.4))
    rule = Rule(tolerance=0.05, loose=0)
    looks = [(np.array([1, 0]), np.array([0.0, 0.0])), (np.array([0]), np.array([1.0]))]
    found = watch(loss, looks, rule)
    bets = np.array([d / 0.4 / (1 + d * d) for d in (0.02, 0.05, 0.1)])
    first = (1 + bets * 0.75) * (1 - bets * 0.25)  # an error and a hit, against a limit of 0.25
    second = (1 + bets * 0.75) * (1 + first)
    assert found["evidence"].tolist() == pytest.approx([np.log(first.mean()), np.log(second.mean())])
    assert found["rows"].tolist() == [2, 1]
    # nobody looked at: a bet is started, none is won
    empty = watch(loss, [(np.array([]), np.array([]))] * 3, rule)
    assert empty["evidence"].tolist() == pytest.approx([0, np.log(2), np.log(3)])


@pytest.mark.parametrize("metric", ["average_precision", "accuracy", "recall"])
def test_at_the_edge_of_the_null_alarms_are_as_rare_as_stated(metric: str) -> None:
    rng = np.random.default_rng(2)
    loss = fit_loss(metric, *pairs(400_000, rng))
    rule = Rule(tolerance=0, loose=0, quiet_looks=100)
    runs, looks = 60, 100
    alarms = 0
    for _ in range(runs):
        days = [pairs(100, rng) for _ in range(looks)]
        alarms += int(watch(loss, days, rule)["raised"].any())
    # an average of 100 looks or more to the first: with exponential waits 63 % of runs of 100 have had one; 3 errors
    assert alarms / runs <= 0.63 + 3 * np.sqrt(0.63 * 0.37 / runs)


def test_a_loss_is_told_soon_and_cleared_once_all_is_well() -> None:
    rng = np.random.default_rng(3)
    loss = fit_loss("average_precision", *pairs(50_000, rng))
    days = [pairs(400, rng, lost=0.15 if 60 <= day < 120 else 0.0) for day in range(250)]
    rule = Rule()
    found = watch(loss, days, rule)
    raised, cleared = np.flatnonzero(found["raised"]), np.flatnonzero(found["cleared"])
    assert len(raised) == len(cleared) == 1
    assert 60 <= raised[0] < 75
    assert 120 <= cleared[0] < 150
    assert found["firing"].to_numpy().nonzero()[0].tolist() == list(range(raised[0], cleared[0]))
    # raised at one level, cleared at another
    assert found["evidence"][raised[0]] >= rule.raise_at > found["evidence"][cleared[0]]
    between = found["firing"] & (found["evidence"] < rule.raise_at)
    assert (found.loc[between, "evidence"] >= rule.clear_at).all()
    # a function of the history: half of it says the same about that half
    assert watch(loss, days[:100], rule).equals(found[:100])


def test_tolerance_streams_and_a_small_reference_make_it_slower() -> None:
    rng = np.random.default_rng(4)
    days = [pairs(400, rng, lost=0.1) for _ in range(60)]
    large, small = (fit_loss("brier", *pairs(rows, rng)) for rows in (50_000, 4_000))

    def evidence(loss: Loss, rule: Rule) -> float:
        return float(watch(loss, days[:8], rule)["evidence"].iloc[-1])

    assert evidence(large, Rule(loose=0)) > evidence(large, Rule(loose=0, tolerance=0.004)) + 0.2
    assert evidence(small, Rule(loose=0)) > evidence(small, Rule(loose=2)) + 0.2
    assert not watch(large, days, Rule(tolerance=0.1))["firing"].any()
    assert Rule(streams=10).raise_at == pytest.approx(Rule().raise_at + np.log(10))
    first, last = (watch(large, days, Rule(streams=n))["raised"].idxmax() for n in (1, 1_000_000))
    assert 0 < first < last


def test_what_cannot_be_watched_is_refused() -> None:
    match, probability = np.array([0, 1]), np.array([0.1, 0.2])
    with pytest.raises(InputError, match="'f1' can't be watched"):
        fit_loss("f1", match, probability)
    with pytest.raises(InputError, match="one class alone"):
        fit_loss("recall", np.zeros(5), np.full(5, 0.9))
    with pytest.raises(InputError, match="no pair"):
        fit_loss("precision", match, probability)
    for wrong in ({"tolerance": -1}, {"quiet_looks": 1}, {"streams": 0}, {"clear": 1}):
        with pytest.raises(InputError, match="alert rule: "):
            Rule(**wrong)
