"""Latency and errors on all days of an experiment, not only on each client's first.

A client that comes back is in the arm that it was in, so its days are no new draws: given the past, the arms'
difference of returning clients isn't zero on average, but what chance made it when they were assigned, and stays so.
A sequence that took client-days for units would find that after a while, in two arms that don't differ. So each test
here is one of the clients that came in some days, each of them once, by all that it did in those; and that there are
many such tests, of the same clients, is paid for in a way that holds whatever they have to do with each other:

- latency: Welch's test at the error over the number of tests (Bonferroni); asymptotic, as the sequence of first days.
- errors: of each test an e-value, the wealth of who bets on the challenger failing more. Their average over all tests
  that will ever be made is an e-value too, however they depend (Vovk & Wang, "E-values: calibration, combination and
  applications", Annals of Statistics 49, 2021, section 3); it only grows as tests come, so it may be looked at every
  day (Markov's inequality). That holds for any number of clients.

What is tested is whether the challenger was worse in those days: a bad day of its service is harm.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student

from matchmaking.experiments.definition import CHALLENGERS, Definition
from matchmaking.experiments.guardrails import FIRST, Guardrail
from matchmaking.experiments.sequences import pseudo_outcomes

Floats = npt.NDArray[np.float64]
# both arms' values, and the days that they are of
Shown = tuple[float, float, tuple[int, int] | None]
# days that a test looks back, and after how many days there is the next of them
WINDOWS = {1: 1, 7: 1, 28: 4}
# bets never put more than this on one client: the wealth stays above zero, whatever comes
_MOST = 0.5


def windows(last_day: int) -> list[tuple[int, int]]:
    """All tests of an experiment, fixed before it begins: the look, from 0, and how many days it looks back."""
    return sorted(
        (look, days) for days, every in WINDOWS.items() for look in range(days - 1, last_day, every) if days <= last_day
    )


def judge_days(days: pd.DataFrame, definition: Definition) -> list[Guardrail]:
    """Latency and errors, over the last day, week and four weeks, at each look.

    Args:
        days: as `units.client_days` gives them.
        definition: the experiment.

    Returns:
        `latency by day` and `errors by day`, with what the test said that shows the most harm; none without requests.
    """
    if not len(days):
        return []
    rules = definition.guardrails
    alpha = rules.alpha / 8
    planned = windows(definition.last_day)
    return [_latency(days, planned, rules.slower, alpha), _errors(days, planned, rules.errors, alpha)]


def _latency(days: pd.DataFrame, planned: list[tuple[int, int]], tolerated: float, alpha: float) -> Guardrail:
    """Each client's own mean of the logarithms: each counts the same, however often it asks."""
    least, first = -np.inf, None
    shown: Shown = (np.nan, np.nan, None)
    for (look, back), challenger, (logs, answered) in _tests(days, planned, ("log_latency", "answered")):
        asked = answered > 0
        value, arm = logs[asked] / answered[asked], challenger[asked]
        new, old = value[arm], value[~arm]
        if min(len(new), len(old)) < FIRST:
            continue
        # Welch, Biometrika 34, 1947, with Satterthwaite's degrees of freedom
        spread = np.array([new.var(ddof=1) / len(new), old.var(ddof=1) / len(old)])
        if not spread.sum() > 0:
            continue
        freedom = spread.sum() ** 2 / (spread**2 / np.array([len(new) - 1, len(old) - 1])).sum()
        radius = student.isf(alpha / len(planned), freedom) * np.sqrt(spread.sum())
        low = new.mean() - old.mean() - radius
        if low > least or shown[2] is None:
            least, shown = max(low, least), (float(old.mean()), float(new.mean()), (look - back + 1, look))
        if first is None and np.expm1(low) > tolerated:
            first = look
    old_mean, new_mean, when = shown
    harm = float(np.expm1(new_mean - old_mean))
    champion, challenger_value = float(np.exp(old_mean)), float(np.exp(new_mean))
    return Guardrail(
        "latency by day", champion, challenger_value, harm, float(np.expm1(least)), tolerated, first, days=when
    )


def _errors(days: pd.DataFrame, planned: list[tuple[int, int]], tolerated: float, alpha: float) -> Guardrail:
    """Each client's own share of failed requests."""
    reach = 1 / min(CHALLENGERS, 1 - CHALLENGERS)
    null = (tolerated + reach) / (2 * reach)
    # the logarithm of the tests' e-values so far, summed; and the largest of them
    total, most, first = -np.inf, -np.inf, None
    shown: Shown = (np.nan, np.nan, None)
    for (look, back), challenger, (failed, asked) in _tests(days, planned, ("errors", "requests")):
        share = failed / asked
        x = (pseudo_outcomes(share, challenger, CHALLENGERS) + reach) / (2 * reach)
        bets = _bets(x, alpha / len(planned))
        wealth = float(np.log1p(np.minimum(bets, _MOST / null) * (x - null)).sum())
        total = np.logaddexp(total, wealth)
        if wealth > most and 0 < challenger.sum() < len(challenger):
            most = wealth
            shown = (float(share[~challenger].mean()), float(share[challenger].mean()), (look - back + 1, look))
        if first is None and total - np.log(len(planned)) >= -np.log(alpha):
            first = look
    old, new, when = shown
    # that it is more than is tolerated is what is shown, and no more
    least = tolerated if first is not None else -np.inf
    return Guardrail("errors by day", old, new, new - old, least, tolerated, first, days=when)


def _bets(x: Floats, alpha: float) -> Floats:
    """Predictable plug-in bets, best for as many units as there are: see `sequences.betting_sequence`."""
    i = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (i + 1)
    spread = (0.25 + np.cumsum((x - mean) ** 2)) / (i + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    return np.sqrt(2 * np.log(2 / alpha) / (before * len(x)))


def _tests(
    days: pd.DataFrame, planned: list[tuple[int, int]], columns: tuple[str, str]
) -> Iterator[tuple[tuple[int, int], npt.NDArray[np.bool_], tuple[Floats, Floats]]]:
    """Of each test that can be made by now: which, whose its clients are, and their sums of two columns."""
    # in the order in which they came first, which no test's outcome can change
    client, _ = pd.factorize(days["unit"])
    arm = np.zeros(client.max() + 1, dtype=bool)
    arm[client] = days["challenger"].to_numpy(dtype=bool)
    values = [days[column].to_numpy(dtype=float) for column in columns]
    day = days["day"].to_numpy(dtype=int)
    begin = np.searchsorted(day, np.arange(day.max() + 2))
    for look, back in planned:
        if look > day.max():
            return
        part = slice(begin[look - back + 1], begin[look + 1])
        there = np.bincount(client[part], minlength=len(arm)) > 0
        if there.any():
            sums = [np.bincount(client[part], weights=one[part], minlength=len(arm))[there] for one in values]
            yield (look, back), arm[there], (np.asarray(sums[0], dtype=float), np.asarray(sums[1], dtype=float))
