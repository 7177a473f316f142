"""Which pairs train a model and which are held out to judge it.

`stratified` is the split production's model was trained under: on that very dataset, its test rows are clean for
production and candidate alike. It depends on the whole dataset, so when rows are added the test set is drawn anew, and
rows that trained an earlier model enter it. `hash` decides each row by a hash of its own features: whatever else is in
the dataset, a test row stays a test row. Use `hash` once the dataset grows, with models that were trained under it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from matchmaking.errors import InputError
from matchmaking.schema import CATEGORICAL, FEATURES, TARGET

SPLITS = ("stratified", "hash")
TEST_SHARE = 0.2
# production was trained under this one; it is not the seed of a run, and changing it would leak test rows
SPLIT_SEED = 42


def split(pairs: pd.DataFrame, how: str = "stratified") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits pairs into (train, test); `how` is one of `SPLITS`.

    Raises:
        InputError: an unknown split, or a part of it without both classes.
    """
    if how == "stratified":
        from sklearn.model_selection import train_test_split

        keys = _hash(pairs)
        # of a pair that the dataset holds twice, both copies go where the first goes: one that was trained on makes the
        # other prove nothing
        distinct = ~pd.Series(keys).duplicated().to_numpy()
        labels = pairs[TARGET].to_numpy()[distinct]
        places = np.arange(len(labels))
        try:
            chosen, held_out = train_test_split(places, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels)
        except ValueError as error:
            raise InputError(f"the dataset can't be split: {error}; more rows are needed") from error
        if distinct.all():
            train, test = pairs.iloc[chosen], pairs.iloc[held_out]
        else:
            in_test = np.isin(keys, keys[distinct][held_out])
            train, test = pairs[~in_test], pairs[in_test]
    elif how == "hash":
        held_out = held_out_by_hash(pairs)
        train, test = pairs[~held_out], pairs[held_out]
    else:
        raise InputError(f"--split {how}: unknown; choose one of {', '.join(SPLITS)}")
    for name, part in (("train", train), ("test", test)):
        if part[TARGET].nunique() < 2:
            raise InputError(f"the {name} part of the {how} split has one class only; more rows are needed")
    return train, test


def held_out_by_hash(pairs: pd.DataFrame) -> np.ndarray:
    """Whether each pair belongs to the test set by the hash of its features: bool array of shape (rows,).

    The label is left out, so that a corrected label doesn't move its row. The hash is pandas' SipHash with its default
    key, on float64 and text whatever types the file had.
    """
    return (_hash(pairs) / 2**64) < TEST_SHARE


def _hash(pairs: pd.DataFrame) -> np.ndarray:
    """A hash of each pair's features: uint64 array of shape (rows,)."""
    types = {name: object if name in CATEGORICAL else "float64" for name in FEATURES}
    return pd.util.hash_pandas_object(pairs[list(FEATURES)].astype(types), index=False, categorize=True).to_numpy()


def split_file(pairs_path: Path, train_path: Path, test_path: Path, how: str) -> dict[str, int]:
    """Splits a parquet file of pairs into two; gives the rows of each as `train` and `test`."""
    train, test = split(pd.read_parquet(pairs_path), how)
    train.to_parquet(train_path, index=False)
    test.to_parquet(test_path, index=False)
    return {"train": len(train), "test": len(test)}
