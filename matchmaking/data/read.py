"""Reading client-lawyer pairs: what a parser would change without a word is refused, with its line or row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.data.batches import Progress
from matchmaking.data.csv_rows import CsvRows
from matchmaking.data.parquet_rows import ParquetRows, is_parquet, tell_exact
from matchmaking.data.parts import PARQUET, parts_of
from matchmaking.data.problems import Problems, Wrong
from matchmaking.data.schema import CATEGORICAL, COLUMNS, FEATURES, INTEGERS, TARGET


def read_pairs(path: Path, *, target: bool = True, source: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Reads and checks client-lawyer pairs; `open_pairs` for many.

    Args:
        path: a CSV file (plain or gzip), a Parquet file, or a folder of either, in parts that are read in the order of
            their names.
        target: whether `match` must be present.
        source: what to call the dataset in an error message; the path where not given.

    Returns:
        The pairs, known columns only and in the order of `COLUMNS`, integers as int64, categories as str; and the
        names of the extra columns that were ignored. The same rows give the same, whatever the format.

    Raises:
        InputError: it cannot be read as such a dataset. The message names the dataset, the column and the first
            offending rows: of a CSV file by their lines, of a Parquet file by their numbers from 1; with the part that
            they are in.
    """
    parts, extra = open_pairs(path, target=target, source=source)
    frame = pd.concat([part.astype(dict.fromkeys(CATEGORICAL, object)) for part in parts])
    return frame, extra


def open_pairs(
    path: Path, *, target: bool = True, source: str | None = None, starts: list[int] | None = None
) -> tuple[Iterator[pd.DataFrame], list[str]]:
    """`read_pairs` in pieces, so that no more than one has to be held: whatever the size of the dataset.

    Args:
        path: as there, as are `target` and `source`.
        target: likewise.
        source: likewise.
        starts: gets the number of each part's first row, while the iterator comes to them.

    Returns:
        An iterator over the pairs, with an index that goes on from piece to piece, and categories as Categorical; and
        the names of the extra columns. What is wrong with the rows is raised when all of them were looked at: until it
        has ended nothing is known to be right.

    Raises:
        InputError: see `read_pairs`; of the files as such here, of their rows by the iterator.
    """
    name = source or str(path)
    dataset = _Dataset(path, name, COLUMNS if target else FEATURES)
    if starts is not None:
        dataset.starts = starts
    extra = [column for file in dataset.files for column in file.names if column not in COLUMNS]
    # those of one file as they are, of several each once
    return dataset.rows(), extra if len(dataset.files) == 1 else [*dict.fromkeys(extra)]


class _Dataset:
    """The files of a dataset, one after the other.

    Args:
        path: the file, or the folder of its parts.
        name: what to call it in messages.
        wanted: the columns that must be there.

    Raises:
        InputError: one of them is no such file, or they don't have the same columns of ours.
    """

    def __init__(self, path: Path, name: str, wanted: tuple[str, ...]) -> None:
        self.name = name
        # a folder's files, as messages call them; of a file there is nothing more to say
        self.called: list[str] = []
        if not path.is_dir():
            self.files = [open_file(path, name, wanted, parquet=path.is_file() and is_parquet(path))]
        else:
            parts = parts_of(path, name)
            self.called = [visible(part) for part in parts]
            self.files = [
                open_file(path / part, f"{visible(part)} in {name}", wanted, parquet=part.lower().endswith(PARQUET))
                for part in parts
            ]
        self.kept = [column for column in COLUMNS if column in self.files[0].names]
        for called, file in zip(self.called, self.files, strict=False):
            # of those that are wanted none is missing
            check_same_target(name, (self.called[0], TARGET in self.kept), (called, TARGET in file.names))
        tell_exact(file for file in self.files if isinstance(file, ParquetRows))
        self.starts: list[int] = []

    def rows(self) -> Iterator[pd.DataFrame]:
        """The pairs; see `open_pairs`."""
        found, wrong = Problems(), Wrong()
        progress = Progress("read")
        for file in self.files:
            self.starts.append(progress.rows)
            for part in file.parts(progress.rows, found):
                if not found.found:
                    wrong.look(part)
                if not found.found and not wrong.found:
                    yield typed(part, self.kept)
                progress.add(len(part))
        if not progress.rows:
            raise no_row(self.name, parts=bool(self.called))
        found.tell(self.name, self.places, ["(none)", *self.kept])
        wrong.tell(self.name, self.places)

    def places(self, rows: list[int]) -> list[str]:
        """What to call rows, by their numbers in the dataset from 0, in order."""
        if not self.called:
            return self.files[0].places(rows)
        told = []
        in_file: dict[int, list[int]] = {}
        for row in rows:
            # the last of those that begin there: the others have no rows
            number = bisect_right(self.starts, row) - 1
            in_file.setdefault(number, []).append(row - self.starts[number])
        for number, inside in in_file.items():
            told += [f"{place} of {self.called[number]}" for place in self.files[number].places(inside)]
        return told


def typed(part: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Rows in which nothing is wrong, as `open_pairs` gives them: these columns."""
    return part[columns].astype({column: "int64" for column in part if column in INTEGERS})


def no_row(name: str, *, parts: bool) -> InputError:
    """What is wrong with a dataset without a row."""
    return InputError(f"{name}: there is a header but no row" + " in any part" * parts)


def check_same_target(name: str, first: tuple[str, bool], other: tuple[str, bool]) -> None:
    """Refuses parts of which one has the column `match` and the other hasn't.

    Args:
        name: of the dataset.
        first: what to call its first part, and whether that has it.
        other: the same of another one.

    Raises:
        InputError: they differ.
    """
    if first[1] != other[1]:
        held, lacks = (first[0], other[0]) if first[1] else (other[0], first[0])
        raise InputError(f"{name}: {held} has the column '{TARGET}', {lacks} hasn't; all parts have it or none")


def open_file(path: Path, name: str, wanted: tuple[str, ...], *, parquet: bool) -> CsvRows | ParquetRows:
    """One file of a dataset.

    Args:
        path: where it is.
        name: what to call it in messages.
        wanted: the columns that must be there.
        parquet: whether it is to be read as Parquet; else as CSV.

    Raises:
        InputError: it is no such file.
    """
    try:
        return ParquetRows(path, name, wanted) if parquet else CsvRows(path, name, wanted)
    except OSError as error:
        raise InputError(f"{name} can't be read: {error.strerror or error}") from error
