"""Reading a file of client-lawyer pairs: what a parser would change without a word is refused, with its line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.data.batches import Progress
from matchmaking.data.csv_file import (
    NUMBER,
    CsvFile,
    broken_gzip,
    check_records,
    check_text,
    lines_of,
    look_at,
    no_header,
)
from matchmaking.data.schema import CATEGORICAL, COLUMNS, FEATURES, INTEGERS, TARGET, pair_schema

SHOWN_ROWS = 5
TOO_MANY = "too many"
# rows parsed at a time: as text, they take several times the room of the numbers they become
CHUNK = 100_000
# bytes that Arrow parses at a time
BLOCK = 8 << 20
UNNAMED = "(unnamed)"
# what pandas takes for a missing value
MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
    *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
# numbers of so few digits that any parser gives the same one
PLAIN = r"^[0-9]{1,6}(?:\.[0-9]{1,9})?$"
PLAIN_WHOLE = "^[0-9]{1,15}$"
# what a spreadsheet makes of a whole number, and a parser silently another number of: 20.000, 1.2E+04
NOT_PLAIN = r"^[+-]?[0-9]{1,3}\.[0-9]{3}$|^[^iI]*[eE]"


def read_pairs(path: Path, *, target: bool = True, source: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Reads and checks a CSV file (plain or gzip) of client-lawyer pairs; `open_pairs` for one that is large.

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
    parts, extra = open_pairs(path, target=target, source=source)
    frame = pd.concat([part.astype(dict.fromkeys(CATEGORICAL, object)) for part in parts])
    return frame, extra


def open_pairs(
    path: Path, *, target: bool = True, source: str | None = None
) -> tuple[Iterator[pd.DataFrame], list[str]]:
    """`read_pairs` in parts, so that no more than one has to be held: whatever the size of the file.

    Returns:
        An iterator over the pairs, with an index that goes on from part to part, and categories as Categorical; and
        the names of the extra columns. What is wrong with the rows is raised when all of them were looked at: until it
        has ended nothing is known to be right.

    Raises:
        InputError: see `read_pairs`; of the file as such here, of its rows by the iterator.
    """
    name = source or str(path)
    compression, before, blank = look_at(path, name)
    file = CsvFile(path, name, compression)
    quoted = check_text(file)
    header = next(_read(file, 1, header=None))
    names = [str(value).strip() for value in header.iloc[0].fillna(UNNAMED)]
    wanted = COLUMNS if target else FEATURES
    missing = [column for column in wanted if column not in names]
    if missing:
        raise no_header(file, names, wanted) or InputError(
            f"{name}: column {_listed(missing)} is missing; the header has {_listed(names)}"
        )
    # Excel writes columns without a name or a value where there once were some
    repeated = sorted({column for column in names if names.count(column) > 1 and column != UNNAMED})
    if repeated:
        raise InputError(f"{name}: the header names {_listed(repeated)} more than once; keep one of each")
    if quoted:
        check_records(file)
    # Arrow reads what leaves no doubt, in a fraction of the time
    plain = not (quoted or before)
    return _parts(file, names, blank, plain), [column for column in names if column not in COLUMNS]


def _parts(file: CsvFile, names: list[str], blank: int, plain: bool) -> Iterator[pd.DataFrame]:
    """The rows of a file whose header is `names`, after so many blank lines; see `open_pairs`."""
    kept = [column for column in COLUMNS if column in names]
    found, wrong = _Problems(), _Wrong()
    progress = Progress("read")
    for chunk in _chunks(file, names, blank, plain, found):
        part = _parsed(*chunk, found)
        if not found.found:
            wrong.look(part)
        if not found.found and not wrong.found:
            yield part.astype({column: "int64" for column in part if column in INTEGERS})
        progress.add(len(part))
    if not progress.rows:
        raise InputError(f"{file.name}: there is a header but no row")
    found.tell(file, ["(none)", *kept])
    wrong.tell(file)


# the number of a chunk's first row, and its columns of ours as Arrow's text
Texts = tuple[int, dict[str, Any]]


def _chunks(file: CsvFile, names: list[str], blank: int, plain: bool, found: _Problems) -> Iterator[Texts]:
    """The rows as text, some at a time: by Arrow as far as it goes, by pandas from there on."""
    import pyarrow as pa

    done = 0
    if plain:
        try:
            for first, texts in _read_plain(file, names):
                yield first, texts
                done = first + len(next(iter(texts.values())))
            return
        except pa.ArrowInvalid:
            # too many fields or too few, or what only Arrow minds: pandas knows what it is
            pass
    yield from _read_any(file, names, blank, found, done)


def _read_plain(file: CsvFile, names: list[str]) -> Iterator[Texts]:
    """A file without a quotation mark, by Arrow.

    Raises:
        ArrowInvalid: not every row has as many fields as the header.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    places = {column: str(names.index(column)) for column in COLUMNS if column in names}
    reader = arrow_csv.open_csv(
        pa.input_stream(str(file.path), compression=file.compression),
        arrow_csv.ReadOptions(column_names=[str(place) for place in range(len(names))], skip_rows=1, block_size=BLOCK),
        arrow_csv.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=True),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(map(str, range(len(names))), pa.string()),
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
            if pc.any(pc.match_substring_regex(text, "^ ")).as_py():
                bare = pc.replace_substring_regex(text, "^ +", "")
                none = pc.is_in(bare, pa.array([*MISSING]))
                texts[column] = pc.if_else(none, pa.scalar(None, pa.string()), bare)
        if batch.num_rows:
            yield first, texts
        first += batch.num_rows


