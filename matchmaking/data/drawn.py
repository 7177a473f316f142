"""Which pairs drift is tested on: at most `MAX_ROWS` of each side, drawn the same way every time.

They are drawn before they are scored: of millions of pairs, the others' scores would be looked at by nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.files import written_whole
from matchmaking.data.batches import arrow_batches, rows_in
from matchmaking.data.describe import row_hashes

if TYPE_CHECKING:
    import pyarrow as pa

# the distance between two samples this large of the same data is about 0.01, a tenth of the threshold; a multiple of
# the rows that a processor takes at once, so that a model gives each the same, to the bit, as among all pairs
MAX_ROWS = 50_000
# in the metadata of a parquet file that holds drawn pairs: how many they were drawn from
DRAWN_FROM = b"drawn_from"
# there where a sample of a dataset is to be compared with the rest of it
WITH_ITSELF = b"with_itself"
# columns beside those of the pairs that a `Draw` keeps
KEY, COUNT = "_key", "_count"


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


class Draw:
    """At most so many of the pairs that pass by, the same ones in whatever order and in however many pieces.

    Of all different pairs those are kept whose hashes, stirred by a seed, are the least, and how often each is there.
    The least of all are among the least of each piece, so what is kept of pieces can be added up to what would have
    been kept of all. From these rows, repetitions and all, `table` draws where they are too many. Up to `most` pairs
    all are kept as they came.

    Args:
        seed: of the drawing.
        most: pairs to draw, at the most.

    Attributes:
        rows: that have passed by.
    """

    def __init__(self, seed: int, most: int = MAX_ROWS) -> None:
        self.seed, self.most, self.rows = seed, most, 0
        self._tables: list[pa.Table] = []
        self._keys: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        # that of the last of so many kept ones; what is above can't be among them
        self._limit: np.uint64 | None = None

    def add(self, pairs: pd.DataFrame, hashes: np.ndarray) -> None:
        """Lets pairs pass by.

        Args:
            pairs: of the same columns as all that are added.
            hashes: of equal pairs the same number, uint64 of shape (rows,), as `describe.row_hashes` gives it.
        """
        self.rows += len(pairs)
        keys = stirred(hashes, self.seed)
        used = slice(None) if self._limit is None else np.flatnonzero(keys <= self._limit)
        keys = keys[used]
        if len(keys):
            self._keep(as_text(pairs.iloc[used]), keys, np.ones(len(keys), np.int64))

    def merge(self, other: Draw) -> None:
        """Adds pairs that another one has kept, with the same seed and `most`; those that passed it by come next."""
        self.rows += other.rows
        for table, keys, counts in zip(other._tables, other._keys, other._counts, strict=True):
            self._keep(table, keys, counts)

    def table(self) -> pa.Table:
        """What is drawn: in the order in which they came where that is all pairs, else in that of their hashes.

        Its metadata has how many pairs there were; see `drawn_from`.
        """
        import pyarrow as pa

        if self.rows > self.most:
            self._settle()
        table = pa.concat_tables(self._tables)
        if self.rows > self.most:
            ends = np.cumsum(self._counts[0])
            numbers = np.searchsorted(ends, chosen(int(ends[-1]), self.most, self.seed), side="right")
            table = table.take(pa.array(numbers))
        return _noted_with(table, self.rows)

    def save(self, path: Path) -> None:
        """Writes what is kept to a parquet file; pairs have passed by."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.rows > self.most:
            self._settle()
        table = pa.concat_tables(self._tables)
        for name, values in ((KEY, self._keys), (COUNT, self._counts)):
            table = table.append_column(name, pa.array(np.concatenate(values)))
        with written_whole(path) as temporary:
            pq.write_table(_noted_with(table, self.rows), temporary)

    @classmethod
    def load(cls, path: Path, seed: int, most: int = MAX_ROWS) -> Draw:
        """What one of the same seed and `most` wrote with `save`."""
        import pyarrow.parquet as pq

        found = cls(seed, most)
        table = pq.read_table(path)
        found.rows = drawn_from(table)
        found._keys, found._counts = [table[KEY].to_numpy()], [table[COUNT].to_numpy()]
        found._tables = [table.drop_columns([KEY, COUNT])]
        return found

    def _keep(self, table: pa.Table, keys: np.ndarray, counts: np.ndarray) -> None:
        self._tables.append(table)
        self._keys.append(keys)
        self._counts.append(counts)
        # so few that sorting them again doesn't count
        if self.rows > self.most and sum(map(len, self._keys)) > 2 * self.most:
            self._settle()

    def _settle(self) -> None:
        """Counts equal pairs together, and leaves the first `most` of them."""
        import pyarrow as pa

        keys, counts = np.concatenate(self._keys), np.concatenate(self._counts)
        order = np.argsort(keys, kind="stable")
        first = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
        counts = np.add.reduceat(counts[order], first)[: self.most]
        order = order[first][: self.most]
        self._tables = [pa.concat_tables(self._tables).take(pa.array(order))]
        self._keys, self._counts = [keys[order]], [counts]
        if len(order) == self.most:
            self._limit = keys[order[-1]]


def stirred(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Other numbers in their places, different ones for different ones: uint64 of shape (rows,) (SplitMix64's)."""
    mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def as_text(frame: pd.DataFrame) -> pa.Table:
    """Pairs as `validate` writes them: categories as text, whatever they were read as."""
    import pyarrow as pa

    texts = {name: object for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)}
    schema = pa.Schema.from_pandas(frame.head(1).astype(texts), preserve_index=False)
    return pa.Table.from_pandas(frame, preserve_index=False).cast(schema)


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
        halves = {"reference": np.flatnonzero(first), "current": np.flatnonzero(~first)}
        return {
            name: _noted_with(_rows_of(reference_path, numbers[chosen(len(numbers), MAX_ROWS, seed)]), len(numbers))
            for name, numbers in halves.items()
        }
    return {name: _drawn(path, seed) for name, path in paths.items()}


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


def _drawn(path: Path, seed: int) -> pa.Table:
    """What `Draw` draws of a parquet file."""
    import pyarrow.parquet as pq

    if (rows := rows_in(path)) <= MAX_ROWS:
        return _noted_with(_rows_of(path, np.arange(rows)), rows)
    draw = Draw(seed)
    for batch in arrow_batches(path, what="drawn from"):
        frame = batch.to_pandas()
        draw.add(frame, row_hashes(frame))
    # as text, whatever they were read as
    table = draw.table()
    return table.cast(pq.read_schema(path).with_metadata(table.schema.metadata))


def _noted_with(pairs: pa.Table, rows: int) -> pa.Table:
    """Pairs with a note of how many they were drawn from."""
    return pairs.replace_schema_metadata({**(pairs.schema.metadata or {}), DRAWN_FROM: str(rows).encode()})


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
