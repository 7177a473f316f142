"""The experiment's record: what it refuses, and that its sha256 is of its values and nothing else."""

from __future__ import annotations

import json

import pytest

from matchmaking.base.records import RecordError, read_record
from matchmaking.experiments.definition import Definition

GIVEN = {
    "name": "embeddings-1",
    "hypothesis": "products of fields find more of the lawyers that clients keep",
    "champion": "a" * 64,
    "challenger": "b" * 64,
    "salt": "embeddings-1",
    "start": "2026-01-05T00:00:00Z",
    "effect": 0.01,
    "label_delay_days": 35,
    "planned_clients": 20_000,
    "planned_days": 40,
}


def test_its_sha256_is_of_its_values() -> None:
    one = Definition.model_validate(GIVEN)
    # a known answer: what is recorded must not change with a version of a library
    assert one.sha256 == "f544d68b9a1003b22c33f266ac0a1e91fec4e7688746552ba26c1228b06fe504"
    assert one.canonical.startswith('{"adjust":true,"alpha":0.05,"bot_pairs":1000,"challenger":"bbbb')
    again = Definition.model_validate(dict(reversed(GIVEN.items())))
    assert again.sha256 == one.sha256
    assert read_record(Definition, one.as_json(indent=2), "the definition").sha256 == one.sha256


@pytest.mark.parametrize(("key", "value"), [("alpha", 0.1), ("salt", "other"), ("window_days", 14), ("adjust", False)])
def test_a_change_is_another_experiment(key: str, value: object) -> None:
    one, other = Definition.model_validate(GIVEN), Definition.model_validate({**GIVEN, key: value})
    assert one.sha256 != other.sha256


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alhpa", 0.05),
        ("name", "Über alles"),
        ("challenger", "short"),
        ("share", 51),
        ("share", 0),
        ("effect", float("nan")),
        ("effect", 0),
        ("start", "2026-01-05T00:00:00"),  # of which zone?
        ("unit", "request"),
    ],
)
def test_what_makes_no_experiment_is_refused(key: str, value: object) -> None:
    with pytest.raises(RecordError, match="the definition isn't readable"):
        read_record(Definition, json.dumps({**GIVEN, key: value}), "the definition")


def test_its_last_day() -> None:
    assert Definition.model_validate(GIVEN).last_day == 40 + 7 + 35
    assert Definition.model_validate({**GIVEN, "label_delay_days": 34.2}).last_day == 82
