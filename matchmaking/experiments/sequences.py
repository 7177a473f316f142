"""Confidence sequences: intervals that hold at every look at once, however often one looks and whenever one stops.

Checked against the values of `ville` 0.1.0, an independent implementation, and by simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import lambertw, ndtri, zeta

Floats = npt.NDArray[np.float64]
# bets never put more than this on one client: the wealth stays above zero, whatever comes
_MOST = 0.5


def mixture_scale(alpha: float, tuned_at: float) -> float:
    """The rho that makes the asymptotic sequence narrowest at `tuned_at` units.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
    sequences", arXiv 2103.06476, appendix on choosing rho: rho^2 t = -W_{-1}(-alpha^2 / e) - 1.
    """
    return float(np.sqrt((-lambertw(-(alpha**2) * np.exp(-1), -1).real - 1) / tuned_at))


def asymptotic_radius(n: npt.ArrayLike, alpha: float, tuned_at: float, one_sided: bool = False) -> Floats:
    """Half the width of an asymptotic confidence sequence for a mean, in standard errors of it.

    Source: arXiv 2103.06476, theorem 2.2, times sqrt(n) / sigma; one-sided its proposition B.1.

    Args:
        n: units at each look, any shape.
        alpha: the error over all looks.
        tuned_at: the number of units at which it is narrowest; fixed beforehand.
        one_sided: a bound on one side alone.
    """
    # proposition B.1's bound at alpha is close to theorem 2.2's at 2 alpha
    scale = mixture_scale(min(2 * alpha, 0.99) if one_sided else alpha, tuned_at)
    spread = np.maximum(np.asarray(n, dtype=float), 1) * scale**2 + 1
    level = np.log1p(np.sqrt(spread) / (2 * alpha)) if one_sided else np.log(np.sqrt(spread) / alpha)
    return np.sqrt(2 * spread / (spread - 1) * level)


def asymptotic_sequence(
    estimate: Floats, variance: Floats, n: Floats, alpha: float, tuned_at: float
) -> tuple[Floats, Floats]:
    """The asymptotic confidence sequence around an estimate that is a mean of influences, to first order.

    Source: arXiv 2103.06476, theorem 2.2. A difference of two arms' ratios is such an estimate; of n units in all with
    variance s_1^2 / n_1 + s_0^2 / n_0 it is a mean of n influences of variance n (s_1^2 / n_1 + s_0^2 / n_0).

    Args:
        estimate: at each look, shape (looks,).
        variance: of the estimate, shape (looks,).
        n: units of both arms, shape (looks,).
        alpha: the error, two-sided, over all looks.
        tuned_at: see `asymptotic_radius`.

    Returns:
        The lower and upper bounds, shape (looks,).
    """
    radius = asymptotic_radius(n, alpha, tuned_at) * np.sqrt(variance)
    return estimate - radius, estimate + radius


def fixed_interval(estimate: Floats, variance: Floats, alpha: float) -> tuple[Floats, Floats]:
    """The usual interval, which holds at one look that was chosen beforehand, and at that alone."""
    radius = ndtri(1 - alpha / 2) * np.sqrt(variance)
    return estimate - radius, estimate + radius


def running(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """What all looks so far leave: the largest lower and the smallest upper bound.

    All of them hold at once, so their intersection does.
    """
    return np.maximum.accumulate(low), np.minimum.accumulate(high)


@dataclass(frozen=True)
class Betting:
    """A betting confidence sequence for a difference of two means in [0, 1].

    Attributes:
        estimate: at each look, shape (looks,), as are the others.
        low: the running lower bound.
        high: the running upper bound.
        above: the logarithm of the wealth of who bets on a difference above `null`; evidence for that.
        below: the same of who bets on one below it.
    """

    estimate: Floats
    low: Floats
    high: Floats
    above: Floats
    below: Floats


def pseudo_outcomes(value: Floats, challenger: npt.NDArray[np.bool_], share: float) -> Floats:
    """Of each unit what is, on average and given those before it, the difference between the arms.

    Source: inverse-probability weighting with a predictable centre, as in Waudby-Smith, Wu, Ramdas, Karampatziakis &
    Mineiro, "Anytime-valid off-policy inference for contextual bandits", arXiv 2210.10768: (Y - m) (A/p - (1-A)/(1-p)),
    m being the mean of the outcomes before. In +-1 / min(p, 1 - p).

    Args:
        value: outcomes in [0, 1], in order, shape (units,).
        challenger: who got it, shape (units,).
        share: the probability of that.
    """
    count = np.arange(len(value))
    centre = np.where(count > 0, np.concatenate([[0.0], np.cumsum(value)[:-1]]) / np.maximum(count, 1), 0.5)
    return (value - centre) * np.where(challenger, 1 / share, -1 / (1 - share))


def betting_sequence(
    value: Floats,
    challenger: npt.NDArray[np.bool_],
    share: float,
    looks: Sequence[int],
    alpha: float,
    *,
    planned: int | None = None,
    null: float = 0.0,
    grid: int = 2001,
) -> Betting:
    """The hedged capital confidence sequence for the difference of two arms' means: no asymptotics, any size.

    Source: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024, theorem
    3: of every m the capitals prod(1 +- lambda_i (x_i - m)) are fair games where m is the mean. The bets are its
    predictable plug-in ones, sqrt(2 log(2/alpha) / (variance i log(1 + i))), truncated at 0.5 / m and 0.5 / (1 - m); or
    with `planned`, the best for that many: it stands in place of i log(1 + i). The data are `pseudo_outcomes`.

    Args:
        value: outcomes in [0, 1], in order, shape (units,).
        challenger: who got it, shape (units,).
        share: the probability of that, known from the assignment.
        looks: numbers of units at the looks, ascending.
        alpha: the error over all looks.
        planned: units that the bets are best for.
        null: the difference that `above` and `below` are evidence against.
        grid: of differences in [-1, 1]; the bounds are widened to the next of them.
    """
    reach = 1 / min(share, 1 - share)
    x = (pseudo_outcomes(value, challenger, share) + reach) / (2 * reach)
    i = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (i + 1)
    spread = (0.25 + np.cumsum((x - mean) ** 2)) / (i + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    bets = np.sqrt(2 * np.log(2 / alpha) / (before * (i * np.log1p(i) if planned is None else planned)))
    points = np.concatenate([np.linspace(-1, 1, grid), [null]])
    m = (points + reach) / (2 * reach)
    above, below = np.zeros(grid + 1), np.zeros(grid + 1)
    shape = len(looks)
    found = Betting(np.full(shape, np.nan), *(np.zeros(shape) for _ in range(4)))
    # what has been left out once stays out, so only the rest and `null` go on; `null` is the last
    left, done = np.arange(grid), 0
    for look, until in enumerate(looks):
        on = np.append(left, grid)
        # blocks that fit a processor's cache
        for start in range(done, until, block := max(1, 100_000 // len(on))):
            part = slice(start, min(start + block, until))
            gap, bet = x[part, None] - m[on], bets[part, None]
            above[on] += np.log1p(np.minimum(bet, _MOST / m[on]) * gap).sum(axis=0)
            below[on] += np.log1p(-np.minimum(bet, _MOST / (1 - m[on])) * gap).sum(axis=0)
        done = max(done, until)
        left = left[np.maximum(above, below)[left] - np.log(2) < -np.log(alpha)]
        # where nothing is left, the data contradict the assignment; the interval is then empty
        low, high = (left[0], left[-1]) if len(left) else (grid - 1, 0)
        found.low[look] = points[max(low - 1, 0)] if len(left) else points[low]
        found.high[look] = points[min(high + 1, grid - 1)] if len(left) else points[high]
        found.above[look], found.below[look] = above[-1], below[-1]
        if until:
            found.estimate[look] = (2 * x[:until].mean() - 1) * reach
    return found


def stitched_boundary(v: npt.ArrayLike, alpha: float, scale: float, start: float = 1.0) -> Floats:
    """A curve that a sub-exponential process of intrinsic time v crosses with probability alpha at most.

    Source: Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences",
    Annals of Statistics 49, 2021, theorem 1 with eta = 2 and h(k) proportional to k^1.4.
    """
    eta, power = 2.0, 1.4
    time = np.maximum(np.asarray(v, dtype=float), start)
    level = power * np.log(np.log(eta * time / start)) + np.log(zeta(power) / (alpha * np.log(eta) ** power))
    first, second = (eta**0.25 + eta**-0.25) / np.sqrt(2), (np.sqrt(eta) + 1) / 2
    return np.sqrt(first**2 * time * level + (second * scale * level) ** 2) + second * scale * level


def forecast_sequence(difference: Floats, alpha: float) -> tuple[Floats, Floats, Floats]:
    """Two models on the same pairs: by how much one's score is better, on average so far.

    Source: Choe & Ramdas, "Comparing sequential forecasters", arXiv 2110.00115, theorem 2: of differentials in [-1, 1],
    with the mean before each as its prediction, the sum of squared errors is the intrinsic time of a sub-exponential
    process of scale 2. The pairs may come from anywhere, also from a world that changes.

    Args:
        difference: score of one less that of the other, each in [-1, 1], in order, shape (units,).
        alpha: the error over all times, two-sided.

    Returns:
        The mean difference so far, its lower and its upper bound, each of shape (units,).
    """
    i = np.arange(1, len(difference) + 1)
    mean = np.cumsum(difference) / i
    time = np.cumsum((difference - np.concatenate([[0.0], mean[:-1]])) ** 2)
    radius = stitched_boundary(time, alpha / 2, 2.0) / i
    return mean, np.maximum(mean - radius, -1.0), np.minimum(mean + radius, 1.0)
