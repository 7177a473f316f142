"""`mlops run experiment`, as a user runs it: from the recorded definition to the verdict that is told once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from tests.docker_engine import Engine
from tests.experiment_fixtures import DEFINITION, EARLY, START, UNTIL, record_earlier, write_logs
from tests.webhook import Hook

Mlops = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it is recorded, and where this process looks."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.client.cache_clear()
    yield tmp_path
    tracking.client.cache_clear()


def summaries(work: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(work.glob("runs/*/summary.json"))]


def definition_run() -> Any:
    (found,) = tracking.client().search_runs(["1"], "tags.experiment_name = 'embeddings-1'")
    return found


def test_from_the_definition_to_the_verdict(mlops: Mlops, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *logs, _, _ = write_logs(work, 0.12)
    with closing(Hook()) as hook:
        monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)

        def run(*more: object) -> subprocess.CompletedProcess[str]:
            return mlops("run", "experiment", *logs, "--work-dir", work, *more)

        record_earlier(DEFINITION)
        # before it has begun there is nothing to read, which is no failure of a daily run
        done = run("--until", (START - timedelta(hours=1)).isoformat())
        assert done.returncode == 0 and "No experiment is under way" in done.stdout, done.stderr
        # early on nothing is decided
        done = run("--until", EARLY)
        assert done.returncode == 0 and "embeddings-1: Nothing is decided yet: go on." in done.stdout, done.stderr
        assert definition_run().data.tags["experiment_verdict"] == "go on" and hook.titles() == []
        # a day to come may be looked at, and that is all: nothing is kept, tagged or told of it
        done = run("--until", (START + timedelta(days=35)).isoformat())
        assert done.returncode == 0 and "This looks at a day to come" in done.stdout, done.stderr
        assert definition_run().data.tags["experiment_verdict"] == "go on" and hook.titles() == []
        done = run("--until", UNTIL)
        assert done.returncode == 0 and "embeddings-1: The challenger is better." in done.stdout, done.stderr
        # told once, and it is no longer the one under way
        assert [title.partition(":")[0] for title in hook.titles()] == ["[experiment] embeddings-1"]
        done = run("--until", UNTIL)
        assert done.returncode == 0 and "No experiment is under way" in done.stdout, done.stderr
        # by its name it is read again, and says the same without telling anybody
        done = run("--until", UNTIL, "--experiment-name", "embeddings-1")
        assert done.returncode == 0 and "The challenger is better." in done.stdout, done.stderr
        assert len(hook.titles()) == 1
    read = [summary["experiment"] for summary in summaries(work)]
    assert [said["verdict"] for said in read] == [None, "go on", "better", "better", None, "better"]
    assert [said.get("to_come") for said in read] == [None, False, True, False, None, False]
    assert read[3] == read[5] and dict(read[3]["results"])["clients exposed"] == "3,000"
    last = summaries(work)[-1]
    page = (work / "runs" / last["run_name"] / "report.html").read_text()
    assert "The challenger is better." in page and "data:image/png" in page
    assert [step["step"] for step in last["steps"]] == ["gather", "experiment", "report"]
    # kept with the definition, and the runs are the pipeline's
    kept = definition_run()
    assert kept.data.tags["experiment_verdict"] == "better" and kept.info.status == "FINISHED"
    assert kept.data.metrics["difference"] == pytest.approx(read[3]["difference"])
    reports = [one.path for one in tracking.client().list_artifacts(kept.info.run_id) if one.is_dir]
    assert len(reports) == 3
    inside = {Path(one.path).name for one in tracking.client().list_artifacts(kept.info.run_id, reports[-1])}
    assert inside == {"experiment.html", "experiment.json"}
    runs = tracking.client().search_runs(["1"], "tags.pipeline = 'experiment'")
    assert len(runs) == 6 and {run.info.status for run in runs} == {"FINISHED"}


def test_a_part_of_the_log_that_comes_late_ends_nothing(
    mlops: Mlops, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *logs, _, _ = write_logs(work, -0.12)
    record_earlier(DEFINITION)
    first, _ = sorted((work / "exposures").rglob("*.jsonl"))
    whole = first.read_text()
    # of one arm, half hasn't come yet
    lines = whole.splitlines(keepends=True)
    late = [line for line in lines if '"variant": "challenger"' in line][::2]
    first.write_text("".join(line for line in lines if line not in late))
    with closing(Hook()) as hook:
        monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)

        def run(until: str) -> str:
            done = mlops("run", "experiment", *logs, "--work-dir", work, "--until", until)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert "Sample-ratio-mismatch" in run(EARLY)
        assert definition_run().data.tags["experiment_verdict"] == "unreadable"
        assert "experiment_ended" not in definition_run().data.tags
        first.write_text(whole)
        assert "embeddings-1: The challenger is worse." in run(UNTIL)
        assert [title.partition(": ")[2] for title in hook.titles()] == [
            "The arms can't be compared, so the results aren't shown.",
            "The challenger is worse.",
        ]
    assert definition_run().data.tags["experiment_ended"] == "worse"
    # latency of all days is judged meanwhile, and the results aren't shown
    (said,) = [one["experiment"] for one in summaries(work) if one["experiment"]["verdict"] == "unreadable"]
    assert (
        "low" not in said and said["results"] == [] and "latency by day" in {one["name"] for one in said["guardrails"]}
    )


def test_what_goes_wrong_is_one_reason(mlops: Mlops, work: Path) -> None:
    exposures, log, *_ = write_logs(work, 0.0)
    record_earlier(DEFINITION)

    def fails(*given: object) -> str:
        done = mlops("run", "experiment", *given, "--work-dir", work)
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stderr

    assert "--exposures is missing" in fails()
    assert "--data is for" in fails(exposures, log, "--data", "d")
    none = fails(exposures, log, "--experiment-name", "other")
    assert "in step gather: no experiment 'other' is recorded" in none
    broken = work / "broken.csv"
    broken.write_text("unit,time,match\nclient-1,2026-03-01T00:00:00Z,perhaps\n")
    said = fails(exposures, log, "--outcomes", broken, "--until", UNTIL)
    assert "in step experiment: outcomes broken.csv" in said and "perhaps" in said
    assert "exposures: " in fails(exposures, work / "nowhere", "--until", UNTIL)
    # the run says why, and the experiment is what it was
    assert summaries(work)[-1]["error"]["step"] == "gather"
    failed = tracking.client().search_runs(["1"], "tags.pipeline = 'experiment'")
    assert len(failed) == 3 and {run.info.status for run in failed} == {"FAILED"}
    assert "experiment_verdict" not in definition_run().data.tags


def report(work: Path, summary: dict[str, Any]) -> str:
    """The page of a run."""
    return (work / "runs" / summary["run_name"] / "report.html").read_text()


def of_pipeline() -> list[Any]:
    """The pipeline's MLflow runs, the first one first."""
    return list(tracking.client().search_runs(["1"], "tags.pipeline = 'experiment'", order_by=["start_time ASC"]))


