"""A run's numbers as MLflow has them: what a page over many runs draws, without opening one's artifacts."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric
from mlflow.utils.validation import _validate_metric

from matchmaking.data.drift import detect_drift
from matchmaking.data.sample import generate
from matchmaking.evidence.compare import decide
from matchmaking.evidence.metrics import evaluate
from matchmaking.reporting.report import summarise
from matchmaking.reporting.run_metrics import run_params, run_scalars
from tests.decision_fixtures import POLICY, simulate

SHA = "5d5e" * 16
STEPS = [{"step": "train", "wall_seconds": 14.25, "import_seconds": 5.5, "peak_mb": 612.3}]
DATA = {
    "rows": 1_000,
    "positives": 117,
    "unseen": {"case_type": {"Space": 30, "Sea": 10}, "location": {"Moon": 5}},
    "duplicates": 0,
}


def scalars(pipeline: str = "retrain", **found: Any) -> dict[str, float]:
    return run_scalars(of(pipeline, **found), found.get("decision"))


def of(pipeline: str, **found: Any) -> dict[str, Any]:
    return summarise(
        {"data": DATA, **found},
        None,
        pipeline=pipeline,
        run_name=f"{pipeline}_20260105T060000Z",
        status="succeeded",
        steps=STEPS,
        production_sha256={"before": {"lawyer_match_model.h5": SHA}, "after": {"lawyer_match_model.h5": SHA}},
    ).as_dict()


def test_the_data_and_the_time_of_each_step():
    found = scalars()
    assert found == {
        "rows": 1_000.0,
        "match_rate": 0.117,
        "unseen_categories": 3.0,
        "unseen_share": 0.04,
        "seconds_train": 14.25,
    }
    assert run_params(of("evaluate"))["production_model"] == SHA


def test_each_overall_difference_with_its_interval_and_its_margin():
    scores = simulate(production=4.0, candidate=2.0)
    decision = decide(scores, POLICY)
    found = scalars(decision=decision)
    primary = decision["primary"]
    assert run_params(of("retrain"), decision)["primary_metric"] == "average_precision"
    assert found["difference_average_precision"] == primary["improvement"] > 0
    assert [found[f"difference_average_precision_{end}"] for end in ("low", "high")] == list(primary["ci"])
    assert found["difference_average_precision_margin"] == POLICY.primary.min_effect
    for test in decision["guardrails"]:
        if test["name"] in POLICY.guardrails.margins:
            assert found[f"difference_{test['name']}"] == test["improvement"]
            assert found[f"difference_{test['name']}_margin"] == test["margin"]
        else:
            assert f"difference_{test['name']}" not in found


def test_a_first_model_has_no_difference():
    decision = decide(simulate().drop(columns="production"), POLICY)
    assert not [name for name in scalars(decision=decision) if name.startswith("difference")]


def test_each_columns_drift_and_whether_it_counts(tmp_path):
    pairs = generate(1_500, seed=1)
    moved = pairs.assign(budget=pairs["budget"] * 3)
    drift = detect_drift(pairs, moved, tmp_path)
    found = scalars("monitor", drift=drift)
    columns = pd.DataFrame(drift["columns"]).set_index("column")
    assert found["drifted_budget"] == 1.0 and found["drifted_experience"] == 0.0
    for column, row in columns.iterrows():
        assert found[f"drift_{column}"] == row["statistic"]
        assert found[f"drift_threshold_{column}"] == row["threshold"]


def test_a_column_that_could_not_be_measured_has_no_number(tmp_path):
    pairs = generate(1_500, seed=1)
    drift = detect_drift(pairs, pairs.assign(budget=np.nan), tmp_path)
    found = scalars("monitor", drift=drift)
    assert "drift_budget" not in found and found["drifted_budget"] == 1.0


@pytest.mark.parametrize("models", [1, 2])
def test_mlflow_takes_each_of_them(models, tmp_path):
    scores = simulate(rows=1_000)
    pairs = generate(600, seed=1)
    drift = detect_drift(pairs, pairs, tmp_path)
    names = ("production", "candidate")[:models]
    found = scalars(
        evaluation={name: evaluate(scores["match"], scores[name]) for name in names},
        decision=decide(scores, POLICY) if models == 2 else None,
        drift=drift,
    )
    assert {f"{name}_average_precision" for name in names} <= set(found)
    for name, value in found.items():
        assert isinstance(value, float)
        _validate_metric(name, value, 1, 0)
        Metric(name, value, 1, 0)
