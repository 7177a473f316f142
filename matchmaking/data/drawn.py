"""Which pairs drift is tested on: at most `MAX_ROWS` of each side, drawn the same way every time.

They are drawn before they are scored: of millions of pairs, the others' scores would be looked at by nobody.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.files import written_whole
from matchmaking.data.batches import arrow_batches, batches, rows_in

if TYPE_CHECKING:
    import pyarrow as pa

# the distance between two samples this large of the same data is about 0.01, a tenth of the threshold; a multiple of
# the rows that a processor takes at once, so that a model gives each the same, to the bit, as among all pairs
MAX_ROWS = 50_000
# in the metadata of a parquet file that holds drawn pairs: how many they were drawn from
DRAWN_FROM = b"drawn_from"
# there where a sample of a dataset is to be compared with the rest of it
WITH_ITSELF = b"with_itself"
# of a dataset in parts, the number of each part's first row
PART_STARTS = b"part_starts"
# the column beside those of the pairs that a `Draw` keeps
KEY = "_key"


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
    """At most so many of the rows that pass by, the same ones in whatever order and in however many pieces.

    Those are kept whose keys are the least, a key being made of a row's part, its place there and a seed: by chance,
    whatever is in the row, so that a pair that is there often is drawn as often as is its share. The least of all are
    among the least of each piece, so what is kept of pieces can be added up to what would have been kept of all. Up to
    `most` rows all are kept as they came.

    Args:
        seed: of the drawing.
        most: rows to draw, at the most.

    Attributes:
        rows: that have passed by.
    """

    def __init__(self, seed: int, most: int = MAX_ROWS) -> None:
        self.seed, self.most, self.rows = seed, most, 0
        self._tables: list[pa.Table] = []
        self._keys: list[np.ndarray] = []
        # that of the last of so many kept ones; what is above can't be among them
        self._limit: np.uint64 | None = None

    def add(self, pairs: pd.DataFrame, part: int | np.ndarray, places: np.ndarray) -> None:
        """Lets rows pass by.

        Args:
            pairs: of the same columns as all that are added.
            part: which of the dataset's parts they are in, from 0.
            places: where they are in it, from 0: integers below 2**40 of shape (rows,). No row may pass twice.
        """
        self.rows += len(pairs)
        numbers = np.asarray(places, np.uint64) + (np.asarray(part, np.uint64) << np.uint64(40))
        keys = stirred(numbers, self.seed)
        used = slice(None) if self._limit is None else np.flatnonzero(keys < self._limit)
        keys = keys[used]
        if len(keys):
            self._keep(as_text(pairs.iloc[used]), keys)

    def merge(self, other: Draw) -> None:
        """Adds rows that another one has kept, with the same seed and `most`; those that passed it by come next."""
        self.rows += other.rows
        for table, keys in zip(other._tables, other._keys, strict=True):
            self._keep(table, keys)

    def table(self) -> pa.Table:
        """What is drawn: in the order in which they came where that is all rows, else in that of their keys.

        Its metadata has how many rows there were; see `drawn_from`.
        """
        import pyarrow as pa

        if self.rows > self.most:
            self._settle()
        return _noted_with(pa.concat_tables(self._tables), self.rows)

    def save(self, path: Path) -> None:
        """Writes what is kept to a parquet file; rows have passed by."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = self.table().append_column(KEY, pa.array(np.concatenate(self._keys)))
        with written_whole(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: Path, seed: int, most: int = MAX_ROWS) -> Draw:
        """What one of the same seed and `most` wrote with `save`."""
        import pyarrow.parquet as pq

        found = cls(seed, most)
        table = pq.read_table(path)
        found.rows = drawn_from(table)
        found._keys = [table[KEY].to_numpy()]
        found._tables = [table.drop_columns([KEY])]
        return found

    def _keep(self, table: pa.Table, keys: np.ndarray) -> None:
        self._tables.append(table)
        self._keys.append(keys)
        # so few that sorting them again doesn't count
        if self.rows > self.most and sum(map(len, self._keys)) > 2 * self.most:
            self._settle()

    def _settle(self) -> None:
        """Leaves the first `most` rows."""
        import pyarrow as pa

        keys = np.concatenate(self._keys)
        order = np.argsort(keys)[: self.most]
        self._tables = [pa.concat_tables(self._tables).take(pa.array(order))]
        self._keys = [keys[order]]
        if len(order) == self.most:
            self._limit = keys[order[-1]]


def stirred(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Other numbers in their places, different ones for different ones: uint64 of shape (rows,) (SplitMix64's)."""
    mixed = numbers + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
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
    notes = pq.read_metadata(path).metadata or {}
    starts = np.array(json.loads(notes.get(PART_STARTS, b"[0]")))
    draw = Draw(seed, MAX_ROWS)
    for frame in batches(path, what="drawn from"):
        # the last of those that begin there: the others have no rows
        part = np.searchsorted(starts, frame.index, side="right") - 1
        draw.add(frame, part, frame.index.to_numpy() - starts[part])
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
