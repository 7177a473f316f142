"""Pairs in a file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def write(tmp_path: Path, frame: pd.DataFrame) -> Path:
    path = tmp_path / "pairs.csv"
    frame.to_csv(path, index=False)
    return path