def _read_any(file: CsvFile, names: list[str], blank: int, found: _Problems, done: int) -> Iterator[Texts]:
    """Any file, by pandas, from row `done` on."""
    import pyarrow as pa

    # one column more than the header names: what stands in it is a row with too many fields
    chunks = _read(file, CHUNK, names=[*range(len(names)), TOO_MANY], index_col=False, skiprows=blank + 1)
    last = max(place for place, column in enumerate(names) if column != UNNAMED)
    # a row that lacks a field in the middle has its last one empty; one of ours is never empty
    may_lack = names[last] not in COLUMNS
    for whole in chunks:
        chunk = whole[whole.index >= done]
        if chunk.empty:
            continue
        many = chunk[TOO_MANY]
        found.add("(none)", f"more fields than the header's {len(names)}", many.notna(), many)
        if may_lack and chunk[last].isna().any():
            check_records(file, least=last + 1)
            may_lack = False
        yield (
            int(chunk.index[0]),
            {
                column: pa.array(chunk[names.index(column)], type=pa.string(), from_pandas=True)
                for column in COLUMNS
                if column in names
            },
        )


@dataclass
class _Rows:
    """Some rows that are wrong in the same way: how many, and of the first ones the numbers and what stands there."""

    count: int = 0
    numbers: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, numbers: list[int], values: list[Any], count: int) -> None:
        room = SHOWN_ROWS - len(self.numbers)
        self.count += count
        self.numbers += numbers[:room]
        self.values += values[:room]


@dataclass
class _Problems:
    """Rows that can't be read, by column and by what is wrong."""

    found: dict[tuple[str, str], _Rows] = field(default_factory=dict)

    def add(self, column: str, what: str, mask: pd.Series, values: pd.Series | None = None) -> None:
        if mask.any():
            rows = mask.index[mask][:SHOWN_ROWS].tolist()
            shown = [None] * len(rows) if values is None else values.loc[rows].tolist()
            self.found.setdefault((column, what), _Rows()).add(rows, shown, int(mask.sum()))

    def tell(self, file: CsvFile, columns: list[str]) -> None:
        """Raises an InputError for what is wrong first in the file, if anything is."""
        if self.found:
            column, what = min(self.found, key=lambda key: (self.found[key].numbers[0], columns.index(key[0])))
            raise _bad_rows(file, column, what, self.found[column, what])


@dataclass
class _Wrong:
    """Rows that break the schema, by the schema's order of columns and of their checks."""

    found: dict[tuple[int, int], tuple[str, str, _Rows]] = field(default_factory=dict)

    def look(self, part: pd.DataFrame) -> None:
        """Checks the numbers of some rows; of categories, `_category` has refused what the schema would."""
        import pandera.errors

        numbers = [column for column in part if column not in CATEGORICAL]
        schema = pair_schema(TARGET in part).select_columns(numbers)
        try:
            schema.validate(part[numbers], lazy=True)
        except pandera.errors.SchemaErrors as errors:
            order = list(schema.columns)
            for (column, number, check), same in errors.failure_cases.groupby(["column", "check_number", "check"]):
                rows = sorted(same["index"].astype(int))
                key = (order.index(column), int(number))
                _, _, kept = self.found.setdefault(key, (str(column), str(check), _Rows()))
                kept.add(rows[:SHOWN_ROWS], part.loc[rows[:SHOWN_ROWS], str(column)].tolist(), len(rows))

    def tell(self, file: CsvFile) -> None:
        """Raises an InputError for the first column that breaks the schema, if one does."""
        if self.found:
            raise _bad_rows(file, *self.found[min(self.found)])


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


