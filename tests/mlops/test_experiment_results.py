"""`mlops experiment plan|start|status|report`: recorded in a real MLflow, read from a log as the gateway's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from matchmaking import tracking
from matchmaking.experiments.assignment import assign, joins_at
from matchmaking.experiments.record import under_way
from mlops.cli.app import app
from tests.experiment_fixtures import DEFINITION, START, UNTIL, record_earlier, write_logs
from tests.unit.experiments.test_definition import GIVEN


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # where the commands look with --work-dir
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.client.cache_clear()
    yield tmp_path
    tracking.client.cache_clear()


SALT = DEFINITION["salt"]


def call(*args: object) -> Any:
    return CliRunner().invoke(app, ["experiment", *map(str, args)], env={"COLUMNS": "100"})


def test_from_the_definition_to_the_report(work: Path) -> None:
    record_earlier(DEFINITION)
    logs = write_logs(work, 0.12)
    status = call("status", "embeddings-1", *logs, "--work-dir", work)
    assert status.exit_code == 0
    assert "embeddings-1: The challenger is better." in status.output
    assert "clients exposed: 3,000" in status.output
    said = json.loads(call("status", "embeddings-1", *logs, "--work-dir", work, "--json").stdout)
    assert (said["verdict"], said["day"], said["checks"]) == ("better", 25, [])
    assert 0 < said["low"] < said["difference"] < said["high"]
    made = call("report", "embeddings-1", *logs, "--out", work / "out", "--work-dir", work)
    assert made.exit_code == 0
    assert "The challenger is better." in (work / "out/experiment.html").read_text()
    assert said.items() <= json.loads((work / "out/experiment.json").read_text()).items()
    run = tracking.client().search_runs(["1"], "tags.experiment_name = 'embeddings-1'")[0]
    assert run.data.tags["experiment_verdict"] == "better"
    # a report by hand ends nothing, and says so; the pipeline's verdict does
    assert "experiment_ended" not in run.data.tags and "embeddings-1 is under way still" in made.output
    assert "--experiment-name embeddings-1" in made.output and under_way(pd.Timestamp(UNTIL)) is not None
    tracking.client().set_tag(run.info.run_id, "experiment_ended", "better")
    again = call("report", "embeddings-1", *logs, "--out", work / "out", "--work-dir", work)
    assert "embeddings-1 has ended before (better)" in again.output
    assert run.data.metrics["difference"] == pytest.approx(said["difference"])
    assert run.info.status == "FINISHED"


def test_a_definition_is_recorded_before_its_start_and_a_day_to_come_is_shown_alone(work: Path) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    (work / "experiment.json").write_text(json.dumps({**DEFINITION, "start": start.isoformat()}))
    started = call("start", work / "experiment.json", "--work-dir", work)
    assert started.exit_code == 0 and "recorded, sha256" in started.output
    logs = write_logs(work, 0.12, start)
    for command in ("status", "report"):
        out = ["--out", work / "out"] if command == "report" else []
        shown = call(command, "embeddings-1", *logs, *out, "--work-dir", work)
        assert shown.exit_code == 0 and "This looks at a day to come" in shown.output
    assert "This looks at a day to come" in (work / "out/experiment.html").read_text()
    (run,) = tracking.client().search_runs(["1"], "tags.experiment_name = 'embeddings-1'")
    assert "experiment_verdict" not in run.data.tags and "difference" not in run.data.metrics
    assert not [one.path for one in tracking.client().list_artifacts(run.info.run_id) if one.is_dir]


def gateway_of(definition: dict[str, Any], **change: Any) -> dict[str, Any]:
    arms = {arm: {"address": "127.0.0.1:1", "model": definition[arm]} for arm in ("champion", "challenger")}
    return {"experiment": definition["name"], "salt": definition["salt"], "mode": "shadow", **arms, **change}


def test_a_gateway_is_held_against_the_definition_before_it_is_recorded_and_after(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    definition = {**DEFINITION, "start": start.isoformat()}
    (work / "experiment.json").write_text(json.dumps(definition))
    record = work / "experiment" / "gateway.yaml"
    record.parent.mkdir()

    def serves(**change: Any) -> None:
        record.write_text(json.dumps(gateway_of(definition, **change)))

    def told(*args: object) -> tuple[int, str]:
        done = call(*args, "--work-dir", work)
        return getattr(done.exception, "exit_code", done.exit_code), f"{done.output}{done.exception}"

    serves(salt="pepper")
    code, said = told("start", work / "experiment.json")
    assert code == 3 and "the salt 'pepper'" in said
    assert told("check", "--gateway", record)[0] == 2
    # named, it has to be this experiment's; where it usually is, another one's is none of its business
    serves(experiment="other-1")
    assert told("start", work / "experiment.json", "--gateway", record.parent)[0] == 3
    code, said = told("start", work / "experiment.json")
    assert code == 0 and "recorded, sha256" in said
    serves()
    code, said = told("check", "--gateway", record.parent)
    assert code == 0 and "models, salt and share are as its definition says" in said
    serves(mode="ab", share=10)
    code, said = told("check", "--gateway", record)
    assert code == 3 and "it exposes clients before the start" in said
    # one that has ended is ramped up no more
    told("end", "embeddings-1", "--reason", "withdrawn")
    serves()
    code, said = told("check", "--gateway", record)
    assert code == 3 and "has ended (by hand)" in said


def test_an_experiment_that_was_given_up_is_ended_and_the_other_is_read(work: Path) -> None:
    record_earlier(DEFINITION)
    later = (START + timedelta(days=1)).isoformat()
    given_up = record_earlier({**DEFINITION, "name": "embeddings-2", "salt": "embeddings-2", "start": later})
    now = pd.Timestamp(UNTIL)
    assert (found := under_way(now)) is not None and found[1].name == "embeddings-2"
    ended = call("end", "embeddings-2", "--reason", "the challenger was\nwithdrawn", "--work-dir", work)
    assert ended.exit_code == 0
    assert (found := under_way(now)) is not None and found[1].name == "embeddings-1"
    tags = tracking.client().get_run(given_up).data.tags
    assert (tags["experiment_ended"], tags["experiment_end_reason"]) == ("by hand", "the challenger was withdrawn")
    again = call("end", "embeddings-2", "--reason", "x", "--work-dir", work)
    assert again.exit_code and "has ended: by hand" in str(again.exception)
    assert "no experiment" in str(call("end", "other", "--reason", "x", "--work-dir", work).exception)
    assert "--reason is empty" in str(call("end", "embeddings-1", "--reason", " ", "--work-dir", work).exception)


def test_a_look_by_hand_stops_nobody_unless_it_is_told_to(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_earlier(DEFINITION)
    logs = write_logs(work, 0.0)
    for part in (work / "exposures").rglob("*.jsonl"):
        lines = [json.loads(line) for line in part.read_text().splitlines()]
        slow = [{**line, "latency_ms": line["latency_ms"] * (1 + (line["variant"] == "challenger"))} for line in lines]
        part.write_text("".join(json.dumps(line) + "\n" for line in slow))
    ran = work / "ran"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", f"sh -c 'echo {{experiment}} >> {ran}'")
    for command in (["status"], ["report", "--out", str(work / "out")]):
        done = call(command[0], "embeddings-1", *logs, *command[1:], "--work-dir", work)
        assert done.exit_code == 0 and not ran.exists()
        assert "KEEPS ITS TRAFFIC" in done.output and "`--stop` runs" in done.output
    done = call("status", "embeddings-1", *logs, "--work-dir", work, "--stop")
    assert done.exit_code == 0 and ran.read_text() == "embeddings-1\n" and "stopped by itself" in done.output


def test_each_look_says_that_a_challenger_is_served_which_an_earlier_one_could_not_stop(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the logs by now say that it does no harm."""
    run_id = record_earlier(DEFINITION)
    logs = write_logs(work, 0.0)
    tracking.client().set_tag(run_id, "experiment_stop_failed", "2026-04-01T00:00:00Z: no gateway")
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", f"sh -c 'echo {{experiment}} >> {work}/ran'")
    done = call("report", "embeddings-1", *logs, "--work-dir", work, "--out", work / "out")
    assert done.exit_code == 0 and "could NOT be stopped" in done.output and "no gateway" in done.output
    assert 'class="outcome bad"><p>It could NOT be stopped' in (work / "out/experiment.html").read_text()
    done = call("status", "embeddings-1", *logs, "--work-dir", work, "--stop")
    assert done.exit_code == 0 and (work / "ran").read_text() == "embeddings-1\n" and "was stopped by" in done.output


