"""The serving contract: what the service does is written here once more, by hand, for single pairs."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data.sample import generate
from matchmaking.evidence import compare, contract, explain, policy
from matchmaking.model import production, score
from tests.promotion_fixtures import variant

FULL = {
    "case_type": "Tax",
    "location": "Pune",
    "urgency_level": 4,
    "budget": 20000,
    "preferred_language": "Hindi",
    "case_complexity_score": 0.4,
    "specialization": "Tax",
    "city": "Delhi",
    "experience": 9.5,
    "success_rate": 0.8,
    "rating": 4.5,
    "consultation_fee": 11000,
    "availability": 0,
}


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    return generate(300, seed=5)


@pytest.fixture(scope="module")
def probabilities(incumbent: Path, pairs: pd.DataFrame) -> np.ndarray:
    return score.score(pairs, incumbent)


@pytest.fixture(scope="module")
def service(incumbent: Path) -> contract.Service:
    return contract.Service.load(incumbent)


def failures(found: dict[str, Any]) -> set[str]:
    assert found["passed"] is all(check["passed"] for check in found["checks"])
    json.dumps(found)
    return {check["name"] for check in found["checks"] if not check["passed"]}


def test_a_sound_candidate_passes(
    incumbent: Path, pairs: pd.DataFrame, probabilities: np.ndarray, tmp_path: Path
) -> None:
    candidate = variant(incumbent, tmp_path / "candidate", "sound")
    found = contract.check_contract(candidate, incumbent, pairs, probabilities)
    assert failures(found) == set(), found
    assert len(found["checks"]) == 9
    assert found["sha256"] == production.hashes(candidate)
    assert found["compared_with"] == production.hashes(incumbent)


def test_without_production_nothing_is_compared_with_it(
    incumbent: Path, pairs: pd.DataFrame, probabilities: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "LATENCY_LIMITS", {})
    found = contract.check_contract(incumbent, None, pairs, probabilities)
    assert failures(found) == set(), found
    assert found["compared_with"] == {}
    assert "encoder and scaler" not in {check["name"] for check in found["checks"]}


@pytest.mark.parametrize(("difference", "broken"), [(9e-7, False), (2e-6, True), (np.nan, True)])
def test_probabilities_agree_to_a_millionth(
    service: contract.Service, pairs: pd.DataFrame, probabilities: np.ndarray, difference: float, broken: bool
) -> None:
    other = service.probabilities(pairs)
    assert np.allclose(other, probabilities, rtol=0, atol=1e-6)
    other[7] += difference
    passed, detail = contract._same_probabilities(service, pairs, other)
    assert passed is not broken, detail


def test_many_rows_are_asked_in_large_batches(
    service: contract.Service, pairs: pd.DataFrame, probabilities: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    class Counting(contract.Service):
        def probabilities(self, pairs: pd.DataFrame, batch_size: int = 32) -> np.ndarray:
            asked.append((len(pairs), batch_size))
            return super().probabilities(pairs, batch_size)

    counting = Counting(service.model, service.encoder, service.scaler)
    assert contract._same_probabilities(counting, pairs, probabilities)[0]
    monkeypatch.setattr(contract, "IN_SMALL_BATCHES", 100)
    assert contract._same_probabilities(counting, pairs, probabilities)[0]
    assert asked == [(300, 32), (100, 32), (200, 8192)]
    # each row is compared still, the last of either kind too
    for row in (0, 99, 100, 299):
        other = probabilities.copy()
        other[row] += 0.01
        passed, detail = contract._same_probabilities(counting, pairs, other)
        assert not passed and detail.startswith("300 rows, largest difference 1.0e-02")


def test_a_payload_answered_otherwise_is_found(
    service: contract.Service, pairs: pd.DataFrame, probabilities: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert contract._payloads(service, pairs, probabilities)[0]
    # the service takes another default than the documented one
    plain = contract.complete
    monkeypatch.setattr(
        contract, "complete", lambda payload: {**plain(payload), **({} if "rating" in payload else {"rating": 1})}
    )
    passed, detail = contract._payloads(service, pairs, probabilities)
    assert not passed
    assert "answered otherwise" in detail


def broken_file(candidate: Path) -> None:
    (candidate / production.MODEL).write_bytes(b"not a model")


def other_keras(candidate: Path) -> None:
    with h5py.File(candidate / production.MODEL, "a") as file:
        file.attrs["keras_version"] = "3.15.0"


def custom_layer(candidate: Path) -> None:
    with h5py.File(candidate / production.MODEL, "a") as file:
        text = str(file.attrs["model_config"]).replace('"class_name": "Dense"', '"class_name": "Lambda"', 1)
        file.attrs["model_config"] = text


def other_scaler(candidate: Path) -> None:
    with (candidate / production.SCALER).open("ab") as file:
        file.write(b" ")


def hostile_encoder(candidate: Path) -> None:
    (candidate / production.ENCODER).write_bytes(b"cos\nsystem\n(S'false'\ntR.")


def unreadable_weights(candidate: Path) -> None:
    with h5py.File(candidate / production.MODEL, "a") as file:
        del file["model_weights"]
        file.create_group("model_weights")


@pytest.mark.parametrize(
    ("breakage", "names"),
    [
        (broken_file, {"built-in layers", "Keras version", "loads"}),
        (other_keras, {"Keras version"}),
        (custom_layer, {"built-in layers", "Keras version", "loads"}),
        (other_scaler, {"encoder and scaler"}),
        (hostile_encoder, {"encoder and scaler", "loads"}),
        (unreadable_weights, {"built-in layers", "Keras version", "loads"}),
    ],
)
def test_what_cannot_be_served_fails_and_is_named(
    breakage: Any,
    names: set[str],
    incumbent: Path,
    pairs: pd.DataFrame,
    probabilities: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contract, "LATENCY_LIMITS", {})
    candidate = variant(incumbent, tmp_path / "candidate", "broken")
    breakage(candidate)
    assert failures(contract.check_contract(candidate, incumbent, pairs, probabilities)) == names


def test_a_slow_model_fails(
    incumbent: Path, pairs: pd.DataFrame, probabilities: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "LATENCY_LIMITS", {1: 1e-9, 1000: 1e-9})
    found = contract.check_contract(incumbent, incumbent, pairs, probabilities)
    assert failures(found) == {"latency of 1 row", "latency of 1,000 rows"}


def test_a_busy_machine_fails_no_model(
    incumbent: Path, pairs: pd.DataFrame, probabilities: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for a processor, which is what others' work costs a call, doesn't count; working does."""
    monkeypatch.setattr(contract, "LATENCY_LIMITS", {1: 0.2})
    whole = contract.Service.probabilities

    def waiting(self: contract.Service, rows: pd.DataFrame, batch_size: int = 32) -> np.ndarray:
        time.sleep(0.3)
        return whole(self, rows, batch_size)

    def working(self: contract.Service, rows: pd.DataFrame, batch_size: int = 32) -> np.ndarray:
        begun = time.process_time()
        while time.process_time() < begun + 0.3:
            pass
        return whole(self, rows, batch_size)

    monkeypatch.setattr(contract.Service, "probabilities", waiting)
    assert contract.check_contract(incumbent, incumbent, pairs, probabilities)["passed"]
    monkeypatch.setattr(contract.Service, "probabilities", working)
    assert failures(contract.check_contract(incumbent, incumbent, pairs, probabilities)) == {"latency of 1 row"}


