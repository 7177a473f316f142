"""An experiment read from its logs, as of the end of its last full day: everything that its report shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.evidence.metrics import THRESHOLD
from matchmaking.experiments.daily import judge_days
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.guardrails import Guardrail, judge_recall, judge_requests
from matchmaking.experiments.integrity import Check, check_integrity, lawyer_overlap
from matchmaking.experiments.sequences import Betting
from matchmaking.experiments.units import (
    DAY,
    client_days,
    client_outcomes,
    client_requests,
    in_experiment,
    outcomes_in_time,
)
from matchmaking.experiments.verdict import Verdict, bets, fixed_horizon, judge, sequence

# of the pairs, beside the columns of slices
KNOWN = ("request", "score", "probability", "lawyer", "match")


@dataclass(frozen=True)
class Analysis:
    """What an experiment says.

    Attributes:
        definition: the experiment.
        looks: full days since the start, on each of which it was looked at.
        exposed: clients exposed so far, of both arms.
        verdict: see `verdict.judge`.
        table: see `verdict.sequence`; what is in it isn't to be read where the verdict is `unreadable`.
        fixed: see `verdict.fixed_horizon`.
        betting: see `verdict.bets`.
        checks: see `integrity.check_integrity`.
        guardrails: those that could be judged.
        overlap: see `integrity.lawyer_overlap`; None where the lawyers aren't known.
        to_come: whether its last day wasn't over when the logs were brought. It may be looked at, and is no evidence:
            outcomes that are to come count as none.
    """

    definition: Definition
    looks: int
    exposed: int
    verdict: Verdict
    table: pd.DataFrame
    fixed: dict[str, object]
    betting: Betting
    checks: list[Check]
    guardrails: list[Guardrail]
    overlap: dict[str, float] | None
    to_come: bool = False


def analyse(
    definition: Definition,
    exposures: pd.DataFrame,
    outcomes: pd.DataFrame,
    now: pd.Timestamp,
    pairs: pd.DataFrame | None = None,
    assigned: Callable[[str], str | None] | None = None,
    joins: Callable[[str], float] | None = None,
) -> Analysis:
    """Reads an experiment. The same logs give the same answer, and more of them no other one for the days before.

    Args:
        definition: the experiment.
        exposures: as `exposures.read_exposures` gives them.
        outcomes: `unit`, `time`, `match`, and `request` where it is known.
        now: UTC; what came after the last full day by then isn't looked at yet.
        pairs: what is known of the requests: `request`, and any of `score` (the champion's own, for both arms'),
            `probability` (of the model that answered), the slice columns, `lawyer`, `match`; what else is in it isn't
            read.
        assigned: see `integrity.check_integrity`.
        joins: likewise.

    Raises:
        InputError: a column is missing, or the experiment hasn't begun.
    """
    for name, frame, needed in (
        ("exposure log", exposures, ("time", "unit", "variant", "model", "request", "status", "latency_ms")),
        ("outcomes", outcomes, ("time", "unit", "match")),
        ("pairs", pairs, ("request",)),
    ):
        if frame is not None and (missing := [column for column in needed if column not in frame]):
            raise InputError(f"{name}: no column {', '.join(missing)}")
    start = pd.Timestamp(definition.start)
    looks = int((now - start) // DAY)
    if looks < 0:
        raise InputError(f"{definition.name} begins on {start:%Y-%m-%d %H:%M} UTC; there is nothing to read yet")
    now = start + looks * DAY
    known = _known(pairs, definition) if pairs is not None else None
    scores = known[["request", "score"]] if known is not None and "score" in known else None
    clients = client_outcomes(exposures, outcomes, definition, now, scores)
    checks = check_integrity(exposures, outcomes, clients, definition, now, assigned, joins)
    guardrails = judge_requests(client_requests(exposures, definition, now), definition)
    guardrails += judge_days(client_days(exposures, definition, now), definition)
    overlap = None
    if known is not None:
        seen = in_experiment(exposures, definition, now).merge(known, on="request")
        if "probability" in seen:
            guardrails += judge_recall(_matched(seen, outcomes, clients, definition), definition)
        if "lawyer" in seen:
            shown = seen[seen["probability"] >= THRESHOLD] if "probability" in seen else seen
            if "match" not in shown and "request" in outcomes:
                came = outcomes_in_time(shown, outcomes, clients.set_index("unit")["first"], definition)
                shown = shown.assign(match=shown["request"].isin(came.loc[came["match"] == 1, "request"].dropna()))
            overlap = lawyer_overlap(shown)
    table = sequence(clients, definition, looks)
    return Analysis(
        definition,
        looks,
        int(in_experiment(exposures, definition, now)["unit"].nunique()),
        judge(table, definition, checks, guardrails),
        table,
        fixed_horizon(table, definition),
        bets(clients, definition, looks),
        checks,
        guardrails,
        overlap,
    )


def _known(pairs: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """What is read of the pairs, a row a request; their own `unit` or `variant`, say, would hide the exposures'.

    Raises:
        InputError: a slice's column is missing where its recall could be judged.
    """
    slices = [*definition.guardrails.slices]
    missing = [column for column in slices if column not in pairs]
    if "probability" in pairs and missing:
        raise InputError(f"pairs: no column {', '.join(missing)}, whose slices the definition guards")
    read = [column for column in dict.fromkeys((*KNOWN, *slices)) if column in pairs]
    return pairs[read].drop_duplicates("request")


def numbers(found: Analysis) -> dict[str, Any]:
    """The analysis as JSON; without results where they aren't to be read."""
    said: dict[str, Any] = {
        "experiment": found.definition.name,
        "sha256": found.definition.sha256,
        "verdict": found.verdict.state,
        "reason": found.verdict.reason,
        "decided_on_day": None if found.verdict.look is None else found.verdict.look + 1,
        "day": found.looks,
        "last_day": found.definition.last_day,
        "to_come": found.to_come,
        "clients_exposed": found.exposed,
        "checks": [vars(one) for one in found.checks if one.found],
        "guardrails": [{key: _finite(value) for key, value in vars(one).items()} for one in found.guardrails],
    }
    if found.verdict.state != "unreadable" and len(found.table):
        last = found.table.iloc[-1].to_dict()
        said |= {str(key): _finite(float(value)) for key, value in last.items() if key != "look"}
        said["betting"] = {"low": _finite(float(found.betting.low[-1])), "high": _finite(float(found.betting.high[-1]))}
        said["fixed_horizon"] = {key: _finite(value) for key, value in found.fixed.items()}
        if found.overlap is not None:
            said["lawyer_overlap"] = {key: _finite(value) for key, value in found.overlap.items()}
    return said


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _matched(seen: pd.DataFrame, outcomes: pd.DataFrame, clients: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """The pairs that matched, of clients that count: as `guardrails.judge_recall` takes them.

    What counts is what counts for the primary metric: what comes after a client's deadline changes no look.
    """
    if "request" not in outcomes:
        return pd.DataFrame(columns=["unit", "challenger", "look", "recommended", *seen.columns])
    first = clients.set_index("unit")["first"]
    asked = seen[seen["time"] <= seen["unit"].map(first) + pd.Timedelta(days=definition.window_days)]
    came = outcomes_in_time(asked, outcomes, first, definition)
    matches = came.loc[came["match"] == 1, "request"].dropna()
    found = asked[asked["request"].isin(matches) & asked["probability"].notna()]
    found = found.merge(clients[["unit", "challenger", "look"]], on="unit")
    return found.assign(recommended=np.asarray(found["probability"] >= THRESHOLD))
