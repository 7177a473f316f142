"""Held-out pairs: the split production was trained under, and the one that survives a growing dataset."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from matchmaking.base.errors import InputError
from matchmaking.data.sample import generate
from matchmaking.data.schema import FEATURES
from matchmaking.inputs import SPLITS
from matchmaking.inputs.split import ASSUMED, Facts, held_out_by_hash, split, split_file
from matchmaking.model import production
from matchmaking.model.lineage import Lineage, pair_keys, read_lineage, write_lineage


def key(pairs: pd.DataFrame) -> set[tuple[object, ...]]:
    return set(pairs[list(FEATURES)].itertuples(index=False, name=None))


def test_stratified_is_production_s_split() -> None:
    pairs = generate(1_000, seed=0)
    train, test = train_test_split(pairs, test_size=0.2, random_state=42, stratify=pairs["match"])
    found = split(pairs, "stratified")
    pd.testing.assert_frame_equal(found[0], train)
    pd.testing.assert_frame_equal(found[1], test)


@pytest.mark.parametrize("how", SPLITS)
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


def test_stratified_alone_does_not_promise_that() -> None:
    pairs = generate(8_000, seed=0)
    earlier, later = split(pairs.head(5_000), "stratified"), split(pairs, "stratified")
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


@pytest.mark.parametrize("how", SPLITS)
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


# ------------------------------------------------------------------------------- what production has been trained on


@dataclass
class Line:
    """A production model and the datasets that come after one another."""

    folder: Path

    def run(self, pairs: pd.DataFrame, how: str = "auto") -> tuple[Facts, pd.DataFrame, pd.DataFrame]:
        """What a run splits off; its candidate is in production from then on."""
        name = f"data{len(list(self.folder.glob('data*')))}"
        paths = [self.folder / each for each in (name, "train", "test", f"{name}.lineage")]
        pairs.to_parquet(paths[0])
        facts = split_file(paths[0], self.folder, *paths[1:], how, f"version of {name}")
        shutil.copyfile(paths[3], self.folder / production.MODEL)
        return facts, pd.read_parquet(paths[1]), pd.read_parquet(paths[2])


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def from_elsewhere(line: Line) -> None:
    with h5py.File(line.folder / production.MODEL, "w") as file:
        file.create_group("model_weights")


def grown(pairs: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The first so many, in another order."""
    return pairs.head(rows).sample(frac=1, random_state=rows)


@pytest.mark.parametrize("first", ["none", "from elsewhere"])
@pytest.mark.parametrize("later", SPLITS)
def test_no_pair_that_trained_production_is_held_out(line: Line, first: str, later: str) -> None:
    """Under `auto`, no pair that trained any model before it either."""
    pairs = generate(9_000, seed=0)
    if first == "from elsewhere":
        from_elsewhere(line)
    trained: set[tuple[object, ...]] = set()
    for rows in (4_000, 6_000, 9_000):
        facts, train, test = line.run(grown(pairs, rows), "auto" if rows == 4_000 else later)
        assert not trained & key(test)
        assert not key(train) & key(test)
        assert (facts.train_rows, facts.test_rows) == (len(train), len(test))
        assert len(train) + len(test) + facts.left_out == rows
        assert facts.left_out == 0 or facts.rule == later
        trained = key(train) | (trained if later == "auto" else set())
    if later == "auto":
        assert 0.18 < len(test) / 9_000 < 0.22
        assert facts.left_out == 0


def test_pairs_that_are_gone_are_remembered(line: Line) -> None:
    """A dataset that is cut and grows again holds out nothing that has trained."""
    pairs = generate(6_000, seed=0)
    from_elsewhere(line)
    _, first, _ = line.run(pairs)
    line.run(pairs.tail(2_000))
    _, _, test = line.run(pairs)
    assert not key(first) & key(test)


def test_a_model_from_elsewhere_is_taken_for_one_of_the_stratified_split_and_that_is_said(line: Line) -> None:
    pairs = generate(3_000, seed=0)
    from_elsewhere(line)
    facts, train, test = line.run(pairs)
    expected = split(pairs, "stratified")
    for part, as_expected in zip((train, test), expected, strict=True):
        pd.testing.assert_frame_equal(part, as_expected.reset_index(drop=True))
    assert (facts.asked, facts.rule, facts.left_out) == ("auto", "stratified", 0)
    (note,) = facts.notes
    assert "doesn't say which pairs trained it" in note and "this dataset (version version of " in note
    assert test.attrs["split"]["notes"] == [note]


