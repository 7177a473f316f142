"""What a dataset holds: rows, matches, categories the model has never seen; and whether it is enough."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.data.hashes import distinct
from matchmaking.data.schema import CATEGORICAL, MIN_PER_CLASS, MIN_ROWS, TARGET

SHOWN_CATEGORIES = 5
# where more of a column is unknown to the encoder, it is another column or another spelling
MOST_UNKNOWN = 0.5


@dataclass(frozen=True)
class DataReport:
    """What was noticed in a dataset that is valid.

    Attributes:
        rows: pairs read.
        positives: pairs with `match` = 1.
        extra_columns: columns we do not know; ignored.
        unseen: for each categorical column, the categories production's encoder does not know, with row counts.
            The service encodes them as all zeros.
        duplicates: rows that repeat an earlier one exactly.
        warnings: what somebody should look at before trusting the result, each in one sentence.
    """

    rows: int
    positives: int
    extra_columns: list[str] = field(default_factory=list)
    unseen: dict[str, dict[str, int]] = field(default_factory=dict)
    duplicates: int = 0
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """What is counted of valid pairs while they pass by, in parts of any size: `describe` needs no more.

    Args:
        known: the encoder's categories by column; None for no encoder.
    """

    def __init__(self, known: dict[str, list[str]] | None) -> None:
        self.known = known or {}
        self.rows = 0
        self.classes: dict[int, int] = {}
        self.unseen: dict[str, dict[str, int]] = {column: {} for column in self.known}
        self.hashes: list[np.ndarray] = []

    def add(self, pairs: pd.DataFrame) -> None:
        """Counts some pairs."""
        self.rows += len(pairs)
        if TARGET in pairs:
            _count(self.classes, pairs[TARGET])
        for column, categories in self.known.items():
            strange = pairs.loc[~pairs[column].isin(categories), column]
            if len(strange):
                _count(self.unseen[column], strange.astype(object))
        self.hashes.append(row_hashes(pairs))

    def counts(self) -> dict[str, Any]:
        """What was counted but for the rows' hashes, as JSON, for `add_counts`; in the order in which values came."""
        return {
            "rows": self.rows,
            "classes": [[int(value), count] for value, count in self.classes.items()],
            "unseen": {column: [*found.items()] for column, found in self.unseen.items()},
        }

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Adds what another one has counted, of pairs that come after these; that one has the same encoder."""
        self.rows += counts["rows"]
        for value, count in counts["classes"]:
            self.classes[value] = self.classes.get(value, 0) + count
        for column, found in counts["unseen"].items():
            for value, count in found:
                self.unseen[column][value] = self.unseen[column].get(value, 0) + count

    def check_enough(self, source: str) -> None:
        """Refuses a dataset that cannot be split into train and test with both classes in each.

        Raises:
            InputError: fewer than `MIN_ROWS` rows, one class only, or fewer than `MIN_PER_CLASS` rows of a class.
        """
        if self.rows < MIN_ROWS:
            raise InputError(f"{source}: {self.rows} rows are too few to split; at least {MIN_ROWS} are needed")
        counts = pd.Series(self.classes).sort_values(ascending=False)
        if len(counts) == 1:
            raise InputError(
                f"{source}: column '{TARGET}' holds one class only ({counts.index[0]}); both 0 and 1 are needed"
            )
        if counts.min() < MIN_PER_CLASS:
            raise InputError(
                f"{source}: column '{TARGET}' has {counts.min()} rows of class {counts.idxmin()}, too few to split; "
                f"at least {MIN_PER_CLASS} are needed"
            )

    def report(self, extra_columns: list[str], duplicates: int | None = None) -> DataReport:
        """What is worth telling about the pairs.

        Args:
            extra_columns: columns we do not know.
            duplicates: rows that repeat an earlier one, where they were counted elsewhere.
        """
        unseen = {}
        warnings = []
        for column, found in self.unseen.items():
            if found:
                counts = pd.Series(found).sort_values(ascending=False)
                unseen[column] = {str(category): int(count) for category, count in counts.items()}
                warnings.append(_unknown(column, unseen[column], self.known[column], self.rows))
        if duplicates is None:
            duplicates = self.rows - distinct(np.concatenate(self.hashes)) if self.hashes else 0
        if duplicates:
            warnings.append(f"{duplicates:,} of {self.rows:,} rows repeat an earlier one exactly")
        return DataReport(self.rows, self.classes.get(1, 0), extra_columns, unseen, duplicates, warnings)


def _count(counts: dict[Any, int], values: pd.Series) -> None:
    """Adds to counts by value, in the order in which they came first."""
    for value, count in values.value_counts(sort=False).items():
        counts[value] = counts.get(value, 0) + int(count)


def row_hashes(pairs: pd.DataFrame) -> np.ndarray:
    """Of equal rows the same number: uint64 of shape (rows,).

    That two of 12 million different rows have the same by chance has a probability of 4 in a million.
    """
    # -0.0 is 0.0
    plain = {
        name: column if name in CATEGORICAL else column.to_numpy(dtype=float) + 0.0 for name, column in pairs.items()
    }
    return pd.util.hash_pandas_object(pd.DataFrame(plain, index=pairs.index), index=False).to_numpy()


def check_enough(pairs: pd.DataFrame, source: str) -> None:
    """`Tally.check_enough` of pairs in one frame."""
    counted = Tally(None)
    counted.add(pairs)
    counted.check_enough(source)


def describe(pairs: pd.DataFrame, extra_columns: list[str], known: dict[str, list[str]] | None) -> DataReport:
    """What is worth telling about valid pairs; `known` holds the encoder's categories by column (None: no encoder)."""
    counted = Tally(known)
    counted.add(pairs)
    return counted.report(extra_columns)


