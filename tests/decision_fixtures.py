"""Simulated scores of two models, policies and guardrails, for the tests of the decision."""

from typing import Any

import numpy as np
import pandas as pd

from matchmaking.evidence.policy import Policy, load_policy

POLICY = load_policy()


def expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def logit(p: pd.Series) -> np.ndarray:
    return np.log(p / (1 - p)).to_numpy()


def simulate(rows: int = 6_000, production: float = 3.0, candidate: float = 3.0, seed: int = 0) -> pd.DataFrame:
    """Scores of two models that see the truth's logit through noise of these sizes, about 12 % of matches."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-8, 6.5, rows)
    match = (rng.random(rows) < expit(truth)).astype("int8")
    noisy = {
        name: expit((truth + noise * rng.normal(size=rows)) / (1 + noise / 3))
        for name, noise in {"production": production, "candidate": candidate}.items()
    }
    slices = {c: rng.choice(list("abcdefg"), rows) for c in ("location", "preferred_language", "case_type")}
    return pd.DataFrame({"match": match, **noisy, **slices})


def policy(**sections: Any) -> Policy:
    values = POLICY.model_dump()
    for name, changes in sections.items():
        values[name] = {**values[name], **changes} if isinstance(changes, dict) else changes
    return Policy.model_validate(values)


def guardrail(decision: dict, name: str) -> dict:
    return next(g for g in decision["guardrails"] if g["name"] == name)
