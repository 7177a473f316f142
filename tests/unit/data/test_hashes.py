"""Hashes by the million are counted and found as numpy counts and finds them."""

import numpy as np
import pytest

from matchmaking.data.hashes import among, ascending, distinct


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_as_numpy_has_it(size: int) -> None:
    rng = np.random.default_rng(size)
    # from the whole range of 64 bits, of which a float holds none to the last digit, and many twice
    pool = rng.integers(0, 2**64, max(1, size // 2), dtype=np.uint64)
    values, others = rng.choice(pool, size), rng.choice(pool[: max(1, size // 4)], size // 2)
    others = np.concatenate([others, others + np.uint64(1)])
    assert distinct(values) == len(np.unique(values))
    assert ascending(values).tolist() == np.unique(values).tolist()
    assert among(values, others).tolist() == np.isin(values, others).tolist()
    assert among(others, values).tolist() == np.isin(others, values).tolist()
