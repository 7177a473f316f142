"""The paired bootstrap: weights of resamples by group of equal pairs, and each metric of all resamples at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from matchmaking.evidence.metrics import THRESHOLD

Floats = npt.NDArray[np.float64]

# weights held at once: what a processor's cache holds, but no fewer resamples than fill a line of it; the memory grows
# no faster than the rows
_CELLS = 200_000
_BLOCK = 8
_TINY, _EPSILON = np.finfo(np.float64).tiny, np.finfo(np.float64).eps


def metric_scorer(match: npt.NDArray[Any], p: Floats) -> Callable[[Floats], dict[str, Floats]]:
    """All metrics of one model as a function of row weights.

    Sorting is done once, here; a call then costs two cumulative sums and one matrix product for all its
    resamples. The numbers, ties in `p` included, are scikit-learn's (`average_precision_score`,
    `precision_score(zero_division=0)`, ... with `sample_weight`).

    Args:
        match: labels, 0 or 1, shape (rows,); both present.
        p: predicted probabilities in [0, 1], shape (rows,).

    Returns:
        A function from weights >= 0 (resamples, rows) to arrays (resamples,) by metric. `calibration` is signed here:
        mean probability minus match rate.
    """
    y, chosen = np.asarray(match) == 1, p >= THRESHOLD
    order = np.argsort(-p, kind="stable")
    pos, neg = order[y[order]], order[~y[order]]
    # how many positives and negatives score at least as high as, or higher than, each positive
    pos_at_least = np.searchsorted(-p[pos], -p[pos], side="right")
    neg_at_least = np.searchsorted(-p[neg], -p[pos], side="right")
    neg_above = np.searchsorted(-p[neg], -p[pos], side="left")
    columns = np.column_stack([np.ones(len(y)), y, y & chosen, ~y & chosen, *row_parts(y, p)])

    def score(weights: Floats) -> dict[str, Floats]:
        by_row = weights.T  # a row's weights side by side: the gathers below are then of whole cache lines
        total, positives, tp, fp, squares, surprises, gap = columns.T @ by_row
        w = by_row[pos]
        fps = _cumulative(by_row[neg])
        tp_at, fp_at = _cumulative(w)[pos_at_least], fps[neg_at_least]
        misranked = (w * (fp_at + fps[neg_above])).sum(axis=0) / 2
        return {
            "average_precision": (w * tp_at / np.maximum(tp_at + fp_at, _TINY)).sum(axis=0) / positives,
            "roc_auc": 1 - misranked / np.maximum(positives * (total - positives), _TINY),
            "f1": 2 * tp / (tp + fp + positives),
            "accuracy": (total - positives - fp + tp) / total,
            "precision": tp / np.maximum(tp + fp, _TINY),
            "recall": tp / positives,
            "brier": squares / total,
            "log_loss": surprises / total,
            "calibration": gap / total,
        }

    return score


def row_parts(y: npt.NDArray[np.bool_], p: Floats) -> tuple[Floats, Floats, Floats]:
    """Each row's part of Brier score, log loss and signed calibration, which are means: each of shape (rows,)."""
    return (p - y) ** 2, -np.log(np.clip(np.where(y, p, 1 - p), _EPSILON, 1)), p - y


def _cumulative(weights: Floats) -> Floats:
    """Sums of the first 0, 1, ... rows: shape (rows + 1, resamples)."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def bootstrap_weights(
    match: npt.NDArray[Any], resamples: int, rng: np.random.Generator, group: npt.NDArray[np.intp] | None = None
) -> Iterator[Floats]:
    """How often each row is drawn in each resample, in blocks of shape (some resamples, rows).

    Stratified by label, given how many of each the holdout has: without groups, every resample has as many positives.

    Args:
        match: labels, 0 or 1, shape (rows,).
        resamples: how many.
        rng: what draws.
        group: numbers 0, 1, ... of the groups of rows that are drawn together, shape (rows,); None where each row is
            its own. A group with a positive is drawn among those with positives.
    """
    rows = len(match)
    number = np.arange(rows) if group is None else group
    groups, strata = int(number.max()) + 1, strata_of(match, number)
    block = max(_BLOCK, _CELLS // rows)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        by_group = np.empty((groups, size))
        for stratum in strata:
            n = len(stratum)
            drawn = rng.integers(n, size=(size, n)) * size + np.arange(size)[:, None]
            by_group[stratum] = np.bincount(drawn.ravel(), minlength=size * n).reshape(n, size)
        yield (by_group if groups == rows else by_group[number]).T


def strata_of(match: npt.NDArray[Any], number: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    """The groups without a positive, and those with one, by their numbers; each drawn by itself. None is empty.

    Args:
        match: labels, 0 or 1, shape (rows,).
        number: of each row's group, shape (rows,).
    """
    positive = np.zeros(int(number.max()) + 1, dtype=bool)
    positive[number[np.asarray(match) == 1]] = True
    return [stratum for label in (False, True) if len(stratum := np.flatnonzero(positive == label))]
