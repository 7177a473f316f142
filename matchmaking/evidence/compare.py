"""The promotion decision: is a candidate better than production, and is it safe?

Both models are scored on the same held-out rows, so everything is paired: one bootstrap resample of the rows gives one
difference of every metric. `decide` applies the tests a policy asks for and comes to a verdict. docs/decision.md gives
the reasoning and the measured error rates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.evidence.bootstrap import metric_scorer
from matchmaking.evidence.explain import explain
from matchmaking.evidence.inference import as_shown, draw, holm_corrected, judge_overall, judge_primary, judge_slices
from matchmaking.evidence.metrics import evaluate, expected_calibration_error
from matchmaking.evidence.policy import Policy, load_policy, past_limits


def decide(scores: pd.DataFrame, policy: Policy, seed: int = 0) -> dict[str, Any]:
    """Compare candidate and production on the same held-out rows.

    - `reject`: harm is shown. A guardrail, overall or in a slice, loses its margin or more and the loss is
      significant after Holm's correction; or the primary metric is worse by `min_effect` with its whole interval
      below zero.
    - `promote`: no harm, the primary metric improves by `min_effect` with its whole interval above zero, and
      every overall guardrail is non-inferior: the lower end of its interval is above minus its margin.
    - `hold`: the evidence reaches neither way.
    - `bootstrap`: there is no `production` column to compare with.

    Every `improvement` and `ci` in the result is signed so that positive is better, whatever the metric.

    Args:
        scores: a row per held-out pair, in any order: `match` (0/1), `production` and `candidate`
            (probabilities; `production` may be absent), and the policy's slice columns. Rows of one `group` (any
            values; the column may be absent) are one piece of evidence: they are resampled together and count once.
        policy: what to test, and how strictly.
        seed: of the bootstrap; the same rows and seed give the same result.

    Returns:
        JSON-serialisable: `verdict`, `reasons`, `automatic` (whether the policy lets the candidate be promoted without
        a person), `primary`, `guardrails`, `unlisted` (values of each slice column with too few matches that are
        not among the guardrails), `ece` by model (reported, not tested), `policy`, `rows`, `positives`, `distinct`
        (the groups among the `rows` and among the `positives`), `intervals` (by what they were found: `inference`'s
        `BOOTSTRAP` or `NORMAL`; None where nothing is compared) and `seed`.

    Raises:
        InputError: a column is missing, a value is out of range, or only one class is present.
    """
    scores = _checked(scores, policy)
    match, group = scores["match"].to_numpy(), scores["group"].to_numpy()
    distinct = {"rows": int(group.max()) + 1, "positives": len(np.unique(group[match == 1]))}
    models = [m for m in ("production", "candidate") if m in scores]
    scorers = [metric_scorer(match, scores[m].to_numpy()) for m in models]
    values = {
        m: {k: float(v[0]) for k, v in score(np.ones((1, len(match)))).items()}
        for m, score in zip(models, scorers, strict=True)
    }
    guardrails: list[dict[str, Any]] = []
    unlisted: dict[str, int] = {}
    intervals: str | None = None
    if "production" not in scores:
        metric = policy.primary.metric
        too_low = past_limits(evaluate(match, scores["candidate"].to_numpy()), policy.limits)
        verdict, reasons = "bootstrap", ["there is no production model to compare with"]
        reasons += [
            f"{what}; what would count as degraded production is not promoted automatically" for what in too_low
        ]
        automatic = policy.auto_promote and not too_low
        primary = {
            "metric": metric,
            "production": None,
            "candidate": as_shown(metric, values["candidate"][metric]),
            "result": "not compared",
        }
    else:
        drawn, intervals = draw(scores, scorers, values, policy.bootstrap.resamples, seed)
        primary = judge_primary(values, drawn, policy)
        slices, unlisted = judge_slices(scores, policy)
        guardrails = holm_corrected([*judge_overall(scores, values, drawn, policy)], slices, policy.guardrails.alpha)
        verdict, reasons = _verdict(primary, guardrails, distinct, len(match), policy)
        automatic = policy.auto_promote and verdict == "promote"
    return {
        "verdict": verdict,
        "reasons": reasons,
        "automatic": automatic,
        "primary": primary,
        "guardrails": guardrails,
        "unlisted": unlisted,
        "ece": {m: expected_calibration_error(match, scores[m].to_numpy()) for m in models},
        "policy": policy.model_dump(mode="json"),
        "rows": len(match),
        "positives": int(match.sum()),
        "distinct": distinct,
        "intervals": intervals,
        "seed": seed,
    }


def _checked(scores: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """The columns the decision reads, sorted, so that the result doesn't depend on the order of the rows.

    `group` is there in any case, as numbers 0, 1, ... in the order of the rows.
    """
    models = [m for m in ("production", "candidate") if m in scores or m == "candidate"]
    slices = [*dict.fromkeys(policy.guardrails.slices.columns)]
    columns = ["match", *models, *slices]
    if missing := [c for c in columns if c not in scores]:
        raise InputError(f"scores: no column {', '.join(missing)}; needed are {', '.join(columns)}")
    for column in ["match", *models]:
        values = pd.to_numeric(scores[column], errors="coerce")
        wrong = ~(values.isin([0, 1]) if column == "match" else values.between(0, 1))
        if wrong.any():
            allowed = "0 or 1" if column == "match" else "a probability in [0, 1]"
            found = scores.loc[wrong, column].iloc[0]
            raise InputError(f"scores: {column} must be {allowed}; {int(wrong.sum())} rows are not, as {found!r}")
    if scores["match"].nunique() < 2:
        raise InputError("scores: both matches and non-matches are needed to compare two models")
    types = {"match": "int8", **dict.fromkeys(models, "float64")}
    used = scores[columns].astype({c: types.get(c, "str") for c in columns})
    used = used.astype(dict.fromkeys(slices, "category"))  # a few numbers a row instead of a few texts
    if "group" not in scores:
        return _in_order(used).assign(group=np.arange(len(used)))
    if unknown := int(scores["group"].isna().sum()):
        raise InputError(f"scores: group is missing in {unknown} rows")
    used = _in_order(used.assign(group=scores["group"]))
    return used.assign(group=pd.factorize(used["group"])[0])


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows sorted by all columns, as `sort_values` has them, which would sort each column by itself first."""
    keys = [
        column.to_numpy()
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf"
        else pd.Categorical(column, ordered=True).codes
        for _, column in rows.items()
    ]
    return rows.take(np.lexsort(keys[::-1])).reset_index(drop=True)


