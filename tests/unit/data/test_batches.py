"""Reading and writing beside the work: the same rows, one batch ahead and no more, and no error lost."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from matchmaking.data.batches import BATCH, ahead, batches, writing
from matchmaking.data.sample import generate


def test_items_come_in_order_and_are_made_by_another_thread() -> None:
    makers = set()

    def make() -> Iterator[int]:
        for number in range(50):
            makers.add(threading.get_ident())
            yield number

    assert [*ahead(make())] == [*range(50)]
    assert threading.get_ident() not in makers
    assert [*ahead([])] == []


def test_one_item_is_made_ahead_and_no_more() -> None:
    made = []
    items = ahead(made.append(number) or number for number in range(9))  # type: ignore[func-returns-value]
    for taken in range(1, 9):
        next(items)
        deadline = time.monotonic() + 5
        while len(made) <= taken and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        assert len(made) == taken + 1


def test_what_fails_ahead_is_raised_in_its_place() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    items = ahead(make())
    assert (next(items), next(items)) == (1, 2)
    with pytest.raises(ValueError, match="the third"):
        next(items)


def test_leaving_early_leaves_no_thread() -> None:
    before = threading.active_count()
    items = ahead(iter(range(9)))
    next(items)
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("rows", [1, BATCH - 1, BATCH, 2 * BATCH + 7])
def test_what_is_written_in_pieces_is_read_again(tmp_path: Path, rows: int) -> None:
    pairs = generate(rows, seed=0)
    with writing(tmp_path / "pairs.parquet") as out:
        for start in range(0, rows, 50_000):
            out.write(pairs.iloc[start : start + 50_000])
    again = pd.concat([part.astype(pairs.dtypes) for part in batches(tmp_path / "pairs.parquet")])
    pd.testing.assert_frame_equal(again, pairs)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_a_disk_that_is_full_is_told_and_leaves_nothing(tmp_path: Path, groups: int) -> None:
    """The thread that writes fails while rows are being made, or at the end; a limit for files stands for the disk."""
    pairs = generate(BATCH, seed=0)
    before = threading.active_count()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"), writing(tmp_path / "pairs.parquet") as out:
            for _ in range(groups):
                out.write(pairs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [*tmp_path.iterdir()] == []
    assert threading.active_count() == before
