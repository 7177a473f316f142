"""Is the promotion decision right? False promotions on simulated A/A pairs, power by size of holdout, and for every
guardrail how often a truly worse candidate passes it, and is shown as harm; repeated rows; many slices.

More than 400 lines, as it is one simulation: its parts share simulator, cache and report.

    python -m benchmarks.decision [--pairs 400] [--json FILE]

The simulator is set to the real data: 11.6 % matches, a ceiling of about .91 average precision, production at
about .815. A model is the truth's logit plus heavy-tailed noise, put back on the probability scale by Platt
scaling; less noise is a better model. Two models with the same noise level and other draws are an A/A pair:
on a holdout they differ as two trainings of one recipe do, and neither is truly better. A candidate that breaks a
guardrail is such a twin, spoilt in one way (`SPOILT`) by just so much that its true loss is half of the margin, the
margin, or twice the margin.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from matchmaking.evidence.bootstrap import metric_scorer
from matchmaking.evidence.compare import decide
from matchmaking.evidence.metrics import LOWER_IS_BETTER, THRESHOLD
from matchmaking.evidence.policy import Policy, load_policy

PRODUCTION_NOISE = 1.25
# candidates truly better by about .02, .04 and .06 average precision; the measured gap is reported
CANDIDATE_NOISE = (1.05, 0.85, 0.65)
DEFAULT_HOLDOUT = 2_400
HOLDOUTS = (1_200, 2_400, 4_800, 12_000)
# logit of a match given the pair, squeezed between FLOOR and CEILING: what is left to chance
LATENT_MEAN, LATENT_SD, FLOOR, CEILING = -12.45, 10.5, 0.001, 0.945
# the share of a model's noise that all models have in common: what is hard for one is hard for the other
COMMON = 0.2
# how far the operating point leans to recall, as the balanced training of the real models makes it
LEAN = 0.5
SLICES = ("location", "preferred_language", "case_type")
BASE_RATE = 0.116
# what of a model is turned to make each guardrail worse, and from where to where: its noise, or a shift or a scale
# of its logits (to lean away from matches, to be overconfident)
SPOILT = {
    "recall": ("shift", 0.0, -3.0),
    "precision": ("shift", 0.0, 3.0),
    "roc_auc": ("noise", PRODUCTION_NOISE, 4.0),
    "brier": ("noise", PRODUCTION_NOISE, 4.0),
    "log_loss": ("scale", 1.2, 5.0),
    "calibration": ("shift", 0.0, 3.0),
}
SHARES = (0.5, 1.0, 2.0)  # of the margin
VALUES = (7, 100, 300)  # of each slice column
REPEATS = 5


class Pairs(NamedTuple):
    """Simulated client-lawyer pairs, arrays of shape (rows,): the truth, and how hard a row is to score."""

    latent: np.ndarray
    match: np.ndarray
    difficulty: np.ndarray
    common: np.ndarray


def simulate(rows: int, noises: dict[str, float], rng: np.random.Generator) -> pd.DataFrame:
    """One holdout of `rows` pairs scored by a model of each noise level: the columns `decide` reads."""
    pairs = sample(rows, rng)
    slices = {column: rng.integers(7, size=rows).astype(str) for column in SLICES}
    models = {name: score(pairs, noise, rng) for name, noise in noises.items()}
    return pd.DataFrame({"match": pairs.match, **models, **slices})


def sample(rows: int, rng: np.random.Generator) -> Pairs:
    """Pairs with exactly 11.6 % matches, as the real, stratified split has."""
    latent = rng.normal(LATENT_MEAN, LATENT_SD, size=2 * rows)
    match = (rng.random(2 * rows) < FLOOR + (CEILING - FLOOR) * _sigmoid(latent)).astype(np.int8)
    positives = round(BASE_RATE * rows)
    keep = np.r_[np.flatnonzero(match == 1)[:positives], np.flatnonzero(match == 0)[: rows - positives]]
    # a normal error times this is Student's t with 2 degrees of freedom: mostly small, now and then huge
    difficulty = 1 / np.sqrt(rng.chisquare(2, size=rows) / 2)
    return Pairs(latent[keep], match[keep], difficulty, rng.normal(size=rows))


def score(pairs: Pairs, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Probabilities, shape (rows,), by one training of a model with this noise level."""
    slope, intercept = _calibration(noise)
    return _sigmoid(slope * _noisy(pairs, noise, rng) + intercept + LEAN)


