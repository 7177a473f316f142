"""Scoring pairs with one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from matchmaking.model import features, predict, production


def score(pairs: pd.DataFrame, bundle: Path) -> Any:
    """A bundle's probabilities for pairs: float64 of shape (rows,)."""
    encoders = production.read_encoders(bundle)
    return predict.predict(bundle / production.MODEL, features.encode(pairs, encoders.encoder, encoders.scaler))


def score_files(
    reference_path: Path, current_path: Path, production_dir: Path, reference_out: Path, current_out: Path
) -> None:
    """Adds production's probability as column `score` to two parquet files of pairs; without a model it doesn't."""
    for source, target in ((reference_path, reference_out), (current_path, current_out)):
        pairs = pd.read_parquet(source)
        if production.present(production_dir):
            pairs["score"] = score(pairs, production_dir)
        pairs.to_parquet(target, index=False)
