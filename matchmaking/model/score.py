"""Scoring pairs with one model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base import files
from matchmaking.data.batches import BATCH, ahead
from matchmaking.data.drawn import WITH_ITSELF, draw_files, leaves_some
from matchmaking.model import features, predict, production


def score(pairs: pd.DataFrame, bundle: Path) -> Any:
    """A bundle's probabilities for pairs: float64 of shape (rows,)."""
    parts = (pairs.iloc[start : start + BATCH] for start in range(0, max(1, len(pairs)), BATCH))
    return np.concatenate([probabilities for _, probabilities in score_batches(parts, bundle)])


def score_batches(parts: Iterable[pd.DataFrame], bundle: Path) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """`score` for one batch of pairs after the other: each batch with its probabilities, as the next one is read."""
    known = production.read_encoders(bundle)
    # those that are read and not scored yet, the first one first
    waiting: deque[pd.DataFrame] = deque()

    def inputs() -> Iterator[np.ndarray]:
        for part in parts:
            waiting.append(part)
            yield features.encode(part, known.encoder, known.scaler)

    for probabilities in predict.predict_batches(bundle / production.MODEL, ahead(inputs())):
        yield waiting.popleft(), probabilities


def score_files(
    reference_path: Path,
    current_path: Path,
    production_dir: Path,
    reference_out: Path,
    current_out: Path,
    *,
    self_comparison: bool,
    seed: int,
) -> None:
    """Draws the pairs that drift is tested on, and adds production's probability as column `score` if there is one.

    Args:
        reference_path: parquet file of pairs.
        current_path: another; with `self_comparison` it isn't looked at, and both are drawn from the reference.
        production_dir: the production bundle; may be empty.
        reference_out: parquet file to write: what `drawn.draw_files` gives; all pairs where that would leave none out.
        current_out: the other.
        self_comparison: whether two halves of the reference are to be compared.
        seed: of the drawing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = {"reference": reference_path, "current": current_path}
    if leaves_some(*paths.values(), self_comparison=self_comparison):
        drawn = draw_files(*paths.values(), self_comparison=self_comparison, seed=seed)
    else:
        drawn = {name: pq.read_table(path) for name, path in paths.items()}
    if production.present(production_dir):
        scores = {name: score(pairs.to_pandas(), production_dir) for name, pairs in drawn.items()}
        drawn = {name: pairs.append_column("score", pa.array(scores[name])) for name, pairs in drawn.items()}
    for name, target in (("reference", reference_out), ("current", current_out)):
        with files.written_whole(target) as temporary:
            notes = {**(drawn[name].schema.metadata or {}), **({WITH_ITSELF: b"1"} if self_comparison else {})}
            pq.write_table(drawn[name].replace_schema_metadata(notes), temporary)
