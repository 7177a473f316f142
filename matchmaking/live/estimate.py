"""Performance on pairs whose outcomes haven't come: calibrated confidence (CBPE, PAPE), and what features say besides.

CBPE reads the expected confusion matrix off calibrated probabilities: a pair with the calibrated probability c is c of
a match and 1 - c of none. PAPE first weights the reference, so that it has the window's distribution of features: the
density ratio comes from a classifier that tells the two apart, and the calibration is fitted under those weights.
Source of both: Bialek et al., "Estimating Model Performance Under Covariate Shift Without Labels", arXiv 2401.08348.

Both know a pair by its probability alone. Where a model misjudges a kind of pair, those of one probability differ, and
their chances aren't those of the reference, nor in a window of a few thousand pairs their mean. "robust" therefore
learns each pair's chance from its features as well, under PAPE's weights, and corrects what that leaves over by the
weighted calibration of PAPE: right where either the weights or the learnt chances are ("doubly robust": Bang & Robins,
Biometrics 61, 2005).

All see what the features and the probabilities show. What changes in the outcomes alone (concept drift) they cannot
see: there the estimate stays where it was, and only measurement tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from matchmaking.data.schema import CATEGORICAL, FEATURES, NUMERIC, TARGET
from matchmaking.evidence.bootstrap import metric_scorer

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

Floats = npt.NDArray[np.float64]
Method = Literal["cbpe", "pape", "robust"]
METRICS = ("accuracy", "precision", "recall", "f1", "roc_auc", "average_precision", "brier", "log_loss")
BINS = 60
FOLDS = 3
# of matches, and of others: a log of few others (outcomes are told of matches only, say) teaches nothing
LEAST_OF_A_CLASS = 50
# a weight above this is taken as this: one reference pair shouldn't speak for hundreds
MOST_WEIGHT = 20.0
# reference pairs that each classifier learns from: more take longer and tell hardly more about where a window differs
MOST_TAUGHT = 20_000
# share of the window's pairs that may be like none of the reference: coins thrown for so many move accuracy by 0.02
MOST_UNSUPPORTED = 0.05


@dataclass(frozen=True)
class Minimum:
    """Below any of these an estimate is withheld.

    Attributes:
        effective_positives: matches in the reference, after weighting (Kish), and as many that are none. A recall read
            off n of them has a standard error of about 0.4 / sqrt(n).
        effective_rows: pairs in the reference, after weighting (Kish).
        window_rows: pairs in the window.
    """

    effective_positives: float = 400
    effective_rows: float = 1_000
    window_rows: int = 200


@dataclass(frozen=True)
class Ratio:
    """What tells a window from its reference: see `density_ratio`.

    Attributes:
        weight: how much likelier each reference pair is in the window, with a mean of 1, shape (reference rows,).
        auc: how well the classifier tells the two apart on pairs it hasn't seen; 0.5 for not at all.
        beyond: of the window's pairs those that are `MOST_WEIGHT` times likelier there, and more: shape (window rows,).
    """

    weight: Floats
    auc: float
    beyond: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """One method's view of a window.

    Attributes:
        method: "cbpe", "pape" or "robust".
        rows: pairs in the window.
        effective_rows: the reference's effective sample size (Kish): its rows, for CBPE.
        effective_positives: the same of its matches.
        unsupported: share of the window's pairs that the reference says nothing of: with a category that it doesn't
            have or, but for CBPE, `MOST_WEIGHT` times likelier in the window than in it. No weight makes up for them.
        shift: how well the density-ratio classifier tells window and reference apart: an AUC, 0.5 for not at all;
            None for CBPE.
        metrics: by name the value, and its interval's `low` and `high`; empty where withheld.
        withheld: why there is no estimate; None where there is one.
    """

    method: Method
    rows: int
    effective_rows: float
    effective_positives: float
    unsupported: float
    shift: float | None
    metrics: dict[str, dict[str, float]]
    withheld: str | None


def expected_metrics(probability: Floats, chance: Floats) -> dict[str, Floats]:
    """The metrics of scores where each pair matches with a known chance: the expectation of CBPE.

    Ratios are ratios of expectations, AP and AUC those of the expected curve: they differ from the mean over drawn
    labels by terms of order 1 / matches.

    Args:
        probability: the model's probabilities, shape (rows,).
        chance: the chance of a match, shape (rows,), or (draws, rows) for several at once.

    Returns:
        Each of `METRICS`, shape (draws,).
    """
    chance = np.atleast_2d(chance)
    rows = len(probability)
    label = np.repeat([1, 0], rows)
    scored = metric_scorer(label, np.concatenate([probability, probability]))(np.hstack([chance, 1 - chance]))
    return {name: scored[name] for name in METRICS}


def kish(weight: Floats) -> float:
    """The effective sample size of weights (Kish, "Survey Sampling", 1965): (sum w)^2 / sum w^2."""
    squares = float(np.square(weight).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def estimate(
    reference: pd.DataFrame,
    window: pd.DataFrame,
    method: Method = "pape",
    *,
    minimum: Minimum | None = None,
    ratio: Ratio | None = None,
    chances: tuple[Floats, Floats] | None = None,
    resamples: int = 100,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """What a window's metrics are expected to be, without its outcomes.

    Args:
        reference: labelled pairs scored by the window's model, none of which it was trained on: `FEATURES`,
            `probability`, `match`; all of them mature, else early outcomes speak for all.
        window: the pairs to look at: `FEATURES`, `probability`.
        method: "cbpe"; "pape" for weights against covariate shift; "robust" for chances learnt from features as well.
        minimum: below what the estimate is withheld.
        ratio: what `density_ratio` gives, where it is known already: for part of a window, its part of it.
        chances: what `learnt_chances` gives, where it is known already, for "robust".
        resamples: of the reference and of the window's outcomes; the interval is of their percentiles. It is one for
            what will be measured on these pairs once all outcomes have come, if the concept doesn't drift.
        confidence: of the interval, two-sided.
        seed: of folds and resamples.
    """
    least = minimum or Minimum()
    match = reference[TARGET].to_numpy(dtype=float)
    weight, shift = np.ones(len(reference)), None
    unknown = _unknown(reference, window)
    why = too_few(reference, window, weight, least)
    if method != "cbpe" and not why:
        ratio = ratio or density_ratio(reference, window, seed=seed)
        weight, shift, unknown = ratio.weight, ratio.auc, unknown | ratio.beyond
        why = too_few(reference, window, weight, least)
    unsupported = float(unknown.mean()) if len(window) else 0.0
    if not why and unsupported > MOST_UNSUPPORTED:
        why = f"{unsupported:.0%} of its pairs are like none of the reference, at most {MOST_UNSUPPORTED:.0%} may be"
    rows, positives = kish(weight), kish(weight[match == 1])
    found: dict[str, dict[str, float]] = {}
    if not why:
        if method == "robust" and chances is None:
            chances = learnt_chances(reference, window, weight, seed=seed)
        found = _metrics(
            reference, window, match, weight, chances if method == "robust" else None, resamples, confidence, seed
        )
    return Estimate(method, len(window), rows, positives, unsupported, shift, found, why)


def too_few(reference: pd.DataFrame, window: pd.DataFrame, weight: Floats, least: Minimum) -> str | None:
    """Why an estimate from a reference so weighted is withheld; None where it isn't."""
    match = reference[TARGET].to_numpy(dtype=float)
    if len(window) < least.window_rows:
        return f"{len(window)} pairs in the window, at least {least.window_rows} are needed"
    if match.sum() < least.effective_positives:
        return f"{match.sum():.0f} matches in the reference, at least {least.effective_positives:g} are needed"
    others = kish(weight[match == 0])
    if others < least.effective_positives:
        # as of a log that is told of matches only
        return f"{others:.0f} pairs in the reference are no match, at least {least.effective_positives:g} are needed"
    rows, positives = kish(weight), kish(weight[match == 1])
    if rows < least.effective_rows or positives < least.effective_positives:
        return (
            f"the reference is worth {rows:.0f} pairs and {positives:.0f} matches, at least {least.effective_rows:g} "
            f"and {least.effective_positives:g} are needed"
        )
    return None


