"""The statistical tests of the decision: differences, their intervals and p-values, corrected for multiplicity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from matchmaking.evidence.bootstrap import Floats, bootstrap_weights
from matchmaking.evidence.influence import Draws, normal_draws, suits
from matchmaking.evidence.metrics import LOWER_IS_BETTER, THRESHOLD
from matchmaking.evidence.policy import Policy

# values of a slice column with too few matches that are shown, those with the most; the others are counted
_FEW_SHOWN = 20
# how the sampling error was found, as the decision says it
BOOTSTRAP, NORMAL = "bootstrap", "normal approximation of the bootstrap"


def draw(
    scores: pd.DataFrame,
    scorers: list[Callable[[Floats], dict[str, Floats]]],
    values: dict[str, dict[str, float]],
    resamples: int,
    seed: int,
) -> tuple[Draws, str]:
    """Both models' metrics in each resample, and how they were found: `BOOTSTRAP`, or `NORMAL` of very many rows.

    Args:
        scores: `match`, `production`, `candidate` and `group`, the latter as numbers 0, 1, ...
        scorers: of both models.
        values: both models' metrics.
        resamples: how many.
        seed: of the drawing.
    """
    match, group = scores["match"].to_numpy(), scores["group"].to_numpy()
    rng = np.random.default_rng(seed)
    if suits(match, group):
        models = [scores[model].to_numpy() for model in values]
        if (drawn := normal_draws(match, group, models, [*values.values()], resamples, rng)) is not None:
            return drawn, NORMAL
    return resampled(match, group, scorers, resamples, rng), BOOTSTRAP


def resampled(
    match: npt.NDArray[Any],
    group: npt.NDArray[np.intp],
    scorers: list[Callable[[Floats], dict[str, Floats]]],
    resamples: int,
    rng: np.random.Generator,
) -> Draws:
    """Both models' metrics in each resample of the rows."""
    blocks = [[score(weights) for score in scorers] for weights in bootstrap_weights(match, resamples, rng, group)]
    old, new = ({name: np.concatenate([b[i][name] for b in blocks]) for name in blocks[0][i]} for i in (0, 1))
    return {name: (old[name], new[name]) for name in old}


def as_shown(name: str, value: float) -> float:
    """A metric as people read it: calibration is signed only where two are compared."""
    return abs(value) if name == "calibration" else value


def _gain(name: str, old: Any, new: Any) -> Any:
    """Candidate's gain over production; positive is better."""
    if name == "calibration":
        return np.abs(old) - np.abs(new)
    return old - new if name in LOWER_IS_BETTER else new - old


def _share(extreme: npt.NDArray[np.bool_]) -> float:
    """A bootstrap p-value that is never zero (Davison & Hinkley, 1997, section 4.2)."""
    return float((1 + extreme.sum()) / (1 + len(extreme)))


def _compared(name: str, values: dict[str, dict[str, float]], drawn: Draws, confidence: float) -> dict[str, Any]:
    """One metric of both models, the gain and its two-sided percentile interval."""
    old, new = values["production"][name], values["candidate"][name]
    return {
        "production": as_shown(name, old),
        "candidate": as_shown(name, new),
        "improvement": float(_gain(name, old, new)),
        "ci": _interval(name, *drawn[name], confidence),
        "confidence": confidence,
    }


def _interval(name: str, old: Floats, new: Floats, confidence: float) -> list[float]:
    """The two-sided interval of the gain, from both models' draws.

    The draws of |mean p - match rate| are biased where it is near zero, so its loss |c| - |o| is bounded by way of its
    signed parts: it is the larger of min(c - o, c + o) and min(-c - o, -c + o). A maximum is below a bound if both of
    its parts are (TOST: Schuirmann, J Pharmacokinet Biopharm 15, 1987), a minimum if either is, which costs half of
    the level (Bonferroni); from below it is the other way round.
    """
    tail = (1 - confidence) / 2
    if name != "calibration":
        return np.quantile(_gain(name, old, new), [tail, 1 - tail]).tolist()
    parts = [[new - old, new + old], [-new - old, old - new]]
    bounds = [max(min(float(np.quantile(q, at)) for q in side) for side in parts) for at in (1 - tail / 2, tail / 2)]
    return [0.0 - bounds[0], 0.0 - bounds[1]]  # not -0.0


def _p_above(name: str, old: Floats, new: Floats, bound: float) -> float:
    """The p-value of a gain of `bound` or less: small where it is shown to be more."""
    if name != "calibration":
        return _share(_gain(name, old, new) <= bound)
    sides = [[new - old, new + old], [-new - old, old - new]]
    return min(1.0, max(2 * min(_share(q >= -bound) for q in side) for side in sides))


def _p_harm(name: str, old: Floats, new: Floats) -> float:
    """The p-value of no loss: small where one is shown."""
    if name != "calibration":
        return _share(_gain(name, old, new) >= 0)
    sides = [[new - old, new + old], [-new - old, old - new]]
    return min(1.0, 2 * min(max(_share(q <= 0) for q in side) for side in sides))


def judge_primary(values: dict[str, dict[str, float]], drawn: Draws, policy: Policy) -> dict[str, Any]:
    metric, effect = policy.primary.metric, policy.primary.min_effect
    test = _compared(metric, values, drawn, policy.primary.confidence)
    low, high = test["ci"]
    result = "inconclusive"
    if test["improvement"] >= effect and low > 0:
        result = "improved"
    elif test["improvement"] <= -effect and high < 0:
        result = "worse"
    return {
        "metric": metric,
        **test,
        "min_effect": effect,
        "p_value": _p_above(metric, *drawn[metric], 0.0),
        "result": result,
    }


