"""Logs of generated traffic, as files: predictions and outcomes as they would be, and each window's truth beside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.live.parts import Kind, write_part
from matchmaking.live.traffic import Champion, Plan, generate_traffic, true_performance
from matchmaking.live.windows import Period

TRUTH, PLAN = "truth.csv", "plan.json"
PERIODS: tuple[Period, ...] = ("day", "week", "month")


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        predictions, outcomes: how many records.
        truth: each window's expected performance: `period`, `start`, `rows`, and the metrics.
    """

    predictions: int
    outcomes: int
    truth: pd.DataFrame


def champion(folder: Path, day: int) -> Champion:
    """A production folder's model, which serves from a day on.

    Raises:
        InputError: it holds no production model.
    """
    from matchmaking.model import production
    from matchmaking.model.score import score

    production.check_bundle(folder, source=str(folder))
    return Champion(day, production.hashes(folder)[production.MODEL], lambda pairs: score(pairs, folder))


def generate_logs(out: Path, plan: Plan, champions: Sequence[Champion], *, ending: str = ".parquet") -> Written:
    """Writes `predictions/` and `outcomes/`, a part a month each, and `truth.csv` and `plan.json` beside them.

    Outcomes that come after the plan's last day are still to come: they aren't written.

    Args:
        out: the folder; `predictions` and `outcomes` in it are new or empty.
        plan: what happens.
        champions: who serves.
        ending: of the parts' names, see `parts`.

    Raises:
        InputError: there are parts already, or it can't be written there.
    """
    for name in ("predictions", "outcomes"):
        if (out / name).exists() and any((out / name).iterdir()):
            raise InputError(f"{out / name} holds something already: pairs of two worlds would be mixed; name another")
    traffic = generate_traffic(plan, champions)
    until = pd.Timestamp(plan.start, tz="UTC") + pd.Timedelta(days=plan.days)
    come = traffic.outcomes[traffic.outcomes["time"] < until]
    logs: tuple[tuple[pd.DataFrame, Kind], ...] = ((traffic.predictions, "prediction"), (come, "outcome"))
    for frame, kind in logs:
        for month, rows in frame.groupby(frame["time"].dt.strftime("%Y-%m")):
            write_part(rows, out / f"{kind}s" / f"{month}{ending}", kind)
    truth = pd.concat([true_performance(traffic, period).assign(period=period) for period in PERIODS])
    truth = truth[["period", *(name for name in truth if name != "period")]]
    truth.to_csv(out / TRUTH, index=False, lineterminator="\n")
    reigns = [{"day": one.day, "model": one.model} for one in champions]
    (out / PLAN).write_text(json.dumps({**asdict(plan), "champions": reigns}, indent=1) + "\n")
    return Written(len(traffic.predictions), len(come), truth)
