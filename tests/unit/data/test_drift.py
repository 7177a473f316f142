"""Drift is found where it was put, and nowhere else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance

from matchmaking.base.errors import InputError
from matchmaking.data.drift import _noise, detect_drift, drift_files, halves, jensen_shannon
from matchmaking.data.sample import generate
from matchmaking.data.schema import CATEGORICAL, FEATURES

ROOT = Path(__file__).parents[3]


def make_pairs(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({column: rng.choice(["a", "b", "c", "d"], rows) for column in CATEGORICAL})
    frame["urgency_level"] = rng.integers(1, 6, rows)
    frame["budget"] = rng.integers(3_000, 50_000, rows)
    frame["case_complexity_score"] = rng.random(rows)
    frame["experience"] = rng.gamma(3.0, 2.5, rows)
    frame["success_rate"] = rng.beta(8, 3, rows)
    frame["rating"] = rng.uniform(2, 5, rows)
    frame["consultation_fee"] = rng.integers(1_000, 40_000, rows)
    frame["availability"] = rng.binomial(1, 0.75, rows)
    frame["match"] = rng.binomial(1, 0.12, rows)
    frame["score"] = rng.beta(1, 7, rows)
    return frame[[*FEATURES, "match", "score"]]


def by_column(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["column"]: row for row in result["columns"]}


def test_halves_of_one_dataset_do_not_drift(tmp_path: Path) -> None:
    reference, current = halves(make_pairs(4_000), seed=3)
    result = detect_drift(reference, current, tmp_path, self_comparison=True)
    assert not result["drifted"]
    assert result["drifted_columns"] == [] and result["share_drifted"] == 0 and result["reasons"] == []
    assert result["self_comparison"] is True
    assert result["rows"] == result["rows_used"] == {"reference": 2_000, "current": 2_000}
    kinds = [row["kind"] for row in result["columns"]]
    assert kinds == ["feature"] * 13 + ["target", "score"]


def test_each_kind_of_drift_is_found_and_no_other(tmp_path: Path) -> None:
    reference, current = make_pairs(3_000, 0), make_pairs(3_000, 1)
    current["budget"] = current["budget"] * 1.5
    current.loc[current.index[:900], "city"] = "never seen before"
    current["match"] = np.random.default_rng(5).binomial(1, 0.25, len(current))
    current["score"] = np.sqrt(current["score"])
    result = detect_drift(reference, current, tmp_path)
    assert result["drifted_columns"] == ["budget", "city", "match", "score"]  # the order of the columns
    assert result["share_drifted"] == pytest.approx(2 / 13)
    assert result["drifted"] and result["reasons"] == ["target drifted", "score drifted"]
    rows = by_column(result)
    assert rows["budget"]["method"] == rows["urgency_level"]["method"] == "wasserstein"
    assert rows["city"]["method"] == rows["availability"]["method"] == rows["match"]["method"] == "jensenshannon"
    # definition: the Wasserstein distance in standard deviations of the reference
    distance = wasserstein_distance(reference["budget"], current["budget"])
    assert rows["budget"]["statistic"] == pytest.approx(distance / reference["budget"].std(ddof=0))
    assert json.loads((tmp_path / "drift.json").read_text()) == result


def test_features_drift_as_a_whole_from_the_share_on(tmp_path: Path) -> None:
    reference, current = make_pairs(2_000, 0), make_pairs(2_000, 1)
    current[["budget", "rating"]] *= 2
    one = detect_drift(reference, current, tmp_path, share_threshold=0.2)
    assert not one["drifted"] and one["drifted_columns"] == ["budget", "rating"]
    assert detect_drift(reference, current, tmp_path, share_threshold=0.15)["reasons"] == ["2 of 13 features drifted"]


def test_small_samples_of_one_source_do_not_drift(tmp_path: Path) -> None:
    reference = make_pairs(12_000)
    for seed in range(1, 4):
        result = detect_drift(reference, make_pairs(120, seed), tmp_path)
        assert not result["drifted_columns"]
    assert any("thresholds of" in note for note in result["notes"])
    assert max(row["threshold"] for row in result["columns"]) > 0.2


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    detect_drift(make_pairs(300), make_pairs(300, 1), tmp_path / "new" / "folder")
    page = (tmp_path / "new" / "folder" / "drift.html").read_text(encoding="utf-8")
    assert "consultation_fee" in page
    assert "<script src" not in page and "<link" not in page


def test_target_and_score_may_be_missing(tmp_path: Path) -> None:
    reference, current = make_pairs(500), make_pairs(500, 1).drop(columns="match")
    result = detect_drift(reference, current.drop(columns="score"), tmp_path)
    assert {row["kind"] for row in result["columns"]} == {"feature"}
    assert result["notes"][:2] == [
        "target drift not measured: only the reference data has `match`",
        "score drift not measured: only the reference data has `score`",
    ]
    assert by_column(detect_drift(reference, current, tmp_path)).keys() >= {"score"}


def test_empty_and_constant_columns(tmp_path: Path) -> None:
    reference, current = make_pairs(1_000), make_pairs(1_000, 1)
    for frame in (reference, current):
        frame["rating"] = 4.0
        frame["city"] = "Pune"
        frame["experience"] = np.nan
    current["success_rate"] = np.nan
    result = detect_drift(reference, current, tmp_path)
    rows = by_column(result)
    assert rows["rating"]["statistic"] == rows["city"]["statistic"] == 0
    assert (rows["experience"]["statistic"], rows["experience"]["drifted"]) == (None, False)
    assert (rows["success_rate"]["statistic"], rows["success_rate"]["drifted"]) == (None, True)
    assert "`success_rate` is empty in the current data" in result["notes"]
    assert result["drifted_columns"] == ["success_rate"]


def test_the_same_category_in_another_dtype_is_no_drift(tmp_path: Path) -> None:
    reference = make_pairs(1_000)
    current = reference.astype({"match": float, "availability": bool, "case_type": "category"})
    assert all(row["statistic"] == 0 for row in detect_drift(reference, current, tmp_path)["columns"])


def test_distances_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever the order that its sets of texts have."""
    generate(3_000, seed=0).to_parquet(tmp_path / "pairs.parquet")
    code = """
import sys
from pathlib import Path
from matchmaking.data.drift import drift_files
folder, name = Path(sys.argv[1]), sys.argv[2]
files = {"result_path": folder / name, "page_path": folder / f"{name}.html"}
drift_files(folder / "pairs.parquet", folder / "pairs.parquet", self_comparison=True, seed=0, **files)
"""
    for seed in "1234":
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path), seed], env=env, check=True, cwd=ROOT)
    assert len({(tmp_path / seed).read_bytes() for seed in "1234"}) == 1


