"""The bootstrap: weighted metrics, and what a resample holds."""

import numpy as np
import pytest
from sklearn import metrics as sk

from matchmaking.evidence.bootstrap import bootstrap_weights, metric_scorer


@pytest.mark.parametrize("decimals", [1, 15], ids=["many ties", "no ties"])
def test_weighted_metrics_are_those_of_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(5)
    y = rng.random(400) < 0.2
    p = np.clip(0.4 * y + rng.random(400) * 0.6, 0, 1).round(decimals)
    weights = np.vstack([rng.integers(0, 4, (3, 400)), rng.random((1, 400)), np.ones((1, 400))]).astype(float)
    scored = metric_scorer(y, p)(weights)
    for i, w in enumerate(weights):
        chosen = p >= 0.5
        expected = {
            "average_precision": sk.average_precision_score(y, p, sample_weight=w),
            "roc_auc": sk.roc_auc_score(y, p, sample_weight=w),
            "f1": sk.f1_score(y, chosen, sample_weight=w),
            "accuracy": sk.accuracy_score(y, chosen, sample_weight=w),
            "precision": sk.precision_score(y, chosen, sample_weight=w),
            "recall": sk.recall_score(y, chosen, sample_weight=w),
            "brier": sk.brier_score_loss(y, p, sample_weight=w),
            "log_loss": sk.log_loss(y, p, sample_weight=w),
            "calibration": np.average(p - y, weights=w),
        }
        assert set(scored) == set(expected)
        for name, value in expected.items():
            assert scored[name][i] == pytest.approx(value, abs=1e-12), name


def test_nobody_recommended_is_a_precision_of_zero() -> None:
    assert metric_scorer(np.array([0, 1]), np.array([0.1, 0.2]))(np.ones((1, 2)))["precision"] == 0


def test_resamples_keep_the_number_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matchmaking.evidence.bootstrap._CELLS", 900)
    match = np.array([0] * 80 + [1] * 20)
    blocks = list(bootstrap_weights(match, 10, np.random.default_rng(0)))
    assert [len(b) for b in blocks] == [9, 1]  # bounded memory: no block exceeds _CELLS
    weights = np.concatenate(blocks)
    assert (weights[:, match == 1].sum(axis=1) == 20).all() and (weights[:, match == 0].sum(axis=1) == 80).all()
    assert weights.max() > 1 and weights.min() == 0


def test_rows_of_a_group_are_drawn_together() -> None:
    match = np.array([0] * 80 + [1] * 20)
    group = np.arange(100) // 5
    (weights,) = bootstrap_weights(match, 50, np.random.default_rng(0), group)
    assert (weights.reshape(50, 20, 5) == weights.reshape(50, 20, 5)[:, :, :1]).all()
    assert (weights.sum(axis=1) == 100).all() and weights.max() > 1
