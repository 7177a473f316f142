"""What a challenger that only saw copies of the requests would have decided, and what that can tell.

No command uses it: the exposure log has no probabilities, so a caller has to bring both models' (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from matchmaking.data.schema import SLICES
from matchmaking.evidence.metrics import THRESHOLD, curves, expected_calibration_error
from matchmaking.experiments.sequences import forecast_sequence

CANNOT = (
    "The outcomes are those of the champion's decisions. Of pairs that it recommended they tell what the challenger's "
    "probabilities are worth. Of pairs that it didn't recommend few were ever tried, and not by chance: what would "
    "have come of those that the challenger alone recommends is not in them. Whether people get better matches only an "
    "A/B test can tell."
)


@dataclass(frozen=True)
class Shadow:
    """A shadow run, evaluated.

    Attributes:
        decisions: by slice: `slice`, `value_of` (both empty for all), `pairs`, `both`, `neither`, `champion_only`,
            `challenger_only`, `different` (share), its interval `low`, `high`.
        examples: pairs on whose decision they differ, the probabilities that are furthest apart first.
        calibration: by model and what the champion had decided: `model`, `recommended`, `pairs`, `mean` (probability),
            `rate` (of matches), `brier`, `ece`; of the pairs whose outcome is known.
        curves: each model's calibration curve: [mean probability, match rate, pairs].
        brier: by how much the challenger's Brier score is better, on average over clients, with a confidence sequence:
            `mean`, `low`, `high`, `clients`; empty without outcomes.
        latency: `model`, `p50`, `p95`, `p99` in ms; empty without latencies.
        failures: the challenger's: `unanswered` requests, `status` other than 200, probabilities `invalid`; of
            `requests`.
    """

    decisions: pd.DataFrame
    examples: pd.DataFrame
    calibration: pd.DataFrame
    curves: dict[str, list[list[float]]]
    brier: dict[str, float]
    latency: pd.DataFrame
    failures: dict[str, int]


def compare_shadow(
    pairs: pd.DataFrame, slices: Sequence[str] = SLICES, examples: int = 10, alpha: float = 0.05
) -> Shadow:
    """Compares the two models on the requests that both saw.

    Args:
        pairs: a row a request, in order of time: `request`, `unit`, `champion` and `challenger` (probabilities; NaN
            where there is no answer), the columns of `slices`; where known `match` (missing where no outcome has come),
            `champion_ms`, `challenger_ms`, `challenger_status`.
        slices: columns to break decisions down by.
        examples: how many to give.
        alpha: of the intervals and of the confidence sequence.
    """
    new = pairs["challenger"]
    status = pairs["challenger_status"] if "challenger_status" in pairs else pd.Series(200, index=pairs.index)
    invalid = new.notna() & ~new.between(0, 1)
    failures = {
        "requests": len(pairs),
        "unanswered": int((new.isna() & ((status == 200) | status.isna())).sum()),
        "status": int((status.notna() & (status != 200)).sum()),
        "invalid": int(invalid.sum()),
    }
    both = pairs[pairs["champion"].between(0, 1) & new.between(0, 1)]
    old_says, new_says = both["champion"] >= THRESHOLD, both["challenger"] >= THRESHOLD
    rows = [_decisions("", "", old_says, new_says, alpha)]
    for column in slices:
        for value, part in sorted(both.groupby(column, observed=True).indices.items()):
            rows.append(_decisions(column, str(value), old_says.iloc[part], new_says.iloc[part], alpha))
    apart = both[old_says != new_says]
    furthest = (apart["champion"] - apart["challenger"]).abs().sort_values(ascending=False, kind="stable").index
    known = both[both["match"].notna()] if "match" in both else both.iloc[:0].assign(match=0)
    return Shadow(
        pd.DataFrame(rows),
        apart.loc[furthest[:examples]].reset_index(drop=True),
        _calibration(known),
        {
            model: curves(known["match"].to_numpy(dtype=int), known[model].to_numpy(dtype=float))["calibration"]
            for model in ("champion", "challenger")
            if len(known) and 0 < known["match"].sum() < len(known)
        },
        _brier(known, alpha),
        _latency(pairs),
        failures,
    )


def _decisions(column: str, value: str, old: pd.Series, new: pd.Series, alpha: float) -> dict[str, object]:
    pairs, different = len(old), int((old != new).sum())
    low, high = wilson(different, pairs, alpha)
    return {
        "slice": column,
        "value_of": value,
        "pairs": pairs,
        "both": int((old & new).sum()),
        "neither": int((~old & ~new).sum()),
        "champion_only": int((old & ~new).sum()),
        "challenger_only": int((~old & new).sum()),
        "different": different / pairs if pairs else float("nan"),
        "low": low,
        "high": high,
    }


def wilson(count: int, total: int, alpha: float) -> tuple[float, float]:
    """The two-sided score interval of a share (Wilson, JASA 22, 1927)."""
    if not total:
        return 0.0, 1.0
    z = float(ndtri(1 - alpha / 2))
    share = count / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    radius = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, float(centre - radius)), min(1.0, float(centre + radius))


def _calibration(known: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for recommended in (True, False):
        part = known[(known["champion"] >= THRESHOLD) == recommended]
        match = part["match"].to_numpy(dtype=int)
        for model in ("champion", "challenger"):
            if len(part):
                p = part[model].to_numpy(dtype=float)
                rows.append(
                    {
                        "model": model,
                        "recommended": recommended,
                        "pairs": len(part),
                        "mean": float(p.mean()),
                        "rate": float(match.mean()),
                        "brier": float(((p - match) ** 2).mean()),
                        "ece": expected_calibration_error(match, p),
                    }
                )
    return pd.DataFrame(rows, columns=["model", "recommended", "pairs", "mean", "rate", "brier", "ece"])


def _brier(known: pd.DataFrame, alpha: float) -> dict[str, float]:
    if not len(known):
        return {}
    match = known["match"].astype(float)
    gain = (known["champion"] - match) ** 2 - (known["challenger"] - match) ** 2
    # a client is one draw: its pairs are alike
    by_client = gain.groupby(known["unit"], sort=False).mean().to_numpy(dtype=float)
    mean, low, high = forecast_sequence(by_client, alpha)
    return {"mean": float(mean[-1]), "low": float(low[-1]), "high": float(high[-1]), "clients": float(len(by_client))}


def _latency(pairs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for model in ("champion", "challenger"):
        if f"{model}_ms" in pairs and pairs[f"{model}_ms"].notna().any():
            quantiles = pairs[f"{model}_ms"].quantile([0.5, 0.95, 0.99])
            rows.append({"model": model, **dict(zip(("p50", "p95", "p99"), map(float, quantiles), strict=True))})
    return pd.DataFrame(rows, columns=["model", "p50", "p95", "p99"])