# --- the service's behaviour ---------------------------------------------------------------------------


def test_a_whole_payload_is_taken_as_it_is() -> None:
    assert contract.complete(FULL) == FULL


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("preferred_language", "English"),
        ("urgency_level", 3),
        ("budget", 15000),
        ("case_complexity_score", 0.5),
        ("experience", 5),
        ("success_rate", 0.7),
        ("rating", 4.0),
        ("consultation_fee", 12000),
        ("availability", 1),
    ],
)
def test_an_absent_field_is_the_services_default(name: str, default: str | float) -> None:
    assert contract.complete({key: value for key, value in FULL.items() if key != name}) == {**FULL, name: default}


def test_cities_come_under_their_other_names_too() -> None:
    bare = {key: value for key, value in FULL.items() if key not in ("location", "city")}
    assert contract.complete({**bare, "client_city": "Pune", "lawyer_city": "Delhi"}) == FULL
    assert contract.complete({**bare, "client_city": "Pune"})["city"] == "Pune"
    assert contract.complete({**bare, "location": "Pune", "client_city": "Delhi"})["location"] == "Pune"


@pytest.mark.parametrize("name", ["case_type", "specialization", "location"])
def test_a_field_without_a_default_is_needed(name: str) -> None:
    with pytest.raises(InputError, match=name):
        contract.complete({key: value for key, value in FULL.items() if key != name})


