"""Outcomes that come sooner in one arm, where nothing differs: read before they are all in, they would decide."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from matchmaking.experiments.definition import Definition
from matchmaking.experiments.units import client_outcomes
from matchmaking.experiments.verdict import first_decision, sequence
from tests.unit.experiments.test_definition import GIVEN

START = pd.Timestamp("2026-01-05", tz="UTC")
DAYS, DAILY, DELAY = 30, 60, 20
# of a world, the looks until which its last client's outcomes are in
LOOKS = DAYS + 1 + DELAY
WORLDS = 60


def defined(delay: float) -> Definition:
    values = {"window_days": 1, "label_delay_days": delay, "planned_clients": DAYS * DAILY, "effect": 0.001}
    return Definition.model_validate({**GIVEN, **values, "start": START.isoformat()})


def world(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One request a client, of which 20 % match in both arms: after 2 days in the challenger's, 12 in the other."""
    rng = np.random.default_rng(seed)
    size = DAYS * DAILY
    asked = np.sort(rng.uniform(0, DAYS, size))
    challenger = rng.random(size) < 0.5
    exposures = pd.DataFrame(
        {
            "time": START + pd.to_timedelta(asked, unit="D"),
            "unit": [f"u{number}" for number in range(size)],
            "variant": np.where(challenger, "challenger", "champion"),
            "request": [f"r{number}" for number in range(size)],
            "status": 200,
            "latency_ms": 50.0,
        }
    )
    took = np.minimum(rng.exponential(np.where(challenger, 2.0, 12.0)), DELAY)
    matched = rng.random(size) < 0.2
    outcomes = exposures.loc[matched, ["unit", "request"]].assign(
        time=START + pd.to_timedelta((asked + took)[matched], unit="D"), match=1
    )
    return exposures, outcomes


@cache
def decided(delay: float) -> int:
    """In how many worlds somebody who looks every day is told of a difference."""
    definition, found = defined(delay), 0
    for seed in range(WORLDS):
        clients = client_outcomes(*world(seed), definition, START + pd.Timedelta(days=LOOKS))
        found += first_decision(sequence(clients, definition, LOOKS), definition.effect) is not None
    return found


def test_nothing_is_decided_by_outcomes_that_come_sooner() -> None:
    # 5 % are stated: 3 of 60, and three standard deviations
    assert decided(DELAY) <= 8


def test_without_the_delay_it_would_be_in_nearly_all_worlds() -> None:
    assert decided(2) > WORLDS * 0.9


def test_a_day_is_read_the_same_however_late_the_look() -> None:
    definition = defined(DELAY)
    exposures, outcomes = world(0)
    late = client_outcomes(exposures, outcomes, definition, START + pd.Timedelta(days=LOOKS))
    for day in (22, 30, 41):
        now = START + pd.Timedelta(days=day)
        # what is later isn't in the logs yet
        early = client_outcomes(exposures[exposures["time"] <= now], outcomes[outcomes["time"] <= now], definition, now)
        pd.testing.assert_frame_equal(early, late[late["look"] < day].reset_index(drop=True))
        assert len(early) > 50
