"""Our own data on the documented schema, with the true probability of every match known.

The rules are invented, in the shape of the real problem: a lawyer must cover the kind of case and, mostly, be
available; being in the client's city, affordable, well rated and successful helps. A model is told apart from
the best possible one because `true_probability` is what the labels are drawn from.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError, cannot_write
from matchmaking.base.files import written_whole
from matchmaking.data.batches import BATCH, Progress
from matchmaking.data.schema import COLUMNS, TARGET

COVERED_BY = {
    "Contract": "Corporate",
    "Corporate": "Corporate",
    "Criminal": "Criminal",
    "Divorce": "Family",
    "Fraud": "Criminal",
    "Property": "Civil",
    "Tax": "Tax",
}
CITIES = ("Bengaluru", "Chennai", "Delhi", "Hyderabad", "Kolkata", "Mumbai", "Pune")
LANGUAGES = ("Bengali", "English", "Hindi", "Kannada", "Marathi", "Tamil", "Telugu")
SPECIALIZATIONS = ("Civil", "Corporate", "Criminal", "Family", "Tax")

DRIFTS = {
    "none": "the same world",
    "prices": "lawyers ask 40 % more, budgets stay",
    "new-city": "a tenth of the lawyers are in a city never seen before",
    "match-rate": "half as many pairs match, on the same features",
}


NAMES = {
    "case_type": tuple(COVERED_BY),
    "location": CITIES,
    "preferred_language": LANGUAGES,
    "specialization": SPECIALIZATIONS,
    "city": CITIES,
}


def generate(rows: int, seed: int, drift: str = "none") -> pd.DataFrame:
    """Draws client-lawyer pairs.

    Args:
        rows: number of pairs, at least 1.
        seed: the same rows, seed and drift give the same pairs.
        drift: one of `DRIFTS`; the pairs differ from "none" in just what it says.

    Returns:
        A frame with the columns of `COLUMNS`.

    Raises:
        InputError: rows below 1 or an unknown drift.
    """
    _check(rows, drift)
    return _pairs(_draw(rows, seed), drift, slice(None))


def _check(rows: int, drift: str) -> None:
    if rows < 1:
        raise InputError(f"--rows {rows}: at least 1 row is needed")
    if drift not in DRIFTS:
        raise InputError(f"--drift {drift}: unknown; choose one of {', '.join(DRIFTS)}")


def _draw(rows: int, seed: int) -> dict[str, np.ndarray]:
    """What chance decides of so many pairs, column after column, in little room: categories by number."""
    rng = np.random.default_rng(seed)
    return {
        "case_type": rng.choice(len(COVERED_BY), rows).astype(np.int8),
        "location": rng.choice(len(CITIES), rows).astype(np.int8),
        "urgency_level": rng.integers(1, 6, rows).astype(np.int8),
        "budget": rng.normal(20_000, 8_000, rows).clip(3_000).astype(np.int32),
        "preferred_language": rng.choice(len(LANGUAGES), rows).astype(np.int8),
        # rounded so that the text of the file doesn't depend on how a platform prints a float
        "case_complexity_score": rng.beta(2, 3, rows).round(4),
        "specialization": rng.choice(len(SPECIALIZATIONS), rows).astype(np.int8),
        "city": rng.choice(len(CITIES), rows).astype(np.int8),
        "experience": rng.normal(8, 5, rows).clip(0).round(3),
        "success_rate": rng.beta(8, 3, rows).round(4),
        "rating": rng.normal(4.1, 0.55, rows).clip(1, 5).round(3),
        "consultation_fee": rng.normal(15_000, 6_000, rows).clip(1_000).astype(np.int32),
        "availability": rng.random(rows) < 0.74,
        "chance": rng.random(rows),
        "moved": rng.random(rows),
    }


def _pairs(draws: dict[str, np.ndarray], drift: str, part: slice) -> pd.DataFrame:
    """Some of the pairs, as they are in a world that has drifted so."""
    drawn = {name: values[part] for name, values in draws.items()}
    chance, moved = drawn.pop("chance"), drawn.pop("moved")
    pairs = pd.DataFrame(
        {
            name: np.array(NAMES[name])[values]
            if name in NAMES
            else values
            if values.dtype == float
            else values.astype(np.int64)
            for name, values in drawn.items()
        }
    )
    if drift == "prices":
        pairs["consultation_fee"] = (pairs["consultation_fee"] * 1.4).astype(np.int64)
    elif drift == "new-city":
        pairs.loc[moved < 0.1, "city"] = "Ahmedabad"
    matched = chance < true_probability(pairs)
    if drift == "match-rate":
        matched &= moved < 0.5
    pairs[TARGET] = matched.astype(np.int64)
    return pairs[list(COLUMNS)]


def true_probability(pairs: pd.DataFrame) -> np.ndarray:
    """The probability each pair's label was drawn with (drift "match-rate" halves it): float64 of shape (rows,).

    No model can be better on this data than these probabilities: they are the ceiling of every proper score.
    """
    covered = pairs["case_type"].map(COVERED_BY) == pairs["specialization"]
    logit = (
        -13.0
        + 9.0 * covered
        + 2.2 * (pairs["location"] == pairs["city"])
        + 4.2 * pairs["availability"]
        + 2.2 * np.tanh(2 * (pairs["budget"] / (pairs["consultation_fee"] + 1) - 1))
        + 7.0 * (pairs["success_rate"] - 0.73)
        + 1.7 * (pairs["rating"] - 4.1)
        + 0.17 * (pairs["experience"] - 8)
        - 2.8 * (pairs["case_complexity_score"] - 0.4)
    )
    return (1 / (1 + np.exp(-logit))).to_numpy()


def generate_file(path: Path, rows: int, seed: int, drift: str = "none") -> dict[str, float]:
    """Writes `generate(...)` as CSV (gzip where the name ends in .gz), whole or not at all.

    Returns:
        `positives`, and the scores of the true probabilities on these rows: `average_precision`, `roc_auc`, `brier`.
    """
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

    _check(rows, drift)
    draws = _draw(rows, seed)
    target, probability = np.empty(rows, np.int64), np.empty(rows)

    def write(file: BinaryIO) -> None:
        progress = Progress("generated", rows)
        # one for all of the file: what gzip makes of a text depends on the portions in which it comes
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        for start in range(0, rows, BATCH):
            part = slice(start, min(start + BATCH, rows))
            pairs = _pairs(draws, drift, part)
            target[part], probability[part] = pairs[TARGET], true_probability(pairs)
            pairs.to_csv(text, index=False, header=start == 0)
            progress.add(len(pairs))
        text.detach()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary, temporary.open("wb") as plain:
            if path.suffix == ".gz":
                # without a name and a time stamp in the header the same pairs are the same bytes
                with gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0) as packed:
                    write(cast(BinaryIO, packed))
            else:
                write(plain)
    except OSError as error:
        raise cannot_write(path, error) from error
    both = len(np.unique(target)) == 2  # of one class alone, neither of the two says anything
    return {
        "positives": int(target.sum()),
        "average_precision": float(average_precision_score(target, probability)) if both else 0.0,
        "roc_auc": float(roc_auc_score(target, probability)) if both else 0.0,
        "brier": float(brier_score_loss(target, probability)),
    }
