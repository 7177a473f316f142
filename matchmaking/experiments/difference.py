"""The difference between two arms, whose clients are of different size: ratios with cluster-robust variance.

All that is needed of the clients are their moments, by look and arm; so a look costs nothing, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A difference of two ratios at each look; arrays of shape (looks,).

    Attributes:
        champion: its ratio, as it is.
        challenger: its ratio, as it is.
        estimate: challenger less champion; adjusted, where that was asked for.
        variance: of the estimate.
        plain: the variance without adjustment.
        clients: of the champion and of the challenger, shape (looks, 2).
    """

    champion: Floats
    challenger: Floats
    estimate: Floats
    variance: Floats
    plain: Floats
    clients: Floats


def moments(
    challenger: npt.NDArray[np.bool_], look: npt.NDArray[np.intp], looks: int, columns: tuple[Floats, ...]
) -> Floats:
    """Sums of the products of 1 and each client's values, over the clients counted by each look.

    Args:
        challenger: whose client it is, shape (clients,).
        look: the first look that counts it, from 0, shape (clients,); one at `looks` or later is not counted.
        looks: how many.
        columns: values, each of shape (clients,).

    Returns:
        Shape (looks, 2, k, k), with k = 1 + len(columns); the champion first.
    """
    used = look < looks
    values = [np.ones(int(used.sum())), *(np.asarray(one, dtype=float)[used] for one in columns)]
    place = look[used] * 2 + challenger[used]
    size = len(values)
    found = np.empty((looks, 2, size, size))
    for row in range(size):
        for column in range(row, size):
            sums = np.bincount(place, weights=values[row] * values[column], minlength=2 * looks).reshape(looks, 2)
            found[:, :, row, column] = found[:, :, column, row] = np.cumsum(sums, axis=0)
    return found


def difference(sums: Floats, adjust: bool = False) -> Difference:
    """The difference of two arms' ratios sum(y) / sum(d), adjusted by a covariate's ratio sum(x) / sum(d).

    The ratio's influence of a client is (y - R d) / mean(d), its variance the mean square of that: the delta method
    with clients as clusters (Deng, Knoblich & Lu, "Applying the delta method in metric analytics", KDD 2018).
    Adjusted, theta (x's difference) is taken off, with the theta that leaves the least variance: CUPED (Deng, Xu,
    Kohavi & Walker, WSDM 2013) for ratios. With a covariate that no arm can change it stays without bias.

    Args:
        sums: `moments` of (y, d) or of (y, d, x), shape (..., looks, 2, k, k).
        adjust: whether to use x.

    Returns:
        NaN where an arm has no client, or none with d > 0.
    """
    count, y, d = sums[..., 0, 0], sums[..., 0, 1], sums[..., 0, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, size = y / d, d / count
        slope = np.zeros(count.shape[:-1])
        by = np.zeros_like(ratio)
        if adjust:
            by = sums[..., 0, 3] / d
            both = _product(sums, _weights(ratio, size, None), _weights(by, size, 3)) / count**2
            alone = _product(sums, _weights(by, size, 3), _weights(by, size, 3)) / count**2
            slope = both.sum(axis=-1) / alone.sum(axis=-1)
            # a covariate that is the same for all says nothing
            slope = np.where(alone.sum(axis=-1) > 0, slope, 0.0)
        plain = _weights(ratio, size, None)
        adjusted = plain - slope[..., None, None] * _weights(by, size, 3) if adjust else plain
        variance = (_product(sums, adjusted, adjusted) / count**2).sum(axis=-1)
        unadjusted = (_product(sums, plain, plain) / count**2).sum(axis=-1)
        gap = (ratio[..., 1] - ratio[..., 0]) - slope * (by[..., 1] - by[..., 0])
    return Difference(ratio[..., 0], ratio[..., 1], gap, variance, unadjusted, count)


def _weights(ratio: Floats, size: Floats, column: int | None) -> Floats:
    """A client's influence on a ratio as weights of its (1, y, d[, x]); shape (..., 2, 3 or 4).

    `column` is that of the numerator: None for y, which leaves room for an x where there is one.
    """
    width = 4
    weights = np.zeros((*ratio.shape, width))
    weights[..., 1 if column is None else column] = 1 / size
    weights[..., 2] = -ratio / size
    return weights


def _product(sums: Floats, left: Floats, right: Floats) -> Floats:
    width = sums.shape[-1]
    return np.einsum("...i,...ij,...j->...", left[..., :width], sums, right[..., :width])
