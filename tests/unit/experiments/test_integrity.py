"""What forbids to read an experiment: each is found where it is, and nothing is where nothing is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import betaln

from matchmaking.experiments.definition import Definition
from matchmaking.experiments.integrity import SRM_ALPHA, Check, check_integrity, lawyer_overlap, ratio_evidence
from matchmaking.experiments.units import client_outcomes
from tests.unit.experiments.test_definition import GIVEN
from tests.unit.experiments.test_units import START, at

DEFINED = Definition.model_validate(
    {**GIVEN, "window_days": 2, "label_delay_days": 3, "bot_pairs": 50, "first_look": 50}
)
NOW = at(30)
SIZE = 4_000


def logs(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two requests of each of 4,000 clients, and an outcome of each; the last digit of an id says the arm."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(2, size=SIZE)
    unit = [f"u{number}-{which}" for number, which in enumerate(arm)]
    first = np.sort(rng.random(SIZE) * 20)
    exposures = pd.DataFrame(
        {
            "time": [at(day) for day in first] + [at(day + 0.5) for day in first],
            "unit": unit * 2,
            "variant": np.where(np.tile(arm, 2) == 1, "challenger", "champion"),
            "model": np.where(np.tile(arm, 2) == 1, "b" * 64, "a" * 64),
            "request": [f"r{number}" for number in range(2 * SIZE)],
            "status": 200,
            "latency_ms": 50.0,
        }
    )
    match = (rng.random(SIZE) < 0.2).astype(int)
    return exposures, pd.DataFrame({"unit": unit, "time": [at(day + 1) for day in first], "match": match})


def assigned(unit: str) -> str | None:
    return {"1": "challenger", "0": "champion"}.get(unit[-1])


def checked(exposures: pd.DataFrame, outcomes: pd.DataFrame) -> dict[str, Check]:
    clients = client_outcomes(exposures, outcomes, DEFINED, NOW)
    return {one.code: one for one in check_integrity(exposures, outcomes, clients, DEFINED, NOW, assigned)}


def test_nothing_is_found_where_nothing_is() -> None:
    found = checked(*logs())
    assert not [one for one in found.values() if one.found]
    assert "outcomes have come for 50.0% and 50.0% of the pairs" in found["labels-arrive-apart"].said


def test_a_shadow_run_before_the_test_is_no_part_of_it() -> None:
    exposures, outcomes = logs()
    shadow = pd.concat([exposures.iloc[:5].assign(variant=arm) for arm in ("champion", "challenger")])
    shadow = shadow.assign(time=START - pd.Timedelta(days=1), mode="shadow")
    found = checked(pd.concat([exposures.assign(mode="ab"), shadow]), outcomes)
    assert not [one for one in found.values() if one.found]


def test_ratio_evidence_by_hand() -> None:
    # one prior of 2: uniform; 3 to 1 at half and half is B(4, 2) / B(1, 1) / 2^-4
    assert ratio_evidence([1, 3], [0.5, 0.5], [2.0]) == pytest.approx(betaln(2, 4) + 4 * np.log(2))
    two = ratio_evidence([1, 3], [0.5, 0.5], [2.0, 20.0])
    each = [ratio_evidence([1, 3], [0.5, 0.5], [one]) for one in (2.0, 20.0)]
    assert np.exp(two) == pytest.approx(np.exp(each).mean())
    assert ratio_evidence([0, 0], [0.5, 0.5]) == pytest.approx(0)


def test_ratio_evidence_keeps_its_error_and_finds_a_mismatch() -> None:
    rng = np.random.default_rng(1)
    total = np.arange(20, 4_001, 20)
    counts = np.cumsum(rng.binomial(20, 0.3, (1_000, 200)), axis=1)
    evidence = ratio_evidence(np.stack([total - counts, counts], axis=-1), [0.7, 0.3])
    assert (evidence.max(axis=1) >= -np.log(0.05)).mean() <= 0.07
    more = np.cumsum(rng.binomial(20, 0.35, (200, 200)), axis=1)
    evidence = ratio_evidence(np.stack([total - more, more], axis=-1), [0.7, 0.3])
    assert (evidence.max(axis=1) >= -np.log(SRM_ALPHA)).mean() > 0.95


def test_a_ratio_mismatch_stops_and_is_dated() -> None:
    exposures, outcomes = logs()
    gone = exposures["variant"].eq("challenger") & (exposures["time"] > at(5)) & (exposures.index % 3 == 0)
    whole = exposures[~exposures["unit"].isin(exposures.loc[gone, "unit"])]
    one = checked(whole, outcomes[outcomes["unit"].isin(whole["unit"])])["sample-ratio-mismatch"]
    assert one.found and one.stops
    assert one.look is not None and 5 <= one.look <= 15


def test_exposures_before_the_start() -> None:
    exposures, outcomes = logs()
    exposures.loc[:1, "time"] = START - pd.Timedelta(hours=1)
    one = checked(exposures, outcomes)["exposure-before-start"]
    assert (one.found, one.stops, one.count) == (True, True, 2)


@pytest.mark.parametrize(("count", "stops"), [(2, False), (40, True)])
def test_clients_in_both_arms(count: int, stops: bool) -> None:
    exposures, outcomes = logs()
    change = exposures.index[SIZE : SIZE + count]
    exposures.loc[change, "variant"] = exposures.loc[change, "variant"].map(
        {"champion": "challenger", "challenger": "champion"}
    )
    one = checked(exposures, outcomes)["client-in-both-arms"]
    assert (one.found, one.stops, one.count) == (True, stops, count)


def test_clients_that_the_salt_assigns_otherwise() -> None:
    exposures, outcomes = logs()
    exposures.loc[exposures["unit"] == exposures["unit"][7], "unit"] = "u7-x"
    one = checked(exposures, outcomes)["not-as-assigned"]
    assert (one.found, one.stops, one.count) == (True, True, 1)
    assert "u7-x" in one.said


def test_outcomes_without_exposure() -> None:
    exposures, outcomes = logs()
    more = pd.DataFrame({"unit": ["lost-1", "before-1", "other-x"], "time": [at(10), at(2), at(10)], "match": 1})
    one = checked(exposures, pd.concat([outcomes, more]))["outcome-without-exposure"]
    # that of day 2 may be of before the start, and `other-x` is in neither arm
    assert (one.found, one.stops, one.count) == (True, True, 1)
    assert "lost-1" in one.said


def test_outcomes_of_clients_who_were_in_no_arm_yet() -> None:
    """1 % at first, 10 % from day 8 on: what was asked before a client's share was reached has no exposure."""
    exposures, outcomes = logs()
    share = {unit: 10 * number / SIZE for number, unit in enumerate(exposures["unit"][:SIZE])}
    share |= {"inner-1": 0.5, "middle-1": 5.0, "outer-1": 30.0}
    early = {unit for unit, at_share in share.items() if at_share > 1}
    seen = exposures[(exposures["time"] >= at(8)) | ~exposures["unit"].isin(early)]
    clients = client_outcomes(seen, outcomes, DEFINED, NOW)

    def lost(unit: str, day: float) -> bool:
        more = pd.concat([outcomes, pd.DataFrame({"unit": [unit], "time": [at(day)], "match": [1]})])
        more = more[more["unit"].isin(seen["unit"]) | (more["unit"] == unit)]
        found = check_integrity(seen, more, clients, DEFINED, NOW, assigned, share.__getitem__)
        return next(one for one in found if one.code == "outcome-without-exposure").found

    # the delay is 3 days
    assert [lost("inner-1", day) for day in (2, 12, 19)] == [False, True, True]
    assert [lost("middle-1", day) for day in (10, 19)] == [False, True]
    assert not lost("outer-1", 19)
    # by then the gateway may have been stopped
    assert not lost("inner-1", 25)


