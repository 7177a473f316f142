"""The limits past which a run of monitor or evaluate is a failure, for a schedule or CI that nobody watches."""

from __future__ import annotations

from typing import Any

from matchmaking.data.drift import SCORE
from matchmaking.data.schema import TARGET
from matchmaking.evidence.policy import Limits, past_limits


def drift_crossed(summary: dict[str, Any], limits: Limits) -> list[str]:
    """What of a monitor's summary is past the limits, in words; empty where nothing is.

    A limit that can't be checked isn't kept: features with too few rows count as drifted, and scores that were not
    compared are past it. Outcomes come later than the pairs, so current data without them is no failure: see
    `unchecked`.
    """
    drift = summary["drift"]
    if drift is None:
        return ["drift was not measured"]
    crossed = []
    share = drift["share_drifted"]
    features = [row for row in drift["columns"] if row["kind"] == "feature"]
    few = sum(bool(row.get("too_few")) for row in features)
    if share > 0 and share >= limits.drifted_share:
        crossed.append(f"{share:.0%} of the features drifted, limit {limits.drifted_share:.0%}")
    elif few and share + few / len(features) >= limits.drifted_share:
        crossed.append(f"{few} of {len(features)} features have too few rows to tell, limit {limits.drifted_share:.0%}")
    if limits.target_or_scores:
        rows = {row["column"]: row for row in drift["columns"] if row["kind"] != "feature"}
        crossed += [f"{row['kind']} drifted" for row in rows.values() if row["drifted"]]
        crossed += [f"{row['kind']} drift can't be told: too few rows" for row in rows.values() if row.get("too_few")]
        if SCORE not in rows:
            crossed.append("drift of production's scores was not measured: there is no production model")
    return crossed


def unchecked(summary: dict[str, Any], limits: Limits) -> list[str]:
    """What of a monitor's limits was not looked at, without that being a failure, in words."""
    if not limits.target_or_scores or summary["drift"] is None:
        return []
    measured = any(row["column"] == TARGET for row in summary["drift"]["columns"])
    return [] if measured else [f"drift of the target was not measured: a dataset has no column '{TARGET}'"]


def degraded(summary: dict[str, Any], limits: Limits) -> list[str]:
    """Which of production's metrics are worse than the limits, in words; empty where none is.

    A limit that can't be checked isn't kept: a metric that could not be computed counts as worse, and so does
    everything where there is no production model.
    """
    found = summary["metrics"]["production"]
    if found is None:
        return ["there is no production model to measure"]
    return [f"production's {past}" for past in past_limits(found, limits)]
