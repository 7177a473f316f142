"""Is the promotion decision right? False promotions on simulated A/A pairs, and power by size of holdout.

    python -m benchmarks.decision [--pairs 200] [--json FILE]

The simulator is calibrated to the real data: 11.6 % matches, a ceiling of about .911 average precision, production
at about .815. A model is the truth's logit with heavy-tailed noise, put back on the probability scale by a logistic
calibration; less noise is a better model. Two models with the same noise level and other draws are an A/A pair:
they differ on every holdout as two trainings of one recipe do, and neither is truly better.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from matchmaking.decision import decide, load_policy, metric_scorer

PRODUCTION_NOISE = 1.25
# candidates truly better by about .02, .04 and .06 average precision; the measured gap is reported
CANDIDATE_NOISE = (1.1, 0.95, 0.8)
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
    """Simulated client-lawyer pairs, arrays of shape (rows,): the truth, and what makes a row hard to score."""

    latent: np.ndarray
    match: np.ndarray
    difficulty: np.ndarray
    common: np.ndarray


def simulate(rows: int, noises: dict[str, float], rng: np.random.Generator) -> pd.DataFrame:
    """Scores of models with the given noise levels on one holdout of `rows` pairs: the columns `decide` reads."""
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
    # a normal error over the root of a chi-squared / 2 is Student's t with 2 degrees of freedom: mostly small, some huge
    difficulty = 1 / np.sqrt(rng.chisquare(2, size=rows) / 2)
    return Pairs(latent[keep], match[keep], difficulty, rng.normal(size=rows))


def score(pairs: Pairs, noise: float, rng: np.random.Generator, luck: float = 1.0) -> np.ndarray:
    """Probabilities by one training of a recipe with this noise level; `luck` scales what this training came to."""
    slope, intercept = _calibration(noise)
    return _sigmoid(slope * _noisy(pairs, noise * luck, rng) + intercept + LEAN)


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