def test_what_is_said_of_its_training_counts(line: Line) -> None:
    pairs = generate(6_000, seed=0)
    from_elsewhere(line)
    old = pairs.head(4_000)
    old.to_csv(line.folder / ASSUMED, index=False)
    facts, _, test = line.run(pairs)
    assert not key(split(old, "stratified")[0]) & key(test)
    assert key(split(old, "stratified")[1]) <= key(test)
    assert facts.rule == "production's" and "the dataset given as production's" in facts.notes[0]


def test_what_is_said_of_its_training_needs_labels(line: Line) -> None:
    pairs = generate(3_000, seed=0)
    from_elsewhere(line)
    pairs.drop(columns="match").to_csv(line.folder / ASSUMED, index=False)
    with pytest.raises(InputError, match=r"--production-data.*match"):
        line.run(pairs)


def test_a_pair_that_trained_in_any_copy_has_trained(line: Line) -> None:
    """Production's own training dealt out rows; here the pairs that repeat one another go together."""
    pairs = generate(3_000, seed=0)
    repeated = pd.concat([pairs.head(40), pairs], ignore_index=True)
    from_elsewhere(line)
    trained, _ = train_test_split(repeated, test_size=0.2, random_state=42, stratify=repeated["match"])
    facts, train, test = line.run(repeated)
    assert not key(trained) & key(test)
    assert not key(train) & key(test)
    assert len(test) > 550 and facts.left_out == 0


def test_another_dataset_than_production_s_is_told(line: Line) -> None:
    from_elsewhere(line)
    generate(3_000, seed=1).to_csv(line.folder / ASSUMED, index=False)
    with pytest.raises(InputError, match=r"of [\d,]+ pairs that production's training is known by, 0 are in this"):
        line.run(generate(3_000, seed=0))
    pairs = generate(3_000, seed=0)
    pd.concat([generate(2_000, seed=1), pairs.head(300)]).to_csv(line.folder / ASSUMED, index=False)
    facts, _, _ = line.run(pairs)
    assert any("count as new ones" in note for note in facts.notes)


def test_signs_of_zero_are_one(line: Line) -> None:
    pairs = generate(10, seed=0)
    zero, minus = pairs.assign(success_rate=0.0), pairs.assign(success_rate=-0.0)
    assert (pair_keys(zero) == pair_keys(minus)).all()


def test_an_explicit_split_leaves_out_what_trained_production(line: Line) -> None:
    pairs = generate(6_000, seed=0)
    line.run(pairs)
    facts, train, test = line.run(pairs, "stratified")
    # of a fifth of the pairs a fifth
    assert 0.03 < len(test) / 6_000 < 0.05
    assert facts.left_out == 1_200 - len(test)
    assert f"{facts.left_out:,} pairs that the stratified split would hold out may have trained" in facts.notes[0]
    # neither did those left out train the candidate, which stands for them from now on
    _, _, later = line.run(pairs)
    assert not key(train) & key(later) and len(later) == 1_200


def test_nothing_clean_left_is_told(line: Line) -> None:
    pairs = generate(2_000, seed=0)
    line.run(pairs)
    trained = pairs[~held_out_by_hash(pairs)]
    with pytest.raises(InputError, match=r"the test part of the stratified split \(without [\d,]+ pairs that trained"):
        split(trained, "stratified", read_lineage(line.folder / production.MODEL))


def test_where_the_hash_decides_nothing_is_listed(line: Line) -> None:
    line.run(generate(3_000, seed=0))
    found = read_lineage(line.folder / production.MODEL)
    assert found is not None and len(found.listed) == 0
    assert (found.dataset_version, found.split) == ("version of data0", "hash")


def test_what_is_no_lineage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    write_lineage(path, Lineage(listed=np.array([5, 3], np.uint64), listed_held_out=np.array([True, False])))
    with pytest.raises(InputError, match=r"model\.h5: what it says of the pairs that trained it can't be read"):
        read_lineage(path)
    with h5py.File(path, "a") as file:
        # a few bytes that would unpack to two gigabytes
        del file["lineage/listed"]
        file["lineage"].create_dataset("listed", shape=2**28, dtype=np.uint64, compression="gzip", chunks=2**22)
        del file["lineage/listed_held_out"]
        file["lineage"].create_dataset("listed_held_out", shape=2**28, dtype=np.uint8, compression="gzip", chunks=2**22)
    with pytest.raises(InputError, match="'listed' is packed"):
        read_lineage(path)
    for name, value, words in (
        ("train_rows", float("inf"), "OverflowError"),
        ("split", "<b>", "its split is none of"),
        ("format", 2, "newer version"),
    ):
        with h5py.File(path, "a") as file:
            file["lineage"].attrs[name] = value
        with pytest.raises(InputError, match="can't be read") as told:
            read_lineage(path)
        assert words in str(told.value) or name == "train_rows"
