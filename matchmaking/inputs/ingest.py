"""Bringing a run's inputs here: the dataset and the production model, wherever they are."""

from __future__ import annotations

from pathlib import Path

from matchmaking import lineage, production, storage
from matchmaking.redact import redact
from matchmaking.schema import check_enough, check_known, describe, file_md5, read_pairs
from matchmaking.split import ASSUMED


def fetch_data(uri: str, target: Path) -> str:
    """Copies a dataset here and gives its version: the md5 of its bytes, as DVC computes it.

    Raises:
        InputError: there is no such file.
    """
    storage.download(uri, target)
    return file_md5(target)


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
        InputError: there is no such file.
    """
    if production.present(production_dir) and lineage.read_lineage(production_dir / production.MODEL) is None:
        storage.download(uri, production_dir / ASSUMED)


def validate_file(raw: Path, production_dir: Path, target: Path, *, source: str, labelled: bool = True) -> dict:
    """Checks a dataset and stores it as parquet.

    Args:
        raw: the CSV file.
        production_dir: the production bundle, whose encoder says which categories are known; may be empty.
        target: the parquet file to write.
        source: what to call the dataset in messages.
        labelled: whether it must have the `match` column, with enough of both classes to split.

    Returns:
        The fields of `schema.DataReport`.

    Raises:
        InputError: see `schema.read_pairs`, `schema.check_enough` and, for a labelled dataset, `schema.check_known`.
    """
    source = redact(source)
    pairs, extra = read_pairs(raw, target=labelled, source=source)
    if labelled:
        check_enough(pairs, source)
    known = production.read_encoders(production_dir).categories if production.present(production_dir) else None
    report = describe(pairs, extra, known)
    if labelled:
        check_known(report, known, source)
    versions = production.version_notes(production_dir) if known else []
    pairs.to_parquet(target, index=False)
    return {**report.as_dict(), "warnings": [*report.warnings, *versions]}