def test_other_models_and_services() -> None:
    exposures, outcomes = logs()
    exposures["service"] = "1.4"
    exposures.loc[3, "model"] = "c" * 64
    found = checked(exposures, outcomes)
    assert found["other-model"].found and not found["service-changed"].found
    exposures.loc[SIZE:, "service"] = "1.5"
    changed = checked(exposures, outcomes)["service-changed"]
    assert changed.found and changed.stops and "1.4, 1.5" in changed.said


@pytest.mark.parametrize(("clients", "bots", "stops"), [(SIZE, 1, False), (SIZE, 20, True), (100, 1, False)])
def test_programs_are_told_and_left_out_and_many_stop(clients: int, bots: int, stops: bool) -> None:
    exposures, outcomes = logs()
    exposures = exposures[exposures["unit"].isin(exposures["unit"][:clients])]
    many = pd.concat([exposures.iloc[9 : 9 + bots]] * 60)
    one = checked(pd.concat([exposures, many]), outcomes)["bot"]
    assert (one.found, one.stops, one.count) == (True, stops, bots)


def test_labels_that_arrive_apart_are_told() -> None:
    exposures, outcomes = logs()
    late = outcomes["unit"].str.endswith("1") & (outcomes.index % 4 == 0)
    one = checked(exposures, outcomes[~late])["labels-arrive-apart"]
    assert one.found and not one.stops
    assert "50.0% and 36.7%" in one.said


def test_ids_are_harmless_where_they_are_shown() -> None:
    exposures, outcomes = logs()
    exposures.loc[exposures["unit"] == exposures["unit"][7], "unit"] = "\x1b[31mred"
    assert "\x1b" not in checked(exposures, outcomes)["not-as-assigned"].said


def test_lawyers_of_both_arms() -> None:
    pairs = pd.DataFrame(
        {
            "lawyer": ["a", "a", "b", "c", "c"],
            "variant": ["champion", "challenger", "champion", "challenger", "challenger"],
            "match": [1, None, 1, 1, 0],
        }
    )
    assert lawyer_overlap(pairs) == {
        "lawyers": 3.0,
        "common": pytest.approx(1 / 3),
        "pairs_common": pytest.approx(2 / 5),
        "matches_common": pytest.approx(1 / 3),
    }
