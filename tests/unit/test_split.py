"""Held-out pairs: the split production was trained under, and the one that survives a growing dataset."""

from __future__ import annotations

import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from matchmaking.errors import InputError
from matchmaking.sample import generate
from matchmaking.schema import FEATURES
from matchmaking.split import held_out_by_hash, split


def key(pairs: pd.DataFrame) -> set[tuple[object, ...]]:
    return set(pairs[list(FEATURES)].itertuples(index=False, name=None))


def test_stratified_is_production_s_split() -> None:
    pairs = generate(1_000, seed=0)
    train, test = train_test_split(pairs, test_size=0.2, random_state=42, stratify=pairs["match"])
    pd.testing.assert_frame_equal(split(pairs)[0], train)
    pd.testing.assert_frame_equal(split(pairs)[1], test)


@pytest.mark.parametrize("how", ["stratified", "hash"])
def test_a_copy_of_a_training_row_is_no_test_row(how: str) -> None:
    pairs = generate(1_000, seed=0)
    train, test = split(pd.concat([pairs, pairs.head(500)], ignore_index=True), how)
    assert not key(train) & key(test)
    assert len(test) > 50


def test_hash_test_rows_stay_test_rows_as_the_dataset_grows() -> None:
    """No row that trained a model on any earlier dataset is a test row of a later one."""
    pairs = generate(20_000, seed=0)
    trained: set[tuple[object, ...]] = set()
    tested: set[tuple[object, ...]] = set()
    for rows in (5_000, 8_000, 20_000):
        # later datasets hold the earlier rows in another order, with labels corrected here and there
        grown = pairs.head(rows).sample(frac=1, random_state=rows)
        grown.loc[grown.index % 100 == 0, "match"] = 1
        train, test = split(grown, "hash")
        assert 0.18 < len(test) / rows < 0.22
        trained |= key(train)
        tested |= key(test)
        assert not trained & key(test)
        assert not tested & key(train)


def test_the_default_split_does_not_promise_that() -> None:
    pairs = generate(8_000, seed=0)
    earlier, later = split(pairs.head(5_000)), split(pairs)
    assert key(earlier[0]) & key(later[1])


def test_the_hash_is_the_same_for_ever() -> None:
    """A change of the hash (a library's or ours) would move rows between train and test: these are what it gives."""
    pairs = generate(40, seed=0)
    assert held_out_by_hash(pairs).nonzero()[0].tolist() == GOLDEN
    as_read = pairs.astype({"budget": "int32", "urgency_level": "float64"}).astype({"city": "category"})
    assert held_out_by_hash(as_read).nonzero()[0].tolist() == GOLDEN


GOLDEN = [1, 5, 11, 19, 23, 38]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match="--split random"):
        split(generate(100, seed=0), "random")


@pytest.mark.parametrize("how", ["stratified", "hash"])
def test_repeated_pairs_keep_the_test_part_as_it_is(how: str) -> None:
    """Copies go where their pair goes, whatever was copied."""
    pairs = generate(4_000, seed=0)
    plain = split(pairs, how)
    matches = pd.concat([pairs, pairs[pairs["match"] == 1]], ignore_index=True)
    five = pd.concat([pairs] * 5, ignore_index=True)
    for repeated in (matches, five):
        train, test = split(repeated, how)
        assert key(test) == key(plain[1])
        assert key(train) == key(plain[0])
        assert len(train) + len(test) == len(repeated)
    assert split(five, how)[1]["match"].mean() == pytest.approx(plain[1]["match"].mean())
