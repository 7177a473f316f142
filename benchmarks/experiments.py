"""How often an experiment is wrong, and how soon it is right: `python -m benchmarks.experiments [--worlds 1000]`.

200 clients a day, 60 days of looks, the arms of equal size. A client's pairs are of one case (so they match alike) and
of very different number; matches are drawn from the sample data's true chances, the covariate is a champion's score
that was trained on other sample data. Each world is put through what a real experiment is put through:
`matchmaking.experiments.verdict`, `guardrails` and `integrity`.

- A/A: the arms don't differ. A false decision is one for better or worse, at any of the 60 looks.
- gains: the challenger's clients match more often, by so much; better is decided, and on which day.
- sample ratio mismatch, by the true ratio; a challenger that is slower, or fails more often.

Days count looks: what the outcomes take to come is added to them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.observe import train
from matchmaking.data import sample
from matchmaking.data.schema import FEATURES
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.guardrails import judge_requests
from matchmaking.experiments.integrity import SRM_ALPHA, ratio_evidence
from matchmaking.experiments.power import plan
from matchmaking.experiments.sequences import betting_sequence
from matchmaking.experiments.verdict import first_decision, fixed_horizon, sequence

DAYS, DAILY, POOL = 60, 200, 15_000
EFFECT = 0.01
GAINS = (0.005, 0.01, 0.02, 0.03)
RATIOS = (0.5, 0.505, 0.51, 0.52, 0.55)
# of a pair's request: spread between clients, within, and a share that takes e^1.6, five times, as long
BETWEEN, WITHIN, HANGS, LONGER = 0.25, 0.4, 0.02, 1.6
CLIENT = ("case_type", "location", "urgency_level", "budget", "preferred_language", "case_complexity_score")


@dataclass(frozen=True)
class Pool:
    """Clients to draw from: their pairs' chances (0 beyond the last), numbers of pairs, and scores' sums."""

    chance: np.ndarray
    pairs: np.ndarray
    score: np.ndarray

    def draw(self, rng: np.random.Generator, gain: float) -> pd.DataFrame:
        """60 days of clients, as `units.client_outcomes` gives them; the challenger's match more often by `gain`."""
        size = DAYS * DAILY
        who = rng.integers(len(self.pairs), size=size)
        challenger = rng.random(size) < 0.5
        # more for those that can have more: never above 1
        lift = gain / ((self.chance * (1 - self.chance)).sum() / self.pairs.sum())
        chance = self.chance[who]
        chance = chance + (lift * challenger[:, None]) * chance * (1 - chance)
        matches = (rng.random(chance.shape, dtype=np.float32) < chance).sum(axis=1)
        return pd.DataFrame(
            {
                "challenger": challenger,
                "look": np.repeat(np.arange(DAYS), DAILY),
                "pairs": self.pairs[who],
                "matches": matches,
                "score": self.score[who],
            }
        )


def make_pool(seed: int) -> Pool:
    """Clients with one case each, and between 1 and 30 lawyers that they ask about."""
    rng = np.random.default_rng(seed)
    count = np.minimum(1 + rng.poisson(rng.gamma(1.0, 5.0, POOL)), 30)
    whose = np.repeat(np.arange(POOL), count)
    pairs = sample.generate(len(whose), seed)
    clients = sample.generate(POOL, seed + 1)
    for column in CLIENT:
        pairs[column] = clients[column].to_numpy()[whose]
    chance = np.zeros((POOL, 30), dtype=np.float32)
    chance[whose, np.concatenate([np.arange(n) for n in count])] = sample.true_probability(pairs)
    score = train(6_000, seed + 2)(pairs[list(FEATURES)])
    return Pool(chance, count, np.bincount(whose, weights=score))


def requests(rng: np.random.Generator, clients: int, slower: float, failing: float) -> pd.DataFrame:
    """60 days of clients' first requests, as `units.client_requests` gives them."""
    size = DAYS * clients
    challenger = rng.random(size) < 0.5
    count = 1 + rng.poisson(rng.gamma(1.0, 5.0, size))
    errors = rng.binomial(count, 0.002 + failing * challenger)
    answered = count - errors
    logs = answered * (np.log(40) + np.log1p(slower) * challenger + rng.normal(0, BETWEEN, size))
    logs = logs + np.sqrt(answered) * rng.normal(0, WITHIN, size) + LONGER * rng.binomial(answered, HANGS)
    return pd.DataFrame(
        {
            "challenger": challenger,
            "look": np.repeat(np.arange(DAYS), clients),
            "requests": count,
            "errors": errors,
            "answered": answered,
            "log_latency": logs,
        }
    )


