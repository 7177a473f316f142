"""Is the promotion decision right? False promotions on simulated A/A pairs, and power by size of holdout.

    python -m benchmarks.decision [--pairs 400] [--json FILE]

The simulator is set to the real data: 11.6 % matches, a ceiling of about .91 average precision, production at
about .815. A model is the truth's logit plus heavy-tailed noise, put back on the probability scale by Platt
scaling; less noise is a better model. Two models with the same noise level and other draws are an A/A pair:
on a holdout they differ as two trainings of one recipe do, and neither is truly better.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from matchmaking.decision import Policy, decide, load_policy, metric_scorer
from matchmaking.metrics import THRESHOLD

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
    }


def main() -> None:
    """Run the benchmark and print, and optionally write, its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decision", description="Error rates of the decision")
    parser.add_argument(
        "--pairs", type=int, default=400, help="A/A pairs; an eighth of them in each cell of the power table"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    console, start = Console(), time.perf_counter()

    jobs = [(DEFAULT_HOLDOUT, PRODUCTION_NOISE, seed) for seed in range(options.pairs)]
    jobs += [(r, n, seed) for r in HOLDOUTS for n in CANDIDATE_NOISE for seed in range(max(1, options.pairs // 8))]
    true = {noise: measure(noise) for noise in (PRODUCTION_NOISE, *CANDIDATE_NOISE)}
    results = []
    with Progress(console=console) as progress, ProcessPoolExecutor(initializer=_single_threaded) as pool:
        task = progress.add_task("comparisons", total=len(jobs))
        for result in pool.map(partial(judge, policy=load_policy()), jobs, chunksize=4):
            results.append(result)
            progress.advance(task)

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
        "simulator": {
            "production": true[PRODUCTION_NOISE],
            "candidates": {n: true[n] for n in CANDIDATE_NOISE},
        },
        "seconds": time.perf_counter() - start,
    }
    console.print(_table(report))
    console.print(f"{len(jobs)} comparisons in {report['seconds']:.0f} s")
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
