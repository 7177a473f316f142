"""A challenger that does harm loses its traffic, where the installation says how: once, and never silently not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from matchmaking import tracking
from matchmaking.base import settings
from matchmaking.experiments.announce import keep_reading, tell_ended, tell_verdict
from matchmaking.experiments.page import EMPTY, with_traffic
from matchmaking.experiments.record import PAGE, RESULTS, under_way
from matchmaking.experiments.stop import see_to, stop_again, stop_harmful, stop_outside
from mlops.cli.app import app
from tests.experiment_fixtures import UNTIL
from tests.webhook import Hook

SAID: dict[str, Any] = {"experiment": "embeddings-1", "verdict": "harmful", "day": 20, "to_come": False}
SAID |= {"headline": "Stop.", "reason": "latency", "results": []}
STAMP = "20260401T000000Z"


def appending(path: Path, code: int = 0) -> str:
    """A command that says in a file of which experiment it was run."""
    return f"sh -c 'echo {{experiment}} >> {path}; echo no gateway; exit {code}'"


def tags(run_id: str) -> dict[str, str]:
    return dict(tracking.client().get_run(run_id).data.tags)


def description(run_id: str) -> str:
    """What MLflow shows first of the definition's run."""
    return tags(run_id)["mlflow.note.content"].replace("\\", "")


def reading(tmp_path: Path, **values: Any) -> Path:
    folder = tmp_path / "reading"
    folder.mkdir(exist_ok=True)
    (folder / RESULTS).write_text(json.dumps({**SAID, **values}))
    return folder


def test_it_is_stopped_once(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran))
    for verdict in ("better", "worse", "go on", "undecided", "equivalent", "unreadable"):
        assert stop_harmful(run_id, {**SAID, "verdict": verdict}) is None
    assert stop_harmful(run_id, {**SAID, "to_come": True}) is None and not ran.exists()
    for _ in range(2):
        stop = stop_harmful(run_id, SAID)
        assert stop and stop.state == "stopped" and tags(run_id)["experiment_stopped"] in stop.said
    assert ran.read_text() == "embeddings-1\n"
    # cut off before it was recorded, it is run again
    tracking.client().delete_tag(run_id, "experiment_stopped")
    stop_harmful(run_id, SAID)
    assert ran.read_text() == "embeddings-1\n" * 2


def test_without_a_command_people_are_told_that_traffic_goes_on(run_id: str, heard: Hook, tmp_path: Path) -> None:
    stop = stop_harmful(run_id, SAID)
    assert stop and stop.state == "on" and "KEEPS ITS TRAFFIC" in stop.said and "`mlops experiment stop`" in stop.said
    tell_verdict(run_id, SAID, [], "run-1")
    assert stop.said in heard.bodies[0]["message"]
    assert not {"experiment_stopped", "experiment_stop_failed"} & tags(run_id).keys()
    # what was never tried isn't tried by a later run: it may be long over
    keep_reading(reading(tmp_path), STAMP)
    assert stop_again() == []