def test_another_version_of_the_service_in_the_log_forbids_to_read_it(work: Path) -> None:
    record_earlier(DEFINITION)
    logs = write_logs(work, 0.0)
    for version, part in zip(("1.4", "1.5"), sorted((work / "exposures").rglob("*.jsonl")), strict=True):
        part.write_text(part.read_text().replace("}\n", f', "service": "{version}"}}\n'))
    said = json.loads(call("status", "embeddings-1", *logs, "--work-dir", work, "--json").stdout)
    assert said["verdict"] == "unreadable" and "1.4, 1.5" in json.dumps(said["checks"])


def test_outcomes_of_clients_in_no_arm_are_no_sign_of_a_lost_log(work: Path) -> None:
    """At a share of 10 % the backend's outcomes are of everybody; of who is in an arm none may be without exposure."""
    record_earlier(DEFINITION)
    logs = write_logs(work, 0.0)
    parts = sorted((work / "exposures").rglob("*.jsonl"))

    def found(share: float, but: str = "") -> set[str]:
        for part in parts:
            kept = [line for line in part.read_text().splitlines() if assign(SALT, json.loads(line)["unit"], share)]
            part.write_text("".join(f"{line}\n" for line in kept if f'"{but}"' not in line))
        said = json.loads(call("status", "embeddings-1", *logs, "--work-dir", work, "--json").stdout)
        return {one["code"] for one in said["checks"]}

    assert found(10) == set()
    last = next(f"client-{n}" for n in range(2_000, 2_500) if joins_at(SALT, f"client-{n}") < 5)
    assert found(10, but=last) == {"outcome-without-exposure"}