def test_large_frames_are_sampled_the_same_way_each_time(tmp_path: Path) -> None:
    reference, current = make_pairs(3_000), make_pairs(2_000, 1)
    result = detect_drift(reference, current, tmp_path, max_rows=2_500)
    assert result["rows"] == {"reference": 3_000, "current": 2_000}
    assert result["rows_used"] == {"reference": 2_500, "current": 2_000}
    assert any("random sample" in note for note in result["notes"])
    assert detect_drift(reference, current, tmp_path, max_rows=2_500) == result
    assert detect_drift(reference, current, tmp_path, max_rows=2_500, seed=1)["columns"] != result["columns"]


def test_what_cannot_be_compared_is_an_input_error(tmp_path: Path) -> None:
    pairs = make_pairs(100)
    with pytest.raises(InputError, match="the current data has no rows"):
        detect_drift(pairs, pairs.head(0), tmp_path)
    with pytest.raises(InputError, match="the reference data lacks column budget"):
        detect_drift(pairs.drop(columns="budget"), pairs, tmp_path)
    with pytest.raises(InputError, match="no feature has values"):
        detect_drift(pairs, pairs.assign(**dict.fromkeys(FEATURES, np.nan)), tmp_path)
    with pytest.raises(InputError, match="1 rows"):
        halves(pairs.head(1))
    assert not list(tmp_path.iterdir())


def test_halves_split_every_row_once() -> None:
    pairs = make_pairs(101)
    first, second = halves(pairs, seed=7)
    assert (len(first), len(second)) == (50, 51)
    pd.testing.assert_frame_equal(pd.concat([first, second]).sort_index(), pairs)
    assert halves(pairs, seed=7)[0].index.equals(first.index)
    assert not halves(pairs, seed=8)[0].index.equals(first.index)


