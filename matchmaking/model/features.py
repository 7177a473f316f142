"""The encoding, exactly as production does it: 33 one-hot columns, then 14 standardised numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.data.describe import likely
from matchmaking.data.schema import CATEGORICAL, TARGET

NUMBERS = (
    "urgency_level",
    "budget",
    "case_complexity_score",
    "experience",
    "success_rate",
    "rating",
    "consultation_fee",
    "availability",
    "budget_fee_ratio",
    "experience_success",
    "urgency_complexity",
    "rating_availability",
    "budget_per_urgency",
    "fee_rating_ratio",
)
# how many categories of each column the service's inputs have room for
WIDTHS = {"case_type": 7, "location": 7, "preferred_language": 7, "specialization": 5, "city": 7}
# bytes, of Eigen's on any processor
ALIGNMENT = 64
INPUT_WIDTH = sum(WIDTHS.values()) + len(NUMBERS)


def add_ratios(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs with production's six derived columns; the input is left as it is."""
    return pairs.assign(
        budget_fee_ratio=pairs["budget"] / (pairs["consultation_fee"] + 1),
        experience_success=pairs["experience"] * pairs["success_rate"],
        urgency_complexity=pairs["urgency_level"] * pairs["case_complexity_score"],
        rating_availability=pairs["rating"] * pairs["availability"],
        budget_per_urgency=pairs["budget"] / (pairs["urgency_level"] + 1),
        fee_rating_ratio=pairs["consultation_fee"] / (pairs["rating"] + 0.1),
    )


def encode(pairs: pd.DataFrame, encoder: Any, scaler: Any) -> np.ndarray:
    """Model inputs for pairs.

    Args:
        pairs: the 13 feature columns; further ones are ignored.
        encoder: a fitted OneHotEncoder over `CATEGORICAL`.
        scaler: a fitted StandardScaler over `NUMBERS`.

    Returns:
        float32 array of shape (rows, width); width is 47 with production's encoder. A category the encoder has
        not seen is all zeros in its block, as in the service.
    """
    return compact([pairs], len(pairs), encoder, scaler).rows(slice(None))


@dataclass(frozen=True)
class Compact:
    """Model inputs in the least room: what a row's one-hot blocks are is kept once, for all rows that have the same.

    Attributes:
        codes: which row of `blocks` stands for each row's category, by column of `CATEGORICAL`: shape (rows, 5), uint8
            unless there are more.
        blocks: float32, by column: the one-hot block of each category there is, shape (categories, width).
        numbers: float32, standardised, shape (rows, 14).
        match: float32, the labels, shape (rows,); empty where there were none.
    """

    codes: np.ndarray
    blocks: list[np.ndarray]
    numbers: np.ndarray
    match: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self, which: slice | np.ndarray) -> np.ndarray:
        """Some rows as the model takes them: float32 of shape (rows, width)."""
        blocks = [block[codes] for block, codes in zip(self.blocks, self.codes[which].T, strict=True)]
        return np.concatenate([*blocks, self.numbers[which]], axis=1)

    def take(self, which: np.ndarray) -> Compact:
        """Some rows as they are here; which are given by their numbers."""
        codes: np.ndarray = aligned((len(which), self.codes.shape[1]), self.codes.dtype)
        numbers: np.ndarray = aligned((len(which), self.numbers.shape[1]), self.numbers.dtype)
        np.take(self.codes, which, axis=0, out=codes)
        np.take(self.numbers, which, axis=0, out=numbers)
        return Compact(codes, self.blocks, numbers, self.match[which] if len(self.match) else self.match)


