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
# numbers of 16 digits and more that tell how a column's were made, if that is so much likelier (the log of the ratio):
# where a file is in order of its numbers, the first may be none of those that differ
ENOUGH, SURE = 400, 10
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
        exact: the columns whose numbers `parts` takes for exact; see `tell_exact`.

    Raises:
        InputError: it is no such file.
    """

    def __init__(self, path: Path, name: str, wanted: tuple[str, ...]) -> None:
        self.path, self.name = path, name
        self.exact: frozenset[str] = frozenset()
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
        # of the others there is no doubt: they have few digits, or all that was written
        self._doubtful: list[str] = []
        # as the file spells each
        self._spelt = {column: schema.names[self.names.index(column)] for column in ours}
        for column, spelt in self._spelt.items():
            kind = schema.field(spelt).type
            _check_type(name, column, kind)
            if column in NUMERIC and column not in INTEGERS and str(kind) == "double":
                self._doubtful.append(column)

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
                        columns[name] = category(name, column, first, found, typed=True)
                    else:
                        columns[name] = typed_number(name, column, first, found, exact=name in self.exact)
                if batch.num_rows:
                    yield pd.DataFrame(columns, index=pd.RangeIndex(first, first + batch.num_rows))
                first += batch.num_rows

    def evidence(self) -> dict[str, np.ndarray]:
        """Of columns with numbers of 16 digits and more, how many were looked at and what they tell (`_evidence`)."""
        found: dict[str, np.ndarray] = {}
        for name in self._doubtful:
            counts = np.zeros(2)
            with self._opened() as file:
                for batch in file.iter_batches(CHUNK, columns=[self._spelt[name]]):
                    long = _long(typed_number(name, batch.column(0), 0, Problems()))
                    if len(long):
                        counts += (len(long), _evidence(long))
                    if counts[0] >= ENOUGH and abs(counts[1]) > SURE:
                        break
            if counts[0]:
                found[name] = counts
        return found

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


def tell_exact(files: Iterable[ParquetRows]) -> None:
    """Tells each file of a dataset which of its columns hold the nearest numbers to what was written.

    A warehouse's do; those of a CSV file that pandas has made Parquet hold that parser's, as they are read here anyway.
    A column of a file that has too few numbers to tell goes by the same column of such files, and by the others in it
    where these are too few as well. Where few tell clearly, what lies beside them is not asked.
    """
    files = list(files)
    # of each column of each file, how many numbers there are, and the evidence in them; and their sums
    found: dict[tuple[int, str], np.ndarray] = {}
    by_name: dict[str, np.ndarray] = {}
    by_file: dict[int, np.ndarray] = {}
    total = np.zeros(2)
    for place, file in enumerate(files):
        for name, counts in file.evidence().items():
            found[place, name] = counts
            by_file[place] = by_file.get(place, np.zeros(2)) + counts
            total = total + counts
            if counts[0] < ENOUGH:
                by_name[name] = by_name.get(name, np.zeros(2)) + counts
    exact: dict[int, set[str]] = {}
    for (place, name), own in found.items():
        sums = (own, by_name.get(name, own), by_file[place], total)
        evidence = next((each for each in sums if _clear(each)), total)[1]
        if evidence > 0:
            exact.setdefault(place, set()).add(name)
    for place, file in enumerate(files):
        file.exact = frozenset(exact.get(place, ()))


def _clear(counts: np.ndarray) -> bool:
    """Whether numbers tell how they were made: their count and the evidence in them, shape (2,)."""
    return bool(counts[0] >= ENOUGH or abs(counts[1]) > SURE)


def _evidence(values: np.ndarray) -> float:
    """How much more likely numbers are if they are exact than if a CSV parser made them: the log of the ratio.

    A parser's own are seldom others when it reads them again (0 to 6 %, by their size), exact ones more often (4 to
    98 %). How often at this size is seen in numbers that lie by chance beside these.

    Args:
        values: float64 of 16 digits and more, shape (rows,).
    """
    rng = np.random.default_rng(0)
    near = np.repeat(values, 2)
    near = near + np.spacing(np.abs(near)) * rng.integers(-(1 << 20), 1 << 20, len(near))
    parsed = as_csv_has_it(near)
    others = int((as_csv_has_it(values) != values).sum())
    # never quite impossible
    if_exact = ((parsed != near).sum() + 1) / (len(near) + 2)
    if_parsed = ((as_csv_has_it(parsed) != parsed).sum() + 1) / (len(near) + 2)
    the_same = len(values) - others
    return float(others * np.log(if_exact / if_parsed) + the_same * np.log((1 - if_exact) / (1 - if_parsed)))


def _long(values: np.ndarray) -> np.ndarray:
    """Of numbers, up to `ENOUGH` that have 16 digits or more when written as short as they can be, from all over."""
    # most are ruled out by few operations; of numbers of 10 to 15 digits, some thousand tell that there are such alone
    may = _spread(
        values[np.isfinite(values) & ~((np.abs(values) < 1e6) & (np.round(values, 9) == values))], 10 * ENOUGH
    )
    long = np.array([float(f"{value:.15g}") != value for value in may.tolist()], dtype=bool)
    return _spread(may[long], ENOUGH)


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """So many of them, at even distances; all where there are no more."""
    return values if len(values) <= count else values[np.linspace(0, len(values) - 1, count).astype(int)]


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
