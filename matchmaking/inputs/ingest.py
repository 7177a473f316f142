"""Bringing a run's inputs here: the dataset and the production model, wherever they are."""

from __future__ import annotations

from pathlib import Path

from matchmaking import storage
from matchmaking.base.redact import redact
from matchmaking.data.parts import fetch_dataset
from matchmaking.inputs.split import ASSUMED
from matchmaking.model import lineage, production


def fetch_production(uri: str, target: Path) -> dict[str, str]:
    """Copies the production bundle here and checks it.

    Args:
        uri: the production folder; empty for none, and then the run bootstraps.
        target: becomes the copy; an empty folder where there is no production model.

    Returns:
        sha256 by file name; empty where there is no production model.

    Raises:
        InputError: some of the files are missing or not what the service would need.
    """
    target.mkdir(parents=True, exist_ok=True)
    if not uri or not storage.download_bundle(uri, production.FILES, target):
        return {}
    production.check_bundle(target, source=redact(uri))
    return production.hashes(target)


def fetch_training_data(uri: str, production_dir: Path) -> None:
    """Brings the dataset here that production was trained on, beside its model, where that doesn't know by itself.

    Raises:
        InputError: there is none.
    """
    if production.present(production_dir) and lineage.read_lineage(production_dir / production.MODEL) is None:
        fetch_dataset(uri, production_dir / ASSUMED)
