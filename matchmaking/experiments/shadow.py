"""What two models would have decided on the same pairs, and what the outcomes of the champion's decisions can tell.

The pairs are a caller's; `shadow_run` takes those of a prediction log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from matchmaking.data.schema import SLICES
from matchmaking.evidence.metrics import THRESHOLD, curves, expected_calibration_error
from matchmaking.experiments.definition import VARIANTS
from matchmaking.experiments.sequences import forecast_sequence

CANNOT = (
    "The outcomes are those of the champion's decisions. Of pairs that it recommended they tell what the challenger's "
    "probabilities are worth. Of pairs that it didn't recommend few were ever tried, and not by chance: what would "
    "have come of those that the challenger alone recommends is not in them. Whether people get better matches only an "
    "A/B test can tell."
)
# who recommends a pair: the champion's word, and the challenger's
DECISIONS = {"both": (True, True), "champion only": (True, False), "challenger only": (False, True)}
DECISIONS["neither"] = (False, False)


@dataclass(frozen=True)
class Shadow:
    """Two models on the same pairs. Intervals take a client for one draw, as its pairs are alike.

    Attributes:
        decisions: by slice: `slice`, `value_of` (both empty for all), `pairs`, `clients`, `both`, `neither`,
            `champion_only`, `challenger_only`, `different` (share), its interval `low`, `high`.
        examples: pairs on whose decision they differ, the probabilities that are furthest apart first.
        outcomes: by who recommends, in the order of `DECISIONS`: `decision`, `pairs`, `known` (with an outcome),
            `matches`, `rate` (of matches, of the known), its interval `low`, `high`; empty without outcomes.
        calibration: by model and what was recommended: `model`, `recommended`, `pairs` (with an outcome), `mean`
            (probability), `rate` (of matches), `gap` (their difference), its interval `low`, `high`, `brier`, `ece`.
        curves: each model's calibration curve: [mean probability, match rate, pairs].
        brier: by how much the challenger's Brier score is better, on average over clients, with a confidence sequence:
            `mean`, `low`, `high`, `clients`; empty without outcomes.
        without: by model, the pairs for which it gives no probability: NaN, or outside of 0 to 1.
    """

    decisions: pd.DataFrame
    examples: pd.DataFrame
    outcomes: pd.DataFrame
    calibration: pd.DataFrame
    curves: dict[str, list[list[float]]]
    brier: dict[str, float]
    without: dict[str, int]


def compare_shadow(
    pairs: pd.DataFrame, slices: Sequence[str] = SLICES, examples: int = 10, alpha: float = 0.05
) -> Shadow:
    """Compares two models on the same pairs.

    Args:
        pairs: a row a pair, in order of time: `request`, `unit` (its client), `champion` and `challenger`
            (probabilities), the columns of `slices`; where known `match` (missing where no outcome has come) and
            `recommended` (what was decided, by whoever served; the champion's word, if left out).
        slices: columns to break decisions down by.
        examples: how many to give.
        alpha: of the intervals, each by itself, and of the confidence sequence.
    """
    valid = {model: pairs[model].between(0, 1) for model in VARIANTS}
    both = pairs[valid["champion"] & valid["challenger"]]
    old, new = (both[model].to_numpy(dtype=float) >= THRESHOLD for model in VARIANTS)
    units = pd.factorize(both["unit"])[0]
    rows = [_decisions("", "", old, new, units, alpha)]
    for column in slices:
        for value, part in sorted(both.groupby(column, observed=True).indices.items()):
            rows.append(_decisions(column, str(value), old[part], new[part], units[part], alpha))
    apart = both[old != new]
    furthest = (apart["champion"] - apart["challenger"]).abs().sort_values(ascending=False, kind="stable").index
    there = both["match"].notna().to_numpy() if "match" in both else np.zeros(len(both), dtype=bool)
    match = both["match"].fillna(0).to_numpy(dtype=int) if "match" in both else np.zeros(len(both), dtype=int)
    decided = both["recommended"].to_numpy(dtype=bool) if "recommended" in both else old
    by_model: dict[str, npt.NDArray[np.float64]] = {
        model: both[model].to_numpy(dtype=float)[there] for model in VARIANTS
    }
    known, whose = match[there], units[there]
    return Shadow(
        pd.DataFrame(rows),
        apart.loc[furthest[:examples]].reset_index(drop=True),
        _outcomes(old, new, there, match, units, alpha),
        _calibration(by_model, known, decided[there], whose, alpha),
        {
            model: curves(known, probability)["calibration"]
            for model, probability in by_model.items()
            if 0 < known.sum() < len(known)
        },
        _brier(by_model, known, whose, alpha),
        {model: int((~valid[model]).sum()) for model in VARIANTS},
    )


def wilson(count: float, total: float, alpha: float) -> tuple[float, float]:
    """The two-sided score interval of a share (Wilson, JASA 22, 1927)."""
    if not total:
        return 0.0, 1.0
    z = float(ndtri(1 - alpha / 2))
    share = count / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    radius = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, float(centre - radius)), min(1.0, float(centre + radius))


def share_interval(
    what: npt.NDArray[np.bool_], units: npt.NDArray[np.intp], alpha: float
) -> tuple[float, float, float]:
    """A share of pairs, and its score interval with clients as clusters.

    The number of pairs is divided by the design effect, the share's variance by client over that of as many
    independent pairs (Korn & Graubard, Survey Methodology 24, 1998; with Wilson's interval: Dean & Pagano, J. Survey
    Statistics and Methodology 3, 2015). Where all pairs are alike there is none to be seen: then the clients count.
    """
    pairs = len(what)
    if not pairs:
        return float("nan"), 0.0, 1.0
    share = float(np.mean(what))
    _, index = np.unique(units, return_inverse=True)
    clients = int(index.max()) + 1
    effective = float(clients)
    if 0 < share < 1 and clients > 1:
        spread = np.bincount(index, weights=what - share) ** 2
        variance = spread.sum() / pairs**2 * clients / (clients - 1)
        effective = min(float(pairs), share * (1 - share) / variance) if variance else float(pairs)
    return share, *wilson(share * effective, effective, alpha)


def _decisions(
    column: str,
    value: str,
    old: npt.NDArray[np.bool_],
    new: npt.NDArray[np.bool_],
    units: npt.NDArray[np.intp],
    alpha: float,
) -> dict[str, object]:
    different, low, high = share_interval(old != new, units, alpha)
    return {
        "slice": column,
        "value_of": value,
        "pairs": len(old),
        "clients": len(np.unique(units)),
        "both": int((old & new).sum()),
        "neither": int((~old & ~new).sum()),
        "champion_only": int((old & ~new).sum()),
        "challenger_only": int((~old & new).sum()),
        "different": different,
        "low": low,
        "high": high,
    }


def _outcomes(
    old: npt.NDArray[np.bool_],
    new: npt.NDArray[np.bool_],
    there: npt.NDArray[np.bool_],
    match: npt.NDArray[np.intp],
    units: npt.NDArray[np.intp],
    alpha: float,
) -> pd.DataFrame:
    rows = []
    for name, (first, second) in DECISIONS.items() if there.any() else ():
        chosen = (old == first) & (new == second)
        known = chosen & there
        rate, low, high = share_interval(match[known] == 1, units[known], alpha)
        counts = {"pairs": int(chosen.sum()), "known": int(known.sum()), "matches": int(match[known].sum())}
        rows.append({"decision": name, **counts, "rate": rate, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["decision", "pairs", "known", "matches", "rate", "low", "high"])


def _calibration(
    by_model: dict[str, npt.NDArray[np.float64]],
    match: npt.NDArray[np.intp],
    decided: npt.NDArray[np.bool_],
    units: npt.NDArray[np.intp],
    alpha: float,
) -> pd.DataFrame:
    rows = []
    for recommended in (True, False):
        part = decided == recommended
        for model, probability in by_model.items():
            if part.any():
                p, y = probability[part], match[part]
                _, index = np.unique(units[part], return_inverse=True)
                clients = int(index.max()) + 1
                gap = float((p - y).mean())
                spread = (np.bincount(index, weights=p - y - gap) ** 2).sum() / len(p) ** 2
                # of one client nothing is known of how clients differ
                error = np.sqrt(spread * clients / (clients - 1)) if clients > 1 else np.inf
                radius = float(ndtri(1 - alpha / 2) * error)
                rows.append(
                    {
                        "model": model,
                        "recommended": recommended,
                        "pairs": len(p),
                        "mean": float(p.mean()),
                        "rate": float(y.mean()),
                        "gap": gap,
                        "low": max(gap - radius, -1.0),
                        "high": min(gap + radius, 1.0),
                        "brier": float(((p - y) ** 2).mean()),
                        "ece": expected_calibration_error(y, p),
                    }
                )
    columns = ["model", "recommended", "pairs", "mean", "rate", "gap", "low", "high", "brier", "ece"]
    return pd.DataFrame(rows, columns=columns)


def _brier(
    by_model: dict[str, npt.NDArray[np.float64]], match: npt.NDArray[np.intp], units: npt.NDArray[np.intp], alpha: float
) -> dict[str, float]:
    if not len(match):
        return {}
    gain = pd.Series((by_model["champion"] - match) ** 2 - (by_model["challenger"] - match) ** 2)
    # a client is one draw: its pairs are alike
    by_client = gain.groupby(units, sort=False).mean()
    mean, low, high = forecast_sequence(np.asarray(by_client, dtype=np.float64), alpha)
    return {"mean": float(mean[-1]), "low": float(low[-1]), "high": float(high[-1]), "clients": float(len(by_client))}