def judge_overall(
    scores: pd.DataFrame, values: dict[str, dict[str, float]], drawn: Draws, policy: Policy
) -> Iterator[dict[str, Any]]:
    """Each overall guardrail's tests: non-inferiority by interval, and harm."""
    found = _recalls(scores[scores["match"] == 1].assign(all=0), "all").iloc[0]
    for name, margin in policy.guardrails.margins.items():
        yield {
            "name": name,
            "rows": len(scores),
            "positives": int(found["positives"]),
            "distinct": int(found["distinct"]),
            **_compared(name, values, drawn, 1 - 2 * policy.guardrails.alpha),
            "margin": margin,
            "judged": True,
            "p_noninferior": _p_above(name, *drawn[name], -margin),
            "p_harm": float(found["p_harm"]) if name == "recall" else _p_harm(name, *drawn[name]),
        }


def judge_slices(scores: pd.DataFrame, policy: Policy) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Recall in every value of the slice columns that has matches; and how many with too few are left out, by column.

    Nothing is resampled: the tests are exact or closed forms on the matches alone, whose cost is that of one pass.
    """
    rules, alpha = policy.guardrails.slices, policy.guardrails.alpha
    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha)
    positives = scores[scores["match"] == 1]
    tests: list[dict[str, Any]] = []
    unlisted: dict[str, int] = {}
    for column in dict.fromkeys(rules.columns):
        found = _recalls(positives, column)
        rows = scores[column].value_counts().to_dict()
        judged = found["distinct"] >= rules.min_positives
        few = found[~judged].sort_values("distinct", ascending=False, kind="stable").index
        if len(few) > _FEW_SHOWN:
            unlisted[column] = len(few) - _FEW_SHOWN
        for value, one in found[judged | found.index.isin(few[:_FEW_SHOWN])].to_dict("index").items():
            low, high = (max(-1.0, min(1.0, one["centre"] + sign * z * one["error"])) for sign in (-1, 1))
            tests.append(
                {
                    "name": f"recall[{column}={value}]",
                    "rows": int(rows[value]),
                    "positives": int(one["positives"]),
                    "distinct": int(one["distinct"]),
                    "production": float(one["old"]),
                    "candidate": float(one["new"]),
                    "improvement": float(one["new"] - one["old"]),
                    "ci": [float(low), float(high)],
                    "confidence": 1 - 2 * alpha,
                    "margin": rules.margin,
                    "judged": bool(one["distinct"] >= rules.min_positives),
                    "p_noninferior": normal.cdf(-(one["centre"] + rules.margin) / one["error"]),
                    "p_harm": float(one["p_harm"]),
                }
            )
    return tests, unlisted


def _recalls(positives: pd.DataFrame, by: str) -> pd.DataFrame:
    """Both models' recall among matches, compared in each value of the column `by`; values without matches are absent.

    Columns: `positives` and `distinct` (groups of rows) to count; `old` and `new` recall; `p_harm`, of McNemar's exact
    test, one-sided: of the groups that only one model finds, are more lost than gained? `centre` and `error`, the mean
    and standard error of the difference with half a group added to each of the four outcomes, which keeps its level
    with few matches, too (Agresti & Min, Statistics in Medicine 24, 2005).
    """
    from scipy.stats import binom

    hits = {m: (positives[m] >= THRESHOLD).astype(float) for m in ("production", "candidate")}
    table = pd.DataFrame({"value": positives[by], "group": positives["group"], "positives": 1, **hits})
    each = table.groupby(["value", "group"], observed=True, sort=True).sum()
    each["net"] = each["candidate"] - each["production"]
    each["lost"], each["gained"] = each["net"] < 0, each["net"] > 0
    values = each.groupby(level="value", observed=True)
    found = values.sum().assign(distinct=values.size())
    found["old"], found["new"] = found["production"] / found["positives"], found["candidate"] / found["positives"]
    found["p_harm"] = binom.sf(found["lost"] - 1, found["lost"] + found["gained"], 0.5)
    size = found["positives"] / found["distinct"]  # of a group; 1 where no pair is repeated
    found["centre"] = found["net"] / size / (found["distinct"] + 2)
    value = each.index.get_level_values("value")
    mean, centre = (column.reindex(value).to_numpy() for column in (size, found["centre"]))
    each["square"] = ((each["net"] - centre * each["positives"]) / mean) ** 2
    squares = each["square"].groupby(level="value", observed=True).sum() + 1 + 2 * found["centre"] ** 2
    found["error"] = np.sqrt(squares) / (found["distinct"] + 2)
    return found


def holm_corrected(overall: list[dict[str, Any]], slices: list[dict[str, Any]], alpha: float) -> list[dict[str, Any]]:
    """The tests with `p_harm_holm` and `result`.

    Overall guardrails and slices are two families, each with half of alpha: the overall ones must not drown in slices,
    and the bootstrap could not tell a p-value from the zero that hundreds of them would ask for.
    """
    families = [family for tests in (overall, slices) if (family := [test for test in tests if test["judged"]])]
    corrected: dict[str, float] = {}
    for family in families:
        for test, p in zip(family, _holm(np.array([test["p_harm"] for test in family])), strict=True):
            corrected[test["name"]] = min(1.0, len(families) * float(p))
    tests = [{**test, "p_harm_holm": corrected.get(test["name"])} for test in (*overall, *slices)]
    return [{**test, "result": _result(test, alpha)} for test in tests]


def _holm(p: Floats) -> Floats:
    """p-values adjusted by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]))
    return adjusted


def _result(test: dict[str, Any], alpha: float) -> str:
    if not test["judged"]:
        return "too few"
    if -test["improvement"] >= test["margin"] and test["p_harm_holm"] <= alpha:
        return "harm"
    return "non-inferior" if test["ci"][0] > -test["margin"] else "inconclusive"
