"""Which model a client gets, against the test vectors of docs/experiments.md."""

from __future__ import annotations

from itertools import pairwise

import pytest

from matchmaking.base.errors import InputError
from matchmaking.experiments.assignment import assign, joins_at, murmur2, thresholds
from tests.assignment_fixtures import SHARES, vectors

CLIENTS = [f"client-{number:05d}" for number in range(20_000)]


def test_it_gives_the_test_vectors() -> None:
    assert len(vectors()) >= 12
    for salt, client, value, arms in vectors():
        assert murmur2(f"{salt}:{client}".encode()) == value, client
        assert {share: assign(salt, client, share) for share in SHARES} == arms, client


def test_the_vectors_have_every_arm_and_both_limits() -> None:
    found = vectors()
    for share in SHARES:
        assert {arms[share] for *_, arms in found} >= ({"champion", "challenger"} | ({None} if share < 50 else set()))
    low, high = thresholds(1000)
    assert {low - 1, low, high - 1, high} <= {value for _, _, value, _ in found}


def test_who_is_in_an_arm_stays_there_as_the_share_rises() -> None:
    for before, after in pairwise((0, 0.01, 1, 10, 33.33, 50)):
        for client in CLIENTS[:5000]:
            arm = assign("ranking-1", client, before)
            assert arm is None or assign("ranking-1", client, after) == arm


@pytest.mark.parametrize("share", [1, 10, 50])
def test_the_arms_are_of_the_share_s_size(share: float) -> None:
    """Within 4 standard deviations of the binomial law."""
    expected = len(CLIENTS) * share / 100
    noise = 4 * (expected * (1 - share / 100)) ** 0.5
    arms = [assign("ranking-1", client, share) for client in CLIENTS]
    for variant in ("champion", "challenger"):
        assert abs(arms.count(variant) - expected) < noise
    assert share < 50 or None not in arms


def test_two_experiments_divide_the_clients_independently() -> None:
    both = [(assign("ranking-1", client, 50), assign("ranking-2", client, 50)) for client in CLIENTS]
    same = sum(one == other for one, other in both)
    assert abs(same - len(CLIENTS) / 2) < 4 * (len(CLIENTS) / 4) ** 0.5


@pytest.mark.parametrize("client", ["", "Asha Rao", "asha@example.org", "x" * 65, "zoë", "a\n", "1;2"])
def test_what_is_no_id_is_in_no_arm(client: str) -> None:
    assert assign("ranking-1", client, 50) is None


@pytest.mark.parametrize("share", [-1, 50.01, 0.001, float("nan")])
def test_a_share_that_can_not_be_had(share: float) -> None:
    with pytest.raises(InputError, match="can't be had"):
        assign("ranking-1", "1", share)


def test_the_share_that_a_client_joins_at() -> None:
    for salt, client, _, arms in vectors():
        for share, arm in arms.items():
            above = joins_at(salt, client)
            # at the limits it is off by a step of the hash
            assert (above < share) == bool(arm) or abs(above - share) < 1e-7, (client, share)
