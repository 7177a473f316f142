"""From logs to the page: one answer for one state of the logs, nothing shown that isn't to be read; and the record."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from matchmaking import tracking
from matchmaking.base.errors import InputError, RefusedError
from matchmaking.experiments.analysis import analyse, numbers
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.record import (
    NAME_TAG,
    RESULTS,
    SHA256_TAG,
    keep,
    read_definition,
    record,
    recorded,
    under_way,
)
from matchmaking.reporting.experiment import experiment_report
from tests.unit.experiments.test_definition import GIVEN
from tests.unit.experiments.test_integrity import DEFINED, assigned, logs
from tests.unit.experiments.test_units import at

NOW = at(27)


def better() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The challenger's clients match more often; and what is known of the pairs."""
    exposures, outcomes = logs()
    rng = np.random.default_rng(9)
    more = outcomes["unit"].str.endswith("1") & (rng.random(len(outcomes)) < 0.25)
    outcomes.loc[more, "match"] = 1
    outcomes["request"] = exposures["request"].iloc[: len(outcomes)].to_numpy()
    pairs = pd.DataFrame(
        {
            "request": exposures["request"],
            "score": rng.random(len(exposures)),
            "probability": rng.random(len(exposures)),
            "lawyer": rng.integers(50, size=len(exposures)),
            "case_type": rng.choice(["Tax", "Fraud"], len(exposures)),
        }
    )
    return exposures, outcomes, pairs


def test_logs_to_verdict_and_page() -> None:
    guarded = DEFINED.model_copy(
        update={"guardrails": DEFINED.guardrails.model_copy(update={"slices": {"case_type": ("Tax", "Fraud")}})}
    )
    exposures, outcomes, pairs = better()
    found = analyse(guarded, exposures, outcomes, NOW, pairs, assigned)
    assert found.verdict.state == "better"
    assert (found.looks, found.exposed) == (27, exposures["unit"].nunique())
    assert [one.name for one in found.guardrails] == [
        "latency",
        "errors",
        "latency by day",
        "errors by day",
        "recall case_type=Tax",
        "recall case_type=Fraud",
    ]
    assert found.overlap is not None and found.overlap["common"] == found.overlap["matches_common"] == 1
    said = json.loads(json.dumps(numbers(found), allow_nan=False))
    assert said["lawyer_overlap"]["lawyers"] == 50 and said["fixed_horizon"]["state"] == found.fixed["state"]
    assert said["betting"] == {"low": found.betting.low[-1], "high": found.betting.high[-1]}
    text = experiment_report(found)
    assert "The challenger is better." in text and "data:image/png;base64," in text and found.definition.sha256 in text
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")


def test_a_later_look_says_the_same_of_the_days_before() -> None:
    exposures, outcomes, _ = better()
    whole = analyse(DEFINED, exposures, outcomes, NOW, None, assigned)
    # the logs as they were on that day, looked at in its afternoon
    then = at(15.6)
    early = analyse(
        DEFINED, exposures[exposures["time"] <= then], outcomes[outcomes["time"] <= then], then, None, assigned
    )
    assert len(early.table) == 15
    pd.testing.assert_frame_equal(early.table, whole.table.iloc[:15])
    # the day that isn't over is no part of it
    midnight = analyse(DEFINED, exposures, outcomes, at(15), None, assigned)
    assert (early.exposed, early.guardrails, early.checks) == (midnight.exposed, midnight.guardrails, midnight.checks)


def test_what_comes_after_a_clients_deadline_changes_nothing() -> None:
    exposures, outcomes, pairs = better()
    guarded = DEFINED.model_copy(
        update={"guardrails": DEFINED.guardrails.model_copy(update={"slices": {"case_type": ("Tax", "Fraud")}})}
    )
    then = at(15.6)
    early = analyse(guarded, exposures, outcomes[outcomes["time"] <= then], then, pairs, assigned)
    # matches of the same pairs' other requests that are told at last, all of the champion's clients
    rest = exposures.iloc[len(outcomes) :]
    late = rest[rest["unit"].str.endswith("0")].assign(match=1, time=rest["time"] + pd.Timedelta(days=7))
    more = pd.concat([outcomes, late[["unit", "time", "match", "request"]]], ignore_index=True)
    again = analyse(guarded, exposures, more, then, pairs, assigned)
    assert [one.name for one in again.guardrails][-1] == "recall case_type=Fraud"
    assert str((again.guardrails, again.overlap)) == str((early.guardrails, early.overlap))
    pd.testing.assert_frame_equal(again.table, early.table)


def test_what_is_not_to_be_read_is_not_shown() -> None:
    exposures, outcomes, pairs = better()
    exposures.loc[3, "model"] = "c" * 64
    found = analyse(DEFINED, exposures, outcomes, NOW, pairs, assigned)
    assert found.verdict.state == "unreadable"
    text = experiment_report(found)
    assert "other-model" in text and "Results" not in text and "data:image/png" not in text


