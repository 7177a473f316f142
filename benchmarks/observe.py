"""Do estimates tell how production does before the outcomes come? `python -m benchmarks.observe [--worlds 2]`.

Twelve months of generated traffic, 500 pairs a day, labels about 21 days late (log-normal, 3 % never). Each window is
estimated at the moment it ends, from what had come by then: the delay from the log, the reference from the pairs of the
last 180 days old enough to be complete, scored by the window's own model. The truth is the expected performance under
the probabilities that the outcomes were drawn with; beside it stands what was measured in the end.

The models are scikit-learn's gradient boosting, trained on sample data in half a second: to the log a model is its
probabilities.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from matchmaking.data import sample
from matchmaking.data.schema import CATEGORICAL, FEATURES, TARGET
from matchmaking.live.delay import Delay, estimate_delay
from matchmaking.live.estimate import Method, estimate, expected_metrics
from matchmaking.live.traffic import DEMANDED, Champion, Plan, Traffic, generate_traffic
from matchmaking.live.windows import Period, end_of, intervals, starts
from matchmaking.model.features import NUMBERS, add_ratios

NEAR = 0.02
SHOWN = ("average_precision", "recall")
METHODS: tuple[Method, ...] = ("cbpe", "pape")
REFERENCE_DAYS = 180
# what the champions of the plan "demand" have seen of the cases that come to be in demand
RARE = 0.03
CHANGE = 180
PLANS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "prices": {"covariate": "prices"},
    "new-city": {"covariate": "new-city"},
    "demand": {"covariate": "demand"},
    "concept": {"concept": 0.06},
}
Score = Callable[[pd.DataFrame], np.ndarray]


def train(rows: int, seed: int, rare: float = 1.0) -> Score:
    """A stand-in for a champion, from sample data of its own: gradient boosting, no network.

    `rare` is the share of pairs with a case of `DEMANDED` that are kept: a model that has seen few misjudges them.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    known = (list(sample.COVERED_BY), sample.CITIES, sample.LANGUAGES, sample.SPECIALIZATIONS, sample.CITIES)

    def inputs(pairs: pd.DataFrame) -> np.ndarray:
        codes = [pd.Categorical(pairs[c], categories=v).codes for c, v in zip(CATEGORICAL, known, strict=True)]
        return np.column_stack([*codes, add_ratios(pairs)[list(NUMBERS)]]).astype(float)

    pairs = sample.generate(rows, seed)
    kept = np.random.default_rng(seed).random(rows) < np.where(pairs["case_type"].isin(DEMANDED), rare, 1.0)
    pairs = pairs[kept]
    model = HistGradientBoostingClassifier(random_state=seed).fit(inputs(pairs), pairs[TARGET])
    return lambda some: model.predict_proba(inputs(some))[:, 1]


def champions(rare: float = 1.0) -> tuple[Champion, ...]:
    """Two reigns: the second begins on day 90, and is better for its 24,000 rows."""
    return (Champion(0, "a" * 64, train(12_000, 1_001, rare)), Champion(90, "b" * 64, train(24_000, 1_002, rare)))


def joined(traffic: Traffic) -> pd.DataFrame:
    """Predictions with the outcomes that ever come, the true chance, and the outcome as it would be."""
    outcomes = traffic.outcomes.rename(columns={"time": "outcome_time"})
    frame = traffic.predictions.merge(outcomes, on="pair_id", how="left")
    return frame.assign(chance=traffic.truth["chance"], drawn=traffic.truth["match"])


def look(
    frame: pd.DataFrame, start: pd.Timestamp, period: Period, reigns: tuple[Champion, ...]
) -> list[dict[str, Any]]:
    """A window as it is estimated when it ends, by each method, and the truth."""
    end = end_of(start, period)
    window = frame[(frame["time"] >= start) & (frame["time"] < end)]
    # a window in which the champion changed is that of its later one
    model = window["model"].iloc[-1]
    window = window[window["model"] == model]
    delay = estimate_delay(frame, end)
    reference = _reference(frame, end, delay, next(one for one in reigns if one.model == model))
    score, chance = window["probability"].to_numpy(), window["chance"].to_numpy()
    true = expected_metrics(score, chance)
    labels = window["drawn"].to_numpy()
    later = intervals(labels, score, resamples=200)
    rows = []
    for method in METHODS:
        found = estimate(reference, window, method)
        for metric in SHOWN:
            value = found.metrics.get(metric)
            rows.append(
                {
                    "start": start,
                    "method": method,
                    "metric": metric,
                    "true": float(true[metric][0]),
                    "later": later[metric]["value"],
                    "later_low": later[metric]["low"],
                    "later_high": later[metric]["high"],
                    "effective": found.effective_positives,
                    "withheld": found.withheld,
                    **(value or {"value": np.nan, "low": np.nan, "high": np.nan}),
                }
            )
    return rows


