"""Which pairs train a candidate and which are held out to judge it and production alike.

The held-out pairs have to be such that neither model has seen. A model that was trained here knows which pairs trained
it (`model.lineage`), wherever they came from; `auto` holds out what that lineage does, and decides by hash about
pairs it doesn't know: `hash` decides each pair by a hash of its own features, so that a held-out pair stays one,
whatever else is in the dataset.

`stratified` is the split that production's model from elsewhere was trained under: on that very dataset, its held-out
pairs are clean for both. It depends on the whole dataset: of a larger one, it holds out pairs that trained the earlier
model. Of whatever a split would hold out, the pairs that trained production are left out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.data.batches import batches, pick
from matchmaking.data.hashes import among, distinct
from matchmaking.data.parts import version_of
from matchmaking.data.read import open_pairs
from matchmaking.data.schema import TARGET
from matchmaking.inputs import SPLITS
from matchmaking.model import production
from matchmaking.model.lineage import (
    TEST_SHARE,
    Flags,
    Keys,
    Lineage,
    by_hash,
    lineage_of,
    pair_keys,
    read_lineage,
    write_lineage,
)

# production was trained under this one; it is not the seed of a run, and changing it would leak test rows
SPLIT_SEED = 42
# of the pairs that a lineage lists; with fewer, that is said
MOST_FOUND = 0.5
# beside the copy of a production model that has no lineage: the dataset that it is said to be trained on
ASSUMED = "trained_on"


@dataclass(frozen=True)
class Facts:
    """How the held-out pairs were chosen; stands in evaluation, decision, manifest and summary.

    Attributes:
        asked: one of `SPLITS`.
        rule: what decided: "stratified", "hash", or "production's" (the one that production was trained under).
        train_rows, test_rows: pairs that train, and pairs that are held out.
        left_out: pairs that the rule would hold out, and that trained production: neither here nor there.
        assumed: md5 of the dataset that production was taken to be trained on; empty where it knows, or isn't there.
        notes: what somebody should know before trusting them, each in one sentence: what had to be assumed of
            production's training, and how many pairs were left out.
    """

    asked: str
    rule: str
    train_rows: int
    test_rows: int
    left_out: int = 0
    assumed: str = ""
    notes: tuple[str, ...] = ()


def split(pairs: pd.DataFrame, how: str = "auto", trained: Lineage | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits pairs into (train, test), none of the latter among those that trained production.

    Args:
        pairs: the dataset.
        how: one of `SPLITS`; without `trained`, `auto` is `hash`.
        trained: production's lineage; None where there is no production.

    Raises:
        InputError: an unknown split, or a part of it without both classes.
    """
    train, test, _ = _places(pairs[TARGET].to_numpy(), pair_keys(pairs), how, trained)
    return pairs.iloc[train], pairs.iloc[test]


def held_out_by_hash(pairs: pd.DataFrame) -> np.ndarray:
    """Whether each pair belongs to the test set by the hash of its features: bool array of shape (rows,)."""
    return by_hash(pair_keys(pairs))


def stratified_lineage(keys: Keys, labels: np.ndarray, dataset_version: str) -> Lineage:
    """That of a model from elsewhere, trained under the stratified split of these pairs as they are.

    Of a pair that is there twice that split may have trained one copy and held out the other; then it has trained.

    Args:
        keys: of the pairs, shape (rows,).
        labels: 0 or 1, shape (rows,).
        dataset_version: md5 of the dataset.

    Raises:
        InputError: they can't be split.
    """
    train, _ = _draw(labels)
    return lineage_of(keys, ~among(keys, keys[train]), "stratified", dataset_version)


def split_file(
    pairs_path: Path,
    production_dir: Path,
    train_path: Path,
    test_path: Path,
    lineage_path: Path,
    how: str,
    dataset_version: str,
) -> Facts:
    """Splits a parquet file of pairs into two.

    Args:
        pairs_path: the dataset.
        production_dir: the production bundle, whose training pairs aren't held out; may be empty. Without a lineage of
            its own, it is taken to be trained under the stratified split of the dataset in `ASSUMED`, or else of this
            one.
        train_path: parquet file to write.
        test_path: parquet file to write; its pandas attributes hold the facts as `split`.
        lineage_path: HDF5 file to write: the lineage of a model that is trained on the training part.
        how: one of `SPLITS`.
        dataset_version: md5 of the dataset.

    Raises:
        InputError: see `split`; or the dataset in `ASSUMED` can't be read or split.
    """
    trained, assumed = production_lineage(production_dir)
    keys, labels = _known_by(batches(pairs_path, what="looked at"))
    if assumed and trained is None:
        trained = stratified_lineage(keys, labels, dataset_version)
    same = assumed and trained is not None and trained.dataset_version == dataset_version
    # of the same dataset, in the order that production's own training had
    rule = "stratified" if how == "auto" and same and distinct(keys) == len(keys) else how
    train, test, left_out = _places(labels, keys, rule, trained)
    held_out = np.ones(len(keys), bool)
    held_out[train] = False
    kept = trained if rule == "auto" else None
    named = rule if rule != "auto" else "production's" if kept else "hash"
    looked = trained is not None and not same and len(trained.listed)
    found = int(among(trained.listed, keys).sum()) if trained is not None and looked else 0
    counts = (len(train), len(test), left_out)
    facts = facts_with(how, named, counts, trained, assumed=assumed, same=same, found=found)
    lineage = lineage_of(keys, held_out, kept.split if kept else named, dataset_version, kept)
    pick(pairs_path, {train_path: (train, {}), test_path: (test, {"split": asdict(facts)})})
    # a step that is tried again
    lineage_path.unlink(missing_ok=True)
    write_lineage(lineage_path, lineage)
    return facts


