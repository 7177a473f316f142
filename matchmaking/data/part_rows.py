"""One part of a dataset alone, where others read the other parts: its rows, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from matchmaking.base.escape import visible
from matchmaking.data.parquet_rows import ParquetRows, is_parquet, tell_exact
from matchmaking.data.parts import PARQUET
from matchmaking.data.problems import Problems, Wrong, as_json
from matchmaking.data.read import open_file, typed
from matchmaking.data.schema import COLUMNS, FEATURES


class PartRows:
    """A part of a dataset, or the whole of one that is a single file; messages are those of `read.open_pairs`.

    Args:
        path: where it is here.
        part: its name among the parts; empty for a single file.
        source: what to call the dataset.
        labelled: whether the `match` column must be there.

    Attributes:
        kept: the columns of ours that it has.
        extra: names of its columns that aren't ours.
        rows: so far.

    Raises:
        InputError: it is no such file.
    """

    def __init__(self, path: Path, part: str, source: str, *, labelled: bool = True) -> None:
        self._called = visible(part)
        name = f"{self._called} in {source}" if part else source
        parquet = part.lower().endswith(PARQUET) if part else path.is_file() and is_parquet(path)
        self._file = open_file(path, name, COLUMNS if labelled else FEATURES, parquet=parquet)
        if isinstance(self._file, ParquetRows):
            tell_exact([self._file])
        self.kept = [column for column in COLUMNS if column in self._file.names]
        self.extra = [column for column in self._file.names if column not in COLUMNS]
        self.rows = 0
        self._found, self._wrong = Problems(), Wrong()

    @property
    def right(self) -> bool:
        """Whether nothing is wrong with the rows so far."""
        return not (self._found.found or self._wrong.found)

    def frames(self) -> Iterator[pd.DataFrame]:
        """The rows, some at a time, up to the first that are wrong; all are looked at.

        Raises:
            InputError: it can't be read to its end.
        """
        for part in self._file.parts(0, self._found):
            if not self._found.found:
                self._wrong.look(part)
            if self.right:
                yield typed(part, self.kept)
            self.rows += len(part)

    def problems(self) -> dict[str, Any]:
        """What is wrong with the rows, for `problems.tell_together`."""
        return as_json(self._found, self._wrong, self._places)

    def _places(self, rows: list[int]) -> list[str]:
        of = f" of {self._called}" if self._called else ""
        return [f"{place}{of}" for place in self._file.places(rows)]
