"""The promotion decision: is a candidate better than production, and is it safe?

Both models are scored on the same held-out rows, so everything is paired: one bootstrap resample of the rows
gives one difference of every metric. `decide` applies the tests a policy asks for, `explain` writes a page.
docs/decision.md gives the reasoning and the measured error rates.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matchmaking.errors import InputError
from matchmaking.metrics import LOWER_IS_BETTER, THRESHOLD

Metric = Literal["average_precision", "roc_auc", "f1", "accuracy", "precision", "recall", "brier", "ece"]
SliceColumn = Literal["location", "preferred_language", "case_type"]
Floats = npt.NDArray[np.float64]

ECE_BINS = 15
DEFAULT_POLICY = Path(__file__).with_name("policy.yaml")
# weights held at once, but no fewer resamples than fill a cache line: the memory grows no faster than the rows
_CELLS = 1_000_000
_BLOCK = 8
_TINY = np.finfo(np.float64).tiny


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


class Limits(_Section):
    """Past what a run of monitor or evaluate is a failure, where that is asked for."""

    drifted_share: Fraction
    target_or_scores: bool
    production: dict[Metric, Fraction]


class Policy(_Section):
    """A promotion policy; immutable. `policy.yaml` documents every key."""

    primary: Primary
    bootstrap: Bootstrap
    guardrails: Guardrails
    auto_promote: bool
    limits: Limits


def load_policy(path: Path | None = None) -> Policy:
    """The default policy, or the default with what the YAML file at `path` sets laid over it.

    Raises:
        InputError: the file can't be read, is not YAML, or has an unknown key or a value out of range.
    """
    values = _read_yaml(DEFAULT_POLICY)
    if path is not None:
        values = _overlay(values, _read_yaml(path))
    try:
        return Policy.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(dict(e)) for e in error.errors())
        raise InputError(f"{path or DEFAULT_POLICY}: {problems}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the policy can't be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: not YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        allowed = ", ".join(Policy.model_fields)
        raise InputError(f"{path}: a policy is a mapping with the keys {allowed}, not a {type(values).__name__}")
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
    return f"{key}: {message}, not {value!r}" if isinstance(value, str | int | float | list) else f"{key}: {message}"


# --- metrics under the bootstrap -----------------------------------------------------------------------


def metric_scorer(
    match: npt.NDArray[Any], p: Floats, groups: Mapping[str, npt.NDArray[np.bool_]] | None = None
) -> Callable[[Floats], dict[str, Floats]]:
    """All metrics of one model as a function of row weights.

    Sorting is done once, here; a call then costs two cumulative sums and one matrix product for all its
    resamples. The numbers, ties in `p` included, are scikit-learn's (`average_precision_score`,
    `precision_score(zero_division=0)`, ... with `sample_weight`), and ECE is that of
    `metrics.expected_calibration_error` (Guo et al., ICML 2017, equation 3).

    Args:
        match: labels, 0 or 1, shape (rows,); both present.
        p: predicted probabilities in [0, 1], shape (rows,).
        groups: masks of rows, shape (rows,), by name; the recall inside each is returned under that name.

    Returns:
        A function from weights >= 0 (resamples, rows) to arrays (resamples,) by metric or group.
    """
    y, chosen, groups = np.asarray(match) == 1, p >= THRESHOLD, groups or {}
    order = np.argsort(-p, kind="stable")
    pos, neg = order[y[order]], order[~y[order]]
    # how many positives and negatives score at least as high as, or higher than, each positive
    pos_at_least = np.searchsorted(-p[pos], -p[pos], side="right")
    neg_at_least = np.searchsorted(-p[neg], -p[pos], side="right")
    neg_above = np.searchsorted(-p[neg], -p[pos], side="left")
    bins = np.minimum((p * ECE_BINS).astype(int), ECE_BINS - 1)
    gap = np.eye(ECE_BINS)[bins] * (p - y)[:, None]  # n_b * |mean p - rate| = |sum of p - y in the bin|
    of_groups = [column for mask in groups.values() for column in (mask & y, mask & y & chosen)]
    columns = np.column_stack([np.ones(len(y)), y, y & chosen, ~y & chosen, (p - y) ** 2, gap, *of_groups])

    def score(weights: Floats) -> dict[str, Floats]:
        by_row = weights.T  # a row's weights side by side: the gathers below are then of whole cache lines
        sums = columns.T @ by_row
        total, positives, tp, fp, squares = sums[:5]
        gaps, (inside, found) = sums[5 : 5 + ECE_BINS], (sums[5 + ECE_BINS :: 2], sums[6 + ECE_BINS :: 2])
        w = by_row[pos]
        fps = _cumulative(by_row[neg])
        tp_at, fp_at = _cumulative(w)[pos_at_least], fps[neg_at_least]
        misranked = (w * (fp_at + fps[neg_above])).sum(axis=0) / 2
        return {
            "average_precision": (w * tp_at / np.maximum(tp_at + fp_at, _TINY)).sum(axis=0) / positives,
            "roc_auc": 1 - misranked / (positives * (total - positives)),
            "f1": 2 * tp / (tp + fp + positives),
            "accuracy": (total - positives - fp + tp) / total,
            "precision": tp / np.maximum(tp + fp, _TINY),
            "recall": tp / positives,
            "brier": squares / total,
            "ece": np.abs(gaps).sum(axis=0) / total,
            **{name: found[i] / np.maximum(inside[i], _TINY) for i, name in enumerate(groups)},
        }

    return score


def _cumulative(weights: Floats) -> Floats:
    """Sums of the first 0, 1, ... rows: shape (rows + 1, resamples)."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def bootstrap_weights(match: npt.NDArray[Any], resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each row is drawn in each resample, in blocks of shape (some resamples, rows).

    Stratified by label, as the holdout itself is: every resample has the holdout's number of positives.
    """
    rows = len(match)
    strata = [np.flatnonzero(np.asarray(match) == label) for label in (0, 1)]
    block = max(_BLOCK, _CELLS // rows)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        by_row = np.empty((rows, size))
        for stratum in strata:
            n = len(stratum)
            drawn = rng.integers(n, size=(size, n)) * size + np.arange(size)[:, None]
            by_row[stratum] = np.bincount(drawn.ravel(), minlength=size * n).reshape(n, size)
        yield by_row.T


# --- decision ------------------------------------------------------------------------------------------


def decide(scores: pd.DataFrame, policy: Policy, seed: int = 0) -> dict[str, Any]:
    """Compare candidate and production on the same held-out rows.

    - `reject`: harm is shown. A guardrail, overall or in a slice, loses its margin or more and the loss is
      significant after Holm's correction over all of them; or the primary metric is worse by `min_effect`
      with its whole interval below zero.
    - `promote`: no harm, the primary metric improves by `min_effect` with its whole interval above zero, and
      every overall guardrail is non-inferior: the lower end of its interval is above minus its margin.
    - `hold`: the evidence reaches neither way.
    - `bootstrap`: there is no `production` column to compare with.

    Every `improvement` and `ci` in the result is signed so that positive is better, whatever the metric.

    Args:
        scores: a row per held-out pair, in any order: `match` (0/1), `production` and `candidate`
            (probabilities; `production` may be absent), and the policy's slice columns.
        policy: what to test, and how strictly.
        seed: of the bootstrap; the same rows and seed give the same result.

    Returns:
        JSON-serialisable: `verdict`, `reasons`, `primary`, `guardrails`, `policy`, `rows`, `positives` and
        `seed`.

    Raises:
        InputError: a column is missing, a value is out of range, or only one class is present.
    """
    scores = _checked(scores, policy)
    match = scores["match"].to_numpy()
    rows, positives = len(match), int(match.sum())
    masks = _slice_masks(scores, policy)
    models = [m for m in ("production", "candidate") if m in scores]
    scorers = [metric_scorer(match, scores[m].to_numpy(), masks) for m in models]
    values = {
        m: {k: float(v[0]) for k, v in score(np.ones((1, rows))).items()}
        for m, score in zip(models, scorers, strict=True)
    }
    if "production" not in scores:
        metric = policy.primary.metric
        verdict, reasons = "bootstrap", ["there is no production model to compare with"]
        primary = {
            "metric": metric,
            "production": None,
            "candidate": values["candidate"][metric],
            "result": "not compared",
        }
        guardrails = []
    else:
        drawn = _improvements(match, scorers, policy.bootstrap.resamples, np.random.default_rng(seed))
        primary = _primary(values, drawn, policy)
        guardrails = _guardrails(scores, values, drawn, masks, policy)
        verdict, reasons = _verdict(primary, guardrails, positives, policy)
    return {
        "verdict": verdict,
        "reasons": reasons,
        "primary": primary,
        "guardrails": guardrails,
        "policy": policy.model_dump(mode="json"),
        "rows": rows,
        "positives": positives,
        "seed": seed,
    }


def _checked(scores: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """The columns the decision reads, sorted, so that the result doesn't depend on the order of the rows."""
    models = [m for m in ("production", "candidate") if m in scores or m == "candidate"]
    columns = ["match", *models, *dict.fromkeys(policy.guardrails.slices.columns)]
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
    return scores[columns].astype({c: types.get(c, "str") for c in columns}).sort_values(columns, ignore_index=True)


