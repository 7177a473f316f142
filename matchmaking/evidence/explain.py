"""The promotion decision: is a candidate better than production, and is it safe?

Both models are scored on the same held-out rows, so everything is paired: one bootstrap resample of the rows
gives one difference of every metric. `decide` applies the tests a policy asks for, `explain` writes a page.
docs/decision.md gives the reasoning and the measured error rates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matchmaking.errors import InputError
from matchmaking.escape import for_markdown, visible
from matchmaking.metrics import LOWER_IS_BETTER, THRESHOLD, evaluate, expected_calibration_error

# what can be tested: means over rows or pairs of rows, of which the bootstrap knows the sampling error
Metric = Literal[
    "average_precision", "roc_auc", "f1", "accuracy", "precision", "recall", "brier", "log_loss", "calibration"
]
# what is only compared with a number
Measured = Literal["average_precision", "roc_auc", "f1", "accuracy", "precision", "recall", "brier", "log_loss", "ece"]
SliceColumn = Literal["location", "preferred_language", "case_type"]
Floats = npt.NDArray[np.float64]

DEFAULT_POLICY = Path(__file__).with_name("policy.yaml")
# weights held at once: what a processor's cache holds, but no fewer resamples than fill a line of it; the memory grows
# no faster than the rows
_CELLS = 200_000
_BLOCK = 8
_TINY, _EPSILON = np.finfo(np.float64).tiny, np.finfo(np.float64).eps
# values of a slice column with too few matches that are shown, those with the most; the others are counted
_FEW_SHOWN = 20


# --- policy --------------------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, le=1)]


class Primary(_Section):
    """The metric that must improve."""

    metric: Metric
    min_effect: Fraction
    confidence: Annotated[float, Field(ge=0.5, lt=1)]


class Bootstrap(_Section):
    """How the sampling error is estimated."""

    resamples: Annotated[int, Field(ge=1000, le=100_000)]
    min_positives: Annotated[int, Field(ge=2)]


class Slices(_Section):
    """Where recall is looked at again, value by value."""

    columns: Annotated[tuple[SliceColumn, ...], Field(strict=False)]
    min_positives: Annotated[int, Field(ge=1)]
    margin: Fraction


class Guardrails(_Section):
    """What must not get worse, and by how much it may."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    margins: dict[Metric, Fraction]
    slices: Slices


class Data(_Section):
    """What a dataset may be like for evidence from it to count."""

    max_unknown_share: Fraction


class Limits(_Section):
    """Past what a run of monitor or evaluate is a failure, where that is asked for."""

    drifted_share: Fraction
    target_or_scores: bool
    production: dict[Measured, Fraction]


def past_limits(found: Mapping[str, Any], limits: Limits) -> list[str]:
    """Which of a model's metrics, as `metrics.evaluate` gives them, are worse than `limits.production`, in words.

    A metric that could not be computed counts as worse: a limit that can't be checked isn't kept.
    """
    past = []
    for name, limit in limits.production.items():
        value, lower = found.get(name), name in LOWER_IS_BETTER
        if value is None or (value > limit if lower else value < limit):
            shown = "unknown" if value is None else f"{value:.4f}"
            past.append(f"{name} is {shown}, limit {'at most' if lower else 'at least'} {limit:g}")
    return past


class Policy(_Section):
    """A promotion policy; immutable. `policy.yaml` documents every key."""

    primary: Primary
    bootstrap: Bootstrap
    guardrails: Guardrails
    data: Data
    auto_promote: bool
    limits: Limits


def load_policy(path: Path | None = None, text: str = "") -> Policy:
    """The default policy, or the default with what the YAML file at `path`, or the YAML `text`, sets laid over it.

    Raises:
        InputError: the file can't be read, is not YAML, has an unknown key or a value out of range, or asks for levels
            that its number of resamples cannot tell from zero.
    """
    values = _read_yaml(DEFAULT_POLICY)
    name = str(path or ("the policy given with the run" if text else DEFAULT_POLICY))
    if path is not None:
        values = _overlay(values, _read_yaml(path))
    elif text:
        values = _overlay(values, _parse_yaml(text, name))
    try:
        policy = Policy.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(dict(e)) for e in error.errors())
        raise InputError(f"{name}: {problems}") from None
    # the smallest tails that are read off the resamples: the primary interval's, and the harm tests' after Holm
    # (half of alpha for the overall ones, and calibration looks on both sides)
    tails = {
        f"primary.confidence {policy.primary.confidence:g}": (1 - policy.primary.confidence) / 2,
        f"guardrails.alpha {policy.guardrails.alpha:g}": policy.guardrails.alpha
        / 4
        / (len(policy.guardrails.margins) or 1),
    }
    for level, tail in tails.items():
        # the interval of a level of 0.995 is given by 1 - 0.995 = 0.0050000000000000044
        if policy.bootstrap.resamples < (needed := int(np.ceil(1 / tail - 1e-6))):
            said = (
                f"bootstrap.resamples: {policy.bootstrap.resamples} are too few for {level}; it takes {needed} or more"
            )
            raise InputError(f"{name}: {said}")
    return policy


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return _parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the policy can't be read: {getattr(error, 'strerror', None) or error}") from None