def test_before_anything_is_kept_it_is_stopped(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a look that is killed meanwhile leaves an experiment that is under way, and is looked at again."""
    ran = tmp_path / "ran"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran))
    (tmp_path / "reading").mkdir()
    monkeypatch.setattr("matchmaking.experiments.announce.keep", lambda *_: pytest.fail("killed", pytrace=False))
    with pytest.raises(pytest.fail.Exception):
        keep_reading(reading(tmp_path), STAMP)
    assert ran.exists() and under_way(pd.Timestamp(UNTIL)) is not None


def test_what_failed_is_told_recorded_and_tried_again_until_it_works(
    run_id: str, heard: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran, code=4))
    _, stop = keep_reading(reading(tmp_path), STAMP)
    assert stop and stop.state == "failed" and "exit code 4: no gateway" in stop.said
    assert "no gateway" in tags(run_id)["experiment_stop_failed"] and tags(run_id)["experiment_ended"] == "harmful"
    # the next run finds no experiment under way, and tries all the same
    assert under_way(pd.Timestamp(UNTIL)) is None
    tell_ended([], "run-1")
    (first,) = heard.bodies
    assert "NOT be stopped" in first["message"] and "exit code 4: no gateway" in first["message"]
    assert "could NOT be stopped, and the challenger KEEPS ITS TRAFFIC" in description(run_id)
    # what this look has tried isn't tried, nor told, a second time
    assert stop_again(but=[run_id]) == [] and ran.read_text() == "embeddings-1\n" and len(heard.bodies) == 1
    assert [(each.state, each.told) for each in stop_again()] == [("failed", True)]
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran))
    assert [each.state for each in stop_again()] == ["stopped"] and stop_again() == []
    assert ran.read_text() == "embeddings-1\n" * 3
    assert heard.titles()[1:] == [
        "[experiment] embeddings-1: the harmful challenger is STILL NOT stopped.",
        "[experiment] embeddings-1: the harmful challenger was stopped.",
    ]
    assert "everybody has the champion again" in description(run_id)


def test_a_look_that_is_killed_while_it_stops_leaves_that_to_the_next(
    run_id: str, heard: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the next look reads: by then the logs may say that there is no harm, or another experiment is read."""
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran"))

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matchmaking.experiments.stop._run", killed)
        with pytest.raises(KeyboardInterrupt):
            keep_reading(reading(tmp_path), STAMP)
    assert "experiment_stopped" not in tags(run_id)
    assert "is NOT known to be stopped, and the challenger KEEPS ITS TRAFFIC" in description(run_id)
    _, stop = keep_reading(reading(tmp_path, verdict="go on"), STAMP)
    assert stop and stop.state == "stopped" and (tmp_path / "ran").read_text() == "embeddings-1\n"
    assert heard.titles() == ["[experiment] embeddings-1: the harmful challenger was stopped."]
    assert stop_again() == [] and "experiment_stop_failed" not in tags(run_id)


def test_what_was_cut_off_a_person_may_see_to(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matchmaking.experiments.stop.run_command", lambda *_: pytest.fail("killed", pytrace=False))
        with pytest.raises(pytest.fail.Exception):
            stop_harmful(run_id, SAID)
    # as `mlops experiment stop` does once the gateway is off
    assert see_to("embeddings-1", "`mlops experiment stop`") and "somebody has seen to it" in description(run_id)
    assert stop_again() == [] and not (tmp_path / "ran").exists()


def test_what_could_not_be_recorded_is_stopped_all_the_same(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran"))

    def full(*_: object) -> None:
        raise tracking.TrackingError("no room")

    monkeypatch.setattr(tracking, "tag_run", full)
    with pytest.raises(tracking.TrackingError):
        stop_harmful(run_id, SAID)
    assert (tmp_path / "ran").read_text() == "embeddings-1\n"


def test_the_kept_page_says_whether_the_challenger_is_served(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran", code=4))
    folder = reading(tmp_path)
    (folder / PAGE).write_text(f"<p>Stop.</p>{EMPTY}<p>Guardrails</p>")
    keep_reading(folder, STAMP)

    def kept(stamp: str) -> str:
        path = tracking.client().download_artifacts(run_id, f"report-{stamp}/{PAGE}", str(tmp_path))
        return Path(path).read_text()

    assert 'class="outcome bad"><p>It could NOT be stopped' in kept(STAMP) and "<p>Guardrails</p>" in kept(STAMP)
    # a step's input stays as it was
    assert EMPTY in (folder / PAGE).read_text()
    # by now the logs say something else: it is served all the same
    (folder / RESULTS).write_text(json.dumps({**SAID, "verdict": "go on"}))
    _, stop = keep_reading(folder, "20260402T000000Z")
    assert stop and stop.state == "failed" and "could NOT be stopped" in kept("20260402T000000Z")
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran"))
    keep_reading(folder, "20260403T000000Z")
    assert 'class="outcome plain"><p>It was stopped by itself' in kept("20260403T000000Z")


def test_what_is_said_on_a_page_is_text() -> None:
    html = with_traffic(f"<p>1</p>{EMPTY}<p>2</p>", r"no \1 <b> <!-- /traffic --> & $", served=True)
    assert r"no \1 &lt;b&gt; &lt;!-- /traffic --&gt; &amp; $" in html and html.endswith("<p>2</p>")
    # said again, it stands in the old one's place
    assert with_traffic(html, "", served=False) == f"<p>1</p>{EMPTY}<p>2</p>"


@pytest.mark.parametrize(
    ("command", "seconds", "said"),
    [
        ("kubectl set env deployment/gateway EXPERIMENT_MODE=off", "5", "it needs {experiment}"),
        ("/none {experiment}", "5", "can't be run"),
        ("sh -c 'sleep 60 {experiment}", "5", "can't be run: No closing quotation"),
        ("sh -c 'sleep 60; true' {experiment}", "0.3", "didn't end in 0.3 s"),
    ],
)
def test_a_command_that_is_none_is_a_failure(
    run_id: str, monkeypatch: pytest.MonkeyPatch, command: str, seconds: str, said: str
) -> None:
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", command)
    monkeypatch.setattr(settings, "EXPERIMENT_STOP_SECONDS", float(seconds))
    stop = stop_harmful(run_id, SAID)
    assert stop and stop.state == "failed" and said in stop.said


def test_a_tag_that_is_no_name_gets_into_no_command(
    run_id: str, heard: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever can write to MLflow can write the tag."""
    ran = tmp_path / "ran"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran))
    for key, value in {"ended": "harmful", "stop_failed": "no gateway"}.items():
        tracking.client().set_tag(run_id, f"experiment_{key}", value)
    for name in ("ranking-1 --help", "--help", f"x; touch {tmp_path}/pwned; echo ", f"x$(touch {tmp_path}/pwned)", ""):
        tracking.client().set_tag(run_id, "experiment_name", name)
        assert stop_again() == [] and not ran.exists() and not (tmp_path / "pwned").exists()
        assert "experiment_stopped" not in tags(run_id) and heard.titles() == []
        assert "is no experiment's name, and isn't stopped" in capsys.readouterr().out
        stop = stop_harmful(run_id, {**SAID, "experiment": name})
        assert stop and stop.state == "failed" and not ran.exists()


def test_what_somebody_has_seen_to_is_tried_no_more(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an experiment whose gateway is gone would fail each run for good."""
    ran = tmp_path / "ran"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran, code=4))
    assert not see_to("embeddings-1", "too early")
    _, stop = keep_reading(reading(tmp_path), STAMP)
    assert stop and "`mlops experiment end embeddings-1 --reason ...`" in stop.said
    # nor does it help to unset the command
    monkeypatch.delenv("MLOPS_EXPERIMENT_STOP_COMMAND")
    assert [each.state for each in stop_again()] == ["failed"]
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran, code=4))
    work = ["--work-dir", str(tmp_path)]
    done = CliRunner().invoke(app, ["experiment", "end", "embeddings-1", "--reason", "the machine is gone", *work])
    assert done.exit_code == 0 and "seen to" in done.output
    assert stop_again() == [] and ran.read_text() == "embeddings-1\n"
    assert tags(run_id)["experiment_ended"] == "harmful"
    stop = stop_harmful(run_id, SAID)
    assert stop and stop.state == "seen to" and "the machine is gone" in stop.said
    assert not see_to("embeddings-1", "twice") and not see_to("x' OR '1", "no name")


def test_that_it_was_stopped_is_said_by_each_later_look(
    run_id: str, heard: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran"))
    stop_harmful(run_id, SAID)
    for verdict in ("go on", "worse"):
        _, stop = keep_reading(reading(tmp_path, verdict=verdict), STAMP)
        assert stop and stop.state == "stopped"
    tell_verdict(run_id, {**SAID, "verdict": "worse"}, [], "run-1")
    assert stop.said in heard.bodies[0]["message"] and "keeps its traffic" not in heard.bodies[0]["message"]


def test_what_a_container_could_not_stop_is_stopped_from_outside(
    run_id: str, heard: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as in a container: the step has no command
    keep_reading(reading(tmp_path), STAMP)
    assert tags(run_id)["experiment_ended"] == "harmful" and stop_outside(SAID) == []
    ran = tmp_path / "ran"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran, code=4))
    assert stop_outside({"headline": "No experiment is under way."}) == [] and not ran.exists()
    assert stop_outside({**SAID, "to_come": True}) == [] and not ran.exists()
    assert [each.state for each in stop_outside(SAID)] == ["failed"]
    # a later run that finds none under way tries again
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(ran))
    assert [each.state for each in stop_outside({})] == ["stopped"] and stop_outside(SAID) == []
    assert ran.read_text() == "embeddings-1\n" * 2
    assert heard.titles()[-1] == "[experiment] embeddings-1: the harmful challenger was stopped."