def _verdict(
    primary: dict[str, Any], guardrails: list[dict[str, Any]], distinct: dict[str, int], rows: int, policy: Policy
) -> tuple[str, list[str]]:
    """The verdict, and why: what was harmed, or what is not shown yet, or what is shown."""
    if (positives := distinct["positives"]) < (needed := policy.bootstrap.min_positives):
        kind = "distinct matches" if distinct["rows"] < rows else "matches"
        return "hold", [f"{positives} {kind} in the held-out rows; a decision needs {needed}"]
    harmed = [
        f"{visible(t['name'])} is clearly worse: {_numbers(t)}; it may lose {t['margin']:g} "
        f"(p = {t['p_harm_holm']:.2g}, Holm-adjusted)"
        for t in guardrails
        if t["result"] == "harm"
    ]
    if primary["result"] == "worse":
        harmed.insert(0, f"{primary['metric']} is clearly worse: {_numbers(primary)}")
    if harmed:
        return "reject", harmed
    missing = []
    if primary["result"] != "improved":
        need = f"it takes {primary['min_effect']:g} and an interval above zero"
        missing.append(f"{primary['metric']} is not shown to improve: {_numbers(primary)}; {need}")
    missing += [
        f"{t['name']} may be worse: {_numbers(t)}; the interval must stay above -{t['margin']:g}"
        for t in guardrails
        if t["name"] in policy.guardrails.margins and t["result"] == "inconclusive"
    ]
    if missing:
        return "hold", missing
    kept = ", ".join(policy.guardrails.margins)
    return "promote", [
        f"{primary['metric']} improves: {_numbers(primary)}",
        *([f"non-inferior within their margins: {kept}"] if kept else []),
        *(["no slice is shown to be harmed"] if len(guardrails) > len(policy.guardrails.margins) else []),
    ]


