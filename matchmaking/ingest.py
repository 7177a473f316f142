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


def assume_training(uri: str, production_dir: Path, dataset_version: str) -> str:
    """Finds out which dataset a production model without a lineage is to be taken for trained on.

    Args:
        uri: the dataset that it was trained on, as its people say; empty where they don't, and then it is taken to be
            the run's own. Where it counts, it is brought here, beside the model.
        production_dir: the copy of production; may be empty.
        dataset_version: md5 of the run's dataset.

    Returns:
        md5 of that dataset; empty where nothing has to be assumed, as there is no model or it knows by itself.

    Raises:
        InputError: there is no dataset at `uri`.
    """
    if not production.present(production_dir) or lineage.read_lineage(production_dir / production.MODEL) is not None:
        return ""
    return fetch_data(uri, production_dir / ASSUMED) if uri else dataset_version


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
