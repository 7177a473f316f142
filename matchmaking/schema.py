"""The dataset: its columns, their allowed values, and the reading and checking of a file of client-lawyer pairs."""

from __future__ import annotations

import csv
import gzip
import hashlib
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from matchmaking.errors import InputError

if TYPE_CHECKING:
    import pandera.pandas as pa

Compression = Literal["gzip"] | None

TARGET = "match"
CATEGORICAL = ("case_type", "location", "preferred_language", "specialization", "city")
# where the domain sets no upper limit: anything above is a unit or a column mixed up, and would not fit an integer
NO_LIMIT = 1e9
# inclusive bounds
NUMERIC: dict[str, tuple[float, float]] = {
    "urgency_level": (1, 5),
    "budget": (0, NO_LIMIT),
    "case_complexity_score": (0, 1),
    "experience": (0, NO_LIMIT),
    "success_rate": (0, 1),
    "rating": (1, 5),
    "consultation_fee": (0, NO_LIMIT),
    "availability": (0, 1),
}
INTEGERS = ("urgency_level", "budget", "consultation_fee", "availability", TARGET)
COLUMNS = (
    "case_type",
    "location",
    "urgency_level",
    "budget",
    "preferred_language",
    "case_complexity_score",
    "specialization",
    "city",
    "experience",
    "success_rate",
    "rating",
    "consultation_fee",
    "availability",
    TARGET,
)
FEATURES = COLUMNS[:-1]
# the columns a metric is broken down by: who the client is and what they need
SLICES = ("case_type", "location", "preferred_language")

# enough of each class for a stratified 80/20 split whose test part can carry a metric
MIN_ROWS = 50
MIN_PER_CLASS = 5
SHOWN_ROWS = 5
TOO_MANY = "too many"


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
    """

    rows: int
    positives: int
    extra_columns: list[str] = field(default_factory=list)
    unseen: dict[str, dict[str, int]] = field(default_factory=dict)
    duplicates: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes in hex: what DVC 3 records as a dataset's version."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pair_schema(target: bool = True) -> pa.DataFrameSchema:
    """The pandera schema of a dataset; `target` says whether `match` must be there."""
    import pandera.pandas as pa

    def whole(values: pd.Series) -> pd.Series:
        return values == np.floor(values)

    columns: dict[str, pa.Column] = {
        name: pa.Column(str, pa.Check.str_length(min_value=1, error="an empty text")) for name in CATEGORICAL
    }
    for name, (low, high) in {**NUMERIC, **({TARGET: (0, 1)} if target else {})}.items():
        limits = f"outside {low}..{high:g}"
        checks = [
            pa.Check(np.isfinite, error="an infinite value"),
            pa.Check.in_range(low, high, error=limits),
        ]
        if name in INTEGERS:
            checks.append(pa.Check(whole, error="not a whole number"))
        columns[name] = pa.Column(float, checks)
    return pa.DataFrameSchema(columns)


def read_pairs(path: Path, *, target: bool = True, source: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Reads and checks a CSV file (plain or gzip) of client-lawyer pairs.

    Args:
        path: the file.
        target: whether `match` must be present.
        source: what to call the file in an error message; the path where not given.

    Returns:
        The pairs, known columns only and in the order of `COLUMNS`, integers as int64, categories as str; and the
        names of the extra columns that were ignored.

    Raises:
        InputError: the file cannot be read as such a dataset. The message names the file, the column and the
            first offending rows, numbered as the lines of the file.
    """
    name = source or str(path)
    compression, blank = _look_at(path, name)
    header = _read(path, name, compression, header=None, dtype=str, rows=1)
    names = [str(value).strip() for value in header.iloc[0].fillna("(unnamed)")]
    wanted = COLUMNS if target else FEATURES
    repeated = sorted({column for column in names if names.count(column) > 1})
    if repeated:
        raise InputError(f"{name}: the header names {_listed(repeated)} more than once; keep one of each")
    missing = [column for column in wanted if column not in names]
    if missing:
        raise InputError(f"{name}: column {_listed(missing)} is missing; the header has {_listed(names)}")

    # one column more than the header names: what stands in it is a row with too many fields
    frame = _read(
        path,
        name,
        compression,
        names=[*range(len(names)), TOO_MANY],
        index_col=False,
        skiprows=blank + 1,
        skipinitialspace=True,
        dtype={names.index(column): str for column in CATEGORICAL},
    )
    source_file = _File(path, name, compression)
    surplus = frame.pop(TOO_MANY)
    if surplus.notna().any():
        raise _bad_rows(source_file, "(none)", f"more fields than the header's {len(names)}", surplus.notna(), surplus)
    kept = [column for column in COLUMNS if column in names]
    frame = frame[[names.index(column) for column in kept]].set_axis(kept, axis="columns")
    if frame.empty:
        raise InputError(f"{name}: there is a header but no row")
    return _checked(frame, source_file, TARGET in kept), [column for column in names if column not in COLUMNS]


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
    for column, categories in (known or {}).items():
        counts = pairs.loc[~pairs[column].isin(categories), column].value_counts()
        if len(counts):
            unseen[column] = {str(category): int(count) for category, count in counts.items()}
    positives = int(pairs[TARGET].sum()) if TARGET in pairs else 0
    return DataReport(len(pairs), positives, extra_columns, unseen, int(pairs.duplicated().sum()))


