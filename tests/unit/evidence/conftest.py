"""Scores of a candidate that is better."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.decision_fixtures import simulate


@pytest.fixture(scope="module")
def better() -> pd.DataFrame:
    return simulate(candidate=1.5)
