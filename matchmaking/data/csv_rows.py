"""The rows of one CSV file of pairs, some at a time: by Arrow where there is no doubt, by pandas where there is."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.data.batches import ahead
from matchmaking.data.cells import MISSING, category, spelt_number
from matchmaking.data.csv_file import (
    CsvFile,
    broken_gzip,
    check_records,
    check_text,
    lines_of,
    look_at,
    no_header,
)
from matchmaking.data.problems import Problems, listed
from matchmaking.data.schema import CATEGORICAL, COLUMNS

TOO_MANY = "too many"
# rows parsed at a time: as text, they take several times the room of the numbers they become
CHUNK = 100_000
# bytes that Arrow parses at a time
BLOCK = 8 << 20
UNNAMED = "(unnamed)"

# the number of a chunk's first row, and its columns of ours as Arrow's text
Texts = tuple[int, dict[str, Any]]


class CsvRows:
    """A CSV file (plain or gzip) whose header has the columns that are wanted.

    Args:
        path: the file.
        name: what to call it in messages.
        wanted: the columns that must be there.

    Attributes:
        names: those of the header.

    Raises:
        InputError: it is no such file.
    """

    def __init__(self, path: Path, name: str, wanted: tuple[str, ...]) -> None:
        compression, before, self._blank = look_at(path, name)
        self.file = CsvFile(path, name, compression)
        quoted = check_text(self.file)
        header = next(_read(self.file, 1, header=None))
        self.names = [str(value).strip() for value in header.iloc[0].fillna(UNNAMED)]
        missing = [column for column in wanted if column not in self.names]
        if missing:
            raise no_header(self.file, self.names, wanted) or InputError(
                f"{name}: column {listed(missing)} is missing; the header has {listed(self.names)}"
            )
        # Excel writes columns without a name or a value where there once were some
        repeated = sorted({column for column in self.names if self.names.count(column) > 1 and column != UNNAMED})
        if repeated:
            raise InputError(f"{name}: the header names {listed(repeated)} more than once; keep one of each")
        if quoted:
            check_records(self.file)
        # Arrow reads what leaves no doubt, in a fraction of the time
        self._plain = not (quoted or before)

    def places(self, rows: list[int]) -> list[str]:
        """What to call rows, by their numbers in the file."""
        return [f"line {line}" for line in lines_of(self.file, rows)]

    def parts(self, offset: int, found: Problems) -> Iterator[pd.DataFrame]:
        """The rows, some at a time: Categorical, and float64 of those numbers whose meaning is beyond doubt.

        Args:
            offset: the number of the first row.
            found: takes the rows that can't be read.
        """
        for first, texts in self._chunks(offset, found):
            columns: dict[str, Any] = {}
            for name, text in texts.items():
                columns[name] = (category if name in CATEGORICAL else spelt_number)(name, text, offset + first, found)
            rows = len(next(iter(texts.values())))
            yield pd.DataFrame(columns, index=pd.RangeIndex(offset + first, offset + first + rows))

    def _chunks(self, offset: int, found: Problems) -> Iterator[Texts]:
        """The rows as text, some at a time: by Arrow as far as it goes, by pandas from there on."""
        import pyarrow as pa

        done = 0
        if self._plain:
            try:
                for first, texts in ahead(self._read_plain()):
                    yield first, texts
                    done = first + len(next(iter(texts.values())))
                return
            except pa.ArrowInvalid:
                # too many fields or too few, or what only Arrow minds: pandas knows what it is
                pass
        yield from self._read_any(offset, found, done)

    def _read_plain(self) -> Iterator[Texts]:
        """A file without a quotation mark, by Arrow.

        Raises:
            ArrowInvalid: not every row has as many fields as the header.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import csv as arrow_csv

        numbers = [str(place) for place in range(len(self.names))]
        places = {column: str(self.names.index(column)) for column in COLUMNS if column in self.names}
        reader = arrow_csv.open_csv(
            pa.input_stream(str(self.file.path), compression=self.file.compression),
            arrow_csv.ReadOptions(column_names=numbers, skip_rows=1, block_size=BLOCK),
            arrow_csv.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=True),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(numbers, pa.string()),
                include_columns=[*places.values()],
                null_values=[*MISSING],
                strings_can_be_null=True,
                check_utf8=False,
            ),
        )
        first = 0
        for batch in reader:
            texts = {column: batch.column(place) for column, place in places.items()}
            for column, text in texts.items():
                # a space before a field is none of it, as for pandas
                if pc.any(pc.starts_with(text, " ")).as_py():
                    bare = pc.replace_substring_regex(text, "^ +", "")
                    none = pc.is_in(bare, pa.array([*MISSING]))
                    texts[column] = pc.if_else(none, pa.scalar(None, pa.string()), bare)
            if batch.num_rows:
                yield first, texts
            first += batch.num_rows

    def _read_any(self, offset: int, found: Problems, done: int) -> Iterator[Texts]:
        """Any file, by pandas, from row `done` on."""
        import pyarrow as pa

        names = self.names
        # one column more than the header names: what stands in it is a row with too many fields
        options = {"names": [*range(len(names)), TOO_MANY], "index_col": False, "skiprows": self._blank + 1}
        last = max(place for place, column in enumerate(names) if column != UNNAMED)
        # a row that lacks a field in the middle has its last one empty; one of ours is never empty
        may_lack = names[last] not in COLUMNS
        for whole in _read(self.file, CHUNK, **options):
            chunk = whole[whole.index >= done]
            if chunk.empty:
                continue
            many = chunk[TOO_MANY].set_axis(chunk.index + offset)
            found.add("(none)", f"more fields than the header's {len(names)}", many.notna(), many)
            if may_lack and chunk[last].isna().any():
                check_records(self.file, least=last + 1)
                may_lack = False
            yield (
                int(chunk.index[0]),
                {
                    column: pa.array(chunk[names.index(column)], type=pa.string(), from_pandas=True)
                    for column in COLUMNS
                    if column in names
                },
            )


def _read(file: CsvFile, rows: int, **options: Any) -> Iterator[pd.DataFrame]:
    """The file as text, so many rows at a time."""
    options |= {"encoding": "utf-8-sig", "dtype": str, "skipinitialspace": True}
    options |= {"na_values": [*MISSING], "keep_default_na": False}
    try:
        with pd.read_csv(file.path, compression=file.compression, chunksize=rows, **options) as chunks:
            yield from chunks
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise broken_gzip(file.name, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise InputError(f"{file.name} can't be read as CSV: {' '.join(str(error).split())}") from error
