"""`mlops schedule` against a stand-in for the Kubeflow Pipelines server (see tests/kfp_server.py)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from matchmaking.base.errors import InputError
from mlops.kubeflow import schedule
from mlops.kubeflow.kfp_api import Server, ServerError
from tests.kfp_server import FakeKfp, Fault, kfp_server

Mlops = Callable[..., subprocess.CompletedProcess[str]]

FILE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: schedules}
data:
  timeZone: Etc/UTC
  evaluate.schedule: "0 2 * * *"
  monitor.schedule: "0 4 * * 1"
  retrain.schedule: "30 3 * * MON"
"""
ARGUMENTS = {
    "retrain": {"data": "d", "production": "p", "candidates": "c"},
    "evaluate": {"data": "d", "production": "p"},
    "monitor": {"data": "d", "production": "p"},
}


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with kfp_server() as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "schedules.yaml"
    path.write_text(FILE)
    return path


def test_apply_list_remove(kfp: FakeKfp, file: Path, mlops: Mlops) -> None:
    done = mlops("schedule", "apply", "--file", file, "--host", kfp.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("created") == 3
    assert "runs twice" in " ".join(done.stderr.split())
    found = {run.display_name: run for run in kfp.recurring.values()}
    assert {name: run.trigger.cron_schedule.cron for name, run in found.items()} == {
        "evaluate": "0 0 2 * * *",
        "monitor": "0 0 4 * * 1",
        "retrain": "0 30 3 * * MON",
    }
    for run in found.values():
        assert (run.max_concurrency, run.no_catchup, run.mode) == ("1", True, "ENABLE")
    assert found["retrain"].runtime_config.parameters == {
        "data": "s3://datasets/pairs.csv",
        "production": "s3://production",
        "candidates": "s3://candidates",
    }
    shown = mlops("schedule", "list", "--host", kfp.url)
    assert all(word in shown.stdout for word in ("retrain", "30 3 * * MON", "evaluate", "monitor"))
    removed = mlops("schedule", "remove", "--host", kfp.url)
    assert "removed: retrain, evaluate, monitor" in removed.stdout
    assert kfp.recurring == {}
    assert "no recurring run of ours" in mlops("schedule", "list", "--host", kfp.url).stdout


def test_apply_changes_what_differs(kfp: FakeKfp, file: Path) -> None:
    server = Server(kfp.url)
    schedules = schedule.read_file(file)
    assert set(schedule.apply(server, schedules, ARGUMENTS).values()) == {"created"}
    before = set(kfp.recurring)
    assert set(schedule.apply(server, schedules, ARGUMENTS).values()) == {"unchanged"}
    assert set(kfp.recurring) == before
    done = schedule.apply(server, {**schedules, "monitor": "0 5 * * 2"}, ARGUMENTS)
    assert done == {"evaluate": "unchanged", "monitor": "replaced", "retrain": "unchanged"}
    assert len(kfp.recurring) == 3
    assert len(set(kfp.recurring) - before) == 1
    other = {**ARGUMENTS, "retrain": {**ARGUMENTS["retrain"], "data": "elsewhere"}}
    assert schedule.apply(server, schedules, other)["retrain"] == "replaced"


def test_apply_gives_a_run_the_service_account_that_it_has_by_now(kfp: FakeKfp, file: Path) -> None:
    server = Server(kfp.url)
    schedules = schedule.read_file(file)
    schedule.apply(server, schedules, ARGUMENTS)
    for run in kfp.recurring.values():
        # KFP names its own where none was given; "evaluate" has one of an earlier version
        run.service_account = "mlops-experiment" if run.display_name == "evaluate" else "pipeline-runner"
    done = schedule.apply(server, schedules, ARGUMENTS)
    assert done == {"evaluate": "replaced", "monitor": "unchanged", "retrain": "unchanged"}


def test_runs_are_given_what_the_file_says(kfp: FakeKfp, file: Path, mlops: Mlops) -> None:
    lines = (
        FILE
        + """  retrain.arguments: |
    seed: 3
    split: hash
    memory: 3Gi
    data: s3://datasets/file.csv
    policy:
      auto_promote: true
"""
    )
    file.write_text(lines)
    done = mlops("schedule", "apply", "--file", file, "--data", "s3://datasets/option.csv", "--host", kfp.url)
    assert done.returncode == 0, done.stderr
    found = {run.display_name: run.runtime_config.parameters for run in kfp.recurring.values()}
    assert found["retrain"] == {
        "data": "s3://datasets/option.csv",
        "production": "s3://production",
        "candidates": "s3://candidates",
        "seed": 3,
        "split": "hash",
        "memory": "3Gi",
        "policy": "auto_promote: true\n",
    }
    assert "seed" not in found["evaluate"]
    for wrong, words in (
        (lines.replace("seed: 3", "sed: 3"), "retrain.arguments: sed is no parameter of retrain"),
        (lines.replace("3Gi", "3 Gi"), "retrain.arguments: memory: '3 Gi' is no amount of memory"),
        (lines.replace("3Gi", "30Gi"), "no node could hold a step of 30Gi, as the largest has 16.0 GiB for pods"),
    ):
        file.write_text(wrong)
        done = mlops("schedule", "apply", "--file", file, "--host", kfp.url, MLOPS_NODE_MEMORY="16Gi")
        assert done.returncode == 2
        assert words in " ".join(done.stderr.split())


def test_cut_off_between_new_and_old_it_is_made_good(kfp: FakeKfp, file: Path) -> None:
    server = Server(kfp.url)
    schedules = schedule.read_file(file)
    schedule.apply(server, schedules, ARGUMENTS)
    kfp.faults.append(Fault("DELETE", "recurringruns", 403))
    later = {**schedules, "retrain": "0 6 * * 0"}
    with pytest.raises(ServerError, match="403"):
        schedule.apply(server, later, ARGUMENTS)
    assert len(kfp.recurring) == 4
    schedule.apply(server, later, ARGUMENTS)
    assert [run.trigger.cron_schedule.cron for run in kfp.recurring.values() if run.display_name == "retrain"] == [
        "0 0 6 * * 0"
    ]


def test_list_tells_next_and_last(kfp: FakeKfp, file: Path, mlops: Mlops) -> None:
    server = Server(kfp.url)
    schedule.apply(server, schedule.read_file(file), ARGUMENTS)
    recurring = next(run for run in kfp.recurring.values() if run.display_name == "evaluate")
    kfp.answer("POST", "/apis/v2beta1/runs", {}, _run_of(kfp, recurring))
    (run,) = kfp.runs.values()
    run.recurring_run_id, run.state = recurring.recurring_run_id, "SUCCEEDED"
    # Friday
    rows = {row.name: row for row in schedule.listed(server, datetime(2026, 1, 2, 2, 0, tzinfo=UTC))}
    assert rows["evaluate"].next == datetime(2026, 1, 3, 2, 0, tzinfo=UTC)
    assert rows["retrain"].next == datetime(2026, 1, 5, 3, 30, tzinfo=UTC)
    assert list(rows) == ["evaluate", "retrain", "monitor"]
    assert rows["evaluate"].last_state == "SUCCEEDED"
    assert rows["evaluate"].last == run.created_at
    assert rows["retrain"].last is None
    found = json.loads(mlops("schedule", "list", "--json", "--host", kfp.url).stdout)
    assert {row["name"] for row in found} == set(rows)


def _run_of(kfp: FakeKfp, recurring: object) -> bytes:
    kept = kfp._client.sanitize_for_serialization(recurring)
    keys = ("experiment_id", "display_name", "pipeline_version_reference", "runtime_config")
    return json.dumps({key: kept[key] for key in keys}).encode()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Etc/UTC", "Asia/Kolkata", "timeZone Asia/Kolkata: recurring runs of Kubeflow Pipelines know UTC only"),
        (
            "retrain.sch",
            "retain.sch",
            "retain is none of retrain, sweep, evaluate, evaluate-parts, monitor, monitor-parts, observe, experiment, "
            "promote",
        ),
        ("30 3 * * MON", "30 3 * *", "retrain.schedule: '30 3 * *' has 4 fields; a schedule has 5"),
        ("30 3 * * MON", "61 3 * * MON", "'61' is no minute; it is 0 to 59"),
        ("30 3 * * MON", "30 3 * * 7", "'7' is no day of the week"),
        ("30 3 * * MON", "30 3 * * MOON", "'MOON' is no day of the week"),
        (".schedule", ".when", "no ConfigMap with keys like retrain.schedule"),
        ("data:", "data: [", "is not YAML"),
    ],
)
def test_a_file_that_wont_do(file: Path, old: str, new: str, words: str) -> None:
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    with pytest.raises(InputError) as told:
        schedule.read_file(file)
    assert words in str(told.value)
    assert str(file) in str(told.value)


def test_a_file_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        schedule.read_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("cron", "start"),
    [
        ("0 3 * * 1", "2026-03-02 03:00"),
        ("*/15 * * * *", "2026-02-27 12:15"),
        ("5/30 12 * * *", "2026-02-27 12:05"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("0 0 30 2 *", None),
        ("0 0 1 * 0", "2026-03-01 00:00"),  # the 1st or a Sunday; here both
        ("0 0 15 * 6", "2026-02-28 00:00"),  # a Saturday before the 15th
        ("0 0 * FEB,mar SUN", "2026-03-01 00:00"),
        ("30 9-11/2 * * 1-5", "2026-03-02 09:30"),
        ("@monthly", "2026-03-01 00:00"),
        ("0 12 27 2 ?", "2027-02-27 12:00"),  # now is not next
    ],
)
def test_next_start(cron: str, start: str | None) -> None:
    found = schedule.next_start(cron, datetime(2026, 2, 27, 12, 0, tzinfo=UTC))  # a Friday
    assert (f"{found:%Y-%m-%d %H:%M}" if found else None) == start
    assert schedule.to_kfp(cron).split()[0] == "0"
    assert len(schedule.to_kfp(cron).split()) == 6