def _slice_masks(scores: pd.DataFrame, policy: Policy) -> dict[str, npt.NDArray[np.bool_]]:
    """The rows of every slice with at least one positive, by `recall[column=value]`."""
    return {
        f"recall[{column}={value}]": (scores[column] == value).to_numpy()
        for column in dict.fromkeys(policy.guardrails.slices.columns)
        for value in sorted(scores.loc[scores["match"] == 1, column].unique())
    }


def _improvements(
    match: npt.NDArray[Any],
    scorers: list[Callable[[Floats], dict[str, Floats]]],
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Candidate's gain over production in each resample, positive is better: shape (resamples,) by name."""
    production, candidate = scorers
    blocks = []
    for weights in bootstrap_weights(match, resamples, rng):
        old, new = production(weights), candidate(weights)
        blocks.append({name: _gain(name, old[name], new[name]) for name in new})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _gain(name: str, old: Any, new: Any) -> Any:
    return old - new if name in LOWER_IS_BETTER else new - old


def _compared(
    name: str, values: dict[str, dict[str, float]], drawn: dict[str, Floats], confidence: float
) -> dict[str, Any]:
    """One metric of both models, the gain and its two-sided percentile interval."""
    old, new = values["production"][name], values["candidate"][name]
    ci = np.quantile(drawn[name], [(1 - confidence) / 2, (1 + confidence) / 2])
    return {
        "production": old,
        "candidate": new,
        "improvement": _gain(name, old, new),
        "ci": ci.tolist(),
        "confidence": confidence,
    }


def _share(extreme: npt.NDArray[np.bool_]) -> float:
    """A bootstrap p-value that is never zero (Davison & Hinkley, 1997, section 4.2)."""
    return float((1 + extreme.sum()) / (1 + len(extreme)))


def _primary(values: dict[str, dict[str, float]], drawn: dict[str, Floats], policy: Policy) -> dict[str, Any]:
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
        "p_value": _share(drawn[metric] <= 0),
        "result": result,
    }


