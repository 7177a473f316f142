"""How long an experiment has to be: a power calculation, by clients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from matchmaking.base.errors import InputError
from matchmaking.experiments.difference import difference, moments
from matchmaking.experiments.sequences import asymptotic_radius


@dataclass(frozen=True)
class Plan:
    """How many clients, of both arms together, it takes to show an effect.

    Attributes:
        sequential: with a look every day, at the latest; a true gain of the effect is shown by then with the stated
            power, and most often well before.
        fixed: with one look at the end.
        rate: the champion's match rate.
        deviation: the standard deviation of a client's influence on it, without adjustment.
        shortened: how much shorter adjustment makes the test: 1 less the ratio of the variances.
    """

    sequential: int
    fixed: int
    rate: float
    deviation: float
    shortened: float


def plan(
    clients: pd.DataFrame, metric: str, effect: float, alpha: float = 0.05, power: float = 0.8, adjust: bool = True
) -> Plan:
    """Clients that are needed, in two arms of equal size.

    The difference of two arms of n / 2 clients each has the variance 4 sigma^2 / n. One look shows an effect with the
    power wanted once effect sqrt(n) / (2 sigma) = z(1 - alpha / 2) + z(power); the sequence, tuned for n, once it is
    its own radius at n + z(power).

    Args:
        clients: those of the past, all champion's: `pairs`, `matches`, and `score` for adjustment, as
            `units.client_outcomes` gives them.
        metric: `match_rate` or `client_match_rate`.
        effect: the smallest difference worth having.
        alpha: two-sided.
        power: to show a true difference of that size.
        adjust: by the champion's score, where all clients have one.

    Raises:
        InputError: fewer than two clients with pairs, or clients that are all the same.
    """
    columns, adjusted = columns_of(clients, metric, adjust)
    used = clients["pairs"].to_numpy() > 0
    if used.sum() < 2:
        raise InputError("power: there are no clients with pairs to know their spread by")
    # the same clients in both arms: half the variance of the difference is that of one
    arms = np.repeat([False, True], len(clients))
    sums = moments(arms, np.zeros(len(arms), dtype=int), 1, tuple(np.tile(one, 2) for one in columns))
    found = difference(sums, adjust=adjusted)
    spread = float(found.variance[0]) / 2 * len(clients)
    if not spread > 0:
        raise InputError(
            "power: the clients' match rates don't differ at all; there is nothing to know their spread by"
        )
    base, target = 4 * spread / effect**2, float(ndtri(power))
    fixed = base * (float(ndtri(1 - alpha / 2)) + target) ** 2
    # tuned for its own length, the sequence's radius there is one number
    sequential = base * (float(asymptotic_radius(1e6, alpha, 1e6)) + target) ** 2
    plain = float(found.plain[0]) / 2 * len(clients)
    return Plan(math.ceil(sequential), math.ceil(fixed), float(found.champion[0]), math.sqrt(plain), 1 - spread / plain)


def columns_of(clients: pd.DataFrame, metric: str, adjust: bool) -> tuple[tuple[np.ndarray, ...], bool]:
    """A client's numerator, denominator and covariate under a metric, and whether the covariate can be used.

    It can where every client that has pairs has one: those without would not be any clients.
    """
    pairs, matches = clients["pairs"].to_numpy(dtype=float), clients["matches"].to_numpy(dtype=float)
    score = clients["score"].to_numpy(dtype=float) if "score" in clients else np.full(len(clients), np.nan)
    some = pairs > 0
    usable = adjust and bool(np.isfinite(score[some]).all())
    score = np.where(some & usable, score, 0.0)
    if metric == "client_match_rate":
        each = np.maximum(pairs, 1)
        # more matches than pairs can't be: an outcome that was logged twice
        return (np.minimum(matches / each, 1.0), some.astype(float), score / each), usable
    return (matches, pairs, score), usable
