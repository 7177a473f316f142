"""What an experiment says: the difference at each look, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from matchmaking.experiments.definition import CHALLENGERS, Definition
from matchmaking.experiments.difference import difference, moments
from matchmaking.experiments.guardrails import Guardrail
from matchmaking.experiments.integrity import Check
from matchmaking.experiments.power import columns_of
from matchmaking.experiments.sequences import Betting, asymptotic_sequence, betting_sequence, fixed_interval, running

State = Literal["better", "worse", "equivalent", "go on", "undecided", "harmful", "unreadable"]


@dataclass(frozen=True)
class Verdict:
    """What the experiment says today.

    Attributes:
        state: `better`, `worse`, `equivalent` (within the smallest effect worth having), `go on`, `undecided` (the
            planned length is over without one), `harmful` (a guardrail stopped it) or `unreadable` (its arms can't be
            compared, so nothing of the rest is read).
        reason: in words.
        look: the day at whose end it was so first, from 0; None for `go on` and `undecided`.
    """

    state: State
    reason: str
    look: int | None = None

    @property
    def stops(self) -> bool:
        """Whether the experiment is over; for an `unreadable` one that depends on what was found (`announce.ends`)."""
        return self.state not in ("go on", "unreadable")


def sequence(clients: pd.DataFrame, definition: Definition, looks: int) -> pd.DataFrame:
    """The difference in the primary metric at the end of each day.

    Args:
        clients: as `units.client_outcomes` gives them.
        definition: the experiment.
        looks: full days since the start.

    Returns:
        A row a day: `look` (from 0), `champion_clients`, `challenger_clients`, `champion`, `challenger` (the metric, as
        it is), `difference` (adjusted, where the definition says so), `low`, `high` (the confidence sequence, as all
        looks so far leave it; infinite before the first is read), `fixed_low`, `fixed_high` (the usual interval of this
        look alone) and `shortened` (the share of the clients that adjustment saves).
    """
    columns, adjust = columns_of(clients, definition.primary, definition.adjust)
    sums = moments(clients["challenger"].to_numpy(dtype=bool), clients["look"].to_numpy(dtype=int), looks, columns)
    found = difference(sums, adjust=adjust)
    read = (found.clients.min(axis=1, initial=np.inf) >= definition.first_look) & (found.variance > 0)
    low, high = asymptotic_sequence(
        found.estimate, found.variance, found.clients.sum(axis=1), definition.alpha, definition.planned_clients
    )
    low, high = running(np.where(read, low, -np.inf), np.where(read, high, np.inf))
    fixed_low, fixed_high = fixed_interval(found.estimate, found.variance, definition.alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        shortened = 1 - found.variance / found.plain
    return pd.DataFrame(
        {
            "look": np.arange(looks),
            "champion_clients": found.clients[:, 0].astype(int),
            "challenger_clients": found.clients[:, 1].astype(int),
            "champion": found.champion,
            "challenger": found.challenger,
            "difference": found.estimate,
            "low": low,
            "high": high,
            "fixed_low": fixed_low,
            "fixed_high": fixed_high,
            "shortened": shortened,
        }
    )


def bets(clients: pd.DataFrame, definition: Definition, looks: int) -> Betting:
    """The same question without asymptotics, whatever the primary metric: each client's own match rate, by betting."""
    pairs = clients["pairs"].to_numpy(dtype=float)
    rate = np.minimum(clients["matches"].to_numpy(dtype=float) / np.maximum(pairs, 1), 1.0)
    until = np.searchsorted(clients["look"].to_numpy(), np.arange(looks), side="right")
    return betting_sequence(
        rate,
        clients["challenger"].to_numpy(dtype=bool),
        CHALLENGERS,
        until.tolist(),
        definition.alpha,
        planned=definition.planned_clients,
    )


def first_decision(table: pd.DataFrame, effect: float) -> tuple[State, int] | None:
    """The first look whose interval decides, and how; None while none does."""
    low, high = table["low"].to_numpy(), table["high"].to_numpy()
    within = (low > -effect) & (high < effect)
    decided = np.flatnonzero(within | (low > 0) | (high < 0))
    if not len(decided):
        return None
    look = int(decided[0])
    if within[look]:
        return "equivalent", look
    return ("better" if low[look] > 0 else "worse"), look


def judge(
    table: pd.DataFrame, definition: Definition, checks: Sequence[Check] = (), guardrails: Sequence[Guardrail] = ()
) -> Verdict:
    """The verdict after the last look of a table.

    Args:
        table: as `sequence` gives it.
        definition: the experiment.
        checks: as `integrity.check_integrity` gives them.
        guardrails: as `guardrails.judge_requests` and `judge_recall` give them.
    """
    broken = [check for check in checks if check.found and check.stops]
    harmed = sorted((one for one in guardrails if one.look is not None), key=lambda one: one.look or 0)
    harm = "; ".join(f"{one.name} worse by at least {one.at_least:.3g}, {one.tolerated:g} tolerated" for one in harmed)
    if broken:
        said = "; ".join(f"{one.code}: {one.said}" for one in broken)
        # no proof, of arms that can't be compared; but who waits for them to be is to know of it
        said += f"; harm, as far as these logs go: {harm}" if harmed else ""
        return Verdict("unreadable", said, broken[0].look)
    if harmed:
        return Verdict("harmful", harm, harmed[0].look)
    decision = first_decision(table, definition.effect)
    if decision is not None:
        state, look = decision
        low, high = table["low"].iloc[look], table["high"].iloc[look]
        return Verdict(state, f"the difference is within {low:+.4f} and {high:+.4f}", look)
    shown = "too few clients yet"
    if len(table) and np.isfinite(table["low"].iloc[-1]):
        shown = f"the difference is within {table['low'].iloc[-1]:+.4f} and {table['high'].iloc[-1]:+.4f}"
    if len(table) >= definition.last_day:
        return Verdict("undecided", f"the planned {definition.last_day} days are over; {shown}")
    return Verdict("go on", f"day {len(table)} of {definition.last_day}; {shown}")


def fixed_horizon(table: pd.DataFrame, definition: Definition) -> dict[str, object]:
    """What the usual analysis says: once, at the planned number of clients; and if one had looked at it every day.

    Returns:
        `look` (the first with the planned clients; None before), `difference`, `low`, `high` and `state` there (NaN and
        `go on` before); `daily_look` and `daily_state`, the first look at which its interval leaves out 0: not to be
        believed, since it is so sooner or later where nothing differs.
    """
    counts = table["champion_clients"] + table["challenger_clients"]
    there = np.flatnonzero((counts >= definition.planned_clients).to_numpy())
    read = (table[["champion_clients", "challenger_clients"]].min(axis=1) >= definition.first_look).to_numpy()
    low, high = table["fixed_low"].to_numpy(), table["fixed_high"].to_numpy()
    out = np.flatnonzero(read & ((low > 0) | (high < 0)))
    found: dict[str, object] = {"look": None, "difference": np.nan, "low": np.nan, "high": np.nan, "state": "go on"}
    if len(there):
        at = int(there[0])
        state = "better" if low[at] > 0 else "worse" if high[at] < 0 else "no difference shown"
        if low[at] > -definition.effect and high[at] < definition.effect:
            state = "equivalent"
        found = {
            "look": at,
            "difference": float(table["difference"].iloc[at]),
            "low": float(low[at]),
            "high": float(high[at]),
            "state": state,
        }
    found["daily_look"] = int(out[0]) if len(out) else None
    found["daily_state"] = None if not len(out) else "better" if low[out[0]] > 0 else "worse"
    return found
