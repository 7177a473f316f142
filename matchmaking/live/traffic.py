"""Months of production traffic whose every answer is known: volume, drift, champions and late outcomes.

Pairs come from `matchmaking.sample`, whose true probabilities are known, so that each window's true performance is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.data import sample
from matchmaking.data.schema import FEATURES
from matchmaking.live.estimate import Floats, expected_metrics
from matchmaking.live.windows import Period, starts

# those of `sample.DRIFTS` that leave a pair's chance to its features, and one of our own
COVARIATE_DRIFTS = ("none", "prices", "new-city", "demand")
DEMANDED, DEMAND = ("Fraud", "Tax"), 0.5


@dataclass(frozen=True)
class Champion:
    """A model's reign.

    Attributes:
        day: the first day it serves, counted from 0.
        model: the sha256 of its .h5.
        score: probabilities, shape (rows,), of pairs given by their thirteen features.
    """

    day: int
    model: str
    score: Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class Plan:
    """What happens in the months of traffic.

    Attributes:
        start: midnight UTC of day 0.
        days: how many days of predictions.
        volume: pairs on an average day, drawn by Poisson's law.
        weekend: volume of a Saturday or Sunday as a share of a working day's.
        delay: median of the days until an outcome comes, log-normal.
        delay_spread: standard deviation of the delay's logarithm; 0 for the same delay always.
        never: share of pairs whose outcome never comes, whatever it is.
        covariate: one of `COVARIATE_DRIFTS`: "prices" and "new-city" as in `sample.DRIFTS`; "demand": half of the
            clients come with a case of `DEMANDED`, beside those that did before.
        covariate_day: the day from which it holds.
        concept: share of pairs that match by chance alone, at the average rate, whatever their features; 0 for none.
        concept_day: the day from which they do.
        seed: the same plan gives the same traffic.
    """

    start: str = "2025-01-06"
    days: int = 365
    volume: float = 500
    weekend: float = 0.4
    delay: float = 21
    delay_spread: float = 0.2
    never: float = 0.03
    covariate: str = "none"
    covariate_day: int = 180
    concept: float = 0.0
    concept_day: int = 180
    seed: int = 0

    def __post_init__(self) -> None:
        if self.days < 1 or self.volume <= 0 or self.delay <= 0:
            raise InputError("traffic: days, volume and delay must be above zero")
        if self.covariate not in COVARIATE_DRIFTS:
            raise InputError(f"traffic: drift '{self.covariate}' is unknown; choose {', '.join(COVARIATE_DRIFTS)}")
        for name in ("weekend", "never", "concept"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"traffic: {name} must be in 0..1")
        if self.delay_spread < 0:
            raise InputError("traffic: delay_spread must not be below zero")


@dataclass(frozen=True)
class Traffic:
    """Logs as `logs.read_logs` takes them, and the truth behind them.

    Attributes:
        predictions: the columns of the prediction log, in order of time.
        outcomes: the columns of the outcome log, in order of time; also those that come after the last day.
        truth: by pair, in the predictions' order: `pair_id`, `time`, `chance` (the probability that its outcome was
            drawn with) and `match`, also where no outcome ever comes.
    """

    predictions: pd.DataFrame
    outcomes: pd.DataFrame
    truth: pd.DataFrame


def generate_traffic(plan: Plan, champions: Sequence[Champion]) -> Traffic:
    """Draws the traffic of a plan.

    Raises:
        InputError: no champion on day 0.
    """
    if not champions or min(one.day for one in champions) > 0:
        raise InputError("traffic: no model serves on day 0; the first champion must")
    volumes, times, delays, labels = (np.random.default_rng(s) for s in np.random.SeedSequence(plan.seed).spawn(4))
    start = pd.Timestamp(plan.start, tz="UTC")
    weekday = (start.dayofweek + np.arange(plan.days)) % 7
    season = np.where(weekday >= 5, plan.weekend, 1.0)
    counts = volumes.poisson(plan.volume * season * 7 / (5 + 2 * plan.weekend))
    day = np.repeat(np.arange(plan.days), counts)
    if not len(day):
        raise InputError("traffic: no pair was drawn; give more days or a higher volume")
    pairs = _pairs(plan, day)
    seconds = np.sort(day * 86_400 + times.random(len(day)) * 86_400)
    time = start + pd.to_timedelta(np.floor(seconds * 1000), unit="ms")
    chance = sample.true_probability(pairs)
    drifted = day >= plan.concept_day
    chance[drifted] = with_concept_drift(chance[drifted], plan.concept)
    match = (labels.random(len(day)) < chance).astype(np.int8)
    ids = pd.Series([f"pair-{number:07d}" for number in range(len(day))], dtype=object)

    predictions = pairs[list(FEATURES)].copy()
    predictions.insert(0, "pair_id", ids)
    predictions.insert(1, "time", time)
    predictions.insert(2, "model", "")
    predictions["probability"] = 0.0
    reigns = sorted(champions, key=lambda one: one.day)
    for champion, end in zip(reigns, [*(one.day for one in reigns[1:]), plan.days], strict=True):
        served = (day >= champion.day) & (day < end)
        if served.any():
            predictions.loc[served, "model"] = champion.model
            predictions.loc[served, "probability"] = champion.score(pairs.loc[served, list(FEATURES)])

    late = plan.delay * np.exp(plan.delay_spread * delays.normal(size=len(day)))
    comes = delays.random(len(day)) >= plan.never
    outcomes = pd.DataFrame(
        {"pair_id": ids, "time": time + pd.to_timedelta(late, unit="D").floor("ms"), "match": match}
    )
    outcomes = outcomes[comes].sort_values(["time", "pair_id"], ignore_index=True)
    truth = pd.DataFrame({"pair_id": ids, "time": time, "chance": chance, "match": match})
    return Traffic(predictions, outcomes, truth)


def with_concept_drift(chance: Floats, share: float) -> Floats:
    """The chances of a match once this share of pairs matches by chance alone, at the average rate."""
    if not len(chance):
        return chance
    return (1 - share) * chance + share * chance.mean()


def true_performance(traffic: Traffic, period: Period) -> pd.DataFrame:
    """Each window's expected metrics under the true chances: `start`, `rows` and a column for each metric."""
    found = []
    score = traffic.predictions["probability"].to_numpy(dtype=float)
    chance = traffic.truth["chance"].to_numpy(dtype=float)
    windows = pd.Series(starts(traffic.truth["time"], period))
    for start, rows in sorted(windows.groupby(windows).indices.items()):
        values = expected_metrics(score[rows], chance[rows])
        found.append({"start": start, "rows": len(rows), **{name: float(v[0]) for name, v in values.items()}})
    return pd.DataFrame(found)


def _pairs(plan: Plan, day: np.ndarray) -> pd.DataFrame:
    """The pairs in order of their day, with the covariate drift from its day on."""
    pairs = sample.generate(len(day), plan.seed)
    after = day >= plan.covariate_day
    if plan.covariate == "demand":
        rng = np.random.default_rng([plan.seed, 1])
        asked = after & (rng.random(len(day)) < DEMAND)
        pairs.loc[asked, "case_type"] = rng.choice(DEMANDED, int(asked.sum()))
    elif plan.covariate != "none" and after.any():
        # the same seed gives the same pairs but for what drifts
        drifted = sample.generate(len(day), plan.seed, plan.covariate)
        pairs = pd.concat([pairs[~after], drifted[after]], ignore_index=True)
    return pairs
