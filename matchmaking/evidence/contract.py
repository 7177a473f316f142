"""The serving contract: proof that production's service can serve a candidate, before anything may be promoted.

The service is a program of another team. What it does with the three files and with a payload is written down here a
second time, from its documentation and not from `features`, so that an error in either one shows as a difference.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.data.batches import BATCH
from matchmaking.data.schema import FEATURES, INTEGERS
from matchmaking.model import keras_file, production
from matchmaking.model.features import INPUT_WIDTH

# what the service takes for a field that a payload doesn't have
DEFAULTS: dict[str, str | float] = {
    "preferred_language": "English",
    "urgency_level": 3,
    "budget": 15000,
    "case_complexity_score": 0.5,
    "experience": 5,
    "success_rate": 0.7,
    "rating": 4.0,
    "consultation_fee": 12000,
    "availability": 1,
}
REQUIRED = ("case_type", "specialization")
THRESHOLD = 0.5
TOLERANCE = 1e-6
# seconds of processor time, in which waiting for a busy machine doesn't count, and generous (the service's own numbers
# are about 0.06 s and 0.1 s): they are there to catch a model of another order of size
LATENCY_LIMITS = {1: 0.5, 1000: 2.0}
LATENCY_REPEATS = {1: 5, 1000: 3}
# payloads that are asked one by one, as clients do: of each held-out row and of each way to leave fields out
SAMPLE = 4
# held-out rows that are asked in the service's own small batches, which take most of a large evaluation's time; those
# after them are asked in as large ones as the pipeline's, of which the last bits may differ
IN_SMALL_BATCHES = 20_000
LARGE_BATCH = 8192


@dataclass(frozen=True)
class Service:
    """The service's state: the three files, loaded as it loads them."""

    model: Any
    encoder: Any
    scaler: Any

    @classmethod
    def load(cls, bundle: Path) -> Service:
        """Loads a bundle; the .h5 by itself, with nothing beside it that it could lean on.

        Raises:
            InputError: a file is not what the service needs.
        """
        from matchmaking.model.predict import prepare_tensorflow

        prepare_tensorflow()
        import keras

        with keras_file.checked_copy(bundle / production.MODEL) as alone:
            try:
                model = keras.models.load_model(alone)
            except (ValueError, TypeError, OSError) as error:
                raise InputError(f"Keras {keras.__version__} cannot load {production.MODEL}: {error}") from error
        encoders = production.read_encoders(bundle)
        return cls(model, encoders.encoder, encoders.scaler)

    def inputs(self, pairs: pd.DataFrame) -> np.ndarray:
        """Model inputs, float64 of shape (rows, 47), for pairs with every feature."""
        derived = {
            "budget_fee_ratio": pairs["budget"] / (pairs["consultation_fee"] + 1),
            "experience_success": pairs["experience"] * pairs["success_rate"],
            "urgency_complexity": pairs["urgency_level"] * pairs["case_complexity_score"],
            "rating_availability": pairs["rating"] * pairs["availability"],
            "budget_per_urgency": pairs["budget"] / (pairs["urgency_level"] + 1),
            "fee_rating_ratio": pairs["consultation_fee"] / (pairs["rating"] + 0.1),
        }
        table = pairs.assign(**derived)
        # the fitted objects themselves say which columns, in which order
        one_hot = self.encoder.transform(table[list(self.encoder.feature_names_in_)].astype(str))
        numbers = self.scaler.transform(table[list(self.scaler.feature_names_in_)].astype(float))
        return np.hstack([one_hot.toarray() if hasattr(one_hot, "toarray") else one_hot, numbers])

    def probabilities(self, pairs: pd.DataFrame, batch_size: int = 32) -> np.ndarray:
        """float64 of shape (rows,), in [0, 1]; the service leaves the batch size at Keras's 32."""
        # of many rows, no more inputs than a batch at a time
        parts = [pairs.iloc[start : start + BATCH] for start in range(0, len(pairs), BATCH)] or [pairs]
        found = [self.model.predict(self.inputs(part), batch_size=batch_size, verbose=0) for part in parts]
        return np.concatenate(found).astype(float).ravel()

    def predict_match(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The service's answer to `POST /predict_match`.

        Args:
            payload: see `complete`.

        Returns:
            `match_probability` (4 decimals) and `match_result` (0 or 1).
        """
        return answer(float(self.probabilities(pd.DataFrame([complete(payload)]))[0]))


def answer(probability: float) -> dict[str, Any]:
    """The body of the service's answer: the result comes from the probability before it is rounded."""
    return {"match_probability": round(probability, 4), "match_result": int(probability >= THRESHOLD)}


def complete(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload's 13 features, absent ones filled in as the service does.

    `location` may come as `client_city` and `city` as `lawyer_city`; a lawyer without a city is where the client is.

    Raises:
        InputError: a field without a default is missing.
    """
    filled = {**DEFAULTS, **payload}
    filled.setdefault("location", filled.get("client_city"))
    filled.setdefault("city", filled.get("lawyer_city", filled["location"]))
    if missing := [name for name in (*REQUIRED, "location") if filled.get(name) is None]:
        raise InputError(f"payload: {', '.join(missing)} missing; the service has no default for it")
    return {name: filled[name] for name in FEATURES}


def check_contract(
    candidate_dir: Path, production_dir: Path | None, pairs: pd.DataFrame, probabilities: np.ndarray
) -> dict[str, Any]:
    """Checks that production's service can serve a candidate.

    Args:
        candidate_dir: the candidate's bundle.
        production_dir: production's bundle; None where there is none, and then nothing is compared with it.
        pairs: held-out pairs.
        probabilities: what the pipeline gives for them, shape (rows,).

    Returns:
        JSON-serialisable: `passed`, `checks` (each `name`, `passed`, `detail`), and which bytes it was shown for:
        `sha256` (the candidate's) and `compared_with` (production's, empty for none). A check that fails is told, not
        raised; those that would need what it checks are told as failed, too.
    """
    checks: list[dict[str, Any]] = []

    def check(name: str, call: Callable[[], tuple[bool, str]]) -> bool:
        try:
            passed, detail = call()
        except Exception as error:
            # a candidate can break in any way a program can; whatever it is, it can't be served
            passed, detail = False, " ".join(f"{type(error).__name__}: {error}".split())
        checks.append({"name": name, "passed": bool(passed), "detail": detail})
        return bool(passed)

    loaded: list[Service] = []

    def load() -> tuple[bool, str]:
        loaded.append(Service.load(candidate_dir))
        return True, "Keras loads the .h5 by itself; the encoder and the scaler are what the service needs"

    check("built-in layers", lambda: _built_in(candidate_dir))
    check("Keras version", lambda: _keras_version(candidate_dir, production_dir))
    if production_dir is not None:
        check("encoder and scaler", lambda: _same_encoders(candidate_dir, production_dir))
    if check("loads", load):
        (service,) = loaded
        check("input width", lambda: _width(service))
        check("held-out rows", lambda: _same_probabilities(service, pairs, probabilities))
        check("payloads", lambda: _payloads(service, pairs, probabilities))
        for rows in LATENCY_LIMITS:
            check(f"latency of {rows:,} row{'s' if rows > 1 else ''}", partial(_latency, service, pairs, rows))
    return {
        "passed": all(found["passed"] for found in checks),
        "checks": checks,
        "sha256": production.hashes(candidate_dir),
        "compared_with": production.hashes(production_dir) if production_dir is not None else {},
    }


def _built_in(candidate: Path) -> tuple[bool, str]:
    layers = keras_file.check_model_file(candidate / production.MODEL)["layers"]
    return True, f"{len(layers)} layers: {', '.join(sorted(set(layers)))}"


def _keras_version(candidate: Path, served: Path | None) -> tuple[bool, str]:
    saved = keras_file.check_model_file(candidate / production.MODEL)["keras_version"]
    if served is None:
        return True, f"saved by Keras {saved}; there is no production model to compare with"
    expected = keras_file.check_model_file(served / production.MODEL)["keras_version"]
    return saved == expected, f"saved by Keras {saved}, production by {expected}"


def _same_encoders(candidate: Path, served: Path) -> tuple[bool, str]:
    mine, theirs = production.hashes(candidate), production.hashes(served)
    other = [name for name in (production.ENCODER, production.SCALER) if mine.get(name) != theirs.get(name)]
    return not other, f"{', '.join(other)} differ from production's" if other else "production's, byte for byte"


def _width(service: Service) -> tuple[bool, str]:
    given, taken = service.model.output_shape, service.model.input_shape
    return (taken, given) == ((None, INPUT_WIDTH), (None, 1)), f"{taken} -> {given}"


def _same_probabilities(service: Service, pairs: pd.DataFrame, expected: np.ndarray) -> tuple[bool, str]:
    first, others = pairs.iloc[:IN_SMALL_BATCHES], pairs.iloc[IN_SMALL_BATCHES:]
    found = service.probabilities(first)
    if len(others):
        found = np.concatenate([found, service.probabilities(others, LARGE_BATCH)])
    return _compare(found, np.asarray(expected, dtype=float), "rows")


def _compare(found: np.ndarray, expected: np.ndarray, what: str) -> tuple[bool, str]:
    if found.shape != expected.shape:
        return False, f"{len(found)} probabilities for {len(expected)} {what}"
    difference = np.abs(found - expected)
    # a NaN is a difference, too
    worst = float(np.max(np.where(np.isfinite(difference), difference, np.inf), initial=0.0))
    return worst <= TOLERANCE, f"{len(found):,} {what}, largest difference {worst:.1e}, allowed {TOLERANCE:.0e}"


def _payloads(service: Service, pairs: pd.DataFrame, expected: np.ndarray) -> tuple[bool, str]:
    """Answers JSON payloads: whole ones, with the cities under their other names, and each with fields left out."""
    rows = np.linspace(0, len(pairs) - 1, min(SAMPLE, len(pairs))).astype(int)
    sample = pairs.iloc[rows]
    asked = _records(sample)
    renamed = {"location": "client_city", "city": "lawyer_city"}
    wanted, completed = [np.asarray(expected, dtype=float)[rows]] * 2, []
    payloads = [*asked, *({renamed.get(key, key): value for key, value in one.items()} for one in asked)]
    # what is absent must count as its default: the pipeline scores pairs that hold the default in its place
    absent = [(name,) for name in DEFAULTS] + [("city",), tuple([*DEFAULTS, "city"])]
    for number, names in enumerate(absent):
        one = number % len(sample)
        payloads.append({key: value for key, value in asked[one].items() if key not in names})
        filled = sample.iloc[[one]].assign(**{name: DEFAULTS[name] for name in names if name in DEFAULTS})
        if "city" in names:
            filled = filled.assign(city=filled["location"])
        completed.append(filled)
    probability = np.concatenate([*wanted, _pipeline(service, pd.concat(completed))])
    answers = [service.predict_match(payload) for payload in payloads]
    wrong = [
        payload
        for payload, given, p in zip(payloads, answers, probability, strict=True)
        if abs(given["match_probability"] - p) > 0.5e-4 + TOLERANCE
        or (abs(p - THRESHOLD) > TOLERANCE and given["match_result"] != int(p >= THRESHOLD))
    ]
    if wrong:
        return False, f"{len(wrong)} of {len(payloads)} answered otherwise than the pipeline, as {json.dumps(wrong[0])}"
    return True, f"{len(payloads)} payloads, {len(absent)} of them partial, answered as the pipeline does"


def _pipeline(service: Service, pairs: pd.DataFrame) -> np.ndarray:
    from matchmaking.model.features import encode

    inputs = encode(pairs, service.encoder, service.scaler)
    return service.model.predict(inputs, verbose=0).astype(float).ravel()


def _records(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Pairs as payloads, by way of JSON as they would come."""
    types = {name: "int64" for name in FEATURES if name in INTEGERS}
    return json.loads(json.dumps(pairs[list(FEATURES)].astype(types).to_dict("records")))


def _latency(service: Service, pairs: pd.DataFrame, rows: int) -> tuple[bool, str]:
    many = pairs.iloc[np.arange(rows) % len(pairs)]
    payload = _records(many.head(1))[0]
    seconds = []
    # the first call is not counted: TensorFlow builds its graph in it
    for _ in range(1 + LATENCY_REPEATS[rows]):
        begun = time.process_time()
        if rows == 1:
            service.predict_match(payload)
        else:
            service.probabilities(many)
        seconds.append(time.process_time() - begun)
    # the best: what else runs on the machine can only slow a call down, by taking its caches
    best, limit = min(seconds[1:]), LATENCY_LIMITS[rows]
    return best <= limit, f"{best * 1000:.0f} ms of processor time, allowed {limit * 1000:.0f} ms"
