"""Parquet files of pairs in batches of rows: what a step reads, it needn't hold."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from matchmaking.base.files import written_whole
from matchmaking.data.schema import CATEGORICAL

if TYPE_CHECKING:
    import pyarrow as pa

# a multiple of the rows that a model is asked at once: in batches or in one piece, it gets the same
BATCH = 16 * 8192
# seconds from which a person wants to know that something happens, and between two lines of it
SAID_AFTER = 2.0
SAID_EVERY = 10.0

Item = TypeVar("Item")


class Progress:
    """Says how many rows are done, and how many a second, where it takes long; nothing where it doesn't.

    Args:
        what: is done to them, as "scored".
        total: rows there are; 0 where that isn't known.
    """

    def __init__(self, what: str, total: int = 0) -> None:
        self.what, self.total, self.rows = what, total, 0
        self.begun = time.monotonic()
        self.next = SAID_AFTER

    def add(self, rows: int) -> None:
        """Counts rows that are done."""
        self.rows += rows
        took = time.monotonic() - self.begun
        if took >= self.next:
            self.next = took + SAID_EVERY
            of = f" of {self.total:,}" if self.total else ""
            print(f"{self.what} {self.rows:,}{of} rows, {self.rows / took:,.0f} a second", flush=True)


def ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The same items, each made by a thread while the one before is used: Arrow and numpy leave the interpreter free.

    One item more is held. What making one raises is raised where it would have been given.
    """
    end = object()
    coming = iter(items)
    with ThreadPoolExecutor(1) as thread:
        following: Future[Any] = thread.submit(next, coming, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, coming, end)
            yield item


