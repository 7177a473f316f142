"""How good predicted probabilities are: the five metrics production tracks, those it doesn't, and the same by slice."""

from __future__ import annotations

from dataclasses import dataclass, fields
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
    rows = _Rows.of(np.asarray(match).astype(np.int8), np.asarray(probability, dtype=float))
    # sorted once: a slice of what is in order is in order
    order = np.argsort(rows.probability)[::-1]
    result = _scalars(rows, rows.match[order], rows.probability[order])
    result["slices"] = {}
    if slices is None:
        return result
    for column in slices:
        codes, values = pd.factorize(slices[column])
        codes = codes.astype(np.min_scalar_type(-len(values) - 1))
        # row by row of each value, and from the highest score of each value on; stable, and in one pass of few integers
        by_value, by_score = np.argsort(codes, kind="stable"), order[np.argsort(codes[order], kind="stable")]
        grouped = rows.take(by_value)
        ordered = rows.match[by_score], rows.probability[by_score]
        # of a value that is missing the code is -1
        ends = np.cumsum(np.bincount(codes.astype(int) + 1, minlength=len(values) + 1))
        parts = {value: slice(ends[code], ends[code + 1]) for code, value in enumerate(values)}
        result["slices"][str(column)] = {
            str(value): _scalars(grouped.take(part), ordered[0][part], ordered[1][part])
            for value, part in sorted(parts.items())
        }
    return result


@dataclass(frozen=True)
class _Rows:
    """What means and counts are of, row by row, in the order of the dataset: each of shape (rows,).

    Attributes:
        match, probability: as `evaluate` takes them.
        square, surprise: the row's part of the Brier score and of the log loss.
        bin: which one of calibration it is in.
    """

    match: np.ndarray
    probability: np.ndarray
    square: np.ndarray
    surprise: np.ndarray
    bin: np.ndarray

    @classmethod
    def of(cls, match: np.ndarray, probability: np.ndarray) -> _Rows:
        from scipy.special import xlogy

        # as scikit-learn's log_loss takes it, to the last bit: clipped by a float's precision, and this logarithm
        least = np.finfo(probability.dtype).eps
        said = np.clip(np.where(match == 1, probability, 1 - probability), least, 1 - least)
        return cls(match, probability, (probability - match) ** 2, -xlogy(1.0, said), _bin(probability, BINS))

    def take(self, which: np.ndarray | slice) -> _Rows:
        return _Rows(*(getattr(self, each.name)[which] for each in fields(self)))


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
    if counts is not None or not 0 < match.sum() < len(match):
        from sklearn.metrics import precision_recall_curve, roc_curve

        false_rate, true_rate, _ = roc_curve(match, probability, sample_weight=counts)
        precision, recall, _ = precision_recall_curve(match, probability, sample_weight=counts)
        return {"roc": _thin(false_rate, true_rate), "pr": _thin(recall[::-1], precision[::-1])}
    order = np.argsort(probability)[::-1]
    above = _counts_above(np.asarray(match)[order], probability[order])
    return {"roc": _thin(*_roc(*above)), "pr": _thin(*_precision_recall(*above)[::-1])}


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


def _scalars(rows: _Rows, match: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    """Every metric of some rows; their labels and probabilities once more, from the highest probability on."""
    said = rows.probability >= THRESHOLD
    tn, fp, fn, tp = (int(count) for count in np.bincount(2 * rows.match + said, minlength=4))
    gap = np.bincount(rows.bin, weights=rows.probability - rows.match, minlength=BINS)
    return scalars_of(
        {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
        _ranking(match, probability),
        brier=float(np.mean(rows.square)),
        log_loss=float(np.mean(rows.surprise)),
        ece=float(np.abs(gap).sum() / len(rows.match)),
    )


def _ranking(match: np.ndarray, probability: np.ndarray) -> tuple[float | None, float | None]:
    """`ranking_scores` of rows from the highest probability on: to the last bit what scikit-learn makes of them.

    It would check and sort them anew for each metric of each slice, which takes most of the time with millions.
    """
    if not 0 < match.sum() < len(match):
        return None, None
    above = _counts_above(match, probability)
    false_rate, true_rate = _roc(*above)
    precision, recall = _precision_recall(*above)
    area = float((np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2.0).sum())
    # from the end of the curve to its beginning, as there: the order of a sum is in its last bit
    steps = np.diff(recall[::-1]) * precision[::-1][:-1]
    return area, float(max(0.0, -np.sum(steps)))


def _counts_above(match: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many 0s and how many 1s have at least each of the different probabilities: float64 of shape (thresholds,).

    Args:
        match: shape (rows,).
        probability: shape (rows,), from the highest on.
    """
    last = np.r_[np.flatnonzero(np.diff(probability)), len(probability) - 1]
    ones = np.cumsum(match, dtype=float)[last]
    return 1 + last - ones, ones


def _roc(zeros: np.ndarray, ones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, each of shape (points,); those between two others on a line are left out."""
    if len(zeros) > 2:
        bend = np.flatnonzero(np.r_[True, (np.diff(zeros, 2) != 0) | (np.diff(ones, 2) != 0), True])
        zeros, ones = zeros[bend], ones[bend]
    return np.r_[0, zeros] / zeros[-1], np.r_[0, ones] / ones[-1]


def _precision_recall(zeros: np.ndarray, ones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall, each of shape (thresholds + 1,), from no row on."""
    return np.r_[1, ones / (ones + zeros)], np.r_[0, ones / ones[-1]]


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
