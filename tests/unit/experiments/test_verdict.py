"""The verdict and the plan: known answers, and that a verdict that was reached stays."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.guardrails import Guardrail
from matchmaking.experiments.integrity import Check
from matchmaking.experiments.power import plan
from matchmaking.experiments.verdict import bets, first_decision, fixed_horizon, judge, sequence
from tests.unit.experiments.test_definition import GIVEN
from tests.unit.experiments.test_difference import clients

DEFINED = Definition.model_validate({**GIVEN, "effect": 0.02, "planned_clients": 6_000, "planned_days": 30})
HARM = Guardrail("latency", 40.0, 52.0, 0.3, 0.15, 0.1, 4)
SRM = Check("sample-ratio-mismatch", True, True, 90, "100 and 190 clients", 3)


def frame(seed: int, effect: float, size: int = 6_000) -> pd.DataFrame:
    challenger, y, d, x = clients(np.random.default_rng(seed), size, effect)
    return pd.DataFrame(
        {"challenger": challenger, "look": np.arange(size) * 30 // size, "pairs": d, "matches": y, "score": x}
    )


def test_a_true_gain_is_found_and_stays_found() -> None:
    table = sequence(frame(0, 0.04), DEFINED, 30)
    verdict = judge(table, DEFINED)
    assert verdict.state == "better" and verdict.stops
    assert table["low"].is_monotonic_increasing and table["high"].is_monotonic_decreasing
    # at its own look it was first so, and not on the day before
    assert verdict.look is not None
    assert judge(table.iloc[: verdict.look + 1], DEFINED) == verdict
    assert judge(table.iloc[: verdict.look], DEFINED).state == "go on"
    # the same from a log that goes on
    assert judge(sequence(frame(0, 0.04), DEFINED, 40), DEFINED) == verdict


def test_losses_and_equals() -> None:
    assert judge(sequence(frame(1, -0.05), DEFINED, 30), DEFINED).state == "worse"
    assert judge(sequence(frame(2, 0.0), DEFINED, 30), DEFINED).state == "equivalent"


def test_the_first_look_that_decides() -> None:
    rows = [(-np.inf, np.inf), (-0.03, 0.05), (0.001, 0.05), (0.001, 0.019)]
    table = pd.DataFrame(rows, columns=["low", "high"])
    assert first_decision(table, 0.02) == ("better", 2)
    assert first_decision(table.iloc[:2], 0.02) is None
    # more than nothing, and less than is worth having
    assert first_decision(table.iloc[[0, 1, 3]], 0.02) == ("equivalent", 2)
    assert first_decision(-table.rename(columns={"low": "high", "high": "low"}), 0.02) == ("worse", 2)


def test_the_planned_length_is_over() -> None:
    small = DEFINED.model_copy(update={"effect": 0.0001})
    table = sequence(frame(2, 0.0), small, small.last_day)
    assert judge(table, small).state == "undecided"
    assert judge(table.iloc[:-1], small).state == "go on"


def test_what_is_broken_is_not_read_and_harm_goes_before_gain() -> None:
    table = sequence(frame(0, 0.04), DEFINED, 30)
    hidden = judge(table, DEFINED, [SRM], [HARM])
    # what looks like harm is told all the same
    assert (
        hidden.state == "unreadable"
        and not hidden.stops
        and f"harm, as far as these logs go: {HARM.name}" in hidden.reason
    )
    harmful = judge(table, DEFINED, [], [HARM])
    assert (harmful.state, harmful.look) == ("harmful", 4)
    told = Check("bot", True, False, 1, "1 client")
    calm = Guardrail("errors", 0.0, 0.0, 0.0, -0.01, 0.005, None)
    assert judge(table, DEFINED, [told], [calm]).state == "better"


def test_nothing_is_read_before_the_first_look() -> None:
    table = sequence(frame(0, 0.04), DEFINED, 30)
    early = table[["champion_clients", "challenger_clients"]].min(axis=1) < DEFINED.first_look
    assert early.sum() >= 1
    assert np.isinf(table.loc[early, "low"]).all() and np.isfinite(table.loc[~early, "low"]).all()
    assert judge(sequence(frame(0, 0.04).iloc[:0], DEFINED, 0), DEFINED).reason == "day 0 of 72; too few clients yet"


def test_adjustment_shortens_and_is_left_out_where_a_score_is_missing() -> None:
    given = frame(0, 0.04)
    assert sequence(given, DEFINED, 30)["shortened"].iloc[-1] > 0.5
    given.loc[5, "score"] = np.nan
    assert sequence(given, DEFINED, 30)["shortened"].iloc[-1] == 0


def test_betting_agrees() -> None:
    found = bets(frame(0, 0.06), DEFINED, 30)
    assert found.above[-1] > np.log(2 / DEFINED.alpha) and found.low[-1] > 0
    assert found.below[-1] < 0


def test_the_fixed_horizon_speaks_once() -> None:
    table = sequence(frame(0, 0.04), DEFINED, 30)
    found = fixed_horizon(table, DEFINED)
    assert (found["look"], found["state"]) == (29, "better")
    assert fixed_horizon(table.iloc[:20], DEFINED)["state"] == "go on"
    daily, sequential = found["daily_look"], judge(table, DEFINED).look
    assert isinstance(daily, int) and sequential is not None and daily <= sequential


def test_the_plan_is_the_textbooks_for_single_pairs() -> None:
    # one pair each, a rate of 0.1: (1.96 + 0.8416)^2 * 2 * 0.09 / 0.02^2 of each arm
    single = pd.DataFrame({"pairs": np.ones(1_000), "matches": (np.arange(1_000) < 100).astype(float)})
    found = plan(single, "match_rate", 0.02)
    assert found.fixed == pytest.approx(2 * 3_532, rel=1e-3)
    # the radius where it is tuned, at 5 %, is 3.035
    assert found.sequential / found.fixed == pytest.approx((3.035 + 0.8416) ** 2 / (1.96 + 0.8416) ** 2, rel=1e-3)
    assert (found.rate, found.shortened) == (pytest.approx(0.1), 0.0)


def test_the_planned_power_is_had() -> None:
    past = frame(100, 0.0, 20_000)
    planned = plan(past, "match_rate", 0.02)
    defined = DEFINED.model_copy(update={"planned_clients": planned.sequential})
    found = 0
    for seed in range(150):
        table = sequence(frame(seed + 200, 0.02, planned.sequential), defined, 30)
        found += bool((table["low"].iloc[-1] > 0) and not table["high"].iloc[-1] < 0)
    assert 0.74 <= found / 150 <= 0.97


def test_there_is_no_plan_without_clients() -> None:
    with pytest.raises(InputError, match="no clients with pairs"):
        plan(frame(0, 0.0).assign(pairs=0.0), "match_rate", 0.02)
    with pytest.raises(InputError, match="don't differ"):
        plan(frame(0, 0.0).assign(matches=0.0, score=0.0), "match_rate", 0.02)
