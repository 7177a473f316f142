"""A gateway that isn't what the definition says is refused before anybody is exposed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from matchmaking.base.errors import RefusedError
from matchmaking.experiments.agreement import disagreements, refuse_disagreement
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.gateway import Gateway
from tests.unit.experiments.test_definition import GIVEN

NOW = datetime(2026, 4, 1, tzinfo=UTC)
DEFINITION = Definition.model_validate({**GIVEN, "share": 20, "start": (NOW - timedelta(days=1)).isoformat()})
PLAIN: dict[str, Any] = {
    "experiment": DEFINITION.name,
    "salt": DEFINITION.salt,
    "mode": "ab",
    "share": 10,
    "champion": {"address": "legalaid-ml:8000", "model": DEFINITION.champion},
    "challenger": {"address": "legalaid-ml-challenger:8000", "model": DEFINITION.challenger},
}


def test_one_that_agrees() -> None:
    refuse_disagreement(Gateway.model_validate(PLAIN), DEFINITION, NOW)
    # before the start nobody may be in an arm, and shadow mode has none
    early = NOW - timedelta(days=2)
    for mode, share in (("shadow", 0), ("off", 0), ("ab", 0)):
        assert not disagreements(Gateway.model_validate({**PLAIN, "mode": mode, "share": share}), DEFINITION, early)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"experiment": "other-1"}, "the gateway is other-1's"),
        ({"salt": "pepper"}, "the salt 'pepper', not"),
        ({"champion": {"address": "a:1", "model": "c" * 64}}, "the champion is the model cccccccccccc, not"),
        ({"challenger": {"address": "a:1", "model": "d" * 64}}, "the challenger is the model dddddddddddd, not"),
        ({"share": 20.5}, "each arm has 20.5 % of the clients, not at most 20 %"),
    ],
)
def test_each_that_does_not_is_named(change: dict[str, Any], said: str) -> None:
    (one,) = disagreements(Gateway.model_validate({**PLAIN, **change}), DEFINITION, NOW)
    assert said in one
    with pytest.raises(RefusedError, match=said) as error:
        refuse_disagreement(Gateway.model_validate({**PLAIN, **change}), DEFINITION, NOW)
    assert "\n" not in str(error.value)


def test_an_exposure_before_the_start_is_none() -> None:
    (one,) = disagreements(Gateway.model_validate(PLAIN), DEFINITION, NOW - timedelta(days=2))
    assert one == "it exposes clients before the start, 2026-03-31 00:00 UTC"