def _noisy(pairs: Pairs, noise: float, rng: np.random.Generator) -> np.ndarray:
    own = rng.normal(size=len(pairs.latent))
    error = pairs.difficulty * (np.sqrt(COMMON) * pairs.common + np.sqrt(1 - COMMON) * own)
    return np.clip(pairs.latent + noise * error, -12, 12)


@cache
def _calibration(noise: float) -> tuple[float, float]:
    """Slope and intercept that make a noisy logit a probability (Platt scaling), fitted on a large sample."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    pairs = sample(200_000, rng)
    fit = LogisticRegression(C=1e6).fit(_noisy(pairs, noise, rng)[:, None], pairs.match)
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def measure(noise: float, rows: int = 500_000) -> dict[str, float]:
    """A model's true metrics: those on a sample so large that sampling error is gone."""
    rng = np.random.default_rng(2)
    pairs = sample(rows, rng)
    metrics = metric_scorer(pairs.match, score(pairs, noise, rng))(np.ones((1, rows)))
    return {name: float(value[0]) for name, value in metrics.items()}


def judge(job: tuple[int, float, int], policy: Policy) -> dict[str, Any]:
    """One comparison, given holdout size, candidate noise, seed: the verdicts of our rule and the old one."""
    rows, noise, seed = job
    rng = np.random.default_rng([seed, rows, round(1000 * noise)])
    scores = simulate(rows, {"production": PRODUCTION_NOISE, "candidate": noise}, rng)
    decision = decide(scores, policy, seed=seed)
    accuracy = {m: ((scores[m] >= THRESHOLD) == scores["match"]).mean() for m in ("production", "candidate")}
    return {
        "rows": rows,
        "noise": noise,
        "verdict": decision["verdict"],
        "old_rule": bool(accuracy["candidate"] > accuracy["production"]),
        "primary": decision["primary"]["result"] == "improved",
        "improvement": decision["primary"]["improvement"],
        "production": decision["primary"]["production"],
        "accuracy": float(accuracy["production"]),
        # for an A/A pair the truth is no difference
        "covered": {t["name"]: t["ci"][0] <= 0 <= t["ci"][1] for t in decision["guardrails"] if t["name"] in SPOILT},
        "slices_covered": [t["ci"][0] <= 0 <= t["ci"][1] for t in decision["guardrails"] if t["name"] not in SPOILT],
    }


