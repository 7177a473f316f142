"""A shadow run, evaluated: both models' files over the pairs of a prediction log, and both services' exposure log.

The gateway throws the challenger's answers away, so what it would have decided is computed anew from its files. The
prediction log is that of live performance (`live.parts`): it holds the pairs, and what the model that served gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.data.batches import BATCH
from matchmaking.data.schema import FEATURES, SLICES, TARGET
from matchmaking.evidence.contract import check_contract
from matchmaking.evidence.metrics import THRESHOLD
from matchmaking.experiments.definition import VARIANTS
from matchmaking.experiments.shadow import Shadow, compare_shadow, share_interval
from matchmaking.live.logs import Logs
from matchmaking.live.parts import Finding, finding
from matchmaking.model import production
from matchmaking.model.score import score_batches

# beyond that a logged probability is another one than the champion's files give
TOLERANCE = 1e-6
# the service's answer has four decimals
ROUNDED = 0.5e-4
# pairs that the contract is checked on
CHECKED = 2_000
# what a client's pairs have in common, where its id isn't known
CASE = ("case_type", "location", "urgency_level", "budget", "preferred_language", "case_complexity_score")
CHAMPION, CHALLENGER = VARIANTS


@dataclass(frozen=True)
class Requests:
    """What both services did with the same requests.

    Attributes:
        total: requests that have a line of either service.
        statuses: `champion`, `challenger` (their status, 0 for no line) and `requests`, the most frequent first.
        failed: by model, of the requests that the other answered with 200: how many it didn't, as `failed`, of
            `asked`, their `share` and its interval `low`, `high`.
        latency: of requests that both answered with 200: `model`, `p50`, `p95`, `p99` in ms.
        ratio: of those, the challenger's latency to the champion's, typically (the geometric mean); None without any.
    """

    total: int
    statuses: pd.DataFrame
    failed: dict[str, dict[str, float]]
    latency: pd.DataFrame
    ratio: float | None


@dataclass(frozen=True)
class ShadowRun:
    """All that the page shows.

    Attributes:
        models: sha256 of each model's .h5.
        first, last: of the pairs' times.
        unit: what a client is taken to be: "client", or "case" where ids aren't known.
        shadow: the comparison.
        logged: of the log's own probabilities: `pairs` that the champion had scored, `different` by more than
            `TOLERANCE`, the `largest` difference, `decisions` that differ, whether all is `rounded` to the four
            decimals of an answer.
        others: pairs that another model had scored, by its sha256, the most frequent first.
        known: pairs whose outcome has come, of those that both models score.
        refused: why the challenger couldn't score the pairs; empty where it could.
        contract: see `contract.check_contract`.
        requests: from the exposure log; None without it.
        findings: what was odd about the logs.
    """

    models: dict[str, str]
    first: pd.Timestamp
    last: pd.Timestamp
    unit: str
    shadow: Shadow
    logged: dict[str, Any]
    others: dict[str, int]
    known: int
    refused: str
    contract: dict[str, Any]
    requests: Requests | None
    findings: list[Finding]


def evaluate_shadow(
    champion: Path, challenger: Path, logs: Logs, exposures: pd.DataFrame | None = None, alpha: float = 0.05
) -> ShadowRun:
    """Scores the log's pairs with both models and compares the two.

    Args:
        champion: folder of its three files.
        challenger: folder of its three files; what is wrong with them is told, not raised.
        logs: predictions and outcomes, joined; what the log's own `model` had decided is the decision that its
            outcome came of.
        exposures: lines of the gateway, as `exposures.read_exposures` gives them; those of other models, and of A/B
            tests, aren't used. Where a pair's id is the number of a request its client is known from there.
        alpha: of the intervals.

    Raises:
        InputError: the champion's files are not what the service needs, the log holds no pair, or the exposure log
            no line of a shadow run of these two.
    """
    if not len(logs.frame):
        raise InputError("the prediction log holds no pair")
    production.check_bundle(champion)
    models: dict[str, str] = {
        model: production.hashes(folder).get(production.MODEL, "")
        for model, folder in zip(VARIANTS, (champion, challenger), strict=True)
    }
    pairs = logs.frame
    probability: dict[str, npt.NDArray[np.float64]] = {CHAMPION: _scored(pairs, champion)}
    refused = ""
    try:
        probability[CHALLENGER] = _scored(pairs, challenger)
    except InputError as error:
        refused, probability[CHALLENGER] = str(error), np.full(len(pairs), np.nan)
    some = np.unique(np.linspace(0, len(pairs) - 1, min(CHECKED, len(pairs))).astype(int))
    features = pairs[list(FEATURES)]
    contract = check_contract(challenger, champion, features.iloc[some], probability[CHALLENGER][some])

    findings, lines = list(logs.findings), None
    if exposures is not None:
        lines, odd = both_lines(exposures, models)
        findings += odd
    clients = lines["unit"].reindex(pairs["pair_id"]) if lines is not None else None
    by_id = clients is not None and bool((clients.notna() & (clients != "")).all())
    case = pairs.groupby(list(CASE), sort=False, dropna=False).ngroup()
    mine = pairs["model"].to_numpy() == models[CHAMPION]
    compared = features.assign(
        request=pairs["pair_id"],
        time=pairs["time"],
        unit=clients.to_numpy() if clients is not None and by_id else case.to_numpy(),
        recommended=pairs["probability"].to_numpy(dtype=float) >= THRESHOLD,
        match=pairs[TARGET],
        **probability,
    )
    shadow = compare_shadow(compared, SLICES, alpha=alpha)
    return ShadowRun(
        models,
        pairs["time"].iloc[0],
        pairs["time"].iloc[-1],
        "client" if by_id else "case",
        shadow,
        _agreement(pairs["probability"].to_numpy(dtype=float)[mine], probability[CHAMPION][mine]),
        {str(model): int(count) for model, count in pairs.loc[~mine, "model"].value_counts().items()},
        int(shadow.outcomes["known"].sum()),
        refused,
        contract,
        judge_lines(lines, alpha) if lines is not None else None,
        findings,
    )


def both_lines(exposures: pd.DataFrame, models: dict[str, str]) -> tuple[pd.DataFrame, list[Finding]]:
    """A shadow run's requests: both services' lines of each in one row.

    Returns:
        By the number of the request: `unit`, and each model's `<model>_status` and `<model>_ms`, NaN where its line
        isn't there. And what was left out: `other-mode`, `other-model`.

    Raises:
        InputError: nothing is left.
    """
    shadow = exposures["mode"] == "shadow"
    ours = exposures["model"] == exposures["variant"].map(models)
    findings = finding("other-mode", list(exposures.loc[~shadow, "request"]))
    findings += finding("other-model", list(exposures.loc[shadow & ~ours, "request"]))
    used = exposures[shadow & ours]
    if not len(used):
        raise InputError(
            f"the exposure log has {len(exposures):,} lines, and none of a shadow run of these two models; "
            "--name chooses an experiment"
        )
    by = {model: part.set_index("request") for model, part in used.groupby("variant", observed=True)}
    rows = pd.DataFrame({"unit": used.drop_duplicates("request").set_index("request")["unit"]})
    for model in VARIANTS:
        part = by.get(model, used.iloc[:0].set_index("request"))
        rows[f"{model}_status"] = part["status"].reindex(rows.index)
        rows[f"{model}_ms"] = part["latency_ms"].reindex(rows.index)
    return rows, findings


def judge_lines(lines: pd.DataFrame, alpha: float = 0.05) -> Requests:
    """Latencies and failures of both services, of the same requests; `lines` as `both_lines` gives them."""
    status = {model: lines[f"{model}_status"].fillna(0).astype(int) for model in VARIANTS}
    counts = pd.DataFrame(status).value_counts().reset_index(name="requests")
    # a request without a client is its own
    unit = lines["unit"].where(lines["unit"] != "", lines.index.to_series())
    units = pd.factorize(unit)[0]
    failed: dict[str, dict[str, float]] = {}
    for model, other in ((CHAMPION, CHALLENGER), (CHALLENGER, CHAMPION)):
        asked = (status[other] == 200).to_numpy()
        wrong = (status[model] != 200).to_numpy()[asked]
        share, low, high = share_interval(wrong, units[asked], alpha)
        failed[model] = {"failed": int(wrong.sum()), "asked": len(wrong), "share": share, "low": low, "high": high}
    well = lines[(status[CHAMPION] == 200) & (status[CHALLENGER] == 200)]
    rows = []
    for model in VARIANTS if len(well) else ():
        quantiles = well[f"{model}_ms"].quantile([0.5, 0.95, 0.99])
        rows.append({"model": model, **dict(zip(("p50", "p95", "p99"), map(float, quantiles), strict=True))})
    # a latency of 0 ms is one below the log's resolution
    new, old = (np.log(well[f"{model}_ms"].clip(lower=0.1)) for model in (CHALLENGER, CHAMPION))
    return Requests(
        len(lines),
        counts,
        failed,
        pd.DataFrame(rows, columns=["model", "p50", "p95", "p99"]),
        float(np.exp((new - old).mean())) if len(well) else None,
    )


def _scored(pairs: pd.DataFrame, bundle: Path) -> npt.NDArray[np.float64]:
    """A bundle's probabilities; NaN where it gives NaN, and an error only where it can't be asked at all."""
    parts: list[npt.NDArray[np.float64]] = []

    def frames() -> Iterator[pd.DataFrame]:
        for start in range(0, len(pairs), BATCH):
            yield pairs.iloc[start : start + BATCH]

    try:
        for _, part in score_batches(frames(), bundle):
            parts.append(part)
    except InputError:
        # that some are NaN is told after the last batch
        if sum(map(len, parts)) < len(pairs):
            raise
    return np.concatenate(parts)


def _agreement(logged: npt.NDArray[np.float64], given: npt.NDArray[np.float64]) -> dict[str, Any]:
    """What the log says of the champion's probabilities, against what its files give."""
    # a NaN is a difference, too
    apart = np.where(np.isfinite(given), np.abs(logged - given), 1.0)
    within = apart <= ROUNDED + TOLERANCE
    return {
        "pairs": len(logged),
        "different": int((apart > TOLERANCE).sum()),
        "largest": float(apart.max(initial=0.0)),
        "decisions": int(((logged >= THRESHOLD) != (given >= THRESHOLD)).sum()),
        "rounded": bool(len(logged) and within.all() and np.allclose(logged, logged.round(4), rtol=0, atol=1e-12)),
    }