def test_hostile_ids_are_text_on_the_page() -> None:
    exposures, outcomes, _ = better()
    exposures.loc[exposures["unit"] == exposures["unit"][7], "unit"] = "<img src=x onerror=alert(1)>"
    assert "<img src=x" not in experiment_report(analyse(DEFINED, exposures, outcomes, NOW, None, assigned))


def test_before_the_start_and_without_columns() -> None:
    exposures, outcomes, _ = better()
    with pytest.raises(InputError, match="begins on 2026-01-05 00:00 UTC"):
        analyse(DEFINED, exposures, outcomes, at(-0.1))
    with pytest.raises(InputError, match="exposure log: no column variant"):
        analyse(DEFINED, exposures.drop(columns="variant"), outcomes, NOW)
    first_day = analyse(DEFINED, exposures, outcomes, at(0.5))
    assert first_day.verdict.state == "go on"
    assert "too few clients yet" in experiment_report(first_day)


def test_of_the_pairs_only_known_columns_are_read() -> None:
    exposures, outcomes, pairs = better()
    guarded = DEFINED.model_copy(
        update={"guardrails": DEFINED.guardrails.model_copy(update={"slices": {"case_type": ("Tax",)}})}
    )
    plain = analyse(guarded, exposures, outcomes, NOW, pairs, assigned)
    more = pairs.assign(unit="x", variant="champion", time=NOW, look=0, day=0, challenger=True)
    same = analyse(guarded, exposures, outcomes, NOW, more, assigned)
    # as text, since what isn't known is NaN
    assert str((same.guardrails, same.overlap)) == str((plain.guardrails, plain.overlap))
    with pytest.raises(InputError, match="pairs: no column case_type"):
        analyse(guarded, exposures, outcomes, NOW, pairs.drop(columns="case_type"), assigned)


@pytest.fixture
def mlflow_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracking.client.cache_clear()


@pytest.mark.usefixtures("mlflow_file")
def test_a_start_that_was_cut_off_is_completed_and_fails_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = pd.Timestamp.now("UTC")
    start = (now + pd.Timedelta(hours=1)).to_pydatetime()
    torn = Definition.model_validate({**GIVEN, "name": "torn", "start": start})
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(tracking.client(), "log_artifacts", away)
        with pytest.raises(KeyboardInterrupt):
            record(torn)
    with pytest.raises(InputError, match="no experiment 'torn'"):
        recorded("torn")
    run_id = record(torn)
    assert recorded("torn") == (run_id, torn)
    # as earlier versions left it: found by its name, and without its definition
    broken, _ = tracking.start_run("definition", tracking.now(), "broken", {})
    other = torn.model_copy(update={"name": "broken"})
    tracking.tag_run(broken, {NAME_TAG: "broken", SHA256_TAG: other.sha256})
    later = now + pd.Timedelta(hours=2)
    assert under_way(later) == (run_id, torn)
    assert "the definition of broken is missing" in capsys.readouterr().out
    assert record(other) == broken and recorded("broken") == (broken, other)


@pytest.mark.usefixtures("mlflow_file")
def test_a_definition_is_recorded_once_and_before_its_start(tmp_path: Path) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    definition = Definition.model_validate({**GIVEN, "start": start})
    run_id = record(definition)
    assert record(definition) == run_id
    assert recorded("embeddings-1") == (run_id, definition)
    with pytest.raises(RefusedError, match="recorded with another definition"):
        record(definition.model_copy(update={"alpha": 0.1}))
    with pytest.raises(RefusedError, match="fixed before the first exposure"):
        record(Definition.model_validate({**GIVEN, "name": "late"}))
    for name in ("none", "x' or tags.a = '"):
        with pytest.raises(InputError, match="no experiment"):
            recorded(name)
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "experiment.html").write_text("a page")
    said = {"difference": 0.01, "low": None, "verdict": "go on", "day": 3}
    (tmp_path / "page" / RESULTS).write_text(json.dumps(said))
    keep(run_id, tmp_path / "page")
    run = tracking.client().get_run(run_id)
    assert (run.data.tags["experiment_verdict"], run.data.metrics["difference"]) == ("go on", 0.01)
    (tmp_path / "page" / RESULTS).write_text(json.dumps({**said, "to_come": True}))
    with pytest.raises(RefusedError, match="day 3 isn't over"):
        keep(run_id, tmp_path / "page")
    # what was recorded is compared with its sha256
    tracking.client().set_tag(run_id, SHA256_TAG, "0" * 64)
    with pytest.raises(RefusedError, match="isn't the one that was recorded"):
        recorded("embeddings-1")


def test_a_definition_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in GIVEN.items()))
    assert read_definition(path) == Definition.model_validate(GIVEN)
    path.write_text("name: [")
    with pytest.raises(InputError, match="not YAML at line"):
        read_definition(path)
    path.write_text("name: x")
    with pytest.raises(InputError, match=r"experiment.yaml isn't readable: hypothesis: Field required"):
        read_definition(path)
    with pytest.raises(InputError, match="can't be read"):
        read_definition(tmp_path / "none")