def _metrics(
    reference: pd.DataFrame,
    window: pd.DataFrame,
    match: Floats,
    weight: Floats,
    chances: tuple[Floats, Floats] | None,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    scores = window["probability"].to_numpy(dtype=float)
    probability = reference["probability"].to_numpy(dtype=float)
    chance = calibrate(probability, match, weight, scores, resamples, rng)
    if chances is not None:
        # what the features say of each pair, and what that leaves over where pairs have its probability
        of_reference, of_window = chances
        chance += of_window - calibrate(probability, of_reference, weight, scores, 0, rng, by=match)
    # the noise of what is left over takes some chances out of 0..1. Cut off there, it no longer evens out: the model
    # would look worse than it is, and the more so the fewer matches there are
    within = np.clip(chance, 0, 1)
    # what the outcomes will be is drawn as well: pairs with the same probability differ in ways it doesn't show
    drawn = rng.random(within[1:].shape) < within[1:]
    values = expected_metrics(scores, np.vstack([chance[:1], within[:1], drawn]))
    tail = (1 - confidence) / 2
    found = {}
    for name, value in values.items():
        most = np.inf if name == "log_loss" else 1.0
        # of very few matches the sums themselves can be beyond
        best = value[0] if 0 <= value[0] <= most else value[1]
        low, high = np.nanquantile(value[2:], [tail, 1 - tail]) + (best - value[1])
        found[name] = {"value": float(best), "low": float(max(low, 0.0)), "high": float(min(high, most))}
    return found


def calibrate(
    probability: Floats,
    match: Floats,
    weight: Floats,
    scores: Floats,
    resamples: int,
    rng: np.random.Generator,
    *,
    by: Floats | None = None,
) -> Floats:
    """Calibrated chances of a match by weighted histogram binning, and as many resamples of them.

    Zadrozny & Elkan, "Obtaining calibrated probability estimates from decision trees and naive Bayesian classifiers",
    ICML 2001; straight lines between the bins' means. Not isotonic: where a kind of pair that the model misjudges has
    become frequent, a higher score needn't be a higher chance. (After "demand" in `benchmarks.observe`, world 0, the
    estimated AP of a month is wrong by 0.011 on average, with isotonic regression by 0.018.) Bins hold equal shares of
    matches and of non-matches, together, so that they are narrow where either is. The resamples are the Bayesian
    bootstrap's (Rubin, Annals of Statistics 9, 1981), drawn a bin and class at a time: the sum of n exponential weights
    is a gamma variable, for weighted pairs one of the same mean and variance.

    Args:
        probability: of the reference, shape (rows,).
        match: its labels, 0 or 1, or chances between them, shape (rows,).
        weight: not negative, shape (rows,).
        scores: the probabilities to calibrate, shape (n,).
        resamples: how many, may be 0.
        rng: what draws.
        by: the labels that the bins are made by, where they aren't `match`.

    Returns:
        Shape (1 + resamples, n), the fit on the data first.
    """
    order = np.argsort(probability, kind="stable")
    p, y, w = probability[order], match[order], weight[order]
    label = y if by is None else by[order]
    mass = np.cumsum(label / max(label.sum(), 1) + (1 - label) / max((1 - label).sum(), 1)) / 2
    edges = np.minimum(np.searchsorted(mass, np.arange(1, BINS) / BINS), len(p) - 1)
    # pairs with the same probability stay together
    first = np.unique(np.concatenate([[0], np.searchsorted(p, p[edges], side="left")]))
    total = np.add.reduceat(w, first)
    place = np.add.reduceat(w * p, first) / np.maximum(total, 1e-12)
    by_class = []
    for share in (y, 1 - y):
        sums = np.add.reduceat(w * share, first)
        squares = np.add.reduceat(w**2 * share, first)
        shape = np.where(squares > 0, sums**2 / np.maximum(squares, 1e-300), 1.0)
        drawn = rng.gamma(shape, sums / shape, (resamples, len(first)))
        by_class.append(np.vstack([sums, drawn]))
    used = total > 0
    chances = np.empty((1 + resamples, len(scores)))
    for row, (positive, negative) in enumerate(zip(*by_class, strict=True)):
        both = np.maximum(positive + negative, 1e-300)
        chances[row] = np.interp(scores, place[used], (positive / both)[used])
    return chances


def density_ratio(reference: pd.DataFrame, window: pd.DataFrame, seed: int = 0) -> Ratio:
    """How much likelier each pair is in the window than in the reference, from a classifier that tells the two apart.

    Bickel et al., "Discriminative Learning Under Covariate Shift", JMLR 10, 2009: the odds of "window", times reference
    rows by window rows, of those that were learnt from. Cross-fitted: no pair is weighted by a classifier that has seen
    it. A weight is at most `MOST_WEIGHT`, before they are made to have a mean of 1.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    inputs = _inputs(reference, window)
    target = np.repeat([0, 1], [len(reference), len(window)])
    chance, odds = np.empty(len(target)), np.empty(len(target))
    rng = np.random.default_rng(seed)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(inputs, target):
        known, new = train[target[train] == 0], train[target[train] == 1]
        if len(known) > MOST_TAUGHT:
            known = rng.choice(known, MOST_TAUGHT, replace=False)
        train = np.sort(np.concatenate([known, new]))
        # shallow, and stopped where it learns nothing: without a shift the weights are to be even
        classifier = _boosting(80, 8, 100, seed)
        # on one thread: the work of each is so little that several wait for each other, on a machine that does more
        # than this ten times as long
        with threadpool_limits(1):
            chance[test] = classifier.fit(inputs[train], target[train]).predict_proba(inputs[test])[:, 1]
        odds[test] = chance[test] / np.maximum(1 - chance[test], 1e-9) * len(known) / len(new)
    weight = np.minimum(odds[: len(reference)], MOST_WEIGHT)
    return Ratio(weight / weight.mean(), float(roc_auc_score(target, chance)), odds[len(reference) :] >= MOST_WEIGHT)


def learnt_chances(
    reference: pd.DataFrame, window: pd.DataFrame, weight: Floats, seed: int = 0
) -> tuple[Floats, Floats]:
    """The chance of a match by a pair's features and probability, learnt from the reference's labels.

    Gradient boosting under the reference's weights, stopped where it learns no more. Cross-fitted: of a reference pair
    it is said by a classifier that hasn't seen it, of a window's pair by all of them, on average.

    Returns:
        Of the reference, shape (reference rows,), and of the window, shape (window rows,). All 0, which leaves the
        calibration as it is, where fewer than `LEAST_OF_A_CLASS` are matches, or aren't.
    """
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    inputs, rows = _inputs(reference, window), len(reference)
    match = reference[TARGET].to_numpy(dtype=int)
    of_reference, of_window = np.zeros(rows), np.zeros(len(window))
    if min(match.sum(), rows - match.sum()) < LEAST_OF_A_CLASS:
        return of_reference, of_window
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(inputs[:rows], match):
        classifier = _boosting(150, 15, 50, seed)
        with threadpool_limits(1):
            classifier.fit(inputs[train], match[train], sample_weight=weight[train])
            of_reference[test] = classifier.predict_proba(inputs[test])[:, 1]
            of_window += classifier.predict_proba(inputs[rows:])[:, 1] / FOLDS
    return of_reference, of_window


def _boosting(rounds: int, leaves: int, rows: int, seed: int) -> HistGradientBoostingClassifier:
    """At most so many trees of so many leaves, of so many rows each; fewer where they learn nothing any more."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=0.1,
        max_iter=rounds,
        max_leaf_nodes=leaves,
        min_samples_leaf=rows,
        l2_regularization=1.0,
        early_stopping=True,
        n_iter_no_change=5,
        random_state=seed,
    )


def _inputs(reference: pd.DataFrame, window: pd.DataFrame) -> Floats:
    """The features as numbers, categories by their place in the alphabet, and the probability as a logit."""
    both = pd.concat([reference[[*FEATURES, "probability"]], window[[*FEATURES, "probability"]]], ignore_index=True)
    columns: list[Any] = [pd.factorize(both[name], sort=True)[0].astype(float) for name in CATEGORICAL]
    columns += [both[name].to_numpy(dtype=float) for name in NUMERIC]
    p = both["probability"].to_numpy(dtype=float).clip(1e-6, 1 - 1e-6)
    return np.column_stack([*columns, np.log(p / (1 - p))])


def _unknown(reference: pd.DataFrame, window: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """The window's pairs with a category that the reference doesn't have."""
    new = np.zeros(len(window), dtype=bool)
    for name in CATEGORICAL:
        new |= ~window[name].isin(reference[name].unique()).to_numpy()
    return new
