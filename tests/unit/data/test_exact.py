"""Numbers in Parquet: which of them are what was written, and which are what a CSV parser has made of it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from matchmaking.data.parquet_rows import ENOUGH, ParquetRows, tell_exact
from matchmaking.data.read import read_pairs
from matchmaking.data.sample import generate
from tests.pairs_fixtures import write


def parquet(folder: Path, pairs: pd.DataFrame, name: str = "pairs.parquet") -> Path:
    folder.mkdir(exist_ok=True)
    pairs.to_parquet(folder / name, index=False)
    return folder / name


LONG = {"experience": 28, "rating": 4, "success_rate": 1, "case_complexity_score": 1}


def with_long_numbers(rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    pairs = generate(rows, seed=0)
    for name, most in LONG.items():
        pairs[name] = rng.random(rows) * most + (name == "rating")
    return pairs


@pytest.mark.parametrize("name", sorted(LONG))
@pytest.mark.parametrize("made", ["exactly", "by pandas"])
def test_how_numbers_were_made_is_told_by_column(tmp_path: Path, name: str, made: str) -> None:
    """One column that somebody has worked out, among such that a CSV parser has read; and the other way round."""
    exact = with_long_numbers(2_000)
    parsed = read_pairs(write(tmp_path, exact))[0]
    mixed = parsed.assign(**{name: exact[name]}) if made == "exactly" else exact.assign(**{name: parsed[name]})
    assert (mixed[name] == parsed[name]).all() == (made == "by pandas")
    pd.testing.assert_frame_equal(read_pairs(parquet(tmp_path, mixed))[0], parsed, check_exact=True)
    # in parts of which none has enough by itself
    folder = tmp_path / "parts"
    for start in range(0, 2_000, 300):
        parquet(folder, mixed.iloc[start : start + 300], f"{start:04}.parquet")
    assert ENOUGH > 300
    pd.testing.assert_frame_equal(read_pairs(folder)[0], parsed, check_exact=True)


def test_how_numbers_were_made_is_told_by_file(tmp_path: Path) -> None:
    """Whoever made the first part: pandas the one, a warehouse the next."""
    exact = with_long_numbers(2_000)
    parsed = read_pairs(write(tmp_path, exact))[0]
    for number, order in enumerate(((parsed, exact), (exact, parsed))):
        folder = tmp_path / str(number)
        for place, each in enumerate(order):
            parquet(folder, each.iloc[place * 1_000 : (place + 1) * 1_000], f"{place}.parquet")
        pd.testing.assert_frame_equal(read_pairs(folder)[0], parsed, check_exact=True)


@pytest.mark.parametrize("made", ["exactly", "by pandas"])
def test_how_a_small_part_was_made_is_told_by_its_own_numbers(tmp_path: Path, made: str) -> None:
    """What lies beside it, made otherwise and more of it, has no say."""
    exact = with_long_numbers(1_200)
    parsed = read_pairs(write(tmp_path, exact))[0]
    one, others = (exact, parsed) if made == "exactly" else (parsed, exact)
    for start in range(0, 1_200, 300):
        parquet(tmp_path / "parts", (others if start else one).iloc[start : start + 300], f"{start:04}.parquet")
    assert ENOUGH > 300
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "parts")[0], parsed, check_exact=True)


def test_many_parts_are_told_in_the_time_of_their_number() -> None:
    class Part(ParquetRows):
        def __init__(self) -> None:
            pass

        def evidence(self) -> dict[str, np.ndarray]:
            return {name: np.array([3.0, 0.5]) for name in LONG}

    def seconds(parts: int) -> float:
        files = [Part() for _ in range(parts)]
        start = time.process_time()
        tell_exact(files)
        assert all(file.exact == set(LONG) for file in files)
        return time.process_time() - start

    # 64 times as long where each looked at all others
    assert seconds(1_280) < 24 * max(min(seconds(160) for _ in range(3)), 0.002)


@pytest.mark.parametrize(("name", "least", "most"), [("success_rate", 0.5, 0.95), ("experience", 20, 28)])
def test_how_numbers_were_made_is_told_wherever_they_lie(tmp_path: Path, name: str, least: float, most: float) -> None:
    """A CSV parser makes others of few exact numbers in some places, and of many of its own in others."""
    exact = generate(6_000, seed=0)
    exact[name] = least + np.random.default_rng(0).random(len(exact)) * (most - least)
    parsed = read_pairs(write(tmp_path, exact))[0]
    for made in (exact, parsed):
        for start in range(0, len(exact), 600):
            parquet(tmp_path / "parts", made.iloc[start : start + 600], f"{start:04}.parquet")
        pd.testing.assert_frame_equal(read_pairs(tmp_path / "parts")[0], parsed, check_exact=True)


@pytest.mark.parametrize("rows", [3_000, 120_000])
def test_numbers_in_their_order_tell_as_well(tmp_path: Path, rows: int) -> None:
    """From 0.5 to 0.9 a CSV parser makes others of none; only the last of these rows are beyond."""
    exact = generate(rows, seed=0)
    rates = np.random.default_rng(0).random(rows) * 0.4 + 0.5
    rates[-1_000:] += 0.06
    exact["success_rate"] = np.sort(rates)
    parsed = read_pairs(write(tmp_path, exact))[0]
    assert not (exact["success_rate"] == parsed["success_rate"]).all()
    for made in (exact, parsed):
        pd.testing.assert_frame_equal(read_pairs(parquet(tmp_path, made))[0], parsed, check_exact=True)


def test_long_numbers_behind_many_short_ones_tell(tmp_path: Path) -> None:
    """A file in the order of its ratings, say: the first of them have few digits."""
    exact = with_long_numbers(26_000)
    for name in LONG:
        exact.loc[:24_999, name] = exact[name].round(1).clip(1, 4) if name == "rating" else exact[name].round(1)
    parsed = read_pairs(write(tmp_path, exact))[0]
    assert not (exact["rating"] == parsed["rating"]).all()
    pd.testing.assert_frame_equal(read_pairs(parquet(tmp_path, exact))[0], parsed, check_exact=True)


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_numbers_of_fewer_bits_are_those_of_their_text(tmp_path: Path, pairs: pd.DataFrame, kind: str) -> None:
    """0.1 of 32 bits is written 0.1, and not as the number of 64 bits that these are."""
    short = pairs.astype({"rating": kind, "success_rate": kind, "experience": kind, "urgency_level": kind})
    one = write(tmp_path, short.astype({"urgency_level": int}))
    path = parquet(tmp_path, short)
    assert (pd.read_parquet(path)["rating"].astype(float) != pd.read_csv(one)["rating"]).any()
    pd.testing.assert_frame_equal(read_pairs(path)[0], read_pairs(one)[0], check_exact=True)
