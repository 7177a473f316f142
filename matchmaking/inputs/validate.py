"""Checking a dataset against the schema and against what production knows, before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path

from matchmaking.base.redact import redact
from matchmaking.data.batches import writing
from matchmaking.data.describe import Tally, check_known
from matchmaking.data.drawn import MAX_ROWS, PART_STARTS
from matchmaking.data.read import open_pairs
from matchmaking.model import production


def validate_file(raw: Path, production_dir: Path, target: Path, *, source: str, labelled: bool = True) -> dict:
    """Checks a dataset and stores it as parquet.

    Args:
        raw: the dataset as it came: a file, or a folder of parts.
        production_dir: the production bundle, whose encoder says which categories are known; may be empty.
        target: the parquet file to write.
        source: what to call the dataset in messages.
        labelled: whether it must have the `match` column, with enough of both classes to split.

    Returns:
        The fields of `schema.DataReport`.

    Raises:
        InputError: see `read.open_pairs` and, for a labelled dataset, `Tally.check_enough` and `describe.check_known`.
    """
    source = redact(source)
    known = production.read_encoders(production_dir).categories if production.present(production_dir) else None
    starts: list[int] = []
    parts, extra = open_pairs(raw, target=labelled, source=source, starts=starts)
    counted = Tally(known)
    with writing(target) as out:
        for part in parts:
            counted.add(part)
            out.write(part)
        if labelled:
            counted.check_enough(source)
        report = counted.report(extra)
        if len(starts) > 1 and report.rows > MAX_ROWS:
            # a draw of rows by their parts is the same where the parts are read by several
            out.note(PART_STARTS, json.dumps(starts).encode())
        if labelled:
            check_known(report, known, source)
    versions = production.version_notes(production_dir) if known else []
    return {**report.as_dict(), "warnings": [*report.warnings, *versions]}
