"""Reading a file of client-lawyer pairs: what a parser would change without a word is refused, with its line."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import for_terminal, visible
from matchmaking.data.schema import CATEGORICAL, COLUMNS, FEATURES, INTEGERS, NUMERIC, TARGET, pair_schema

Compression = Literal["gzip"] | None


SHOWN_ROWS = 5
TOO_MANY = "too many"
# rows parsed at a time: as text, they take several times the room of the numbers they become
CHUNK = 100_000
UNNAMED = "(unnamed)"
# lines at the start of a file that are looked at for a header that isn't where it should be
TITLE_LINES = 20
NUMBER = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity))$"
# what a spreadsheet makes of a whole number, and a parser silently another number of: 20.000, 1.2E+04
NOT_PLAIN = r"^[+-]?[0-9]{1,3}\.[0-9]{3}$|^[^iI]*[eE]"


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
    file = _File(path, name, compression)
    quoted = _check_text(file)
    header = next(_read(file, 1, header=None))
    names = [str(value).strip() for value in header.iloc[0].fillna(UNNAMED)]
    wanted = COLUMNS if target else FEATURES
    missing = [column for column in wanted if column not in names]
    if missing:
        raise _no_header(file, names, wanted) or InputError(
            f"{name}: column {_listed(missing)} is missing; the header has {_listed(names)}"
        )
    # Excel writes columns without a name or a value where there once were some
    repeated = sorted({column for column in names if names.count(column) > 1 and column != UNNAMED})
    if repeated:
        raise InputError(f"{name}: the header names {_listed(repeated)} more than once; keep one of each")
    if quoted:
        _check_records(file)

    # one column more than the header names: what stands in it is a row with too many fields
    chunks = _read(file, CHUNK, names=[*range(len(names)), TOO_MANY], index_col=False, skiprows=blank + 1)
    kept = [column for column in COLUMNS if column in names]
    last = max(place for place, column in enumerate(names) if column != UNNAMED)
    # a row that lacks a field in the middle has its last one empty; one of ours is never empty
    may_lack = names[last] not in COLUMNS
    found = _Problems()
    parts = []
    for chunk in chunks:
        found.add("(none)", f"more fields than the header's {len(names)}", chunk[TOO_MANY].notna(), chunk[TOO_MANY])
        if may_lack and chunk[last].isna().any():
            _check_records(file, least=last + 1)
            may_lack = False
        part = chunk[[names.index(column) for column in kept]].set_axis(kept, axis="columns")
        parts.append(_parsed(part, found))
    if not sum(map(len, parts)):
        raise InputError(f"{name}: there is a header but no row")
    found.tell(file, ["(none)", *kept])
    frame = pd.concat(parts, ignore_index=True)
    return _checked(frame, file, TARGET in kept), [column for column in names if column not in COLUMNS]


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


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    compression: Compression

    def text(self, errors: str = "strict") -> TextIO:
        opened = gzip.open if self.compression else open
        return cast(TextIO, opened(self.path, "rt", encoding="utf-8", errors=errors, newline=""))


@dataclass
class _Problems:
    """Rows that are wrong, by column and by what is wrong: their numbers and what stands in them."""

    found: dict[tuple[str, str], list[tuple[int, str | None]]] = field(default_factory=dict)

    def add(self, column: str, what: str, mask: pd.Series, values: pd.Series | None = None) -> None:
        if mask.any():
            shown = values[mask].tolist() if values is not None else [None] * int(mask.sum())
            self.found.setdefault((column, what), []).extend(zip(mask.index[mask].tolist(), shown, strict=True))

    def tell(self, file: _File, columns: list[str]) -> None:
        """Raises an InputError for what is wrong first in the file, if anything is."""
        if self.found:
            column, what = min(self.found, key=lambda key: (self.found[key][0][0], columns.index(key[0])))
            rows = self.found[column, what]
            raise _bad_rows(file, column, what, [row for row, _ in rows], [value for _, value in rows[:SHOWN_ROWS]])


def _check_text(file: _File) -> bool:
    """Refuses bytes that a parser would stop at or pass over without a word; says whether there is a quote.

    Raises:
        InputError: not UTF-8, a NUL byte, or a byte order mark that isn't at the start.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    opened = gzip.open if file.compression else open
    quoted, first = False, True
    try:
        with opened(file.path, "rb") as raw:
            while block := raw.read(1 << 20):
                text = decoder.decode(block)
                if "\0" in text:
                    line = _line_with(file, lambda line: "\0" in line)
                    raise InputError(
                        f"{file.name}: line {line} has a NUL byte in it; remove it, or export the file anew"
                    )
                if "\ufeff" in (text.removeprefix("\ufeff") if first else text):
                    line = _line_with(file, lambda line: "\ufeff" in line)
                    raise InputError(
                        f"{file.name}: line {line} has a byte order mark within, as where files are joined; remove it"
                    )
                quoted, first = quoted or '"' in text, False
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line = _line_with(file, lambda line: any("\udc80" <= char <= "\udcff" for char in line))
        raise InputError(f"{file.name} is not UTF-8 text (line {line}: {error.reason}); save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken_gzip(file.name, error) from error
    return quoted


def _line_with(file: _File, test: Callable[[str], bool]) -> int:
    with file.text("surrogateescape") as text:
        return next(
            number for number, line in enumerate(text, 1) if test(line.removeprefix("\ufeff") if number == 1 else line)
        )


def _check_records(file: _File, least: int = 0) -> None:
    """Refuses rows whose quotes are wrong, and those with fewer fields than `least`."""
    with file.text() as text:
        reader = csv.reader(text, strict=True, skipinitialspace=True)
        before = 0
        try:
            for record in reader:
                if record and len(record) < least:
                    raise InputError(f"{file.name}: line {before + 1} has {len(record)} fields, the header {least}")
                before = reader.line_num
        except csv.Error as error:
            raise InputError(f"{file.name}: the row of line {before + 1} has a quote out of place ({error})") from error


def _no_header(file: _File, names: list[str], wanted: tuple[str, ...]) -> InputError | None:
    """What stands where the header should be; None where it is a header that lacks a column."""
    if sum(column in names for column in wanted) > len(wanted) / 2:
        return None
    for mark, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if sum(column in _split(",".join(names), mark) for column in wanted) > len(wanted) / 2:
            return InputError(f"{file.name}: its fields are separated by {called}; save it with commas")
    before = 0
    first = 0
    with file.text() as text:
        reader = csv.reader(text, skipinitialspace=True)
        try:
            for record in reader:
                first = first or before + 1
                if sum(column in map(str.strip, record) for column in wanted) > len(wanted) / 2:
                    return InputError(
                        f"{file.name}: line {first} ('{for_terminal(', '.join(names))[:60]}') is not the header, line "
                        f"{before + 1} is; remove what stands before it"
                    )
                before = reader.line_num
                if before > TITLE_LINES:
                    break
        except csv.Error:
            pass
    if len(names) >= len(FEATURES) and sum(bool(re.match(NUMBER, value)) for value in names) >= len(NUMERIC) / 2:
        return InputError(
            f"{file.name} has no header: line {first} is a row already ('{for_terminal(','.join(names))[:60]}...'); "
            f"put a line with the names of the columns before it: {','.join(wanted)}"
        )
    return None


def _split(text: str, mark: str) -> list[str]:
    return [part.strip(' "') for part in text.split(mark)]


def _read(file: _File, rows: int, **options: Any) -> Iterator[pd.DataFrame]:
    """The file as text, so many rows at a time."""
    options |= {"encoding": "utf-8-sig", "dtype": str, "skipinitialspace": True}
    try:
        with pd.read_csv(file.path, compression=file.compression, chunksize=rows, **options) as chunks:
            yield from chunks
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken_gzip(file.name, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise InputError(f"{file.name} can't be read as CSV: {' '.join(str(error).split())}") from error


def _parsed(texts: pd.DataFrame, found: _Problems) -> pd.DataFrame:
    """A chunk with its types: text, and float64 of those numbers whose meaning is beyond doubt.

    Args:
        texts: the chunk as it stands in the file.
        found: takes the rows that can't be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: dict[str, pd.Series] = {}
    for column in texts:
        name = str(column)
        stripped = texts[column].str.strip().replace("", None)
        missing = stripped.isna()
        found.add(name, "missing values", missing)
        if name in CATEGORICAL:
            found.add(name, "a line break", stripped.str.contains("[\r\n]", regex=True) & ~missing, stripped)
            columns[name] = stripped
            continue
        # Arrow's expressions are some ten times as fast as pandas'
        text = pa.array(stripped, type=pa.string(), from_pandas=True)

        def matches(pattern: str, text: Any = text) -> pd.Series:
            matched = pc.fill_null(pc.match_substring_regex(text, pattern), False)
            return pd.Series(matched.to_numpy(zero_copy_only=False), index=texts.index)

        number = matches(NUMBER)
        found.add(name, "not a number", ~number & ~missing, stripped)
        if name in INTEGERS:
            what = "not a plain whole number (a dot for thousands, or an exponent)"
            found.add(name, what, number & matches(NOT_PLAIN), stripped)
        # the parser of read_csv, to the last bit
        values = pd.to_numeric(stripped.where(number), errors="coerce").astype(float)
        # which gives up on what is beyond its integers and floats
        beyond = number & values.isna()
        columns[name] = values.mask(beyond, stripped[beyond].astype(float))
    return pd.DataFrame(columns)


def _checked(frame: pd.DataFrame, file: _File, target: bool) -> pd.DataFrame:
    """The frame with its integers set, or an InputError for the first column that breaks the schema."""
    import pandera.errors

    try:
        pair_schema(target).validate(frame, lazy=True, inplace=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        first = cases.iloc[0]
        same = cases[(cases["column"] == first["column"]) & (cases["check"] == first["check"])]
        rows = sorted(same["index"].astype(int))
        values = frame[first["column"]].iloc[rows[:SHOWN_ROWS]].tolist()
        raise _bad_rows(file, str(first["column"]), str(first["check"]), rows, values) from None
    return frame.astype({column: "int64" for column in frame if column in INTEGERS})


def _bad_rows(file: _File, column: str, what: str, rows: list[int], values: list[Any]) -> InputError:
    """An error that names the first of some rows, and beside each what stands there (None: nothing)."""
    first = rows[:SHOWN_ROWS]
    found = ["" if value is None else f" ({value!r})" for value in values]
    shown = ", ".join(f"line {line}{value}" for line, value in zip(_lines(file, first), found, strict=True))
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return InputError(f"{file.name}: column '{column}': {what} in {shown}{more}")


def _lines(file: _File, rows: list[int]) -> list[int]:
    """The lines of the file on which data rows begin; a row may have blank lines before it, or in it."""
    lines, row, before = [], -1, 0
    with file.text() as text:
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
    return ", ".join(f"'{visible(name)}'" for name in names)
