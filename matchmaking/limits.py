"""The limits past which a run of monitor or evaluate is a failure, for a schedule or CI that nobody watches."""

from __future__ import annotations

from typing import Any

from matchmaking.decision import Limits, past_limits


def drift_crossed(summary: dict[str, Any], limits: Limits) -> list[str]:
    """What of a monitor's summary is past the limits, in words; empty where nothing is."""
    drift = summary["drift"]
    if drift is None:
        return []
    share = drift["share_drifted"]
    crossed = [f"{share:.0%} of the features drifted, limit {limits.drifted_share:.0%}"]
    crossed = crossed if share > 0 and share >= limits.drifted_share else []
    if limits.target_or_scores:
        crossed += [f"{row['kind']} drifted" for row in drift["columns"] if row["drifted"] and row["kind"] != "feature"]
    return crossed


def degraded(summary: dict[str, Any], limits: Limits) -> list[str]:
    """Which of production's metrics are worse than the limits, in words; empty where none is.

    A metric that could not be computed counts as worse: a limit that can't be checked isn't kept.
    """
    found = summary["metrics"]["production"]
    if found is None:
        return []
    return [f"production's {past}" for past in past_limits(found, limits)]
