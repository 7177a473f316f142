"""Scoring pairs with one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base import files
from matchmaking.data.batches import BATCH, arrow_batches, batches, rows_in, writing
from matchmaking.data.schema import FEATURES
from matchmaking.model import features, predict, production


def score(pairs: pd.DataFrame, bundle: Path) -> Any:
    """A bundle's probabilities for pairs: float64 of shape (rows,)."""
    parts = (pairs.iloc[start : start + BATCH] for start in range(0, max(1, len(pairs)), BATCH))
    return np.concatenate(list(score_batches(parts, bundle)))


def score_batches(parts: Iterable[pd.DataFrame], bundle: Path) -> Iterator[np.ndarray]:
    """`score` for one batch of pairs after the other."""
    known = production.read_encoders(bundle)
    inputs = (features.encode(part, known.encoder, known.scaler) for part in parts)
    yield from predict.predict_batches(bundle / production.MODEL, inputs)


def score_file(path: Path, bundle: Path) -> np.ndarray:
    """`score` for a parquet file of pairs, of which no more than a batch is held."""
    found = np.empty(rows_in(path))
    first = 0
    for part in score_batches(batches(path, FEATURES, "scored"), bundle):
        found[first : first + len(part)] = part
        first += len(part)
    return found


def score_files(
    reference_path: Path, current_path: Path, production_dir: Path, reference_out: Path, current_out: Path
) -> None:
    """Adds production's probability as column `score` to two parquet files of pairs; without a model it doesn't."""
    for source, target in ((reference_path, reference_out), (current_path, current_out)):
        if production.present(production_dir):
            _add_scores(source, production_dir, target)
        else:
            files.copy_file(source, target)


def _add_scores(source: Path, bundle: Path, target: Path) -> None:
    import pyarrow as pa

    read: list[pa.RecordBatch] = []

    def frames() -> Iterator[pd.DataFrame]:
        for batch in arrow_batches(source, what="scored"):
            read.append(batch)
            yield batch.to_pandas()

    with writing(target) as out:
        for scores in score_batches(frames(), bundle):
            out.write(pa.Table.from_batches([read.pop()]).append_column("score", pa.array(scores)))
