"""When to say that production has become worse: a sequential rule with a stated error.

A metric that is looked at every day crosses any fixed limit by chance, sooner or later. Here each labelled pair is a
bet against "production is no worse than the reference by more than the tolerance". While that holds, no betting
strategy makes money on average; money that has been made is evidence that it doesn't (e-process: Timans et al., "On
Continuous Monitoring of Risk Violations under Unknown Shift", arXiv 2506.16416; Waudby-Smith & Ramdas, "Estimating
Means of Bounded Random Variables by Betting", JRSS B 86, 2024). As the change comes at an unknown day, a bet is started
anew each day and their wealth added up: a Shiryaev-Roberts e-detector (Shin, Ramdas & Rinaldo, "E-detectors", NEJSDS
2023, arXiv 2203.03532), whose average time to a false alarm is at least its threshold, in looks.

Bets are on a loss of each pair, in [0, 1], whose mean is the metric's. Accuracy, recall, precision and the Brier score
are such means. Average precision, AUC and log loss are made so: by their influence function at the reference (Hampel,
JASA 69, 1974), which is what one more pair adds to them, to first order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.evidence.metrics import THRESHOLD
from matchmaking.live.estimate import Floats

METRICS = ("accuracy", "precision", "recall", "roc_auc", "average_precision", "brier", "log_loss")
# how much worse than tolerated the bets are made for, in standard deviations of a pair's loss: of average precision,
# 0.02, 0.05 and 0.1 or so. A bet for less would tell small losses hardly sooner, and keep for months an alert that
# should be cleared (see `make bench-alerts`)
EFFECTS = (0.02, 0.05, 0.1)
# of the influence of one pair on AP: a few of the highest scores among the reference have much more
KEPT = 0.9995


@dataclass(frozen=True)
class Rule:
    """When an alert is raised and cleared.

    Attributes:
        tolerance: how much worse than the reference is still well, in the metric's own units, beside `loose`.
        quiet_looks: looks until a false alarm, on average and at least, however many metrics are watched: 365 daily
            ones are a year.
        streams: how many metrics and slices are watched under this rule; each gets its share of the error.
        clear: raised alerts are cleared once the evidence is below the threshold to this power, in (0, 1).
        loose: how many standard errors of the reference's own mean are tolerated, too: a reference is a sample.
    """

    tolerance: float = 0.0
    quiet_looks: float = 365.0
    streams: int = 1
    clear: float = 0.5
    loose: float = 1.0

    def __post_init__(self) -> None:
        if self.tolerance < 0 or self.quiet_looks <= 1 or self.streams < 1 or not 0 < self.clear < 1:
            raise InputError("alert rule: tolerance >= 0, quiet_looks > 1, streams >= 1 and 0 < clear < 1 are needed")

    @property
    def raise_at(self) -> float:
        """The evidence at which an alert is raised, as a logarithm."""
        return float(np.log(self.quiet_looks * self.streams))

    @property
    def clear_at(self) -> float:
        """The evidence below which it is cleared, as a logarithm."""
        return self.clear * self.raise_at


@dataclass(frozen=True)
class Loss:
    """A metric as a mean over pairs, fitted on a reference.

    Attributes:
        metric: one of `METRICS`.
        reference: its value there.
        mean: the mean loss there, in [0, 1], and the loss's standard deviation `deviation`, of `rows` pairs.
        deviation: see `mean`.
        rows: see `mean`.
        unit: how much the mean loss rises where the metric is worse by 1.
        low: the smallest and `high` the largest influence of a pair that counts, for the linearised metrics.
        high: see `low`.
        scores: the reference's scores, ascending, at which the influence is known: `of_match` and `of_none` a pair.
        of_match: see `scores`.
        of_none: see `scores`.
    """

    metric: str
    reference: float
    mean: float
    deviation: float
    rows: int
    unit: float
    low: float
    high: float
    scores: Floats
    of_match: Floats
    of_none: Floats

    def of(self, match: np.ndarray, probability: np.ndarray) -> Floats:
        """The losses of labelled pairs, in [0, 1]; of those alone that the metric is about (matches, for recall)."""
        y, p = np.asarray(match, dtype=float), np.asarray(probability, dtype=float)
        said = p >= THRESHOLD
        if self.metric == "accuracy":
            return (said != (y == 1)).astype(float)
        if self.metric == "precision":
            return 1 - y[said]
        if self.metric == "recall":
            return 1.0 - said[y == 1]
        if self.metric == "brier":
            return (p - y) ** 2
        if self.metric == "log_loss":
            influence = np.log(np.clip(np.where(y == 1, p, 1 - p), 1e-12, 1))
        else:
            influence = np.where(
                y == 1, np.interp(p, self.scores, self.of_match), np.interp(p, self.scores, self.of_none)
            )
        return (self.high - np.clip(influence, self.low, self.high)) / (self.high - self.low)


def fit_loss(metric: str, match: np.ndarray, probability: np.ndarray) -> Loss:
    """Makes a metric a mean over pairs, from labelled reference pairs that the model wasn't trained on.

    Raises:
        InputError: an unknown metric, or a reference with one class, or without a pair that the metric is about.
    """
    if metric not in METRICS:
        raise InputError(f"alert rule: '{metric}' can't be watched; choose one of {', '.join(METRICS)}")
    y, p = np.asarray(match, dtype=float), np.asarray(probability, dtype=float)
    if not 0 < y.sum() < len(y) or (metric == "precision" and not (p >= THRESHOLD).any()):
        raise InputError(f"alert rule: the reference has no pair, or one class alone, to know its {metric} by")
    value, low, high, unit = 0.0, 0.0, 1.0, 1.0
    scores = of_match = of_none = np.zeros(1)
    if metric in ("average_precision", "roc_auc"):
        influence = _ap_influence if metric == "average_precision" else _auc_influence
        value, scores, of_match, of_none = influence(y, p)
        known = np.where(y == 1, np.interp(p, scores, of_match), np.interp(p, scores, of_none))
        # that on AUC is bounded by itself
        tail = 1 - KEPT if metric == "average_precision" else 0.0
        low, high = (float(q) for q in np.quantile(known, [tail, 1 - tail]))
        unit = 1 / (high - low)
    elif metric == "log_loss":
        low, high = -10.0, 0.0
        unit = 0.1
    bare = Loss(metric, value, 0.0, 0.0, 0, unit, low, high, scores, of_match, of_none)
    losses = bare.of(y, p)
    if metric not in ("average_precision", "roc_auc"):
        mean = float(losses.mean())
        value = {"brier": mean, "log_loss": mean / unit}.get(metric, 1 - mean)
    return Loss(
        metric,
        value,
        float(losses.mean()),
        float(losses.std()),
        len(losses),
        unit,
        low,
        high,
        scores,
        of_match,
        of_none,
    )


def watch(loss: Loss, looks: Iterable[tuple[np.ndarray, np.ndarray]], rule: Rule) -> pd.DataFrame:
    """What the rule says at each look.

    A function of the whole history: run again, it says the same, and no state can be lost. Each pair is in one look,
    and in no look before its outcome can be expected: outcomes that come early aren't like the others.

    Args:
        loss: the metric, fitted on the reference.
        looks: the labels and probabilities of each look's pairs, in order of time; none is no evidence.
        rule: when to raise and clear.

    Returns:
        A row a look: `rows` (pairs bet on), `evidence` (a logarithm, to compare with `rule.raise_at`), `firing`,
        `raised` and `cleared` (whether it changed at this look).
    """
    limit = loss.mean + rule.tolerance * loss.unit + rule.loose * loss.deviation / np.sqrt(loss.rows)
    bets = _bets(loss, limit)
    wealth = np.full(len(bets), -np.inf)
    firing = False
    rows = []
    for match, probability in looks:
        losses = loss.of(match, probability)
        gain = np.log1p(np.outer(bets, losses - limit)).sum(axis=1)
        # e * (1 + M): every bet so far goes on, and one starts today
        wealth = gain + np.logaddexp(0, wealth)
        evidence = float(np.logaddexp.reduce(wealth) - np.log(len(bets)))
        # wealth beyond what it takes is given away: it would only delay the clearing
        wealth -= max(0.0, evidence - rule.raise_at)
        before = firing
        firing = evidence >= (rule.clear_at if firing else rule.raise_at)
        rows.append(
            {
                "rows": len(losses),
                "evidence": evidence,
                "firing": firing,
                "raised": firing and not before,
                "cleared": before and not firing,
            }
        )
    return pd.DataFrame(rows, columns=["rows", "evidence", "firing", "raised", "cleared"])


def _bets(loss: Loss, limit: float) -> Floats:
    """The share of the wealth that each bet puts on a loss above the limit: best for one of `EFFECTS` each.

    An excess d over the limit is won fastest by d / (variance + d^2), to second order; below 1 / limit no bet can lose
    everything.
    """
    effects = np.array(EFFECTS)
    return np.minimum(effects / (max(loss.deviation, 1e-9) * (1 + effects**2)), 0.5 / max(limit, 1e-9))


def _ap_influence(y: Floats, p: Floats) -> tuple[float, Floats, Floats, Floats]:
    """Average precision, and the influence of a match and of a non-match on it, by score.

    With precision P(s) and share B(s) among the scores of at least s, and the match rate r, AP is the mean of P over
    matches. One more match at s counts by its own precision, (P(s) - AP) / r; and it lifts, a non-match lowers, the
    precision at each match scored no higher: by (y - P(t)) / B(t), integrated over the distribution of the matches' t.
    """
    scores, index = np.unique(p, return_inverse=True)
    every, matches = np.bincount(index).astype(float), np.bincount(index, weights=y)
    n, total = every.sum(), matches.sum()
    at_least, matched = np.cumsum(every[::-1])[::-1], np.cumsum(matches[::-1])[::-1]
    precision, share = matched / at_least, at_least / n
    ap = float((matches * precision).sum() / total)
    by_one = np.cumsum(matches / total / share)
    by_precision = np.cumsum(matches / total * precision / share)
    return ap, scores, (precision - ap) / (total / n) + by_one - by_precision, -by_precision


def _auc_influence(y: Floats, p: Floats) -> tuple[float, Floats, Floats, Floats]:
    """ROC AUC, and the influence of a match and of a non-match: the share of the others it is ranked right with."""
    scores, index = np.unique(p, return_inverse=True)
    matches = np.bincount(index, weights=y)
    others = np.bincount(index) - matches
    rate = y.mean()
    below = (np.cumsum(others) - others / 2) / others.sum()
    above = 1 - (np.cumsum(matches) - matches / 2) / matches.sum()
    auc = float((below * matches).sum() / matches.sum())
    return auc, scores, (below - auc) / rate, (above - auc) / (1 - rate)
