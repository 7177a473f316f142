"""How good predicted probabilities are: the five metrics production tracks, those it doesn't, and the same by slice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

# the service's fixed operating point: it answers match when p >= 0.5
THRESHOLD = 0.5
TRACKED = ("accuracy", "precision", "recall", "f1", "roc_auc")
SCALARS = (*TRACKED, "average_precision", "brier", "log_loss", "ece")
LOWER_IS_BETTER = frozenset({"brier", "log_loss", "ece", "calibration"})
CURVE_POINTS = 200
BINS = 15  # of equal width, of calibration


def evaluate(match: np.ndarray, probability: np.ndarray, slices: pd.DataFrame | None = None) -> dict[str, Any]:
    """Every metric of a model on held-out pairs.

    Args:
        match: 0/1 labels, shape (rows,).
        probability: predicted probabilities in [0, 1], shape (rows,).
        slices: columns to break the metrics down by, same rows; None for no breakdown.

    Returns:
        `rows`, `positives`, each of `SCALARS`, `confusion` (tn, fp, fn, tp at 0.5) and `slices`: for each column and
        value the same without further slices. Metrics that need both classes are None where there is only one.
    """
    match = np.asarray(match).astype(np.int8)
    probability = np.asarray(probability, dtype=float)
    result = _scalars(match, probability)
    result["slices"] = {}
    if slices is not None:
        for column in slices:
            groups = slices.groupby(str(column), observed=True).indices
            result["slices"][str(column)] = {
                str(value): _scalars(match[rows], probability[rows]) for value, rows in sorted(groups.items())
            }
    return result


def expected_calibration_error(match: np.ndarray, probability: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error over equal-width bins, in [0, 1]: the sum of n_b/n * |mean p_b - match rate_b|.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    gap = np.bincount(_bin(probability, bins), weights=probability - match, minlength=bins)
    return float(np.abs(gap).sum() / len(match))


def curves(match: np.ndarray, probability: np.ndarray) -> dict[str, list[list[float]]]:
    """The points of the curves people look at, thinned to at most `CURVE_POINTS` each.

    Returns:
        `roc`: [false positive rate, true positive rate]; `pr`: [recall, precision]; `calibration`:
        [mean predicted probability, match rate, rows] of each non-empty one of 15 equal-width bins.
    """
    return {**ranking_curves(match, probability), "calibration": calibration_curve(*bin_sums(match, probability))}


def ranking_curves(
    match: np.ndarray, probability: np.ndarray, counts: np.ndarray | None = None
) -> dict[str, list[list[float]]]:
    """`roc` and `pr` of `curves`; of rows that each stand for so many, where `counts` says that: shape (rows,)."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_rate, true_rate, _ = roc_curve(match, probability, sample_weight=counts)
    precision, recall, _ = precision_recall_curve(match, probability, sample_weight=counts)
    return {"roc": _thin(false_rate, true_rate), "pr": _thin(recall[::-1], precision[::-1])}


def bin_sums(match: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of 15 equal-width bins the rows, the sum of the probabilities and the matches: each of shape (15,)."""
    index = _bin(probability, BINS)
    rows = np.bincount(index, minlength=BINS)
    return (
        rows,
        np.bincount(index, weights=probability, minlength=BINS),
        np.bincount(index, weights=match, minlength=BINS),
    )


def calibration_curve(rows: np.ndarray, probabilities: np.ndarray, matches: np.ndarray) -> list[list[float]]:
    """`calibration` of `curves`, from what `bin_sums` gives."""
    used = rows > 0
    mean, rate = probabilities[used] / rows[used], matches[used] / rows[used]
    return np.column_stack([mean, rate, rows[used]]).round(6).tolist()


def _scalars(match: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    from sklearn import metrics

    predicted = (probability >= THRESHOLD).astype(np.int8)
    tn, fp, fn, tp = (int(count) for count in metrics.confusion_matrix(match, predicted, labels=[0, 1]).ravel())
    return scalars_of(
        {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
        ranking_scores(match, probability),
        brier=float(np.mean((probability - match) ** 2)),
        log_loss=float(metrics.log_loss(match, probability, labels=[0, 1])),
        ece=expected_calibration_error(match, probability),
    )


def ranking_scores(
    match: np.ndarray, probability: np.ndarray, counts: np.ndarray | None = None
) -> tuple[float | None, float | None]:
    """ROC AUC and average precision, None where there is one class only; `counts` as of `ranking_curves`."""
    from sklearn import metrics

    rows, matches = (len(match), match.sum()) if counts is None else (counts.sum(), counts[match == 1].sum())
    if not 0 < matches < rows:
        return None, None
    return (
        float(metrics.roc_auc_score(match, probability, sample_weight=counts)),
        float(metrics.average_precision_score(match, probability, sample_weight=counts)),
    )


def scalars_of(
    confusion: dict[str, int],
    ranking: tuple[float | None, float | None],
    *,
    brier: float,
    log_loss: float,
    ece: float,
) -> dict[str, Any]:
    """`evaluate` without slices, of what was counted.

    Args:
        confusion: `tn`, `fp`, `fn`, `tp` at the operating point.
        ranking: as `ranking_scores` gives it.
        brier: mean over the rows.
        log_loss: the same.
        ece: the expected calibration error.
    """
    tn, fp, fn, tp = (confusion[name] for name in ("tn", "fp", "fn", "tp"))
    rows = tn + fp + fn + tp
    return {
        "rows": rows,
        "positives": tp + fn,
        "accuracy": (tp + tn) / rows,
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "roc_auc": ranking[0],
        "average_precision": ranking[1],
        "brier": brier,
        "log_loss": log_loss,
        "ece": ece,
        "confusion": confusion,
    }


def _bin(probability: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((probability * bins).astype(int), bins - 1)


def _thin(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """At most CURVE_POINTS points, the first and the last among them."""
    keep = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))
    return np.column_stack([x[keep], y[keep]]).round(6).tolist()