@pytest.mark.parametrize(
    ("probability", "body"),
    [
        (0.123456, {"match_probability": 0.1235, "match_result": 0}),
        (0.5, {"match_probability": 0.5, "match_result": 1}),
        (0.49999, {"match_probability": 0.5, "match_result": 0}),
    ],
)
def test_the_answer_is_rounded_after_it_is_decided(probability: float, body: dict[str, float]) -> None:
    assert contract.answer(probability) == body


def test_predict_match_gives_the_models_probability(service: contract.Service) -> None:
    given = service.predict_match(FULL)
    one_hot = [
        float(FULL[column] == value)
        for column, values in zip(service.encoder.feature_names_in_, service.encoder.categories_, strict=True)
        for value in values
    ]
    numbers = [4, 20000, 0.4, 9.5, 0.8, 4.5, 11000, 0, 20000 / 11001, 9.5 * 0.8, 4 * 0.4, 0.0, 20000 / 5, 11000 / 4.6]
    scaled = (np.array(numbers) - service.scaler.mean_) / service.scaler.scale_
    p = float(service.model(np.concatenate([one_hot, scaled])[None].astype("float32"))[0, 0])
    assert given == {"match_probability": pytest.approx(p, abs=6e-5), "match_result": int(p >= 0.5)}


# --- the verdict ---------------------------------------------------------------------------------------


def test_a_failed_contract_makes_any_verdict_a_reject() -> None:
    generator = np.random.default_rng(0)
    match = np.arange(2000) % 8 == 0
    scores = generate(2000, seed=1)[["case_type", "location", "preferred_language"]].assign(
        match=match.astype(int),
        production=np.clip(0.3 * match + generator.normal(0.4, 0.15, 2000), 0, 1),
        candidate=np.clip(0.6 * match + generator.normal(0.2, 0.1, 2000), 0, 1),
    )
    checks = [{"name": "input width", "passed": False, "detail": "(None, 46)"}]
    for columns, plain in (([], "promote"), (["production"], "bootstrap")):
        decided = compare.decide(scores.drop(columns=columns), policy.load_policy(), 0)
        assert decided["verdict"] == plain
        rejected = compare.with_contract(decided, {"passed": False, "checks": checks})
        assert rejected["verdict"] == "reject"
        assert rejected["reasons"][0] == "the serving contract failed, input width: (None, 46)"
        assert "input width" in explain.explain(rejected)
        assert compare.with_contract(decided, {"passed": True, "checks": []})["verdict"] == plain
        assert compare.with_contract(decided, None) == decided


def test_the_real_production_keeps_its_own_contract(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in production.FILES:
        shutil.copyfile(real / name, tmp_path / name)
    pairs = generate(50, seed=3)
    monkeypatch.setattr(contract, "LATENCY_LIMITS", {})
    assert failures(contract.check_contract(tmp_path, real, pairs, score.score(pairs, tmp_path))) == set()
