"""The encoding, exactly as production does it: 33 one-hot columns, then 14 standardised numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.data.describe import likely
from matchmaking.data.schema import CATEGORICAL

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
    one_hot = encoder.transform(pairs[list(CATEGORICAL)].astype(str))
    dense = one_hot.toarray() if hasattr(one_hot, "toarray") else one_hot
    numbers = scaler.transform(add_ratios(pairs)[list(NUMBERS)].astype(float))
    inputs = np.empty((len(pairs), dense.shape[1] + numbers.shape[1]), dtype=np.float32)
    inputs[:, : dense.shape[1]] = dense
    inputs[:, dense.shape[1] :] = numbers
    return inputs


def fit_encoders(pairs: pd.DataFrame) -> tuple[Any, Any]:
    """Fits the encoder and the scaler of a first production model on its training pairs: (encoder, scaler).

    Raises:
        InputError: the pairs have more or fewer categories than the service's inputs have room for.
    """
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if sum(pairs[column].nunique() for column in CATEGORICAL) != sum(WIDTHS.values()):
        wrong = [_other_width(pairs[column], width) for column, width in WIDTHS.items()]
        raise InputError(
            f"the training rows don't give the {INPUT_WIDTH} inputs of the service: {'; '.join(filter(None, wrong))}"
        )
    encoder = OneHotEncoder(handle_unknown="ignore").fit(pairs[list(CATEGORICAL)].astype(str))
    scaler = StandardScaler().fit(add_ratios(pairs)[list(NUMBERS)].astype(float))
    return encoder, scaler


def _other_width(values: pd.Series, width: int) -> str:
    """What is wrong with the number of a column's categories, and what to do; empty where nothing is."""
    counts = values.value_counts()
    if len(counts) < width:
        return f"column '{values.name}' has {len(counts)} categories of {width}; give rows that hold the others, too"
    if len(counts) == width:
        return ""
    shown = []
    for category, rows in list(counts.items())[width:][:5]:
        meant = likely(str(category), [str(known) for known in counts.index[:width]])
        shown.append(f"'{visible(category)}' {rows:,} rows" + (f" ({visible(meant)}?)" if meant else ""))
    return (
        f"column '{values.name}' has {len(counts)} categories, {len(counts) - width} more than the service knows; the "
        f"rarest: {', '.join(shown)}. Correct them, or leave those rows out"
    )