def unknown_shares(report: Mapping[str, Any]) -> dict[str, float]:
    """The share of rows, in (0, 1], whose category the encoder doesn't know, by column.

    Args:
        report: the fields of a `DataReport`.
    """
    return {column: sum(counts.values()) / report["rows"] for column, counts in report["unseen"].items()}


def check_known(report: DataReport, known: dict[str, list[str]] | None, source: str) -> None:
    """Refuses a dataset of which a column says nothing to production's encoder.

    Raises:
        InputError: more than `MOST_UNKNOWN` of a column's values are categories that the encoder doesn't know.
    """
    for column, share in unknown_shares(report.as_dict()).items():
        if known and share > MOST_UNKNOWN:
            told = _unknown(column, report.unseen[column], known[column], report.rows)
            raise InputError(
                f"{source}: {told}; correct the values, or train a first model with encoders of its own from them "
                "(`mlops bootstrap` with another production folder)"
            )


def _unknown(column: str, counts: dict[str, int], known: list[str], rows: int) -> str:
    """A sentence on the categories of a column that the encoder doesn't know, with the spelling that was meant."""
    shown = []
    for category, count in list(counts.items())[:SHOWN_CATEGORIES]:
        meant = likely(category, known)
        shown.append(f"'{visible(category)}' {count:,} rows" + (f" ({visible(meant)}?)" if meant else ""))
    more = f" and {len(counts) - SHOWN_CATEGORIES} more" if len(counts) > SHOWN_CATEGORIES else ""
    unknown = sum(counts.values())
    return (
        f"column '{column}': {unknown:,} of {rows:,} rows ({_percent(unknown / rows)}) have a value that production's "
        f"encoder doesn't know and scores as if empty: {', '.join(shown)}{more}"
    )


def _percent(share: float) -> str:
    return "under 0.1%" if share < 0.001 else f"{share:.1%}"


def likely(category: str, known: list[str]) -> str | None:
    """The known category that was most likely meant; None where none is near."""
    plain = {_plain(value): value for value in known}
    near = difflib.get_close_matches(_plain(category), plain, n=1, cutoff=0.75)
    return plain[near[0]] if near else None


def _plain(text: str) -> str:
    """Letters and digits alone, lower case, without accents."""
    return "".join(char for char in unicodedata.normalize("NFKD", text).casefold() if char.isalnum())