class Spoilt(NamedTuple):
    """A candidate that truly loses `loss` of `guardrail`: the margin's share `share`."""

    guardrail: str
    share: float
    loss: float
    noise: float
    shift: float
    scale: float

    def of(self, pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
        """Its probabilities, shape (rows,)."""
        return _turned(score(pairs, self.noise, rng), self.shift, self.scale)


def _turned(probability: np.ndarray, shift: float, scale: float = 1.0) -> np.ndarray:
    return _sigmoid(scale * np.log(probability / (1 - probability)) + shift)


def _straight(guardrail: str) -> float:
    """The shift that production has in the test of a guardrail: for calibration it is calibrated, the hardest case."""
    return -LEAN if guardrail == "calibration" else 0.0


@lru_cache(maxsize=1)
def _large(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a sample so large that what is measured on it is the truth."""
    rng = np.random.default_rng(2)
    pairs = sample(1_600_000, rng)
    return pairs.match, score(pairs, noise, rng)


def spoil(guardrail: str, share: float, margin: float) -> Spoilt:
    """Finds the candidate whose true loss is this share of the margin."""
    from scipy.optimize import brentq

    def true(noise: float, shift: float, scale: float) -> float:
        match, probability = _large(noise)
        scored = metric_scorer(match, _turned(probability, shift, scale))(np.ones((1, len(match))))
        value = float(scored[guardrail][0])
        return abs(value) if guardrail == "calibration" else value

    turned, low, high = SPOILT[guardrail]
    start = _straight(guardrail)
    production = true(PRODUCTION_NOISE, start, 1.0)

    def model(amount: float) -> tuple[float, float, float]:
        noise, shift, scale = PRODUCTION_NOISE, start, 1.0
        if turned == "noise":
            noise = amount
        elif turned == "shift":
            shift += amount
        else:
            scale = amount
        return noise, shift, scale

    def loss(amount: float) -> float:
        gain = true(*model(amount)) - production
        return gain if guardrail in LOWER_IS_BETTER else -gain

    amount = brentq(lambda x: loss(x) - share * margin, low, high, xtol=2e-3)
    return Spoilt(guardrail, share, loss(amount), *model(amount))


def judge_spoilt(job: tuple[Spoilt, int], policy: Policy) -> dict[str, Any]:
    """One comparison of production with a spoilt candidate: what its guardrail says."""
    spoilt, seed = job
    rng = np.random.default_rng([seed, round(1e6 * spoilt.loss), *spoilt.guardrail.encode()])
    pairs = sample(DEFAULT_HOLDOUT, rng)
    production = _turned(score(pairs, PRODUCTION_NOISE, rng), _straight(spoilt.guardrail))
    slices = {column: rng.integers(7, size=len(pairs.match)).astype(str) for column in SLICES}
    scores = pd.DataFrame(
        {"match": pairs.match, "production": production, "candidate": spoilt.of(pairs, rng), **slices}
    )
    decision = decide(scores, policy, seed=seed)
    test = next(t for t in decision["guardrails"] if t["name"] == spoilt.guardrail)
    return {
        "guardrail": spoilt.guardrail,
        "share": spoilt.share,
        "loss": spoilt.loss,
        "passes": test["ci"][0] > -test["margin"],
        "harm": test["result"] == "harm",
        "covered": test["ci"][0] <= -spoilt.loss <= test["ci"][1],
        "promoted": decision["verdict"] == "promote",
    }


def judge_repeated(seed: int, policy: Policy) -> list[dict[str, Any]]:
    """One A/A pair with each row once, five times as one group each, one to five times, and five times ungrouped."""
    rng = np.random.default_rng([seed, REPEATS])
    once = simulate(DEFAULT_HOLDOUT, {"production": PRODUCTION_NOISE, "candidate": PRODUCTION_NOISE}, rng)
    once["group"] = rng.integers(2**63, size=len(once))
    five = once.loc[once.index.repeat(REPEATS)]
    some = once.loc[once.index.repeat(rng.integers(1, REPEATS + 1, size=len(once)))]
    ways = {
        "each once": once,
        f"each {REPEATS} times": five,
        f"each 1 to {REPEATS} times": some,
        f"each {REPEATS} times, counted as independent": five.drop(columns="group"),
    }
    return [{"rows": how, "verdict": decide(scores, policy, seed=seed)["verdict"]} for how, scores in ways.items()]


def judge_slices(job: tuple[int, Spoilt | None, int], policy: Policy) -> dict[str, Any]:
    """One comparison with this many values in each slice column, all of them judged: is harm shown, and where?"""
    values, spoilt, seed = job
    rng = np.random.default_rng([seed, values, spoilt is not None])
    pairs = sample(DEFAULT_HOLDOUT, rng)
    slices = {column: rng.integers(values, size=len(pairs.match)).astype(str) for column in SLICES}
    models = {"production": score(pairs, PRODUCTION_NOISE, rng)}
    models["candidate"] = spoilt.of(pairs, rng) if spoilt else score(pairs, PRODUCTION_NOISE, rng)
    every = policy.guardrails.slices.model_copy(update={"min_positives": 1})
    judged = policy.model_copy(update={"guardrails": policy.guardrails.model_copy(update={"slices": every})})
    decision = decide(pd.DataFrame({"match": pairs.match, **models, **slices}), judged, seed=seed)
    harmed = {test["name"] for test in decision["guardrails"] if test["result"] == "harm"}
    return {
        "values": values,
        "guardrail": spoilt.guardrail if spoilt else "",
        "tests": sum(test["judged"] for test in decision["guardrails"]),
        "harm": bool(harmed),
        "found": bool(spoilt and spoilt.guardrail in harmed),
    }


def main() -> None:
    """Run the benchmark and print, and optionally write, its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decision", description="Error rates of the decision")
    parser.add_argument(
        "--pairs",
        type=int,
        default=400,
        help="A/A pairs, and candidates at each margin; an eighth of them in each cell of the power table",
    )
    parser.add_argument("--jobs", type=int, help="processes; one a core unless given")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    console, start = Console(), time.perf_counter()

    policy = load_policy()
    margins = {name: policy.guardrails.margins[name] for name in SPOILT}
    pairs, few = options.pairs, max(1, options.pairs // 8)
    true = {noise: measure(noise) for noise in (PRODUCTION_NOISE, *CANDIDATE_NOISE)}
    jobs = [(DEFAULT_HOLDOUT, PRODUCTION_NOISE, seed) for seed in range(pairs)]
    jobs += [(r, n, seed) for r in HOLDOUTS for n in CANDIDATE_NOISE for seed in range(few)]
    spoilt = [spoil(name, share, margin) for name, margin in margins.items() for share in SHARES]
    # the error that is stated is that at the margin
    broken = [(one, seed) for one in spoilt for seed in range(pairs if one.share == 1 else pairs // 4)]
    harmful = {one.guardrail: one for one in spoilt if one.share == SHARES[-1]}
    sliced = [
        (values, candidate, seed)
        for values in VALUES
        for candidate in (None, *(harmful[name] for name in ("precision", "roc_auc", "brier")))
        for seed in range(few if candidate else pairs // 2)
    ]
    work: dict[str, tuple[Any, list[Any]]] = {
        "verdicts": (judge, jobs),
        "guardrails": (judge_spoilt, broken),
        "repeated rows": (judge_repeated, list(range(max(1, pairs // 4)))),
        "many slices": (judge_slices, sliced),
    }
    found: dict[str, list[Any]] = {}
    with Progress(console=console) as progress, ProcessPoolExecutor(options.jobs, initializer=_single_threaded) as pool:
        for name, (call, todo) in work.items():
            task = progress.add_task(name, total=len(todo))
            found[name] = []
            for result in pool.map(partial(call, policy=policy), todo, chunksize=4):
                found[name].append(result)
                progress.advance(task)
    results = found["verdicts"]

    frame = pd.DataFrame(results)
    same = frame["noise"] == PRODUCTION_NOISE
    report = {
        "a_a": {"rows": DEFAULT_HOLDOUT, **_rates(frame[same])},
        "power": [
            {
                "rows": rows,
                "true_gap": _gap(true, noise),
                **_rates(frame[(frame["rows"] == rows) & (frame["noise"] == noise)]),
            }
            for noise in CANDIDATE_NOISE
            for rows in HOLDOUTS
        ],
        "guardrails": _guardrail_rates(found["guardrails"], frame[same]["covered"]),
        "slice_coverage": float(np.mean(np.concatenate(frame[same]["slices_covered"].to_list()))),
        "repeated": [
            {
                "rows": how,
                "pairs": len(part),
                **{v: float((part["verdict"] == v).mean()) for v in ("promote", "reject")},
            }
            for how, part in pd.DataFrame([r for rows in found["repeated rows"] for r in rows]).groupby(
                "rows", sort=False
            )
        ],
        "many_slices": [
            {
                "values": int(values),
                "guardrail": name,
                "pairs": len(part),
                **part[["tests", "harm", "found"]].mean().to_dict(),
            }
            for (values, name), part in pd.DataFrame(found["many slices"]).groupby(["values", "guardrail"])
        ],
        "simulator": {
            "production": true[PRODUCTION_NOISE],
            "candidates": {n: true[n] for n in CANDIDATE_NOISE},
        },
        "seconds": time.perf_counter() - start,
    }
    for table in (
        _table(report),
        _guardrail_table(report, policy),
        _repeated_table(report),
        _slice_table(report, policy),
    ):
        console.print(table)
    console.print(f"{sum(len(todo) for _, todo in work.values())} comparisons in {report['seconds']:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _single_threaded() -> None:
    """One BLAS thread a process: the processes are the parallelism."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(1)


def _gap(true: dict[float, dict[str, float]], noise: float) -> float:
    return true[noise]["average_precision"] - true[PRODUCTION_NOISE]["average_precision"]


def _rates(frame: pd.DataFrame) -> dict[str, Any]:
    """Shares of the verdicts, of the old rule's, and what the pairs looked like."""
    return {
        "pairs": len(frame),
        **{verdict: float((frame["verdict"] == verdict).mean()) for verdict in ("promote", "hold", "reject")},
        "primary_improved": float(frame["primary"].mean()),
        "old_rule": float(frame["old_rule"].mean()),
        "improvement_sd": float(frame["improvement"].std()),
    }


def _guardrail_rates(results: list[dict[str, Any]], same: pd.Series) -> list[dict[str, Any]]:
    """By guardrail and share of the margin: how often it passes, is shown as harm, and the interval holds the truth."""
    rates = []
    frame = pd.DataFrame(results)
    for name in SPOILT:
        covered = float(np.mean([one[name] for one in same]))
        rates.append({"guardrail": name, "share": 0.0, "loss": 0.0, "pairs": len(same), "covered": covered})
        for share, part in frame[frame["guardrail"] == name].groupby("share"):
            means = part[["loss", "passes", "harm", "covered", "promoted"]].mean().to_dict()
            rates.append({"guardrail": name, "share": share, "pairs": len(part), **means})
    return rates


def _guardrail_table(report: dict[str, Any], policy: Policy) -> Table:
    alpha = policy.guardrails.alpha
    table = Table(
        title=f"Guardrails, {DEFAULT_HOLDOUT:,} held-out rows; stated: at its margin or beyond, a loss passes "
        f"in at most {alpha:.0%}; the interval holds the truth in {1 - 2 * alpha:.0%}"
    )
    for column in (
        "guardrail",
        "true loss",
        "/ margin",
        "pairs",
        "passes",
        "stated",
        "harm shown",
        "in interval",
    ):
        table.add_column(column, justify="right")
    for cell in report["guardrails"]:
        shares = ["", "", ""]
        if cell["share"]:
            stated = f"<= {alpha:.0%}" if cell["share"] >= 1 else ""
            shares = [f"{cell['passes']:.1%}", stated, f"{cell['harm']:.1%}"]
        row = (cell["guardrail"], f"{cell['loss']:.4f}", f"{cell['share']:g}", str(cell["pairs"]))
        table.add_row(*row, *shares, f"{cell['covered']:.1%}")
    row = ("in slices", "0.0000", "0", str(report["a_a"]["pairs"]), "", "", "")
    table.add_row(*row, f"{report['slice_coverage']:.1%}")
    return table


def _repeated_table(report: dict[str, Any]) -> Table:
    table = Table(title=f"A/A pairs, {DEFAULT_HOLDOUT:,} distinct rows")
    for column in ("rows", "pairs", "promote", "reject"):
        table.add_column(column, justify="right")
    for cell in report["repeated"]:
        table.add_row(cell["rows"], str(cell["pairs"]), f"{cell['promote']:.1%}", f"{cell['reject']:.1%}")
    return table


def _slice_table(report: dict[str, Any], policy: Policy) -> Table:
    table = Table(
        title="Many slices, and candidates that lose twice a margin; stated: of A/A pairs harm is shown in at most "
        f"{policy.guardrails.alpha:.0%}"
    )
    for column in ("values", "tests", "worse in", "pairs", "harm shown", "in that one"):
        table.add_column(column, justify="right")
    for cell in report["many_slices"]:
        shown = f"{cell['found']:.1%}" if cell["guardrail"] else ""
        harm = cell["guardrail"] or "none (A/A)"
        row = (str(cell["values"]), f"{cell['tests']:.0f}", harm, str(cell["pairs"]), f"{cell['harm']:.1%}", shown)
        table.add_row(*row)
    return table


def _table(report: dict[str, Any]) -> Table:
    table = Table(title="Promotion decision, default policy")
    for column in (
        "true gain in AP",
        "held-out rows",
        "pairs",
        "promote",
        "hold",
        "reject",
        "old rule promotes",
    ):
        table.add_column(column, justify="right")
    for cell in [{"true_gap": 0.0, **report["a_a"]}, *report["power"]]:
        shares = [f"{cell[k]:.1%}" for k in ("promote", "hold", "reject", "old_rule")]
        gap = "none (A/A)" if cell["true_gap"] == 0 else f"{cell['true_gap']:+.3f}"
        table.add_row(gap, f"{cell['rows']:,}", str(cell["pairs"]), *shares)
    return table


if __name__ == "__main__":
    main()