def rows_in(path: Path) -> int:
    """How many rows a parquet file has; they are not read."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def batches(path: Path, columns: Sequence[str] | None = None, what: str = "read") -> Iterator[pd.DataFrame]:
    """The rows of a parquet file, `BATCH` at a time, in order.

    Args:
        path: the file.
        columns: those to read; None for all.
        what: what is done with them, for people who wait.

    Returns:
        Frames with an index that goes on from each to the next, and categories of `CATEGORICAL` as a Categorical: the
        few texts there are, once.
    """
    first = 0
    for batch in arrow_batches(path, columns, what):
        frame = batch.to_pandas()
        frame.index = pd.RangeIndex(first, first + len(frame))
        first += len(frame)
        yield frame


def whole(path: Path) -> pd.DataFrame:
    """All rows of a parquet file, as `batches` gives them, with the frame's `attrs`."""
    table = _whole(path)
    frame = table.to_pandas()
    frame.attrs = json.loads((table.schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
    return frame


def arrow_batches(path: Path, columns: Sequence[str] | None = None, what: str = "read") -> Iterator[pa.RecordBatch]:
    """`batches` as Arrow has them."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, read_dictionary=list(CATEGORICAL)) as file:
        progress = Progress(what, file.metadata.num_rows)
        for batch in ahead(file.iter_batches(BATCH, columns=None if columns is None else list(columns))):
            yield batch
            progress.add(batch.num_rows)


def rebatched(frames: Iterator[pd.DataFrame], rows: int) -> Iterator[pd.DataFrame]:
    """The same rows in frames of so many; the last has those that are left, and the index is a frame's own."""
    held: list[pd.DataFrame] = []
    while True:
        frame = next(frames, None)
        if frame is not None:
            held.append(frame)
        if sum(map(len, held)) >= rows or (frame is None and held):
            whole = pd.concat(held, ignore_index=True)
            last = len(whole) if frame is None else len(whole) - len(whole) % rows
            for start in range(0, last, rows):
                yield whole.iloc[start : min(start + rows, last)]
            held = [whole.iloc[last:]] if last < len(whole) else []
        if frame is None:
            return


def pick(path: Path, targets: Mapping[Path, tuple[np.ndarray, dict[str, Any]]]) -> None:
    """Writes some rows of a parquet file to others, in the order that is asked for.

    Args:
        path: the file.
        targets: by file to write, the numbers of its rows, and what pandas shall find as the frame's `attrs`.
    """
    import pyarrow as pa

    in_order = all((np.diff(rows) > 0).all() for rows, _ in targets.values())
    with ExitStack() as stack:
        outs = {target: stack.enter_context(writing(target)) for target in targets}
        # where the order may be any, all of it is held: texts as a few numbers a row
        for first, table in _in_batches(path) if in_order else [(0, _whole(path))]:
            for target, (rows, attrs) in targets.items():
                notes = dict(table.schema.metadata or {})
                if attrs:
                    notes[b"PANDAS_ATTRS"] = json.dumps(attrs).encode()
                noted = table.replace_schema_metadata(notes)
                if in_order:
                    rows = rows[slice(*np.searchsorted(rows, [first, first + len(table)]))]
                # of no rows, there is a file with none
                for start in range(0, max(1, len(rows)), BATCH):
                    outs[target].write(noted.take(pa.array(rows[start : start + BATCH] - first)))


def _in_batches(path: Path) -> Iterator[tuple[int, pa.Table]]:
    import pyarrow as pa

    first = 0
    for batch in arrow_batches(path, what="split"):
        yield first, pa.Table.from_batches([batch])
        first += batch.num_rows


def _whole(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    table = pq.read_table(path, read_dictionary=list(CATEGORICAL), pre_buffer=False)
    return table.unify_dictionaries().combine_chunks()


class Writer:
    """Writes a parquet file batch by batch, by a thread while its caller makes the next ones; see `writing`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: pa.parquet.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._thread = ThreadPoolExecutor(1)
        # the row group that is being written: there is one at a time, so that no more are held
        self._written: Future[None] | None = None

    def write(self, rows: pd.DataFrame | pa.Table) -> None:
        """Adds rows; the first ones say which columns and types there are, and what pandas notes beside them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(rows, preserve_index=False) if isinstance(rows, pd.DataFrame) else rows
        if self._writer is None:
            schema = table.schema
            if isinstance(rows, pd.DataFrame):
                texts = {name: object for name in rows if isinstance(rows[name].dtype, pd.CategoricalDtype)}
                schema = pa.Schema.from_pandas(rows.head(1).astype(texts), preserve_index=False)
                if rows.attrs:
                    noted = {**(schema.metadata or {}), b"PANDAS_ATTRS": json.dumps(rows.attrs).encode()}
                    schema = schema.with_metadata(noted)
            # few texts are written as they are held, each once and then by its number; that the file says so isn't
            # stored in it, so they are read as texts, whatever they were
            encoded = [
                field.with_type(pa.dictionary(pa.int32(), pa.string()))
                if field.name in CATEGORICAL or pa.types.is_dictionary(field.type)
                else field
                for field in schema
            ]
            # read in less than half of the time that Parquet's usual Snappy takes, and as small
            self._writer = pq.ParquetWriter(
                self.path, pa.schema(encoded, metadata=schema.metadata), compression="lz4", store_schema=False
            )
            self._writer.add_key_value_metadata(schema.metadata or {})
        self._held.append(_encoded(table, self._writer.schema))
        if (rows_held := sum(map(len, self._held))) >= BATCH:
            held = pa.concat_tables(self._held)
            # row groups of BATCH rows are what `arrow_batches` gives again
            whole = rows_held - rows_held % BATCH
            for first in range(0, whole, BATCH):
                self._write(held.slice(first, BATCH))
            self._held = [held.slice(whole)] if whole < rows_held else []

    def _write(self, rows: pa.Table) -> None:
        """Has the thread write a row group, once it has written the last one.

        Raises:
            OSError: that one couldn't be written.
        """
        writer = self._writer
        assert writer is not None
        if self._written is not None:
            self._written.result()
        self._written = self._thread.submit(lambda: writer.write_table(_row_group(rows)))

    def note(self, name: bytes, text: bytes) -> None:
        """Adds to the file's metadata, once there are rows."""
        if self._writer is not None:
            self._writer.add_key_value_metadata({name: text})

    def close(self) -> None:
        """Writes what is held still."""
        import pyarrow as pa

        with self._thread:
            if self._writer is None:
                return
            if self._held:
                self._write(pa.concat_tables(self._held))
            if self._written is not None:
                self._written.result()
            self._writer.close()


def _row_group(table: pa.Table) -> pa.Table:
    """A table with one list of texts a column, in order and of those that are there.

    Of several lists Parquet would write each text again. And the same rows are the same bytes, whatever pieces they
    came in.
    """
    import pyarrow as pa

    columns = []
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            encoded = column.unify_dictionaries().combine_chunks()
            texts = encoded.dictionary.to_pylist()
            used = sorted(encoded.indices.drop_null().unique().to_pylist(), key=texts.__getitem__)
            place = np.zeros(len(texts), np.int32)
            place[used] = np.arange(len(used))
            indices = pa.array(place).take(encoded.indices)
            column = pa.DictionaryArray.from_arrays(indices, pa.array([texts[code] for code in used], pa.string()))
        columns.append(column)
    return pa.table(columns, schema=table.schema)


def _encoded(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of that schema, in which texts may be encoded with other integers, or not yet."""
    import pyarrow as pa

    def column(field: pa.Field) -> pa.ChunkedArray:
        found = table.column(field.name)
        if not pa.types.is_dictionary(field.type):
            return found.cast(field.type)
        if not pa.types.is_dictionary(found.type):
            return found.cast(pa.string()).dictionary_encode()
        chunks = [
            pa.DictionaryArray.from_arrays(chunk.indices.cast(pa.int32()), chunk.dictionary.cast(pa.string()))
            for chunk in found.chunks
        ]
        return pa.chunked_array(chunks, type=field.type)

    return pa.table([column(field) for field in schema], schema=schema)


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """A parquet file to write batch by batch, whole or not at all; nothing is there where nothing was written."""
    import pyarrow.parquet  # noqa: F401 - the writer's

    with written_whole(path) as temporary:
        writer = Writer(temporary)
        try:
            yield writer
        finally:
            writer.close()
