"""Checking a dataset against the schema and against what production knows, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

from matchmaking.base.redact import redact
from matchmaking.data.describe import check_enough, check_known, describe
from matchmaking.data.read import read_pairs
from matchmaking.model import production


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
