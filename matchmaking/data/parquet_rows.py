"""The rows of one Parquet file of pairs, some at a time, and of its columns those of ours alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import for_terminal
from matchmaking.data.cells import as_csv_has_it, category, typed_number
from matchmaking.data.problems import Problems, listed
from matchmaking.data.schema import CATEGORICAL, COLUMNS, INTEGERS, NUMERIC, TARGET

# the first bytes of a file, plain and with an encrypted footer
MAGIC, ENCRYPTED = b"PAR1", b"PARE"
# rows at a time
CHUNK = 100_000
# bytes of a column read at a time: a row group may be as large as the file
BUFFER = 1 << 20
# numbers to look at for how a dataset's were made, and the share of them that as CSV would be others: of numbers as
# somebody wrote them 6 to 40 % a column, of such that a CSV parser (pandas') made 0 to 1 %
SAMPLE, EXACT_FROM = 20_000, 0.03
# that may be true or false as well
FLAGS = ("availability", TARGET)


def is_parquet(path: Path) -> bool:
    """Whether a file begins as a Parquet file does, whatever its name is."""
    with path.open("rb") as file:
        return file.read(4) in (MAGIC, ENCRYPTED)


class ParquetRows:
    """A Parquet file with the columns that are wanted, of types that leave no doubt.

    Args:
        path: the file.
        name: what to call it in messages.
        wanted: the columns that must be there.

    Attributes:
        names: of its columns.
        exact: what `parts` takes its numbers for; see `are_exact`.

    Raises:
        InputError: it is no such file.
    """

    def __init__(self, path: Path, name: str, wanted: tuple[str, ...]) -> None:
        self.path, self.name, self.exact = path, name, False
        with path.open("rb") as file:
            start = file.read(4)
        if start == ENCRYPTED:
            raise InputError(f"{name} is an encrypted Parquet file; give it decrypted")
        if start != MAGIC:
            raise InputError(f"{name} is no Parquet file, whatever its name says; was it written to its end?")
        with self._opened() as file:
            schema = file.schema_arrow
        self.names = [str(column).strip() for column in schema.names]
        missing = [column for column in wanted if column not in self.names]
        if missing:
            raise InputError(f"{name}: column {listed(missing)} is missing; the file has {listed(self.names)}")
        ours = [column for column in COLUMNS if column in self.names]
        if repeated := [column for column in ours if self.names.count(column) > 1]:
            raise InputError(f"{name}: the file has {listed(repeated)} more than once; keep one of each")
        # as the file spells each
        self._spelt = {column: schema.names[self.names.index(column)] for column in ours}
        for column, spelt in self._spelt.items():
            _check_type(name, column, schema.field(spelt).type)

    def places(self, rows: list[int]) -> list[str]:
        """What to call rows, by their numbers in the file."""
        return [f"row {row + 1}" for row in rows]

    def parts(self, offset: int, found: Problems) -> Iterator[pd.DataFrame]:
        """The rows, some at a time, as of `CsvRows.parts`."""
        first = offset
        # a dictionary stays one: few texts may stand in many rows, and be long
        texts = [self._spelt[column] for column in CATEGORICAL]
        with self._opened(texts) as file:
            for batch in file.iter_batches(CHUNK, columns=[*self._spelt.values()]):
                columns: dict[str, Any] = {}
                for name, spelt in self._spelt.items():
                    column = batch.column(spelt)
                    if name in CATEGORICAL:
                        columns[name] = category(name, column, first, found)
                    else:
                        columns[name] = typed_number(name, column, first, found, exact=self.exact)
                if batch.num_rows:
                    yield pd.DataFrame(columns, index=pd.RangeIndex(first, first + batch.num_rows))
                first += batch.num_rows

    def sample(self) -> np.ndarray:
        """Some of its numbers that have a fraction, from its first rows, float64."""
        names = {name: spelt for name, spelt in self._spelt.items() if name in NUMERIC and name not in INTEGERS}
        with self._opened() as file:
            batch = next(file.iter_batches(SAMPLE // len(names), columns=[*names.values()]), None)
            if batch is None:
                return np.empty(0)
            read = [typed_number(name, batch.column(spelt), 0, Problems()) for name, spelt in names.items()]
        return np.concatenate(read)

    @contextmanager
    def _opened(self, dictionaries: Iterable[str] = ()) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(
                self.path,
                read_dictionary=[*dictionaries],
                buffer_size=BUFFER,
                pre_buffer=False,
                page_checksum_verification=True,
            ) as file:
                yield file
        # InputError is none of these
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            reason = for_terminal(str(error).strip().partition("\n")[0])[:200]
            raise InputError(
                f"{self.name}: the Parquet file is truncated or damaged ({reason}); write or download it again"
            ) from error


def are_exact(files: Iterable[ParquetRows]) -> bool:
    """Whether the numbers of a dataset are the nearest ones to what was written, and not a CSV parser's of it.

    A warehouse's are; those of a CSV file that pandas has made Parquet are what it is read as here already.
    """
    found: list[np.ndarray] = []
    for file in files:
        found.append(file.sample())
        if sum(map(len, found)) >= SAMPLE:
            break
    values = np.concatenate(found)
    values = values[np.isfinite(values)]
    return bool(len(values)) and float((as_csv_has_it(values) != values).mean()) > EXACT_FROM


def _check_type(name: str, column: str, given: Any) -> None:
    """Refuses a column of a type that holds something else, or of which one would have to guess what it means."""
    import pyarrow as pa

    kind = given.value_type if pa.types.is_dictionary(given) else given
    if pa.types.is_null(kind):
        return  # told as missing values
    if column in CATEGORICAL:
        good = any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
        wanted = "text"
    else:
        good = any(test(kind) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)) or (
            column in FLAGS and pa.types.is_boolean(kind)
        )
        wanted = "whole numbers are" if column in INTEGERS else "numbers are"
    if not good:
        wanted = wanted if wanted.endswith("are") else f"{wanted} is"
        raise InputError(f"{name}: column '{column}' is of type {for_terminal(given)[:80]}, but {wanted} wanted")