def _reference(frame: pd.DataFrame, now: pd.Timestamp, delay: Delay, champion: Champion) -> pd.DataFrame:
    if delay.mature_days is None:
        return frame.iloc[:0].assign(match=0)
    last = now - pd.Timedelta(days=delay.mature_days)
    first = last - pd.Timedelta(days=REFERENCE_DAYS)
    rows = frame[(frame["time"] >= first) & (frame["time"] < last) & (frame["outcome_time"] <= now)]
    other = (rows["model"] != champion.model).to_numpy()
    if other.any():  # the log has the features: the window's model is asked about the pairs of the one before, too
        probability = rows["probability"].to_numpy().copy()
        probability[other] = champion.score(rows.loc[other, list(FEATURES)])
        rows = rows.assign(probability=probability)
    return rows


def run(name: str, world: int, period: Period, reigns: tuple[Champion, ...]) -> pd.DataFrame:
    """Every whole window of a plan's twelve months."""
    plan = Plan(seed=world, covariate_day=CHANGE, concept_day=CHANGE, **PLANS[name])
    frame = joined(generate_traffic(plan, reigns))
    begin = pd.Timestamp(plan.start, tz="UTC")
    until = begin + pd.Timedelta(days=plan.days)
    whole = [s for s in starts(frame["time"], period).unique() if s >= begin and end_of(s, period) <= until]
    rows = [row for start in sorted(whole) for row in look(frame, start, period, reigns)]
    drifted = begin + pd.Timedelta(days=CHANGE)
    found = pd.DataFrame(rows).assign(plan=name, world=world, period=period)
    ends = found["start"].map(lambda s: end_of(s, period))
    return found.assign(after=ends > drifted)


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observe", description="Estimated against the truth")
    parser.add_argument("--worlds", type=int, default=2, help="seeds of each plan's traffic")
    parser.add_argument("--volume", type=int, default=500, help="pairs on an average day")
    options = parser.parse_args()
    PLANS.update({name: {**plan, "volume": options.volume} for name, plan in PLANS.items()})
    console, begun = Console(), time.perf_counter()
    reigns = {name: champions(RARE if name == "demand" else 1.0) for name in PLANS}
    periods: tuple[Period, ...] = ("week", "month")
    found = pd.concat(
        run(name, world, period, reigns[name])
        for period in periods
        for name in PLANS
        for world in range(options.worlds)
    )
    quiet = found[(found["plan"] != "concept") | ~found["after"]]
    console.print(_near(quiet, f"{options.volume} pairs a day, labels 21 days late; no concept drift"))
    console.print(_unseen(found[(found["plan"] == "concept") & found["after"] & (found["period"] == "week")]))
    console.print(f"{len(found) // len(SHOWN):,} estimates in {time.perf_counter() - begun:.0f} s")


def _near(found: pd.DataFrame, title: str) -> Table:
    table = Table(title=f"{title}. Share of windows estimated within {NEAR} of the truth; aim 95 %")
    heads = ("plan", "windows", "method", "metric", "estimated", "withheld", f"within {NEAR}", "mean |error|", "bias")
    for head in (*heads, "interval holds the truth", "holds what is measured"):
        table.add_column(head, justify="right")
    # the models of "demand" are there to show what weights are for: they misjudge what has become frequent
    every = pd.concat([found.assign(plan="all"), found[found["plan"] != "demand"].assign(plan="all but demand")])
    for (period, metric, name, method), part in pd.concat([found, every]).groupby(
        ["period", "metric", "plan", "method"], sort=False
    ):
        given = part[part["withheld"].isna()]
        error = given["value"] - given["true"]
        table.add_row(
            name,
            period,
            method,
            metric,
            str(len(given)),
            str(len(part) - len(given)),
            f"{(error.abs() <= NEAR).mean():.1%}",
            f"{error.abs().mean():.4f}",
            f"{error.mean():+.4f}",
            f"{given['true'].between(given['low'], given['high']).mean():.1%}",
            f"{given['later'].between(given['low'], given['high']).mean():.1%}",
        )
    return table


def _unseen(found: pd.DataFrame) -> Table:
    table = Table(title=f"After concept drift on day {CHANGE}, in weeks: estimates can't see it, measurement does")
    for head in (
        "metric",
        "weeks since",
        "truth",
        *METHODS,
        *(f"{one} error" for one in METHODS),
        "measured",
        "interval",
    ):
        table.add_column(head, justify="right")
    since = ((found["start"] - found["start"].min()).dt.days // 28).clip(upper=5) * 4
    for (metric, weeks), part in found.assign(since=since).groupby(["metric", "since"], sort=False):
        means = part[["true", "later", "later_low", "later_high"]].mean()
        told = part.groupby("method")["value"].mean()
        table.add_row(
            str(metric),
            f"{weeks}..{weeks + 4}" if weeks < 20 else "20..",
            f"{means['true']:.3f}",
            *(f"{told[one]:.3f}" for one in METHODS),
            *(f"{told[one] - means['true']:+.3f}" for one in METHODS),
            f"{means['later']:.3f}",
            f"{means['later_low']:.3f}..{means['later_high']:.3f}",
        )
    return table


if __name__ == "__main__":
    main()