def _guardrails(
    scores: pd.DataFrame,
    values: dict[str, dict[str, float]],
    drawn: dict[str, Floats],
    masks: dict[str, npt.NDArray[np.bool_]],
    policy: Policy,
) -> list[dict[str, Any]]:
    """Each guardrail's tests: non-inferiority by interval; harm, Holm-corrected over all that are judged."""
    from scipy.stats import binom
    from statsmodels.stats.multitest import multipletests

    rules = policy.guardrails
    match = scores["match"].to_numpy() == 1
    hit = scores[["production", "candidate"]].to_numpy() >= THRESHOLD
    everywhere = np.ones(len(match), dtype=bool)
    tests: list[dict[str, Any]] = []
    for name, margin in [*rules.margins.items(), *((name, rules.slices.margin) for name in masks)]:
        mask = masks.get(name, everywhere)
        positives = int((match & mask).sum())
        judged = name not in masks or positives >= rules.slices.min_positives
        if name == "recall" or name in masks:
            # McNemar's exact test, one-sided: more matches lost than gained? Exact for few matches, too
            lost, gained = ((match & mask & hit[:, i] & ~hit[:, 1 - i]).sum() for i in (0, 1))
            p_harm = float(binom.sf(lost - 1, lost + gained, 0.5))
        else:
            p_harm = _share(drawn[name] >= 0)
        tests.append(
            {
                "name": name,
                "rows": int(mask.sum()),
                "positives": positives,
                **_compared(name, values, drawn, 1 - 2 * rules.alpha),
                "margin": margin,
                "judged": judged,
                "p_noninferior": _share(drawn[name] <= -margin),
                "p_harm": p_harm,
                "p_harm_holm": None,
            }
        )
    family = [test for test in tests if test["judged"]]
    if family:
        adjusted = multipletests([test["p_harm"] for test in family], alpha=rules.alpha, method="holm")[1]
        for test, p in zip(family, adjusted, strict=True):
            test["p_harm_holm"] = float(p)
    for test in tests:
        test["result"] = _result(test, rules.alpha)
    return tests


