"""Clients from logs: windows, deadlines, intention to treat, and what doesn't count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from matchmaking.experiments.definition import Definition
from matchmaking.experiments.units import client_outcomes, client_requests, in_experiment
from tests.unit.experiments.test_definition import GIVEN

START = pd.Timestamp("2026-01-05", tz="UTC")
DEFINED = Definition.model_validate({**GIVEN, "window_days": 2, "label_delay_days": 3, "bot_pairs": 50})
NOW = START + pd.Timedelta(days=30)


def at(day: float) -> pd.Timestamp:
    return START + pd.Timedelta(days=day)


def exposures(*rows: tuple[float, str | None, str]) -> pd.DataFrame:
    """Day, unit and variant of each request, which are numbered r0, r1, ..."""
    return pd.DataFrame(
        {
            "time": [at(day) for day, _, _ in rows],
            "unit": [unit for _, unit, _ in rows],
            "variant": [variant for _, _, variant in rows],
            "model": [("a" if variant == "champion" else "b") * 64 for _, _, variant in rows],
            "request": [f"r{number}" for number in range(len(rows))],
            "status": 200,
            "latency_ms": 50.0,
        }
    )


def outcomes(*rows: tuple[float, str, int]) -> pd.DataFrame:
    return (
        pd.DataFrame(rows, columns=["day", "unit", "match"]).assign(time=lambda f: f["day"].map(at)).drop(columns="day")
    )


def test_a_client_counts_once_its_window_and_its_outcomes_are_over() -> None:
    log = exposures((0.5, "u", "challenger"), (2.4, "u", "challenger"), (2.6, "u", "challenger"), (6, "v", "champion"))
    came = outcomes((1, "u", 1), (5.4, "u", 1), (5.6, "u", 1), (4, "u", 0), (0.1, "u", 1))
    found = client_outcomes(log, came, DEFINED, at(5.5))
    # r2 was asked after two days, the third match came after five, the last before the client was seen
    assert found.drop(columns=["first", "score"]).to_dict("records") == [
        {"unit": "u", "challenger": True, "look": 5, "pairs": 2, "matches": 2, "labelled": 3}
    ]
    assert client_outcomes(log, came, DEFINED, at(5.49)).empty
    assert client_outcomes(log, came, DEFINED, NOW)["unit"].tolist() == ["u", "v"]
    assert client_outcomes(log, came, DEFINED, NOW)["look"].tolist() == [5, 10]


def test_it_stays_in_the_arm_it_was_first_in() -> None:
    log = exposures((0, "u", "challenger"), (1, "u", "champion"))
    found = client_outcomes(log, outcomes((1.5, "u", 1)), DEFINED, NOW)
    assert found[["challenger", "pairs", "matches"]].to_dict("records") == [
        {"challenger": True, "pairs": 2, "matches": 1}
    ]


def test_a_client_without_outcomes_counts_without_matches() -> None:
    found = client_outcomes(exposures((0, "u", "champion")), outcomes((1, "other", 1)), DEFINED, NOW)
    assert found[["pairs", "matches", "labelled"]].to_dict("records") == [{"pairs": 1, "matches": 0, "labelled": 0}]


def test_who_is_not_in_the_experiment() -> None:
    log = exposures((1, None, "champion"), (1, "", "champion"), (1, "out", "none"), (-1, "early", "champion"))
    assert in_experiment(log, DEFINED, NOW).empty


def test_outcomes_of_other_requests_do_not_count() -> None:
    log = exposures((0, "u", "champion"), (2.5, "u", "champion"))
    came = outcomes((3, "u", 1), (3, "u", 1), (3, "u", 1)).assign(request=["r0", "r1", None])
    # r1 was asked after the window; of one without a request the time alone is known
    assert client_outcomes(log, came, DEFINED, NOW)["matches"].tolist() == [2]


def test_a_request_has_one_outcome_however_often_it_is_there() -> None:
    log = exposures((0, "u", "champion"), (0, "u", "champion"), (0, "u", "champion"))
    came = outcomes((1, "u", 1), (1, "u", 1), (1, "u", 0), (2, "u", 1), (1, "u", 1), (9, "u", 0))
    came["request"] = ["r0", "r0", "r1", "r1", "r2", "r2"]
    # shipped twice; no match yet, then one; a correction that comes after the deadline, which is day 5
    found = client_outcomes(log, came, DEFINED, NOW)
    assert found[["pairs", "matches", "labelled"]].to_dict("records") == [{"pairs": 3, "matches": 3, "labelled": 3}]


def test_a_pair_without_an_answer_is_none_and_a_program_is_no_client() -> None:
    log = exposures((0, "u", "champion"), (0.1, "u", "champion"), *[(0.2, "bot", "challenger")] * 51)
    log.loc[1, "status"] = 502
    found = client_outcomes(log, outcomes((1, "u", 1)), DEFINED, NOW)
    assert found[["unit", "pairs"]].to_dict("records") == [{"unit": "u", "pairs": 1}]


def test_the_champions_score_is_known_for_all_of_a_clients_pairs_or_not_at_all() -> None:
    log = exposures((0, "u", "champion"), (0, "u", "champion"), (0, "v", "challenger"), (0, "v", "challenger"))
    scores = pd.DataFrame({"request": ["r0", "r1", "r2"], "score": [0.1, 0.3, 0.5]})
    found = client_outcomes(log, outcomes((1, "u", 1)), DEFINED, NOW, scores).set_index("unit")["score"]
    assert found["u"] == pytest.approx(0.4)
    assert np.isnan(found["v"])


def test_requests_of_the_first_day() -> None:
    log = exposures(
        (0.5, "u", "challenger"), (0.6, "u", "challenger"), (1.4, "u", "challenger"), (1.6, "u", "challenger")
    )
    log["status"] = [200, 504, 200, 200]
    log["latency_ms"] = [100.0, 3_000.0, 0.0, 1.0]
    found = client_requests(log, DEFINED, at(2))
    assert found.to_dict("records") == [
        {
            "unit": "u",
            "challenger": True,
            "look": 1,
            "requests": 3,
            "errors": 1,
            "answered": 2,
            "log_latency": pytest.approx(np.log(100) + np.log(0.1)),
        }
    ]


def test_what_the_champion_answered_in_the_challengers_place_is_asked_and_an_error() -> None:
    log = exposures(
        (0, "u", "challenger"), (0.1, "u", "challenger"), (0.2, "u", "challenger"), (0.3, "u", "challenger")
    )
    log["status"] = [200, 502, 502, 200]
    log["answered_by"] = ["challenger", "champion", "", "challenger"]
    log["mode"] = ["ab", "ab", "ab", "shadow"]
    assert client_outcomes(log, outcomes((1, "u", 1)), DEFINED, NOW)["pairs"].tolist() == [2]
    assert client_requests(log, DEFINED, NOW)[["requests", "errors"]].to_numpy().tolist() == [[3, 2]]
