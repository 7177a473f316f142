"""Windows of a day, a week or a month (UTC), and what was measured in each, with intervals and by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from matchmaking.evidence.bootstrap import bootstrap_weights, metric_scorer
from matchmaking.live.delay import Delay
from matchmaking.live.estimate import METRICS

Period = Literal["day", "week", "month"]
# of these metrics there is no use without some matches
NEED_POSITIVES = frozenset({"precision", "recall", "f1", "roc_auc", "average_precision"})


def starts(time: pd.Series, period: Period) -> pd.DatetimeIndex:
    """The start of the window that each time falls in: midnight UTC, of a Monday for weeks, of the 1st for months."""
    days = pd.DatetimeIndex(time).tz_convert("UTC").normalize()
    if period == "week":
        return days - pd.to_timedelta(days.dayofweek, unit="D")
    if period == "month":
        return days - pd.to_timedelta(days.day - 1, unit="D")
    return days


def end_of(start: pd.Timestamp, period: Period) -> pd.Timestamp:
    """The moment a window ends: the start of the next."""
    step = {"day": pd.DateOffset(days=1), "week": pd.DateOffset(weeks=1), "month": pd.DateOffset(months=1)}
    return start + step[period]


def measure(
    joined: pd.DataFrame,
    period: Period,
    now: pd.Timestamp,
    *,
    delay: Delay | None = None,
    slices: Sequence[str] = (),
    resamples: int = 200,
    confidence: float = 0.95,
    min_positives: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Each window's metrics on the pairs whose outcomes have come.

    Args:
        joined: the frame of `logs.join`: `time`, `probability`, `match` (missing where no outcome has come),
            `outcome_time`, and the columns of `slices`.
        period: of the windows.
        now: what is later hasn't happened yet.
        delay: says whether a window counts as measured; without one it does where all its outcomes have come.
        slices: columns to break windows down by.
        resamples: of the percentile bootstrap (Efron & Tibshirani, 1993, chapter 13), over pairs.
        confidence: of the interval, two-sided.
        min_positives: fewer matches than this: what needs matches has no value.
        seed: of the bootstrap; a window's interval doesn't depend on the other windows.

    Returns:
        A row for each window, slice and metric, in this order: `start`, `end` (UTC), `slice` and `value_of` (both
        empty for the whole window), `metric`, `value`, `low`, `high` (NaN where withheld), `withheld` (why; empty
        else), `rows`, `labelled`, `positives`, `completeness` (labelled pairs as a share of those whose outcome is
        expected at all) and `measured` (whether the window is old enough for its numbers to stay).
    """
    seen = joined[joined["time"].notna() & (joined["time"] <= now)]
    known = seen["match"].notna() & ~(seen["outcome_time"] > now)
    window = pd.Series(starts(seen["time"], period))
    found: list[dict[str, Any]] = []
    for start, place in sorted(window.groupby(window).indices.items()):
        stamp = pd.Timestamp(str(start))
        end = end_of(stamp, period)
        part, labelled = seen.iloc[place], known.iloc[place]
        expected = delay.ever if delay is not None and delay.ever else 1.0
        old = delay.is_mature(end, now) if delay is not None else bool(end <= now and labelled.all())
        for column, value, rows in _groups(part, slices):
            have = labelled.to_numpy()[rows]
            used = part.iloc[rows[have]]
            about = {"start": stamp, "end": end, "slice": column, "value_of": value}
            sizes = {
                "rows": len(rows),
                "labelled": int(have.sum()),
                "positives": int(used["match"].sum()),
                "completeness": min(float(have.mean()) / expected, 1.0),
                "measured": old,
            }
            match, probability = used["match"].to_numpy(dtype=np.int8), used["probability"].to_numpy(dtype=float)
            values = intervals(match, probability, resamples, confidence, min_positives, seed)
            found += [{**about, "metric": name, **values[name], **sizes} for name in METRICS]
    return pd.DataFrame(found)


def intervals(
    match: np.ndarray,
    probability: np.ndarray,
    resamples: int = 200,
    confidence: float = 0.95,
    min_positives: int = 10,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Each metric's `value`, `low`, `high` and `withheld`, on labelled pairs: arrays of shape (rows,)."""
    few = int(match.sum()) < max(min_positives, 1)
    nothing = {"value": np.nan, "low": np.nan, "high": np.nan}
    reason = "no outcome" if not len(match) else f"{int(match.sum())} matches, at least {min_positives} are needed"
    if match.all():
        # none, or where outcomes are told of matches only: then the others are among those that seem to be missing
        said = "outcomes of matches only" if len(match) else reason
        return {name: {**nothing, "withheld": said} for name in METRICS}
    score = metric_scorer(match, probability)
    tail = (1 - confidence) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        once = score(np.ones((1, len(match))))
        # one stratum: the number of matches differs from window to window, too
        drawn = [score(w) for w in bootstrap_weights(np.zeros(len(match)), resamples, np.random.default_rng(seed))]
        found: dict[str, dict[str, Any]] = {}
        for name in METRICS:
            if name in NEED_POSITIVES and few:
                found[name] = {**nothing, "withheld": reason}
                continue
            low, high = np.nanquantile(np.concatenate([one[name] for one in drawn]), [tail, 1 - tail])
            found[name] = {"value": float(once[name][0]), "low": float(low), "high": float(high), "withheld": ""}
    return found


def _groups(part: pd.DataFrame, slices: Sequence[str]) -> list[tuple[str, str, np.ndarray]]:
    """The whole window, then each value of each slice column, with the places of its rows."""
    groups = [("", "", np.arange(len(part)))]
    for column in slices:
        found = part.groupby(column, observed=True).indices
        groups += [(column, str(value), np.asarray(rows)) for value, rows in sorted(found.items())]
    return groups