def compact(batches: Iterable[pd.DataFrame], rows: int, encoder: Any, scaler: Any) -> Compact:
    """Model inputs for pairs that come in batches.

    Args:
        batches: pairs, as for `encode`; categories may be text or Categorical.
        rows: how many pairs they are together.
        encoder: as for `encode`.
        scaler: as for `encode`.
    """
    codes: np.ndarray = aligned((rows, len(CATEGORICAL)), np.uint8)
    numbers: np.ndarray = aligned((rows, len(NUMBERS)), np.float32)
    match = np.empty(0, np.float32)
    known: list[dict[str, int]] = [{} for _ in CATEGORICAL]
    first = 0
    for pairs in batches:
        part = slice(first, first + len(pairs))
        for place, (column, seen) in enumerate(zip(CATEGORICAL, known, strict=True)):
            found, distinct = pd.factorize(pairs[column], use_na_sentinel=False)
            code = np.array([seen.setdefault(str(value), len(seen)) for value in distinct], np.int32)
            if len(seen) > np.iinfo(codes.dtype).max + 1:
                wider: np.ndarray = aligned(codes.shape, np.int32)
                wider[:first] = codes[:first]
                wider[part, :place] = codes[part, :place]
                codes = wider
            codes[part, place] = code[found]
        numbers[part] = scaler.transform(add_ratios(pairs)[list(NUMBERS)].astype(float))
        if TARGET in pairs:
            match = match if len(match) else np.empty(rows, np.float32)
            match[part] = pairs[TARGET]
        first += len(pairs)
    return Compact(codes, _blocks(encoder, [list(seen) for seen in known]), numbers, match)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that begins where TensorFlow wants it, so that it can be used there without a copy; not filled."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def _blocks(encoder: Any, names: list[list[str]]) -> list[np.ndarray]:
    """The one-hot block of each category, by column: float32 of shape (categories, width).

    The encoder itself is asked, once for each: what it does with one that it doesn't know is its own affair.
    """
    most = max(map(len, names))
    if most == 0:
        return [np.empty((0, len(known)), np.float32) for known in encoder.categories_]
    table = pd.DataFrame({column: (known * most)[:most] for column, known in zip(CATEGORICAL, names, strict=True)})
    one_hot = encoder.transform(table)
    dense = one_hot.toarray() if hasattr(one_hot, "toarray") else one_hot
    ends = np.cumsum([len(known) for known in encoder.categories_])[:-1]
    parts = np.split(np.asarray(dense, np.float32), ends, axis=1)
    return [part[: len(known)] for part, known in zip(parts, names, strict=True)]


def fit_encoders(pairs: pd.DataFrame | Iterable[pd.DataFrame]) -> tuple[Any, Any]:
    """Fits the encoder and the scaler of a first production model on its training pairs: (encoder, scaler).

    Args:
        pairs: all of them, or batches of them (whose means are then merged, which rounds the last digit otherwise).

    Raises:
        InputError: the pairs have more or fewer categories than the service's inputs have room for.
    """
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    counts: dict[str, dict[str, int]] = {column: {} for column in CATEGORICAL}
    scaler = StandardScaler()
    for batch in [pairs] if isinstance(pairs, pd.DataFrame) else pairs:
        for column, found in counts.items():
            values = batch[column].astype(object).value_counts(sort=False)
            for value, rows in values.items():
                found[str(value)] = found.get(str(value), 0) + int(rows)
        scaler.partial_fit(add_ratios(batch)[list(NUMBERS)].astype(float))
    if sum(len(found) for found in counts.values()) != sum(WIDTHS.values()):
        wrong = [_other_width(column, pd.Series(counts[column]), width) for column, width in WIDTHS.items()]
        raise InputError(
            f"the training rows don't give the {INPUT_WIDTH} inputs of the service: {'; '.join(filter(None, wrong))}"
        )
    most = max(WIDTHS.values())
    table = pd.DataFrame({column: (list(found) * most)[:most] for column, found in counts.items()})
    # the service puts both in one array as they come, which a sparse matrix doesn't let it
    return OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(table), scaler


def _other_width(column: str, counts: pd.Series, width: int) -> str:
    """What is wrong with the number of a column's categories, and what to do; empty where nothing is."""
    counts = counts.sort_values(ascending=False)
    if len(counts) < width:
        return f"column '{column}' has {len(counts)} categories of {width}; give rows that hold the others, too"
    if len(counts) == width:
        return ""
    shown = []
    for category, rows in list(counts.items())[width:][:5]:
        meant = likely(str(category), [str(known) for known in counts.index[:width]])
        shown.append(f"'{visible(category)}' {rows:,} rows" + (f" ({visible(meant)}?)" if meant else ""))
    return (
        f"column '{column}' has {len(counts)} categories, {len(counts) - width} more than the service knows; the "
        f"rarest: {', '.join(shown)}. Correct them, or leave those rows out"
    )