def _parsed(first: int, texts: dict[str, Any], found: _Problems) -> pd.DataFrame:
    """A chunk with its types: Categorical, and float64 of those numbers whose meaning is beyond doubt.

    Args:
        first: the number of its first row.
        texts: its columns as they stand in the file, as Arrow's text; null is what pandas takes for missing.
        found: takes the rows that can't be read.
    """
    columns: dict[str, Any] = {}
    for name, text in texts.items():
        columns[name] = (_category if name in CATEGORICAL else _number)(name, text, first, found)
    rows = len(next(iter(texts.values())))
    return pd.DataFrame(columns, index=pd.RangeIndex(first, first + rows))


def _category(name: str, text: Any, first: int, found: _Problems) -> pd.Categorical:
    """Texts without the spaces around them; what is wrong with one is looked for once, however many rows have it."""
    encoded = text.dictionary_encode()
    place = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    # the last one stands for what is missing
    given = pd.Series([*encoded.dictionary.to_pylist(), None], dtype=object)
    stripped = given.str.strip().replace("", None)
    missing = stripped.isna()
    broken = stripped.str.contains("[\r\n]", regex=True, na=False).astype(bool) & ~missing
    for what, wrong in (("missing values", missing), ("a line break", broken)):
        if wrong.iloc[: -1 if encoded.indices.null_count == 0 else None].any():
            index = pd.RangeIndex(first, first + len(place))
            values = None if what == "missing values" else pd.Series(stripped.to_numpy()[place], index=index)
            found.add(name, what, pd.Series(wrong.to_numpy()[place], index=index), values)
    codes, names = pd.factorize(stripped)
    return pd.Categorical.from_codes(codes[place], categories=names)


def _number(name: str, text: Any, first: int, found: _Problems) -> np.ndarray:
    """Numbers, float64; those that aren't spelt plainly are looked at one by one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pattern = PLAIN_WHOLE if name in INTEGERS else PLAIN
    plain = pc.fill_null(pc.match_substring_regex(text, pattern), False)
    if pc.all(plain).as_py():
        return pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
    is_plain = plain.to_numpy(zero_copy_only=False)
    values = np.empty(len(text))
    values[is_plain] = pc.cast(text.filter(plain), pa.float64()).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(~is_plain)
    values[odd] = _odd_numbers(name, pd.Series(text.take(odd).to_pylist(), first + odd, dtype=object), found)
    return values


def _odd_numbers(name: str, texts: pd.Series, found: _Problems) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    stripped = texts.str.strip().replace("", None)
    missing = stripped.isna()
    found.add(name, "missing values", missing)
    # Arrow's expressions are some ten times as fast as pandas'
    text = pa.array(stripped, type=pa.string(), from_pandas=True)

    def matches(pattern: str) -> pd.Series:
        matched = pc.fill_null(pc.match_substring_regex(text, pattern), False)
        return pd.Series(matched.to_numpy(zero_copy_only=False), index=texts.index)

    number = matches(NUMBER)
    found.add(name, "not a number", ~number & ~missing, stripped)
    if name in INTEGERS:
        what = "not a plain whole number (a dot for thousands, or an exponent)"
        found.add(name, what, number & matches(NOT_PLAIN), stripped)
    # the parser of read_csv, to the last bit
    spelt = stripped.where(number)
    # with a fraction among them -0 keeps its sign, as in a whole column of them
    spelt[-1] = "0.5"
    values = pd.to_numeric(spelt, errors="coerce").astype(float).drop(-1)
    # which gives up on what is beyond its integers and floats
    beyond = number & values.isna()
    return values.mask(beyond, stripped[beyond].astype(float)).to_numpy()


def _bad_rows(file: CsvFile, column: str, what: str, rows: _Rows) -> InputError:
    """An error that names the first of some rows, and beside each what stands there (None: nothing)."""
    found = ["" if value is None else f" ({value!r})" for value in rows.values]
    lines = lines_of(file, rows.numbers)
    shown = ", ".join(f"line {line}{value}" for line, value in zip(lines, found, strict=True))
    more = f" and {rows.count - SHOWN_ROWS} more" if rows.count > SHOWN_ROWS else ""
    return InputError(f"{file.name}: column '{column}': {what} in {shown}{more}")


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{visible(name)}'" for name in names)