def harmful(work: Path) -> list[object]:
    """The options of the logs of an experiment that is recorded, whose challenger takes twice as long."""
    *logs, _, _ = write_logs(work, 0.0)
    for part in (work / "exposures").rglob("*.jsonl"):
        lines = [json.loads(line) for line in part.read_text().splitlines()]
        slow = [{**line, "latency_ms": line["latency_ms"] * (1 + (line["variant"] == "challenger"))} for line in lines]
        part.write_text("".join(json.dumps(line) + "\n" for line in slow))
    record_earlier(DEFINITION)
    return [*logs]


def test_harm_is_stopped_or_the_run_fails_until_it_is(
    mlops: Mlops, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = harmful(work)
    ran = work / "ran"
    stop = f"sh -c 'echo {{experiment}} >> {ran}; echo no gateway; exit $0'"

    def run(code: int) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", f"{stop} {code}")
        return mlops("run", "experiment", *logs, "--until", UNTIL, "--work-dir", work)

    done = run(4)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT be stopped" in done.stderr and "exit code 4: no gateway" in done.stderr
    kept = definition_run()
    assert kept.data.tags["experiment_verdict"] == kept.data.tags["experiment_ended"] == "harmful"
    # and so it is told wherever people look: the page, the run, its experiment
    (said,) = summaries(work)
    assert said["experiment"]["served"] == ["embeddings-1"] and "NOT be stopped" in said["experiment"]["stop"]
    assert "NOT be stopped" in report(work, said) and "NOT be stopped" in kept.data.tags["mlflow.note.content"]
    # it has ended, so there is nothing to read; what wasn't stopped is tried all the same, and told once
    with closing(Hook()) as hook:
        monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
        done = run(4)
        assert done.returncode == 1 and "NOT be stopped" in done.stderr, done.stdout + done.stderr
        again = [title for title in hook.titles() if "STILL NOT stopped" in title or "run failed" in title]
        assert again == ["[experiment] embeddings-1: the harmful challenger is STILL NOT stopped."]
        monkeypatch.delenv("MLOPS_NOTIFY_URLS")
    # of no experiment that is under way the page says it as well
    assert "embeddings-1: It could NOT be stopped" in report(work, summaries(work)[-1])
    done = run(0)
    assert done.returncode == 0 and "No experiment is under way" in done.stdout, done.stdout + done.stderr
    assert "experiment_stopped" in definition_run().data.tags
    done = run(4)
    assert done.returncode == 0 and ran.read_text() == "embeddings-1\n" * 3, done.stdout + done.stderr
    runs = tracking.client().search_runs(["1"], "tags.pipeline = 'experiment'", order_by=["attributes.start_time"])
    assert [run.info.status for run in runs] == ["FAILED", "FAILED", "FINISHED", "FINISHED"]


def test_of_steps_in_containers_the_process_that_began_the_run_stops_harm(
    mlops: Mlops, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They don't have the command; once the run has ended, the process that began it runs it, and fails by it."""
    logs = harmful(work)
    ran = work / "ran"
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def run(code: int, *more: object) -> subprocess.CompletedProcess[str]:
        stop = f"sh -c 'echo {{experiment}} >> {ran}; echo no gateway; exit {code}'"
        monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", stop)
        return mlops("run", "experiment", *logs, "--until", UNTIL, "--work-dir", work, "--runner", "docker", *more)

    with closing(Engine()) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        done = run(4, "--json")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "NOT be stopped" in done.stderr and "exit code 4: no gateway" in done.stderr
        # every step had a container, which ended well and had no command; it was run once, after them
        assert len(engine.ended) == 3 and {each.returncode for each in engine.ended.values()} == {0}
        environments = [set(each.partition("=")[0] for each in held["Env"]) for held in engine.created.values()]
        assert all("MLFLOW_TRACKING_URI" in env and "MLOPS_EXPERIMENT_STOP_COMMAND" not in env for env in environments)
        assert ran.read_text() == "embeddings-1\n"
        # the run isn't FINISHED as if it had stopped, and says why
        (recorded,) = of_pipeline()
        assert recorded.info.status == "FAILED" and "no gateway" in recorded.data.tags["failure_reason"]
        (said,) = summaries(work)
        assert said["experiment"]["served"] == ["embeddings-1"]
        kept = tracking.client().download_artifacts(recorded.info.run_id, "report.html", str(work))
        for page in (report(work, said), Path(kept).read_text()):
            assert "no gateway" in page and "is NOT known to be stopped" not in page
        assert said == json.loads(done.stdout) and said["status"] == "failed"
        assert said["error"]["step"] == "report" and "no gateway" in said["error"]["message"]
        kept = definition_run().data.tags
        assert kept["experiment_ended"] == "harmful" and "no gateway" in kept["experiment_stop_failed"]
        # the next run tries again, once, and that is told once; it finds none under way
        with closing(Hook()) as hook:
            monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
            done = run(4)
            monkeypatch.delenv("MLOPS_NOTIFY_URLS")
            # of the verdict itself nobody had heard
            assert sorted(hook.titles()) == [
                "[experiment] embeddings-1: Stop: the challenger does harm.",
                "[experiment] embeddings-1: the harmful challenger is STILL NOT stopped.",
            ]
        assert done.returncode == 1 and ran.read_text() == "embeddings-1\n" * 2, done.stdout + done.stderr
        assert "embeddings-1: It could NOT be stopped" in report(work, summaries(work)[-1])
        done = run(0)
        assert done.returncode == 0 and "No experiment is under way" in done.stdout, done.stdout + done.stderr
        assert "experiment_stopped" in definition_run().data.tags and ran.read_text() == "embeddings-1\n" * 3
        assert "It was stopped by itself" in report(work, summaries(work)[-1])
    assert [each.info.status for each in of_pipeline()] == ["FAILED", "FAILED", "FINISHED"]


def test_harm_is_stopped_from_outside_also_where_the_report_step_fails(
    mlops: Mlops, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does, for instance, by an earlier experiment that still can't be stopped."""
    logs = harmful(work)
    found = tracking.client().search_runs(["1"], "tags.experiment_name = 'embeddings-1'")
    ran = work / "ran"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    old = record_earlier({**DEFINITION, "name": "old-1", "salt": "old-1"})
    for tag, value in {"ended": "harmful", "stop_failed": "no gateway"}.items():
        tracking.client().set_tag(old, f"experiment_{tag}", value)
    stop = f"sh -c 'echo {{experiment}} >> {ran}; test {{experiment}} != old-1'"
    monkeypatch.setenv("MLOPS_EXPERIMENT_STOP_COMMAND", stop)
    with closing(Engine()) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        done = mlops("run", "experiment", *logs, "--until", UNTIL, "--work-dir", work, "--runner", "docker")
    assert done.returncode == 1, done.stdout + done.stderr
    (said,) = summaries(work)
    assert said["error"]["step"] == "report" and "NOT be stopped" in said["error"]["message"]
    tags = tracking.client().get_run(found[0].info.run_id).data.tags
    assert tags["experiment_ended"] == "harmful" and "experiment_stopped" in tags
    assert "embeddings-1" in ran.read_text().splitlines()
