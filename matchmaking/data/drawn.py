"""Which pairs drift is tested on: at most `MAX_ROWS` of each side, drawn the same way every time.

They are drawn before they are scored: of millions of pairs, the others' scores would be looked at by nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchmaking.base.errors import InputError
from matchmaking.data.batches import arrow_batches, rows_in

if TYPE_CHECKING:
    import pyarrow as pa

# the distance between two samples this large of the same data is about 0.01, a tenth of the threshold; a multiple of
# the rows that a processor takes at once, so that a model gives each the same, to the bit, as among all pairs
MAX_ROWS = 50_000
# in the metadata of a parquet file that holds drawn pairs: how many they were drawn from
DRAWN_FROM = b"drawn_from"
# there where a sample of a dataset is to be compared with the rest of it
WITH_ITSELF = b"with_itself"


def first_half(rows: int, seed: int) -> np.ndarray:
    """Which rows are in the first of two random halves: bool of shape (rows,).

    Raises:
        InputError: fewer than two rows.
    """
    if rows < 2:
        raise InputError(f"{rows} rows cannot be compared with themselves; give at least 2")
    first = np.zeros(rows, dtype=bool)
    first[np.random.default_rng(seed).permutation(rows)[: rows // 2]] = True
    return first


def chosen(rows: int, most: int, seed: int) -> np.ndarray:
    """The numbers of at most so many of the rows, in order."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def draw_files(reference_path: Path, current_path: Path, *, self_comparison: bool, seed: int) -> dict[str, pa.Table]:
    """The pairs to compare, of two parquet files; with `self_comparison`, of two halves of the reference.

    Files that these were written to are given as they are.

    Returns:
        `reference` and `current`, each with how many pairs they were drawn from (see `drawn_from`).
    """
    paths = {"reference": reference_path, "current": current_path}
    if all(_noted(path) for path in paths.values()):
        return {name: _rows_of(path, np.arange(rows_in(path))) for name, path in paths.items()}
    if self_comparison:
        first = first_half(rows_in(reference_path), seed)
        numbers = {"reference": np.flatnonzero(first), "current": np.flatnonzero(~first)}
        paths["current"] = reference_path
    else:
        numbers = {name: np.arange(rows_in(path)) for name, path in paths.items()}
    found = {}
    for name, path in paths.items():
        table = _rows_of(path, numbers[name][chosen(len(numbers[name]), MAX_ROWS, seed)])
        notes = {**(table.schema.metadata or {}), DRAWN_FROM: str(len(numbers[name])).encode()}
        found[name] = table.replace_schema_metadata(notes)
    return found


def leaves_some(reference_path: Path, current_path: Path, *, self_comparison: bool) -> bool:
    """Whether `draw_files` would give fewer pairs than there are."""
    reference, current = rows_in(reference_path), rows_in(current_path)
    return reference - reference // 2 > MAX_ROWS if self_comparison else max(reference, current) > MAX_ROWS


def drawn_from(pairs: pa.Table) -> int:
    """How many pairs some were drawn from."""
    return int(pairs.schema.metadata[DRAWN_FROM])


def with_itself(path: Path) -> bool:
    """Whether the pairs that `score` left in a parquet file are to be compared with others of the same dataset."""
    import pyarrow.parquet as pq

    return WITH_ITSELF in (pq.read_schema(path).metadata or {})


def _noted(path: Path) -> bool:
    import pyarrow.parquet as pq

    return DRAWN_FROM in (pq.read_schema(path).metadata or {})


def _rows_of(path: Path, numbers: np.ndarray) -> pa.Table:
    """The rows of a parquet file with these numbers, which are in order; no more than a batch is held beside them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, parts = 0, []
    for batch in arrow_batches(path):
        start, stop = np.searchsorted(numbers, [first, first + batch.num_rows])
        parts.append(pa.Table.from_batches([batch]).take(pa.array(numbers[start:stop] - first)))
        first += batch.num_rows
    # as text, whatever they were read as
    schema = pq.read_schema(path)
    return pa.concat_tables([part.cast(schema) for part in parts]) if parts else pq.read_table(path)
