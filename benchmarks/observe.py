"""Do estimates tell how production does before the outcomes come? `python -m benchmarks.observe [--worlds 2]`.

It takes about four seconds of a processor for each window; `--plans`, `--periods`, `--first-world` and `--every`
run a part of it.

Twelve months of generated traffic, 500 pairs a day, labels about 21 days late (log-normal, 3 % never). Each window is
estimated at the moment it ends, from what had come by then: the delay from the log, the reference from the pairs of the
last 180 days old enough to be complete, scored by the window's own model. The truth is the expected performance under
the probabilities that the outcomes were drawn with. Two more are held against it on the same windows. "by-score" is an
oracle: the mean true chance of all other pairs of that probability, from the same model and the same side of the drift;
nothing that knows a pair by its probability alone can do better, on average. "measured" is what comes of the outcomes
in the end: its distance from the truth is chance, so the truth itself is no nearer to it than that.

The models are scikit-learn's gradient boosting, trained on sample data in half a second: to the log a model is its
probabilities.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from matchmaking.data import sample
from matchmaking.data.schema import CATEGORICAL, FEATURES, TARGET
from matchmaking.live.as_of import draw, most
from matchmaking.live.delay import Delay, estimate_delay
from matchmaking.live.estimate import Method, Minimum, calibrate, density_ratio, estimate, expected_metrics, too_few
from matchmaking.live.traffic import DEMANDED, Champion, Plan, Traffic, generate_traffic
from matchmaking.live.windows import Period, end_of, intervals, starts
from matchmaking.model.features import NUMBERS, add_ratios

NEAR = 0.02
SHOWN = ("average_precision", "recall")
METHODS: tuple[Method, ...] = ("cbpe", "pape", "robust")
BY_SCORE, MEASURED = "by-score", "measured"
REFERENCE_DAYS = 180
# what the champions of the plan "demand" have seen of the cases that come to be in demand
RARE = 0.03
CHANGE = 180
PERIODS: tuple[Period, ...] = ("week", "month")
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
    frame: pd.DataFrame, scored: dict[str, np.ndarray], start: pd.Timestamp, period: Period
) -> list[dict[str, Any]]:
    """A window as it is estimated when it ends, by each method, and the truth.

    Args:
        frame: what `joined` gives, in order of time.
        scored: by model its probabilities of all the frame's pairs, shape (rows,).
        start: of the window.
        period: its length.
    """
    end = end_of(start, period)
    window = frame[(frame["time"] >= start) & (frame["time"] < end)]
    # a window in which the champion changed is that of the one with more pairs, as for `observe`
    model = most(window["model"])
    window = draw(window[window["model"] == model], 0)
    delay = estimate_delay(frame, end)
    reference = _reference(frame, end, delay, scored[model])
    score, chance = window["probability"].to_numpy(), window["chance"].to_numpy()
    true = expected_metrics(score, chance)
    later = intervals(window["drawn"].to_numpy(), score, resamples=200)
    oracle = expected_metrics(score, _by_score(frame, window))
    ratio = (
        density_ratio(reference, window)
        if too_few(reference, window, np.ones(len(reference)), Minimum()) is None
        else None
    )
    found = {method: estimate(reference, window, method, ratio=ratio) for method in METHODS}
    withheld = found[METHODS[-1]].withheld
    rows = []
    for metric in SHOWN:
        given = {method: (one.metrics.get(metric), one.withheld) for method, one in found.items()}
        given[BY_SCORE] = ({"value": float(oracle[metric][0])}, withheld)
        given[MEASURED] = ({name: later[metric][name] for name in ("value", "low", "high")}, withheld)
        for method, (values, why) in given.items():
            rows.append(
                {
                    "start": start,
                    "method": method,
                    "metric": metric,
                    "true": float(true[metric][0]),
                    "later": later[metric]["value"],
                    "later_low": later[metric]["low"],
                    "later_high": later[metric]["high"],
                    "withheld": why,
                    **{"value": np.nan, "low": np.nan, "high": np.nan, **(values or {})},
                }
            )
    return rows


def _by_score(frame: pd.DataFrame, window: pd.DataFrame) -> np.ndarray:
    """The mean true chance of other pairs with a window's probabilities, shape (rows,)."""
    same = (frame["model"] == window["model"].iloc[0]) & (frame["drifted"] == window["drifted"].iloc[-1])
    others = frame[same & ~frame["pair_id"].isin(window["pair_id"])]
    score, chance = others["probability"].to_numpy(), others["chance"].to_numpy()
    found: np.ndarray = calibrate(
        score, chance, np.ones(len(others)), window["probability"].to_numpy(), 0, np.random.default_rng(0)
    )[0]
    return found