def facts_of(test: pd.DataFrame) -> dict[str, Any] | None:
    """The facts of held-out pairs that `split_file` wrote; None for other pairs."""
    return test.attrs.get("split")


def facts_with(
    asked: str,
    rule: str,
    counts: tuple[int, int, int],
    trained: Lineage | None,
    *,
    assumed: bool,
    same: bool,
    found: int,
) -> Facts:
    """The facts of a split, with what somebody should know of production's training.

    Args:
        asked: see `Facts`.
        rule: see there.
        counts: its train rows, test rows, and rows left out.
        trained: production's lineage; None where there is no production.
        assumed: whether that is assumed.
        same: whether it is that of the dataset that was split.
        found: how many of the pairs that it lists are in the dataset; not looked at where it is the same.

    Raises:
        InputError: none of them is, and it is the lineage of a dataset that was given as production's.
    """
    notes = []
    if assumed and trained is not None:
        notes.append(_assumption(trained, same))
    if trained is not None and not same:
        notes += _found_again(trained, found, assumed)
    if left_out := counts[2]:
        notes.append(
            f"{left_out:,} pairs that the {rule} split would hold out may have trained production, and were left out; "
            "the others are no random sample of the dataset, those of --split auto are"
        )
    version = trained.dataset_version if assumed and trained is not None else ""
    return Facts(asked, rule, *counts, version, tuple(notes))


def production_lineage(production_dir: Path) -> tuple[Lineage | None, bool]:
    """Production's lineage as far as it is known before the dataset is read, and whether it is assumed."""
    if not production.present(production_dir):
        return None, False
    if known := read_lineage(production_dir / production.MODEL):
        return known, False
    path = production_dir / ASSUMED
    if not path.exists():
        return None, True
    parts, _ = open_pairs(path, target=True, source="what production is said to be trained on (--production-data)")
    return stratified_lineage(*_known_by(parts), version_of(path)), True


def _known_by(parts: Iterable[pd.DataFrame]) -> tuple[Keys, np.ndarray]:
    """What a split knows of pairs: their keys and their labels, each of shape (rows,)."""
    keys, labels = zip(*((pair_keys(part), part[TARGET].to_numpy(np.int8)) for part in parts), strict=True)
    return np.concatenate(keys), np.concatenate(labels)


def _assumption(trained: Lineage, same: bool) -> str:
    which = "this dataset" if same else "the dataset given as production's"
    return (
        "production's model doesn't say which pairs trained it; they are taken to be those of the stratified split "
        f"of {which} (version {trained.dataset_version[:12]})"
    )


def _found_again(trained: Lineage, found: int, assumed: bool) -> Iterator[str]:
    """A word of warning where hardly any of the pairs that a lineage lists are in the dataset.

    Raises:
        InputError: none of them is, and it is the lineage of a dataset that was given as production's.
    """
    if not len(trained.listed):
        return
    said = f"of {len(trained.listed):,} pairs that production's training is known by, {found:,} are in this dataset"
    if found == 0 and assumed:
        raise InputError(
            f"{said}: production was trained on something else than was given (--production-data), or all of it was "
            "respelt since"
        )
    if found < MOST_FOUND * len(trained.listed):
        yield f"{said}; those that were respelt or corrected since count as new ones, and may have trained it"


def _places(labels: np.ndarray, keys: Keys, how: str, trained: Lineage | None) -> tuple[np.ndarray, np.ndarray, int]:
    """The places of the pairs to train on and of those held out, and how many production's training takes away."""
    if how == "stratified":
        train, test = _stratified(labels, keys)
    elif how in ("hash", "auto"):
        held_out = trained.held_out(keys) if how == "auto" and trained is not None else by_hash(keys)
        train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    else:
        raise InputError(f"--split {how}: unknown; choose one of {', '.join(SPLITS)}")
    left_out = 0
    if trained is not None:
        clean = trained.held_out(keys[test])
        left_out = int((~clean).sum())
        test = test[clean]
    for name, part in (("train", train), ("test", test)):
        if len(np.unique(labels[part])) < 2:
            raise one_class(name, how, left_out)
    return train, test, left_out


def one_class(name: str, how: str, left_out: int) -> InputError:
    """What is wrong with a split of which a part (train or test) has one class only."""
    without = f" (without {left_out:,} pairs that trained production)" if left_out else ""
    return InputError(f"the {name} part of the {how} split{without} has one class only; more rows are needed")


def _stratified(labels: np.ndarray, keys: Keys) -> tuple[np.ndarray, np.ndarray]:
    """The places of the two parts of the stratified split, in its own order.

    Of a pair that the dataset holds twice, both copies go where the first goes: one that was trained on makes the other
    prove nothing.
    """
    first = ~pd.Series(keys).duplicated().to_numpy()
    chosen, held_out = _draw(labels[first])
    if first.all():
        return chosen, held_out
    in_test: Flags = among(keys, keys[first][held_out])
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def _draw(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The draw that production's own training had: places of the two parts."""
    from sklearn.model_selection import train_test_split

    places = np.arange(len(labels))
    try:
        train, test = train_test_split(places, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels)
    except ValueError as error:
        raise InputError(f"the dataset can't be split: {error}; more rows are needed") from error
    return train, test
