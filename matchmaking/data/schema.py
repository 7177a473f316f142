"""The dataset: its columns and their allowed values, one row a client-lawyer pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import pandera.pandas as pa


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
# of the numbers and of the label
LIMITS = {**NUMERIC, TARGET: (0.0, 1.0)}


def keeps_limits(numbers: pd.DataFrame) -> bool:
    """Whether some rows have nothing in them that `pair_schema` would refuse, in a fraction of its time.

    Args:
        numbers: columns of `LIMITS`. What isn't float64 is left to the schema, and so is a frame without rows.
    """
    for name, column in numbers.items():
        values = column.to_numpy()
        if values.dtype != np.float64 or not len(values):
            return False
        low, high = LIMITS[str(name)]
        # NaN is in no limits
        if not (low <= values.min() and values.max() <= high):
            return False
        if name in INTEGERS and (values != np.floor(values)).any():
            return False
    return True


def pair_schema(target: bool = True) -> pa.DataFrameSchema:
    """The pandera schema of a dataset; `target` says whether `match` must be there."""
    import pandera.pandas as pa

    def whole(values: pd.Series) -> pd.Series:
        return values == np.floor(values)

    columns: dict[str, pa.Column] = {
        name: pa.Column(str, pa.Check.str_length(min_value=1, error="an empty text")) for name in CATEGORICAL
    }
    for name, (low, high) in LIMITS.items():
        if name == TARGET and not target:
            continue
        limits = f"outside {low:g}..{high:g}"
        checks = [
            pa.Check(np.isfinite, error="an infinite value"),
            pa.Check.in_range(low, high, error=limits),
        ]
        if name in INTEGERS:
            checks.append(pa.Check(whole, error="not a whole number"))
        columns[name] = pa.Column(float, checks)
    return pa.DataFrameSchema(columns)
