"""What stands in a dataset's columns, as text or as typed numbers: what is no value of ours is noted, by its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from matchmaking.data.csv_file import NUMBER
from matchmaking.data.problems import Problems
from matchmaking.data.schema import INTEGERS

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


def category(name: str, text: Any, first: int, found: Problems, *, typed: bool = False) -> pd.Categorical:
    """Texts without the spaces around them; what is wrong with one is looked for once, however many rows have it.

    Args:
        name: of the column.
        text: Arrow's array of text, or a dictionary of text; null is what is missing.
        first: the number of its first row.
        found: takes the rows that can't be read.
        typed: whether nobody has looked yet for what stands for a missing value; of a CSV file its parser has, which
            knows what was in quotation marks.

    Raises:
        ValueError: a row refers to a text that isn't in the dictionary, in a damaged file.
    """
    import pyarrow as pa

    encoded = text if pa.types.is_dictionary(text.type) else text.dictionary_encode()
    given, no_text = _texts(encoded.dictionary)
    # the narrowest integers that will do: all that follows goes through memory
    indices = encoded.indices if encoded.indices.null_count == 0 else encoded.indices.fill_null(len(given))
    place = indices.to_numpy(zero_copy_only=False)
    if len(place) and not 0 <= place.min() <= place.max() <= len(given):
        raise ValueError(f"column '{name}' refers to texts that aren't there")
    # the last one stands for what is missing
    known = pd.Series([*given, None], dtype=object)
    if typed:
        # as in the CSV file of these texts: a space before is none of one, but one after it is
        known = known.mask(known.str.lstrip(" ").isin(MISSING), None)
    stripped = known.str.strip().replace("", None)
    not_text = pd.Series([*no_text, False])
    missing = stripped.isna() & ~not_text
    broken = stripped.str.contains("[\r\n]", regex=True, na=False).astype(bool)
    # a CSV file with one in it is refused as a whole
    odd = stripped.str.contains("[\0\ufeff]", regex=True, na=False).astype(bool)
    index = pd.RangeIndex(first, first + len(place))
    for what, wrong in (
        ("missing values", missing),
        ("a line break", broken),
        ("a NUL character or a byte order mark", odd),
        ("bytes that are not UTF-8 text", not_text),
    ):
        if wrong.iloc[: -1 if encoded.indices.null_count == 0 else None].any():
            shown = pd.Series(stripped.to_numpy()[place], index=index) if wrong is broken or wrong is odd else None
            found.add(name, what, pd.Series(wrong.to_numpy()[place], index=index), shown)
    codes, names = pd.factorize(stripped)
    return pd.Categorical.from_codes(codes.astype(np.min_scalar_type(-len(names) - 1))[place], categories=names)


def _texts(dictionary: Any) -> tuple[list[str | None], list[bool]]:
    """The texts of a dictionary, and which are none, as their bytes aren't UTF-8."""
    try:
        given = dictionary.to_pylist()
        return given, [False] * len(given)
    except UnicodeDecodeError:
        pass
    texts: list[str | None] = []
    wrong = []
    for value in dictionary:
        try:
            texts.append(value.as_py())
            wrong.append(False)
        except UnicodeDecodeError:
            texts.append(None)
            wrong.append(True)
    return texts, wrong


def typed_number(name: str, array: Any, first: int, found: Problems, *, exact: bool = False) -> np.ndarray:
    """Numbers that are numbers already, float64; NaN is missing, as it is where it's text.

    Args:
        name: of the column.
        array: Arrow's array of integers, floats, decimals or booleans, or of nothing but null.
        first: the number of its first row.
        found: takes the rows where there is none.
        exact: whether they are the nearest ones to what somebody wrote; see `as_csv_has_it`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_decimal(array.type):
        # Arrow's own way from there to a float loses the last bit
        array = array.cast(pa.string())
        if name not in INTEGERS:
            return spelt_number(name, array, first, found)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    short = pa.types.is_float16(array.type) or pa.types.is_float32(array.type)
    given = array.to_numpy(zero_copy_only=False) if short else None
    # what a float can't hold to the last digit is far outside of what any column may be
    values = np.array(pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=float)
    if given is not None:
        values = _as_written(given, values)
    missing = np.isnan(values)
    if missing.any():
        found.add(name, "missing values", pd.Series(missing, index=pd.RangeIndex(first, first + len(values))))
    return as_csv_has_it(values) if exact and name not in INTEGERS else values


def _as_written(given: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Numbers of 16 or 32 bits as they are written, as 0.1, and not as what 64 bits make of these bits.

    Args:
        given: float16 or float32, shape (rows,).
        values: the same as float64.
    """
    # whole numbers of few digits are the same either way
    odd = np.flatnonzero(np.isfinite(values) & ~((np.floor(values) == values) & (np.abs(values) < 1e6)))
    if len(odd):
        different, place = np.unique(given[odd], return_inverse=True)
        values[odd] = pd.to_numeric(pd.Series(different.astype(str), dtype=object)).to_numpy(dtype=float)[place]
    return values