def _result(test: dict[str, Any], alpha: float) -> str:
    if not test["judged"]:
        return "too few"
    if -test["improvement"] >= test["margin"] and test["p_harm_holm"] <= alpha:
        return "harm"
    return "non-inferior" if test["ci"][0] > -test["margin"] else "inconclusive"


def _verdict(
    primary: dict[str, Any], guardrails: list[dict[str, Any]], positives: int, policy: Policy
) -> tuple[str, list[str]]:
    """The verdict, and why: what was harmed, or what is not shown yet, or what is shown."""
    if positives < policy.bootstrap.min_positives:
        return "hold", [f"{positives} matches in the held-out rows; a decision needs {policy.bootstrap.min_positives}"]
    harmed = [
        f"{t['name']} is clearly worse: {_numbers(t)}; it may lose {t['margin']:g} "
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
        result |= {"verdict": "reject", "reasons": [*reasons, *decision["reasons"]]}
    return result


# --- the page ------------------------------------------------------------------------------------------


def explain(decision: dict[str, Any]) -> str:
    """The decision as a Markdown page: the verdict, every test, and what would change the verdict."""
    d, primary = decision, decision["primary"]
    lines = [f"# Verdict: {d['verdict']}", "", *(f"- {reason}" for reason in d["reasons"]), ""]
    lines += [
        f"{d['rows']:,} held-out rows, {d['positives']:,} of them matches; bootstrap seed {d['seed']}.",
        "",
    ]
    if primary["production"] is None:
        return "\n".join([*lines, f"The candidate's {primary['metric']} is {primary['candidate']:.4f}.", ""])
    lines += [
        "Improvements are signed so that positive is better. `p` is that of no improvement for the primary "
        "metric, and that of no harm (Holm-adjusted) for a guardrail. A slice that is `inconclusive` or has "
        "`too few` matches is reported and does not block.",
        "",
        "| test | matches | production | candidate | improvement | interval | required | p | result |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
        _row(
            f"**{primary['metric']}** (primary)",
            d["positives"],
            primary,
            f">= {primary['min_effect']:g}",
            primary["p_value"],
        ),
        *(_row(t["name"], t["positives"], t, f"> -{t['margin']:g}", t["p_harm_holm"]) for t in d["guardrails"]),
        "",
        "## What would change the verdict",
        "",
        *(f"- {change}" for change in _changes(d)),
        "",
    ]
    return "\n".join(lines)


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
    if decision["positives"] < policy["bootstrap"]["min_positives"]:
        return [f"held-out rows with at least {policy['bootstrap']['min_positives']} matches"]
    changes = [f"the serving contract: {what}" for what in decision.get("contract", {}).get("failed", [])]
    changes += [
        f"{t['name']}: a loss below {t['margin']:g} (now {-t['improvement']:.4f})"
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
    scores_path: Path, policy: str, seed: int, decision_path: Path, page_path: Path, evaluation_path: Path | None = None
) -> dict[str, Any]:
    """`decide` and `with_contract` on the files of a run; writes the decision as JSON and as a page.

    Args:
        scores_path: parquet: `match` and each model's probability.
        policy: YAML laid over the default policy; empty for the default one.
        seed: of the bootstrap.
        decision_path: JSON file to write.
        page_path: Markdown file to write.
        evaluation_path: JSON with the serving contract; None for none.

    Returns:
        The decision.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(policy)
        rules = load_policy(path if policy else None)
    contract = json.loads(evaluation_path.read_text())["contract"] if evaluation_path else None
    decision = with_contract(decide(pd.read_parquet(scores_path), rules, seed), contract)
    decision_path.write_text(json.dumps(decision, indent=1))
    page_path.write_text(explain(decision))
    return decision