def _parse_yaml(text: str, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise InputError(f"{name}: not YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        allowed = ", ".join(Policy.model_fields)
        raise InputError(f"{name}: a policy is a mapping with the keys {allowed}, not a {type(values).__name__}")
    return values


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` over it, mapping by mapping."""
    both = {k for k in top if isinstance(top[k], dict) and isinstance(base.get(k), dict)}
    return {**base, **top, **{k: _overlay(base[k], top[k]) for k in both}}


def _problem(error: dict[str, Any]) -> str:
    """One pydantic error as `key: what is wrong, what is allowed`."""
    loc = [str(part) for part in error["loc"] if part != "[key]"]
    # in the words of YAML, not of Python
    message = error["msg"][0].lower() + error["msg"][1:].replace("tuple", "list").replace("dictionary", "mapping")
    key, message = ".".join(loc), message.partition(" or instance of")[0]
    if error["type"] == "extra_forbidden":
        section: Any = Policy
        for part in loc[:-1]:
            section = section.model_fields[part].annotation
        return f"{key}: unknown key; allowed here: {', '.join(section.model_fields)}"
    value = error["input"]
    if value == "ece" and error["type"] == "literal_error":
        return f"{key}: ECE is reported, not tested, since its bias hides a loss; use log_loss and calibration instead"
    return f"{key}: {message}, not {value!r}" if isinstance(value, str | int | float | list) else f"{key}: {message}"


# --- metrics under the bootstrap -----------------------------------------------------------------------


def metric_scorer(match: npt.NDArray[Any], p: Floats) -> Callable[[Floats], dict[str, Floats]]:
    """All metrics of one model as a function of row weights.

    Sorting is done once, here; a call then costs two cumulative sums and one matrix product for all its
    resamples. The numbers, ties in `p` included, are scikit-learn's (`average_precision_score`,
    `precision_score(zero_division=0)`, ... with `sample_weight`).

    Args:
        match: labels, 0 or 1, shape (rows,); both present.
        p: predicted probabilities in [0, 1], shape (rows,).

    Returns:
        A function from weights >= 0 (resamples, rows) to arrays (resamples,) by metric. `calibration` is signed here:
        mean probability minus match rate.
    """
    y, chosen = np.asarray(match) == 1, p >= THRESHOLD
    order = np.argsort(-p, kind="stable")
    pos, neg = order[y[order]], order[~y[order]]
    # how many positives and negatives score at least as high as, or higher than, each positive
    pos_at_least = np.searchsorted(-p[pos], -p[pos], side="right")
    neg_at_least = np.searchsorted(-p[neg], -p[pos], side="right")
    neg_above = np.searchsorted(-p[neg], -p[pos], side="left")
    surprise = -np.log(np.clip(np.where(y, p, 1 - p), _EPSILON, 1))
    columns = np.column_stack([np.ones(len(y)), y, y & chosen, ~y & chosen, (p - y) ** 2, surprise, p - y])

    def score(weights: Floats) -> dict[str, Floats]:
        by_row = weights.T  # a row's weights side by side: the gathers below are then of whole cache lines
        total, positives, tp, fp, squares, surprises, gap = columns.T @ by_row
        w = by_row[pos]
        fps = _cumulative(by_row[neg])
        tp_at, fp_at = _cumulative(w)[pos_at_least], fps[neg_at_least]
        misranked = (w * (fp_at + fps[neg_above])).sum(axis=0) / 2
        return {
            "average_precision": (w * tp_at / np.maximum(tp_at + fp_at, _TINY)).sum(axis=0) / positives,
            "roc_auc": 1 - misranked / np.maximum(positives * (total - positives), _TINY),
            "f1": 2 * tp / (tp + fp + positives),
            "accuracy": (total - positives - fp + tp) / total,
            "precision": tp / np.maximum(tp + fp, _TINY),
            "recall": tp / positives,
            "brier": squares / total,
            "log_loss": surprises / total,
            "calibration": gap / total,
        }

    return score


def _cumulative(weights: Floats) -> Floats:
    """Sums of the first 0, 1, ... rows: shape (rows + 1, resamples)."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def bootstrap_weights(
    match: npt.NDArray[Any], resamples: int, rng: np.random.Generator, group: npt.NDArray[np.intp] | None = None
) -> Iterator[Floats]:
    """How often each row is drawn in each resample, in blocks of shape (some resamples, rows).

    Stratified by label, given how many of each the holdout has: without groups, every resample has as many positives.

    Args:
        match: labels, 0 or 1, shape (rows,).
        resamples: how many.
        rng: what draws.
        group: numbers 0, 1, ... of the groups of rows that are drawn together, shape (rows,); None where each row is
            its own. A group with a positive is drawn among those with positives.
    """
    rows = len(match)
    number = np.arange(rows) if group is None else group
    groups = int(number.max()) + 1
    positive = np.zeros(groups, dtype=bool)
    positive[number[np.asarray(match) == 1]] = True
    strata = [stratum for label in (False, True) if len(stratum := np.flatnonzero(positive == label))]
    block = max(_BLOCK, _CELLS // rows)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        by_group = np.empty((groups, size))
        for stratum in strata:
            n = len(stratum)
            drawn = rng.integers(n, size=(size, n)) * size + np.arange(size)[:, None]
            by_group[stratum] = np.bincount(drawn.ravel(), minlength=size * n).reshape(n, size)
        yield (by_group if groups == rows else by_group[number]).T


# --- decision ------------------------------------------------------------------------------------------


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
        (the groups among the `rows` and among the `positives`) and `seed`.

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
            "candidate": _shown(metric, values["candidate"][metric]),
            "result": "not compared",
        }
    else:
        drawn = _drawn(match, group, scorers, policy.bootstrap.resamples, np.random.default_rng(seed))
        primary = _primary(values, drawn, policy)
        slices, unlisted = _slices(scores, policy)
        guardrails = _judged([*_overall(scores, values, drawn, policy)], slices, policy.guardrails.alpha)
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
        used = used.sort_values(columns, ignore_index=True)
        return used.assign(group=np.arange(len(used)))
    if unknown := int(scores["group"].isna().sum()):
        raise InputError(f"scores: group is missing in {unknown} rows")
    used = used.assign(group=scores["group"]).sort_values([*columns, "group"], ignore_index=True)
    return used.assign(group=pd.factorize(used["group"])[0])


Draws = dict[str, tuple[Floats, Floats]]  # production's and candidate's, each (resamples,), by metric


def _drawn(
    match: npt.NDArray[Any],
    group: npt.NDArray[np.intp],
    scorers: list[Callable[[Floats], dict[str, Floats]]],
    resamples: int,
    rng: np.random.Generator,
) -> Draws:
    """Both models' metrics in each resample."""
    blocks = [[score(weights) for score in scorers] for weights in bootstrap_weights(match, resamples, rng, group)]
    old, new = ({name: np.concatenate([b[i][name] for b in blocks]) for name in blocks[0][i]} for i in (0, 1))
    return {name: (old[name], new[name]) for name in old}


def _shown(name: str, value: float) -> float:
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
        "production": _shown(name, old),
        "candidate": _shown(name, new),
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


def _primary(values: dict[str, dict[str, float]], drawn: Draws, policy: Policy) -> dict[str, Any]:
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


def _overall(
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


def _slices(scores: pd.DataFrame, policy: Policy) -> tuple[list[dict[str, Any]], dict[str, int]]:
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


def _judged(overall: list[dict[str, Any]], slices: list[dict[str, Any]], alpha: float) -> list[dict[str, Any]]:
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
    from matchmaking.schema import unknown_shares

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


# --- the page ------------------------------------------------------------------------------------------


def explain(decision: dict[str, Any]) -> str:
    """The decision as a Markdown page: the verdict, every test, and what would change the verdict."""
    d, primary = decision, decision["primary"]
    lines = [f"# Verdict: {d['verdict']}", "", *(f"- {for_markdown(reason)}" for reason in d["reasons"]), ""]
    lines += [
        f"{d['rows']:,} held-out rows, {d['positives']:,} of them matches{_repeats(d)}; bootstrap seed {d['seed']}.",
        "",
    ]
    if primary["production"] is None:
        return "\n".join([*lines, f"The candidate's {primary['metric']} is {primary['candidate']:.4f}.", ""])
    lines += [
        "Improvements are signed so that positive is better. `p` is that of no improvement for the primary "
        "metric, and that of no harm (Holm-adjusted) for a guardrail. A slice that is `inconclusive` or has "
        "`too few` matches is reported and does not block. `calibration` is the distance of the mean probability from "
        "the match rate. Repeated pairs count as one match.",
        "",
        "| test | matches | production | candidate | improvement | interval | required | p | result |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
        _row(
            f"**{primary['metric']}** (primary)",
            d["distinct"]["positives"],
            primary,
            f">= {primary['min_effect']:g}",
            primary["p_value"],
        ),
        *(
            _row(for_markdown(visible(t["name"])), t["distinct"], t, f"> -{t['margin']:g}", t["p_harm_holm"])
            for t in d["guardrails"]
        ),
        "",
        *(
            f"{more:,} more values of {c} have too few matches and are not listed.\n"
            for c, more in d["unlisted"].items()
        ),
        f"Expected calibration error {d['ece']['production']:.4f} -> {d['ece']['candidate']:.4f}: told, not tested, "
        "since what it sums is never negative, and so is biased.",
        "",
        "## What would change the verdict",
        "",
        *(f"- {for_markdown(change)}" for change in _changes(d)),
        "",
    ]
    return "\n".join(lines)


def _repeats(decision: dict[str, Any]) -> str:
    """How many pairs there really are, where some are repeated."""
    distinct = decision["distinct"]
    if distinct["rows"] == decision["rows"]:
        return ""
    return (
        f" ({distinct['rows']:,} distinct pairs, {distinct['positives']:,} of them matches; a pair's repetitions are "
        "one piece of evidence)"
    )


def _row(name: str, positives: int, test: dict[str, Any], required: str, p: float | None) -> str:
    low, high = test["ci"]
    numbers = f"{test['production']:.4f} | {test['candidate']:.4f} | {test['improvement']:+.4f}"
    interval = f"{low:+.4f} to {high:+.4f} ({100 * test['confidence']:g}%)"
    p_value = "" if p is None else f"{p:.2g}"
    return f"| {name} | {positives} | {numbers} | {interval} | {required} | {p_value} | {test['result']} |"


def _changes(decision: dict[str, Any]) -> list[str]:
    """What the tests in the way would need; for a promotion, what comes nearest to standing in the way."""
    policy, primary, guardrails = decision["policy"], decision["primary"], decision["guardrails"]
    overall = [t for t in guardrails if t["name"] in policy["guardrails"]["margins"]]
    if decision["verdict"] == "promote":
        nearest = sorted(overall, key=lambda t: t["ci"][0] + t["margin"])[:1]
        return [
            f"{primary['metric']}: its interval reaching down to zero (now {primary['ci'][0]:+.4f})",
            *(f"{t['name']}: a lower end at or below -{t['margin']:g} (now {t['ci'][0]:+.4f})" for t in nearest),
        ]
    if decision["distinct"]["positives"] < policy["bootstrap"]["min_positives"]:
        return [f"held-out rows with at least {policy['bootstrap']['min_positives']} distinct matches"]
    changes = [f"the serving contract: {what}" for what in decision.get("contract", {}).get("failed", [])]
    changes += [
        f"{visible(t['name'])}: a loss below {t['margin']:g} (now {-t['improvement']:.4f})"
        for t in guardrails
        if t["result"] == "harm"
    ]
    if primary["result"] != "improved":
        effect = primary["min_effect"]
        rows = _rows_needed(primary, 0.0, decision["rows"]) if primary["improvement"] >= effect else ""
        changes.append(f"{primary['metric']}: a gain of {effect:g} or more, its interval above zero{rows}")
    changes += [
        f"{t['name']}: an interval above -{t['margin']:g}{_rows_needed(t, -t['margin'], decision['rows'])}"
        for t in overall
        if t["result"] == "inconclusive"
    ]
    return changes


def _rows_needed(test: dict[str, Any], bound: float, rows: int) -> str:
    """The holdout on which the same estimate would pass: intervals shrink as 1 / sqrt(rows)."""
    distance = test["improvement"] - bound
    if distance <= 0:
        return "; the estimate itself is beyond it"
    needed = rows * ((test["improvement"] - test["ci"][0]) / distance) ** 2
    return f"; the same estimate would show it on about {int(np.ceil(needed / 100) * 100):,} held-out rows"


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
