"""Guardrails: by hand, found where there is harm, and not where it is tolerated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from matchmaking.experiments.definition import Definition
from matchmaking.experiments.guardrails import FIRST, Guardrail, harm_bound, judge_recall, judge_requests
from matchmaking.experiments.sequences import asymptotic_radius
from tests.unit.experiments.test_definition import GIVEN

SLICES = {"case_type": ["Tax", "Fraud"], "location": ["Delhi"]}
DEFINED = Definition.model_validate({**GIVEN, "guardrails": {"slices": SLICES}})


def requests(seed: int, slower: float = 0.0, failing: float = 0.0, size: int = 4_000) -> pd.DataFrame:
    """20 days of clients, five requests each, of very different latency."""
    rng = np.random.default_rng(seed)
    challenger = rng.random(size) < 0.5
    errors = rng.binomial(5, 0.002 + failing * challenger)
    typical = np.log(40) + np.log1p(slower) * challenger + rng.normal(0, 0.5, size)
    return pd.DataFrame(
        {
            "challenger": challenger,
            "look": np.repeat(np.arange(20), size // 20),
            "requests": 5,
            "errors": errors,
            "answered": 5 - errors,
            "log_latency": (5 - errors) * typical,
        }
    )


def judged(frame: pd.DataFrame) -> dict[str, Guardrail]:
    return {one.name: one for one in judge_requests(frame, DEFINED)}


def test_the_bound_by_hand() -> None:
    # two looks of 60 clients of each arm, whose ratios are 1/4 and 3/4 with deviations of 1/4
    challenger = np.tile([True, False], 120)
    numerator = np.where(challenger, 0.75, 0.25) + np.tile([0.25, 0.25, -0.25, -0.25], 60)
    look = np.repeat([0, 1], 120)
    old, new, gap, low = harm_bound(numerator, np.ones(240), challenger, look, alpha=0.05, tuned_at=200, first_look=61)
    assert (old[1], new[1], gap[1]) == (0.25, 0.75, 0.5)
    assert low[0] == -np.inf  # too few clients yet
    radius = asymptotic_radius(240, 0.05, 200, one_sided=True)
    assert low[1] == pytest.approx(0.5 - radius * 0.25 * np.sqrt(2 / 120))


def test_a_slower_challenger_is_stopped_and_a_slightly_slower_one_is_not() -> None:
    slow = judged(requests(0, slower=0.3))["latency"]
    assert slow.harmed and slow.look is not None and slow.look <= 5
    assert slow.harm == pytest.approx(0.3, abs=0.05)
    assert slow.tolerated < slow.at_least < slow.harm
    assert slow.champion == pytest.approx(40, rel=0.05)
    assert not judged(requests(1, slower=0.05))["latency"].harmed
    assert not judged(requests(0, slower=0.3))["errors"].harmed


def test_a_failing_challenger_is_stopped() -> None:
    failing = judged(requests(2, failing=0.03))["errors"]
    assert failing.harmed
    assert failing.challenger == pytest.approx(0.032, abs=0.005)
    # failures are not latencies
    assert not judged(requests(2, failing=0.03))["latency"].harmed


def test_at_what_is_tolerated_false_stops_are_rarer_than_stated() -> None:
    stopped = {"latency": 0, "errors": 0}
    for seed in range(200):
        for name, one in judged(requests(seed + 10, slower=0.10, failing=0.005, size=2_000)).items():
            stopped[name] += one.harmed
    # 0.625 % each: 1.25 of 200, and three standard deviations
    assert max(stopped.values()) <= 4


def matched(lost: float, size: int = 3_000) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    challenger = rng.random(size) < 0.5
    case = rng.choice(["Tax", "Fraud", "Property"], size)
    return pd.DataFrame(
        {
            "unit": np.arange(size) // 2,
            "challenger": np.repeat(challenger[::2], 2),
            "look": np.arange(size) // 100,
            "recommended": rng.random(size) < 0.85 - lost * (np.repeat(challenger[::2], 2) & (case == "Tax")),
            "case_type": case,
            "location": np.where(rng.random(size) < 0.01, "Delhi", "Pune"),
        }
    )


def test_recall_is_lost_in_the_slice_where_it_is_lost() -> None:
    found = {one.name: one for one in judge_recall(matched(0.3), DEFINED)}
    # Delhi has too few matches to be judged
    assert list(found) == ["recall case_type=Tax", "recall case_type=Fraud"]
    tax = found["recall case_type=Tax"]
    assert tax.harmed and not found["recall case_type=Fraud"].harmed
    assert tax.champion == pytest.approx(0.85, abs=0.05)
    assert tax.harm == pytest.approx(0.3, abs=0.06)
    assert not any(one.harmed for one in judge_recall(matched(0.0), DEFINED))


def test_nothing_is_read_of_a_handful_of_clients() -> None:
    few = requests(0, slower=5.0).iloc[: 2 * FIRST - 10].assign(look=0)
    assert not judged(few)["latency"].harmed
    assert judge_requests(few.iloc[:0], DEFINED) == []