def _look_at(path: Path, name: str) -> tuple[Compression, int]:
    """Refuses what is not a text table at all, before a parser makes a worse message of it.

    Returns:
        The compression, and how many blank lines come before the header.
    """
    if path.is_dir():
        raise InputError(f"{name} is a folder; give a CSV file")
    if not path.exists():
        raise InputError(f"{name} doesn't exist; give the path of a CSV file")
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise InputError(f"{name} is empty; a header and rows are needed")
    if start[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as file:
                start = file.read(512)
        except (EOFError, OSError, zlib.error) as error:
            raise _broken_gzip(name, error) from error
        compression: Compression = "gzip"
    else:
        compression = None
    if not start.strip():
        raise InputError(f"{name} is empty; a header and rows are needed")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{name} is an HTML or XML page, not a CSV file; was an error page saved in its place?")
    if b"\x00" in start:
        raise InputError(f"{name} is a binary file or not UTF-8 text; give a CSV file in UTF-8")
    before = start.removeprefix(b"\xef\xbb\xbf")
    lead = before[: len(before) - len(before.lstrip())]
    return compression, lead.replace(b"\r\n", b"\n").count(b"\n")


def _broken_gzip(name: str, error: Exception) -> InputError:
    return InputError(f"{name}: the gzip file is truncated or damaged ({error}); download it again")


def _read(path: Path, name: str, compression: Compression, *, rows: int | None = None, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, compression=compression, encoding="utf-8-sig", low_memory=False, nrows=rows, **options)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken_gzip(name, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise InputError(f"{name} can't be read as CSV: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    compression: Compression


def _checked(frame: pd.DataFrame, file: _File, target: bool) -> pd.DataFrame:
    """The frame with its types set, or an InputError for the first column that breaks the schema."""
    import pandera.errors

    numbers = [column for column in frame if column not in CATEGORICAL]
    for name in CATEGORICAL:
        frame[name] = frame[name].str.strip().replace("", None)
    for column in frame:
        missing = frame[column].isna()
        if missing.any():
            raise _bad_rows(file, str(column), "missing values", missing)
    for column in numbers:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            values = pd.to_numeric(frame[column], errors="coerce")
            if values.isna().any():
                raise _bad_rows(file, str(column), "not a number", values.isna(), frame[column])
            frame[column] = values
    frame = frame.astype(dict.fromkeys(numbers, float))
    try:
        pair_schema(target).validate(frame, lazy=True, inplace=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        first = cases.iloc[0]
        same = cases[(cases["column"] == first["column"]) & (cases["check"] == first["check"])]
        mask = pd.Series(frame.index.isin(same["index"]), index=frame.index)
        raise _bad_rows(file, str(first["column"]), str(first["check"]), mask, frame[first["column"]]) from None
    return frame.astype({column: "int64" for column in numbers if column in INTEGERS})


def _bad_rows(file: _File, column: str, what: str, mask: pd.Series, values: pd.Series | None = None) -> InputError:
    rows = np.flatnonzero(mask.to_numpy())
    first = rows[:SHOWN_ROWS].tolist()
    found = [f" ({value!r})" for value in values.iloc[first].tolist()] if values is not None else [""] * len(first)
    shown = ", ".join(f"line {line}{value}" for line, value in zip(_lines(file, first), found, strict=True))
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return InputError(f"{file.name}: column '{column}': {what} in {shown}{more}")


def _lines(file: _File, rows: list[int]) -> list[int]:
    """The lines of the file on which data rows begin; a row may have blank lines before it, or in it."""
    opened = gzip.open if file.compression else open
    lines, row, before = [], -1, 0
    with opened(file.path, "rt", encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text)
        for record in reader:
            if record:
                # row -1 is the header
                if row in rows:
                    lines.append(before + 1)
                if row == rows[-1]:
                    break
                row += 1
            before = reader.line_num
    return lines


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
