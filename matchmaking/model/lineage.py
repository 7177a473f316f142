"""What a model knows of how it came about: which pairs trained it, kept inside its .h5 file.

A model is judged on pairs that it hasn't seen, so a later run has to know which those are, wherever the file has been
in between. A pair is known by the hash of its features. A hash decides where a pair goes that nobody has decided on
before; only the pairs that went elsewhere are listed (none, where the hash has always decided). So a lineage says of
every pair there is or will be whether it may train the models of this line or judges them, and it doesn't grow.

In the file it is a group beside Keras's own, which Keras passes over when it loads the model: the service does too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.data.hashes import among
from matchmaking.data.schema import CATEGORICAL, FEATURES

TEST_SHARE = 0.2
# what a model can have been trained under
RULES = ("stratified", "hash")
# in the .h5
GROUP = "lineage"
FORMAT = 1

Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lineage:
    """Which pairs may have trained a model, and which are held out from it.

    Attributes:
        dataset_version: md5 of the dataset it was trained on.
        split: the rule that held pairs out when the line of models began, one of `RULES`.
        train_rows, test_rows: pairs it was trained on, and pairs held out then.
        listed: keys of pairs that the hash of a pair says the opposite of, ascending, uint64.
        listed_held_out: whether each of them is held out (else it has trained), bool.
    """

    dataset_version: str = ""
    split: str = "hash"
    train_rows: int = 0
    test_rows: int = 0
    listed: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    listed_held_out: Flags = field(default_factory=lambda: np.empty(0, bool))

    def held_out(self, keys: Keys) -> Flags:
        """Whether each pair is held out from the model: bool array of shape (rows,)."""
        found = by_hash(keys)
        if len(self.listed):
            place = np.minimum(np.searchsorted(self.listed, keys), len(self.listed) - 1)
            known = self.listed[place] == keys
            found[known] = self.listed_held_out[place[known]]
        return found


def pair_keys(pairs: pd.DataFrame) -> Keys:
    """What a pair is known by, a hash of its features: uint64 array of shape (rows,).

    The label is left out, so that a corrected label doesn't move its row; a pair with a corrected feature is another
    one. The hash is pandas' SipHash with its default key, on float64 and text whatever types the file had.
    """
    # a Categorical is hashed as the texts that it stands for
    types = {name: "float64" for name in FEATURES if name not in CATEGORICAL}
    types |= {name: "object" for name in CATEGORICAL if not isinstance(pairs[name].dtype, pd.CategoricalDtype)}
    plain = pairs[list(FEATURES)].astype(types)
    numbers = [name for name in FEATURES if name not in CATEGORICAL]
    plain[numbers] += 0.0  # -0.0 is 0.0
    hashes = pd.util.hash_pandas_object(plain, index=False, categorize=True)
    return np.asarray(hashes, dtype=np.uint64)


def by_hash(keys: Keys) -> Flags:
    """Whether each pair is held out where nothing but its key decides: `TEST_SHARE` of all, bool of shape (rows,)."""
    return np.asarray(keys / 2**64 < TEST_SHARE)


def lineage_of(
    keys: Keys, held_out: Flags, split: str, dataset_version: str, earlier: Lineage | None = None
) -> Lineage:
    """The lineage of a model that is trained on the pairs that aren't held out.

    Args:
        keys: of the dataset's pairs, shape (rows,); a pair that is there twice is held out twice or not at all.
        held_out: whether each is, shape (rows,).
        split: the rule.
        dataset_version: md5 of the dataset.
        earlier: the lineage that this one goes on with: what it lists stays listed, where the dataset lacks it.
    """
    other = by_hash(keys) != held_out
    listed, place = np.unique(keys[other], return_index=True)
    flags = held_out[other][place]
    if earlier is not None:
        gone = ~among(earlier.listed, keys)
        listed, flags = np.r_[listed, earlier.listed[gone]], np.r_[flags, earlier.listed_held_out[gone]]
        order = np.argsort(listed, kind="stable")
        listed, flags = listed[order], flags[order]
    return Lineage(dataset_version, split, int((~held_out).sum()), int(held_out.sum()), listed, flags)


def write_lineage(path: Path, lineage: Lineage) -> None:
    """Puts a lineage into an HDF5 file that has none, a model's or a new one."""
    import h5py

    with h5py.File(path, "a") as file:
        group = file.create_group(GROUP)
        group.attrs["format"] = FORMAT
        for name in ("dataset_version", "split", "train_rows", "test_rows"):
            group.attrs[name] = getattr(lineage, name)
        if len(lineage.listed):
            group["listed"] = lineage.listed
            group["listed_held_out"] = lineage.listed_held_out.astype(np.uint8)


def read_lineage(path: Path) -> Lineage | None:
    """The lineage in an HDF5 file that `production.check_model_file` has looked at; None where it has none.

    Raises:
        InputError: what is there is no lineage, or one of a newer version.
    """
    import h5py

    with h5py.File(path, "r") as file:
        if GROUP not in file:
            return None
        try:
            return _read(file[GROUP])
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
            raise InputError(
                f"{path}: what it says of the pairs that trained it can't be read ({type(error).__name__}: {error})"
            ) from error


def _read(group: Any) -> Lineage:
    attrs = group.attrs
    if int(attrs["format"]) > FORMAT:
        raise ValueError("a newer version of mlops wrote it: update this one")
    split = str(attrs["split"])
    if split not in RULES:
        raise ValueError(f"its split is none of {', '.join(RULES)}")
    listed, flags = np.empty(0, np.uint64), np.empty(0, bool)
    if "listed" in group:
        # looked at before it is read: what is packed may be far larger than its file
        for name, kind in (("listed", np.uint64), ("listed_held_out", np.uint8)):
            found = group[name]
            if found.dtype != kind or found.ndim != 1 or found.shape != group["listed"].shape:
                raise ValueError(f"'{name}' isn't of the right type and size")
            if found.id.get_create_plist().get_nfilters():
                raise ValueError(f"'{name}' is packed")
        listed, flags = group["listed"][()], group["listed_held_out"][()].astype(bool)
    if (listed[1:] <= listed[:-1]).any():
        raise ValueError("its keys aren't in order")
    train_rows, test_rows = int(attrs["train_rows"]), int(attrs["test_rows"])
    return Lineage(str(attrs["dataset_version"])[:32], split, train_rows, test_rows, listed, flags)
