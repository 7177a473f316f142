"""Each window estimated as of its end: from the outcomes that had come by then, and from no other.

So an estimate can be held against what was measured later. What an earlier run has estimated of the same pairs is taken
over: that knew production's model of its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from matchmaking.data.schema import CATEGORICAL, FEATURES, TARGET
from matchmaking.live import record
from matchmaking.live.delay import estimate_delay
from matchmaking.live.estimate import (
    METRICS,
    Estimate,
    Floats,
    Method,
    Minimum,
    Ratio,
    density_ratio,
    estimate,
    learnt_chances,
    too_few,
)
from matchmaking.live.windows import Period, end_of, starts

REFERENCE_DAYS = 180
# more pairs than these tell nothing more: of a reference or a window as many are drawn
MOST_PAIRS = 60_000
# and of those that tell the label delay as of a window's end
MOST_DELAYS = 40_000
# a density-ratio classifier that does no better than this tells nothing apart, and its weights are noise
NO_SHIFT = 0.55
SAY_SECONDS = 5.0
METHOD: Method = "robust"

Score = Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class Serving:
    """Production's model of now.

    Attributes:
        model: the sha256 of its .h5.
        score: its probabilities, shape (rows,), of pairs given by their features.
    """

    model: str
    score: Score


@dataclass(frozen=True)
class _Learnt:
    """What a window and its reference tell, which their slices share: see `density_ratio` and `learnt_chances`."""

    ratio: Ratio
    of_reference: Floats
    of_window: Floats


class Estimates:
    """The estimates of all windows; holds what they share, so that nothing is scored or sorted twice."""

    def __init__(
        self,
        frame: pd.DataFrame,
        period: Period,
        now: pd.Timestamp,
        serving: Serving | None,
        earlier: pd.DataFrame | None,
        slices: Sequence[str],
        minimum: Minimum,
        seed: int,
        timed: bool,
    ) -> None:
        # in order of time, as `logs` gives it, so that a span of time is a span of rows
        seen = frame[frame["time"].notna() & (frame["time"] <= now)].reset_index(drop=True)
        # rows are taken and compared some thousand times, and codes are quicker than texts
        self.frame = seen.astype(dict.fromkeys(CATEGORICAL, "category"))
        self.times = _nanoseconds(self.frame["time"])
        self.period, self.now, self.serving, self.timed = period, now, serving, timed
        self.slices, self.minimum, self.seed = slices, minimum, seed
        self.earlier = _by_start(earlier)
        # the model's of now, for the pairs that another scored; NaN where it hasn't been asked
        self.rescored = np.full(len(self.frame), np.nan)

    def make(self, say: Callable[[str], None]) -> pd.DataFrame:
        """A row for each window, slice and metric: `record.KEY` and the columns of estimates."""
        windows = sorted(pd.Series(starts(self.frame["time"], self.period)).unique())
        found, said, reused = [], time.monotonic(), 0
        for number, start in enumerate(windows, start=1):
            kept = self._known(start)
            reused += kept is not None
            found.append(self._window(start) if kept is None else kept)
            if time.monotonic() - said > SAY_SECONDS or number == len(windows):
                said = time.monotonic()
                say(f"estimated {number} of {len(windows)} windows, {reused} of them by an earlier run")
        return pd.concat(found, ignore_index=True)

    def _rows(self, first: pd.Timestamp, last: pd.Timestamp) -> slice:
        """The rows from a time on, until another, which isn't in it."""
        low, high = np.searchsorted(self.times, _nanoseconds(pd.Series([first, last])))
        return slice(int(low), int(high))

    def _known(self, start: pd.Timestamp) -> pd.DataFrame | None:
        """What an earlier run has estimated when the window had ended, of the same pairs."""
        old = self.earlier.get(start)
        if old is None or old["estimate"].isna().all():
            return None
        end = end_of(start, self.period)
        part = self.frame.iloc[self._rows(start, end)]
        whole = old[old["slice"] == ""].iloc[0]
        same = whole["rows"] == len(part) and whole["model"] == most(part["model"]) and whole["estimated_at"] == end
        return old[[*record.KEY, *_ESTIMATED]] if same else None

    def _window(self, start: pd.Timestamp) -> pd.DataFrame:
        end = end_of(start, self.period)
        at = min(end, self.now)
        # up to `now` with it: the frame has none that is later
        part = self.frame.iloc[self._rows(start, end)]
        model = most(part["model"])
        # two models' scores don't go together: those of the one with most pairs tell
        part = draw(part[part["model"] == model], self.seed)
        reference, why = self._reference(model, at)
        whole, learnt = self._whole(reference, part, why)
        found = [_estimate_rows(start, "", "", at, whole)]
        for column in self.slices:
            window_groups = part.groupby(column, observed=True).indices
            groups = reference.groupby(column, observed=True).indices
            for value, rows in sorted(window_groups.items()):
                of_reference = np.asarray(groups.get(value, []), dtype=int)
                one = self._slice(reference, part, of_reference, np.asarray(rows), whole, learnt)
                found.append(_estimate_rows(start, column, str(value), at, one))
        return pd.concat(found, ignore_index=True)

    def _whole(self, reference: pd.DataFrame, part: pd.DataFrame, why: str) -> tuple[Estimate, _Learnt | None]:
        if why:
            return Estimate(METHOD, len(part), 0, 0, 0, None, {}, why), None
        even = np.ones(len(reference))
        if too_few(reference, part, even, self.minimum):
            return estimate(reference, part, METHOD, minimum=self.minimum, seed=self.seed), None
        ratio = density_ratio(reference, part, seed=self.seed)
        if ratio.auc < NO_SHIFT and too_few(reference, part, ratio.weight, self.minimum):
            # there is nothing that weights could make up for
            ratio = replace(ratio, weight=even)
        if too_few(reference, part, ratio.weight, self.minimum):
            # none: a slice that is worth enough by itself is calibrated by its probabilities alone
            chances = np.zeros(len(reference)), np.zeros(len(part))
        else:
            chances = learnt_chances(reference, part, ratio.weight, seed=self.seed)
        learnt = _Learnt(ratio, *chances)
        found = estimate(reference, part, METHOD, minimum=self.minimum, ratio=ratio, chances=chances, seed=self.seed)
        return found, learnt

    def _slice(
        self,
        reference: pd.DataFrame,
        part: pd.DataFrame,
        of_reference: np.ndarray,
        of_part: np.ndarray,
        whole: Estimate,
        learnt: _Learnt | None,
    ) -> Estimate:
        if learnt is None:
            return replace(whole, rows=len(of_part), effective_rows=0, effective_positives=0, metrics={})
        weight = learnt.ratio.weight[of_reference]
        mean = float(weight.mean()) if len(weight) else 1.0
        return estimate(
            reference.iloc[of_reference],
            part.iloc[of_part],
            METHOD,
            minimum=self.minimum,
            ratio=replace(learnt.ratio, weight=weight / (mean or 1.0), beyond=learnt.ratio.beyond[of_part]),
            chances=(learnt.of_reference[of_reference], learnt.of_window[of_part]),
            resamples=60,
            seed=self.seed,
        )

    def _reference(self, model: str, at: pd.Timestamp) -> tuple[pd.DataFrame, str]:
        """Pairs whose outcomes were all there at that time, scored by a model; or why there are none."""
        nothing = self.frame.iloc[:0]
        if not self.timed:
            return nothing, "it isn't known when outcomes came"
        seen = self._rows(pd.Timestamp(0, tz="UTC"), at)
        step = max(1, (seen.stop - seen.start) // MOST_DELAYS)
        delay = estimate_delay(self.frame.iloc[seen][::step], at)
        if delay.mature_days is None:
            return nothing, delay.reason
        last = at - pd.Timedelta(days=delay.mature_days)
        span = self._rows(last - pd.Timedelta(days=REFERENCE_DAYS), last)
        rows = self.frame.iloc[span]
        rows = rows[(rows[TARGET].notna() & (rows["outcome_time"] <= at)).to_numpy()]
        if self.serving is None or model != self.serving.model:
            own = rows[rows["model"] == model]
            why = "the pairs old enough were scored by other models" if len(rows) and not len(own) else ""
            return draw(own, self.seed), why
        rows = draw(rows, self.seed)
        other = (rows["model"] != model).to_numpy()
        if other.any():
            places = rows.index.to_numpy()[other]
            new = places[np.isnan(self.rescored[places])]
            if len(new):
                texts = self.frame.loc[new, list(FEATURES)].astype(dict.fromkeys(CATEGORICAL, object))
                self.rescored[new] = self.serving.score(texts)
            probability = rows["probability"].to_numpy().copy()
            probability[other] = self.rescored[places]
            rows = rows.assign(probability=probability)
        return rows, ""


_ESTIMATED = [
    *("estimate", "estimate_low", "estimate_high", "estimate_withheld"),
    *("effective_rows", "effective_positives", "method", "estimated_at", "unsupported"),
]


def _estimate_rows(start: pd.Timestamp, column: str, value_of: str, at: pd.Timestamp, found: Estimate) -> pd.DataFrame:
    none = {"value": np.nan, "low": np.nan, "high": np.nan}
    rows = []
    for metric in METRICS:
        values = found.metrics.get(metric, none)
        rows.append(
            {
                **dict(zip(record.KEY, (start, column, value_of, metric), strict=True)),
                "estimate": values["value"],
                "estimate_low": values["low"],
                "estimate_high": values["high"],
                "estimate_withheld": found.withheld or "",
                "effective_rows": found.effective_rows,
                "effective_positives": found.effective_positives,
                "method": "" if found.withheld else found.method,
                "estimated_at": at,
                "unsupported": found.unsupported,
            }
        )
    return pd.DataFrame(rows)


def _by_start(earlier: pd.DataFrame | None) -> dict[pd.Timestamp, pd.DataFrame]:
    return {} if earlier is None else {pd.Timestamp(str(s)): rows for s, rows in earlier.groupby("start")}


def _nanoseconds(times: pd.Series) -> np.ndarray:
    """Since 1970, as whole numbers."""
    return pd.DatetimeIndex(times).as_unit("ns").asi8


def draw(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """At most `MOST_PAIRS` of them, in the order that they have."""
    if len(rows) <= MOST_PAIRS:
        return rows
    return rows.iloc[np.sort(np.random.default_rng(seed).choice(len(rows), MOST_PAIRS, replace=False))]


def most(models: pd.Series) -> str:
    """The model with most pairs, of several the first in the alphabet."""
    counts = models.value_counts()
    return str(min(counts[counts == counts.max()].index)) if len(counts) else ""
