"""What a dataset holds: rows, matches, categories the model has never seen; and whether it is enough."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.data.schema import MIN_PER_CLASS, MIN_ROWS, TARGET

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


def check_enough(pairs: pd.DataFrame, source: str) -> None:
    """Refuses a dataset that cannot be split into train and test with both classes in each.

    Raises:
        InputError: fewer than `MIN_ROWS` rows, one class only, or fewer than `MIN_PER_CLASS` rows of a class.
    """
    if len(pairs) < MIN_ROWS:
        raise InputError(f"{source}: {len(pairs)} rows are too few to split; at least {MIN_ROWS} are needed")
    counts = pairs[TARGET].value_counts()
    if len(counts) == 1:
        raise InputError(
            f"{source}: column '{TARGET}' holds one class only ({counts.index[0]}); both 0 and 1 are needed"
        )
    if counts.min() < MIN_PER_CLASS:
        raise InputError(
            f"{source}: column '{TARGET}' has {counts.min()} rows of class {counts.idxmin()}, too few to split; "
            f"at least {MIN_PER_CLASS} are needed"
        )


def describe(pairs: pd.DataFrame, extra_columns: list[str], known: dict[str, list[str]] | None) -> DataReport:
    """What is worth telling about valid pairs; `known` holds the encoder's categories by column (None: no encoder)."""
    unseen = {}
    warnings = []
    for column, categories in (known or {}).items():
        counts = pairs.loc[~pairs[column].isin(categories), column].value_counts()
        if len(counts):
            unseen[column] = {str(category): int(count) for category, count in counts.items()}
            warnings.append(_unknown(column, unseen[column], categories, len(pairs)))
    duplicates = int(pairs.duplicated().sum())
    if duplicates:
        warnings.append(f"{duplicates:,} of {len(pairs):,} rows repeat an earlier one exactly")
    positives = int(pairs[TARGET].sum()) if TARGET in pairs else 0
    return DataReport(len(pairs), positives, extra_columns, unseen, duplicates, warnings)


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
