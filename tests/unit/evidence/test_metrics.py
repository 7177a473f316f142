"""Metrics against scikit-learn and against hand-made cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from matchmaking.evidence.metrics import CURVE_POINTS, SCALARS, curves, evaluate, expected_calibration_error


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    match = (rng.random(5_000) < 0.12).astype(int)
    return match, np.clip(0.1 + 0.4 * match + rng.normal(0, 0.2, 5_000), 0.001, 0.999).round(3)


def test_agrees_with_scikit_learn(scores: tuple[np.ndarray, np.ndarray]) -> None:
    match, p = scores
    found, predicted = evaluate(match, p), p >= 0.5
    expected = {
        "accuracy": reference.accuracy_score(match, predicted),
        "precision": reference.precision_score(match, predicted),
        "recall": reference.recall_score(match, predicted),
        "f1": reference.f1_score(match, predicted),
        "roc_auc": reference.roc_auc_score(match, p),
        "average_precision": reference.average_precision_score(match, p),
        "brier": reference.brier_score_loss(match, p),
        "log_loss": reference.log_loss(match, p),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert sum(found["confusion"].values()) == 5_000


def test_each_slice_is_scikit_learns_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    match = (rng.random(5000) < 0.1).astype(int)
    # as a model gives them, of which many are tied, some 0 and some 1
    probability = np.clip(rng.normal(0.1 + 0.5 * match, 0.3), 0, 1).astype(np.float32).round(3).astype(float)
    slices = pd.DataFrame({"city": pd.Categorical(rng.choice(["Pune", "Delhi", "Chennai"], 5000))})
    found = evaluate(match, probability, slices)
    for name, of in [("", slices["city"] != ""), *((city, slices["city"] == city) for city in found["slices"]["city"])]:
        y, p = match[of], probability[of]
        own = found["slices"]["city"][name] if name else found
        assert own["roc_auc"] == reference.roc_auc_score(y, p)
        assert own["average_precision"] == reference.average_precision_score(y, p)
        assert own["log_loss"] == reference.log_loss(y, p)
        assert own["brier"] == np.mean((p - y) ** 2)
        assert own["ece"] == expected_calibration_error(y, p)


def test_one_half_counts_as_a_match() -> None:
    assert evaluate(np.array([1, 0]), np.array([0.5, 0.49999]))["accuracy"] == 1.0


def test_calibration_error_by_hand() -> None:
    # two bins: ten rows at 0.05 with none matching, ten at 0.95 with half matching
    match = np.array([0] * 10 + [1] * 5 + [0] * 5)
    p = np.array([0.05] * 10 + [0.95] * 10)
    assert expected_calibration_error(match, p) == pytest.approx(0.5 * 0.05 + 0.5 * 0.45)
    assert expected_calibration_error(np.array([1]), np.array([1.0])) == 0


def test_slices_partition_the_rows(scores: tuple[np.ndarray, np.ndarray]) -> None:
    match, p = scores
    slices = pd.DataFrame({"city": np.where(np.arange(5_000) % 5 == 0, "Pune", "Delhi")})
    found = evaluate(match, p, slices)["slices"]["city"]
    assert {name: part["rows"] for name, part in found.items()} == {"Delhi": 4_000, "Pune": 1_000}
    pune = (slices["city"] == "Pune").to_numpy()
    assert found["Pune"]["roc_auc"] == pytest.approx(reference.roc_auc_score(match[pune], p[pune]))


def test_a_slice_of_one_class_has_no_auc() -> None:
    found = evaluate(np.array([0, 0, 1]), np.array([0.1, 0.9, 0.8]), pd.DataFrame({"c": ["a", "a", "b"]}))
    assert found["slices"]["c"]["a"]["roc_auc"] is None
    assert found["slices"]["c"]["a"]["recall"] is None
    assert set(SCALARS) <= set(found["slices"]["c"]["a"])


def test_curves_are_thin_and_keep_their_ends(scores: tuple[np.ndarray, np.ndarray]) -> None:
    found = curves(*scores)
    for name in ("roc", "pr"):
        assert len(found[name]) <= CURVE_POINTS
    assert found["roc"][0] == [0, 0]
    assert found["roc"][-1] == [1, 1]
    assert sum(rows for _, _, rows in found["calibration"]) == 5_000
