"""Drift of two datasets in shards is what it is in one piece, on the same pairs."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.data.describe import row_hashes
from matchmaking.data.drawn import MAX_ROWS, Draw, drawn_from
from matchmaking.data.drift import drift_files
from matchmaking.data.parts import version_of
from matchmaking.data.sample import generate
from matchmaking.inputs.divide import divide_sides
from matchmaking.inputs.draw import draw_shard
from matchmaking.inputs.pool import pool_shards
from matchmaking.inputs.shard_rows import RECORD
from matchmaking.inputs.validate import validate_file
from matchmaking.model.score import score_files


def write(folder: Path, frame: pd.DataFrame, count: int) -> Path:
    """A dataset in so many parts of uneven sizes."""
    folder.mkdir(parents=True)
    ends = (np.linspace(0, 1, count + 1) ** 1.5 * len(frame)).astype(int)
    for number, (a, b) in enumerate(pairwise(ends)):
        frame.iloc[a:b].to_csv(folder / f"part-{number:02}.csv", index=False)
    return folder


def in_one_piece(data: dict[str, Path], served: Path, scratch: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    scratch.mkdir()
    pairs = {side: scratch / f"{side}.parquet" for side in data}
    reports = {
        side: validate_file(path, served, pairs[side], source=str(path), labelled=side == "reference")
        for side, path in data.items()
    }
    return reports["current"], drawn_and_scored(pairs, served, scratch)


def drawn_and_scored(pairs: dict[str, Path], served: Path, scratch: Path) -> dict[str, Path]:
    scored = {side: scratch / f"{side}-scored.parquet" for side in pairs}
    score_files(*pairs.values(), served, *scored.values(), self_comparison=False, seed=3)
    return scored


def in_shards(
    data: dict[str, Path], served: Path, scratch: Path, most: int
) -> tuple[str, dict[str, Any], dict[str, Path]]:
    uris = {side: str(path) for side, path in data.items()}
    division = json.loads(json.dumps(divide_sides(*uris.values(), most)))
    count = sum(len(plan["shards"]) for plan in division.values())
    assert count <= max(2, most)
    folders = [scratch / str(number) for number in range(count)]
    for number, folder in enumerate(folders):
        draw_shard(division, number, served, folder, uris=uris, seed=3)
    # whatever their order
    random.Random(most).shuffle(folders)
    pairs = {side: scratch / f"{side}.parquet" for side in data}
    version, report = pool_shards(folders, served, pairs, uris=uris, seed=3)
    return version, report, pairs


def drift_of(scored: dict[str, Path], scratch: Path) -> dict[str, Any]:
    result = scratch / "drift.json"
    drift_files(*scored.values(), self_comparison=False, seed=3, result_path=result, page_path=scratch / "page")
    return json.loads(result.read_text())


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    """More of both than are compared; of the current ones a third is there twice, some categories aren't known."""
    reference, current = generate(MAX_ROWS + 9_000, seed=5), generate(MAX_ROWS + 1_000, seed=6)
    current.loc[[4, 50_990], "city"] = ["Ahmedabad", "Surat"]
    current["budget"] += 1_000
    current = pd.concat([current, current.iloc[10_000:30_000]], ignore_index=True)
    return {"reference": reference, "current": current.drop(columns="match")}


@pytest.mark.parametrize(("parts", "most"), [((3, 5), 6), ((1, 7), 3), ((6, 2), 14)])
def test_drift_is_the_same_on_the_same_pairs(
    parts: tuple[int, int], most: int, frames: dict[str, pd.DataFrame], incumbent: Path, tmp_path: Path
) -> None:
    data = {side: write(tmp_path / side, frames[side], n) for side, n in zip(frames, parts, strict=True)}
    wanted_report, wanted = in_one_piece(data, incumbent, tmp_path / "one")
    (tmp_path / "shards").mkdir()
    version, report, pairs = in_shards(data, incumbent, tmp_path / "shards", most)
    assert report == wanted_report and report["duplicates"] == 20_000 and report["unseen"]
    assert version == version_of(data["reference"])
    found = drawn_and_scored(pairs, incumbent, tmp_path / "shards")
    for side, path in found.items():
        ours, theirs = pq.read_table(path), pq.read_table(wanted[side])
        assert drawn_from(ours) == drawn_from(theirs) == len(frames[side])
        assert ours.num_rows == MAX_ROWS and "score" in ours.column_names
        assert ours.equals(theirs), side
    assert drift_of(found, tmp_path / "shards") == drift_of(wanted, tmp_path / "one")