def define(planned: int, **changes: object) -> Definition:
    given = {
        "name": "bench",
        "hypothesis": "what is simulated",
        "champion": "a" * 64,
        "challenger": "b" * 64,
        "salt": "bench",
        "start": "2026-01-05T00:00:00Z",
        "effect": EFFECT,
        "label_delay_days": 35,
        "planned_clients": planned,
        "planned_days": DAYS,
    }
    return Definition.model_validate({**given, **changes})


def decide(clients: pd.DataFrame, rules: dict[str, Definition]) -> dict[str, tuple[str, int] | None]:
    """By analysis, the first decision and its look; None for none."""
    found: dict[str, tuple[str, int] | None] = {}
    for name, definition in rules.items():
        table = sequence(clients, definition, DAYS)
        found[name] = first_decision(table, definition.effect)
        # a decision that both are alike is no false one; whether one for a difference would have come is
        out = np.flatnonzero((table["low"] > 0) | (table["high"] < 0))
        found[f"{name}: differs"] = (
            (("better" if table["low"][out[0]] > 0 else "worse"), int(out[0])) if len(out) else None
        )
        if name.startswith("match rate, adjusted"):
            usual = fixed_horizon(table, definition)
            daily = usual["daily_look"]
            found["fixed horizon, looked at daily"] = (
                (str(usual["daily_state"]), int(daily)) if daily is not None else None
            )
            last = table.iloc[-1]
            state = "better" if last["fixed_low"] > 0 else "worse" if last["fixed_high"] < 0 else None
            found["fixed horizon, one look on day 60"] = (state, DAYS - 1) if state else None
    rate = (clients["matches"] / clients["pairs"]).to_numpy()
    bets = betting_sequence(
        rate, clients["challenger"].to_numpy(), 0.5, range(DAILY, len(rate) + 1, DAILY), 0.05, planned=len(rate), grid=3
    )
    level = np.log(2 / 0.05)
    out = np.flatnonzero(np.maximum(bets.above, bets.below) >= level)
    found["mean of clients' rates, betting"] = (
        ("better" if bets.above[out[0]] >= level else "worse", int(out[0])) if len(out) else None
    )
    return found


