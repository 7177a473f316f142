"""Guardrails over all days, and a shadow run's intervals: `python -m benchmarks.experiment_days [--worlds 1000]`.

Clients come anew each day and back on one day in 20 of the 28 after their first. Each has its own typical latency, and
its own share of requests that fail, on all of its days. The same worlds are put through the sequences of first days and
through `matchmaking.experiments.daily`: a challenger that is just as slow and failing as is tolerated, and one that
becomes worse on day 20, or after each client's first day.

Of a shadow run: how often the interval of the share of decisions that differ holds the true one, where a client's pairs
are alike; beside it the same interval that takes pairs for independent.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from benchmarks.experiments import BETWEEN, DAILY, DAYS, HANGS, LONGER, WITHIN, define, table_of
from matchmaking.experiments.daily import judge_days
from matchmaking.experiments.guardrails import judge_requests
from matchmaking.experiments.shadow import share_interval, wilson

RETURNS, FOR_DAYS, TURNS = 0.05, 28, 20


def client_days(
    rng: np.random.Generator,
    daily: int,
    *,
    slower: float = 0.0,
    failing: float = 0.0,
    from_day: int = 1,
    from_age: int = 0,
    new_until: int = DAYS,
) -> pd.DataFrame:
    """60 days of clients, as `units.client_days` gives them, and `age`: days since the client's first.

    Args:
        rng: what they are drawn by.
        daily: new clients a day, of both arms.
        slower: by how much the challenger is, as a ratio less 1.
        failing: what share of its requests fails more.
        from_day: the day from which it is so, from 1.
        from_age: days since a client's first from which it is so.
        new_until: the last day with new clients, from 1.
    """
    size = daily * new_until
    born = np.repeat(np.arange(new_until), daily)
    challenger = rng.random(size) < 0.5
    typical, fails = rng.normal(0, BETWEEN, size), 0.002 * rng.gamma(1.0, 1.0, size)
    age = np.arange(DAYS) - born[:, None]
    comes = (age == 0) | ((age > 0) & (age <= FOR_DAYS) & (rng.random(age.shape) < RETURNS))
    day, who = np.nonzero(comes.T)
    of_age = age[who, day]
    worse = challenger[who] & (day + 1 >= from_day) & (of_age >= from_age)
    count = 1 + rng.poisson(rng.gamma(1.0, 5.0, len(day)))
    errors = rng.binomial(count, np.minimum(fails[who] + failing * worse, 1))
    answered = count - errors
    logs = answered * (np.log(40) + np.log1p(slower) * worse + typical[who])
    logs = logs + np.sqrt(answered) * rng.normal(0, WITHIN, len(day)) + LONGER * rng.binomial(answered, HANGS)
    return pd.DataFrame(
        {
            "unit": who,
            "challenger": challenger[who],
            "day": day,
            "look": day,
            "requests": count,
            "errors": errors,
            "answered": answered,
            "log_latency": logs,
            "age": of_age,
        }
    )


def all_days(console: Console, worlds: int) -> None:
    definition = define(DAYS * DAILY)
    table = table_of(
        f"Guardrails by first days and by all days, {worlds} worlds where nothing may be found and "
        f"{max(worlds // 10, 1)} else, {DAYS} days; stated error 0.625 % each",
        "challenger",
        "new clients a day",
        "latency, first days",
        "all days",
        "errors, first days",
        "all days",
    )
    tolerated: dict[str, Any] = {"slower": 0.10, "failing": 0.005}
    kinds: list[tuple[str, int, dict[str, Any], bool]] = [
        ("just as is tolerated", DAILY, tolerated, True),
        ("the same, at 10 %", 40, tolerated, True),
        ("the same, nobody new after a week", DAILY, {**tolerated, "new_until": 7}, True),
    ]
    for name, harm in (("30 % slower", {"slower": 0.30}), ("5 % more errors", {"failing": 0.05})):
        kinds += [
            (f"{name} from day {TURNS}", DAILY, {**harm, "from_day": TURNS}, False),
            ("the same, at 10 %", 40, {**harm, "from_day": TURNS}, False),
            (f"{name} from day {TURNS}, nobody new after a week", DAILY,
             {**harm, "from_day": TURNS, "new_until": 7}, False),
            (f"{name} after a client's first day", DAILY, {**harm, "from_age": 1}, False),
        ]  # fmt: skip
    for number, (name, daily, how, null) in enumerate(kinds):
        looks: dict[str, list[float]] = {}
        for world in range(worlds if null else max(worlds // 10, 1)):
            days = client_days(np.random.default_rng([world, number, 7]), daily, **how)
            first = days[days["age"] == 0]
            for one in [*judge_requests(first, definition), *judge_days(days, definition)]:
                looks.setdefault(one.name, []).append(np.inf if one.look is None else one.look + 1)
        cells = [_cell(looks[key]) for key in ("latency", "latency by day", "errors", "errors by day")]
        table.add_row(name, str(daily), *cells)
    console.print(table)


def _cell(looks: list[float]) -> str:
    day = np.quantile(looks, 0.5, method="higher")
    return f"{np.isfinite(looks).mean():.1%}" + (f", day {day:.0f}" if np.isfinite(day) else "")


def intervals(console: Console, worlds: int) -> None:
    table = table_of(
        f"A shadow run's share of different decisions, {worlds} worlds, 500 clients with six pairs on average; stated "
        "95 %",
        "true share",
        "clients are",
        "holds it",
        "pairs taken for independent",
        "width, median",
    )
    for share in (0.01, 0.05, 0.2):
        for name, alike in (("independent", np.inf), ("alike", 1.0), ("very alike", 0.2)):
            rng = np.random.default_rng([int(share * 1000), int(min(alike, 99) * 10), 8])
            held, naive, widths = 0, 0, []
            for _ in range(worlds):
                sizes = np.minimum(1 + rng.poisson(rng.gamma(1.0, 5.0, 500)), 30)
                units = np.repeat(np.arange(500), sizes)
                # a client's own share, by a beta distribution of the pairs' mean
                own = np.full(500, share) if np.isinf(alike) else rng.beta(alike * share, alike * (1 - share), 500)
                different = rng.random(len(units)) < own[units]
                _, low, high = share_interval(different, units, 0.05)
                held += low <= share <= high
                widths.append(high - low)
                low, high = wilson(int(different.sum()), len(different), 0.05)
                naive += low <= share <= high
            cells = (f"{held / worlds:.1%}", f"{naive / worlds:.1%}", f"{np.median(widths):.2%}")
            table.add_row(f"{share:.0%}", name, *cells)
    console.print(table)


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiment_days", description="Experiments: all days, and a shadow run's intervals"
    )
    parser.add_argument(
        "--worlds", type=int, default=1_000, help="where nothing may be found; a tenth as many of each other"
    )
    options = parser.parse_args()
    console, begun = Console(width=140), time.perf_counter()
    intervals(console, options.worlds)
    all_days(console, options.worlds)
    console.print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