def as_csv_has_it(values: np.ndarray) -> np.ndarray:
    """The numbers that are read where a CSV file holds these, written as short as they can be.

    The parser of CSV files isn't exact to the last bit from 16 digits on. A pair is known by its numbers to that bit
    (`model.lineage`), so one from Parquet must have the same ones, or those that have trained a model would be new.

    Args:
        values: float64, shape (rows,).
    """
    # any parser is exact with few digits
    long = np.flatnonzero(~((np.abs(values) < 1e6) & (np.round(values, 9) == values)) & np.isfinite(values))
    if len(long):
        texts = pd.Series(_shortest(values[long]), dtype=object)
        values = values.copy()
        values[long] = pd.to_numeric(texts).to_numpy(dtype=float)
    return values


def _shortest(values: np.ndarray) -> np.ndarray:
    """Numbers as short as they can be written: text, of shape (rows,)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = np.array(pc.cast(pa.array(values), pa.string()).to_pylist(), dtype=object)
    # which Arrow spells with all their zeros, of which the parser counts each as a digit; as pandas and Python do not
    small = np.flatnonzero((np.abs(values) < 1e-4) & (values != 0))
    texts[small] = [repr(value) for value in values[small].tolist()]
    return texts


def csv_texts(values: np.ndarray) -> np.ndarray:
    """How to write numbers so that they are read from a CSV file to the last bit: text, of shape (rows,).

    Mostly as short as they can be; where the parser would make the next number of that, as a text that it reads as this
    one. It reads none as 0.1 + 0.2 (which it never gave, so it isn't in what came from a CSV file): such a number is
    written as short as it can be, and the next one is read.

    Args:
        values: finite float64, shape (rows,).
    """
    texts = _shortest(values)
    left = np.flatnonzero(as_csv_has_it(values) != values)
    for steps in (1, -1, 0, 2, -2):
        for digits in (17, 16, 15, 18, 19, 20, 22):
            if not len(left):
                return texts
            near = values[left] + steps * np.spacing(values[left])
            tried = np.array([f"{value:.{digits}g}" for value in near.tolist()], dtype=object)
            right = pd.to_numeric(pd.Series(tried)).to_numpy(dtype=float) == values[left]
            texts[left[right]] = tried[right]
            left = left[~right]
    return texts


def spelt_number(name: str, text: Any, first: int, found: Problems) -> np.ndarray:
    """Numbers, float64; those that aren't spelt plainly are looked at one by one.

    Args:
        name: of the column.
        text: Arrow's array of text; null is what is missing.
        first: the number of its first row.
        found: takes the rows that can't be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if _few_digits(text, whole=name in INTEGERS):
        try:
            return pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            # two dots, or nothing but one
            pass
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


def _few_digits(text: Any, *, whole: bool) -> bool:
    """Whether all texts are made of no more than 15 digits (of which any parser makes the same number), and dots.

    That is seen in their bytes, all at once, and many times as fast as with an expression for each.

    Args:
        text: Arrow's array of text.
        whole: whether a dot is none of a number's.
    """
    import pyarrow as pa

    if text.type != pa.string() or text.null_count or not len(text):
        return False
    _, ends, letters = text.buffers()
    if letters is None:
        return False
    end = np.frombuffer(ends, np.int32)[text.offset : text.offset + len(text) + 1]
    lengths = np.diff(end)
    if lengths.min() < 1 or lengths.max() > 15:
        return False
    letter = np.frombuffer(letters, np.uint8)[end[0] : end[-1]]
    # in ASCII what stands between a dot and zero is a slash, which no number has
    first = ord("0") if whole else ord(".")
    return bool((letter - np.uint8(first) <= ord("9") - first).all())


def _odd_numbers(name: str, texts: pd.Series, found: Problems) -> np.ndarray:
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