def test_what_had_ended_otherwise_is_stopped_from_outside_too(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a step that has the command: harm is in the logs by now."""
    keep_reading(reading(tmp_path, verdict="better"), STAMP)
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran", code=4))
    assert [each.state for each in stop_outside(SAID)] == ["failed"]
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran"))
    assert [each.state for each in stop_outside(SAID)] == ["stopped"] and stop_outside(SAID) == []
    assert (tmp_path / "ran").read_text() == "embeddings-1\n" * 2 and tags(run_id)["experiment_ended"] == "better"


def test_what_was_not_stopped_is_tried_again_however_it_ended(
    run_id: str, heard: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look says that the next run tries again, so it has to."""
    keep_reading(reading(tmp_path, verdict="better"), STAMP)
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran", code=4))
    stop = stop_harmful(run_id, SAID)
    assert stop and stop.state == "failed" and "The next run tries again" in stop.said
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran"))
    assert [each.state for each in stop_again()] == ["stopped"] and stop_again() == []
    assert (tmp_path / "ran").read_text() == "embeddings-1\n" * 2 and tags(run_id)["experiment_ended"] == "better"


def test_what_a_container_could_not_stop_is_tried_again_whoever_was_killed(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step marks it before anything is kept: the process that is to stop it may never get there."""
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_OUTSIDE", "yes")
    # the step itself doesn't fail by it
    _, stop = keep_reading(reading(tmp_path), STAMP)
    assert stop and stop.state == "waiting" and "the process that began the run" in stop.said
    assert "is NOT known to be stopped, and the challenger KEEPS ITS TRAFFIC" in description(run_id)
    # nor does it try, or tell, what another run couldn't stop
    assert stop_again() == []
    monkeypatch.delenv("MLOPS_EXPERIMENT_STOP_OUTSIDE")
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", appending(tmp_path / "ran"))
    assert [each.state for each in stop_outside({})] == ["stopped"]
    assert (tmp_path / "ran").read_text() == "embeddings-1\n"
    # it has never failed
    assert "experiment_stop_failed" not in tags(run_id)
