"""What the tests of storage share."""

from __future__ import annotations

from pathlib import Path

FILES = ("lawyer_match_model.h5", "encoder.pkl", "scaler.pkl")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
