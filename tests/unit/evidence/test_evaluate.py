"""What the evaluation leaves for the decision."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data.sample import generate
from matchmaking.evidence.evaluate import evaluate_models
from matchmaking.model import production
from matchmaking.model.score import score_files


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


@pytest.fixture
def partly_nan(incumbent: Path, tmp_path: Path) -> Path:
    """A bundle whose model has finite weights, and gives NaN for pairs of the first kind of case alone: inf - inf."""
    import keras

    model = keras.Sequential([keras.layers.Input((47,)), *map(keras.layers.Dense, (1, 2, 1))])
    first, second, last = (np.zeros(shape, np.float32) for shape in ((47, 1), (1, 2), (2, 1)))
    first[0], second[0], last[:] = 3e38, (10, -10), 1
    for layer, weights in zip(model.layers, (first, second, last), strict=True):
        layer.set_weights([weights, np.zeros(weights.shape[1], np.float32)])
    model.layers[-1].activation = keras.activations.sigmoid
    bundle = shutil.copytree(incumbent, tmp_path / "partly nan")
    model.save(bundle / production.MODEL)
    return bundle


def test_a_model_that_gives_nan_for_some_pairs_is_named_and_nothing_is_made_of_it(
    partly_nan: Path, incumbent: Path, tmp_path: Path
) -> None:
    pairs = generate(300, seed=1)
    some = int((pairs["case_type"] == min(pairs["case_type"])).sum())
    assert 0 < some < 300
    source, scores, out = tmp_path / "pairs.parquet", tmp_path / "scores", tmp_path / "out"
    pairs.to_parquet(source, index=False)
    words = rf"lawyer_match_model\.h5 gives NaN for {some} of 300 pairs"
    for served, candidate in ((partly_nan, None), (incumbent, partly_nan)):
        with pytest.raises(InputError, match=words):
            evaluate_models(source, served, candidate, scores, out)
    with pytest.raises(InputError, match=words):
        score_files(source, source, partly_nan, scores, out)
    assert not scores.exists() and not out.exists()
    # of pairs that it has an answer for, nothing is wrong
    pairs[pairs["case_type"] != min(pairs["case_type"])].to_parquet(source, index=False)
    evaluate_models(source, partly_nan, None, scores, out)
    assert json.loads(out.read_text())["production"]["rows"] == 300 - some
