"""The policy's limits, past which `--fail-on-drift` and `--fail-on-degraded` fail a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from matchmaking.base.errors import InputError
from matchmaking.evidence.limits import degraded, drift_crossed, unchecked
from matchmaking.evidence.policy import Limits, load_policy

LIMITS = Limits(drifted_share=0.5, target_or_scores=True, production={"roc_auc": 0.9, "brier": 0.08})


def monitored(share: float, *drifted: str) -> dict[str, Any]:
    kinds = {"match": "target", "score": "score"}
    columns = [{"column": name, "kind": kind, "drifted": kind in drifted} for name, kind in kinds.items()]
    return {"drift": {"share_drifted": share, "columns": columns}}


def evaluated(**metrics: float | None) -> dict[str, Any]:
    return {"metrics": {"production": metrics}}


def test_drift() -> None:
    assert drift_crossed(monitored(0.49), LIMITS) == []
    assert drift_crossed(monitored(0.5), LIMITS) == ["50% of the features drifted, limit 50%"]
    assert drift_crossed(monitored(0.0, "target"), LIMITS) == ["target drifted"]
    assert drift_crossed(monitored(0.0, "score"), LIMITS.model_copy(update={"target_or_scores": False})) == []
    # the strictest limit lets data pass in which nothing drifted
    strict = LIMITS.model_copy(update={"drifted_share": 0.0})
    assert drift_crossed(monitored(0.0), strict) == []
    assert drift_crossed(monitored(0.08), strict)


def test_degraded() -> None:
    assert degraded(evaluated(roc_auc=0.9, brier=0.08), LIMITS) == []
    assert degraded(evaluated(roc_auc=0.89, brier=0.08), LIMITS) == [
        "production's roc_auc is 0.8900, limit at least 0.9"
    ]
    assert degraded(evaluated(roc_auc=0.9, brier=0.09), LIMITS) == ["production's brier is 0.0900, limit at most 0.08"]
    # one class alone has no ROC AUC
    assert degraded(evaluated(roc_auc=None, brier=0.01), LIMITS) == [
        "production's roc_auc is unknown, limit at least 0.9"
    ]
    # a guard that finds nothing to guard is not green
    assert degraded({"metrics": {"production": None}}, LIMITS) == ["there is no production model to measure"]


def test_what_drift_could_not_be_checked_is_past_the_limit() -> None:
    assert drift_crossed({"drift": None}, LIMITS) == ["drift was not measured"]
    alone = monitored(0.0)
    alone["drift"]["columns"] = [row for row in alone["drift"]["columns"] if row["column"] != "score"]
    words = ["drift of production's scores was not measured: there is no production model"]
    assert drift_crossed(alone, LIMITS) == words
    assert drift_crossed(alone, LIMITS.model_copy(update={"target_or_scores": False})) == []
    few = monitored(0.0)
    few["drift"]["columns"][1]["too_few"] = True
    assert drift_crossed(few, LIMITS) == ["score drift can't be told: too few rows"]
    few = monitored(0.25)
    few["drift"]["columns"] += [
        {"column": name, "kind": "feature", "drifted": name == "a", "too_few": name == "b"} for name in "abcd"
    ]
    assert drift_crossed(few, LIMITS) == ["1 of 4 features have too few rows to tell, limit 50%"]


def test_labels_that_are_not_known_yet_are_said_not_failed() -> None:
    assert unchecked(monitored(0.0), LIMITS) == []
    young = monitored(0.0)
    young["drift"]["columns"] = [row for row in young["drift"]["columns"] if row["column"] != "match"]
    assert drift_crossed(young, LIMITS) == []
    assert unchecked(young, LIMITS) == ["drift of the target was not measured: a dataset has no column 'match'"]
    assert unchecked(young, LIMITS.model_copy(update={"target_or_scores": False})) == []


def test_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("limits:\n  production: {f1: 0.7}\n  drifted_share: 0.2\n")
    limits = load_policy(path).limits
    assert (limits.drifted_share, limits.target_or_scores) == (0.2, True)
    assert limits.production == {**load_policy().limits.production, "f1": 0.7}
    for text, message in (
        ("limits: {drifted_share: 2}", "limits.drifted_share"),
        ("limits: {drift: 0.2}", "unknown key; allowed here: drifted_share"),
        ("limits: {production: {auc: 0.9}}", "limits.production"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_policy(path)
