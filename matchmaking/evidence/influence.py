"""The bootstrap's normal approximation, for holdouts so large that thousands of resamples take minutes.

To first order, a metric of a resample is its value on all rows plus the sum over the rows of how often each was drawn
more than once, times the metric's derivative by that row's weight. With many rows that is all there is to it, and its
covariance is known without drawing: Efron, *The Jackknife, the Bootstrap and Other Resampling Plans*, SIAM 1982,
chapter 6 (the infinitesimal jackknife). For the ROC AUC it is the variance of DeLong, DeLong & Clarke-Pearson,
Biometrics 44, 1988.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from matchmaking.evidence.bootstrap import Floats, row_parts, strata_of
from matchmaking.evidence.metrics import THRESHOLD

Draws = dict[str, tuple[Floats, Floats]]  # production's and candidate's, each (resamples,), by metric

# groups (distinct pairs) up to which resamples are drawn; `python -m benchmarks.influence` compares the two ways
MOST_RESAMPLED = 200_000
# groups with a match, and without, from which on sums over them are taken for normal
LEAST_OF_A_CLASS = 5_000
# the largest part of a variance that may come from one group for the same reason (the condition of Lindeberg's theorem)
MOST_OF_ONE = 0.01
# a standard error below which a metric doesn't vary; what rounding makes of none
_NONE = 1e-12


def suits(match: npt.NDArray[Any], group: npt.NDArray[np.intp]) -> bool:
    """Whether there are so many groups of rows that the approximation is to be tried in place of resamples."""
    if int(group.max()) + 1 <= MOST_RESAMPLED:
        return False
    return min(len(stratum) for stratum in strata_of(match, group)) >= LEAST_OF_A_CLASS


def normal_draws(
    match: npt.NDArray[Any],
    group: npt.NDArray[np.intp],
    models: list[Floats],
    values: list[dict[str, float]],
    resamples: int,
    rng: np.random.Generator,
) -> Draws | None:
    """Both models' metrics as so many resamples would have them, drawn from their joint normal approximation.

    Args:
        match: labels, 0 or 1, shape (rows,); both present.
        group: numbers 0, 1, ... of the groups of rows that count as one, shape (rows,).
        models: production's and candidate's probabilities in [0, 1], each of shape (rows,).
        values: their metrics, as `metric_scorer` gives them for weights of one.
        resamples: how many.
        rng: what draws.

    Returns:
        None where one group makes up so much of a variance that sums can't be taken for normal.
    """
    names = [*values[0]]
    spread = _influences(match, group, models, names)
    scale = np.sqrt([row @ row for row in spread])
    largest = np.array([max(row.max(), -row.min()) for row in spread])
    # what is the same in every resample, as a metric of two equal models' difference, isn't drawn: it stays the same
    used = scale > _NONE
    if (largest**2 > MOST_OF_ONE * scale**2)[used].any():
        return None
    found = np.zeros((resamples, len(spread)))
    found[:, used] = _normal(spread, scale, used, resamples, rng)
    old, gain = found[:, : len(names)], found[:, len(names) :]
    means = [np.array([each[name] for name in names]) for each in values]
    first, second = means[0] + old, means[1] + (old + gain)
    return {name: (first[:, place], second[:, place]) for place, name in enumerate(names)}


def _normal(spread: Floats, scale: Floats, used: npt.NDArray[np.bool_], resamples: int, rng: Any) -> Floats:
    """Draws with mean zero and the covariance of the bootstrap: shape (resamples, those that are used).

    The covariance may be singular (accuracy follows from recall and precision), so it is taken apart by its
    eigenvectors; as correlations, so that none is small beside another.
    """
    scale = scale[used]
    correlation = (spread @ spread.T)[np.ix_(used, used)] / np.outer(scale, scale)
    parts, vectors = np.linalg.eigh(correlation)
    normal = rng.standard_normal((resamples, len(scale)))
    return normal @ (vectors * np.sqrt(np.maximum(parts, 0))).T * scale


def _influences(match: npt.NDArray[Any], group: npt.NDArray[np.intp], models: list[Floats], names: list[str]) -> Floats:
    """How much each group moves each metric of production, and each difference: shape (2 * metrics, groups).

    Centred within the strata in which the bootstrap draws, n of n: the counts of a stratum then have the covariance
    of a multinomial, and the products of these rows are the covariances of the metrics.
    """
    groups = int(group.max()) + 1
    spread = np.empty((2 * len(names), groups))
    for model, p in enumerate(models):
        gradients = gradients_of(match, p)
        for place, name in enumerate(names):
            spread[model * len(names) + place] = np.bincount(group, weights=gradients.pop(name), minlength=groups)
    spread[len(names) :] -= spread[: len(names)]
    for stratum in strata_of(match, group):
        for row in spread:
            row[stratum] -= row[stratum].mean()
    return spread


def gradients_of(match: npt.NDArray[Any], p: Floats) -> dict[str, Floats]:
    """The derivatives of a model's metrics by each row's weight, where all weights are one: (rows,) by metric.

    Args:
        match: labels, 0 or 1, shape (rows,); both present.
        p: predicted probabilities in [0, 1], shape (rows,).

    Returns:
        The metrics of `bootstrap.metric_scorer`; `calibration` is signed.
    """
    y = np.asarray(match) == 1
    one, tp = np.ones(len(y)), (y & (p >= THRESHOLD)).astype(float)
    chosen, right = (p >= THRESHOLD).astype(float), ((p >= THRESHOLD) == y).astype(float)
    square, surprise, gap = row_parts(y, p)
    ratios = {
        "f1": (2 * tp, chosen + y),
        "accuracy": (right, one),
        "precision": (tp, chosen),
        "recall": (tp, y.astype(float)),
        "brier": (square, one),
        "log_loss": (surprise, one),
        "calibration": (gap, one),
    }
    return {**_ranking_gradients(y, p), **{name: _ratio_gradient(*parts) for name, parts in ratios.items()}}


def _ratio_gradient(above: Floats, below: Floats) -> Floats:
    """Of a ratio of weighted sums over the rows; zero where there is nothing below, as the ratio is then."""
    total = below.sum()
    return (above - above.sum() / total * below) / total if total else np.zeros(len(above))


def _ranking_gradients(y: npt.NDArray[np.bool_], p: Floats) -> dict[str, Floats]:
    """Of average precision and ROC AUC, from the rows sorted by score; those of one score are one step of the curve."""
    order = np.argsort(-p, kind="stable")
    ordered = p[order]
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    step = np.empty(len(p), dtype=np.int64)
    step[order] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    # matches and others that score at least as high as each step, and those of the step alone
    tp = np.cumsum(y[order])[ends].astype(float)
    fp = ends + 1 - tp
    here, others_here = np.diff(tp, prepend=0), np.diff(fp, prepend=0)
    positives, negatives = tp[-1], fp[-1]

    # of each row, the share of the other class that it is ranked wrongly with; ties are half
    before, after = fp - others_here / 2, positives - tp + here / 2
    wrong = float((here * before).sum()) / (positives * negatives)
    by_step = [(wrong - after / positives) / negatives, (wrong - before / negatives) / positives]
    area = np.where(y, by_step[1][step], by_step[0][step])

    # a match adds its own precision, and raises that of every match ranked no higher; another row lowers those
    chosen = tp + fp
    precision = tp / chosen
    average = float((here * precision).sum()) / positives
    raised, lowered = (np.cumsum((here * part / chosen**2)[::-1])[::-1] for part in (fp, tp))
    gain = (precision + raised - average) / positives
    return {"average_precision": np.where(y, gain[step], -lowered[step] / positives), "roc_auc": area}
