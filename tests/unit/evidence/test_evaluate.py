"""What the evaluation leaves for the decision."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data import drawn
from matchmaking.data.batches import rows_in
from matchmaking.data.drift import drift_files
from matchmaking.data.sample import generate
from matchmaking.evidence.evaluate import evaluate_models
from matchmaking.model import production
from matchmaking.model.score import score, score_files


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
        score_files(source, source, partly_nan, scores, out, self_comparison=False, seed=0)
    assert not scores.exists() and not out.exists()
    # of pairs that it has an answer for, nothing is wrong
    pairs[pairs["case_type"] != min(pairs["case_type"])].to_parquet(source, index=False)
    evaluate_models(source, partly_nan, None, scores, out)
    assert json.loads(out.read_text())["production"]["rows"] == 300 - some


@pytest.mark.parametrize("self_comparison", [True, False])
def test_drift_says_the_same_whether_all_pairs_are_scored_or_those_that_it_looks_at(
    incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, self_comparison: bool
) -> None:
    monkeypatch.setattr(drawn, "MAX_ROWS", 1_600)
    pairs = {name: generate(rows, seed=rows) for name, rows in (("reference", 5_000), ("current", 4_000))}
    for name, frame in pairs.items():
        frame.to_parquet(tmp_path / name, index=False)
        frame.assign(score=score(frame, incumbent)).to_parquet(tmp_path / f"{name} all", index=False)

    def compared(reference: str, current: str) -> dict[str, Any]:
        files = {"result_path": tmp_path / "result", "page_path": tmp_path / "page"}
        given = (tmp_path / reference, tmp_path / current)
        return drift_files(*given, self_comparison=self_comparison, seed=3, **files)

    ends = ("reference", "current", "reference drawn", "current drawn")
    given, (first, second) = [tmp_path / end for end in ends[:2]], [tmp_path / end for end in ends[2:]]
    score_files(*given, incumbent, first, second, self_comparison=self_comparison, seed=3)
    result = compared("reference drawn", "current drawn")
    rows = {"reference": 2_500, "current": 2_500} if self_comparison else {"reference": 5_000, "current": 4_000}
    assert result["rows"] == rows
    assert result["rows_used"] == {"reference": 1_600, "current": 1_600} == dict.fromkeys(rows, rows_in(first))
    expected = compared("reference all", "current all")
    # a score's last bit may hang on the batch it is asked for in
    statistics = [part["columns"][-1].pop("statistic") for part in (result, expected)]
    assert statistics[0] == pytest.approx(statistics[1], abs=1e-8)
    assert result["columns"][-1]["column"] == "score"
    assert result == expected
    # where none is left out, all are there
    monkeypatch.setattr(drawn, "MAX_ROWS", 5_000)
    score_files(*given, incumbent, first, second, self_comparison=self_comparison, seed=3)
    for name, scored in (("reference", first), ("current", second)):
        pd.testing.assert_frame_equal(pd.read_parquet(scored), pd.read_parquet(tmp_path / f"{name} all"))