def test_pairs_that_are_few_are_all_compared_in_their_order(
    frames: dict[str, pd.DataFrame], incumbent: Path, tmp_path: Path
) -> None:
    few = {"reference": frames["reference"].iloc[:700], "current": frames["current"].iloc[9_800:10_400]}
    data = {side: write(tmp_path / side, frame, 4) for side, frame in few.items()}
    _, wanted = in_one_piece(data, incumbent, tmp_path / "one")
    (tmp_path / "shards").mkdir()
    _, _, pairs = in_shards(data, incumbent, tmp_path / "shards", 6)
    found = drawn_and_scored(pairs, incumbent, tmp_path / "shards")
    for side, frame in few.items():
        assert pq.read_table(found[side]).to_pandas().equals(pq.read_table(wanted[side]).to_pandas())
        assert pq.read_table(found[side])["budget"].to_pylist() == frame["budget"].tolist()
    ours, theirs = drift_of(found, tmp_path / "shards"), drift_of(wanted, tmp_path / "one")
    assert ours == theirs and ours["rows"] == {"reference": 700, "current": 600}


def draw(frame: pd.DataFrame, pieces: int, shards: int, most: int, scratch: Path, seed: int = 0) -> pd.DataFrame:
    """What is drawn of rows of three parts, which come in pieces, in some order, that several see."""
    draws = [Draw(seed, most) for _ in range(shards)]
    part, places = frame["part"].to_numpy(), frame["place"].to_numpy()
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), pieces)):
        piece = frame.iloc[rows].drop(columns=["part", "place"])
        draws[number * shards // pieces].add(piece, part[rows], places[rows])
    together = Draw(seed, most)
    for number, each in enumerate(draws):
        each.save(scratch / f"{number}.parquet")
        together.merge(Draw.load(scratch / f"{number}.parquet", seed, most))
    assert together.rows == len(frame)
    return together.table().to_pandas()


def placed(frame: pd.DataFrame) -> pd.DataFrame:
    part = np.arange(len(frame)) * 3 // len(frame)
    return frame.assign(part=part, place=pd.Series(part).groupby(part).cumcount().to_numpy())


@pytest.mark.parametrize("kinds", [40, 900, 5_000])
def test_the_same_rows_in_any_order_and_pieces(kinds: int, tmp_path: Path) -> None:
    frame = placed(generate(kinds, seed=8).sample(5_000, replace=True, random_state=1))
    wanted = draw(frame, 1, 1, 500, tmp_path)
    assert len(wanted) == 500
    for pieces, shards, order in ((7, 1, 0), (23, 5, 2), (60, 60, 3)):
        shuffled = frame.sample(frac=1, random_state=order)
        pd.testing.assert_frame_equal(draw(shuffled, pieces, shards, 500, tmp_path), wanted)
    assert not draw(frame, 1, 1, 500, tmp_path, seed=1).equals(wanted)


def test_each_pair_is_drawn_as_often_as_it_is_there(tmp_path: Path) -> None:
    frame = generate(40, seed=8)
    often = np.arange(1, 41) * 50
    many = placed(frame.loc[np.repeat(frame.index, often)])
    drawn = [draw(many, 9, 3, 4_000, tmp_path, seed) for seed in range(20)]
    counts = np.array([[(each["budget"] == budget).sum() for budget in frame["budget"]] for each in drawn])
    # of 20 drawings of 4,000 from 41,000, without replacement
    share = often / often.sum()
    spread = np.sqrt(4_000 * share * (1 - share) / 20)
    assert frame["budget"].nunique() == 40 and (np.abs(counts.mean(axis=0) - 4_000 * share) < 4 * spread).all()


def test_one_pair_that_is_half_of_a_dataset_is_half_of_each_drawing(tmp_path: Path) -> None:
    frame = generate(10_001, seed=8)
    frame["budget"] = [777, *range(1_000, 11_000)]
    many = placed(frame.loc[[0] * 10_000 + list(range(1, 10_001))])
    shares = [(draw(many, 4, 2, 1_000, tmp_path, seed)["budget"] == 777).mean() for seed in range(40)]
    # five standard errors of each
    assert max(abs(share - 0.5) for share in shares) < 5 * np.sqrt(0.25 / 1_000)


def test_any_row_is_drawn_as_likely(tmp_path: Path) -> None:
    frame = generate(2_000, seed=9)
    drawn = pd.concat([draw(placed(frame), 3, 2, 500, tmp_path, seed) for seed in range(40)])
    counts = row_hashes(frame)
    found = pd.Series(row_hashes(drawn[[*frame]])).value_counts().reindex(counts, fill_value=0)
    # binomial: of 40 drawings, a quarter; the sum of squares is chi-squared
    squares = ((found - 10) ** 2 / 7.5).sum()
    assert abs(squares - 2_000) < 5 * np.sqrt(2 * 2_000)


@pytest.mark.parametrize("most", [6, 2])
@pytest.mark.parametrize("wrong", ["reference", "current", "both", "match in one"])
def test_what_is_wrong_is_told_in_the_same_words(
    wrong: str, most: int, frames: dict[str, pd.DataFrame], incumbent: Path, tmp_path: Path
) -> None:
    few = {"reference": frames["reference"].iloc[:700], "current": frames["current"].iloc[:600]}
    data = {side: write(tmp_path / side, frame, 4) for side, frame in few.items()}
    for side in ("reference", "current"):
        path = data[side] / "part-02.csv"
        if wrong in (side, "both"):
            lines = path.read_text().splitlines()
            lines[7] = lines[7].replace(",", ",,", 1)
            path.write_text("\n".join(lines) + "\n")
        elif wrong == "match in one" and side == "current":
            pd.read_csv(path).assign(match=1).to_csv(path, index=False)
    with pytest.raises(InputError) as wanted:
        in_one_piece(data, incumbent, tmp_path / "one")
    (tmp_path / "shards").mkdir()
    with pytest.raises(InputError) as found:
        in_shards(data, incumbent, tmp_path / "shards", most)
    assert str(found.value) == str(wanted.value) and "part-02.csv" in str(found.value)


def test_a_shard_that_is_missing(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    data = {side: write(tmp_path / side, frame.iloc[:100], 3) for side, frame in frames.items()}
    uris = {side: str(path) for side, path in data.items()}
    division = divide_sides(*uris.values())
    folders = [tmp_path / str(number) for number in range(6)]
    for number, folder in enumerate(folders):
        draw_shard(division, number, tmp_path, folder, uris=uris, seed=0)
    assert json.loads((folders[3] / RECORD).read_text())["side"] == "current"
    targets = {side: tmp_path / f"{side}.parquet" for side in data}
    for left in (folders[:5], folders[3:], folders[:3], folders[1:]):
        with pytest.raises(MlopsError, match="not all shards"):
            pool_shards(left, tmp_path, targets, uris=uris, seed=0)


def test_a_lost_shard_is_read_again_alone(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """What one that was lost has left in its folder does no harm, and the others' stay as they are."""
    data = {side: write(tmp_path / side, frame.iloc[:300], 2) for side, frame in frames.items()}
    uris = {side: str(path) for side, path in data.items()}
    division = divide_sides(*uris.values())
    folders = [tmp_path / str(number) for number in range(4)]
    for number, folder in enumerate(folders):
        draw_shard(division, number, tmp_path, folder, uris=uris, seed=0)

    def pooled(name: str) -> tuple[str, dict[str, Any], list[bytes]]:
        targets = {side: tmp_path / f"{name}-{side}" for side in data}
        version, report = pool_shards(folders, tmp_path, targets, uris=uris, seed=0)
        return version, report, [target.read_bytes() for target in targets.values()]

    wanted = pooled("before")
    for path in folders[1].iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    draw_shard(division, 1, tmp_path, folders[1], uris=uris, seed=0)
    assert pooled("after") == wanted


def test_shards_of_both_sides(tmp_path: Path) -> None:
    frame = generate(1_000, seed=1)
    many, few = str(write(tmp_path / "many", frame, 20)), str(write(tmp_path / "few", frame.iloc[:50], 2))
    one = tmp_path / "one.csv"
    frame.to_csv(one, index=False)

    def counts(reference: str, current: str) -> tuple[int, int]:
        found = divide_sides(reference, current)
        return len(found["reference"]["shards"]), len(found["current"]["shards"])

    assert counts(many, many) == (6, 6)
    assert counts(many, few) == (11, 1) and counts(few, many) == (1, 11)
    assert counts(str(one), many) == (1, 11) and counts(many, str(one)) == (11, 1)
    with pytest.raises(InputError, match="--current is missing"):
        divide_sides(many, "")
