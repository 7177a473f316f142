"""`experiment` with its logs on S3, recorded in SQLite: killed at each step, and run again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.base.settings import EXPERIMENT
from tests.experiment_fixtures import DEFINITION, UNTIL, record_earlier, write_logs
from tests.services.conftest import S3, seaweedfs
from tests.services.test_observe import Step, records, step  # noqa: F401
from tests.services.test_tracking import NO_CREDENTIALS
from tests.webhook import Hook

# after how many changes of MLflow's records each step is killed: 0 stands for before it writes its files. Of the report
# these are: the page kept, its numbers, the verdict, the run's own artifacts
KILLED = {"gather": (1, 3), "experiment": (0,), "report": (1, 3, 5, 9)}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server with an experiment's logs in the bucket `data`: parts of the exposures, and of the outcomes."""
    out = tmp_path_factory.mktemp("gateway")
    write_logs(out, 0.12)
    head, *rows = (out / "outcomes.csv").read_text().splitlines()
    for number, part in enumerate((rows[:1_000], rows[1_000:])):
        (out / "outcomes").mkdir(exist_ok=True)
        (out / "outcomes" / f"{number}.csv").write_text("\n".join([head, *part]) + "\n")
    with seaweedfs(tmp_path_factory.mktemp("s3")) as s3:
        for path in [*out.rglob("*.jsonl"), *(out / "outcomes").iterdir()]:
            s3.client().put_object(Bucket="data", Key=str(path.relative_to(out)), Body=path.read_bytes())
        yield s3


# the record is the same few calls as that of `observe`, which is killed on the MLflow server too
@pytest.mark.parametrize("records", ["sqlite"], indirect=True)
def test_killed_at_each_step_it_is_told_once(
    logs: S3,
    records: dict[str, str],  # noqa: F811
    step: Step,  # noqa: F811
    tmp_path: Path,
) -> None:
    with closing(Hook()) as hook:
        env = {**NO_CREDENTIALS, **logs.pipeline, "AWS_ENDPOINT_URL": logs.endpoint, **records}
        env["MLOPS_NOTIFY_URLS"] = hook.url
        definition = record_earlier(DEFINITION)
        given: dict[str, Any] = {
            **{"experiment_name": "", "exposures": "s3://data/exposures", "outcomes": "s3://data/outcomes"},
            **{"pairs": "", "until": UNTIL, "timestamp": tracking.now()},
        }
        for name, places in KILLED.items():
            for writes in places:
                assert step(name, tmp_path / "killed", {**given, "job_id": "job-1"}, env, writes) == -signal.SIGKILL
                assert hook.titles() == []
            assert step(name, tmp_path / "killed", {**given, "job_id": "job-1"}, env) == 0
        assert hook.titles() == ["[experiment] embeddings-1: The challenger is better."]
        client = tracking.client()
        kept = client.get_run(definition)
        assert kept.data.tags["experiment_verdict"] == kept.data.tags["experiment_told"] == "better"
        # what was written again is there once
        assert len(client.get_metric_history(definition, "difference")) == 1
        (folder,) = [one.path for one in client.list_artifacts(definition) if one.is_dir]
        assert {Path(one.path).name for one in client.list_artifacts(definition, folder)} == {
            *("experiment.html", "experiment.json")
        }
        home = client.get_experiment_by_name(EXPERIMENT)
        (run,) = client.search_runs([home.experiment_id], "tags.pipeline = 'experiment'")
        assert run.info.status == "FINISHED" and run.data.params["experiment"] == "embeddings-1"
        # an execution that nobody killed says the same, and tells nobody
        again = {**given, "experiment_name": "embeddings-1", "job_id": "job-2"}
        for name in KILLED:
            assert step(name, tmp_path / "whole", again, env) == 0
        same = [(tmp_path / place / "result" / "experiment.json").read_text() for place in ("killed", "whole")]
        assert same[0] == same[1] and len(hook.titles()) == 1