def _reference(frame: pd.DataFrame, now: pd.Timestamp, delay: Delay, probability: np.ndarray) -> pd.DataFrame:
    """Mature pairs, with the probability of the window's model: the log has the features, so it can be asked."""
    if delay.mature_days is None:
        return frame.iloc[:0].assign(match=0)
    last = now - pd.Timedelta(days=delay.mature_days)
    first = last - pd.Timedelta(days=REFERENCE_DAYS)
    used = ((frame["time"] >= first) & (frame["time"] < last) & (frame["outcome_time"] <= now)).to_numpy()
    return draw(frame[used].assign(probability=probability[used]), 0)


def run(name: str, world: int, period: Period, reigns: tuple[Champion, ...], every: int = 1) -> pd.DataFrame:
    """Every whole window of a plan's twelve months, or every so many."""
    plan = Plan(seed=world, covariate_day=CHANGE, concept_day=CHANGE, **PLANS[name])
    frame = joined(generate_traffic(plan, reigns))
    begin = pd.Timestamp(plan.start, tz="UTC")
    until = begin + pd.Timedelta(days=plan.days)
    whole = [s for s in starts(frame["time"], period).unique() if s >= begin and end_of(s, period) <= until]
    drifted = begin + pd.Timedelta(days=CHANGE)
    frame = frame.assign(drifted=frame["time"] >= drifted)
    scored = {one.model: one.score(frame[list(FEATURES)]) for one in reigns}
    rows = [row for start in sorted(whole)[::every] for row in look(frame, scored, start, period)]
    found = pd.DataFrame(rows).assign(plan=name, world=world, period=period)
    ends = found["start"].map(lambda s: end_of(s, period))
    return found.assign(after=ends > drifted)


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observe", description="Estimated against the truth")
    parser.add_argument("--worlds", type=int, default=2, help="seeds of each plan's traffic")
    parser.add_argument("--first-world", type=int, default=0, help="the first seed")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS), help="which kinds of change")
    parser.add_argument("--periods", nargs="+", choices=PERIODS, default=list(PERIODS), help="which windows")
    parser.add_argument("--every", type=int, default=1, help="look at every so many windows")
    parser.add_argument("--volume", type=int, default=500, help="pairs on an average day")
    options = parser.parse_args()
    PLANS.update({name: {**plan, "volume": options.volume} for name, plan in PLANS.items()})
    # rich makes a table of what isn't a terminal 80 columns wide, and its figures unreadable
    console, begun = Console(width=None if sys.stdout.isatty() else 180), time.perf_counter()
    reigns = {name: champions(RARE if name == "demand" else 1.0) for name in options.plans}
    found = pd.concat(
        run(name, world, period, reigns[name], options.every)
        for period in options.periods
        for name in options.plans
        for world in range(options.first_world, options.first_world + options.worlds)
    )
    quiet = found[(found["plan"] != "concept") | ~found["after"]]
    console.print(_near(quiet, f"{options.volume} pairs a day, labels 21 days late; no concept drift"))
    unseen = found[(found["plan"] == "concept") & found["after"] & (found["period"] == "week")]
    if len(unseen):
        console.print(_unseen(unseen))
    console.print(f"{len(found) // len(SHOWN) // (len(METHODS) + 2):,} windows in {time.perf_counter() - begun:.0f} s")


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
            *(
                # the oracle has no interval, and what is measured holds itself
                f"{given[what].between(given['low'], given['high']).mean():.1%}" if method in shown else ""
                for what, shown in (("true", (*METHODS, MEASURED)), ("later", METHODS))
            ),
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
