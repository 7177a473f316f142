"""Guardrails over all days: by hand, what first days don't show, and what returning clients don't prove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from matchmaking.experiments.daily import judge_days, windows
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.guardrails import FIRST, Guardrail, harm_bound, judge_requests
from matchmaking.experiments.sequences import betting_sequence
from matchmaking.experiments.units import client_days
from tests.unit.experiments.test_definition import GIVEN
from tests.unit.experiments.test_units import DEFINED as FEW_DAYS
from tests.unit.experiments.test_units import at, exposures

DEFINED = Definition.model_validate(GIVEN)
SIX_WEEKS = 42


def days_of(
    seed: int,
    harm: Callable[[Any, Any], Any],
    slower: float = 0.0,
    failing: float = 0.0,
    new_until: int = SIX_WEEKS,
    returns: float = 0.1,
) -> pd.DataFrame:
    """Six weeks of clients, 60 new ones a day, who come back every tenth day or so, each as slow as it is.

    `harm` says of a day and of a client's age whether the challenger does it there.
    """
    rng = np.random.default_rng(seed)
    born = np.repeat(np.arange(new_until), 60)
    challenger, typical = rng.random(len(born)) < 0.5, rng.normal(0, 0.3, len(born))
    age = np.arange(SIX_WEEKS) - born[:, None]
    day, who = np.nonzero(((age == 0) | ((age > 0) & (rng.random(age.shape) < returns))).T)
    worse = challenger[who] & np.broadcast_to(harm(day, age[who, day]), len(day))
    errors = rng.binomial(5, 0.002 + failing * worse)
    logs = np.log(40) + np.log1p(slower) * worse + typical[who] + rng.normal(0, 0.2, len(day))
    return pd.DataFrame(
        {
            "unit": who,
            "challenger": challenger[who],
            "day": day,
            "look": day,
            "requests": 5,
            "errors": errors,
            "answered": 5 - errors,
            "log_latency": (5 - errors) * logs,
            "age": age[who, day],
        }
    )


def judged(days: pd.DataFrame) -> dict[str, Guardrail]:
    first = days[days["age"] == 0]
    return {one.name: one for one in [*judge_requests(first, DEFINED), *judge_days(days, DEFINED)]}


def test_the_tests_are_fixed_before() -> None:
    found = windows(33)
    assert found[:2] == [(0, 1), (1, 1)] and (5, 7) not in found and (6, 7) in found
    assert [look for look, days in found if days == 28] == [27, 31]
    assert len(found) == 33 + 27 + 2
    assert windows(5) == [(look, 1) for look in range(5)]


def test_days_of_clients_by_hand() -> None:
    log = exposures(
        (0.5, "u", "challenger"), (0.6, "u", "challenger"), (1.4, "v", "champion"), (1.5, "u", "champion"),
        (2.0, "v", "champion"),
    )  # fmt: skip
    log["status"] = [200, 504, 200, 200, 200]
    log["latency_ms"] = [100.0, 3_000.0, 0.0, 10.0, 1.0]
    found = client_days(log, FEW_DAYS, at(2))
    # the arm is that of the first exposure; what comes as the last full day ends is another day's
    assert found[["day", "unit", "challenger", "requests", "errors", "answered"]].values.tolist() == [
        [0, "u", True, 2, 1, 1],
        [1, "v", False, 1, 0, 1],
        [1, "u", True, 1, 0, 1],
    ]
    assert found["log_latency"].tolist() == pytest.approx(np.log([100, 0.1, 10]))


def test_a_days_bound_is_that_of_welchs_test() -> None:
    days = days_of(0, lambda day, age: True, slower=0.3).query("day == 0")
    days = pd.concat([days, days.assign(unit=days["unit"] + 60)])  # enough of both arms
    days = pd.concat([days, days.assign(unit=days["unit"] + 120)])
    found = judge_days(days.sort_values("unit"), DEFINED)[0]
    value = (days["log_latency"] / days["answered"]).to_numpy()
    arm = days["challenger"].to_numpy()
    level = 1 - 0.05 / 8 / len(windows(DEFINED.last_day))
    low = ttest_ind(value[arm], value[~arm], equal_var=False, alternative="greater").confidence_interval(level).low
    assert found.at_least == pytest.approx(np.expm1(low))
    assert found.days == (0, 0)
    assert found.harm == pytest.approx(np.expm1(value[arm].mean() - value[~arm].mean()))


def test_a_days_evidence_is_that_of_betting_over_the_number_of_tests() -> None:
    alpha, tests = 0.05 / 8, len(windows(DEFINED.last_day))
    seen = []
    for failing in np.linspace(0.05, 0.35, 13):
        days = days_of(3, lambda day, age: True, failing=float(failing), new_until=4).query("age == 0").assign(day=0)
        share = (days["errors"] / days["requests"]).to_numpy()
        bets = betting_sequence(
            share, days["challenger"].to_numpy(), 0.5, [len(share)], alpha / tests,
            planned=len(share), null=DEFINED.guardrails.errors, grid=3,
        )  # fmt: skip
        evidence = bets.above[0]
        assert judge_days(days, DEFINED)[1].harmed == (evidence >= np.log(tests / alpha))
        seen.append(evidence)
    # what would do for one test doesn't do for one of many; and enough does
    assert any(-np.log(alpha) <= one < np.log(tests / alpha) for one in seen)
    assert max(seen) > np.log(tests / alpha)


@pytest.mark.parametrize(
    ("harm", "new_until"),
    [
        (lambda day, age: day >= 19, SIX_WEEKS),  # on day 20, for everybody
        (lambda day, age: day >= 19, 10),  # when nobody comes for the first time any more
        (lambda day, age: age >= 1, SIX_WEEKS),  # for whoever comes back
    ],
)
def test_what_comes_after_first_days_is_found(harm: Callable[[Any, Any], Any], new_until: int) -> None:
    slow = judged(days_of(1, harm, slower=0.6, new_until=new_until))
    late = judged(days_of(1, lambda day, age: day >= 19, slower=0.6))
    assert slow["latency by day"].harmed and not slow["errors by day"].harmed
    assert slow["latency by day"].at_least > slow["latency by day"].tolerated
    assert late["latency by day"].look in (19, 20)
    assert late["latency"].look is None or late["latency"].look > 25
    if new_until < SIX_WEEKS or not harm(20, 0):
        assert not slow["latency"].harmed
    failing = judged(days_of(2, harm, failing=0.2, new_until=new_until))
    assert failing["errors by day"].harmed and not failing["latency by day"].harmed
    if new_until < SIX_WEEKS or not harm(20, 0):
        assert not failing["errors"].harmed
    days = failing["errors by day"].days
    assert days is not None and days[0] >= (19 - 28 if harm(20, 0) else 0)


def test_at_what_is_tolerated_it_isnt_stopped() -> None:
    stopped = {"latency by day": 0, "errors by day": 0}
    for seed in range(60):
        days = days_of(seed + 10, lambda day, age: True, slower=0.10, failing=0.005, new_until=(42, 5)[seed % 2])
        for one in judge_days(days, DEFINED):
            stopped[one.name] += one.harmed
    # 0.625 % each of 60, and three standard deviations
    assert max(stopped.values()) <= 2


def test_client_days_are_no_units() -> None:
    """Why it isn't the sequence of first days, on days: chance's difference between returning clients would be harm."""
    wrong = right = 0
    for seed in range(40):
        days = days_of(seed, lambda day, age: False, new_until=3, returns=0.8)
        challenger, look = days["challenger"].to_numpy(), days["day"].to_numpy()
        *_, low = harm_bound(
            days["log_latency"].to_numpy(), days["answered"].to_numpy(dtype=float), challenger, look,
            alpha=0.05 / 8, tuned_at=2_000, first_look=FIRST,
        )  # fmt: skip
        wrong += low[-1] > 0
        # with nothing tolerated, which is the boundary here
        exact = Definition.model_validate({**GIVEN, "guardrails": {"slower": 0.0}})
        right += judge_days(days, exact)[0].harmed
    assert wrong >= 4
    assert right <= 1


def test_nothing_is_read_of_a_handful_of_clients() -> None:
    few = days_of(0, lambda day, age: True, slower=5.0, new_until=1)
    few = few[few["day"] == 0]
    latency, errors = judge_days(few, DEFINED)
    assert not latency.harmed and not errors.harmed and latency.at_least == -1
    assert judge_days(few.iloc[:0], DEFINED) == []
