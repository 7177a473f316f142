"""What the evaluation leaves for the decision."""

from pathlib import Path

import pandas as pd

from matchmaking.evaluation import evaluate_models
from matchmaking.sample import generate


def test_pairs_with_the_same_features_are_one_group(tmp_path: Path) -> None:
    pairs = generate(200, seed=1)
    repeated = pd.concat([pairs, pairs.head(50), pairs.head(10).assign(match=1 - pairs["match"].head(10))])
    repeated.to_parquet(tmp_path / "test.parquet", index=False)
    (tmp_path / "production").mkdir()
    evaluate_models(tmp_path / "test.parquet", tmp_path / "production", None, tmp_path / "scores", tmp_path / "out")
    scores = pd.read_parquet(tmp_path / "scores")
    group = scores["group"].to_numpy()
    assert scores["group"].dtype == "uint64"
    assert len(set(group)) == 200
    assert (group[200:250] == group[:50]).all() and (group[250:] == group[:10]).all()
