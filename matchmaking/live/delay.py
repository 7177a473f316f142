"""How late outcomes come, from the log itself, and from what age on a window counts as measured.

Pairs whose outcome hasn't come yet are right-censored: their delay is known to be longer than their age. Leaving them
out would make delays look short, the more so the younger the log. The share that has come by an age is therefore one
minus the product-limit estimate of Kaplan & Meier, "Nonparametric Estimation from Incomplete Observations", JASA 53,
1958, with Greenwood's variance ("The Natural Duration of Cancer", 1926).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

DAY = 86_400.0
# an age that fewer pairs than this have reached is not looked at
AT_RISK = 50
# maturity is believed once pairs this many times as old have been seen, and no more outcomes came
SEEN_BEYOND = 1.25


@dataclass(frozen=True)
class Delay:
    """The distribution of the label delay.

    Attributes:
        days: ages in days at which an outcome came, ascending, shape (n,).
        arrived: share of pairs whose outcome has come by then, shape (n,).
        error: its standard error (Greenwood), shape (n,).
        pairs: pairs looked at; `outcomes` of them have one.
        outcomes: see `pairs`.
        backwards: outcomes dated before their prediction; they say nothing about the delay and are left out.
        ever: share of pairs whose outcome comes at all, as far as the log reaches.
        mature_days: the age from which a window counts as measured; None where the log can't tell yet.
        reason: why it can't; empty where it can.
    """

    days: np.ndarray
    arrived: np.ndarray
    error: np.ndarray
    pairs: int
    outcomes: int
    backwards: int
    ever: float
    mature_days: float | None
    reason: str

    def share(self, age: np.ndarray | float) -> np.ndarray:
        """The share of pairs of this age in days whose outcome has come, in [0, 1], of the same shape."""
        steps = np.concatenate([[0.0], self.arrived])
        return steps[np.searchsorted(self.days, np.asarray(age, dtype=float), side="right")]

    def completeness(self, age: np.ndarray | float) -> np.ndarray:
        """The same as a share of those whose outcome ever comes."""
        return np.minimum(self.share(age) / self.ever, 1.0) if self.ever else np.zeros(np.shape(age))

    def is_mature(self, end: pd.Timestamp, now: pd.Timestamp) -> bool:
        """Whether a window that ended then counts as measured now."""
        return self.mature_days is not None and (now - end).total_seconds() / DAY >= self.mature_days


def estimate_delay(
    joined: pd.DataFrame, now: pd.Timestamp, *, complete: float = 0.98, recent_days: float | None = None
) -> Delay:
    """The label delay as the log shows it.

    Args:
        joined: the frame of `logs.join`: `time`, and `outcome_time` (NaT where none has come).
        now: what is later hasn't happened yet: later predictions are left out, later outcomes are still to come.
        complete: the share, of the outcomes that ever come, that makes a window of that age count as measured.
        recent_days: look at the predictions of the last days alone, for a delay that changes; None for all.
    """
    time, outcome = joined["time"], joined["outcome_time"]
    kept = time.notna() & (time <= now)
    # a labelled file has outcomes without a time: they say nothing about the delay
    if "match" in joined:
        kept &= ~(joined["match"].notna() & outcome.isna())
    if recent_days is not None:
        kept &= time > now - pd.Timedelta(days=recent_days)
    time, outcome = time[kept], outcome[kept]
    came = (outcome.notna() & (outcome <= now)).to_numpy()
    until = outcome.where(came, now)
    days = ((until - time).dt.total_seconds() / DAY).to_numpy()
    backwards = came & (days < 0)
    days, came = days[~backwards], came[~backwards]
    # how long each pair has been followed, with or without an outcome
    followed = np.sort(((now - time[~backwards]).dt.total_seconds() / DAY).to_numpy())
    curve = _product_limit(days, came)
    ever, mature, reason = _maturity(*curve[:2], followed, complete)
    return Delay(*curve, len(days), int(came.sum()), int(backwards.sum()), ever, mature, reason)


def _product_limit(days: np.ndarray, came: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ages at which outcomes came, the share arrived by then, and its standard error."""
    ages, counts = np.unique(days[came], return_counts=True)
    # under observation just before an age: those that had neither an outcome nor the end of the log before it
    risk = len(days) - np.searchsorted(np.sort(days), ages, side="left")
    left = np.cumprod(1 - counts / np.maximum(risk, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(risk > counts, counts / (risk * (risk - counts)), 0.0)
    return ages, 1 - left, left * np.sqrt(np.cumsum(terms))


def _maturity(
    ages: np.ndarray, arrived: np.ndarray, followed: np.ndarray, complete: float
) -> tuple[float, float | None, str]:
    """The share that ever comes, the age at which `complete` of that has come, and why not."""
    if not len(ages):
        return 0.0, None, "no outcome has come yet"
    # what fewer have been followed to says little
    oldest = float(followed[-AT_RISK]) if len(followed) >= AT_RISK else 0.0
    seen = int(np.searchsorted(ages, oldest, side="right"))
    if not seen:
        return float(arrived[-1]), None, f"fewer than {AT_RISK} pairs are old enough to tell"
    ever = float(arrived[seen - 1])
    mature = float(ages[np.searchsorted(arrived[:seen], complete * ever)])
    if oldest < SEEN_BEYOND * mature:
        return ever, None, f"outcomes still come at the age of {mature:.0f} days, and the log goes back {oldest:.0f}"
    return ever, mature, ""
