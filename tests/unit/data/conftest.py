"""Pairs that are as they should be."""

from __future__ import annotations

import pandas as pd
import pytest

from matchmaking.data.sample import generate


@pytest.fixture
def pairs() -> pd.DataFrame:
    return generate(200, seed=0)
