"""How often an alert is false, and how soon a loss is told: `python -m benchmarks.alerts [--worlds 30]`.

A year of generated traffic, watched daily from the 91st day on, the first 90 days being the reference. A day is looked
at once it is as old as the label delay that the log shows. Nothing is wrong; or from a day on, so many pairs match by
chance alone that the model's true average precision is lower by 0.02, 0.05 or 0.10. The same outcomes go to every rule:

- as installed: what `observe` raises by the default policy (`matchmaking.live.conditions`): an e-detector on each
  watched metric at its share of the error, against the model's first 60 days. A false alarm is any of its alerts, and a
  loss is told by the first of them;
- e-detector: `matchmaking.live.sequential`, by tolerance and by standard errors of the reference that are tolerated;
- CUSUM of each day's average precision, in standard deviations of the reference's days: allowance 0.5, threshold 4.1,
  which by normal theory is a false alarm in about 370 looks (Siegmund, "Sequential Analysis", 1985);
- below the limit today: each day's average precision under a fixed limit, as schedules do without a rule.

The model is scikit-learn's gradient boosting, trained on sample data in half a second.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq

from benchmarks.observe import joined, train
from matchmaking.data import sample
from matchmaking.evidence.bootstrap import metric_scorer
from matchmaking.evidence.policy import load_policy
from matchmaking.live.conditions import follow
from matchmaking.live.delay import estimate_delay
from matchmaking.live.estimate import expected_metrics
from matchmaking.live.sequential import Rule, fit_loss, watch
from matchmaking.live.traffic import Champion, Plan, generate_traffic, with_concept_drift

LOSSES = (0.02, 0.05, 0.10)
DAYS, REFERENCE, CHANGE, WELL_AGAIN = 455, 90, 60, 180
RULES = (Rule(loose=0), Rule(), Rule(tolerance=0.005), Rule(tolerance=0.01))
BELOW = (0.02, 0.05)
ALLOWANCE, HEIGHT = 0.5, 4.1
METRIC = "average_precision"
INSTALLED = "as installed"
Looks = list[tuple[np.ndarray, np.ndarray]]


def share_of(loss: float, score: np.ndarray, chance: np.ndarray) -> float:
    """The share of pairs that must match by chance for a true loss of average precision of this much."""
    well = expected_metrics(score, chance)[METRIC][0]
    return float(
        brentq(lambda a: well - expected_metrics(score, with_concept_drift(chance, a))[METRIC][0] - loss, 0, 0.5)
    )


def firing(reference: tuple[np.ndarray, np.ndarray], days: Looks, before: Looks) -> dict[str, np.ndarray]:
    """By rule, whether it fires on each day."""
    match, score = reference
    loss = fit_loss(METRIC, match, score)
    found = {
        f"e-detector, tolerance {rule.tolerance:g} + {rule.loose:g} se": watch(loss, days, rule)["firing"].to_numpy(
            bool
        )
        for rule in RULES
    }
    daily, usual = (np.array([_daily(*one) for one in some]) for some in (days, before))
    mean, deviation = usual.mean(), usual.std(ddof=1)
    total, sums = 0.0, []
    for value in daily:
        # an alarm starts the sum anew, else one would last for ever
        total = max(0.0, (0.0 if total >= HEIGHT else total) + (mean - value) / deviation - ALLOWANCE)
        sums.append(total >= HEIGHT)
    found["CUSUM of the day's value"] = np.array(sums)
    for below in BELOW:
        found[f"{below:g} below the reference today"] = daily < loss.reference - below
    return found


def installed(day: np.ndarray, match: np.ndarray, score: np.ndarray) -> np.ndarray:
    """By watched metric, whether its alert fires on each day after the reference of the other rules."""
    followed = follow(day, match, score, load_policy().alerts)
    assert followed is not None
    found = []
    for _, _, said in followed.by_metric.values():
        fires = pd.Series(said["firing"].to_numpy(bool), followed.looks)
        found.append(fires.reindex(range(REFERENCE, DAYS), method="ffill").fillna(False).to_numpy(bool))
    return np.array(found)


def _daily(match: np.ndarray, score: np.ndarray) -> float:
    return float(metric_scorer(match, score)(np.ones((1, len(match))))[METRIC][0])


def run(world: int, champion: Champion, shares: dict[float, float]) -> list[dict[str, Any]]:
    """Each rule's false alarms in a year, and the days until each loss is told and then cleared, in one world."""
    plan = Plan(seed=world, days=DAYS)
    frame = joined(generate_traffic(plan, [champion]))
    begin = pd.Timestamp(plan.start, tz="UTC")
    lag = estimate_delay(frame, begin + pd.Timedelta(days=REFERENCE)).mature_days
    assert lag is not None
    frame = frame[frame["match"].notna()]
    day = ((frame["time"] - begin).dt.total_seconds() // 86_400).to_numpy(dtype=int)
    edges = np.searchsorted(day, np.arange(DAYS + 1))
    score, chance = frame["probability"].to_numpy(), frame["chance"].to_numpy()
    luck = np.random.default_rng([world, 7]).random(len(frame))
    worse = (day >= REFERENCE + CHANGE) & (day < REFERENCE + CHANGE + WELL_AGAIN)
    rows = []
    for loss in (0.0, *LOSSES):
        now = np.where(worse, with_concept_drift(chance, shares[loss]), chance)
        match = (luck < now).astype(np.int8)
        by_day = [(match[a:b], score[a:b]) for a, b in itertools.pairwise(edges)]
        known = day < REFERENCE
        rules = {INSTALLED: installed(day, match, score)}
        rules |= firing((match[known], score[known]), by_day[REFERENCE:], by_day[:REFERENCE])
        for rule, each in rules.items():
            streams = np.atleast_2d(each)
            alarms = sum(int((one & ~np.concatenate([[False], one[:-1]])).sum()) for one in streams)
            fires = streams.any(axis=0)
            row = {"world": world, "rule": rule, "loss": loss, "alarms": alarms, "lag": lag}
            after = np.flatnonzero(fires[CHANGE : CHANGE + WELL_AGAIN])
            # one that was firing before is no news
            row["told"] = after[0] + 1 + lag if len(after) and not fires[CHANGE - 1] else np.nan
            row["already"] = bool(fires[CHANGE - 1])
            quiet = np.flatnonzero(~fires[CHANGE + WELL_AGAIN :])
            row["cleared"] = quiet[0] + 1 + lag if len(quiet) else np.nan
            rows.append(row)
    return rows


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alerts", description="Alerts, false and late")
    parser.add_argument("--worlds", type=int, default=30, help="years of traffic")
    options = parser.parse_args()
    console, begun = Console(), time.perf_counter()
    champion = Champion(0, "a" * 64, train(12_000, 1_001))
    pairs = sample.generate(100_000, 999)
    score, chance = champion.score(pairs), sample.true_probability(pairs)
    shares = {0.0: 0.0, **{loss: share_of(loss, score, chance) for loss in LOSSES}}
    found = pd.DataFrame([row for world in range(options.worlds) for row in run(world, champion, shares)])
    lag = found["lag"].mean()
    table = Table(
        title=f"{options.worlds} years, 500 pairs a day, true average precision "
        f"{expected_metrics(score, chance)[METRIC][0]:.3f}; days count from the change and hold the {lag:.0f} that "
        "outcomes take: median..90th percentile (share of worlds in which it is told)"
    )
    table.add_column("rule")
    for head in ("false alarms a year", *(f"days to tell {loss:.2f}" for loss in LOSSES), "days to clear 0.05"):
        table.add_column(head, justify="right")
    for rule, part in found.groupby("rule", sort=False):
        cells = [f"{part.loc[part['loss'] == 0, 'alarms'].mean():.2f}"]
        for loss in LOSSES:
            one = part[part["loss"] == loss]
            fresh = one[~one["already"]]
            told = fresh["told"].notna().mean() if len(fresh) else 0.0
            late = fresh["told"].fillna(np.inf).quantile([0.5, 0.9], interpolation="lower")
            shown = [f"{days:.0f}" if np.isfinite(days) else "-" for days in late]
            cells.append(f"{shown[0]}..{shown[1]} ({told:.0%})")
        cells.append(f"{part.loc[part['loss'] == 0.05, 'cleared'].median():.0f}")
        table.add_row(str(rule), *cells)
    console.print(table)
    console.print(
        f"Told within {WELL_AGAIN} days of looking, then all is well again; worlds in which a rule fired before are "
        f"left out of the days. Aim: at most 1 false alarm a year. {time.perf_counter() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