def test_what_goes_wrong_is_one_line(work: Path) -> None:
    logs = write_logs(work, 0.0)
    nothing = call("status", "embeddings-1", *logs, "--work-dir", work)
    assert nothing.exit_code and "no experiment 'embeddings-1' is recorded" in str(nothing.exception)
    (work / "late.json").write_text(json.dumps(GIVEN))
    late = call("start", work / "late.json", "--work-dir", work)
    assert late.exit_code and "give a later start" in str(late.exception)
    record_earlier({**GIVEN, "start": START.isoformat()})
    zone = call("status", "embeddings-1", *logs[:-1], "2026-03-01", "--work-dir", work)
    assert "no time with an offset" in str(zone.exception)
    (work / "outcomes.csv").write_text("")
    assert "can't be read" in str(call("status", "embeddings-1", *logs, "--work-dir", work).exception)


def test_the_plan_of_past_pairs(tmp_path: Path) -> None:
    past = pd.DataFrame({"unit": np.repeat(np.arange(1_000), 2), "match": [1, 1] * 100 + [0, 0] * 900})
    past.to_csv(tmp_path / "past.csv", index=False)
    said = call("plan", tmp_path / "past.csv", "--effect", 0.02).output
    # two pairs that are alike are one: 2 * (1.96 + 0.84)^2 * 2 * 0.09 / 0.02^2
    assert "1,000 clients, match_rate 0.1000" in said and "7,064 with one" in said
    assert "score" not in said
    past.assign(score=past["match"] * 0.5 + past["unit"] % 2 * 0.3).to_parquet(tmp_path / "past.parquet")
    assert "The champion's score saves" in call("plan", tmp_path / "past.parquet", "--effect", 0.02).output
    past.drop(columns="match").to_csv(tmp_path / "past.csv", index=False)
    assert "no column match" in str(call("plan", tmp_path / "past.csv", "--effect", 0.02).exception)
