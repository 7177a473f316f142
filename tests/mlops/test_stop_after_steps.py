"""Once a run's steps, which had containers, have ended, harm is stopped, and all places say what came of it.

The whole of it runs in `tests/pipelines/test_experiment_runs.py`; here only what comes after the steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.experiments.page import EMPTY
from matchmaking.reporting.report import SUMMARY, write_summary
from matchmaking.reporting.summary import Failure, Summary
from mlops.local import run as local_run
from mlops.local.run import Outcome, _stop_from_here, _stopped
from tests.unit.experiments.conftest import heard, hook, run_id  # noqa: F401
from tests.webhook import Hook

NAME, STAMP = "experiment_20260401T000000Z", "20260401T000000Z"
READ = {"experiment": "embeddings-1", "verdict": "harmful", "to_come": False, "headline": "Stop.", "reason": "slow"}
Ended = Callable[..., Outcome]


@pytest.fixture
def ended(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ended:  # noqa: F811
    """A run whose steps have ended, with the reports that they have left and the MLflow run that is open still."""
    command(monkeypatch, tmp_path, 0)

    def make(error: Failure | None = None, **read: Any) -> Outcome:
        folder = tmp_path / NAME
        mine, _ = tracking.start_run("experiment", STAMP, NAME, {})
        (folder / "steps").mkdir(parents=True)
        (folder / "report.html").write_text(f"<p>Stop.</p>{EMPTY}")
        summary = Summary(
            pipeline="experiment",
            run_name=NAME,
            run_id=mine,
            status="failed" if error else "succeeded",
            experiment={**READ, **read},
            error=error,
        )
        (folder / "experiment.json").write_text(json.dumps(summary.experiment))
        write_summary(folder, summary)
        return Outcome(summary.as_dict(), folder, error.exit_code if error else 0)

    return make


def command(monkeypatch: pytest.MonkeyPatch, place: Path, code: int) -> None:
    stop = f"sh -c 'echo {{experiment}} >> {place}/ran; echo no gateway; exit {code}'"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", stop)


def recorded() -> Any:
    (found,) = tracking.client().search_runs(["1"], f"attributes.run_name = '{NAME}'")
    return found


def written(outcome: Outcome) -> Any:
    return json.loads((outcome.folder / SUMMARY).read_text())


def test_stopped_it_is_closed_and_all_places_say_so(ended: Ended, heard: Hook) -> None:  # noqa: F811
    outcome = _stopped(ended(stop="It is NOT known to be stopped", served=["embeddings-1"]), [], {})
    assert outcome.exit_code == 0 and recorded().info.status == "FINISHED"
    said = written(outcome)
    assert said == outcome.summary and said["status"] == "succeeded" and said["experiment"]["served"] == []
    page = (outcome.folder / "report.html").read_text()
    for text in (page, (outcome.folder / "report.txt").read_text(), said["experiment"]["stop"]):
        assert "It was stopped by itself" in text and "NOT known" not in text
    assert heard.titles() == ["[experiment] embeddings-1: the harmful challenger was stopped."]


def test_not_stopped_the_run_is_failed_and_that_is_told_once(
    ended: Ended,
    heard: Hook,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command(monkeypatch, tmp_path, 4)
    outcome = _stopped(ended(), [], {})
    assert outcome.exit_code == 1 and recorded().info.status == "FAILED"
    assert "no gateway" in recorded().data.tags["failure_reason"]
    said = written(outcome)
    assert said["status"] == "failed" and said["error"]["message"].count("no gateway") == 1
    assert said["experiment"]["served"] == ["embeddings-1"] and "no gateway" in said["experiment"]["stop"]
    assert "no gateway" in (outcome.folder / "report.html").read_text()
    assert heard.titles() == ["[experiment] embeddings-1: the harmful challenger is STILL NOT stopped."]


def test_what_was_tried_before_the_steps_is_not_tried_after_them(
    ended: Ended,
    heard: Hook,  # noqa: F811
    run_id: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracking.client().set_tag(run_id, "experiment_stop_failed", "no gateway")
    command(monkeypatch, tmp_path, 4)
    before, why = _stop_from_here({})
    assert [each.experiment for each in before] == ["embeddings-1"] and "no gateway" in why
    outcome = _stopped(ended(), before, {})
    assert outcome.exit_code == 1 and "no gateway" in outcome.summary["error"]["message"]
    # nor where it finds none under way
    assert _stop_from_here({"experiment": None, "verdict": None}, before)[0] == before
    assert (tmp_path / "ran").read_text() == "embeddings-1\n" and len(heard.bodies) == 1


def test_of_a_run_that_failed_harm_is_stopped_and_its_own_reason_stays(
    ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = _stopped(ended(Failure(step="report", message="the disk is full", exit_code=2)), [], {})
    assert (tmp_path / "ran").read_text() == "embeddings-1\n"
    assert outcome.exit_code == 2 and written(outcome)["error"]["message"] == "the disk is full"
    assert "It was stopped by itself" in written(outcome)["experiment"]["stop"]


def test_of_a_run_that_failed_both_reasons_are_told(
    ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(monkeypatch, tmp_path, 4)
    outcome = _stopped(ended(Failure(step="report", message="the disk is full", exit_code=2)), [], {})
    message = written(outcome)["error"]["message"]
    assert outcome.exit_code == 2 and message.startswith("the disk is full; embeddings-1: It could NOT be stopped")
    assert recorded().info.status == "FAILED"


def test_interrupted_while_it_stops_the_run_is_failed_and_the_next_one_tries(
    ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matchmaking.experiments.stop._run", interrupted)
        outcome = _stopped(ended(), [], {})
    assert outcome.exit_code == 130 and written(outcome)["error"]["message"] == "interrupted"
    assert recorded().info.status == "FAILED" and not (tmp_path / "ran").exists()
    assert [each.state for each in _stop_from_here({})[0]] == ["stopped"]


def test_where_nothing_is_known_the_run_is_failed_and_people_are_told(
    ended: Ended,
    heard: Hook,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise tracking.TrackingError("no answer")

    outcome = ended()
    monkeypatch.setattr(local_run, "stop_outside", unreachable)
    outcome = _stopped(outcome, [], {})
    assert outcome.exit_code == 1 and recorded().info.status == "FAILED"
    assert "isn't known: no answer" in written(outcome)["error"]["message"]
    assert heard.titles() == ["[failed] A pipeline run failed"]