def _numbers(test: dict[str, Any]) -> str:
    low, high = test["ci"]
    return (
        f"{test['production']:.4f} -> {test['candidate']:.4f}, improvement {test['improvement']:+.4f} "
        f"({100 * test['confidence']:g}% interval {low:+.4f} to {high:+.4f})"
    )


def with_contract(decision: dict[str, Any], contract: Mapping[str, Any] | None) -> dict[str, Any]:
    """The decision with the serving contract in it: what production cannot serve is rejected, whatever its metrics.

    Args:
        decision: what `decide` gave.
        contract: what `contract.check_contract` gave; None where it wasn't checked, which changes nothing.
    """
    if contract is None:
        return decision
    broken = [f"{check['name']}: {check['detail']}" for check in contract["checks"] if not check["passed"]]
    result = {**decision, "contract": {"passed": contract["passed"], "failed": broken}}
    if not contract["passed"]:
        reasons = [f"the serving contract failed, {what}" for what in broken]
        result |= {"verdict": "reject", "automatic": False, "reasons": [*reasons, *decision["reasons"]]}
    return result


def with_data(decision: dict[str, Any], data: Mapping[str, Any] | None, policy: Policy) -> dict[str, Any]:
    """The decision with what was noticed in the dataset: its warnings among the reasons.

    Where too much of a column is unknown to the encoder, the rows aren't what production will be asked, and a better
    candidate is held.

    Args:
        decision: what `decide` and `with_contract` gave.
        data: the fields of a `schema.DataReport`; None where there is none, which changes nothing.
        policy: with the largest share, `data.max_unknown_share`.
    """
    from matchmaking.data.describe import unknown_shares

    if data is None:
        return decision
    limit = policy.data.max_unknown_share
    past = [
        f"{share:.1%} of column '{column}' is unknown to production's encoder; it may be {limit:.1%}"
        for column, share in unknown_shares(data).items()
        if share > limit
    ]
    warnings = list(data["warnings"])
    told = [*decision["reasons"], *(f"the data: {warning}" for warning in warnings)]
    result = {**decision, "warnings": warnings, "reasons": told}
    if past and decision["verdict"] == "promote":
        result |= {"verdict": "hold", "automatic": False, "reasons": [*past, *told]}
    return result


def with_split(decision: dict[str, Any], split: Mapping[str, Any] | None) -> dict[str, Any]:
    """The decision with how its held-out pairs were chosen; what had to be assumed for it is among the reasons.

    Args:
        decision: what `decide`, `with_contract` and `with_data` gave.
        split: the fields of `split.Facts`; None where that isn't known, which changes nothing.
    """
    if split is None:
        return decision
    told = [f"the split: {note}" for note in split["notes"]]
    return {**decision, "split": dict(split), "reasons": [*decision["reasons"], *told]}


def decide_file(
    scores_path: Path,
    policy: str,
    seed: int,
    decision_path: Path,
    page_path: Path,
    evaluation_path: Path | None = None,
    data_path: Path | None = None,
) -> dict[str, Any]:
    """`decide`, and what else counts, on the files of a run; writes the decision as JSON and as a page.

    Args:
        scores_path: parquet: `match` and each model's probability.
        policy: YAML laid over the default policy; empty for the default one.
        seed: of the bootstrap.
        decision_path: JSON file to write.
        page_path: Markdown file to write.
        evaluation_path: JSON with the serving contract and the split's facts; None for none.
        data_path: JSON with the fields of a `schema.DataReport`; None for none.

    Returns:
        The decision.
    """
    rules = load_policy(text=policy)
    evaluation = json.loads(evaluation_path.read_text()) if evaluation_path else {}
    data = json.loads(data_path.read_text()) if data_path else None
    decision = with_contract(decide(pd.read_parquet(scores_path), rules, seed), evaluation.get("contract"))
    decision = with_split(with_data(decision, data, rules), evaluation.get("split"))
    decision_path.write_text(json.dumps(decision, indent=1))
    page_path.write_text(explain(decision))
    return decision