def test_files_give_what_the_frames_give(tmp_path: Path) -> None:
    reference, current = make_pairs(400), make_pairs(300, 1).assign(rating=2.0)
    reference.to_parquet(tmp_path / "reference.parquet")
    current.to_parquet(tmp_path / "current.parquet")

    def compare(self_comparison: bool) -> dict[str, Any]:
        return drift_files(
            tmp_path / "reference.parquet",
            tmp_path / "current.parquet",
            self_comparison=self_comparison,
            seed=0,
            result_path=tmp_path / "result.json",
            page_path=tmp_path / "page.html",
        )

    assert compare(False)["drifted_columns"] == ["rating"]
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == {"reference": 400, "current": 300}
    itself = compare(True)
    assert itself["self_comparison"] and itself["rows"] == {"reference": 200, "current": 200}
    assert (tmp_path / "page.html").stat().st_size > 1_000_000


def test_the_distance_is_evidently_s(tmp_path: Path) -> None:
    reference, current = make_pairs(900), make_pairs(700, 1)
    rows = by_column(detect_drift(reference, current, tmp_path))
    for column in (*CATEGORICAL, "availability", "match"):
        shares = [frame[column].value_counts(normalize=True).sort_index() for frame in (reference, current)]
        assert rows[column]["statistic"] == pytest.approx(float(jensen_shannon(*(s.to_numpy() for s in shares))))


def categories(rng: np.random.Generator, weights: np.ndarray, rows: int) -> pd.Series:
    return pd.Series(rng.choice(len(weights), rows, p=weights / weights.sum()).astype(str))


@pytest.mark.parametrize(
    ("number", "rows", "shape"),
    [
        (7, (12_000, 100), "even"),
        (40, (12_000, 500), "even"),
        (100, (1_000, 1_000), "zipf"),
        (100, (12_000, 100), "even"),
    ],
)
def test_many_categories_are_no_false_alarm(number: int, rows: tuple[int, int], shape: str) -> None:
    """Once in a thousand by construction: of 50 pairs of samples of the same data, more than one is a sign."""
    rng = np.random.default_rng(number)
    weights = np.ones(number) if shape == "even" else 1 / np.arange(1, number + 1)
    alarms = 0
    for _ in range(50):
        reference, current = (categories(rng, weights, size) for size in rows)
        shares = pd.DataFrame({"p": reference.value_counts(), "q": current.value_counts()}).fillna(0)
        distance = jensen_shannon(shares["p"].to_numpy() / rows[0], shares["q"].to_numpy() / rows[1])
        alarms += distance >= max(0.1, _noise(reference, current, "nominal", 0))
    assert alarms <= 1


def test_many_categories_hide_no_drift(tmp_path: Path) -> None:
    """A fifth of the rows moved to one of 100 categories; the same rows as they were show nothing."""
    rng = np.random.default_rng(1)
    reference, current = make_pairs(12_000), make_pairs(500, 1)
    for frame in (reference, current):
        frame["city"] = categories(rng, np.ones(100), len(frame))
    assert detect_drift(reference, current, tmp_path)["drifted_columns"] == []
    current.loc[:99, "city"] = "7"
    assert detect_drift(reference, current, tmp_path)["drifted_columns"] == ["city"]


def test_too_few_rows_are_told_not_passed(tmp_path: Path) -> None:
    reference, current = make_pairs(2_000), make_pairs(1, 1)
    with pytest.raises(
        InputError, match=r"1 current against 2,000 reference rows are too few.* about (\d+) rows"
    ) as told:
        detect_drift(reference, current, tmp_path)
    needed = int(re.search(r"about (\d+)", str(told.value)).group(1))  # type: ignore[union-attr]
    result = detect_drift(reference, make_pairs(needed, 1), tmp_path)
    assert not any(row["too_few"] for row in result["columns"])
    # and that many are enough to see what is gross
    current = make_pairs(needed, 1).assign(city="a", budget=1e6)
    assert detect_drift(reference, current, tmp_path)["drifted_columns"] == ["budget", "city"]


def test_a_column_with_too_few_rows_for_its_categories_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    reference, current = make_pairs(2_000), make_pairs(60, 1)
    for frame in (reference, current):
        frame["city"] = categories(rng, np.ones(300), len(frame))
    result = detect_drift(reference, current, tmp_path)
    assert [row["column"] for row in result["columns"] if row["too_few"]] == ["city"]
    assert any("`city` has too few rows to tell; it takes about" in note for note in result["notes"])
    assert "city" not in result["drifted_columns"]


def test_scores_without_a_model_are_said_to_be_missing(tmp_path: Path) -> None:
    frames = [make_pairs(300, seed).drop(columns=["score", "match"]) for seed in (0, 1)]
    assert detect_drift(*frames, tmp_path)["notes"][:2] == [
        "target drift not measured: no data has `match`",
        "score drift not measured: there is no production model to score the pairs",
    ]