def table_of(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(heads[0])
    for head in heads[1:]:
        table.add_column(head, justify="right")
    return table


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments", description="Experiments: wrong, and late"
    )
    parser.add_argument(
        "--worlds", type=int, default=1_000, help="in which nothing differs; a tenth as many of each other"
    )
    options = parser.parse_args()
    console, begun = Console(width=120), time.perf_counter()
    pool = make_pool(1)
    past = pool.draw(np.random.default_rng(2), 0.0)
    adjusted, plain = (plan(past, "match_rate", EFFECT, adjust=adjust) for adjust in (True, False))
    console.print(
        f"Clients' pairs: {past['pairs'].mean():.1f} on average, {past['pairs'].max()} at most; match rate "
        f"{adjusted.rate:.3f}. To show a gain of {EFFECT:g} with a power of 0.8 it takes {adjusted.sequential:,} "
        f"clients with daily looks and {adjusted.fixed:,} with one; without adjustment {plain.sequential:,} and "
        f"{plain.fixed:,}. "
        f"The champion's score shortens the test by {adjusted.shortened:.0%}."
    )
    planned = DAYS * DAILY
    rules = {
        "match rate, adjusted": define(planned),
        "match rate": define(planned, adjust=False),
        "mean of clients' rates, adjusted": define(planned, primary="client_match_rate"),
    }
    false_decisions(console, pool, rules, options.worlds)
    true_gains(console, pool, rules, max(options.worlds // 10, 1))
    mismatch(console, options.worlds)
    guardrails(console, options.worlds)
    console.print(f"{time.perf_counter() - begun:.0f} s")


def false_decisions(console: Console, pool: Pool, rules: dict[str, Definition], worlds: int) -> None:
    rows = [decide(pool.draw(np.random.default_rng([world, 3]), 0.0), rules) for world in range(worlds)]
    shown = [*(f"{name}: differs" for name in rules), *(name for name in rows[0] if name.split(": ")[0] not in rules)]
    table = table_of(
        f"{worlds} A/A tests, {DAYS} daily looks, stated error 5 %",
        "analysis",
        "false decisions",
        "share",
        "day, median",
    )
    for name in shown:
        days = [one[1] + 1 for row in rows if (one := row[name]) is not None]
        table.add_row(
            name.removesuffix(": differs"),
            str(len(days)),
            f"{len(days) / worlds:.1%}",
            f"{np.median(days):.0f}" if days else "-",
        )
    console.print(table)
    alike = [row["match rate, adjusted"] for row in rows]
    right = [one[1] + 1 for one in alike if one and one[0] == "equivalent"]
    console.print(
        f"Equivalent within {EFFECT:g} was decided in {len(right) / worlds:.1%}"
        + (f", on day {np.median(right):.0f} (median)" if right else "")
    )


def true_gains(console: Console, pool: Pool, rules: dict[str, Definition], worlds: int) -> None:
    table = table_of(
        f"True gains, {worlds} worlds each: share in which better was decided by day {DAYS}, and the median day of it",
        "analysis",
        *(f"+{gain:g}" for gain in GAINS),
    )
    cells: dict[str, list[str]] = {}
    for gain in GAINS:
        rows = [decide(pool.draw(np.random.default_rng([world, 4]), gain), rules) for world in range(worlds)]
        for name in rows[0]:
            days = sorted(one[1] + 1 for row in rows if (one := row[name]) is not None and one[0] == "better")
            # of all worlds: half of them must have decided for it to be known
            median = f"day {days[(worlds - 1) // 2]}" if len(days) > (worlds - 1) // 2 else "-"
            cells.setdefault(name, []).append(f"{len(days) / worlds:.0%}, {median}")
    for name, row in cells.items():
        if name.removesuffix(": differs") not in rules or name.endswith(": differs"):
            table.add_row(name.removesuffix(": differs"), *row)
    console.print(table)


def mismatch(console: Console, worlds: int) -> None:
    limit = 400_000
    table = table_of(
        f"Sample ratio mismatch, {worlds} worlds where there is none and {max(worlds // 10, 1)} else, looked at after "
        f"every {DAILY} clients of {limit:,}; stated error {SRM_ALPHA:g}",
        "true ratio",
        "found",
        "clients, median",
        "clients, 90th percentile",
        f"days at {DAILY} a day, median",
    )
    total = DAILY * np.arange(1, limit // DAILY + 1)
    for ratio in RATIOS:
        rng = np.random.default_rng([int(ratio * 1000), 5])
        first = []
        for _ in range(worlds if ratio == 0.5 else max(worlds // 10, 1)):
            one = np.cumsum(rng.binomial(DAILY, ratio, len(total)))
            evidence = ratio_evidence(np.column_stack([one, total - one]), [0.5, 0.5])
            over = np.flatnonzero(evidence >= -np.log(SRM_ALPHA))
            first.append(total[over[0]] if len(over) else np.inf)
        found = np.isfinite(first).mean()
        late = [np.quantile(first, q, method="higher") for q in (0.5, 0.9)]
        cells = [f"{n:,.0f}" if np.isfinite(n) else "-" for n in (*late, late[0] / DAILY)]
        table.add_row(f"{ratio:.1%} : {1 - ratio:.1%}", f"{found:.1%}", *cells)
    console.print(table)


def guardrails(console: Console, worlds: int) -> None:
    definition = define(DAYS * DAILY)
    table = table_of(
        f"Guardrails of first days, {worlds} worlds where nothing may be found and {max(worlds // 10, 1)} else, {DAYS} "
        f"days; tolerated: {definition.guardrails.slower:.0%} slower, {definition.guardrails.errors:.1%} more errors; "
        "stated error 1.25 %",
        "challenger",
        "clients a day, both arms",
        "stopped by latency",
        "by errors",
        "median day",
        "90th percentile",
    )
    kinds: list[tuple[str, float, float, int, bool]] = [
        ("the same", 0.0, 0.0, DAILY, True),
        ("just as slow and failing as is tolerated", 0.10, 0.005, DAILY, True),
        *((f"30 % slower, {share}", 0.30, 0.0, n, False) for share, n in (("1 %", 4), ("10 %", 40), ("50 %", DAILY))),
        *((f"2 % more errors, {share}", 0.0, 0.02, n, False) for share, n in (("10 %", 40), ("50 %", DAILY))),
    ]
    for number, (name, slower, failing, clients, null) in enumerate(kinds):
        times: dict[str, list[float]] = {"latency": [], "errors": [], "first": []}
        for world in range(worlds if null else max(worlds // 10, 1)):
            rng = np.random.default_rng([world, number, 6])
            judged = {one.name: one for one in judge_requests(requests(rng, clients, slower, failing), definition)}
            for key in ("latency", "errors"):
                look = judged[key].look
                times[key].append(np.inf if look is None else look + 1)
            times["first"].append(min(times["latency"][-1], times["errors"][-1]))
        late = [np.quantile(times["first"], q, method="higher") for q in (0.5, 0.9)]
        table.add_row(
            name,
            str(clients),
            *(f"{np.isfinite(times[key]).mean():.1%}" for key in ("latency", "errors")),
            *(f"{day:.0f}" if np.isfinite(day) else "-" for day in late),
        )
    console.print(table)


if __name__ == "__main__":
    main()
